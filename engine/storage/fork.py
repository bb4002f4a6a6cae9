"""A fork: a new session with a copy of another one's transcript, up to a message.

`begin` decides what is copied and stores the new session, hidden (engine.storage.hidden); `copy` is called until
nothing is left to copy; `publish` makes it a session like any other; `make` is all of it, of a short session. Each is
a step inside a transaction of its caller: the fork is there whole or not at all, and what a crash left is purged at
the next start.

What is copied does not change any more: messages are only added at a transcript's end, and one that is still being
written is left out with all behind it. Copies have ids of their own, made from the new session's and the old one's:
so an id that stands inside a record (a user's message of an answer, `kept_from` of a compaction) is translated without
looking anything up. Blobs are shared: the copy refers to the same ones by the same handles, which texts may quote.
`run_id` stays that of the run which made the message. Approvals given for a session, its runs and its usage are its
own and not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection
from typing import Any, Final

import attrs
import orjson

from engine import ids
from engine.commands import ForkSession
from engine.errors import CallerError
from engine.storage import catalog, hidden, idempotency
from engine.storage.idempotency import Claim
from engine.transcript.session import Session

# Of the session itself. All else begins anew.
_KEPT: Final = "title, named, model, cwd, toolsets, metadata, instructions, todos"


@attrs.frozen(slots=True, kw_only=True)
class Fork:
    """A fork in the making: from one key to another, the messages up to and including position `through`."""

    session_id: str
    key: int
    source: int
    through: int


def make(connection: Connection, asked: ForkSession, session_id: str, claim: Claim | None, now: int) -> Fork | Session:
    """Begin; a short one is complete when this returns, of a long one the first page is copied. Raises as `begin`."""
    begun = begin(connection, asked, session_id, claim, now)
    if isinstance(begun, Session) or copy(connection, begun):
        return begun
    return publish(connection, begun, claim, now)


def begin(connection: Connection, asked: ForkSession, session_id: str, claim: Claim | None, now: int) -> Fork | Session:
    """Store the hidden session `session_id`; for a repeated claim the session that it made first, as it is now.

    Raises CallerError unknown_session, unknown_message, idempotency_conflict (unknown_session too if that first one
    was deleted).
    """
    earlier = idempotency.result(connection, claim, now)
    if earlier is not None:
        return catalog.get(connection, earlier)
    source = catalog.key_of(connection, asked.session_id)
    through = last_position(connection, source, asked.message_id)
    key = connection.execute(
        f"INSERT INTO sessions (id, changed, parent_id, created_at, updated_at, revision, message_count, input_tokens,"
        f" output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens, {_KEPT})"
        f" SELECT ?, ?, id, ?, ?, 1, 0, 0, 0, 0, 0, 0, {_KEPT} FROM sessions WHERE key = ?",
        (session_id, hidden.place(connection), now, now, source),
    ).lastrowid
    assert key is not None
    return Fork(session_id=session_id, key=key, source=source, through=through)


def copy(connection: Connection, fork: Fork) -> bool:
    """Copy the next page of messages; whether there are more. Raises CallerError unknown_session if the session that
    is copied was deleted meanwhile."""
    there = connection.execute("SELECT 1 FROM sessions WHERE key = ? AND changed > 0", (fork.source,)).fetchone()
    if there is None:
        raise CallerError("unknown_session", "the session was deleted while it was copied")
    (after,) = connection.execute(
        "SELECT coalesce(max(position), 0) FROM messages WHERE session = ?", (fork.key,)
    ).fetchone()
    end = hidden.page_end(connection, fork.source, after, fork.through)
    if end is None:
        return False
    _copy_page(connection, fork, after, end)
    return end < fork.through


def publish(connection: Connection, fork: Fork, claim: Claim | None, now: int) -> Session:
    """Make the whole copy a session that everybody sees. If another request with the same key was faster, what that
    one made, and this copy is to be purged. Raises CallerError idempotency_conflict."""
    earlier = idempotency.result(connection, claim, now)
    if earlier is not None:
        return catalog.get(connection, earlier)
    catalog.show(connection, fork.key, now)
    idempotency.remember(connection, claim, fork.session_id, now)
    return catalog.get(connection, fork.session_id)


def last_position(connection: Connection, session: int, message_id: str | None = None) -> int:
    """The position of the last message that is copied, 0 if there is none: that one, or the last that is complete.
    Raises CallerError unknown_message."""
    if message_id is None:
        (last,) = connection.execute("SELECT max(position) FROM messages WHERE session = ?", (session,)).fetchone()
    else:
        row = connection.execute(
            "SELECT position FROM messages WHERE session = ? AND id = ?", (session, message_id)
        ).fetchone()
        if row is None:
            raise CallerError("unknown_message", f"the session has no message with the id {message_id[:128]!r}")
        last = row[0]
    # An answer that is being written is the newest one; behind it there may be messages that were sent meanwhile.
    newest = connection.execute(
        "SELECT position, body FROM messages WHERE session = ? AND role = 'assistant' ORDER BY position DESC LIMIT 1",
        (session,),
    ).fetchone()
    if newest is not None and "finish" not in orjson.loads(newest[1]):
        last = min(last, newest[0] - 1)
    return int(last or 0)


def _copy_page(connection: Connection, fork: Fork, after: int, end: int) -> None:
    new_message, new_part = _translator("msg", fork.session_id), _translator("prt", fork.session_id)
    connection.create_function("new_message", 1, new_message, deterministic=True)
    connection.create_function("new_part", 1, new_part, deterministic=True)
    connection.create_function("new_info", 1, _renaming("parent_id", new_message), deterministic=True)
    connection.create_function("new_compaction", 1, _renaming("kept_from", new_message), deterministic=True)
    place = {"new": fork.key, "old": fork.source, "after": after, "end": end}
    columns = _others(connection, "messages", {"key", "session", "id", "body"})
    connection.execute(
        f"INSERT INTO messages (session, id, body, {columns}) SELECT :new, new_message(id), new_info(body), {columns}"
        " FROM messages WHERE session = :old AND position > :after AND position <= :end ORDER BY position",
        place,
    )
    columns = _others(connection, "parts", {"key", "message", "id", "body"})
    pairs = (
        "messages AS old JOIN messages AS new ON new.session = :new AND new.position = old.position"
        " JOIN parts ON parts.message = old.key"
    )
    of_page = "old.session = :old AND old.position > :after AND old.position <= :end"
    qualified = ", ".join(f"parts.{name}" for name in columns.split(", "))
    connection.execute(
        f"INSERT INTO parts (message, id, body, {columns}) SELECT new.key, new_part(parts.id),"
        f" CASE parts.kind WHEN 'compaction' THEN new_compaction(parts.body) ELSE parts.body END, {qualified}"
        f" FROM {pairs} WHERE {of_page} ORDER BY old.position, parts.position",
        place,
    )
    connection.execute(
        "INSERT INTO attachments (part, blob, handle) SELECT copies.key, attachments.blob, attachments.handle"
        f" FROM {pairs} JOIN attachments ON attachments.part = parts.key"
        " JOIN parts AS copies ON copies.message = new.key AND copies.position = parts.position"
        f" WHERE {of_page}",
        place,
    )


def _others(connection: Connection, table: str, without: set[str]) -> str:
    """The table's columns, those left out that a copy has of its own: what a later schema adds is copied too."""
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    return ", ".join(name for name in names if name not in without)


def _translator(prefix: str, session_id: str) -> Callable[[str], str]:
    def translate(old: str) -> str:
        return ids.derived(prefix, session_id, old)

    return translate


def _renaming(field: str, translate: Callable[[str], str]) -> Callable[[bytes], bytes]:
    """A function from the JSON of a record to the same with the message's id in `field` translated."""

    def rename(body: bytes) -> bytes:
        value: dict[str, Any] = orjson.loads(body)
        if isinstance(value.get(field), str):
            value[field] = translate(value[field])
        return orjson.dumps(value)

    return rename
