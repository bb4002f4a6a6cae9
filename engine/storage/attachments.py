"""Which parts refer to which blob, in the database. Inside the caller's transaction.

A blob's row is made with the first part that refers to it; its file is there before (engine.storage.blobs). Each
reference is counted, and goes with its part and so with its session. A row without references stays until its file
is removed: `unused`, then `forget`.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

import attrs

from engine.transcript.records import Blob, FilePart, Part, ToolPart


@attrs.frozen(slots=True)
class Attachment:
    """A blob found by its handle. `text`: it is an output, else the bytes of a file."""

    hash: str
    size: int
    text: bool


def blob_of(part: Part) -> Blob | None:
    """The blob that the part refers to."""
    match part:
        case ToolPart(whole=whole):
            return whole
        case FilePart(handle=str() as handle, hash=str() as digest):
            return Blob(handle=handle, hash=digest, size=part.size)
    return None


def refer(connection: Connection, part: Part, key: int) -> None:
    """Note what the stored part `key` refers to. A part that refers to a blob does so for good."""
    blob = blob_of(part)
    if blob is not None:
        connection.execute(
            "INSERT INTO attachments (part, blob, handle) VALUES (?, ?, ?) ON CONFLICT (part) DO NOTHING",
            (key, _key(connection, blob), blob.handle),
        )


def refer_queued(connection: Connection, part: Part, run: int) -> None:
    """Likewise for a part of the message that waits with the run of this key."""
    blob = blob_of(part)
    if blob is not None:
        connection.execute(
            "INSERT INTO attachments (queued, blob, handle) VALUES (?, ?, ?)",
            (run, _key(connection, blob), blob.handle),
        )


def find(connection: Connection, handle: str, session_id: str | None = None) -> Attachment | None:
    """What a handle names, None if nothing refers to it (any more), or nothing in the transcript of that session."""
    row = connection.execute(
        "SELECT blobs.hash, blobs.size, parts.kind FROM attachments JOIN blobs ON blobs.key = attachments.blob"
        " LEFT JOIN parts ON parts.key = attachments.part LEFT JOIN messages ON messages.key = parts.message"
        " LEFT JOIN sessions ON sessions.key = messages.session"
        " WHERE attachments.handle = ?1 AND (?2 IS NULL OR sessions.id = ?2) AND coalesce(sessions.changed, 1) > 0",
        (handle, session_id),
    ).fetchone()
    return None if row is None else Attachment(row[0], row[1], row[2] == "tool")


def unused(connection: Connection, most: int) -> list[str]:
    """Hashes of blobs that nothing refers to any more."""
    found = connection.execute("SELECT hash FROM blobs WHERE uses = 0 LIMIT ?", (most,))
    return [digest for (digest,) in found]


def unknown(connection: Connection, hashes: Sequence[str]) -> list[str]:
    """Those of the hashes that have no row: nothing has ever referred to their files, or no more."""
    return [
        digest
        for digest in hashes
        if connection.execute("SELECT 1 FROM blobs WHERE hash = ?", (digest,)).fetchone() is None
    ]


def forget(connection: Connection, hashes: Sequence[str]) -> None:
    """Remove the rows of blobs whose files are gone, those that nothing refers to."""
    connection.executemany("DELETE FROM blobs WHERE hash = ? AND uses = 0", [(digest,) for digest in hashes])


def _key(connection: Connection, blob: Blob) -> int:
    connection.execute(
        "INSERT INTO blobs (hash, size, uses) VALUES (?, ?, 0) ON CONFLICT (hash) DO NOTHING", (blob.hash, blob.size)
    )
    (key,) = connection.execute("SELECT key FROM blobs WHERE hash = ?", (blob.hash,)).fetchone()
    return int(key)
