"""A check of all that a data directory stores, beside a daemon that may be at work on it.

Every read is short, but for SQLite's own check, so that the log does not grow for long. What is found comes as it is
found; memory does not depend on how much is stored. Errors: UnusableStore, PeerError disk_full.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from sqlite3 import Connection, DatabaseError
from typing import Final, Literal

import attrs
import orjson

from engine.errors import EngineError
from engine.limits import MIB
from engine.storage import attachments, blobs, columns, database
from engine.transcript import validation
from engine.transcript.records import AssistantMessage, Message, MessageInfo, Part

# Of one read, in rows of a table and in messages: some milliseconds.
_ROWS: Final = 1000
_MESSAGES: Final = 200
# SQLite ends its own check at so many errors: a file with more is not repaired by hand.
_ERRORS: Final = 100
_HASHED_AT_ONCE: Final = MIB

Progress = Callable[[str, int, int], None]  # what is looked at, how many of it are done, of how many


@attrs.frozen(slots=True)
class Finding:
    """Something that is wrong; or a `note`: it is in order and will not stay, such as what a crash has left."""

    kind: Literal["problem", "note"]
    place: str
    text: str


def check(connection: Connection, folder: Path, *, live: bool, progress: Progress) -> Iterator[Finding]:
    """Everything that is found in the data directory `folder`. `connection` is of database.open_beside, outside a
    transaction. `live`: a daemon is at work on it, so that what is open may be just so."""
    try:
        damaged = False
        for finding in _database(connection, progress):
            damaged = True
            yield finding
        if damaged:
            return  # what else is read of it means nothing
        yield from _references(connection)
        yield from _sessions(connection, live)
        yield from _growing(connection, live)
        yield from _blob_rows(connection, folder / blobs.FOLDER_NAME, progress)
        yield from _blob_files(connection, folder / blobs.FOLDER_NAME, progress)
        yield from _transcripts(connection, progress)
    except DatabaseError as exc:
        yield Finding("problem", "database", f"it cannot be read: {exc}")


def _database(connection: Connection, progress: Progress) -> Iterator[Finding]:
    progress("database", 0, 1)
    with database.interruptible(connection):
        found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({_ERRORS})")]
    progress("database", 1, 1)
    yield from (Finding("problem", "database", text) for text in found if text != "ok")


def _references(connection: Connection) -> Iterator[Finding]:
    found = connection.execute("PRAGMA foreign_key_check").fetchmany(_ERRORS)
    for table, row, parent, _ in found:
        yield Finding("problem", f"{table} {row}", f"it refers to a row of {parent} that is not there")


def _sessions(connection: Connection, live: bool) -> Iterator[Finding]:
    key = 0
    while True:
        found = connection.execute(
            "SELECT key, id, changed, message_count, (SELECT count(*) FROM messages WHERE session = sessions.key)"
            " FROM sessions WHERE key > ? ORDER BY key LIMIT ?",
            (key, _ROWS),
        ).fetchall()
        for key, session_id, changed, counted, there in found:  # noqa: B007 - the last key begins the next page
            if changed <= 0:
                if not live:
                    yield Finding("note", session_id, "half copied or half deleted: the next start removes it")
            elif counted != there:
                yield Finding("problem", session_id, f"it says that it has {counted} messages, and has {there}")
        if len(found) < _ROWS:
            break
    (runs,) = connection.execute("SELECT count(*) FROM runs WHERE open AND status != 'queued'").fetchone()
    if runs and not live:
        yield Finding("note", "runs", f"{runs} were at work when the daemon ended: the next start ends them")
    for (run_id,) in connection.execute(
        "SELECT id FROM runs WHERE (status = 'queued') != EXISTS (SELECT 1 FROM queued WHERE run = runs.key)"
        " AND (status = 'queued' OR key IN (SELECT run FROM queued)) LIMIT ?",
        (_ERRORS,),
    ).fetchall():
        yield Finding("problem", run_id, "its status and its place in a queue do not agree")
    for (session_id,) in connection.execute(
        "SELECT id FROM sessions WHERE changed > 0 AND compacted IS NOT NULL AND NOT EXISTS (SELECT 1 FROM messages"
        " JOIN parts ON parts.message = messages.key AND parts.kind = 'compaction'"
        " WHERE messages.key = sessions.compacted AND messages.session = sessions.key) LIMIT ?",
        (_ERRORS,),
    ).fetchall():
        yield Finding("problem", session_id, "the message with its newest summary is not there")


def _growing(connection: Connection, live: bool) -> Iterator[Finding]:
    """Texts that are in chunks: each begins where the one before it ends."""
    part, end = 0, 0
    after = (0, -1)
    while True:
        found = connection.execute(
            "SELECT chunks.part, chunks.offset, length(chunks.text), coalesce(length(parts.text), 0), parts.id"
            " FROM chunks JOIN parts ON parts.key = chunks.part WHERE (chunks.part, chunks.offset) > (?, ?)"
            " ORDER BY chunks.part, chunks.offset LIMIT ?",
            (*after, _ROWS),
        ).fetchall()
        for key, offset, size, stored, part_id in found:
            if key != part:
                part, end = key, stored
            # A text may have been folded between two reads: then its chunks are gone together.
            if offset != end and not live:
                yield Finding("problem", part_id, f"its text has a hole: {end} bytes, then a piece at {offset}")
            end = offset + size
            after = (key, offset)
        if len(found) < _ROWS:
            return


def _blob_rows(connection: Connection, folder: Path, progress: Progress) -> Iterator[Finding]:
    (total,) = connection.execute("SELECT count(*) FROM blobs").fetchone()
    key, done = 0, 0
    while True:
        found = connection.execute(
            "SELECT key, hash, size, uses, (SELECT count(*) FROM attachments WHERE blob = blobs.key) FROM blobs"
            " WHERE key > ? ORDER BY key LIMIT ?",
            (key, _ROWS),
        ).fetchall()
        for key, digest, size, uses, used in found:
            progress("blobs", done, total)
            done += 1
            if uses != used:
                yield Finding("problem", f"blob {digest}", f"it counts {uses} uses, and has {used}")
            wrong = _file_problem(folder / digest, digest, size)
            if (
                wrong is not None
                and connection.execute(
                    "SELECT 1 FROM blobs WHERE key = ? AND hash = ? AND uses", (key, digest)
                ).fetchone()
            ):  # a file that nothing needs (any more) is removed before its row
                yield Finding("problem", f"blob {digest}", wrong)
        if len(found) < _ROWS:
            progress("blobs", done, total)
            return


def _file_problem(path: Path, digest: str, size: int) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return "its file is missing"
    except OSError as exc:
        return f"its file cannot be opened: {exc.strerror}"
    try:
        there = os.fstat(descriptor).st_size
        if there != size:
            return f"its file has {there} bytes, not {size}"
        content = hashlib.sha256()
        while data := os.read(descriptor, _HASHED_AT_ONCE):
            content.update(data)
        return None if content.hexdigest() == digest else "its file has another content"
    except OSError as exc:
        return f"its file cannot be read: {exc.strerror}"
    finally:
        os.close(descriptor)


def _blob_files(connection: Connection, folder: Path, progress: Progress) -> Iterator[Finding]:
    """Files that no row knows."""
    if not folder.exists():
        return
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            progress("files", number, 0)
            if attachments.unknown(connection, [entry.name]) and Path(entry.path).exists():
                yield Finding("note", f"{blobs.FOLDER_NAME}/{entry.name}", "nothing refers to this file")


# ------------------------------------------------------------------ transcripts
def _transcripts(connection: Connection, progress: Progress) -> Iterator[Finding]:
    (total,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    session, position, done = 0, 0, 0
    while True:
        found, read, session, position = _page(connection, session, position)
        yield from found
        done += read
        progress("messages", done, total)
        if read < _MESSAGES:
            return


def _page(connection: Connection, session: int, position: int) -> tuple[list[Finding], int, int, int]:
    """What is wrong with the messages behind a place, how many they are, and the place of the last."""
    findings: list[Finding] = []
    connection.execute("BEGIN")  # one state of it: a run may be at work
    try:
        rows = connection.execute(
            "SELECT messages.session, messages.position, messages.key, messages.id, messages.role, messages.body,"
            " sessions.id FROM messages JOIN sessions ON sessions.key = messages.session"
            " WHERE (messages.session, messages.position) > (?, ?) AND sessions.changed > 0"
            " ORDER BY messages.session, messages.position LIMIT ?",
            (session, position, _MESSAGES),
        ).fetchall()
        for session, position, key, message_id, role, body, session_id in rows:  # noqa: B007 - the last is returned
            place = f"{session_id} {message_id}"
            findings += [Finding("problem", place, text) for text in _message(connection, key, message_id, role, body)]
    finally:
        connection.execute("ROLLBACK")
    return findings, len(rows), session, position


def _message(connection: Connection, key: int, message_id: str, role: str, body: bytes) -> Iterator[str]:
    try:
        info = columns.info(message_id, role, body)
        parts = tuple(_parts(connection, key))
    except (EngineError, orjson.JSONDecodeError) as exc:
        yield f"it cannot be read: {exc}"
        return
    yield from validation.problems(Message(info, parts), open=_is_open(connection, info))
    referred = connection.execute(
        "SELECT parts.id, blobs.hash FROM parts JOIN attachments ON attachments.part = parts.key"
        " JOIN blobs ON blobs.key = attachments.blob WHERE parts.message = ?",
        (key,),
    )
    named = {part.id: blob.hash for part in parts if (blob := attachments.blob_of(part)) is not None}
    if named != dict(referred.fetchall()):
        yield "its parts and what the store counts as their files do not agree"


def _parts(connection: Connection, message: int) -> Iterator[Part]:
    """The message's parts, with nothing of their texts: only that they are there."""
    for part_id, kind, body, text, given, error in connection.execute(
        "SELECT id, kind, body, text IS NOT NULL, input, error IS NOT NULL FROM parts WHERE message = ?"
        " ORDER BY position",
        (message,),
    ):
        if given is not None:
            orjson.loads(given)
        yield columns.part(
            part_id, kind, body, {"text": b"" if text else None, "input": given, "error": b"" if error else None}
        )


def _is_open(connection: Connection, info: MessageInfo) -> bool:
    """Whether the message's run is at work; a run that ended has its messages complete."""
    if not isinstance(info, AssistantMessage) or info.run_id is None:
        return False
    return connection.execute("SELECT 1 FROM runs WHERE id = ? AND open", (info.run_id,)).fetchone() is not None
