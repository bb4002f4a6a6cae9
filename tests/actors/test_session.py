"""Sessions: the one writer of a transcript, its runs, and what a broken or refused start leaves."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.run import Run
from actors.session_ref import SessionRef
from engine.codec import DecodeError
from engine.commands import InputFile, SessionChanges, StartRun
from engine.errors import CallerError, EngineError, PeerError
from engine.runs.events import RunFinished, RunStarted
from engine.transcript.records import FilePart
from tests.actors.scripted import Stage, Staged, kinds, log_of, names, of, seen, staged, until, until_text

__all__ = ["staged"]

# Seconds without a step of any task before a look at the disk is worth it: threads are at work there.
QUIET = 0.005


async def answered(stage: Stage, start: StartRun) -> Any:
    """Start the run and let it end; its StartedRun."""
    started = await stage.registry.start_run(start)
    (await stage.models.call()).end()
    await until(started.feed, lambda found: of(found, RunFinished))
    return started


# ------------------------------------------------------------------ messages
async def test_the_users_message_is_shown_and_stored(staged: Staged, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("in a file")
    data = base64.b64encode(b"inline").decode()
    async with staged() as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        files = (InputFile(path="a.txt"), InputFile(data_base64=data, mime="text/x-own", name="own"))
        started = await answered(stage, StartRun(session_id=session.id, input=("look", *files)))
        message = (await session.messages())[0]
        assert message["info"]["id"] == started.message_id and message["info"]["run_id"] == started.run.id
        text, first, second = message["parts"]
        assert text["text"] == "look"
        assert (first["name"], first["mime"], first["size"]) == ("a.txt", "text/plain", 9)
        assert base64.b64decode(first["data_base64"]) == b"in a file"
        assert (second["name"], second["mime"], second["data_base64"]) == ("own", "text/x-own", data)
        assert [one.event.message for one in log_of(started.feed) if isinstance(one.event, RunStarted)] != []
        assert (await session.record()).message_count == 2


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (InputFile(path="../outside"), "invalid_path"),
        (InputFile(path="missing"), "invalid_path"),
        (InputFile(path="large"), "payload_too_large"),
        (InputFile(data_base64=base64.b64encode(b"x" * 101).decode()), "payload_too_large"),
        (InputFile(data_base64="no base64!"), DecodeError),
        ("half of a pair \ud83d", DecodeError),
    ],
)
async def test_a_message_that_cannot_be_stores_nothing_and_harms_nothing(
    staged: Staged, tmp_path: Path, given: str | InputFile, error: Any
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "large").write_bytes(b"x" * 101)
    async with staged(inline_media_bytes=10, media_bytes=100) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path / "folder"))
        run = await session.start("first")
        (await stage.models.call()).end()
        await run.wait()
        before = await session.record()
        with pytest.raises((EngineError, DecodeError)) as caught:
            await stage.registry.start_run(StartRun(session_id=session.id, input=("a", given)))
        assert getattr(caught.value, "code", type(caught.value)) == error
        assert await session.record() == before
        await stage.usable(session.id)


async def test_media_of_exactly_the_bound_are_inline(staged: Staged, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"x" * 100)
    async with staged(inline_media_bytes=100) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        await answered(stage, StartRun(session_id=session.id, input=(InputFile(path="whole"),)))
        assert (await session.messages())[0]["parts"][0]["size"] == 100


@pytest.mark.parametrize("busy", ["reject", "queue", "steer"])
async def test_media_of_one_byte_more_are_a_blob_that_the_model_sees(
    staged: Staged, tmp_path: Path, busy: Literal["reject", "queue", "steer"]
) -> None:
    data = bytes(range(101))
    blobs = tmp_path / "data" / "blobs"
    given = InputFile(data_base64=base64.b64encode(data).decode(), name="a.png")
    async with staged(inline_media_bytes=100) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        start = StartRun(session_id=session.id, input=("see", given), when_busy=busy)
        if busy == "reject":
            await stage.registry.start_run(start)
            call = await stage.models.call()
        else:
            await session.start("first")
            call = await stage.models.call()
            await stage.registry.start_run(start)
            call.text("done")
            call.end()
            call = await stage.models.call()
        part = call.request.messages[-1].parts[1]
        assert isinstance(part, FilePart)
        assert (await seen(call.request, part), part.size, part.mime) == (data, 101, "image/png")
        call.text("seen")
        call.end()
        while (await session.record()).active_run_id is not None:
            await wait_all_tasks_blocked(QUIET)
        shown = next(
            part for message in await session.messages() for part in message["parts"] if part["kind"] == "file"
        )
        assert "data_base64" not in shown
        assert (await stage.store.read_output(shown["handle"], 0, 9999)).text == given.data_base64
        assert len(os.listdir(blobs)) == 1
        await stage.registry.delete_session(session.id)
        while os.listdir(blobs):
            await wait_all_tasks_blocked(QUIET)


# ------------------------------------------------------------------ one run at a time
async def test_a_busy_session_refuses_and_names_its_run(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        session = await stage.engine.session(await stage.session_of(run))
        with pytest.raises(CallerError) as caught:
            await session.start("me too")
        assert (caught.value.code, caught.value.data) == ("session_busy", {"run_id": run.id})
        assert (await session.record()).active_run_id == run.id
        call.end()
        await run.wait()
        assert (await session.record()).active_run_id is None
        assert len(await session.messages()) == 2
        await stage.usable(session.id)


async def test_interrupt_joins_the_old_run_first(staged: Staged) -> None:
    async with staged() as stage:
        old, call = await stage.begin()
        call.text("half")
        await until(old, lambda found: "part.delta" in kinds(found))
        session_id = await stage.session_of(old)
        started = await stage.registry.start_run(
            StartRun(session_id=session_id, input=("now this",), when_busy="interrupt")
        )
        assert call.closed.is_set() and old.record.status == "cancelled"
        assert old.record.reason == "interrupted by a newer message"
        assert stage.runs_in_tree() == [started.run.id]
        second = await stage.models.call()
        texts = [part.text for message in second.request.messages for part in message.parts if hasattr(part, "text")]
        assert texts == ["hello", "half", "now this"]
        second.end()
        await until(started.feed, lambda found: of(found, RunFinished))
        await stage.usable(session_id)


async def test_interrupt_of_an_idle_session_is_a_start(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await answered(stage, StartRun(session_id=session.id, input=("hi",), when_busy="interrupt"))


async def test_a_stale_revision_is_refused(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        record = await session.record()
        changed = await stage.registry.update_session(session.id, SessionChanges(title="new"))
        assert changed.revision > record.revision
        with pytest.raises(CallerError) as caught:
            await stage.registry.start_run(
                StartRun(session_id=session.id, input=("hi",), expected_revision=record.revision)
            )
        assert (caught.value.code, caught.value.data) == ("stale_revision", {"revision": changed.revision})
        start = StartRun(session_id=session.id, input=("hi",), expected_revision=changed.revision)
        started = await answered(stage, start)
        assert started.revision == changed.revision + 1


async def test_two_starts_at_once_give_one_run(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        results: list[str] = []

        async def start() -> None:
            try:
                results.append((await session.start("hi")).id)
            except CallerError as exc:
                results.append(exc.code)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(start)
        assert results.count("session_busy") == 9
        (await stage.models.call()).end()
        (run_id,) = [result for result in results if result != "session_busy"]
        await (await stage.engine.run(run_id)).wait()
        assert len(await session.messages()) == 2


# ------------------------------------------------------------------ watchers of the session
async def test_watchers_see_runs_in_order_and_the_newest_record(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        feed = await stage.registry.watch_session(session.id)
        news = trio.Event()

        def ring() -> None:
            news.set()

        feed.attach(ring)
        try:
            ids = []
            for text in ("one", "two"):
                ids.append((await answered(stage, StartRun(session_id=session.id, input=(text,)))).run.id)
            assert [run.run.id for _, run in feed.runs_after(0)] == ids
            assert [run.run.id for _, run in feed.runs_after(1)] == ids[1:]
            assert feed.runs_after(feed.last_index) == []
            await stage.registry.update_session(session.id, SessionChanges(title="the newest"))
            while feed.session.title != "the newest" or feed.session.active_run_id is not None:
                news = trio.Event()
                await news.wait()
            assert feed.changes > 0 and feed.session.message_count == 4
        finally:
            feed.detach(ring)


# ------------------------------------------------------------------ broken starts
async def test_a_run_that_cannot_be_begun_is_told_and_stored_as_interrupted(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def on_start(self: Run) -> None:
        raise RuntimeError("no such luck")

    async with staged() as stage:
        session = await stage.engine.create_session()
        feed = await stage.registry.watch_session(session.id)
        with monkeypatch.context() as patched:
            patched.setattr(Run, "on_start", on_start)
            with pytest.raises(EngineError) as caught:
                await session.start("hi")
        assert caught.value.code == "internal"
        ((_, run),) = feed.runs_after(0)
        assert run.ended and run.run.status == "interrupted"
        assert kinds(log_of(run)) == ["run.finished"]
        assert stage.runs_in_tree() == [] and stage.store.store_statistics().journals == 0
        await stage.usable(session.id)
        runs = (await stage.registry.list_runs(session.id, None, 10)).items
        assert [one.status for one in runs] == ["completed", "interrupted"]
        await stage.registry.drain()


async def test_a_refused_disk_is_the_callers_answer(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        stage.disk.full = True
        with pytest.raises(PeerError) as caught:
            await session.start("hi")
        assert caught.value.code == "disk_full"
        stage.disk.full = False
        assert await session.messages() == []
        await stage.usable(session.id)


async def test_an_end_that_the_disk_refused_is_stored_in_time(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.session.SETTLE_DELAY", 0.01)
    async with staged(terminal_retained_max=1, chunk_bytes=1) as stage:
        run, call = await stage.begin()
        call.text("half")
        while "half" not in str(await stage.messages(await stage.session_of(run))):
            await trio.lowlevel.checkpoint()
        stage.disk.full = True
        call.end()
        lost = await run.wait()
        assert lost.status == "interrupted"
        stage.disk.full = False
        other, call = await stage.begin()
        call.end()
        await other.wait()  # only this one stays in memory
        await until_stored(stage, run.id)
        assert await stage.registry.get_run(run.id) == lost
        messages = await stage.messages(lost.session_id)
        assert [m["info"].get("finish") for m in messages] == [None, "interrupted"]
        assert messages[1]["parts"][1]["text"] == "half"
        assert (await stage.registry.list_runs(None, True, 10)).items == ()


async def test_a_session_stays_until_the_end_of_its_run_is_stored(staged: Staged) -> None:
    async with staged(passivate_after=0.02) as stage:
        run, call = await stage.begin()
        stage.disk.full = True
        call.end()
        assert (await run.wait()).status == "interrupted"
        other = await stage.engine.create_session()
        for _ in range(3):  # others come and go meanwhile
            await stage.registry.watch_session(other.id)
            while other.id in names(stage.engine.tree()):
                await trio.lowlevel.checkpoint()
        assert run.record.session_id in names(stage.engine.tree())
        stage.disk.full = False
        await stage.usable(run.record.session_id)


async def test_a_look_at_its_feed_is_a_use_of_the_session(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await stage.registry.watch_session(session.id)
        ref: SessionRef = stage.registry._cell.child(session.id).ref  # type: ignore[union-attr]
        then = trio.current_time() + 100
        before = ref.idle_for(then)
        await stage.registry.watch_session(session.id)
        assert 0 < ref.idle_for(then) < before


async def until_stored(stage: Stage, run_id: str) -> None:
    while (await stage.registry.get_run(run_id)).ended_at is None:
        await trio.lowlevel.checkpoint()


async def test_a_defect_in_a_session_ends_it_alone(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The asker hears of it once; the message is not tried again on a fresh actor."""
    async with staged() as stage:
        other, call = await stage.begin()
        session = await stage.engine.create_session()
        tried: list[StartRun] = []

        async def broken(self: Any, start: StartRun) -> None:
            tried.append(start)
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr("actors.session.Session._start", broken)
            with pytest.raises(Exception, match="ended while it worked"):
                await session.start("poison")
        assert len(tried) == 1
        await stage.usable(session.id)
        call.text("untouched")
        call.end()
        assert (await other.wait()).status == "completed"


