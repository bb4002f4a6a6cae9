"""The threads of the database: one that writes with group commit, one that reads.

An operation is a function of a connection. The writer's thread takes every operation that waits, runs them in one
transaction, commits once and then wakes all producers in one hop back to the loop: a thread hop costs 60 µs and a
synced commit milliseconds, shared by all. Each operation has a savepoint of its own, so that one that raises leaves
nothing behind and the others stay. If the transaction itself breaks (a full disk at the commit), the operations are
run again one by one, each in a transaction of its own: what still fits is kept, what does not fails alone. So an
operation may run twice and has to be a pure function of the database.

The reader's thread runs its operations one by one, each in a transaction that sees all that was committed before.

No operation runs on the loop's thread, and none of trio's worker threads or limiters is used.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final, TypeVar

import attrs
import outcome
import trio

from actors._tally import COMMIT_BOUNDS, Histogram
from engine.limits import DEFAULT, Limits
from engine.storage import database
from engine.storage.database import Durability
from engine.storage.wal import Wal

T = TypeVar("T")
Open = Callable[[], Connection]

_log = logging.getLogger("greenroom.disk")

# The end waits for operations that wait and for the last checkpoint; a disk that takes longer has failed.
CLOSE_TIMEOUT: Final = 20.0


class DiskClosed(Exception):
    """The disk is closed or closing: the operation was not begun."""


@attrs.frozen(slots=True, kw_only=True)
class DiskStatistics:
    """Operations since the start, and how many wait now. `commits` are the transactions that the writes shared."""

    writes: int
    commits: int
    reads: int
    waiting: int
    log_bytes: int  # of the database's log, as of the last commit
    commit_seconds: Histogram


class _Operation:
    __slots__ = ("result", "task", "work")

    def __init__(self, work: Callable[[Connection], Any], task: trio.lowlevel.Task) -> None:
        self.work = work
        self.task = task
        self.result: outcome.Outcome[Any] | None = None


class _Worker:
    """One thread with one connection; subclasses say how a batch of operations is run. `failed` is set if the
    thread ends by a defect."""

    batch_most: int | None = None  # operations of one batch; None: all that wait

    def __init__(self, name: str, path: Path, open_connection: Open, most: int, failed: trio.Event) -> None:
        self._path = path
        self._open = open_connection
        self._condition = threading.Condition()
        # Guarded by the condition: what waits, whether more may come, why none does any more.
        self._waiting: deque[_Operation] = deque()
        self._closing = False
        self._failure: BaseException | None = None
        # Of the loop's thread only.
        self._room = trio.Semaphore(most)
        self._token = trio.lowlevel.current_trio_token()
        self._opened = trio.Event()
        self._ended = trio.Event()
        self._failed = failed
        self._thread = threading.Thread(target=self._main, name=f"greenroom-{name}", daemon=True)
        self.done = 0
        self.commits = 0
        self.commit_seconds = Histogram(COMMIT_BOUNDS)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def start(self) -> None:
        """Open the connection in the thread. Raises why it cannot be opened. Cancelled or failed, the thread has
        ended."""
        self._thread.start()
        try:
            await self._opened.wait()
        except trio.Cancelled:
            await self.close()
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run the operation in the thread; see Disk.write."""
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        try:
            operation = _Operation(work, trio.lowlevel.current_task())
            with self._condition:
                if self._closing or self._failure is not None:
                    raise DiskClosed(f"the store of {self._path.parent} is closed")
                self._waiting.append(operation)
                self._condition.notify()

            def abort(_: Any) -> trio.lowlevel.Abort:
                with self._condition:
                    try:
                        self._waiting.remove(operation)
                    except ValueError:  # it has begun: its outcome is awaited
                        return trio.lowlevel.Abort.FAILED
                return trio.lowlevel.Abort.SUCCEEDED

            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
            return result
        finally:
            self._room.release()

    async def close(self) -> None:
        """Run what waits, take no more, close the connection and end the thread. Shielded, with a deadline that only
        a disk that does not answer reaches. Any number of callers wait for the same end."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
            await self._ended.wait()
        if self._ended.is_set():
            self._thread.join()  # it has told its end with its last statement
        else:
            _log.error("%s did not end in %s s: the disk does not answer", self._thread.name, CLOSE_TIMEOUT)

    # ------------------------------------------------------------ in the thread
    def _main(self) -> None:
        try:
            connection = self._open()
        except BaseException as exc:  # noqa: BLE001 - start raises it again
            self._failure = exc
            self._tell(self._opened.set)
            self._tell(self._ended.set)
            return
        self._tell(self._opened.set)
        while (batch := self._take()) is not None:
            try:
                self._run(connection, batch)
            except BaseException as exc:  # noqa: BLE001 - a defect here: whoever waits must hear of it
                _log.exception("%s failed", self._thread.name)
                self._fail(batch, exc)
                break
            self._wake(batch)
            del batch  # results and closures may be large, and the next batch may be long in coming
            self._after(connection)
        try:
            self._close(connection)
        except Exception:  # noqa: BLE001 - nobody waits for an answer; the next start reads the log
            _log.exception("%s: the database was not closed in order", self._thread.name)
        self._tell(self._ended.set)

    def _take(self) -> list[_Operation] | None:
        """All that waits; None when nothing does and no more may come."""
        with self._condition:
            while not self._waiting:
                if self._closing:
                    return None
                self._condition.wait()
            most = len(self._waiting) if self.batch_most is None else self.batch_most
            return [self._waiting.popleft() for _ in range(most)]

    def _fail(self, batch: list[_Operation], exc: BaseException) -> None:
        with self._condition:
            self._failure = exc
            batch.extend(self._waiting)
            self._waiting.clear()
        for operation in batch:
            operation.result = outcome.Error(exc)
        self._wake(batch)
        self._tell(self._failed.set)

    def _run(self, connection: Connection, batch: list[_Operation]) -> None:
        raise NotImplementedError

    def _after(self, connection: Connection) -> None:
        """What is done behind a batch, outside any transaction, while nobody waits for it."""

    def _close(self, connection: Connection) -> None:
        connection.close()

    def _attempt(self, connection: Connection, operation: _Operation) -> None:
        """Run the operation and keep its outcome, an error of SQLite as one of ours."""

        def work() -> Any:
            with database.translated(self._path):
                return operation.work(connection)

        operation.result = outcome.capture(work)

    def _wake(self, batch: list[_Operation]) -> None:
        self.done += len(batch)
        self._tell(_reschedule, batch)

    def _tell(self, notice: Callable[..., object], *arguments: object) -> None:
        # The loop may have ended without closing us: then there is nobody left to tell.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(notice, *arguments)


def _reschedule(batch: list[_Operation]) -> None:
    for operation in batch:
        assert operation.result is not None
        trio.lowlevel.reschedule(operation.task, operation.result)


class _Reader(_Worker):
    batch_most = 1  # each answer at once: a short read does not wait for a long one behind it

    def _run(self, connection: Connection, batch: list[_Operation]) -> None:
        connection.execute("BEGIN")
        self._attempt(connection, batch[0])
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class _Writer(_Worker):
    def __init__(
        self, name: str, path: Path, open_connection: Open, most: int, failed: trio.Event, limits: Limits
    ) -> None:
        super().__init__(name, path, open_connection, most, failed)
        self.wal = Wal(path, limits)

    def _run(self, connection: Connection, batch: list[_Operation]) -> None:
        if not self._together(connection, batch):
            for operation in batch:
                self._together(connection, [operation])

    def _together(self, connection: Connection, batch: list[_Operation]) -> bool:
        """Run the batch in one transaction, every operation's outcome kept in it. False if the transaction broke:
        everything is undone then, and why is every operation's outcome."""
        began = time.perf_counter()
        try:
            with database.translated(self._path):
                connection.execute("BEGIN IMMEDIATE")
                for operation in batch:
                    connection.execute("SAVEPOINT operation")
                    self._attempt(connection, operation)
                    if isinstance(operation.result, outcome.Error):
                        if not connection.in_transaction:  # SQLite has undone everything itself
                            operation.result.unwrap()
                        connection.execute("ROLLBACK TO operation")
                    connection.execute("RELEASE operation")
                connection.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001 - it is the outcome
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for operation in batch:
                operation.result = outcome.Error(exc)
            return False
        self.commits += 1
        self.commit_seconds.observe(time.perf_counter() - began)
        return True

    def _after(self, connection: Connection) -> None:
        try:
            with database.translated(self._path):
                self.wal.bound(connection)
        except Exception as exc:  # noqa: BLE001 - nothing is lost by it, and the next commit tries again
            _log.warning("the store's log was not shortened: %s", exc)

    def _close(self, connection: Connection) -> None:
        with database.translated(self._path):
            database.close_writer(connection)


