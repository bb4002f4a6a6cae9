"""The schema that rows, sessions, journal, runs and transcript use, and how its connections are opened.

Rebuilt from the queries of those modules: the first text of this file was overwritten by mistake.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final, Literal

from engine.errors import OwnError, PeerError

FILE_NAME: Final = "greenroom.db"
_BUSY_SECONDS: Final = 5.0

_FIRST: Final = (
    """create table sessions (
        id integer primary key, session_id text not null unique, title text not null, model text not null,
        instructions text, cwd text not null, toolsets text not null, metadata text not null, parent_id text,
        revision integer not null, changed integer not null unique, message_count integer not null,
        usage text not null, created_at integer not null, updated_at integer not null)""",
    """create table messages (
        id integer primary key, session integer not null references sessions (id) on delete cascade,
        place integer not null, message_id text not null unique, role text not null, run_id text,
        info text not null, unique (session, place))""",
    "create index messages_of_run on messages (run_id)",
    """create table parts (
        id integer primary key, message integer not null references messages (id) on delete cascade,
        place integer not null, part_id text not null unique, kind text not null, body text not null, text text,
        open integer not null, unique (message, place))""",
    """create table chunks (
        id integer primary key, part integer not null references parts (id) on delete cascade, text text not null)""",
    "create index chunks_of_part on chunks (part, id)",
    """create table runs (
        id integer primary key, session integer not null references sessions (id) on delete cascade,
        run_id text not null unique, status text not null, active integer not null, message_id text not null,
        record text not null, seq_reserved integer not null)""",
    "create index runs_of_session on runs (session, id)",
    "create index runs_active on runs (id) where active = 1",
    """create table idempotency (
        method text not null, key text not null, digest text not null, result text not null,
        created_at integer not null, primary key (method, key)) without rowid""",
)
MIGRATIONS: Final = (_FIRST,)


def open_writer(folder: Path, durability: Literal["full", "normal"] = "full") -> sqlite3.Connection:
    """The writing connection, the schema brought up to date. Raises PeerError disk_full, OwnError."""
    path = folder / FILE_NAME
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(path)
        try:
            connection.execute("pragma auto_vacuum = incremental")
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {durability}")
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as exc:
        raise PeerError("disk_full", f"the database in {folder} cannot be used: {exc}") from exc
    return connection


def open_reader(folder: Path) -> sqlite3.Connection:
    """A connection that only reads; the writer has been opened before."""
    connection = _connect(folder / FILE_NAME)
    connection.execute("pragma query_only = on")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)
    connection.execute("pragma foreign_keys = on")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("pragma user_version").fetchone()
    if version > len(MIGRATIONS):
        raise OwnError("internal", f"the database is of a newer greenroom (schema {version})")
    for index in range(version, len(MIGRATIONS)):
        connection.execute("begin immediate")
        for statement in MIGRATIONS[index]:
            connection.execute(statement)
        connection.execute(f"pragma user_version = {index + 1}")
        connection.execute("commit")
