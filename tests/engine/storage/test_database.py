"""Opening a database: settings, migrations, what is refused, what its errors become."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from actors._memory import sqlite_bytes
from engine.codec import DecodeError
from engine.errors import OwnError, PeerError
from engine.limits import KIB, MIB
from engine.storage import attachments, catalog, database, hidden, lock, starting, tables, waiting
from engine.storage.changes import PutRun
from engine.storage.faults import UnusableStore
from tests.engine.storage.conftest import NOW, Store


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_settings_of_a_new_database(store: Store) -> None:
    assert pragma(store.reader, "auto_vacuum") == 2  # incremental
    assert pragma(store.reader, "journal_mode") == "wal"
    assert pragma(store.writer, "synchronous") == 2  # full
    assert pragma(store.writer, "foreign_keys") == 1
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.reader.execute("DELETE FROM sessions")


def test_durability_normal(tmp_path: Path) -> None:
    connection = database.open_writer(tmp_path / "g.db", "normal")
    assert pragma(connection, "synchronous") == 1
    database.close_writer(connection)
    assert os.listdir(tmp_path) == ["g.db"]


def test_migrations_are_applied_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    database.close_writer(database.open_writer(path))
    connection = sqlite3.connect(path, isolation_level=None)
    more = (*tables.MIGRATIONS, ("CREATE TABLE later (x)", "INSERT INTO later VALUES (1)"))
    tables.migrate(connection, more)
    tables.migrate(connection, more)
    assert connection.execute("SELECT x FROM later").fetchall() == [(1,)]
    assert pragma(connection, "user_version") == len(more)
    connection.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    database.close_writer(database.open_writer(path))
    connection = sqlite3.connect(path, isolation_level=None)
    before = pragma(connection, "user_version")
    with pytest.raises(sqlite3.OperationalError):
        tables.migrate(connection, (*tables.MIGRATIONS, ("CREATE TABLE later (x)", "nonsense")))
    assert pragma(connection, "user_version") == before
    assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'later'").fetchall()
    connection.close()


def test_a_newer_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    database.close_writer(database.open_writer(path))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UnusableStore, match="newer greenroom"):
        database.open_writer(path)
    assert path.read_bytes() == before


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(UnusableStore, match="another program"):
        database.open_writer(path)


@pytest.mark.parametrize("content", [b"this is text and no database " * 40, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_has_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.db"
    path.write_bytes(content)
    with pytest.raises(UnusableStore, match="damaged or not a database"):
        database.open_writer(path)
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="missing") as raised:
        database.open_writer(tmp_path / "missing" / "g.db")
    assert raised.value.code == "disk_full"


def test_a_full_disk_is_a_peers_fault_that_names_the_directory(store: Store) -> None:
    (pages,) = store.writer.execute("PRAGMA page_count").fetchone()
    store.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(PeerError) as raised, database.translated(store.path):
        store.writer.execute("CREATE TABLE big AS SELECT zeroblob(1000000) AS x")
    assert raised.value.code == "disk_full" and str(store.path.parent) in raised.value.message


def test_a_defect_is_ours_and_text_that_is_no_text_the_senders(store: Store) -> None:
    with pytest.raises(OwnError, match="no such table"), database.translated(store.path):
        store.writer.execute("SELECT 1 FROM nowhere")
    with pytest.raises(DecodeError, match="not Unicode"), database.translated(store.path):
        store.writer.execute("SELECT ?", ("\ud83d",))


def test_a_start_reads_the_open_runs_however_many_have_ended(store: Store) -> None:
    """Counted in SQLite's instructions: a full look at the ended runs takes ten of them for each."""
    store.session()
    store.start()
    ended = attrs.evolve(store.start("2").run, status="completed", ended_at=NOW)
    store.apply(PutRun(ended))

    def start() -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        writer = database.open_writer(store.path)
        writer.set_progress_handler(count, 1)
        writer.execute("BEGIN")
        (settled,) = starting.settle_open_runs(writer, NOW)
        assert settled.id == "run_1"
        assert waiting.sessions(writer) == hidden.every(writer) == attachments.unused(writer, 10) == []
        assert catalog.free_pages(writer) >= 0
        writer.execute("ROLLBACK")
        writer.close()
        return steps

    few = start()
    names = [row[1] for row in store.writer.execute("PRAGMA table_info(runs)") if row[1] not in ("key", "id")]
    columns = ", ".join(names)
    store.writer.executemany(
        f"INSERT INTO runs (id, {columns}) SELECT ?, {columns} FROM runs WHERE id = 'run_2'",
        [(f"run_more_{number}",) for number in range(1000)],
    )
    assert store.count("runs") == 1002
    assert 0 < few <= start() < few + 100


def test_a_held_directory_names_its_holder_and_is_free_after_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom engine.storage import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(lock.Held) as raised, lock.hold(tmp_path):
            pass
        assert raised.value.pid == holder.pid and str(holder.pid) in str(raised.value)
        holder.kill()
        holder.wait()
    with lock.hold(tmp_path):  # the kernel has released it
        assert (tmp_path / lock.FILE_NAME).read_text() == f"{os.getpid()}\n"
    with lock.hold(tmp_path):
        pass


def test_another_program_that_reads_and_ends_leaves_the_log_in_place(store: Store) -> None:
    """The last connection to a database removes the log: ours have to be known to other processes by their locks."""
    beside = [
        sys.executable, "-c",
        "import pathlib, sys\nfrom engine.storage import database\n"
        "connection = database.open_beside(pathlib.Path(sys.argv[1]))\n"
        "print(*sorted(row[0] for row in connection.execute('SELECT id FROM sessions')))\nconnection.close()\n",
        str(store.path),
    ]  # fmt: skip
    for number in range(3):
        store.session(str(number))
        ended = subprocess.run(beside, capture_output=True, text=True, check=True)
        assert ended.stdout.split() == [f"ses_{earlier}" for earlier in range(number + 1)]
        assert os.path.exists(f"{store.path}-wal") and store.count("sessions") == number + 1


def test_a_directory_that_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="missing"), lock.hold(tmp_path / "missing"):
        pass


def test_a_page_cache_is_bounded_and_a_transaction_larger_than_it_is_written_once(tmp_path: Path) -> None:
    writer = database.open_writer(tmp_path / "g.db")
    log = tmp_path / "g.db-wal"
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("CREATE TABLE filler (text BLOB)")
    writer.execute("PRAGMA shrink_memory")
    before, began = sqlite_bytes(), log.stat().st_size
    writer.execute("BEGIN IMMEDIATE")
    for _ in range(24):
        writer.execute("INSERT INTO filler VALUES (zeroblob(65536))")  # 1.5 MiB
    assert log.stat().st_size == began, "nothing is written before the commit"
    writer.execute("COMMIT")
    assert log.stat().st_size - began > 24 * 65_536
    assert 0 < sqlite_bytes() - before < 640 * KIB, "half a MiB of pages is kept"
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO filler VALUES (zeroblob(8388608))")
    assert sqlite_bytes() - before < 3 * MIB, "of what a large one changes 2 MiB are in memory"
    writer.execute("ROLLBACK")
    database.close_writer(writer)
