"""The disk's threads, on a real file: group commit, errors that stay alone, cancellation, bounds, the end."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from actors._disk import Disk, DiskClosed, open_disk
from engine.codec import DecodeError
from engine.errors import CallerError, OwnError, PeerError
from engine.limits import Limits
from engine.storage import database
from engine.storage.faults import UnusableStore

LIMIT = 60.0
Work = Callable[[sqlite3.Connection], Any]


def put(value: int) -> Work:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    return work


def values(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


class Gate:
    """Holds a disk's thread inside an operation until it is opened."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._open = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self._token.run_sync_soon(self.entered.set)
        assert self._open.wait(LIMIT)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    disk = await open_disk(tmp_path / "g.db")
    await disk.write(lambda connection: connection.execute("CREATE TABLE t (x INTEGER UNIQUE)"))
    yield disk
    await disk.aclose()


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("greenroom-")]


async def test_the_log_is_measured_with_each_commit_and_can_be_emptied(disk: Disk, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        await disk.write(lambda connection: connection.execute("CREATE TABLE large AS SELECT zeroblob(1000000) AS x"))
        await disk.write(put(1))  # behind the commit that is measured
        assert disk.statistics().log_bytes > 1_000_000
        assert await disk.shorten_log()
        assert disk.statistics().log_bytes < 50_000 and (tmp_path / "g.db").stat().st_size > 1_000_000


async def test_a_read_sees_what_was_written_before_it(disk: Disk) -> None:
    with trio.fail_after(LIMIT):
        for number in range(50):
            assert await disk.write(put(number)) == number
            assert (await disk.read(values))[-1] == number


async def test_what_waits_together_is_committed_together_and_in_order(disk: Disk) -> None:
    gate = Gate()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gate)
            await gate.entered.wait()
            before = disk.statistics()
            for number in range(100):
                nursery.start_soon(disk.write, put(number))
                await trio.testing.wait_all_tasks_blocked()
            assert disk.statistics().waiting == 100
            gate.open()
        after = disk.statistics()
        assert after.writes - before.writes == 101
        assert after.commits - before.commits == 2  # the gate's own, and one for all others
        assert await disk.read(values) == list(range(100))


async def test_an_operation_that_raises_fails_alone_and_leaves_nothing(disk: Disk) -> None:
    outcomes: dict[int, object] = {}

    def half_done(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (1000)")
        raise CallerError("unknown_session", "no such session")

    async def one(number: int, work: Work) -> None:
        try:
            outcomes[number] = await disk.write(work)
        except Exception as exc:  # noqa: BLE001 - looked at below
            outcomes[number] = exc

    gate = Gate()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gate)
            await gate.entered.wait()
            for number, work in enumerate([put(0), half_done, put(1), put(0), put(2)]):
                nursery.start_soon(one, number, work)
                await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert await disk.read(values) == [0, 1, 2]
    assert isinstance(outcomes[1], CallerError)
    assert isinstance(outcomes[3], OwnError) and "UNIQUE" in outcomes[3].message
    assert [outcomes[number] for number in (0, 2, 4)] == [0, 1, 2]


async def test_text_that_is_not_unicode_is_refused(disk: Disk) -> None:
    with trio.fail_after(LIMIT), pytest.raises(DecodeError, match="not Unicode"):
        await disk.write(lambda connection: connection.execute("INSERT INTO t VALUES (?)", ("\udc00",)))


async def test_a_disk_that_is_full_says_so_and_what_still_fits_is_kept(disk: Disk, tmp_path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE big AS SELECT zeroblob(1000000) AS x")

    def bound(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")

    gate = Gate()
    errors: list[PeerError] = []

    async def filling() -> None:
        with pytest.raises(PeerError) as raised:
            await disk.write(fill)
        errors.append(raised.value)

    with trio.fail_after(LIMIT):
        await disk.write(bound)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gate)
            await gate.entered.wait()
            for work in (1, None, 2):
                nursery.start_soon(*((disk.write, put(work)) if work else (filling,)))  # type: ignore[arg-type]
                await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert await disk.read(values) == [1, 2]
        assert await disk.write(put(3)) == 3
    assert [error.code for error in errors] == ["disk_full"] and str(tmp_path) in errors[0].message


class Faulty(sqlite3.Connection):
    """A connection whose disk refuses: commits as long as `refusals` are left."""

    refusals = 0

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and Faulty.refusals:
            Faulty.refusals -= 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return super().execute(sql, *arguments)


async def faulty(path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(database.sqlite3, "connect", lambda *a, **k: connect(*a, factory=Faulty, **k))
        disk = await open_disk(path)
    await disk.write(lambda connection: connection.execute("CREATE TABLE t (x INTEGER UNIQUE)"))
    return disk


async def test_a_commit_that_fails_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(LIMIT):
        disk = await faulty(tmp_path / "g.db", monkeypatch)
        Faulty.refusals = 2
        with pytest.raises(PeerError) as raised:
            await disk.write(put(7))
        assert raised.value.code == "disk_full" and "I/O" in raised.value.message
        assert Faulty.refusals == 0
        Faulty.refusals = 1
        assert await disk.write(put(8)) == 8  # the second attempt holds
        assert await disk.read(values) == [8]
        await disk.aclose()


async def test_a_failed_commit_of_many_fails_those_alone_that_fail_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(LIMIT):
        disk = await faulty(tmp_path / "g.db", monkeypatch)
        results: dict[int, object] = {}
        gate = Gate()

        def gated(connection: sqlite3.Connection) -> None:
            gate(connection)
            Faulty.refusals = 0

        async def one(number: int) -> None:
            def work(connection: sqlite3.Connection) -> int:
                if number == 0:
                    # In the batch and again alone: the commit of the batch fails, then that of this operation.
                    Faulty.refusals = 1
                return int(put(number)(connection))

            try:
                results[number] = await disk.write(work)
            except PeerError as exc:
                results[number] = exc.code

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gated)
            await gate.entered.wait()
            for number in range(3):
                nursery.start_soon(one, number)
                await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert results == {0: "disk_full", 1: 1, 2: 2}
        assert await disk.read(values) == [1, 2]
        await disk.aclose()


async def test_cancelled_before_its_turn_an_operation_never_runs(disk: Disk) -> None:
    gate = Gate()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gate)
            await gate.entered.wait()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(disk.write, put(1))
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught and disk.statistics().waiting == 0
            gate.open()
        await disk.write(put(2))
        assert await disk.read(values) == [2]


