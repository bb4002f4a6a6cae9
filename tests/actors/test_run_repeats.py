"""A model that makes the same call again and again is told so, and the person is not asked for ever."""

from __future__ import annotations

from actors._feed import Bell
from engine.config import Permissions
from engine.runs.approvals import Resolution
from engine.runs.events import ApprovalRequested
from engine.transcript.records import ToolPart
from tests.actors.scripted import Call, Staged, of, staged, until_kind

__all__ = ["staged"]

TURNS = 3


def same() -> str:
    """Gives the same."""
    return "same"


def result(call: Call) -> str:
    """Of the only tool call before this one of the model."""
    (part,) = [part for part in call.request.messages[-1].parts if isinstance(part, ToolPart)]
    return str(part.output or part.error)


async def test_a_call_that_goes_in_circles_is_refused_and_the_run_goes_on(staged: Staged) -> None:
    async with staged(tools=[same], repeated_calls=TURNS) as stage:
        run, call = await stage.begin()
        results = []
        for _ in range(TURNS + 2):
            call.tools(("functions__same", "{}"))
            call = await stage.models.call()
            results.append(result(call))
        assert results[:TURNS] == ["same"] * TURNS
        assert all(f"in {TURNS} turns it has given the same result" in text for text in results[TURNS:])
        call.text("I see")
        call.end()
        assert (await run.wait()).status == "completed"
        await stage.usable(await stage.session_of(run))


async def test_a_person_who_denies_is_not_asked_for_ever(staged: Staged) -> None:
    async with staged(tools=[same], permissions=Permissions(ask=("functions",)), repeated_calls=TURNS) as stage:
        run, call = await stage.begin()
        run._feed.attach(Bell().ring)  # somebody is there
        for number in range(1, TURNS + 1):
            call.tools(("functions__same", "{}"))
            asked = of(await until_kind(run, ApprovalRequested, number), ApprovalRequested)[-1]
            await stage.registry.reply_approval(run.id, asked.call_id, Resolution(decision="deny", by="client"))
            call = await stage.models.call()
            assert "the user denied it" in result(call)
        call.tools(("functions__same", "{}"))
        call = await stage.models.call()
        assert "the same result" in result(call)
        call.end()
        assert (await run.wait()).status == "completed"
