"""Sessions: created, changed, listed (deleted: engine.storage.hidden). Each function is one step inside a transaction
of its caller.

Errors: CallerError unknown_session for an id that no session has.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any, Final

import attrs
import orjson

from engine.commands import SessionChanges, SessionPage
from engine.errors import CallerError
from engine.limits import DEFAULT
from engine.storage import cursors, idempotency
from engine.storage.columns import dump, load_json
from engine.storage.idempotency import Claim
from engine.transcript.records import COST_DIGITS, Usage
from engine.transcript.session import Session
from engine.transcript.todo import Todo

# A page of a list ends early at this many stored bytes of what may be long, so that it fits a frame. What grows when
# it is escaped is cut where frames are made.
_PAGE_BYTES: Final = DEFAULT.frame_bytes * 5 // 8
# Stored bytes of a session's numbers and ids in a list.
_ROW_BYTES: Final = 512

_COLUMNS: Final = (
    "changed, id, title, model, cwd, parent_id, created_at, updated_at, revision, message_count, input_tokens,"
    " output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens, cost, toolsets, metadata, instructions,"
    " todos"
)
_READ: Final = f"{_COLUMNS}, (SELECT count(*) FROM runs WHERE runs.session = sessions.key AND runs.status = 'queued')"


def key_of(connection: Connection, session_id: str) -> int:
    """The session's integer key."""
    row = connection.execute("SELECT key FROM sessions WHERE id = ? AND changed > 0", (session_id,)).fetchone()
    if row is None:
        raise unknown(session_id)
    return int(row[0])


def unknown(session_id: str) -> CallerError:
    return CallerError("unknown_session", f"no session has the id {session_id[:128]!r}")


def create(connection: Connection, session: Session, claim: Claim | None, now: int) -> Session:
    """Store a new session at revision 1; for a repeated claim the session that it made first, as it is now."""
    earlier = idempotency.result(connection, claim, now)
    if earlier is not None:
        return get(connection, earlier)
    usage = session.usage
    connection.execute(
        f"INSERT INTO sessions ({_COLUMNS}, named)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            _next_change(connection), session.id, session.title, session.model, session.cwd, session.parent_id,
            session.created_at, session.updated_at, usage.input_tokens, usage.output_tokens, usage.reasoning_tokens,
            usage.cache_read_tokens, usage.cache_write_tokens, usage.cost, dump(session.toolsets), session.metadata,
            None if session.instructions is None else session.instructions.encode(),
            dump(session.todos) if session.todos else None, session.title != "",
        ),
    )  # fmt: skip
    idempotency.remember(connection, claim, session.id, now)
    return attrs.evolve(session, revision=1, message_count=0)


def get(connection: Connection, session_id: str) -> Session:
    row = connection.execute(f"SELECT {_READ} FROM sessions WHERE id = ? AND changed > 0", (session_id,)).fetchone()
    if row is None:
        raise unknown(session_id)
    return _session(row)


def update(connection: Connection, session_id: str, changes: SessionChanges, now: int) -> Session:
    """Change the fields that are given; one revision more. Raises CallerError stale_revision."""
    key = key_of(connection, session_id)
    check_revision(connection, key, changes.expected_revision)
    values = {
        "title": changes.title,
        "named": None if changes.title is None else changes.title != "",
        "model": changes.model,
        "instructions": None if changes.instructions is None else changes.instructions.encode(),
        "toolsets": None if changes.toolsets is None else dump(changes.toolsets),
        "metadata": changes.metadata,
    }
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        columns = ", ".join(f"{name} = ?" for name in given)
        connection.execute(f"UPDATE sessions SET {columns} WHERE key = ?", (*given.values(), key))
    touch(connection, key, now)
    return get(connection, session_id)


def title_if_none(connection: Connection, key: int, title: str) -> None:
    """Give the session a title if it has none."""
    connection.execute("UPDATE sessions SET title = ? WHERE key = ? AND title = ''", (title, key))


def name(connection: Connection, session_id: str, title: str, usage: Usage, now: int) -> bool:
    """Give the session a better title than its first message's, and add what it cost to find it; False if there is none
    (it is empty), or a person has given one meanwhile, which stays. Raises CallerError unknown_session."""
    key = key_of(connection, session_id)
    done = connection.execute(
        "UPDATE sessions SET title = ?1, named = 1 WHERE key = ?2 AND NOT named AND ?1 <> ''", (title, key)
    )
    touch(connection, key, now, usage=usage)
    return bool(done.rowcount)


def is_named(connection: Connection, session_id: str) -> bool:
    """Whether the session's title is more than the beginning of its first message. Raises CallerError
    unknown_session."""
    key = key_of(connection, session_id)
    (named,) = connection.execute("SELECT named FROM sessions WHERE key = ?", (key,)).fetchone()
    return bool(named)


