"""Long strings by handle, in pieces (`output.read`)."""

from __future__ import annotations

import base64
from sqlite3 import Connection
from typing import Final

import orjson

from engine.commands import OutputPiece
from engine.errors import CallerError
from engine.storage import attachments, texts
from engine.storage.blobs import Blobs
from engine.storage.columns import LONG
from engine.wire import handles

# What is read at least, so that a piece is never empty before the end, however small it was asked for: the longest
# character of UTF-8, behind the rest of one that the offset is in.
_LEAST: Final = 4 + 3


def read(connection: Connection, handle: str, offset: int, limit: int, blobs: Blobs | None = None) -> OutputPiece:
    """At most `limit` bytes from the byte `offset` on, ending on a character boundary (and beginning on one: an
    offset inside a character is moved to the next). Beyond the end the piece is empty.

    Of a file's content the bytes are those of its base64 text. Raises CallerError unknown_output, PeerError disk_full
    if a blob cannot be read.
    """
    named = handles.parse(handle)
    if named is None:
        found = attachments.find(connection, handle)
        if found is None or blobs is None:
            raise _unknown(handle)
        return _blob(blobs, found, offset, limit)
    if named.field == "instructions":
        row = connection.execute(
            "SELECT instructions FROM sessions WHERE id = ? AND changed > 0", (named.owner_id,)
        ).fetchone()
        if row is None or row[0] is None:
            raise _unknown(handle)
        return _piece(row[0][offset : offset + max(limit, _LEAST)], offset, limit, len(row[0]))
    row = connection.execute(
        "SELECT parts.key, parts.kind, parts.body FROM parts JOIN messages ON messages.key = parts.message"
        " JOIN sessions ON sessions.key = messages.session WHERE parts.id = ? AND sessions.changed > 0",
        (named.owner_id,),
    ).fetchone()
    if row is None:
        raise _unknown(handle)
    key, kind, body = row
    field = "data_base64" if named.field == "data" else named.field
    column = LONG.get(kind, {}).get(field)
    if column is None:
        value = orjson.loads(body).get(field)
        if not isinstance(value, str):
            raise _unknown(handle)
        data = value.encode()
        return _piece(data[offset : offset + max(limit, _LEAST)], offset, limit, len(data))
    total = texts.size(connection, key, column)
    if total is None:
        raise _unknown(handle)
    data = texts.read(connection, key, column, offset, offset + max(limit, _LEAST))
    return _piece(data, offset, limit, total)


def read_own(
    connection: Connection, session_id: str, handle: str, offset: int, limit: int, blobs: Blobs
) -> OutputPiece:
    """Likewise, of what the transcript of this session refers to as a blob and nothing else: for a model."""
    found = attachments.find(connection, handle, session_id)
    if found is None:
        raise _unknown(handle)
    return _blob(blobs, found, offset, limit)


def _blob(blobs: Blobs, found: attachments.Attachment, offset: int, limit: int) -> OutputPiece:
    if found.text:
        data = blobs.read(found.hash, offset, max(limit, _LEAST))
        return _piece(data, offset, limit, found.size)
    # Every 3 bytes are 4 of the text.
    group, inside = divmod(offset, 4)
    data = blobs.read(found.hash, 3 * group, 3 * ((inside + limit) // 4 + 1))
    return _piece(base64.b64encode(data)[inside : inside + limit], offset, limit, 4 * ((found.size + 2) // 3))


def _piece(data: bytes, offset: int, limit: int, total: int) -> OutputPiece:
    """`data` begins at `offset` and has `limit` bytes or _LEAST."""
    begin, end = texts.whole_characters(data[:limit], at_end=offset + min(limit, len(data)) >= total)
    if end <= begin and data:  # the limit is smaller than the first character: give that one
        begin, _ = texts.whole_characters(data, at_end=True)
        end = begin + 1
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
    following = offset + end
    return OutputPiece(
        text=data[begin:end].decode("utf-8", "replace"),
        total=total,
        next_offset=following if following < total else None,
    )


def _unknown(handle: str) -> CallerError:
    return CallerError("unknown_output", f"no stored output has the handle {handle[:128]!r}")
