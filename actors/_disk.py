"""The disk: one thread that writes with group commit, and a few connections that read.

A write is a pure function of the connection. The writer thread takes all that wait, runs them in one transaction
and commits once; the loop learns of the whole batch by one hop (60 µs), whatever its size. If one of them raises,
the batch is rolled back and each is run again in a transaction of its own, so that a bad one fails alone.

Reads run in worker threads on connections of their own (WAL: they never wait for the writer) and see every write
that was acknowledged before they were asked.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import trio

from actors._ask import ActorDied
from engine.storage import database

T = TypeVar("T")
# Operations of one transaction: beyond it the first waiter would wait for the last one's work.
BATCH: Final = 512
# Connections that read at the same time: each keeps a page cache, and two keep a slow query from blocking all.
READERS: Final = 2


class Operation(Generic[T]):
    """One submitted write. `wait` gives its result, or raises what it raised."""

    __slots__ = ("_done", "_error", "_value", "skip", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T]) -> None:
        self.work = work
        self.skip = False
        self._done = trio.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def settle(self, value: Any, error: BaseException | None) -> None:
        if not self._done.is_set():
            self._value, self._error = value, error
            self._done.set()

    async def wait(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)
        value: T = self._value
        return value


class Disk:
    """See the module. Made by `open_disk`; not usable after it."""

    def __init__(self, readers: list[sqlite3.Connection], path: Path, bound: int) -> None:
        self._queue: queue.SimpleQueue[Operation[Any] | None] = queue.SimpleQueue()
        self._places = trio.Semaphore(bound)
        self._open: set[Operation[Any]] = set()
        self._readers = readers
        self._path = path  # for errors
        self._read_limiter = trio.CapacityLimiter(len(readers))
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False
        self.commits = 0
        self.operations = 0

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Operation[T]:
        """Queue a write without waiting. For callers with a bound of their own (journals have one each)."""
        if self._closed:
            raise ActorDied("the store has ended")
        operation = Operation(work)
        self._open.add(operation)
        self._queue.put(operation)
        return operation

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run the write and return when it is durable. Raises what `work` raised, PeerError disk_full, ActorDied.

        Cancelled while it waits: it is left out if it was not begun, otherwise it is committed.
        """
        async with self._places:
            operation = self.submit(work)
            try:
                return await operation.wait()
            except trio.Cancelled:
                operation.skip = True
                raise

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run the query in a worker thread. Cancelled: returns when it has ended (queries are short)."""
        if self._closed:
            raise ActorDied("the store has ended")
        return await trio.to_thread.run_sync(self._read, work, limiter=self._read_limiter)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._readers.pop()  # the limiter admits as many as there are
        try:
            with database.translated(self._path):
                return work(connection)
        finally:
            self._readers.append(connection)

    # ------------------------------------------------------------ the writer thread
    def write_loop(self, connection: sqlite3.Connection) -> None:
        """Runs in the writer thread until `close`; what was submitted before is done first."""
        ended = False
        while not ended:
            batch = [self._queue.get()]
            while len(batch) < BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = None in batch
            done = self._run(
                [operation for operation in batch if operation is not None and not operation.skip], connection
            )
            skipped = [operation for operation in batch if operation is not None and operation.skip]
            try:
                self._token.run_sync_soon(self._deliver, done, skipped)
            except trio.RunFinishedError:
                return  # nobody is left to hear it

    def _run(
        self, batch: list[Operation[Any]], connection: sqlite3.Connection
    ) -> list[tuple[Operation[Any], Any, BaseException | None]]:
        if not batch:
            return []
        try:
            values = self._transaction(batch, connection)
        except Exception as exc:  # noqa: BLE001 - whose fault it was is found by running them one by one
            if len(batch) == 1:
                return [(batch[0], None, exc)]
            return [one for operation in batch for one in self._run([operation], connection)]
        return [(operation, value, None) for operation, value in zip(batch, values, strict=True)]

    def _transaction(self, batch: list[Operation[Any]], connection: sqlite3.Connection) -> list[Any]:
        with database.translated(self._path):
            connection.execute("begin immediate")
            try:
                values = [operation.work(connection) for operation in batch]
                connection.execute("commit")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
        self.commits += 1
        self.operations += len(batch)
        return values

    def _deliver(
        self, done: list[tuple[Operation[Any], Any, BaseException | None]], skipped: list[Operation[Any]]
    ) -> None:
        for operation, value, error in done:
            self._open.discard(operation)
            operation.settle(value, error)
        for operation in skipped:
            self._open.discard(operation)

    def close(self) -> None:
        """Take no more; the writer thread ends behind what was submitted."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)

    def fail_rest(self) -> None:
        """The thread has ended: whoever still waits is told so."""
        for operation in self._open:
            operation.settle(None, ActorDied("the store has ended"))
        self._open.clear()


@contextlib.asynccontextmanager
async def open_disk(
    open_writer: Callable[[], sqlite3.Connection],
    open_reader: Callable[[], sqlite3.Connection],
    path: Path,
    *,
    bound: int,
) -> AsyncIterator[Disk]:
    """Open the connections (in a thread) and run the writer until the block ends. Everything submitted before the
    end is done; the log is folded into the database and no thread or descriptor is left."""
    limiter = trio.CapacityLimiter(1)
    writer, readers = await trio.to_thread.run_sync(_open, open_writer, open_reader, limiter=limiter)
    disk = Disk(readers, path, bound)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write_loop, disk, writer, limiter)
            try:
                yield disk
            finally:
                disk.close()
    finally:
        disk.fail_rest()
        with trio.CancelScope(shield=True):  # bounded: a checkpoint of at most the log's size
            await trio.to_thread.run_sync(_close, writer, readers, limiter=limiter)


async def _write_loop(disk: Disk, writer: sqlite3.Connection, limiter: trio.CapacityLimiter) -> None:
    # Not cancellable, and needs not be: `close` ends it, however the block ends.
    await trio.to_thread.run_sync(disk.write_loop, writer, limiter=limiter)


def _open(
    open_writer: Callable[[], sqlite3.Connection], open_reader: Callable[[], sqlite3.Connection]
) -> tuple[sqlite3.Connection, list[sqlite3.Connection]]:
    writer = open_writer()
    readers: list[sqlite3.Connection] = []
    try:
        for _ in range(READERS):
            readers.append(open_reader())
    except BaseException:
        _close(writer, readers)
        raise
    return writer, readers


def _close(writer: sqlite3.Connection, readers: list[sqlite3.Connection]) -> None:
    for reader in readers:
        reader.close()
    with contextlib.suppress(sqlite3.Error):  # a disk that fails here keeps its log, which the next start reads
        database.close_writer(writer)
