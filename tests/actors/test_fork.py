"""Forks through the registry: of a session at work, of a long one while others write, and what stops one half-way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.commands import ForkSession, NewSession, StartRun
from engine.errors import CallerError, PeerError
from engine.runs.events import RunFinished, ToolUpdated
from engine.storage import fork, hidden
from engine.storage.database import open_reader
from tests.actors.scripted import LIMIT, Stage, Staged, of, staged, until, until_kind, until_text

__all__ = ["staged"]


async def talk(stage: Stage, session_id: str, count: int) -> None:
    session = await stage.engine.session(session_id)
    for number in range(count):
        run = await session.start(f"question {number}")
        call = await stage.models.call()
        call.text(f"answer {number}")
        call.end()
        assert (await run.wait()).status == "completed"


async def texts(stage: Stage, session_id: str) -> list[str]:
    return [part["text"] for one in await stage.messages(session_id) for part in one["parts"] if part["kind"] == "text"]


class Gate:
    """A step of a fork that waits in its thread for the test, or fails."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self._go = threading.Event()
        self._waits = threading.Event()
        self.error: Exception | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._waits.set()
        assert self._go.wait(LIMIT), "the test never let it go"
        if self.error is not None:
            raise self.error
        return self._work(*arguments, **named)

    async def wait(self) -> None:
        await trio.to_thread.run_sync(self._waits.wait, LIMIT)

    def go(self) -> None:
        self._go.set()


@pytest.fixture
def pages_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "PAGE_MESSAGES", 2)


def left(path: Path) -> int:
    """Sessions in the database that nobody sees."""
    connection = open_reader(path / "greenroom.db")
    try:
        return len(hidden.every(connection))
    finally:
        connection.close()


async def until_nothing_is_left(path: Path) -> None:
    while left(path):  # noqa: ASYNC110 - nothing tells it
        await trio.sleep(0.01)


async def test_a_fork_goes_on_from_its_message(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session(title="talk")
        await talk(stage, session.id, 2)
        at = (await stage.messages(session.id))[1]["info"]["id"]
        copy = await session.fork(at)
        record = await copy.record()
        assert (record.parent_id, record.title, record.message_count) == (session.id, "talk", 2)
        run = await copy.start("another way")
        call = await stage.models.call()
        said = [part.text for message in call.request.messages for part in message.parts if hasattr(part, "text")]
        assert said == ["question 0", "answer 0", "another way"]
        call.text("ok")
        call.end()
        assert (await run.wait()).status == "completed"
        assert await texts(stage, session.id) == ["question 0", "answer 0", "question 1", "answer 1"]
        with pytest.raises(CallerError) as caught:
            await copy.fork(at)
        assert caught.value.code == "unknown_message"


async def test_a_fork_while_a_run_is_at_work_is_valid_for_a_provider(staged: Staged) -> None:
    finish = trio.Event()

    async def wait() -> str:
        """Wait."""
        await finish.wait()
        return "waited"

    async with staged(tools=[wait]) as stage:
        run, call = await stage.begin("use the tool")
        session_id = await stage.session_of(run)
        call.text("I will")
        call.tools(("functions__wait", "{}"))
        await until_kind(run, ToolUpdated, 2)
        copy = await stage.registry.fork_session(ForkSession(session_id=session_id))
        assert copy.message_count == 1 and copy.active_run_id is None
        assert await texts(stage, copy.id) == ["use the tool"]
        await stage.usable(copy.id)
        finish.set()
        (await stage.models.call()).end()
        assert (await run.wait()).status == "completed"
        after = await stage.registry.fork_session(ForkSession(session_id=session_id))
        assert after.message_count == 3
        await stage.usable(after.id)


async def test_a_long_one_in_pages_others_write_between_them(
    staged: Staged, pages_of_two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(fork.publish)
    monkeypatch.setattr(fork, "publish", gate)
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session.id, 3)
        made: list[str] = []

        async def copy(key: str | None) -> None:
            made.append((await stage.registry.fork_session(ForkSession(session_id=session.id, idempotency_key=key))).id)

        async with trio.open_nursery() as nursery:
            for key in ("k", "k", None):
                nursery.start_soon(copy, key)
            await gate.wait()
            # Everything is copied; nobody sees it.
            listed = await stage.registry.list_sessions(10)
            assert [one.id for one in listed.items] == [session.id]
            gate.go()
        assert len(set(made)) == 2, "a repeated request gets the first fork"
        assert len((await stage.registry.list_sessions(10)).items) == 3
        for one in made:
            assert await texts(stage, one) == await texts(stage, session.id)
        with pytest.raises(CallerError) as caught:
            await stage.registry.fork_session(
                ForkSession(session_id=session.id, message_id="msg_other", idempotency_key="k")
            )
        assert caught.value.code == "idempotency_conflict"


@pytest.mark.parametrize("how", ["deleted", "refused"])
async def test_what_stops_one_half_way_leaves_nothing(
    staged: Staged, tmp_path: Path, pages_of_two: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    gate = Gate(fork.copy)
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session.id, 3)
        make = fork.make

        def begin(*arguments: Any, **named: Any) -> Any:
            found = make(*arguments, **named)
            monkeypatch.setattr(fork, "copy", gate)  # after the first page
            return found

        monkeypatch.setattr(fork, "make", begin)
        codes: list[str] = []

        async def copy() -> None:
            with pytest.raises((CallerError, PeerError)) as caught:
                await session.fork()
            codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy)
            await gate.wait()
            if how == "refused":
                gate.error = PeerError("disk_full", "the disk is full, says the test")
                gate.go()
            else:
                nursery.start_soon(session.delete)
                gate.go()
        if how == "refused":
            assert codes == ["disk_full"]
            assert [one.id for one in (await stage.registry.list_sessions(10)).items] == [session.id]
        else:
            # The page that was at work, or the one behind it, finds that the session is gone: or the fork was faster.
            assert codes == ["unknown_session"]
            assert (await stage.registry.list_sessions(10)).items == ()
        # What was left is removed in the background: a deletion comes behind it.
        await until_nothing_is_left(tmp_path / "data")