def put_todos(connection: Connection, session_id: str, todos: Sequence[Todo], now: int) -> int:
    """The session's list of what is to be done; the revision after it. Raises CallerError unknown_session."""
    key = key_of(connection, session_id)
    connection.execute("UPDATE sessions SET todos = ? WHERE key = ?", (dump(todos) if todos else None, key))
    return touch(connection, key, now)


def show(connection: Connection, key: int, now: int) -> None:
    """Make a hidden session (engine.storage.hidden) whose transcript is complete one that everybody sees."""
    connection.execute(
        "UPDATE sessions SET changed = ?, updated_at = ?, message_count = (SELECT count(*) FROM messages WHERE session"
        " = sessions.key) WHERE key = ?",
        (_next_change(connection), now, key),
    )


def free_pages(connection: Connection) -> int:
    """Pages of the database that nothing uses."""
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def reclaim(connection: Connection, pages: int) -> bool:
    """Give up to `pages` free pages back to the file system; whether some are left."""
    free = free_pages(connection)
    # One by one: a statement without columns is stepped once by the driver, and frees one page with each step.
    for _ in range(min(free, pages)):
        connection.execute("PRAGMA incremental_vacuum(1)")
    return 0 < free_pages(connection) < free


def page(connection: Connection, limit: int, cursor: str | None, query: str | None) -> SessionPage:
    """Sessions, the latest change first. `query` is a part of the title, upper and lower case being the same.

    Needs the reader's `casefold`. Ends early to fit a frame. A session that changes while a client pages moves to
    the front: it may be missed by that client, and is never shown twice in pages that follow each other.
    """
    sought = (query or "").casefold()
    found = connection.execute(
        f"SELECT {_READ} FROM sessions WHERE changed > 0 AND changed < ?"
        f"{' AND instr(casefold(title), ?)' if sought else ''} ORDER BY changed DESC LIMIT ?",
        (cursors.decode("s", cursor), *([sought] if sought else []), limit + 1),
    )
    items: list[Session] = []
    room = _PAGE_BYTES
    last = 0
    for row in found:
        room -= _ROW_BYTES + len(row[2]) + len(row[4]) + sum(len(value or b"") for value in row[16:20])
        if len(items) == limit or (items and room < 0):
            return SessionPage(tuple(items), cursors.encode("s", last))
        items.append(_session(row))
        last = row[0]
    return SessionPage(tuple(items))


def check_revision(connection: Connection, key: int, expected: int | None) -> None:
    """Raises CallerError stale_revision {revision} if another revision was expected."""
    if expected is None:
        return
    revision = revision_of(connection, key)
    if revision != expected:
        raise CallerError("stale_revision", f"the session is at revision {revision}, not {expected}", revision=revision)


def revision_of(connection: Connection, key: int) -> int:
    (revision,) = connection.execute("SELECT revision FROM sessions WHERE key = ?", (key,)).fetchone()
    return int(revision)


def touch(connection: Connection, key: int, now: int, *, messages: int = 0, usage: Usage | None = None) -> int:
    """Count a change of the session or its transcript, with `messages` more and `usage` added. The new revision."""
    (revision,) = connection.execute(
        "UPDATE sessions SET revision = revision + 1, changed = ?, updated_at = ?, message_count = message_count + ?"
        " WHERE key = ? RETURNING revision",
        (_next_change(connection), now, messages, key),
    ).fetchone()
    if usage is not None:
        connection.execute(
            "UPDATE sessions SET input_tokens = input_tokens + ?, output_tokens = output_tokens + ?,"
            " reasoning_tokens = reasoning_tokens + ?, cache_read_tokens = cache_read_tokens + ?,"
            " cache_write_tokens = cache_write_tokens + ?,"
            f" cost = CASE WHEN ?6 IS NULL THEN cost ELSE round(coalesce(cost, 0) + ?6, {COST_DIGITS}) END"
            " WHERE key = ?7",
            (
                usage.input_tokens, usage.output_tokens, usage.reasoning_tokens,
                usage.cache_read_tokens, usage.cache_write_tokens, usage.cost, key,
            ),
        )  # fmt: skip
    return int(revision)


def _next_change(connection: Connection) -> int:
    (newest,) = connection.execute("SELECT max(changed) FROM sessions").fetchone()
    return max(newest or 0, 0) + 1


def _session(row: tuple[Any, ...]) -> Session:
    return Session(
        id=row[1],
        title=row[2],
        model=row[3],
        cwd=row[4],
        parent_id=row[5],
        created_at=row[6],
        updated_at=row[7],
        revision=row[8],
        message_count=row[9],
        usage=Usage(
            input_tokens=row[10],
            output_tokens=row[11],
            reasoning_tokens=row[12],
            cache_read_tokens=row[13],
            cache_write_tokens=row[14],
            cost=row[15],
        ),
        toolsets=tuple(orjson.loads(row[16])),
        metadata=row[17],
        instructions=None if row[18] is None else row[18].decode("utf-8", "replace"),
        todos=() if row[19] is None else load_json(row[19], tuple[Todo, ...]),
        queued=row[20],
    )
