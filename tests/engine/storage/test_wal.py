"""The log's file stays short: with readers that overlap, and after what was deleted is given back."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.limits import KIB, MIB, Limits
from engine.storage import catalog, database, wal
from engine.storage.wal import Wal

LIMIT = 60.0
SHORT = Limits(log_soft_bytes=MIB, log_hard_bytes=2 * MIB)
WRITTEN = 24 * MIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / database.FILE_NAME


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    connection = database.open_writer(path, "normal")
    connection.execute("CREATE TABLE t (x BLOB)")
    yield connection
    connection.close()


def put(connection: sqlite3.Connection, size: int = 256 * KIB) -> None:
    connection.execute("DELETE FROM t")
    connection.execute("INSERT INTO t VALUES (zeroblob(?))", (size,))


class Relay:
    """Readers that take turns so that one of them always has a transaction, as many short reads together do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = [threading.Event(), threading.Event()]
        self._stop = False
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in (0, 1)]
        self.reads = 0

    def __enter__(self) -> Relay:
        for thread in self._threads:
            thread.start()
        assert self._began[0].wait(LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(LIMIT)

    def _read(self, number: int) -> None:
        connection = database.open_reader(self._path)
        own, other = self._began[number], self._began[1 - number]
        while not self._stop:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM t").fetchone()
            self.reads += 1
            other.clear()
            own.set()
            while not other.wait(0.1) and not self._stop:
                pass
            connection.execute("ROLLBACK")
        connection.close()


def test_readers_that_overlap_do_not_let_the_log_grow(path: Path, writer: sqlite3.Connection) -> None:
    log = Wal(path, SHORT)
    largest = 0
    with Relay(path) as relay:
        for _ in range(WRITTEN // (256 * KIB)):
            put(writer)
            largest = max(largest, log.size())
            log.bound(writer)
    assert relay.reads > 2
    assert MIB < largest <= SHORT.log_hard_bytes + 2 * wal._STEP_BYTES


def test_a_transaction_that_stays_is_waited_for_now_and_then_and_the_log_is_cut_back_after_it(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    real = wal._checkpoint

    def counted(connection: sqlite3.Connection, mode: str, wait_ms: int) -> bool:
        waits.append(wait_ms)
        return real(connection, mode, 1)

    monkeypatch.setattr(wal, "_checkpoint", counted)
    log = Wal(path, SHORT)
    foreign = database.open_reader(path)
    foreign.execute("BEGIN")
    foreign.execute("SELECT * FROM t").fetchall()
    for _ in range(WRITTEN // (256 * KIB)):
        put(writer)
        log.bound(writer)
    assert log.size() > WRITTEN  # nothing else is possible
    assert 1 < len(waits) < 10 and waits[0] < waits[-1]  # once a step, not at each commit
    foreign.close()
    put(writer, 5 * MIB)
    log.bound(writer)
    put(writer)
    assert log.size() <= 8 * MIB
    (usual,) = writer.execute("PRAGMA busy_timeout").fetchone()
    assert usual == 5000


def test_a_large_transaction_leaves_no_large_log(path: Path, writer: sqlite3.Connection) -> None:
    log = Wal(path, SHORT)
    put(writer, 20 * MIB)
    assert log.size() > 20 * MIB
    log.bound(writer)
    assert log.size() == 0


def test_deleting_writes_a_fraction_of_what_is_deleted_and_gives_it_back(
    path: Path, writer: sqlite3.Connection
) -> None:
    log = Wal(path)
    writer.execute("BEGIN")
    for _ in range(100):
        writer.execute("INSERT INTO t VALUES (zeroblob(100000))")
    writer.execute("COMMIT")
    assert log.shorten(writer)
    full = path.stat().st_size
    assert full > 10_000_000
    writer.execute("DELETE FROM t")
    assert log.size() < full // 20
    pages = catalog.free_pages(writer)
    assert catalog.reclaim(writer, 256)
    assert catalog.free_pages(writer) == pages - 256
    while catalog.reclaim(writer, 256):
        pass
    assert catalog.free_pages(writer) == 0
    assert log.shorten(writer) and path.stat().st_size < full // 20