async def test_the_end_of_a_run_that_could_not_start_is_stored_as_it_was_shown(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Run) -> None:
        raise RuntimeError("a defect")

    async with staged() as stage:
        session = await stage.engine.create_session()
        with monkeypatch.context() as patch:
            patch.setattr(Run, "on_start", broken)
            with pytest.raises(EngineError):
                await session.start("hi")
        (run,) = (await stage.registry.list_runs(session.id, None, 10)).items
        feed = await stage.registry.watch_run(run.id)
        (finished,) = of(log_of(feed), RunFinished)
        assert (finished.status, finished.reason) == ("interrupted", "it could not be started")
    async with staged() as stage:
        assert await stage.registry.get_run(run.id) == run
        await stage.usable(session.id)


@pytest.mark.parametrize(
    "wrong", [{"expected_revision": 0}, {"input": (InputFile(path="missing"),)}, {"model": "nothing"}]
)
async def test_an_interrupt_that_is_refused_interrupts_nothing(staged: Staged, wrong: dict[str, Any]) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        session_id = await stage.session_of(run)
        start: dict[str, Any] = {"session_id": session_id, "input": ("now",), "when_busy": "interrupt", **wrong}
        with pytest.raises(CallerError):
            await stage.registry.start_run(StartRun(**start))
        call.text("still here")
        await until_text(run, "still here")
        call.end()
        assert (await run.wait()).status == "completed"


async def test_an_interrupt_at_the_present_revision_is_taken(staged: Staged) -> None:
    async with staged() as stage:
        run, _ = await stage.begin()
        session_id = await stage.session_of(run)
        revision = (await stage.registry.get_session(session_id)).revision
        started = await stage.registry.start_run(
            StartRun(session_id=session_id, input=("now",), when_busy="interrupt", expected_revision=revision)
        )
        assert run.record.status == "cancelled" and started.run.id != run.id
        (await stage.models.call()).end()
        await until(started.feed, lambda found: of(found, RunFinished))
