"""Every state that a crash can leave the files in while something is written, one after another.

A transaction appends frames to the log, and nothing else, as long as no checkpoint is made: so the states within it are
the log cut behind each frame, and within each (a torn write). A checkpoint copies pages from the log into the database
in ascending order, then cuts both: so its states are the database with some of those pages, and the whole log. That is
also what a killed process leaves, since the system keeps what was written before.

`states` gives them as files; `reopened` opens one as a daemon does after a crash.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from engine.storage import attachments, blobs, checking, database, hidden, starting
from engine.storage.blobs import Blobs
from tests.engine.storage.conftest import NOW, Store

PAGE = 4096
LOG_HEADER = 32
FRAME_HEADER = 24
FRAME = FRAME_HEADER + PAGE


@attrs.frozen
class Files:
    """What is on the disk: the database, its log, and the blobs by their names."""

    database: bytes
    log: bytes
    blobs: dict[str, bytes] = attrs.field(repr=False)

    @classmethod
    def of(cls, folder: Path) -> Files:
        # This releases the locks of this process's connections (see database._opening): nobody else is here.
        store = folder / blobs.FOLDER_NAME
        found = {path.name: path.read_bytes() for path in store.iterdir()} if store.exists() else {}
        return cls(_read(folder / database.FILE_NAME), _read(folder / f"{database.FILE_NAME}-wal"), found)

    def write(self, folder: Path) -> None:
        """Nothing else stays in the folder, which may have been written before."""
        store = folder / blobs.FOLDER_NAME
        store.mkdir(parents=True, exist_ok=True)
        for path in (*folder.glob(f"{database.FILE_NAME}*"), *store.iterdir()):
            path.unlink()
        (folder / database.FILE_NAME).write_bytes(self.database)
        if self.log:
            (folder / f"{database.FILE_NAME}-wal").write_bytes(self.log)
        for name, content in self.blobs.items():
            (folder / blobs.FOLDER_NAME / name).write_bytes(content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def without_checkpoints(connection: sqlite3.Connection) -> None:
    """From here on the log has all, from its beginning."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()


def states(before: Files, after: Files) -> Iterator[Files]:
    """What a crash can leave between two moments between which transactions were committed, or files changed."""
    assert before.database == after.database, "nothing but the log was written"
    if before.blobs != after.blobs:
        assert before.log == after.log, "one at a time"
        yield from (attrs.evolve(before, blobs=found) for found in _between(before.blobs, after.blobs))
        return
    old, new = before.log, after.log
    for cut in _cuts(len(new)):
        # A log that was begun anew is written over the old one.
        log = new[:cut] + old[cut:]
        if log not in (old, new):
            yield attrs.evolve(before, log=log)
    yield after


def _cuts(size: int) -> Iterator[int]:
    yield from (0, 8, LOG_HEADER)
    for frame in range(LOG_HEADER, size, FRAME):
        yield from (frame + FRAME_HEADER + PAGE // 2, frame + FRAME)


def _between(old: dict[str, bytes], new: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Files appear and go one by one; one that is being made has a name of its own."""
    current = dict(old)
    for name in sorted(old.keys() - new.keys()):
        del current[name]
        yield dict(current)
    for name in sorted(new.keys() - old.keys()):
        yield {**current, ".new-half": new[name][: len(new[name]) // 2]}
        current[name] = new[name]
        yield dict(current)


def checkpoint_states(files: Files) -> Iterator[Files]:
    """What a crash can leave while the whole log is folded into the database and emptied."""
    pages: dict[int, bytes] = {}
    pending: dict[int, bytes] = {}
    count = 0
    for at in range(LOG_HEADER, len(files.log), FRAME):
        number = int.from_bytes(files.log[at : at + 4], "big")
        pending[number] = files.log[at + FRAME_HEADER : at + FRAME]
        commit = int.from_bytes(files.log[at + 4 : at + 8], "big")
        if commit:
            pages |= pending
            pending.clear()
            count = commit
    assert not pending and count, "the log ends with a commit"
    content = bytearray(files.database)
    for number in sorted(page for page in pages if page <= count):
        begin = (number - 1) * PAGE
        if len(content) < begin:
            content.extend(bytes(begin - len(content)))
        content[begin : begin + PAGE] = pages[number][: PAGE // 2] + content[begin + PAGE // 2 : begin + PAGE]
        yield attrs.evolve(files, database=bytes(content))  # torn: the log still has the page
        content[begin : begin + PAGE] = pages[number]
        yield attrs.evolve(files, database=bytes(content))
    whole = bytes(content[: count * PAGE])
    yield attrs.evolve(files, database=whole)
    yield attrs.evolve(files, database=whole, log=b"")


@contextlib.contextmanager
def reopened(files: Files, folder: Path) -> Iterator[Store]:
    """The store after the start of a daemon on these files: what was left half done is removed, and the check finds
    nothing wrong and nothing left over."""
    files.write(folder)
    path = folder / database.FILE_NAME
    writer = database.open_writer(path, "normal")
    reader = database.open_reader(path)
    writer.execute("PRAGMA synchronous = OFF")  # these files are looked at and thrown away
    try:
        recover(writer, Blobs(folder / blobs.FOLDER_NAME))
        found = list(checking.check(reader, folder, live=False, progress=lambda *_: None))
        assert found == [], found
        yield Store(path, writer, reader)
    finally:
        reader.close()
        writer.close()


def recover(writer: sqlite3.Connection, store: Blobs) -> None:
    """As a daemon does at its start (actors/store.py and actors/blobs.py do it with pauses)."""
    starting.settle_open_runs(writer, NOW)
    for key in hidden.every(writer):
        while hidden.purge(writer, key):
            pass
    gone = [*attachments.unused(writer, 1000), *attachments.unknown(writer, list(store.names()))]
    store.remove(gone)
    attachments.forget(writer, gone)


def walk(store: Store, steps: Iterator[None], look: Callable[[Files], None]) -> tuple[Files, Files]:
    """Do the steps, each of which is one transaction or a change of files, and look at every state on the way; the
    files before and after."""
    folder = store.path.parent
    without_checkpoints(store.writer)
    first = current = Files.of(folder)
    while True:
        store.writer.execute("BEGIN IMMEDIATE")
        more = next(steps, StopIteration)
        store.writer.execute("COMMIT")
        after = Files.of(folder)
        if after != current:
            for state in states(current, after):
                look(state)
        current = after
        if more is StopIteration:
            return first, current
