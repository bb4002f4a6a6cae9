"""The whole database written anew, without gaps: smaller and in order. For a data directory that no daemon holds."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from engine.storage import database, tables
from engine.storage.faults import UnusableStore


def vacuum(folder: Path) -> tuple[int, int]:
    """Bytes of the database before and after. The directory is locked by the caller. Needs about as much space again
    while it works; interrupted or failed, the database is as it was.

    Raises UnusableStore, PeerError disk_full.
    """
    path = folder / database.FILE_NAME
    if not path.exists():
        raise UnusableStore(f"no store is in {folder}")
    with database.translated(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables.check(connection)
        _fold(connection)
        before = path.stat().st_size
        with database.interruptible(connection):
            connection.execute("VACUUM")
        _fold(connection)
        return before, path.stat().st_size


def _fold(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
