"""A backup: one moment of what is stored, complete or not there, while a writer is at work."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OwnError, PeerError
from engine.storage import backup, blobs, checking, database, lock, vacuum
from engine.storage.blobs import Blobs
from engine.storage.changes import AddMessage, AddPart, FinishMessage
from engine.storage.faults import UnusableStore
from engine.transcript.records import AssistantMessage, FilePart, TextPart
from tests.engine.storage.conftest import NOW, Store

LIMIT = 60.0


def quiet(what: str, done: int, of: int) -> None:
    assert 0 <= done <= of


def add(store: Store, number: int, data: bytes | None = None, session: str = "ses_1") -> str | None:
    """An answer with a text and, if given, a blob; the blob's hash."""
    answer = AssistantMessage(id=f"msg_{number}", created_at=NOW, finish="stop", finished_at=NOW)
    changes: list[Any] = [AddMessage(answer), AddPart(answer.id, TextPart(id=f"prt_{number}", text="t" * 5000))]
    digest = None
    if data is not None:
        digest = hashlib.sha256(data).hexdigest()
        Blobs(store.path.parent / blobs.FOLDER_NAME).add(digest, data)
        file = FilePart(id=f"prt_f{number}", mime="a/b", size=len(data), handle=f"out_{number}", hash=digest)
        changes.append(AddPart(answer.id, file))
    store.writer.execute("BEGIN")
    store.apply(*changes, FinishMessage(answer), session=session)
    store.writer.execute("COMMIT")
    return digest


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in tables}


def problems(folder: Path) -> list[checking.Finding]:
    with contextlib.closing(database.open_beside(folder / database.FILE_NAME)) as connection:
        return list(checking.check(connection, folder, live=False, progress=lambda *_: None))


def test_a_copy_has_all_of_it_and_is_a_data_directory(store: Store, tmp_path: Path) -> None:
    store.session()
    digests = {add(store, number, b"%d" % number * 1000) for number in range(5)}
    (tmp_path / blobs.FOLDER_NAME / ("0" * 64)).write_bytes(b"of nobody")
    (tmp_path / "token").write_text("secret")
    target = tmp_path / "copies" / "one"
    steps: list[str] = []
    made = backup.make(tmp_path, target, lambda what, done, of: steps.append(what))
    assert sorted(os.listdir(target)) == ["blobs", "greenroom.db"]
    assert set(os.listdir(target / "blobs")) == digests
    assert (made.blobs, made.blob_bytes) == (5, 5000)
    assert made.database_bytes == (target / "greenroom.db").stat().st_size > 4096
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert stat.S_IMODE((target / "greenroom.db").stat().st_mode) == 0o600
    assert set(steps) == {"database", "blobs"}
    assert contents(target / "greenroom.db") == contents(store.path)
    assert problems(target) == []
    writer = database.open_writer(target / "greenroom.db")  # it goes on from there, and gives space back
    assert writer.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close_writer(writer)
    assert os.listdir(tmp_path / "copies") == ["one"]


