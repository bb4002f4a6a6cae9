"""Runs: their rows, found by id, session and whether they are open. Inside the caller's transaction.

Errors: CallerError unknown_run, unknown_session.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any, Final

import attrs

from engine.commands import RunPage
from engine.errors import CallerError
from engine.runs.lifecycle import ACTIVE
from engine.runs.record import Run
from engine.storage import catalog, cursors
from engine.storage.columns import dump, load_json
from engine.transcript.records import Failure, Usage

_COLUMNS: Final = (
    "runs.key, runs.id, sessions.id, runs.status, runs.model, runs.created_at, runs.started_at, runs.ended_at,"
    " runs.reason, runs.error, runs.usage, runs.first_seq, runs.last_seq,"
    " CASE WHEN runs.status = 'queued' THEN (SELECT count(*) FROM runs AS ahead WHERE ahead.session = runs.session"
    " AND ahead.status = 'queued' AND ahead.key <= runs.key) END"
)
_FROM: Final = "FROM runs JOIN sessions ON sessions.key = runs.session AND sessions.changed > 0"


@attrs.frozen(slots=True)
class OpenRun:
    """A run that is not terminal, with what settling it needs."""

    run: Run
    session: int
    answer: int | None  # key of its newest assistant message
    seq_reserved: int


def insert(connection: Connection, run: Run, session: int, message_id: str, seq_reserved: int) -> int:
    """Store a new run; returns its key."""
    key = connection.execute(
        "INSERT INTO runs (id, session, message_id, open, seq_reserved, status, model, created_at, started_at,"
        " ended_at, first_seq, last_seq, reason, error, usage)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run.id, session, message_id, run.status in ACTIVE, seq_reserved, run.status, run.model, run.created_at,
            run.started_at, run.ended_at, run.first_seq, run.last_seq, run.reason,
            None if run.error is None else dump(run.error), dump(run.usage),
        ),
    ).lastrowid  # fmt: skip
    assert key is not None
    return key


def put_run(connection: Connection, run: Run) -> None:
    """The run's new state. A terminal state absorbs: nothing is changed after it."""
    connection.execute(
        "UPDATE runs SET open = ?, status = ?, started_at = ?, ended_at = ?, last_seq = ?, reason = ?,"
        " error = ?, usage = ? WHERE id = ? AND open",
        (
            run.status in ACTIVE, run.status, run.started_at, run.ended_at, run.last_seq, run.reason,
            None if run.error is None else dump(run.error), dump(run.usage), run.id,
        ),
    )  # fmt: skip


def reserve_seq(connection: Connection, run_id: str, through: int) -> None:
    connection.execute("UPDATE runs SET seq_reserved = max(seq_reserved, ?) WHERE id = ?", (through, run_id))


def get(connection: Connection, run_id: str) -> Run:
    row = connection.execute(f"SELECT {_COLUMNS} {_FROM} WHERE runs.id = ?", (run_id,)).fetchone()
    if row is None:
        raise CallerError("unknown_run", f"no run has the id {run_id[:128]!r}")
    return _run(row)


def message_of(connection: Connection, run_id: str) -> str:
    """The id of the user's message that started the run."""
    row = connection.execute("SELECT message_id FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        raise CallerError("unknown_run", f"no run has the id {run_id[:128]!r}")
    return str(row[0])


def page(
    connection: Connection, session_id: str | None, active: bool | None, limit: int, cursor: str | None
) -> RunPage:
    """Runs, newest first: of one session or of all; active ones, ended ones, or (None) both."""
    where, arguments = ["runs.key < ?"], [cursors.decode("r", cursor)]
    if session_id is not None:
        where.append("runs.session = ?")
        arguments.append(catalog.key_of(connection, session_id))
    if active is not None:
        where.append("runs.open" if active else "NOT runs.open")
    found = connection.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE {' AND '.join(where)} ORDER BY runs.key DESC LIMIT ?",
        (*arguments, limit + 1),
    ).fetchall()
    items = tuple(_run(row) for row in found[:limit])
    return RunPage(items, cursors.encode("r", found[limit - 1][0]) if len(found) > limit else None)


def open_runs(connection: Connection) -> list[OpenRun]:
    """All runs that were at work, oldest first: as many as the daemon admits at a time, however many have ended or
    wait in a queue."""
    found = connection.execute(
        f"SELECT {_COLUMNS}, runs.session, runs.answer, runs.seq_reserved {_FROM}"
        " WHERE runs.open AND runs.status != 'queued' ORDER BY runs.key"
    ).fetchall()
    return [OpenRun(_run(row), *row[14:]) for row in found]


def open_run(connection: Connection, run_id: str) -> OpenRun | None:
    """The run if it is open."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, runs.session, runs.answer, runs.seq_reserved {_FROM} WHERE runs.id = ? AND runs.open",
        (run_id,),
    ).fetchone()
    return None if row is None else OpenRun(_run(row), *row[14:])


def _run(row: tuple[Any, ...]) -> Run:
    return Run(
        id=row[1],
        session_id=row[2],
        status=row[3],
        model=row[4],
        created_at=row[5],
        started_at=row[6],
        ended_at=row[7],
        reason=row[8],
        error=None if row[9] is None else load_json(row[9], Failure),
        usage=load_json(row[10], Usage),
        first_seq=row[11],
        last_seq=row[12],
        position=row[13],
    )
