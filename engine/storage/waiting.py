"""Runs that wait in their session's queue, first in first out. Inside the caller's transaction.

A waiting run has a row like any other, with the status `queued`, and its user's message beside it. The message joins
the transcript when the run begins: whatever the runs before it still write has its place before it. A restart of the
daemon leaves waiting runs as they are.
"""

from __future__ import annotations

from sqlite3 import Connection

import attrs
import orjson

from engine import codec
from engine.errors import CallerError
from engine.runs.record import Run
from engine.storage import attachments, catalog, columns, idempotency, ledger, starting
from engine.storage.idempotency import Claim
from engine.storage.starting import StoredRun
from engine.transcript.records import KIND_OF, KINDS, Message


@attrs.frozen(slots=True)
class BegunRun:
    """A run that has left its queue, with its user message and the session's revision after it."""

    run: Run
    message: Message
    revision: int


def enqueue(
    connection: Connection,
    run: Run,
    message: Message,
    *,
    most: int,
    expected_revision: int | None,
    claim: Claim | None,
    now: int,
) -> StoredRun:
    """Store a run with the status `queued` at the end of its session's queue: all or nothing.

    Raises CallerError unknown_session, stale_revision, idempotency_conflict, and queue_full if `most` runs wait.
    """
    earlier = starting.repeated_run(connection, claim, now)
    if earlier is not None:
        return earlier
    session = catalog.key_of(connection, run.session_id)
    catalog.check_revision(connection, session, expected_revision)
    (waiting,) = connection.execute(
        "SELECT count(*) FROM runs WHERE session = ? AND status = 'queued'", (session,)
    ).fetchone()
    if waiting >= most:
        raise CallerError("queue_full", f"{waiting} messages wait in this session, which is its bound")
    key = ledger.insert(connection, run, session, message.info.id, run.first_seq - 1)
    parts = [{"kind": KIND_OF[type(part)], **codec.plain(part)} for part in message.parts]
    connection.execute(
        "INSERT INTO queued VALUES (?, ?, ?)", (key, columns.of_info(message.info)[1], columns.dump(parts))
    )
    for part in message.parts:
        attachments.refer_queued(connection, part, key)
    idempotency.remember(connection, claim, run.id, now)
    revision = catalog.touch(connection, session, now)
    return StoredRun(attrs.evolve(run, position=waiting + 1), message.info.id, revision)


def begin(connection: Connection, run_id: str, *, seq_block: int, now: int) -> BegunRun | None:
    """Take the run out of its queue: it runs from now on, its message is the transcript's last, and the first
    `seq_block` numbers are reserved. None if it does not wait (any more)."""
    row = connection.execute(
        "SELECT runs.session, runs.message_id, queued.message, queued.parts FROM runs"
        " JOIN queued ON queued.run = runs.key WHERE runs.id = ? AND runs.status = 'queued'",
        (run_id,),
    ).fetchone()
    if row is None:
        return None
    session, message_id, info, parts = row
    message = Message(
        columns.info(message_id, "user", info),
        tuple(codec.lean(value, KINDS[value.pop("kind")]) for value in orjson.loads(parts)),
    )
    run = attrs.evolve(ledger.get(connection, run_id), status="running", started_at=now, position=None)
    starting.add_user_message(connection, session, message)
    ledger.put_run(connection, run)
    ledger.reserve_seq(connection, run_id, run.first_seq - 1 + seq_block)
    _forget(connection, run_id)
    return BegunRun(run, message, catalog.touch(connection, session, now, messages=1))


def drop(connection: Connection, run: Run, now: int) -> bool:
    """Store the terminal state `run` of a run that waits; its message goes. False if it does not wait (any more)."""
    row = connection.execute("SELECT session FROM runs WHERE id = ? AND status = 'queued'", (run.id,)).fetchone()
    if row is None:
        return False
    _forget(connection, run.id)
    ledger.put_run(connection, run)
    catalog.touch(connection, row[0], now)
    return True


def of_session(connection: Connection, session_id: str) -> list[Run]:
    """The session's waiting runs in order."""
    key = catalog.key_of(connection, session_id)
    found = connection.execute("SELECT id FROM runs WHERE session = ? AND status = 'queued' ORDER BY key", (key,))
    return [ledger.get(connection, run_id) for (run_id,) in found.fetchall()]


def sessions(connection: Connection) -> list[str]:
    """The sessions in which runs wait, in the order of their oldest one."""
    found = connection.execute(
        "SELECT sessions.id FROM (SELECT session, min(key) AS first FROM runs WHERE status = 'queued' GROUP BY session)"
        " AS waiting JOIN sessions ON sessions.key = waiting.session AND sessions.changed > 0 ORDER BY waiting.first"
    )
    return [session_id for (session_id,) in found.fetchall()]


def _forget(connection: Connection, run_id: str) -> None:
    connection.execute("DELETE FROM queued WHERE run = (SELECT key FROM runs WHERE id = ?)", (run_id,))
