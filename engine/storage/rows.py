"""Messages for a model: the transcript from its end, each message whole, and decoded once for as long as it stays as
it is (engine.transcript.cache). Inside the caller's (reading) transaction.

A message whose text still grows is not kept: its revision does not rise with each chunk (engine.storage.tables).
"""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Final

import attrs

from engine.storage import catalog, columns, texts
from engine.transcript.cache import Entry, RowCache
from engine.transcript.records import Message, MessageInfo, Part, Role, UserMessage

# A part's own weight in a window, beside its strings: ids, numbers and the keys around them.
_PART_BYTES: Final = 64
# A file's weight: services count an image as about 1,500 tokens, however many bytes it has.
_FILE_BYTES: Final = 4500


@attrs.frozen(slots=True)
class Row:
    """A message before its parts are read. `weight` is of its parts in stored bytes, their text not loaded."""

    key: int
    revision: int
    info: MessageInfo
    weight: int
    cached: Entry | None = attrs.field(repr=False)

    @property
    def role(self) -> Role:
        return "user" if isinstance(self.info, UserMessage) else "assistant"


class Rows:
    """A session's messages in one transaction; without a cache each is decoded anew. Raises CallerError
    unknown_session."""

    def __init__(self, connection: Connection, session_id: str, cache: RowCache | None = None) -> None:
        self._connection = connection
        self._cache = cache
        self._session_id = session_id
        self._session = catalog.key_of(connection, session_id)
        self._used: set[tuple[str, int]] = set()

    def newest_first(self) -> Iterator[Row]:
        """As many as are taken: the rest is not read."""
        found = self._connection.execute(
            "SELECT key, id, role, revision, body FROM messages WHERE session = ? ORDER BY position DESC",
            (self._session,),
        )
        for key, message_id, role, revision, body in found:
            cached = None if self._cache is None else self._cache.get(message_id, revision)
            if cached is not None:
                yield Row(key, revision, cached.message.info, cached.weight, cached)
            else:
                yield Row(key, revision, columns.info(message_id, role, body), _weight(self._connection, key), None)

    def whole(self, row: Row) -> Message:
        """The message with its parts; the same object as before if nothing of it has changed."""
        self._used.add((row.info.id, row.revision))
        if row.cached is not None:
            return row.cached.message
        found, growing = parts(self._connection, row.key)
        message = Message(row.info, found)
        if self._cache is not None and not growing:
            self._cache.put(self._session_id, row.info.id, row.revision, message, row.weight)
        return message

    def close(self) -> None:
        """The window is chosen: of this session nothing else is kept for the next."""
        if self._cache is not None:
            self._cache.retain(self._session_id, self._used)


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


def _weight(connection: Connection, message: int) -> int:
    (stored,) = connection.execute(
        f"SELECT sum({_PART_BYTES} + length(body) + CASE kind WHEN 'file' THEN {_FILE_BYTES} ELSE"
        " coalesce(length(text), 0) END + coalesce(length(input), 0) + coalesce(length(error), 0))"
        " FROM parts WHERE message = ?",
        (message,),
    ).fetchone()
    (growing,) = connection.execute(
        "SELECT sum(length(chunks.text)) FROM parts JOIN chunks ON chunks.part = parts.key WHERE parts.message = ?",
        (message,),
    ).fetchone()
    return (stored or 0) + (growing or 0)
