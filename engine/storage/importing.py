"""A session from lines (engine.storage.portable): a new one, with ids of its own, whole or not at all.

Lines come from outside: each is bounded, decoded strictly, and a mistake is told with the number of its line. The
session is hidden (engine.storage.hidden) until its last line was read, and written in transactions of bounded size:
what an error leaves is removed at once, what a crash leaves at the next start of a daemon.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from sqlite3 import Connection, IntegrityError
from typing import Any, BinaryIO, Final

import attrs
import orjson

from engine import codec, ids
from engine.limits import KIB, Limits
from engine.storage import applying, attachments, catalog, hidden
from engine.storage.blobs import Blobs
from engine.storage.portable import (
    BLOB_PIECE_BYTES,
    LINE_BYTES,
    PIECE_CHARACTERS,
    VERSION,
    Counts,
    PortableSession,
    mistakes,
)
from engine.storage.wal import Wal
from engine.transcript import validation
from engine.transcript.records import (
    KINDS,
    AssistantMessage,
    CompactionPart,
    FilePart,
    Message,
    MessageInfo,
    Part,
    TextPart,
    ToolPart,
    UserMessage,
)
from engine.transcript.session import Session
from engine.wire import handles

# Written in one transaction, as text of lines: as much as a page of a fork.
_PAGE_BYTES: Final = 512 * KIB
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_REMOVED_AT_ONCE: Final = 256
# Of these something is kept in memory while they come: far above what a turn within its bounds has, and a session.
_PARTS_MAX: Final = 20_000  # of one message
_BLOBS_MAX: Final = 200_000
_MISTAKE_CHARACTERS: Final = 500  # a mistake may quote what it is about

Progress = Callable[[str, int, int], None]


class BadLine(Exception):
    """The line of this number is not what an export writes; nothing was imported."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"line {number}: {text}")
        self.number = number


