"""The store actor on a real file: its methods, journals that are flushed in time, and its end."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import attrs
import orjson
import pytest
import trio
import trio.testing

from actors._actor import open_actor
from actors._ask import ActorDied
from actors.journal import Flusher, RunJournal
from actors.store import Store
from actors.store_ref import StoreRef
from engine.codec import DecodeError
from engine.commands import NewSession, SessionChanges, StartRun
from engine.errors import CallerError, OwnError, PeerError
from engine.limits import Limits
from engine.runs.record import Run
from engine.storage.changes import AddMessage, AddPart, AppendText, Change, FoldText, PutRun, ReserveSeq
from engine.storage.faults import UnusableStore
from engine.transcript.records import AssistantMessage, Message, TextPart, UserMessage
from engine.transcript.session import Session

LIMIT = 60.0
NOW = 1_700_000_000_000
NEVER = 3600.0  # a delay that no test waits for
SESSION = Session(id="ses_1", title="t", model="m", cwd="/", created_at=NOW, updated_at=NOW)
RUN = Run(id="run_1", session_id="ses_1", status="running", model="m", created_at=NOW)
MESSAGE = Message(UserMessage(id="msg_u", created_at=NOW, run_id="run_1"), (TextPart(id="prt_u", text="hi"),))
ANSWER = AssistantMessage(id="msg_a", created_at=NOW, run_id="run_1")
START = StartRun(session_id="ses_1", input=("hi",))
END = PutRun(attrs.evolve(RUN, status="completed", ended_at=NOW))


@contextlib.asynccontextmanager
async def opened(folder: Path, **limits: float) -> AsyncIterator[StoreRef]:
    store = Store(folder, limits=Limits(**limits), now_ms=lambda: NOW)  # type: ignore[arg-type]
    async with open_actor(store, "store") as ref:
        yield ref


async def begin(ref: StoreRef) -> RunJournal:
    """A session with a run whose answer has an empty text."""
    await ref.create_session(SESSION, NewSession(), NOW)
    await ref.start_run(RUN, MESSAGE, START, NOW)
    journal = ref.open_journal("ses_1")
    journal.add(AddMessage(ANSWER))
    journal.add(AddPart("msg_a", TextPart(id="prt_a", text="")))
    await journal.commit()
    return journal


async def stored(ref: StoreRef) -> str:
    return (await ref.read_output("out_prt_a_text", 0, 65_536)).text


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("greenroom-")]


# ------------------------------------------------------------------ the actor
async def test_what_is_written_is_there_after_the_next_start(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path) as ref:
            await ref.create_session(SESSION, NewSession(), NOW)
            changed = await ref.update_session("ses_1", SessionChanges(title="new"), NOW)
            assert (await ref.list_sessions(10)).items == (changed,)
            assert await ref.get_session("ses_1") == changed
        assert our_threads() == [] and os.listdir(tmp_path) == ["greenroom.db"]
        async with opened(tmp_path) as ref:
            assert await ref.get_session("ses_1") == changed
            await ref.delete_session("ses_1")
            with pytest.raises(CallerError):
                await ref.get_session("ses_1")


async def test_a_start_and_all_that_is_read_of_it(tmp_path: Path) -> None:
    start = attrs.evolve(START, idempotency_key="k")
    with trio.fail_after(LIMIT):
        async with opened(tmp_path) as ref:
            await ref.create_session(SESSION, NewSession(), NOW)
            assert await ref.repeated_run(start) is None
            made = await ref.start_run(RUN, MESSAGE, start, NOW)
            assert (made.revision, made.message_id, made.repeated) == (2, "msg_u", False)
            assert await ref.repeated_run(start) == attrs.evolve(made, repeated=True)
            assert await ref.get_run("run_1") == RUN
            assert (await ref.list_runs("ses_1", True, 10)).items == (RUN,)
            assert (await ref.window("ses_1", max_messages=10, max_bytes=1000)).messages == (MESSAGE,)
            page = await ref.messages("ses_1", 10)
            assert [orjson.loads(message)["info"]["id"] for message in page.messages] == ["msg_u"]
            assert await ref.final_message("run_1") is None
            with pytest.raises(DecodeError):
                await ref.messages("ses_1", 10, "nonsense")
            with pytest.raises(DecodeError, match="not Unicode"):
                await ref.update_session("ses_1", SessionChanges(title="\ud83d"), NOW)


async def test_runs_left_open_are_settled_at_the_next_start(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path, seq_block=70) as ref:
            journal = await begin(ref)
            journal.add(AppendText("prt_a", "so far"))
            await journal.commit()
            journal.discard()
        async with opened(tmp_path) as ref:
            (run,) = await ref.settle_open_runs()
            assert (run.status, run.last_seq) == ("interrupted", 71)
            assert await ref.settle_open_runs() == []
            assert await stored(ref) == "so far"
            found = await ref.final_message("run_1")
            assert found is not None and found.message_id == "msg_a"


async def test_after_its_end_every_method_says_so(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path) as ref:
            journal = await begin(ref)
            journal.discard()
            await ref.stop()
            journal.add(AppendText("prt_a", "late"))
            calls: list[Callable[[], Any]] = [
                lambda: ref.get_session("ses_1"),
                lambda: ref.create_session(SESSION, NewSession(), NOW),
                journal.commit,
            ]
            for call in calls:
                with pytest.raises(ActorDied):
                    await call()
            with pytest.raises(ActorDied):
                ref.open_journal("ses_1")


async def test_a_database_that_cannot_be_used_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "greenroom.db").write_bytes(b"not a database " * 500)
    with trio.fail_after(LIMIT), pytest.raises(UnusableStore, match="not a database"):
        async with opened(tmp_path):
            raise AssertionError("it opened")
    assert our_threads() == []


async def test_space_of_a_deleted_session_goes_back_in_the_background(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path) as ref:
            await ref.create_session(SESSION, NewSession(), NOW)
            message = attrs.evolve(MESSAGE, parts=(TextPart(id="prt_u", text="x" * 4_000_000),))
            await ref.start_run(RUN, message, START, NOW)
            await ref.delete_session("ses_1")
            slices = ref.store_statistics().writes
            while await ref._read(lambda connection: connection.execute("PRAGMA freelist_count").fetchone()[0]):
                await trio.lowlevel.checkpoint()
            assert ref.store_statistics().writes > slices + 2  # in slices, other writes between them
        assert os.stat(tmp_path / "greenroom.db").st_size < 400_000


async def test_the_files_shrink_while_the_store_is_open(tmp_path: Path) -> None:
    def size() -> int:
        return sum(os.stat(path).st_size for path in tmp_path.glob("greenroom.db*") if path.suffix != ".db-shm")

    with trio.fail_after(LIMIT):
        async with opened(tmp_path) as ref:
            await ref.create_session(SESSION, NewSession(), NOW)
            await ref.start_run(
                RUN, attrs.evolve(MESSAGE, parts=(TextPart(id="prt_u", text="x" * 4_000_000),)), START, NOW
            )
            assert size() > 4_000_000
            await ref.delete_session("ses_1")
            while size() > 400_000:
                await ref.list_sessions(1)


async def test_space_that_a_crash_left_free_is_given_back_at_the_next_start(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path) as ref:
            await ref.create_session(SESSION, NewSession(), NOW)
        path = tmp_path / "greenroom.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE large AS SELECT zeroblob(4000000) AS x")
            connection.execute("DROP TABLE large")
        assert path.stat().st_size > 4_000_000
        async with opened(tmp_path) as ref:
            while path.stat().st_size > 400_000:
                await ref.list_sessions(1)


async def test_when_everything_is_cancelled_runs_that_settle_find_the_store_open(tmp_path: Path) -> None:
    async def settling(journal: RunJournal) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LIMIT):
                await trio.testing.wait_all_tasks_blocked()  # the store has been cancelled as well by now
                for _ in range(50):
                    await ref.get_session("ses_1")
                journal.add(AppendText("prt_a", "the last words"))
                journal.add(FoldText("prt_a"))
                journal.add(END)
                await journal.commit()

    with trio.fail_after(LIMIT):
        with trio.CancelScope() as scope:
            async with opened(tmp_path) as ref, trio.open_nursery() as nursery:
                nursery.start_soon(settling, await begin(ref))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert our_threads() == [] and os.listdir(tmp_path) == ["greenroom.db"]
        async with opened(tmp_path) as ref:
            assert await stored(ref) == "the last words"
            assert (await ref.get_run("run_1")).status == "completed"


# ------------------------------------------------------------------ journals
async def test_a_commit_makes_everything_before_it_durable(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path, chunk_delay=NEVER) as ref:
            journal = await begin(ref)
            before = journal.revision
            for character in "streamed é😀":
                journal.add(AppendText("prt_a", character))
            assert journal.unsaved > 0 and await stored(ref) == ""
            assert await journal.commit() == before
            assert journal.unsaved == 0 and await stored(ref) == "streamed é😀"
            journal.add(FoldText("prt_a"))
            assert await journal.commit() == before + 1
            assert await journal.commit() == before + 1  # nothing to do
            journal.add(END)
            await journal.commit()
            assert (await ref.get_run("run_1")).status == "completed"
            assert ref.store_statistics().journals == 0


async def test_text_is_committed_after_a_while_without_being_asked(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path, chunk_delay=0.01) as ref:
            journal = await begin(ref)
            journal.add(AppendText("prt_a", "small"))
            while journal.unsaved:
                await trio.lowlevel.checkpoint()
            assert await stored(ref) == "small"
            journal.discard()


async def test_much_text_is_committed_at_once(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path, chunk_delay=NEVER, chunk_bytes=1000) as ref:
            journal = await begin(ref)
            journal.add(AppendText("prt_a", "x" * 100))
            await trio.testing.wait_all_tasks_blocked()
            assert await stored(ref) == ""
            journal.add(AppendText("prt_a", "x" * 900))
            while journal.unsaved:
                await trio.lowlevel.checkpoint()
            assert await stored(ref) == "x" * 1000
            journal.discard()


async def test_half_a_surrogate_pair_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with opened(tmp_path, chunk_delay=NEVER) as ref:
            journal = await begin(ref)
            with pytest.raises(DecodeError, match="not Unicode"):
                journal.add(AppendText("prt_a", "\ud83d"))
            assert journal.unsaved == 0
            journal.add(AppendText("prt_a", "good"))
            await journal.commit()
            assert await stored(ref) == "good"
            journal.discard()


class FakeDisk:
    """Writes wait until they are let through, one by one; `fail` is what the next one raises. Remembers changes."""

    def __init__(self) -> None:
        self.batches: list[list[Change]] = []
        self.fail: Exception | None = None
        self.waiting = 0
        self._send, self._receive = trio.open_memory_channel[None](1000)

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._send.send_nowait(None)

    async def write(self, work: Callable[[Connection], Any]) -> int:
        self.waiting += 1
        try:
            await self._receive.receive()
        finally:
            self.waiting -= 1
        error, self.fail = self.fail, None
        if error is not None:
            raise error
        self.batches.append(work.keywords["changes"])  # type: ignore[attr-defined]
        return len(self.batches)

    @property
    def text(self) -> str:
        return "".join(change.text for batch in self.batches for change in batch if isinstance(change, AppendText))


@contextlib.asynccontextmanager
async def flushing(**limits: float) -> AsyncIterator[tuple[FakeDisk, Flusher]]:
    disk = FakeDisk()
    flusher = Flusher(disk, Limits(**limits), lambda: NOW)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await trio.testing.wait_all_tasks_blocked()
        yield disk, flusher
        nursery.cancel_scope.cancel()


async def test_journals_that_are_due_share_a_batch(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing(chunk_delay=1.0) as (disk, flusher):
        journals = [flusher.open(f"ses_{number}") for number in range(4)]
        for journal in journals[:3]:
            journal.add(AppendText("prt_a", "x"))
            await trio.sleep(0.2)
        await trio.sleep(0.35)
        journals[3].add(AppendText("prt_a", "y"))
        await trio.sleep(0.1)
        # The first is due, two soon will be, the last is young.
        assert disk.waiting == 3
        assert journals[3].waiting > 0
        disk.let(4)
        await trio.sleep(1.0)
        assert disk.text == "xxxy" and flusher.unsaved == 0


async def test_adjacent_texts_of_a_part_are_one_change(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing() as (disk, flusher):
        journal = flusher.open("ses_1")
        for part, text in ["aA", "aB", "bC", "aD"]:
            journal.add(AppendText(part, text))
        journal.add(ReserveSeq("run_1", 9))
        journal.add(AppendText("a", "E"))
        disk.let()
        await journal.commit()
        assert disk.batches == [
            [
                AppendText("a", "AB"),
                AppendText("b", "C"),
                AppendText("a", "D"),
                ReserveSeq("run_1", 9),
                AppendText("a", "E"),
            ]
        ]


async def test_the_order_is_kept_while_a_commit_is_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing() as (disk, flusher):
        journal = flusher.open("ses_1")
        done: list[str] = []

        async def commit(name: str) -> None:
            await journal.commit()
            done.append(name)

        async with trio.open_nursery() as nursery:
            journal.add(AppendText("a", "1"))
            nursery.start_soon(commit, "first")
            await trio.testing.wait_all_tasks_blocked()
            journal.add(AppendText("a", "2"))
            nursery.start_soon(commit, "second")
            await trio.testing.wait_all_tasks_blocked()
            journal.add(AppendText("a", "3"))
            nursery.start_soon(commit, "third")
            await trio.sleep(10)  # the flusher would have been due
            assert disk.waiting == 1 and done == []
            disk.let()
            await trio.sleep(1)
            assert done == ["first"] and disk.waiting == 1
            disk.let()
            await trio.sleep(1)
        assert done == ["first", "second", "third"]
        assert [[change.text for change in batch] for batch in disk.batches] == [["1"], ["23"]]  # type: ignore[union-attr]


async def test_a_flush_that_fails_is_told_at_the_next_call_and_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with flushing() as (disk, flusher):
        journal = flusher.open("ses_1")
        disk.fail = PeerError("disk_full", "no room")
        journal.add(AppendText("a", "1"))
        disk.let()
        await trio.sleep(10)
        journal.add(AppendText("a", "2"))
        await trio.sleep(10)
        assert disk.batches == [] and disk.waiting == 0  # not tried for ever behind the run's back
        with pytest.raises(PeerError, match="no room"):
            await journal.room()
        disk.let()
        await trio.sleep(10)
        assert disk.text == "12" and flusher.unsaved == 0
        await journal.room()


async def test_a_commit_that_fails_keeps_its_changes_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing() as (disk, flusher):
        journal = flusher.open("ses_1")
        journal.add(AppendText("a", "1"))
        disk.fail = OwnError("internal", "a defect")
        disk.let()
        with pytest.raises(OwnError):
            await journal.commit()
        journal.add(AppendText("a", "2"))
        disk.let()
        assert await journal.commit() == 1
        assert disk.text == "12"


async def test_a_cancelled_commit_keeps_its_changes_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing() as (disk, flusher):
        journal = flusher.open("ses_1")
        journal.add(AppendText("a", "1"))
        with trio.move_on_after(0.1) as scope:
            await journal.commit()
        assert scope.cancelled_caught and disk.batches == []
        journal.add(AppendText("a", "2"))
        disk.let()
        await trio.sleep(10)  # in time all the same
        assert disk.text == "12"


async def test_a_run_waits_while_too_much_is_unsaved(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing(unsaved_bytes=10_000, chunk_bytes=1000) as (disk, flusher):
        journal = flusher.open("ses_1")
        journal.add(AppendText("a", "x" * 9000))
        await journal.room()
        journal.add(AppendText("a", "x" * 1000))
        with trio.move_on_after(5) as scope:
            await journal.room()
        assert scope.cancelled_caught
        disk.let(2)
        await journal.room()
        assert len(disk.text) >= 9000


async def test_a_run_that_waits_hears_of_a_failure_and_of_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing(unsaved_bytes=1000) as (disk, flusher):
        journal = flusher.open("ses_1")
        journal.add(AppendText("a", "x" * 5000))

        async def room(expected: type[Exception]) -> None:
            with pytest.raises(expected):
                await journal.room()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(room, PeerError)
            await trio.testing.wait_all_tasks_blocked()
            disk.fail = PeerError("disk_full", "no room")
            disk.let()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room, ActorDied)
            await trio.testing.wait_all_tasks_blocked()
            flusher.close()


async def test_a_journal_that_nobody_holds_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with flushing() as (disk, flusher):
        journal = flusher.open("ses_1")
        kept = flusher.open("ses_2")
        assert flusher.journals == 2
        del journal
        assert flusher.journals == 1
        kept.add(AppendText("a", "x"))
        kept.discard()
        assert flusher.journals == 0 and flusher.unsaved == 0
        disk.let()
        await trio.sleep(10)
        assert disk.batches == []
