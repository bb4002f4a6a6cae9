"""A copy of what a data directory stores, as one moment of it, while a daemon may be at work on it.

The database is copied page by page from one state of it; the daemon goes on writing meanwhile, and its log keeps what
it writes until the copy is made. Blobs never change, so that a copy of one is another name of the same file where the
file system allows it, and of its own else. The target appears complete, under its name, or not at all: until then it
is a folder beside it that begins with `.`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from engine.errors import OwnError, PeerError
from engine.limits import MIB
from engine.storage import blobs, database

# Of the database, copied at a time: progress is told between two.
_PAGES: Final = MIB // 4096
_COPIED_AT_ONCE: Final = MIB
# Blobs that went between the listing of the files and the copy of the database are not in the database either when
# it is copied once more.
_ATTEMPTS: Final = 3

Progress = Callable[[str, int, int], None]  # what is copied, how much of it is, of how much


class TargetTaken(Exception):
    """The target of a backup is there already, and not an empty folder."""


@attrs.frozen(slots=True, kw_only=True)
class Backup:
    """What was copied, sizes in bytes."""

    database_bytes: int
    blobs: int
    blob_bytes: int


def make(folder: Path, target: Path, progress: Progress) -> Backup:
    """Copy the data directory `folder` to `target`, which is not there or an empty folder.

    What is copied is the database and its blobs: a data directory of its own, without a token. It is on the disk when
    this returns. Raises TargetTaken, UnusableStore for what cannot be copied, PeerError disk_full for a target that
    cannot be written; then, and if it is interrupted, there is no target.
    """
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise TargetTaken(f"{target} is there already")
    source = database.open_beside(folder / database.FILE_NAME, current=False)
    try:
        with _written(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            making = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))  # 0700
            try:
                made = _fill(source, folder, making, progress)
                _sync(making)
                os.rename(making, target)
                _sync(target.parent)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
        return made
    finally:
        source.close()


def _fill(source: sqlite3.Connection, folder: Path, making: Path, progress: Progress) -> Backup:
    path, store, copies = making / database.FILE_NAME, folder / blobs.FOLDER_NAME, making / blobs.FOLDER_NAME
    # Before the database: what it refers to is there then, even if it is removed while the database is copied.
    for name in _names(store):
        with contextlib.suppress(FileNotFoundError):
            _take(store / name, copies / name)
    for _ in range(_ATTEMPTS):
        _copy_database(source, path, progress)
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
            try:
                count, size = _complete(copy, store, copies, progress)
            except FileNotFoundError:
                continue
        return Backup(database_bytes=path.stat().st_size, blobs=count, blob_bytes=size)
    raise OwnError("internal", "blobs that the database refers to are missing: `greenroom store check` names them")


def _copy_database(source: sqlite3.Connection, path: Path, progress: Progress) -> None:
    """The state that the database has now, in steps."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # With a transaction open the copy stays with its state; without, it would begin anew with each commit of a daemon.
    source.execute("BEGIN")
    try:
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            with database.translated(path), database.interruptible(source):
                source.backup(copy, pages=_PAGES, progress=lambda _, left, all: progress("database", all - left, all))
        finally:
            copy.close()
    finally:
        source.execute("ROLLBACK")
    _sync(path)


def _complete(copy: sqlite3.Connection, store: Path, copies: Path, progress: Progress) -> tuple[int, int]:
    """Copy the blobs that the copied database refers to and that are not there yet, and remove those that it does not
    know; how many there are, and their bytes. Raises FileNotFoundError if one has gone."""
    if not copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'blobs'").fetchone():
        return 0, 0  # of a version that had none
    total, size = copy.execute("SELECT count(*), coalesce(sum(size), 0) FROM blobs WHERE uses").fetchone()
    for number, (digest,) in enumerate(copy.execute("SELECT hash FROM blobs WHERE uses"), 1):
        if not (copies / digest).exists():
            _take(store / digest, copies / digest)
        progress("blobs", number, total)
    for name in _names(copies):
        if not copy.execute("SELECT 1 FROM blobs WHERE hash = ? AND uses", (name,)).fetchone():
            (copies / name).unlink()
    if copies.exists():
        _sync(copies)
    return total, size


def _names(folder: Path) -> Iterator[str]:
    if folder.exists():
        with os.scandir(folder) as entries:
            for entry in entries:
                if blobs.is_name(entry.name):
                    yield entry.name


def _take(path: Path, copy: Path) -> None:
    """Give the file another name, or copy it. Raises FileNotFoundError if it has gone."""
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        os.link(path, copy, follow_symlinks=False)
        return
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without links, or too many of them
        pass
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            while data := os.read(source, _COPIED_AT_ONCE):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(source)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise PeerError("disk_full", f"{target} cannot be written: {exc.strerror or exc}") from exc
