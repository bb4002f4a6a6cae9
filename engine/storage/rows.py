"""Messages for a model: the transcript from its end, each message whole, and decoded once for as long as it stays as
it is (engine.transcript.cache). Inside the caller's (reading) transaction.

A message whose text still grows is not kept: its revision does not rise with each chunk (engine.storage.tables).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from sqlite3 import Connection
from typing import Any, Final, Generic, TypeVar

import attrs

from engine.storage import catalog, columns, texts
from engine.transcript.cache import Entry, RowCache
from engine.transcript.records import Message, MessageInfo, Part, Role, UserMessage

S = TypeVar("S")

_SELECT: Final = "SELECT position, key, id, role, revision, body FROM messages WHERE session = ?"


@attrs.frozen(slots=True)
class Row(Generic[S]):
    """A message before its parts are read. `sizes` is what the caller's function found out without loading them."""

    position: int
    key: int
    revision: int
    info: MessageInfo
    sizes: S
    cached: Entry | None = attrs.field(repr=False)

    @property
    def role(self) -> Role:
        return "user" if isinstance(self.info, UserMessage) else "assistant"


class Rows(Generic[S]):
    """A session's messages in one transaction; without a cache each is decoded anew. `sizes` gets the connection, a
    message's key and its info. Raises CallerError unknown_session."""

    def __init__(
        self,
        connection: Connection,
        session_id: str,
        sizes: Callable[[Connection, int, MessageInfo], S],
        cache: RowCache | None = None,
    ) -> None:
        self._connection = connection
        self._sizes = sizes
        self._cache = cache
        self._session_id = session_id
        self._used: set[tuple[str, int]] = set()
        self.session = catalog.key_of(connection, session_id)

    def newest_first(self) -> Iterator[Row[S]]:
        """As many as are taken: the rest is not read."""
        for row in self._connection.execute(f"{_SELECT} ORDER BY position DESC", (self.session,)):
            yield self._row(*row)

    def user_before(self, position: int) -> Row[S] | None:
        """The newest message of a user that is older."""
        row = self._connection.execute(
            f"{_SELECT} AND position < ? AND role = 'user' ORDER BY position DESC LIMIT 1", (self.session, position)
        ).fetchone()
        return None if row is None else self._row(*row)

    def last_summary(self) -> Row[S] | None:
        """The newest message with a summary."""
        row = self._connection.execute(
            f"{_SELECT} AND key = (SELECT compacted FROM sessions WHERE key = ?1)", (self.session,)
        ).fetchone()
        return None if row is None else self._row(*row)

    def whole(self, row: Row[S]) -> Message:
        """The message with its parts; the same object as before if nothing of it has changed."""
        self._used.add((row.info.id, row.revision))
        if row.cached is not None:
            return row.cached.message
        found, growing = parts(self._connection, row.key)
        message = Message(row.info, found, revision=0 if growing else row.revision)
        if self._cache is not None and not growing:
            self._cache.put(self._session_id, row.info.id, row.revision, message, row.sizes)
        return message

    def close(self) -> None:
        """The window is chosen: of this session nothing else is kept for the next."""
        if self._cache is not None:
            self._cache.retain(self._session_id, self._used)

    def _row(self, position: int, key: int, message_id: str, role: str, revision: int, body: bytes) -> Row[S]:
        cached = None if self._cache is None else self._cache.get(message_id, revision)
        if cached is not None:
            sizes: Any = cached.sizes
            return Row(position, key, revision, cached.message.info, sizes, cached)
        info = columns.info(message_id, role, body)
        return Row(position, key, revision, info, self._sizes(self._connection, key, info), None)


def parts(connection: Connection, message: int) -> tuple[tuple[Part, ...], bool]:
    """The message's parts, whole; and whether the text of one still grows."""
    found = connection.execute(
        "SELECT key, id, kind, body, text, input, error FROM parts WHERE message = ? ORDER BY position", (message,)
    )
    read: list[Part] = []
    growing = False
    for key, part_id, kind, body, text, given, error in found:
        grown = texts.end_of_chunks(connection, key) if kind in ("text", "reasoning") else None
        if grown is not None:
            growing = True
            text = texts.read(connection, key, "text", 0, grown)
        read.append(columns.part(part_id, kind, body, {"text": text, "input": given, "error": error}))
    return tuple(read), growing