async def test_an_end_of_the_daemon_half_way_leaves_nothing_for_the_next(
    staged: Staged, tmp_path: Path, pages_of_two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = threading.Semaphore(0)
    copy = fork.copy

    def endless(connection: Any, fork: Any) -> bool:
        copy(connection, fork)
        copied.release()
        return True

    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session.id, 3)
        monkeypatch.setattr(fork, "copy", endless)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.fork_session, ForkSession(session_id=session.id))
            await trio.to_thread.run_sync(copied.acquire)
            nursery.cancel_scope.cancel()  # its asker leaves; the copy goes on, and the engine ends in the middle of it
        await trio.to_thread.run_sync(copied.acquire)
    assert left(tmp_path / "data") == 1
    monkeypatch.setattr(fork, "copy", copy)
    async with staged() as stage:
        assert [one.id for one in (await stage.registry.list_sessions(10)).items] == [session.id]
        assert len(await texts(stage, session.id)) == 6
        await until_nothing_is_left(tmp_path / "data")


async def test_a_long_session_is_gone_at_once_when_it_is_deleted_by_many(staged: Staged, pages_of_two: None) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session.id, 4)
        other = await stage.engine.create_session()
        codes: list[str] = []

        async def delete() -> None:
            try:
                await session.delete()
                codes.append("done")
            except CallerError as exc:
                codes.append(exc.code)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(delete)
        assert sorted(codes) == ["done", "unknown_session", "unknown_session", "unknown_session"]
        assert [one.id for one in (await stage.registry.list_sessions(10)).items] == [other.id]
        assert (await stage.registry.list_runs(None, None, 10)).items == ()


async def test_a_drain_takes_no_more_forks(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        await stage.registry.drain()
        with pytest.raises(CallerError) as caught:
            await stage.registry.fork_session(ForkSession(session_id=session.id))
        assert caught.value.code == "draining"


async def test_a_fork_is_a_session_of_its_own_while_the_other_works(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin("first")
        session_id = await stage.session_of(run)
        call.text("half")
        await until_text(run, "half")
        copy = await stage.registry.fork_session(ForkSession(session_id=session_id))
        started = await stage.registry.start_run(StartRun(session_id=copy.id, input=("second",)))
        (await stage.models.call()).end()
        await stage.registry.delete_session(session_id)  # stops its run
        assert run.record.status == "cancelled"
        assert started.run.session_id == copy.id
        assert await texts(stage, copy.id) == ["first", "second"]


async def test_a_fork_of_a_compacted_session_shows_the_model_what_the_original_does(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session.id, 6)
        started = await stage.registry.compact_session(session.id)
        call = await stage.models.call()
        call.text("the summary of all of it")
        call.end()
        await until(started.feed, lambda found: of(found, RunFinished))
        copy = await session.fork()
        seen: list[list[str]] = []
        for one in (session, copy):
            run = await one.start("and now?")
            call = await stage.models.call()
            parts = [part for message in call.request.messages for part in message.parts]
            seen.append([getattr(part, "summary", None) or getattr(part, "text", "") for part in parts])
            call.end()
            await run.wait()
        assert seen[0] == seen[1]
        assert any("the summary" in text for text in seen[0]) and "question 0" not in seen[0], seen[0]
