"""A session as lines (engine.storage.portable), read piece by piece beside a daemon that may be at work on it.

What is exported does not change any more: the messages up to the last complete one. So no transaction has to last for
as long as somebody takes to read the lines, and one part and one piece of a blob is what is in memory.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from sqlite3 import Connection
from typing import Any, Final

import attrs

from engine import codec
from engine.errors import CallerError
from engine.storage import catalog, columns, fork
from engine.storage.blobs import Blobs
from engine.storage.portable import BLOB_PIECE_BYTES, PIECE_CHARACTERS, VERSION, Counts, PortableSession
from engine.transcript.records import KIND_OF, Part

_MESSAGES: Final = 200  # whose rows, without their parts, are read at once


class Export:
    """One export. `lines` gives it; afterwards `counts` says what it had."""

    def __init__(self, connection: Connection, session_id: str, blobs: Blobs) -> None:
        """`connection` is of database.open_beside, outside a transaction. Raises CallerError unknown_session."""
        self._connection = connection
        self._blobs = blobs
        self._session_id = session_id
        with _moment(connection):
            session = catalog.get(connection, session_id)
            self._key = catalog.key_of(connection, session_id)
            self._through = fork.last_position(connection, self._key)
        self.total = session.message_count
        self.counts = Counts()
        self._head = PortableSession(
            **{field.name: getattr(session, field.name) for field in attrs.fields(PortableSession)}
        )

    def lines(self) -> Iterator[bytes]:
        """The lines, each with its end. Raises CallerError unknown_session if the session is deleted meanwhile,
        PeerError disk_full for a blob that cannot be read."""
        head = codec.plain(self._head)
        yield _line({"greenroom": "session", "version": VERSION, "session": head})
        yield from self._blob_lines()
        yield from self._message_lines()
        yield _line({"end": codec.plain(self.counts)})

    def _blob_lines(self) -> Iterator[bytes]:
        key = 0
        while True:
            row = self._connection.execute(
                "SELECT key, hash, size FROM blobs WHERE key > ? AND EXISTS (SELECT 1 FROM attachments"
                " JOIN parts ON parts.key = attachments.part JOIN messages ON messages.key = parts.message"
                " WHERE attachments.blob = blobs.key AND messages.session = ? AND messages.position <= ?)"
                " ORDER BY key LIMIT 1",
                (key, self._key, self._through),
            ).fetchone()
            if row is None:
                return
            key, digest, size = row
            yield _line({"blob": {"hash": digest, "size": size}})
            for offset in range(0, size, BLOB_PIECE_BYTES):
                data = self._blobs.read(digest, offset, BLOB_PIECE_BYTES)
                yield _line({"data": base64.b64encode(data).decode()})
            self.counts = attrs.evolve(self.counts, blobs=self.counts.blobs + 1)

    def _message_lines(self) -> Iterator[bytes]:
        position = 0
        while position < self._through:
            found = self._connection.execute(
                "SELECT position, key, id, role, body FROM messages WHERE session = ? AND position > ?"
                " AND position <= ? ORDER BY position LIMIT ?",
                (self._key, position, self._through, _MESSAGES),
            ).fetchall()
            if not found:
                raise self._deleted()
            position = found[-1][0]
            for _, key, message_id, role, body in found:
                info = codec.plain(columns.info(message_id, role, body))
                yield _line({"message": {"role": role, **info}})
                yield from self._part_lines(key)
                self.counts = attrs.evolve(self.counts, messages=self.counts.messages + 1)
            # A session that is deleted is hidden before any of it goes.
            if not self._connection.execute(
                "SELECT 1 FROM sessions WHERE key = ? AND id = ? AND changed > 0", (self._key, self._session_id)
            ).fetchone():
                raise self._deleted()

    def _part_lines(self, message: int) -> Iterator[bytes]:
        keys = self._connection.execute("SELECT key FROM parts WHERE message = ? ORDER BY position", (message,))
        for (key,) in keys.fetchall():
            row = self._connection.execute(
                "SELECT id, kind, body, text, input, error FROM parts WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                raise self._deleted()
            part_id, kind, body, text, given, error = row
            yield from _lines_of(columns.part(part_id, kind, body, {"text": text, "input": given, "error": error}))
            self.counts = attrs.evolve(self.counts, parts=self.counts.parts + 1)

    def _deleted(self) -> CallerError:
        return CallerError("unknown_session", f"the session {self._session_id} was deleted while it was exported")


def _lines_of(part: Part) -> Iterator[bytes]:
    value: dict[str, Any] = {"kind": KIND_OF[type(part)], **codec.plain(part)}
    if isinstance(given := getattr(part, "input", None), bytes):
        value["input"] = given.decode()
    long = {name: text for name, text in value.items() if isinstance(text, str) and len(text) > PIECE_CHARACTERS}
    if not long:
        yield _line({"part": value})
        return
    short = {name: one for name, one in value.items() if name not in long}
    yield _line({"part": short, "long": {name: len(text) for name, text in long.items()}})
    for text in long.values():
        for begin in range(0, len(text), PIECE_CHARACTERS):
            yield _line({"piece": text[begin : begin + PIECE_CHARACTERS]})


def _line(value: dict[str, Any]) -> bytes:
    return codec.dump(value) + b"\n"


@contextlib.contextmanager
def _moment(connection: Connection) -> Iterator[None]:
    """Several reads of one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
