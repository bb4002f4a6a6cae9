"""The programmatic interface: events from any cursor, tools in one line, and nothing left behind."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import actors
from actors._ask import ActorDied
from actors.api import open_engine
from actors.session import Session
from engine.codec import DecodeError
from engine.commands import StartRun
from engine.config import Config
from engine.errors import CallerError
from engine.limits import Limits
from engine.runs.events import Numbered, RunFinished, ToolUpdated, TurnFinished
from engine.runs.log import Gap
from tests.actors.scripted import LIMIT, Staged, check_seq, kinds, of, shown, staged, text_of, until, until_text

__all__ = ["staged"]


async def heard(run: actors.RunHandle, after: int = 0) -> list[Numbered | Gap]:
    async with run.events(after) as channel:
        return [event async for event in channel]


def events_of(found: list[Numbered | Gap]) -> list[Numbered]:
    return [event for event in found if isinstance(event, Numbered)]


# ------------------------------------------------------------------ the demo model, nothing configured
async def test_a_conversation_without_configuration() -> None:
    with trio.fail_after(LIMIT):
        async with open_engine() as engine:
            session = await engine.create_session()
            run = await session.start("count to 5")
            told = events_of(await heard(run))
            assert text_of(told) == "1 2 3 4 5 "
            check_seq(told)
            assert kinds(told)[0] == "run.started" and kinds(told)[-1] == "run.finished"
            assert run.record.status == "completed"
            question, answer = await session.messages()
            assert question["parts"][0]["text"] == "count to 5" and answer["parts"][1]["text"] == "1 2 3 4 5 "
            assert (await session.record()).message_count == 2


async def test_what_was_kept_in_a_folder_is_there_again(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with open_engine(data_dir=tmp_path) as engine:
            session = await engine.create_session(title="kept")
            run = await session.start("count to 3")
            await run.wait()
        async with open_engine(data_dir=str(tmp_path)) as engine:
            again = await engine.session(session.id)
            assert (await again.record()).title == "kept"
            assert (await again.messages())[1]["parts"][1]["text"] == "1 2 3 "
            assert (await engine.run(run.id)).record == run.record
            await again.delete()
            with pytest.raises(CallerError):
                await engine.session(session.id)


async def test_two_engines_do_not_share_a_folder(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with open_engine(data_dir=tmp_path) as engine:
            with pytest.raises(Exception, match=str(os.getpid())):
                async with open_engine(data_dir=tmp_path):
                    raise AssertionError("not reached")
            await engine.create_session()  # the first one goes on


# ------------------------------------------------------------------ events
async def test_from_every_cursor_the_text_goes_on(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.reasoning("hm ")
        for number in range(20):
            call.text(f"{number} ")
        call.end()
        await run.wait()
        # Before anything is merged: the numbers and texts of the deltas.
        last = run.record.last_seq
        deltas = {4: "hm "} | {7 + number: f"{number} " for number in range(20)}
        assert last == 29
        for after in range(last + 1):
            told = events_of(await heard(run, after))
            check_seq(told, after)
            assert (told[-1].seq if told else after) == last
            assert text_of(told) == "".join(text for seq, text in deltas.items() if seq > after)


async def test_a_cursor_beyond_the_run_is_a_gap(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("text")
        call.end()
        await run.wait()
        gap, *told = await heard(run, 1000)
        assert gap == Gap(1001, run.record.last_seq)
        assert text_of(events_of(told)) == "text"


async def test_a_slow_listener_gets_the_same_text_in_fewer_events(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        async with run.events() as channel:
            told = [await channel.receive()]
            for number in range(500):
                call.text(f"{number} ")
            call.end()
            await run.wait()  # the run does not wait for its listener
            told += [event async for event in channel]
        text = "".join(f"{number} " for number in range(500))
        numbered = events_of(told)
        check_seq(numbered)
        assert text_of(numbered) == text and len(numbered) < 100
        assert numbered[-1].seq == run.record.last_seq == 506


async def test_two_listeners_hear_the_same(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        results: list[list[Numbered]] = []

        async def listen() -> None:
            results.append(events_of(await heard(run)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(listen)
            for piece in ("a", "b", "c"):
                call.text(piece)
                await until(run, lambda found, piece=piece: text_of(found).endswith(piece))  # type: ignore[misc]
            call.end()
        assert [text_of(result) for result in results] == ["abc", "abc"]


@pytest.mark.parametrize("way", ["leave", "close", "raise", "cancel"])
async def test_a_listener_that_leaves_does_not_stop_the_run(staged: Staged, way: str) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("a")
        if way == "raise":
            with pytest.raises(ZeroDivisionError):
                async with run.events() as channel:
                    await channel.receive()
                    raise ZeroDivisionError
        elif way == "cancel":
            with trio.CancelScope() as scope:
                async with run.events() as channel:
                    await channel.receive()
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
        else:
            async with run.events() as channel:
                await channel.receive()
                if way == "close":
                    await channel.aclose()
                    call.text("b")
                    await until_text(run, "ab")
        assert not run._feed.watched
        call.text("c")
        call.end()
        assert (await run.wait()).status == "completed"
        assert text_of(shown(run)).endswith("c")


async def test_a_gap_when_the_log_has_overflowed(staged: Staged) -> None:
    async with staged(run_log_entries=20) as stage:
        run, call = await stage.begin()
        for number in range(100):
            call.text(f"{number} ")
        call.end()
        await run.wait()
        gap, *rest = await heard(run)
        told = events_of(rest)
        assert isinstance(gap, Gap) and gap.first == 1
        check_seq(told, told[0].first - 1)
        assert kinds(told)[-1] == "run.finished" and told[-1].seq == 106
        text = "".join(f"{number} " for number in range(100))
        assert text.endswith(text_of(told)) and 0 < len(text_of(told)) < len(text)
        # A cursor that the log still has gets no gap.
        assert all(isinstance(event, Numbered) for event in await heard(run, told[0].first - 1))


async def test_the_events_of_an_evicted_run_are_a_gap(staged: Staged) -> None:
    async with staged(terminal_retention=0.01) as stage:
        run, call = await stage.begin()
        call.end()
        await run.wait()
        while not (await stage.engine.run(run.id))._feed.evicted:
            await trio.lowlevel.checkpoint()
        late = await stage.engine.run(run.id)
        assert await heard(late) == [Gap(1, run.record.last_seq)]
        assert await late.wait() == run.record == await late.stop()


async def test_waiting_for_a_run_does_not_hold_it(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        with trio.move_on_after(0.01) as scope:
            await run.wait()
        assert scope.cancelled_caught and run.record.status == "running"
        call.end()
        assert (await run.wait()).status == "completed"


# ------------------------------------------------------------------ tools
async def test_a_run_that_waits_for_nothing_any_more_is_not_waited_for(staged: Staged) -> None:
    """Its session is deleted, or the engine is closed: it has no end that could be told."""
    ends: list[str] = []

    async def wait(run: actors.RunHandle) -> None:
        with pytest.raises(CallerError) as caught:
            await run.wait()
        ends.append(caught.value.code)

    async def listen(run: actors.RunHandle) -> None:
        assert await heard(run) == []
        ends.append("heard")

    async with trio.open_nursery() as nursery, staged() as stage:
        run, _ = await stage.begin()
        session = await stage.engine.session(await stage.session_of(run))
        deleted = await session.start("one", when_busy="queue")
        nursery.start_soon(wait, deleted)
        nursery.start_soon(listen, deleted)
        await wait_all_tasks_blocked()
        await session.delete()
        while len(ends) < 2:
            await trio.lowlevel.checkpoint()
        assert sorted(ends) == ["heard", "unknown_run"]
        ends.clear()
        run, _ = await stage.begin()
        session = await stage.engine.session(await stage.session_of(run))
        waiting = await session.start("two", when_busy="queue")
        nursery.start_soon(wait, waiting)
        nursery.start_soon(listen, waiting)
        await wait_all_tasks_blocked()
    assert sorted(ends) == ["draining", "heard"]


async def test_a_run_that_waits_is_followed_into_its_sessions_next_life(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged() as stage, trio.open_nursery() as nursery:
        run, _ = await stage.begin()
        session = await stage.engine.session(await stage.session_of(run))
        waiting = await session.start("one", when_busy="queue")
        told: list[Numbered | Gap] = []

        async def listen() -> None:
            told.extend(await heard(waiting))

        async def crash(self: Session, start: StartRun) -> None:
            raise RuntimeError("a defect")

        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        with monkeypatch.context() as patch:
            patch.setattr(Session, "_start", crash)
            with pytest.raises(BaseException):  # noqa: B017 - ActorDied, by whatever way
                await session.start("two", when_busy="queue")
        (await stage.models.call()).end()
        assert (await waiting.wait()).status == "completed"
    assert kinds(events_of(told))[0] == "run.started" and kinds(events_of(told))[-1] == "run.finished"


async def test_functions_are_tools(staged: Staged) -> None:
    main = threading.get_ident()
    threads: list[bool] = []

    def double(number: int) -> int:
        """Doubles.

        It can be called at any time.
        """
        threads.append(threading.get_ident() == main)
        return number * 2

    async def shout(text: str, times: int = 1) -> str:
        """Shouts."""
        threads.append(threading.get_ident() == main)
        await trio.lowlevel.checkpoint()
        return text.upper() * times

    async with staged(tools=[double, shout]) as stage:
        run, call = await stage.begin()
        assert [spec.name for spec in call.request.tools] == ["functions.double", "functions.shout"]
        call.tools(("functions__double", '{"number": 21}'), ("functions__shout", '{"text": "ho", "times": 2}'))
        (await stage.models.call()).end()
        await run.wait()
        outputs = {u.tool: u.output for u in of(shown(run), ToolUpdated) if u.state == "completed"}
        assert outputs == {"functions.double": "42", "functions.shout": "HOHO"}
        assert sorted(threads) == [False, True]


async def test_a_function_that_cannot_be_a_tool_is_refused_by_name(tmp_path: Path) -> None:
    def untyped(x):  # type: ignore[no-untyped-def]
        """Has no types."""

    with pytest.raises(TypeError, match="untyped"):
        async with open_engine(data_dir=tmp_path, tools=[untyped]):
            raise AssertionError("not reached")
    async with open_engine(data_dir=tmp_path):
        pass  # nothing holds the folder


# ------------------------------------------------------------------ limits and mistakes
async def test_limits_are_those_of_the_configuration() -> None:
    with trio.fail_after(LIMIT):
        async with open_engine(Config(limits=Limits(answer_bytes=6))) as engine:
            run = await (await engine.create_session()).start("count to 100")
            await run.wait()
            assert text_of(shown(run)) == "1 2 3 "
            assert of(shown(run), TurnFinished)[0].finish == "length"


async def test_mistakes_are_errors_with_codes(staged: Staged) -> None:
    async with staged() as stage:
        with pytest.raises(TypeError):
            await stage.engine.create_session(colour="blue")
        with pytest.raises(CallerError):
            await stage.engine.session("ses_no")
        with pytest.raises(CallerError):
            await stage.engine.run("run_no")
        session = await stage.engine.create_session()
        with pytest.raises(DecodeError):
            await session.start("\ud83d")
        with pytest.raises(DecodeError):
            await session.messages(cursor="nonsense")
        await stage.usable(session.id)


def test_handles_say_what_they_are() -> None:
    assert {"Engine", "RunHandle", "SessionHandle", "open_engine"} <= set(actors.__all__)


async def test_handles_are_worth_logging(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        session = await stage.engine.session(await stage.session_of(run))
        assert repr(run) == f"<RunHandle {run.id} running>" and repr(session) == f"<SessionHandle {session.id}>"
        assert run.id in repr(run._feed)
        call.end()
        await run.wait()


# ------------------------------------------------------------------ the end
def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def descriptors(folder: Path) -> list[str]:
    """What this process has open below the folder."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found


