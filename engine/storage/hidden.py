"""Sessions that nobody sees: those that are being copied (engine.storage.fork), and those that are being deleted.

A long session is copied and deleted in pages, each in a transaction of its own, so that other writes come in between.
What makes it one step for everybody else is a single row: a session is there while its `changed` is positive.
Whatever is hidden when the store opens was left by a crash, and is purged. Inside the caller's transaction.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

from engine.limits import KIB
from engine.storage import catalog

# Of one page. The bytes bound what other writes wait for and what the log grows by, the parts bound the time of a page
# of many small ones: about 10 ms. A message is never divided, and is within its own bounds.
PAGE_BYTES: Final = 512 * KIB
PAGE_MESSAGES: Final = 256
PAGE_PARTS: Final = 512
# Runs are small and of one size.
PAGE_RUNS: Final = 1024
# Pages that a deletion removes at once: a page of messages, a page of runs, and the session.
_AT_ONCE: Final = 3


def delete(connection: Connection, session_id: str) -> int | None:
    """Remove the session with its messages, parts, chunks and runs. A short one is gone when this returns; of a long
    one, which is hidden then, the key: it is to be purged. Raises CallerError unknown_session."""
    key = hide(connection, session_id)
    for _ in range(_AT_ONCE):
        if not purge(connection, key):
            return None
    return key


def hide(connection: Connection, session_id: str) -> int:
    """The session is gone for everybody; returns its key, which is to be purged. Raises CallerError
    unknown_session."""
    key = catalog.key_of(connection, session_id)
    connection.execute("UPDATE sessions SET changed = ? WHERE key = ?", (place(connection), key))
    return key


def place(connection: Connection) -> int:
    """A `changed` for a session that is hidden."""
    (lowest,) = connection.execute("SELECT min(changed) FROM sessions").fetchone()
    return min(lowest or 0, 0) - 1


def every(connection: Connection) -> list[int]:
    """Keys of all that is hidden."""
    return [key for (key,) in connection.execute("SELECT key FROM sessions WHERE changed <= 0")]


def purge(connection: Connection, key: int) -> bool:
    """Remove a page of what a hidden session has; whether there may be more of it. At the end the session itself is
    gone, and nothing is left that refers to it."""
    last = page_end(connection, key, 0)
    if last is not None:
        connection.execute("DELETE FROM messages WHERE session = ? AND position <= ?", (key, last))
        return True
    removed = connection.execute(
        "DELETE FROM runs WHERE key IN (SELECT key FROM runs WHERE session = ? LIMIT ?)", (key, PAGE_RUNS)
    ).rowcount
    if removed:
        return True
    connection.execute("DELETE FROM sessions WHERE key = ? AND changed <= 0", (key,))
    return False


def page_end(connection: Connection, session: int, after: int, through: int | None = None) -> int | None:
    """The position of the last message of the page that begins behind `after`; None if there is none. Only sizes are
    read."""
    found = connection.execute(
        "SELECT position, (SELECT count(*) FROM parts WHERE message = messages.key),"
        " (SELECT sum(length(body) + coalesce(length(text), 0) + coalesce(length(input), 0) + coalesce(length(error),"
        " 0)) FROM parts WHERE message = messages.key)"
        " FROM messages WHERE session = ? AND position > ? AND (?3 IS NULL OR position <= ?3)"
        " ORDER BY position LIMIT ?4",
        (session, after, through, PAGE_MESSAGES),
    )
    end: int | None = None
    parts, size = 0, 0
    for position, count, stored in found:
        parts += count
        size += stored or 0
        if end is not None and (parts > PAGE_PARTS or size > PAGE_BYTES):
            break
        end = position
    return end
