"""Questions that a tool asks a person in the middle of its call."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.api import RunHandle
from engine.config import Permissions
from engine.errors import CallerError, PeerError
from engine.mcp.forms import parse_form
from engine.runs.approvals import Resolution
from engine.runs.events import ApprovalRequested, ApprovalResolved, RunStatus
from engine.tools.spec import Answer, Question, ToolContext
from engine.wire.methods import InvalidParams
from tests.actors.scripted import Stage, Staged, check_seq, of, shown, staged, until, until_kind
from tests.actors.test_approvals import reply, results, stage_until_waiting, watch

__all__ = ["staged"]

RULES = Permissions(allow=("functions",))
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 1}}, "required": ["age"]}
QUESTION = Question(message="How old?", schema=SCHEMA, mistakes=parse_form(SCHEMA).mistakes)
FREE = Question(message="Go on?", schema={"type": "object"}, mistakes=lambda content: [])
GIVEN: list[Answer] = []
LEAVE: list[trio.CancelScope] = []


@pytest.fixture(autouse=True)
def _nothing_given() -> None:
    GIVEN.clear()
    LEAVE.clear()


async def survey(context: ToolContext) -> str:
    """Asks one question."""
    assert context.ask is not None
    GIVEN.append(await context.ask(QUESTION))
    return f"{GIVEN[-1].action} {GIVEN[-1].content}"


async def curious(context: ToolContext, times: int) -> str:
    """Asks many questions at a time."""
    assert context.ask is not None

    async def one() -> None:
        assert context.ask is not None
        GIVEN.append(await context.ask(FREE))

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(one)
    return " ".join(sorted(answer.action for answer in GIVEN))


async def hasty(context: ToolContext) -> str:
    """Asks, and goes on without the answer when the test says so."""
    assert context.ask is not None
    with trio.CancelScope() as scope:
        LEAVE.append(scope)
        GIVEN.append(await context.ask(QUESTION))
    return "gone on"


async def asked(stage: Stage, tool: str = "survey", given: str = "{}", *, watched: bool = True, count: int = 1) -> Any:
    run, call = await stage.begin()
    if watched:
        watch(run)
    call.tools((f"functions__{tool}", given))
    found = await until_kind(run, ApprovalRequested, count)
    return run, of(found, ApprovalRequested)


async def answer(stage: Stage, run: RunHandle, call_id: str, decision: Any, content: Any = None) -> Resolution:
    resolution = Resolution(decision=decision, by="client", content=content)
    return await stage.registry.reply_approval(run.id, call_id, resolution)


async def end(stage: Stage, run: RunHandle) -> None:
    (await stage.models.call()).end()
    assert (await run.wait()).status == "completed"


async def test_a_question_is_shown_and_answered_with_a_content(staged: Staged) -> None:
    async with staged(tools=[survey], permissions=RULES) as stage:
        run, (request,) = await asked(stage)
        assert request.tool == "functions.survey" and request.expires_at > 0
        assert request.input == {"message": "How old?", "schema": SCHEMA}
        assert request.question == "functions.survey asks: How old?"
        assert request.parent_call_id and request.parent_call_id != request.call_id
        assert run.record.status == "waiting_approval"
        await answer(stage, run, request.call_id, "allow", {"age": 7})
        await end(stage, run)
        assert [Answer(action="accept", content={"age": 7})] == GIVEN
        assert await results(stage, run) == [("completed", "accept {'age': 7}")]
        assert [one.status for one in of(shown(run), RunStatus)] == ["waiting_approval", "running"]
        assert (await answer(stage, run, request.call_id, "allow")).by == "client", "the same again, after its end"
        check_seq(shown(run))


@pytest.mark.parametrize(
    ("decision", "content", "field"),
    [
        ("allow", {"age": 0}, "content.age"),
        ("allow", {"age": "old"}, "content.age"),
        ("allow", {"age": 1, "x": 2}, "content.x"),
        ("allow", None, "content.age"),
        ("allow", [], "content"),
        ("allow_always", {"age": 7}, "decision"),
    ],
)
async def test_what_does_not_fit_is_refused_and_the_question_stays(
    staged: Staged, decision: str, content: Any, field: str
) -> None:
    async with staged(tools=[survey], permissions=RULES) as stage:
        run, (request,) = await asked(stage)
        with pytest.raises(InvalidParams) as caught:
            await answer(stage, run, request.call_id, decision, content)
        assert [path for path, _ in caught.value.fields] == [field]
        assert run.record.status == "waiting_approval" and not of(shown(run), ApprovalResolved)
        await answer(stage, run, request.call_id, "allow", {"age": 1})
        await end(stage, run)
        assert [Answer(action="accept", content={"age": 1})] == GIVEN


async def test_denied_is_declined_and_the_call_goes_on(staged: Staged) -> None:
    async with staged(tools=[survey], permissions=RULES) as stage:
        run, (request,) = await asked(stage)
        await answer(stage, run, request.call_id, "deny", {"age": "not looked at"})
        await end(stage, run)
        assert [Answer(action="decline")] == GIVEN
        with pytest.raises(CallerError) as caught:
            await answer(stage, run, request.call_id, "allow", {"age": 7})
        assert (caught.value.code, caught.value.data["decision"]) == ("already_resolved", "deny")


async def test_with_nobody_there_it_is_declined_even_where_calls_are_allowed(
    staged: Staged, mock_clock: MockClock
) -> None:
    rules = Permissions(allow=("functions",), headless="allow")
    async with staged(tools=[survey], permissions=rules) as stage:
        run, call = await stage.begin()
        call.tools(("functions__survey", "{}"))
        await stage_until_waiting(stage, run)
        mock_clock.jump(6)
        await end(stage, run)
        assert [Answer(action="decline")] == GIVEN
        ((decision, by),) = [(one.decision, one.by) for one in of(shown(run), ApprovalResolved)]
        assert (decision, by) == ("deny", "rule")


async def test_the_call_has_an_approval_of_its_own_before(staged: Staged) -> None:
    async with staged(tools=[survey], permissions=Permissions(ask=("functions",))) as stage:
        run, (own,) = await asked(stage)
        assert own.parent_call_id is None
        await reply(stage, run, own.call_id, "allow")
        _, question = of(await until_kind(run, ApprovalRequested, 2), ApprovalRequested)
        assert question.parent_call_id == own.call_id
        await answer(stage, run, question.call_id, "allow", {"age": 2})
        await end(stage, run)


async def test_cancel_stops_the_run_and_the_question_with_it(staged: Staged) -> None:
    async with staged(tools=[survey], permissions=RULES) as stage:
        run, (request,) = await asked(stage)
        await answer(stage, run, request.call_id, "cancel")
        assert (await run.wait()).status == "cancelled"
        assert [(one.decision, one.by) for one in of(shown(run), ApprovalResolved)] == [("cancel", "client")]
        await stage.usable(await stage.session_of(run))


async def test_a_stop_decides_the_question(staged: Staged) -> None:
    async with staged(tools=[survey], permissions=RULES) as stage:
        run, (request,) = await asked(stage)
        await run.stop()
        assert GIVEN == []
        assert [(one.call_id, one.decision, one.by) for one in of(shown(run), ApprovalResolved)] == [
            (request.call_id, "cancel", "stop")
        ]
        await stage.usable(await stage.session_of(run))


async def test_a_question_that_nobody_waits_for_any_more_is_withdrawn(staged: Staged) -> None:
    async with staged(tools=[hasty], permissions=RULES) as stage:
        run, (request,) = await asked(stage, "hasty")
        LEAVE[0].cancel()
        await end(stage, run)
        assert GIVEN == []
        assert [(one.decision, one.by) for one in of(shown(run), ApprovalResolved)] == [("cancel", "call")]
        with pytest.raises(CallerError) as caught:
            await answer(stage, run, request.call_id, "allow", {"age": 7})
        assert (caught.value.code, caught.value.data["by"]) == ("already_resolved", "call")
        assert [one.status for one in of(shown(run), RunStatus)] == ["waiting_approval", "running"]


async def test_a_question_that_is_withdrawn_while_it_is_being_answered(staged: Staged) -> None:
    async with staged(tools=[hasty], permissions=RULES) as stage:
        run, (request,) = await asked(stage, "hasty")
        async with trio.open_nursery() as nursery:
            stage.disk.hold()
            nursery.start_soon(answer, stage, run, request.call_id, "allow", {"age": 7})
            await stage.disk.wait_held()
            LEAVE[0].cancel()
            await wait_all_tasks_blocked()
            stage.disk.release()
        await end(stage, run)
        assert [(one.decision, one.by) for one in of(shown(run), ApprovalResolved)] == [("allow", "client")]


async def test_an_answer_that_the_disk_refuses_leaves_the_question(staged: Staged) -> None:
    async with staged(tools=[survey], permissions=RULES) as stage:
        run, (request,) = await asked(stage)
        stage.disk.full = True
        with pytest.raises(PeerError):
            await answer(stage, run, request.call_id, "allow", {"age": 7})
        stage.disk.full = False
        assert run.record.status == "waiting_approval"
        await answer(stage, run, request.call_id, "allow", {"age": 7})
        await end(stage, run)


async def test_the_time_of_the_call_stands_still_while_it_is_asked(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[survey], permissions=RULES, tool_call_timeout=10) as stage:
        run, (request,) = await asked(stage)
        await wait_all_tasks_blocked()
        mock_clock.jump(25)
        await wait_all_tasks_blocked()
        await answer(stage, run, request.call_id, "allow", {"age": 7})
        await end(stage, run)
        assert await results(stage, run) == [("completed", "accept {'age': 7}")]


async def test_an_expired_question_is_cancelled(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[survey], permissions=RULES, approval_timeout=20) as stage:
        run, _ = await asked(stage)
        await wait_all_tasks_blocked()
        mock_clock.jump(21)
        await end(stage, run)
        assert [Answer(action="cancel")] == GIVEN
        assert [(one.decision, one.by) for one in of(shown(run), ApprovalResolved)] == [("deny", "expiry")]


@pytest.mark.parametrize(("times", "declined"), [(3, 0), (4, 1)])
async def test_a_call_asks_a_bounded_number_of_questions(staged: Staged, times: int, declined: int) -> None:
    async with staged(tools=[curious], permissions=RULES, tool_questions=3) as stage:
        run, requests = await asked(stage, "curious", f'{{"times":{times}}}', count=3)
        for request in requests:
            await answer(stage, run, request.call_id, "allow")
        await until(run, lambda found: len(of(found, ApprovalResolved)) == 3)
        await end(stage, run)
        assert len(of(shown(run), ApprovalRequested)) == 3
        assert [one.action for one in GIVEN].count("decline") == declined