async def test_everything_is_torn_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(LIMIT):
        async with open_engine() as engine:
            session = await engine.create_session(cwd=str(tmp_path))
            run = await session.start("count to 100000 every 1 ms")
            await until(run, text_of)
            other = await (await engine.create_session(cwd=str(tmp_path))).start("search this folder for nothing")
            await other.wait()
            (folder,) = inside(tmp_path)
            assert folder.name.startswith("greenroom-") and descriptors(folder)
    assert inside(tmp_path) == [] and descriptors(tmp_path) == []
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}
    assert left == before and trio.lowlevel.current_statistics().tasks_living == tasks
    assert (run.record.status, other.record.status) == ("cancelled", "completed")
    assert of(shown(run), RunFinished)
    with pytest.raises(ActorDied):
        await session.start("too late")
    with pytest.raises(ActorDied):
        await run.stop()


@pytest.mark.parametrize("failure", [ValueError("the body's own"), KeyboardInterrupt(), None])
async def test_the_end_by_a_failure_is_as_complete(
    staged: Staged, tmp_path: Path, failure: BaseException | None
) -> None:
    runs: list[Any] = []

    async def work() -> None:
        async with staged() as stage:
            run, call = await stage.begin()
            call.text("so far")
            await until_text(run, "so far")
            runs.append(run)
            if failure is not None:
                raise failure
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        if failure is None:
            await work()
        else:
            with pytest.raises(BaseException) as caught:
                await work()
            # As nurseries do, a KeyboardInterrupt comes in groups; what programs raise comes as it is.
            raised: BaseException = caught.value
            while isinstance(raised, BaseExceptionGroup):
                (raised,) = raised.exceptions
            assert raised is failure
            assert caught.value is failure or isinstance(failure, KeyboardInterrupt)
    assert runs[0].record.status == "cancelled" and descriptors(tmp_path) == []
    async with staged() as stage:
        assert await stage.registry.get_run(runs[0].id) == runs[0].record
        await stage.usable(runs[0].record.session_id)