def test_a_copy_beside_a_writer_is_one_moment(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are made and deleted while it is copied in the smallest steps: each that is in the copy is whole."""
    monkeypatch.setattr(backup, "_PAGES", 4)
    store.session()
    for number in range(60):
        add(store, number, b"blob %d" % number)
    (position,) = store.writer.execute("SELECT count(*) FROM messages").fetchone()
    copying, stop = threading.Event(), threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        assert copying.wait(LIMIT)
        while not stop.is_set() and written < 2000:
            number = 1000 + written
            if written % 10 == 9:
                store.writer.execute("DELETE FROM messages WHERE position = ?", (written // 10 + 1,))
                store.writer.execute("UPDATE sessions SET message_count = (SELECT count(*) FROM messages)")
            add(store, number, b"blob %d" % number)
            written += 1

    def progress(what: str, done: int, of: int) -> None:
        if what == "database":
            if not copying.is_set():
                copying.set()
            seen = written
            for _ in range(1000):  # something is written between any two steps
                if written > seen or not writer.is_alive():
                    break
                stop.wait(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    backup.make(tmp_path, tmp_path / "copy", progress)
    stop.set()
    writer.join(LIMIT)
    assert written > 10
    assert problems(tmp_path / "copy") == []
    with contextlib.closing(sqlite3.connect(tmp_path / "copy" / "greenroom.db")) as copy:
        ids = [name for (name,) in copy.execute("SELECT id FROM messages ORDER BY position")]
    assert ids == [f"msg_{number}" for number in range(position)]  # of the moment when it began
    assert problems(tmp_path) == []


def test_a_blob_that_goes_meanwhile_is_no_part_of_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made after the files were listed, deleted after the database was copied: it is copied once more."""
    store.session()
    store.session("2")
    add(store, 1, b"stays")
    real, copies = backup._copy_database, 0

    def copy(source: sqlite3.Connection, path: Path, progress: backup.Progress) -> None:
        nonlocal copies
        copies += 1
        digest = add(store, 2, b"goes", "ses_2") if copies == 1 else None
        real(source, path, progress)
        if digest is not None:
            store.writer.execute("DELETE FROM sessions WHERE id = 'ses_2'")
            Blobs(tmp_path / blobs.FOLDER_NAME).remove([digest])

    monkeypatch.setattr(backup, "_copy_database", copy)
    made = backup.make(tmp_path, tmp_path / "copy", quiet)
    assert copies == 2 and made.blobs == 1
    assert problems(tmp_path / "copy") == []


def test_a_missing_blob_is_an_error_and_no_target(store: Store, tmp_path: Path) -> None:
    store.session()
    digest = add(store, 1, b"lost")
    assert digest is not None
    Blobs(tmp_path / blobs.FOLDER_NAME).remove([digest])
    with pytest.raises(OwnError, match="store check"):
        backup.make(tmp_path, tmp_path / "copies" / "x", quiet)
    assert os.listdir(tmp_path / "copies") == []


def test_another_file_system_gets_copies(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another one")

    store.session()
    digest = add(store, 1, os.urandom(3_000_000))
    monkeypatch.setattr(os, "link", link)
    backup.make(tmp_path, tmp_path / "copy", quiet)
    path = tmp_path / "copy" / "blobs" / str(digest)
    assert path.stat().st_nlink == 1 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert problems(tmp_path / "copy") == []


def test_a_target_that_is_there_is_left_alone(store: Store, tmp_path: Path) -> None:
    store.session()
    (tmp_path / "empty").mkdir()
    backup.make(tmp_path, tmp_path / "empty", quiet)
    before = contents(tmp_path / "empty" / "greenroom.db")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(backup.TargetTaken, match=name):
            backup.make(tmp_path, tmp_path / name, quiet)
    assert contents(tmp_path / "empty" / "greenroom.db") == before
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_no_target(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.session()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PeerError, match="copies/x cannot be written: No space left") as raised:
        backup.make(tmp_path, tmp_path / "copies" / "x", quiet)
    assert raised.value.code == "disk_full" and os.listdir(tmp_path / "copies") == []


def test_an_old_version_is_copied_as_it_is_and_a_newer_one_refused(store: Store, tmp_path: Path) -> None:
    store.writer.execute("PRAGMA user_version = 1")
    store.writer.execute("DROP TABLE attachments")
    store.writer.execute("DROP TABLE blobs")
    assert backup.make(tmp_path, tmp_path / "old", quiet).blobs == 0
    store.writer.execute("PRAGMA user_version = 99")
    with pytest.raises(UnusableStore, match="newer greenroom"):
        backup.make(tmp_path, tmp_path / "new", quiet)
    assert not (tmp_path / "new").exists()


def test_a_signal_ends_it_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.session()
    for number in range(300):
        add(store, number)

    def interrupt(what: str, done: int, of: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        backup.make(tmp_path, tmp_path / "copies" / "x", interrupt)
    assert os.listdir(tmp_path / "copies") == []


# ------------------------------------------------------------------ vacuum
def copied(folder: Path) -> tuple[Path, Path]:
    """A data directory that nobody has open, and its database."""
    backup.make(folder, folder / "copy", quiet)
    return folder / "copy", folder / "copy" / database.FILE_NAME


def test_a_vacuum_leaves_no_gaps(store: Store, tmp_path: Path) -> None:
    store.session()
    store.session("2")
    for number in range(200):
        add(store, number, session=f"ses_{number % 2 + 1}")
    store.writer.execute("DELETE FROM sessions WHERE id = 'ses_2'")
    folder, path = copied(tmp_path)
    before = contents(path)
    with lock.hold(folder):
        large, small = vacuum.vacuum(folder)
    assert large > 1.5 * small and small == path.stat().st_size
    assert contents(path) == before and problems(folder) == []
    assert sorted(os.listdir(folder)) == ["greenroom.db", "lock"]


def test_a_vacuum_can_be_interrupted(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.session()
    for number in range(300):
        add(store, number)
    folder, path = copied(tmp_path)
    before = contents(path)
    calls = 0

    def look() -> None:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(database, "_STEPS", 100)
        patched.setattr(database, "_let_signals_in", look)
        with pytest.raises(KeyboardInterrupt):
            vacuum.vacuum(folder)
    assert calls and contents(path) == before and problems(folder) == []


def test_there_is_nothing_to_vacuum(tmp_path: Path) -> None:
    with pytest.raises(UnusableStore, match="no store"):
        vacuum.vacuum(tmp_path)
    assert os.listdir(tmp_path) == []