class Disk:
    """The database of a data directory, open. Made by `open_disk`; whoever opened it calls `aclose`."""

    def __init__(self, writer: _Writer, reader: _Reader, failed: trio.Event) -> None:
        self._writer = writer
        self._reader = reader
        self._failed = failed

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction; its value when that is committed (as durable as the setting says).

        Raises what `work` raised, errors of SQLite as engine.storage.database.translated says, and DiskClosed.
        Then nothing of it is stored. `work` runs in another thread, perhaps twice: it is a pure function of the
        database. While `limits.disk_queue` operations are accepted, further producers wait here. Operations run in the
        order in which they were accepted; who waits for that is taken in no particular order.

        Cancelled before it was begun, the operation is removed and never runs. Once begun it cannot be cancelled:
        this returns or raises as if nothing had happened, and the cancellation strikes at the caller's next
        checkpoint. So trio.Cancelled out of here means that nothing was stored.
        """
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads and sees all that was committed before this call. Errors and
        cancellation as with `write`."""
        return await self._reader.run(work)

    async def shorten_log(self) -> bool:
        """Fold the log into the database, whose file shrinks then by what was freed in it; whether it could be done.
        False while a reader is in the way: then it is tried again after each commit."""
        self._writer.wal.shorten_wanted = True
        # Behind the commit of the first the log is shortened, behind that of the second it has been.
        await self.write(_nothing)
        await self.write(_nothing)
        return not self._writer.wal.shorten_wanted

    async def wait_failed(self) -> None:
        """Wait until a thread has ended by a defect, which is in the log. Its operations raised it, later ones are
        refused."""
        await self._failed.wait()

    async def aclose(self) -> None:
        """Run what waits, fold the log into the database, end both threads. Idempotent, shielded, with a deadline."""
        await self._reader.close()  # first: a reader in a transaction would keep the log from being folded
        await self._writer.close()

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            writes=self._writer.done,
            commits=self._writer.commits,
            reads=self._reader.done,
            waiting=self._writer.waiting + self._reader.waiting,
            log_bytes=self._writer.wal.bytes,
            commit_seconds=self._writer.commit_seconds.copy(),
        )


def _nothing(connection: Connection) -> None:
    pass


async def open_disk(
    path: Path,
    *,
    durability: Durability = "full",
    limits: Limits = DEFAULT,
    open_writer: Open | None = None,
    open_reader: Open | None = None,
) -> Disk:
    """Open (or make) the database at `path`. At most `limits.disk_queue` operations of each thread are accepted at a
    time.

    Raises PeerError disk_full, UnusableStore. Cancelled or failed, nothing stays open.
    """
    failed = trio.Event()
    open_writer = open_writer or (lambda: database.open_writer(path, durability))
    open_reader = open_reader or (lambda: database.open_reader(path))
    most = limits.disk_queue
    writer = _Writer("writer", path, open_writer, most, failed, limits)
    await writer.start()
    try:
        reader = _Reader("reader", path, open_reader, most, failed)
        await reader.start()
    except BaseException:
        await writer.close()
        raise
    return Disk(writer, reader, failed)