async def test_listeners_and_waiters_come_to_an_end_with_the_engine(staged: Staged) -> None:
    told: list[Numbered | Gap] = []
    async with trio.open_nursery() as nursery, staged() as stage:
        run, call = await stage.begin()
        call.text("x")
        await until_text(run, "x")

        async def listen() -> None:
            told.extend(await heard(run))

        nursery.start_soon(listen)
        nursery.start_soon(run.wait)
    assert kinds(events_of(told))[-1] == "run.finished"


async def test_a_start_during_the_end_is_refused(staged: Staged, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    codes: list[str] = []
    async with trio.open_nursery() as nursery, staged() as stage:
        session = await stage.engine.create_session()

        async def start() -> None:
            try:
                await stage.registry.start_run(StartRun(session_id=session.id, input=("hi",)))
                codes.append("started")
            except CallerError as exc:
                codes.append(exc.code)
            except ActorDied:
                codes.append("died")

        stage.disk.hold()
        nursery.start_soon(start)
        await stage.disk.wait_held()
    assert codes and codes[0] in ("started", "draining", "died")
    assert "crashed" not in caplog.text
    async with staged() as stage:
        (run,) = (await stage.registry.list_runs(session.id, None, 10)).items
        assert run.status in ("cancelled", "interrupted")
        await stage.usable(session.id)
