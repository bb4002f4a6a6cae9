"""Transcripts, read: pages for clients, the last message of a run. Inside the caller's (reading) transaction.

Clients are shown the head of a long string, and no more than that is read of it. What a model gets is read by
engine.storage.rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Final

import attrs
import orjson

from engine.commands import MessagesPage
from engine.limits import DEFAULT
from engine.storage import catalog, columns, cursors, texts
from engine.transcript.records import MessageInfo, Part
from engine.wire import objects

# Room for `parts_more` at the end of an object.
_PARTS_MORE_BYTES: Final = 32
_MESSAGE: Final = "SELECT position, key, id, role, body FROM messages WHERE session = ?"


# ------------------------------------------------------------------ pages
def messages(
    connection: Connection,
    session_id: str,
    limit: int,
    cursor: str | None,
    string_bytes: int = DEFAULT.string_bytes,
    room: int = objects.OBJECT_BYTES,
) -> MessagesPage:
    """The newest messages before the cursor, chronological, encoded for clients; at most `room` bytes of them, one
    at least. Raises CallerError unknown_session, DecodeError."""
    before = cursors.decode("m", cursor)
    session = catalog.key_of(connection, session_id)
    revision = catalog.revision_of(connection, session)
    found = connection.execute(
        f"{_MESSAGE} AND position < ? ORDER BY position DESC LIMIT ?", (session, before, limit + 1)
    )
    page: list[bytes] = []
    following: str | None = None
    last = 0
    left = room
    for position, key, message_id, role, body in found:
        info = columns.info(message_id, role, body)
        encoded = None
        if len(page) < limit:
            encoded = _encoded(connection, key, info, string_bytes, left, alone=not page)
        if encoded is None:
            following = cursors.encode("m", last)
            break
        page.append(encoded)
        left -= len(encoded) + 1  # a comma between two
        last = position
    page.reverse()
    return MessagesPage(messages=tuple(page), revision=revision, next_cursor=following)


def _encoded(
    connection: Connection, message: int, info: MessageInfo, string_bytes: int, room: int, *, alone: bool
) -> bytes | None:
    """The message as JSON of at most `room` bytes; None if that needs more cutting than is usual, unless it is
    `alone` on its page: then its strings are shown shorter until it fits, and at last parts are left out."""
    shown_info = objects.info_object(info)
    while True:
        left = room - len(orjson.dumps({"info": shown_info, "parts": []})) - _PARTS_MORE_BYTES
        parts: list[orjson.Fragment] = []
        for part in _shown(connection, message, string_bytes):
            left -= len(part) + 1
            if left < 0:
                break
            parts.append(orjson.Fragment(part))
        if left >= 0:
            return orjson.dumps({"info": shown_info, "parts": parts})
        if not alone:
            return None
        if string_bytes <= objects.STRING_BYTES_MIN:
            (count,) = connection.execute("SELECT count(*) FROM parts WHERE message = ?", (message,)).fetchone()
            return orjson.dumps({"info": shown_info, "parts": parts, "parts_more": count - len(parts)})
        string_bytes //= 2


def _shown(connection: Connection, message: int, string_bytes: int) -> Iterator[bytes]:
    """The message's parts, each encoded with the heads of its strings."""
    # What is short comes with its row: a statement for each string would take longer than all the rest.
    found = connection.execute(
        "SELECT key, id, kind, body, length(text), length(input), length(error),"
        " CASE WHEN length(text) <= ?1 THEN text END, input, CASE WHEN length(error) <= ?1 THEN error END"
        " FROM parts WHERE message = ?2 ORDER BY position",
        (string_bytes, message),
    )
    for key, part_id, kind, body, text_size, input_size, error_size, text, given, error in found:
        grown = texts.end_of_chunks(connection, key) if kind in ("text", "reasoning") else None
        if grown is not None:
            text, text_size = texts.head(connection, key, "text", string_bytes), grown
        elif text is None and text_size is not None:
            if kind == "file":  # shown whole or not at all: a byte more than the bound says which
                text = texts.read(connection, key, "text", 0, string_bytes + 1)
            else:
                text = texts.head(connection, key, "text", string_bytes)
        if error is None and error_size is not None:
            error = texts.head(connection, key, "error", string_bytes)
        # An input is cut by its values, not by its head; it is within limits.tool_input_bytes.
        long = {"text": text, "input": given, "error": error}
        sizes = {"text": text_size, "input": input_size, "error": error_size}
        fields = columns.LONG.get(kind, {})
        whole = {field: sizes[column] for field, column in fields.items() if sizes[column] is not None}
        part = columns.part(part_id, kind, body, long)
        yield orjson.dumps(objects.part_object(part, string_bytes=string_bytes, sizes=whole))


# ------------------------------------------------------------------ the last message of a run
@attrs.frozen(slots=True)
class FinalMessage:
    """A message without the texts of its text and reasoning parts: each part with the bytes of its text."""

    message_id: str
    parts: tuple[tuple[Part, int], ...]


def final_message(connection: Connection, run_id: str) -> FinalMessage | None:
    """The newest assistant's message of the run; None if it made none. Strings of calls are within their bounds
    (limits.tool_result_bytes); the text of the others is read in pieces by its handle."""
    row = connection.execute(
        "SELECT messages.key, messages.id FROM runs JOIN messages ON messages.key = runs.answer WHERE runs.id = ?",
        (run_id,),
    ).fetchone()
    if row is None:
        return None
    found = connection.execute(
        "SELECT key, id, kind, body, length(text), CASE WHEN kind IN ('text', 'reasoning') THEN x'' ELSE text END,"
        " input, error FROM parts WHERE message = ? ORDER BY position",
        (row[0],),
    )
    parts: list[tuple[Part, int]] = []
    for key, part_id, kind, body, size, text, given, error in found:
        grown = texts.end_of_chunks(connection, key) if kind in ("text", "reasoning") else None
        part = columns.part(part_id, kind, body, {"text": text, "input": given, "error": error})
        parts.append((part, (size or 0) if grown is None else grown))
    return FinalMessage(str(row[1]), tuple(parts))
