"""Titles made by a model: in the background, bounded, never over a person's."""

from __future__ import annotations

import functools
import logging

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import titles
from actors._feed import Bell
from actors.api import SessionHandle
from engine.commands import SessionChanges
from engine.config import Config
from engine.errors import PeerError
from engine.providers.base import UsageReported
from engine.transcript.records import Usage
from tests.actors import scripted
from tests.actors.scripted import Call, Stage, Staged, names, staged

__all__ = ["staged"]


@pytest.fixture(autouse=True)
def _named_by_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "Config", functools.partial(Config, title_model="other"))


async def answered(stage: Stage, session: SessionHandle, text: str = "fix it", answer: str = "It is fixed.") -> None:
    run = await session.start(text)
    call = await stage.models.call()
    call.text(answer)
    call.end()
    assert (await run.wait()).status == "completed"


async def asked(stage: Stage) -> Call:
    """The call for a title, which is the next."""
    call = await stage.models.call()
    assert call.request.model == "other" and call.request.tools == ()
    return call


async def until_title(stage: Stage, session: SessionHandle, title: str) -> None:
    """Until watchers of the session are told of the title."""
    feed = await stage.registry.watch_session(session.id)
    bell = Bell()
    feed.attach(bell.ring)
    try:
        while (await session.record()).title != title:
            await bell.wait()
    finally:
        feed.detach(bell.ring)


async def test_a_session_is_named_after_its_first_answer(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await answered(stage, session, "please fix the\nbug")
        assert (await session.record()).title == "please fix the"
        call = await asked(stage)
        (message,) = call.request.messages
        assert "user:\nplease fix the\nbug\n\nassistant:\nIt is fixed." in message.parts[0].text  # type: ignore[union-attr]
        call.send(UsageReported(Usage(input_tokens=9, output_tokens=4, cost=0.5)))
        call.text("<think>hm\n..</think>\n“A bug ", "\x1b[31mis fixed”\n and more")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_title, stage, session, "A bug [31mis fixed")
            call.end()
        record = await session.record()
        assert record.usage == Usage(input_tokens=9, output_tokens=4, cost=0.5)
        # It has a name now: nobody is asked again.
        await answered(stage, session)
        await wait_all_tasks_blocked()
        assert stage.models.open_now == 0


async def test_a_title_that_a_person_gives_stays(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await answered(stage, session)
        call = await asked(stage)
        await stage.registry.update_session(session.id, SessionChanges(title="mine"))
        call.text("Another")
        call.end()
        await call.closed.wait()
        await answered(stage, session)
        assert (await session.record()).title == "mine"
        given = await stage.engine.create_session(title="given")
        await answered(stage, given)
        await wait_all_tasks_blocked()
        assert stage.models.open_now == 0


async def test_nothing_waits_for_a_title(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await answered(stage, session)
        call = await asked(stage)
        await answered(stage, session)  # the next run begins and ends
        again = await asked(stage)  # which waits for its answer too
        await session.delete()
        assert call.closed.is_set() and again.closed.is_set()
        other = await stage.engine.create_session()
        await answered(stage, other)
        last = await asked(stage)
        await stage.registry.passivate(0)
        assert last.closed.is_set() and other.id not in names(stage.engine.tree())
        third = await stage.engine.create_session()
        await answered(stage, third)
        await asked(stage)
    # The engine has ended with a call open: the models say if it is not closed.


@pytest.mark.parametrize(
    "answer",
    [
        PeerError("provider_error", "a text with a secret"),
        ZeroDivisionError("a defect"),
        "",
        "\n\0",
        "\u200b\ufeff",
        "<think>\nso\n",
    ],
)
async def test_what_goes_wrong_is_a_line_in_the_log(
    staged: Staged, caplog: pytest.LogCaptureFixture, answer: Exception | str
) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                await answered(stage, session)
                call = await asked(stage)
                if isinstance(answer, Exception):
                    call.fail(answer)
                else:
                    call.send(UsageReported(Usage(input_tokens=7)))
                    call.text(*([answer] if answer else []))
                    call.end()
                await call.closed.wait()
        await wait_all_tasks_blocked()
        assert sum("got no title" in record.getMessage() for record in caplog.records) == 2
        assert not any("secret" in record.getMessage() for record in caplog.records)
        while (record := await session.record()).usage.input_tokens != (14 if isinstance(answer, str) else 0):
            pass  # what the second one cost is being stored
        assert record.title == "fix it"
        await answered(stage, session)  # a model that failed twice is not asked for ever
        await wait_all_tasks_blocked()
        assert stage.models.open_now == 0


async def test_an_answer_without_end_is_left(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await answered(stage, session)
        call = await asked(stage)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_title, stage, session, "x" * (titles._TITLE_CHARACTERS - 1) + "…")
            call.text("x" * titles._ANSWER_CHARACTERS)  # and no end
        assert call.closed.is_set()


async def test_a_model_that_is_silent_is_left(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "TIMEOUT", 0.01)
    async with staged() as stage:
        session = await stage.engine.create_session()
        await answered(stage, session)
        await (await asked(stage)).closed.wait()
        assert (await session.record()).title == "fix it"


async def test_a_run_that_does_not_complete_names_nothing(staged: Staged) -> None:
    async with staged() as stage:
        run, _ = await stage.begin("stop me")
        await run.stop()
        run, call = await stage.begin("fail")
        call.fail(PeerError("provider_error", "no", retry=False))
        assert (await run.wait()).status == "failed"
        await wait_all_tasks_blocked()
        assert stage.models.open_now == 0