class Import:
    """One import, into the store of a data directory that this process has locked. `connection` is the writer's."""

    def __init__(self, connection: Connection, blobs: Blobs, wal: Wal, limits: Limits) -> None:
        self._connection = connection
        self._blobs = blobs
        self._wal = wal
        self._limits = limits
        self._session_id = ids.session_id()
        self._number = 0  # of the line that was read last
        self._unwritten = 0  # bytes of lines since the last commit
        self._given: dict[str, int] = {}  # hash and size of the blobs that came
        self._counts = Counts()
        self._message: tuple[int, MessageInfo, list[Part]] | None = None  # key, and what is checked of it at its end

    def run(self, file: BinaryIO, now: int, progress: Progress) -> Session:
        """Read all lines; the new session. Raises BadLine, PeerError disk_full; then, and if it is interrupted, nothing
        of it is stored."""
        key: int | None = None
        connection = self._connection
        try:
            head = self._read_head(file)
            connection.execute("BEGIN IMMEDIATE")
            key = self._create(head, now)
            while (value := self._next(file)) is not None:
                self._take(file, key, value)
                if self._unwritten >= _PAGE_BYTES:
                    self._commit()
                    progress("messages", self._counts.messages, 0)
            self._end_message()
            catalog.show(connection, key, now)
            self._commit(more=False)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if key is not None:
                self._remove(key)
            raise
        return catalog.get(connection, self._session_id)

    # ------------------------------------------------------------ lines
    def _read(self, file: BinaryIO) -> dict[str, Any]:
        line = file.readline(LINE_BYTES + 1)
        self._number += 1
        self._unwritten += len(line)
        if not line:
            raise self._bad("the file ends too early: its last line is missing")
        if len(line) > LINE_BYTES:
            raise self._bad(f"longer than {LINE_BYTES} bytes")
        try:
            value = codec.parse(line)
        except codec.DecodeError:
            raise self._bad("not JSON") from None
        if not isinstance(value, dict):
            raise self._bad("not an object")
        return value

    def _next(self, file: BinaryIO) -> dict[str, Any] | None:
        """The next line; None if it is the last and all that it counts has come."""
        value = self._read(file)
        if "end" not in value:
            return value
        counts = self._decode(value.pop("end"), Counts)
        if value or counts != self._counts:
            raise self._bad(f"{counts} were written, {self._counts} have come")
        if file.read(1):
            self._number += 1
            raise self._bad("there is something behind the last line")
        return None

    def _read_head(self, file: BinaryIO) -> PortableSession:
        value = self._read(file)
        if value.get("greenroom") != "session" or set(value) != {"greenroom", "version", "session"}:
            raise self._bad("not the beginning of an exported session")
        if value["version"] != VERSION:
            raise self._bad(f"of version {value['version']}, this greenroom knows {VERSION}")
        head: PortableSession = self._decode(value["session"], PortableSession)
        return head

    def _take(self, file: BinaryIO, key: int, value: dict[str, Any]) -> None:
        names = set(value)
        if names == {"message"}:
            self._end_message()
            self._add_message(key, value["message"])
        elif names in ({"part"}, {"part", "long"}):
            self._add_part(self._part(file, value["part"], value.get("long", {})))
        elif names == {"blob"} and self._message is None:
            self._add_blob(file, value["blob"])
        else:
            raise self._bad(f"{', '.join(sorted(names)) or 'nothing'} is not what can be here")

    # ------------------------------------------------------------ session and messages
    def _create(self, head: PortableSession, now: int) -> int:
        fields = {field.name: getattr(head, field.name) for field in attrs.fields(PortableSession)}
        session = Session(**{**fields, "id": self._session_id, "updated_at": now})
        catalog.create(self._connection, session, None, now)
        return hidden.hide(self._connection, session.id)

    def _add_message(self, key: int, value: Any) -> None:
        if not isinstance(value, dict) or value.get("role") not in ("user", "assistant"):
            raise self._bad("a message is an object with a role")
        role = value.pop("role")
        info: MessageInfo = self._record(value, UserMessage if role == "user" else AssistantMessage)
        new = attrs.evolve(
            info,
            id=self._own("msg", info.id),
            parent_id=None if info.parent_id is None else self._own("msg", info.parent_id),
            run_id=None if info.run_id is None else self._own("run", info.run_id),
        )
        try:
            self._message = applying.add_message(self._connection, key, new), info, []
        except IntegrityError:
            raise self._bad(f"there are two messages with the id {info.id!r}") from None
        self._counts = attrs.evolve(self._counts, messages=self._counts.messages + 1)

    def _end_message(self) -> None:
        """The message is complete: can it be sent to a provider?"""
        if self._message is None:
            return
        _, info, parts = self._message
        for problem in validation.problems(Message(info, tuple(parts))):
            raise self._bad(f"behind the message {info.id!r}: {problem}")

    # ------------------------------------------------------------ parts
    def _part(self, file: BinaryIO, value: Any, long: Any) -> Part:
        kind = KINDS.get(value.pop("kind", None)) if isinstance(value, dict) and _is_text(value.get("kind")) else None
        if kind is None:
            raise self._bad(f"a part is an object of one of the kinds {', '.join(KINDS)}")
        if not isinstance(long, dict) or set(long) & set(value):
            raise self._bad("long has fields of the part with their numbers of characters")
        for name, count in long.items():
            value[name] = self._long(file, name, count)
        given = value.pop("input", None)
        part: Part = self._record(value, kind)
        if not isinstance(part, ToolPart):
            if given is not None:
                raise self._bad("input: unknown field")
            return part
        return attrs.evolve(part, input=self._input(given))

    def _long(self, file: BinaryIO, name: str, count: Any) -> str:
        most = self._limits.answer_bytes
        if type(count) is not int or not 0 < count <= most:
            raise self._bad(f"long.{name}: expected 1 to {most} characters (limits.answer_bytes)")
        pieces: list[str] = []
        while count:
            value = self._read(file)
            piece = value.get("piece")
            if set(value) != {"piece"} or not isinstance(piece, str):
                raise self._bad(f"{count} characters of {name} are missing")
            if not 0 < len(piece) <= min(count, PIECE_CHARACTERS):
                raise self._bad(f"a piece of {len(piece)} characters where {count} are missing")
            pieces.append(piece)
            count -= len(piece)
        return "".join(pieces)

    def _input(self, given: Any) -> bytes:
        """The input of a tool call, as it was written."""
        if not isinstance(given, str):
            raise self._bad("input: expected the text of its JSON")
        data = given.encode()
        if len(data) > self._limits.tool_input_bytes:
            raise self._bad(f"input: longer than {self._limits.tool_input_bytes} bytes (limits.tool_input_bytes)")
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise self._bad("input: is not the JSON of an object")
        return data

    def _add_part(self, part: Part) -> None:
        if self._message is None:
            raise self._bad("a part without a message")
        key, _, parts = self._message
        if len(parts) >= _PARTS_MAX:
            raise self._bad(f"a message has at most {_PARTS_MAX} parts")
        new: Any = attrs.evolve(part, id=self._own("prt", part.id))
        if isinstance(part, CompactionPart) and part.kept_from is not None:
            new = attrs.evolve(new, kept_from=self._own("msg", part.kept_from))
        blob = attachments.blob_of(part)
        if blob is not None:
            if self._given.get(blob.hash) != blob.size:
                raise self._bad(f"the blob {blob.hash} of {blob.size} bytes has not come before")
            handle = self._handle(blob.handle, blob.hash)
            if isinstance(new, ToolPart):
                new = attrs.evolve(new, whole=attrs.evolve(blob, handle=handle))
            else:
                new = attrs.evolve(new, handle=handle)
        try:
            applying.add_part(self._connection, key, new)
        except IntegrityError:
            raise self._bad(f"there are two parts with the id {part.id!r}") from None
        parts.append(_slim(part))
        self._counts = attrs.evolve(self._counts, parts=self._counts.parts + 1)

    def _handle(self, handle: str, digest: str) -> str:
        """The name that a blob is read by: the one that texts of the session may quote, unless it names other content
        here."""
        if not ids.is_well_formed(handle) or handles.parse(handle) is not None:
            raise self._bad(f"{handle[:128]!r} is no handle of a blob")
        found = attachments.find(self._connection, handle)
        return handle if found is None or found.hash == digest else self._own("out", handle)

    # ------------------------------------------------------------ blobs
    def _add_blob(self, file: BinaryIO, value: Any) -> None:
        if not isinstance(value, dict) or set(value) != {"hash", "size"}:
            raise self._bad("a blob has a hash and a size")
        digest, size = value["hash"], value["size"]
        if len(self._given) >= _BLOBS_MAX:
            raise self._bad(f"a session has at most {_BLOBS_MAX} blobs")
        if not isinstance(digest, str) or not _HASH.fullmatch(digest) or digest in self._given:
            raise self._bad("the hash of a blob is its SHA-256 in hex, and it comes once")
        most = max(self._limits.spool_file_bytes, self._limits.media_bytes)
        if type(size) is not int or not 0 <= size <= most:
            raise self._bad(f"the size of a blob is 0 to {most} bytes")
        with self._blobs.adding(digest) as put:
            content = hashlib.sha256()
            left = size
            while left:
                data = self._data(file, left)
                content.update(data)
                put(data)
                left -= len(data)
            if content.hexdigest() != digest:
                raise self._bad(f"the content is not that of the blob {digest}")
        self._unwritten = 0  # it is in a file of its own
        self._given[digest] = size
        self._counts = attrs.evolve(self._counts, blobs=self._counts.blobs + 1)

    def _data(self, file: BinaryIO, left: int) -> bytes:
        value = self._read(file)
        text = value.get("data")
        if set(value) != {"data"} or not isinstance(text, str):
            raise self._bad(f"{left} bytes of a blob are missing")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise self._bad("not base64") from None
        if not 0 < len(data) <= min(left, BLOB_PIECE_BYTES):
            raise self._bad(f"a piece of {len(data)} bytes where {left} are missing")
        return data

    # ------------------------------------------------------------
    def _commit(self, *, more: bool = True) -> None:
        self._connection.execute("COMMIT")
        self._unwritten = 0
        self._wal.bound(self._connection)
        if more:
            self._connection.execute("BEGIN IMMEDIATE")

    def _remove(self, key: int) -> None:
        """Nothing of what was imported stays: no daemon has the directory, so that what nothing refers to is ours."""
        connection = self._connection
        while hidden.purge(connection, key):
            pass
        while unused := attachments.unused(connection, _REMOVED_AT_ONCE):
            self._blobs.remove(unused)
            attachments.forget(connection, unused)
        self._blobs.remove(attachments.unknown(connection, list(self._given)))

    def _own(self, prefix: str, old: str) -> str:
        return ids.derived(prefix, self._session_id, old)

    def _record(self, value: Any, kind: type[Any]) -> Any:
        record = self._decode(value, kind)
        for mistake in mistakes(record):
            raise self._bad(mistake)
        return record

    def _decode(self, value: Any, kind: type[Any]) -> Any:
        try:
            return codec.decode(value, kind)
        except codec.DecodeError as exc:
            raise self._bad(str(exc)) from None

    def _bad(self, text: str) -> BadLine:
        return BadLine(self._number, text[:_MISTAKE_CHARACTERS])


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _slim(part: Part) -> Part:
    """What is looked at when a message is complete, without its texts."""
    if isinstance(part, ToolPart):
        output, error = ("" if text is not None else None for text in (part.output, part.error))
        return attrs.evolve(part, input=b"{}", output=output, error=error)
    return attrs.evolve(part, data_base64=None) if isinstance(part, FilePart) else TextPart(id=part.id, text="")
