"""What storing costs: how files grow, what is physically written, when space comes back, and what readers see.

    python scripts/bench_storage.py [--quick] [--json]

Everything goes through production code: a daemon with a model service (tests/model_server.py), an import, the
store's disk. Measured:

- one answer streamed in single-token deltas through a daemon: by how much the database grows until it is folded,
  checkpointed and vacuumed, and the bytes that the process had physically written (/proc/PID/io), also a second of a
  stream of 20 deltas a second; beside it, on a database of their own with the same settings, the two naive ways: a row
  a delta, and the whole text written anew with each commit
- a large session with a blob is deleted: seconds until the files are as small as before it came
- ten readers that hold transactions while as much is written as goes: none may see a lock, and the log stays short;
  beside it SQLite's own checkpoints alone

Bytes are judged always, seconds too: the bounds are wide. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Client, Daemon, Findings, model_server, say

from actors._disk import open_disk
from engine.limits import DEFAULT, GIB, KIB, MIB, Limits
from engine.storage import database
from engine.storage.blobs import FOLDER_NAME, Blobs
from engine.storage.importing import Import
from engine.storage.wal import Wal
from tests.session_files import session_lines

GROWTH_MOST = 1.25  # of the final text
WRITTEN_MOST = 10.0  # times the final text
RETURN_SECONDS = 60.0
LOG_MOST = 64 * MIB
TOKEN = "word"
SLOW_RATE, SLOW_SECONDS = 20, 3  # a stream that people read: its commits come by time, not by size
READERS = 10
PATIENCE = 120.0  # seconds for one measure
_LOOK = 0.02


@attrs.frozen
class Size:
    streamed: int  # bytes of the answer
    deleted: int  # bytes of the session that is deleted, a quarter of it in a blob
    written: int  # bytes that are written beside the readers


FULL = Size(streamed=MIB, deleted=128 * MIB, written=256 * MIB)
QUICK = Size(streamed=MIB // 4, deleted=24 * MIB, written=40 * MIB)


def physically_written(pid: int | str = "self") -> int:
    """Bytes that the process has caused to be sent to the disk so far."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise RuntimeError("no write_bytes in /proc")


def stored(folder: Path) -> int:
    """Bytes of the database, its log and the blobs."""
    files = [*folder.glob(f"{database.FILE_NAME}*"), *(folder / FOLDER_NAME).glob("*")]
    total = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if not path.name.endswith("-shm") else 0
    return total


# ------------------------------------------------------------ an answer in single tokens
async def measure_stream(daemon: Daemon, size: int) -> dict[str, float]:
    """Of a daemon without any load."""
    async with daemon.connect() as client:
        await complete(client, "!stream n=1")
        data = daemon.folder / "data"
        before = await settled(client, data)
        written = physically_written(daemon.process.pid)
        began = time.monotonic()
        await complete(client, f"!stream n={size // len(TOKEN)} text={TOKEN}")
        seconds = time.monotonic() - began
        written = physically_written(daemon.process.pid) - written
        files = stored(data)
        after = await settled(client, data)
        moments = [physically_written(daemon.process.pid)]
        for text in ("!stream n=1", f"!stream n={SLOW_RATE * SLOW_SECONDS} rate={SLOW_RATE} text={TOKEN}"):
            await complete(client, text)
            moments.append(physically_written(daemon.process.pid))
    short, slow = moments[1] - moments[0], moments[2] - moments[1]
    return {
        "text_bytes": size,
        "seconds": round(seconds, 1),
        "growth": round((after - before) / size, 3),
        "growth_with_log": round((files - before) / size, 2),
        "written": round(written / size, 2),
        "run_of_one_token_kib": round(short / KIB),  # its session's making included
        "slow_kib_per_second": round((slow - short) / SLOW_SECONDS / KIB, 1),
    }


async def complete(client: Client, text: str) -> str:
    """A run to its end in a session of its own; the session's id."""
    session: str = (await client.request("session.create"))["session"]["id"]
    await client.request("run.start", session_id=session, text=text, watch=True)
    while (push := await client.push())["method"] != "watch.closed":
        pass
    assert push["params"]["status"] == "completed", push
    return session


