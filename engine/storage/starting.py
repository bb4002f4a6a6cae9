"""How a run begins in the store, and how one that the daemon lost is ended there. Inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Set
from sqlite3 import Connection
from typing import Final

import attrs

from engine.runs.record import Run
from engine.storage import applying, approvals, catalog, columns, idempotency, ledger
from engine.storage.idempotency import Claim
from engine.transcript.records import AssistantMessage, Message, TextPart, ToolPart
from engine.transcript.titles import first_line
from engine.transcript.tools import TERMINAL, interrupt

# The reason of a run that a crash ended, and what its open tool calls say to the model.
INTERRUPTED: Final = "interrupted: the daemon ended while the run was active"

TITLE_CHARACTERS: Final = 60  # of a title that is made from a message: a line of a list


@attrs.frozen(slots=True)
class StoredRun:
    """A run as it was stored, with its user message and the session's revision after it. `repeated`: the request's
    idempotency key was known, nothing was stored, and this is the run that the first request made."""

    run: Run
    message_id: str
    revision: int
    repeated: bool = False


def start_run(
    connection: Connection,
    run: Run,
    message: Message,
    *,
    seq_block: int,
    expected_revision: int | None,
    claim: Claim | None,
    now: int,
) -> StoredRun:
    """Store the user's message and its run, with the first `seq_block` numbers reserved: all or nothing. A session
    without a title gets the message's first line as one.

    That no other run is active is the caller's business. Raises CallerError unknown_session, stale_revision,
    idempotency_conflict.
    """
    earlier = repeated_run(connection, claim, now)
    if earlier is not None:
        return earlier
    session = catalog.key_of(connection, run.session_id)
    catalog.check_revision(connection, session, expected_revision)
    add_user_message(connection, session, message)
    ledger.insert(connection, run, session, message.info.id, run.first_seq - 1 + seq_block)
    idempotency.remember(connection, claim, run.id, now)
    revision = catalog.touch(connection, session, now, messages=1)
    return StoredRun(run, message.info.id, revision)


def start_compaction(connection: Connection, run: Run, message_id: str, *, seq_block: int) -> StoredRun:
    """Store a run that only compacts, with the first `seq_block` numbers reserved. Its message is no part of the
    transcript, which stays as it is until the run has a summary. Raises CallerError unknown_session."""
    session = catalog.key_of(connection, run.session_id)
    ledger.insert(connection, run, session, message_id, run.first_seq - 1 + seq_block)
    return StoredRun(run, message_id, catalog.revision_of(connection, session))


def steer_run(
    connection: Connection,
    run: Run,
    message: Message,
    *,
    expected_revision: int | None,
    claim: Claim | None,
    now: int,
) -> StoredRun:
    """Put a user's message for a run at work at the transcript's end: all or nothing. Raises as `start_run`."""
    earlier = repeated_run(connection, claim, now)
    if earlier is not None:
        return earlier
    session = catalog.key_of(connection, run.session_id)
    catalog.check_revision(connection, session, expected_revision)
    add_user_message(connection, session, message)
    idempotency.remember(connection, claim, message.info.id, now)
    return StoredRun(run, message.info.id, catalog.touch(connection, session, now, messages=1))


def add_user_message(connection: Connection, session: int, message: Message) -> None:
    """Put the message at the transcript's end."""
    key = applying.add_message(connection, session, message.info)
    for part in message.parts:
        applying.add_part(connection, key, part)
    catalog.title_if_none(connection, session, _title(message))


def _title(message: Message) -> str:
    """The beginning of the message's first line with words in it."""
    found = (first_line(part.text, TITLE_CHARACTERS) for part in message.parts if isinstance(part, TextPart))
    return next(filter(None, found), "")


def repeated_run(connection: Connection, claim: Claim | None, now: int) -> StoredRun | None:
    """The run that an earlier request with the same key made; None if there was none. Only reads.

    Raises CallerError idempotency_conflict, unknown_run when that run was deleted with its session.
    """
    made = idempotency.result(connection, claim, now)
    if made is None:
        return None
    # A request that began a run remembers the run, one that was taken in by a run remembers its message.
    steered = connection.execute("SELECT body FROM messages WHERE id = ?", (made,)).fetchone()
    run_id = made if steered is None else columns.info(made, "user", steered[0]).run_id
    run = ledger.get(connection, run_id or made)
    revision = catalog.revision_of(connection, catalog.key_of(connection, run.session_id))
    message_id = ledger.message_of(connection, run.id) if steered is None else made
    return StoredRun(run, message_id, revision, repeated=True)


def settle_open_runs(connection: Connection, now: int) -> list[Run]:
    """End every open run as `interrupted` and leave its history valid for a provider; returns them.

    For the start of a daemon, when nothing runs. Settled runs are terminal, so that a second call finds none.
    Reads the open runs and the last message of each; runs that wait in a queue go on waiting. What was streamed and
    committed is kept. `last_seq` moves above all that was reserved: a number that a client may have seen is never
    given again.
    """
    settled: list[Run] = []
    for found in ledger.open_runs(connection):
        if found.answer is not None:
            denied = approvals.settle_lost(connection, found.run.id)
            _settle_message(connection, found.answer, INTERRUPTED, now, denied)
        run = attrs.evolve(
            found.run, status="interrupted", ended_at=now, reason=INTERRUPTED, last_seq=found.seq_reserved + 1
        )
        ledger.put_run(connection, run)
        catalog.touch(connection, found.session, now)
        settled.append(run)
    return settled


def settle_run(connection: Connection, run: Run, now: int) -> None:
    """Store the end `run` of a run whose own last commit failed, and leave its history valid. What is stored of an end
    already absorbs it. Nothing happens to a run that was deleted."""
    found = ledger.open_run(connection, run.id)
    if found is None:
        return
    if found.answer is not None:
        _settle_message(
            connection, found.answer, run.reason or INTERRUPTED, now, approvals.settle_lost(connection, run.id)
        )
    ledger.put_run(connection, run)
    catalog.touch(connection, found.session, now)


def _settle_message(connection: Connection, message: int, why: str, now: int, denied: Set[str]) -> None:
    """`denied` are calls whose approval was waited for."""
    message_id, role, body = connection.execute(
        "SELECT id, role, body FROM messages WHERE key = ?", (message,)
    ).fetchone()
    info = columns.info(message_id, role, body)
    assert isinstance(info, AssistantMessage), "a run's answer is an assistant's message"
    growing = connection.execute(
        "SELECT key FROM parts WHERE message = ? AND EXISTS (SELECT 1 FROM chunks WHERE part = parts.key)", (message,)
    ).fetchall()
    for (part,) in growing:
        applying.fold(connection, part)
    calls = connection.execute(
        "SELECT key, id, body, input FROM parts WHERE message = ? AND kind = 'tool' AND text IS NULL AND error IS NULL",
        (message,),
    ).fetchall()
    for key, part_id, body, given in calls:
        part = columns.part(part_id, "tool", body, {"text": None, "input": given, "error": None})
        assert isinstance(part, ToolPart)
        if part.state not in TERMINAL:
            asked = "; the approval that it waited for is denied" if part.call_id in denied else ""
            applying.put_part(connection, key, interrupt(part, why + asked, now))
    if info.finish is None:
        applying.put_info(connection, message, attrs.evolve(info, finish="interrupted", finished_at=now))
