"""The write-ahead log kept short, by the connection that writes, outside any transaction.

SQLite folds the log into the database by itself after a commit, as far as no reader needs what is there, and begins
it anew when a commit finds all of it folded and no reader in it. With readers that overlap, that moment may never come,
and the log grows. So beyond `limits.log_soft_bytes` the writer waits for that moment itself, shortly, and beyond
`limits.log_hard_bytes` longer: readers of ours are done within milliseconds, and those that come meanwhile read the
database alone. Only a transaction that another program holds open for longer can outlast it; then each further part of
the log costs the writer a wait, so that the log grows slowly, and it is cut back when that program has ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection
from typing import Final

from engine.limits import DEFAULT, MIB, Limits

# Between two attempts: a reader that has not ended is not waited for at each commit.
_STEP_BYTES: Final = 4 * MIB
# What a commit may wait for: below a stall that a person notices; the longest read of ours with room.
_SOFT_MS: Final = 50
_HARD_MS: Final = 2000


class Wal:
    """The log of the database at `path`."""

    def __init__(self, path: Path, limits: Limits = DEFAULT) -> None:
        self._path = Path(f"{path}-wal")
        self._limits = limits
        self._next = limits.log_soft_bytes  # bytes at which to look again
        self.shorten_wanted = False
        self.bytes = 0  # as of the last commit; may be read by another thread

    def size(self) -> int:
        """Bytes of its file."""
        try:
            return os.stat(self._path).st_size
        except FileNotFoundError:
            return 0

    def bound(self, connection: Connection) -> None:
        """To be called after each commit: begin the log anew if it has become long. Never raises for a reader that
        stays; raises sqlite3.Error for a disk that fails."""
        if self.shorten_wanted:
            self.shorten_wanted = not self.shorten(connection)
        size = self.bytes = self.size()
        if size < self._next:
            # It has been cut back since, by a commit that found it folded.
            self._next = max(self._limits.log_soft_bytes, min(self._next, size + _STEP_BYTES))
            return
        if _checkpoint(connection, "TRUNCATE", _HARD_MS if size >= self._limits.log_hard_bytes else _SOFT_MS):
            self._next = self._limits.log_soft_bytes
        else:
            self._next = size + _STEP_BYTES

    def shorten(self, connection: Connection) -> bool:
        """Fold all of the log and empty it, so that the database's file has the size that it needs; False if a reader
        is in the way."""
        return _checkpoint(connection, "TRUNCATE", _SOFT_MS)


def _checkpoint(connection: Connection, mode: str, wait_ms: int) -> bool:
    with _waiting(connection, wait_ms):
        busy, _, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return not busy


@contextlib.contextmanager
def _waiting(connection: Connection, milliseconds: int) -> Iterator[None]:
    (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}").fetchall()
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {usual}").fetchall()