async def settled(client: Client, folder: Path) -> int:
    """Bytes stored when free pages were given back and the log was folded: the daemon does so when a session was
    deleted."""
    session = (await client.request("session.create"))["session"]["id"]
    await client.request("session.delete", session_id=session)
    with trio.fail_after(PATIENCE):
        while True:
            with contextlib.closing(database.open_beside(folder / database.FILE_NAME)) as connection:
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            if not free and not Wal(folder / database.FILE_NAME).size():
                return stored(folder)
            await trio.sleep(_LOOK)
            if not free:  # nothing was to be given back: then the log is folded by nobody's hand
                with contextlib.closing(sqlite3.connect(folder / database.FILE_NAME)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


# ------------------------------------------------------------ the same in naive ways
def naive(
    folder: Path, size: int, store: Callable[[sqlite3.Connection, str, int], None], fold: str
) -> dict[str, float]:
    """The same deltas and commits on a database with the same settings, stored by another function."""
    path = folder / "naive.db"
    connection = database.open_writer(path)
    connection.execute("CREATE TABLE texts (key INTEGER PRIMARY KEY, text BLOB)")
    connection.execute("CREATE TABLE deltas (key INTEGER PRIMARY KEY, text BLOB)")
    connection.execute("INSERT INTO texts VALUES (1, x'')")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before, written = path.stat().st_size, physically_written()
    per_commit = DEFAULT.chunk_bytes // len(TOKEN)
    for number in range(size // DEFAULT.chunk_bytes):
        connection.execute("BEGIN")
        store(connection, TOKEN, per_commit)
        connection.execute("COMMIT")
        if number % 64 == 0:
            say(f"  {number * DEFAULT.chunk_bytes // KIB} of {size // KIB} KiB")
    connection.execute(fold)
    grown = path.stat().st_size - before
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    grown = max(grown, path.stat().st_size - before)
    written = physically_written() - written
    connection.close()
    path.unlink()
    return {"growth": round(grown / size, 2), "written": round(written / size, 2)}


def row_per_delta(connection: sqlite3.Connection, token: str, count: int) -> None:
    connection.executemany("INSERT INTO deltas (text) VALUES (?)", [(token.encode(),)] * count)


def whole_text(connection: sqlite3.Connection, token: str, count: int) -> None:
    connection.execute("UPDATE texts SET text = CAST(text || ? AS BLOB)", (token.encode() * count,))


# ------------------------------------------------------------ space comes back
async def measure_deletion(daemon: Daemon, session: str, before: int) -> dict[str, float]:
    """Seconds from the request until the files are as small as they were, but for a few pages; the longest log."""
    data = daemon.folder / "data"
    log = Wal(data / database.FILE_NAME)
    full, longest = stored(data), 0
    written = physically_written(daemon.process.pid)
    answered = 0.0
    began = time.monotonic()

    async def delete() -> None:
        nonlocal answered
        async with daemon.connect() as client:
            await client.request("session.delete", session_id=session)
        answered = time.monotonic() - began

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete)
            while not answered or stored(data) > before + MIB:
                longest = max(longest, log.size())
                await trio.sleep(_LOOK)
    return {
        "stored_mb": round(full / MIB, 1),
        "left_mb": round((stored(data) - before) / MIB, 2),
        "answered_seconds": round(answered, 2),
        "seconds": round(time.monotonic() - began, 2),
        "log_mb": round(longest / MIB, 1),
        "written_share": round((physically_written(daemon.process.pid) - written) / full, 2),
    }


def imported(folder: Path, size: int) -> tuple[str, int]:
    """A session of so many bytes in a new data directory; its id, and what was stored before."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    path = data / database.FILE_NAME
    connection = database.open_writer(path)
    before = path.stat().st_size
    lines = io.BufferedReader(LineFile(session_lines(messages=size * 3 // 4 // 32_000, text=32_000, blob=size // 4)))
    importing = Import(connection, Blobs(data / FOLDER_NAME), Wal(path), DEFAULT)
    try:
        session = importing.run(lines, time.time_ns() // 1_000_000, lambda what, done, of: None)
    finally:
        database.close_writer(connection)
    return session.id, before


class LineFile(io.RawIOBase):
    """Lines that are made when they are read."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines, self._rest = lines, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._lines, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


# ------------------------------------------------------------ readers under a writer
class Readers:
    """Threads with a connection each that read in transactions one after another, each as long as a slow page."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(n,)) for n in range(READERS)]
        self.reads = 0
        self.errors: list[str] = []

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, number: int) -> None:
        connection = database.open_reader(self._path)
        while not self._stop.is_set():
            try:
                connection.execute("BEGIN")
                (first,) = connection.execute("SELECT count(*) FROM written").fetchone()
                self._stop.wait(0.005 + 0.002 * number)  # out of step: one of them is always in the middle
                (second,) = connection.execute("SELECT count(*) FROM written").fetchone()
                connection.execute("ROLLBACK")
                if first != second:
                    self.errors.append("a transaction saw two states")
                self.reads += 1
            except sqlite3.Error as exc:
                self.errors.append(str(exc))
                return
        connection.close()


async def measure_readers(folder: Path, size: int, limits: Limits) -> dict[str, Any]:
    path = folder / database.FILE_NAME
    disk = await open_disk(path, durability="normal", limits=limits)
    log, longest, waited = Wal(path), 0, 0.0
    row = os.urandom(64 * KIB)

    def put(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO written VALUES (?)", (row,))
        # As long as sessions that come and go: the database itself stays small.
        connection.execute("DELETE FROM written WHERE rowid <= (SELECT max(rowid) FROM written) - 64")

    try:
        await disk.write(lambda connection: connection.execute("CREATE TABLE written (data BLOB)").close())
        began = time.monotonic()
        with Readers(path) as readers:
            for number in range(size // len(row)):
                before = time.monotonic()
                await disk.write(put)
                waited = max(waited, time.monotonic() - before)
                longest = max(longest, log.size())
                if number % 512 == 0:
                    say(f"  {number * len(row) // MIB} of {size // MIB} MiB, the log {longest / MIB:.1f} MiB")
        seconds = time.monotonic() - began
    finally:
        await disk.aclose()
    return {
        "written_mb": size // MIB,
        "log_mb": round(longest / MIB, 1),
        "reads": readers.reads,
        "errors": readers.errors[:5],
        "longest_write_ms": round(waited * 1000),
        "mb_per_second": round(size / MIB / seconds, 1),
    }


# ------------------------------------------------------------ all of them
def bench(models: Any, size: Size, findings: Findings, *, quick: bool) -> None:
    def with_daemon(folder: str, what: Callable[..., Any], *arguments: Any) -> Any:
        daemon = Daemon(models.url, Path(folder), settle=0.2)
        try:
            result = trio.run(what, daemon, *arguments)
            assert not daemon.errors(), daemon.errors()[:5]
            return result
        finally:
            daemon.stop()

    temporary = tempfile.TemporaryDirectory
    say("an answer in single-token deltas")
    with temporary(prefix="bench-storage-") as folder:
        found = with_daemon(folder, measure_stream, size.streamed)
        findings.note("stream", found, "", "an answer in single-token deltas")
        growth, written, most = found["growth"], found["written"], WRITTEN_MOST
        findings.hold("growth", growth, growth <= GROWTH_MOST, "×", f"growth of the files by its text ≤ {GROWTH_MOST}")
        if quick:  # the slower the machine, the more commits come by time: each second has those of a slow stream
            most = round(most + found["seconds"] * found["slow_kib_per_second"] * KIB / size.streamed, 1)
        findings.hold("written", written, written <= most, "×", f"physically written ≤ {most:g}")
    ways = {
        "row_per_delta": (row_per_delta, "UPDATE texts SET text = (SELECT group_concat(text, '') FROM deltas)"),
        "whole_text": (whole_text, "SELECT 1"),
    }
    for name, (store, fold) in ways.items():
        say(f"the naive way: {name}")
        with temporary(prefix="bench-storage-") as folder:
            findings.note(f"naive_{name}", naive(Path(folder), size.streamed, store, fold), "", f"naive: {name}")

    say("a large session is deleted")
    with temporary(prefix="bench-storage-") as folder:
        session, before = imported(Path(folder), size.deleted)
        found = with_daemon(folder, measure_deletion, session, before)
        findings.note("deletion", found, "", "a session is deleted")
        seconds = found["seconds"]
        what = f"until its space is back ≤ {RETURN_SECONDS:g}"
        findings.hold("deletion_seconds", seconds, seconds <= RETURN_SECONDS, "s", what)
        hold_log(findings, "deletion_log_mb", found["log_mb"], "the log meanwhile")

    say("ten readers under a writer")
    with temporary(prefix="bench-storage-") as folder:
        found = trio.run(measure_readers, Path(folder), size.written, DEFAULT)
    findings.note("readers", found, "", "ten readers under a writer")
    findings.hold("readers_errors", len(found["errors"]), not found["errors"], "", "readers that saw a lock = 0")
    hold_log(findings, "readers_log_mb", found["log_mb"], "the log under ten readers")
    say("the same with SQLite's own checkpoints alone")
    with temporary(prefix="bench-storage-") as folder:
        unbounded = Limits(log_soft_bytes=GIB * KIB, log_hard_bytes=GIB * KIB)
        found = trio.run(measure_readers, Path(folder), size.written, unbounded)
    findings.note("naive_readers", found, "", "naive: SQLite's own checkpoints")


def hold_log(findings: Findings, key: str, megabytes: float, what: str) -> None:
    findings.hold(key, megabytes, megabytes <= LOG_MOST // MIB, "MiB", f"{what} ≤ {LOG_MOST // MIB}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything; the bounds stay")
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    asked = parser.parse_args()
    findings = Findings("storage", asked.quick)
    with model_server() as models:
        bench(models, QUICK if asked.quick else FULL, findings, quick=asked.quick)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
