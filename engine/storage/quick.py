"""A short look at a database that a daemon may be at work on: its schema, and whether its pages are whole.

Only a part of `checking.check`: a reader that stays keeps the daemon's log from being folded, so this one is ended when
`give_up` says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import attrs

from engine.storage.database import open_beside, translated
from engine.storage.tables import MIGRATIONS

# SQLite's instructions between two questions whether to give up: well below a millisecond.
_STEPS: Final = 20_000
# Problems that are told: one is enough to look closer.
_PROBLEMS: Final = 3


@attrs.frozen(slots=True, kw_only=True)
class Look:
    """`schema` is what the file has, `newest` what this program makes of it. `problems` is None if the look was given
    up before its end."""

    schema: int
    newest: int
    problems: tuple[str, ...] | None


def sqlite_version() -> tuple[int, int, int]:
    return sqlite3.sqlite_version_info


def look(path: Path, give_up: Callable[[], bool]) -> Look:
    """Raises UnusableStore if there is no file, it is not ours or of a newer program; PeerError disk_full."""
    with translated(path), closing(open_beside(path, current=False)) as connection:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        return Look(schema=schema, newest=len(MIGRATIONS), problems=_problems(connection, give_up))


def _problems(connection: sqlite3.Connection, give_up: Callable[[], bool]) -> tuple[str, ...] | None:
    connection.set_progress_handler(give_up, _STEPS)
    try:
        found = [str(text) for (text,) in connection.execute(f"PRAGMA quick_check({_PROBLEMS})")]
    except sqlite3.DatabaseError as exc:
        match getattr(exc, "sqlite_errorcode", 0) & 0xFF:  # the primary code; errors of the driver have none
            case sqlite3.SQLITE_INTERRUPT:
                return None
            case sqlite3.SQLITE_CORRUPT:  # so damaged that it cannot be looked through
                return (str(exc),)
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return () if found == ["ok"] else tuple(found)