async def test_cancelled_once_begun_an_operation_is_finished_and_its_value_returned(disk: Disk) -> None:
    gate = Gate()
    returned: list[int] = []

    def work(connection: sqlite3.Connection) -> int:
        gate(connection)
        return int(put(1)(connection))

    async def producer(scope: trio.CancelScope) -> None:
        with scope:
            returned.append(await disk.write(work))
            await trio.lowlevel.checkpoint()
            returned.append(-1)

    scope = trio.CancelScope()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer, scope)
            await gate.entered.wait()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert returned == [1] and scope.cancelled_caught
        assert await disk.read(values) == [1]


async def test_beyond_the_bound_producers_wait(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        disk = await open_disk(tmp_path / "g.db", limits=Limits(disk_queue=3))
        await disk.write(lambda connection: connection.execute("CREATE TABLE t (x)"))
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gate)
            await gate.entered.wait()
            for number in range(10):
                nursery.start_soon(disk.write, put(number))
                await trio.testing.wait_all_tasks_blocked()
            assert disk.statistics().waiting == 2  # with the gate's own they are three
            gate.open()
        assert sorted(await disk.read(values)) == list(range(10))
        await disk.aclose()


async def test_a_reader_cannot_write(disk: Disk) -> None:
    with trio.fail_after(LIMIT), pytest.raises(PeerError, match="readonly"):
        await disk.read(put(1))


async def test_closing_runs_what_waits_and_leaves_no_thread_and_one_file(tmp_path: Path) -> None:
    assert our_threads() == []
    with trio.fail_after(LIMIT):
        disk = await open_disk(tmp_path / "g.db")
        assert sorted(our_threads()) == ["greenroom-reader", "greenroom-writer"]
        await disk.write(lambda connection: connection.execute("CREATE TABLE t (x)"))
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, gate)
            await gate.entered.wait()
            nursery.start_soon(disk.write, put(1))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(disk.aclose)
            nursery.start_soon(disk.aclose)
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert our_threads() == []
        assert os.listdir(tmp_path) == ["g.db"]
        for refused in (disk.write, disk.read):
            with pytest.raises(DiskClosed):
                await refused(values)
        again = await open_disk(tmp_path / "g.db")
        assert await again.read(values) == [1]
        await again.aclose()


async def test_closing_while_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        disk = await open_disk(tmp_path / "g.db")
        with trio.CancelScope() as scope:
            scope.cancel()
            await disk.aclose()
        assert our_threads() == []
        assert os.listdir(tmp_path) == ["g.db"]


async def test_opening_that_fails_or_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        (tmp_path / "bad.db").write_bytes(b"no database at all " * 99)
        with pytest.raises(UnusableStore):
            await open_disk(tmp_path / "bad.db")
        with pytest.raises(PeerError):
            await open_disk(tmp_path / "missing" / "g.db")

        def refuse() -> sqlite3.Connection:
            raise PeerError("disk_full", "no reader today")

        with pytest.raises(PeerError, match="no reader"):
            await open_disk(tmp_path / "g.db", open_reader=refuse)
        with trio.CancelScope() as scope:
            scope.cancel()
            await open_disk(tmp_path / "g.db")
        assert scope.cancelled_caught
    assert our_threads() == []


async def test_a_defect_in_a_thread_reaches_everybody(tmp_path: Path) -> None:
    class Broken(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql == "BEGIN":
                raise ZeroDivisionError("a defect")
            return super().execute(sql, *arguments)

    def reader() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "g.db", isolation_level=None, check_same_thread=False, factory=Broken)

    with trio.fail_after(LIMIT):
        disk = await open_disk(tmp_path / "g.db", open_reader=reader)
        with pytest.raises(ZeroDivisionError):
            await disk.read(values)
        await disk.wait_failed()
        with pytest.raises(DiskClosed):
            await disk.read(values)
        await disk.aclose()
    assert our_threads() == []
