"""Approvals and grants in the store: so that a decision outlives the daemon, and a lost run's asks are decided.

Inside the caller's transaction. A row is of one call of one run; it goes with its run, grants go with their session.
"""

from __future__ import annotations

from sqlite3 import Connection

from engine.runs.approvals import Resolution
from engine.storage import catalog
from engine.tools.permissions import NO_GRANTS, Grant, Grants


def ask(connection: Connection, run_id: str, call_id: str) -> None:
    """A call waits for a person. One with the id of an earlier call of the run takes its place."""
    connection.execute(
        "INSERT OR REPLACE INTO approvals (run, call_id) SELECT key, ? FROM runs WHERE id = ?", (call_id, run_id)
    )


def settle(connection: Connection, run_id: str, call_id: str, resolution: Resolution) -> None:
    """It was decided. The first decision stands."""
    connection.execute(
        'UPDATE approvals SET decision = ?, "by" = ? WHERE run = (SELECT key FROM runs WHERE id = ?) AND call_id = ?'
        " AND decision IS NULL",
        (resolution.decision, resolution.by, run_id, call_id),
    )


def decide(
    connection: Connection, session_id: str, run_id: str, call_id: str, resolution: Resolution, grant: Grant | None
) -> Grants | None:
    """It was decided, and with it what is allowed from now on, if that is given: both or neither. All grants then."""
    settle(connection, run_id, call_id, resolution)
    return None if grant is None else add_grant(connection, session_id, grant)


def settle_lost(connection: Connection, run_id: str) -> set[str]:
    """Deny what waits in a run that the daemon lost; the calls."""
    found = connection.execute(
        "UPDATE approvals SET decision = 'deny', \"by\" = 'restart'"
        " WHERE run = (SELECT key FROM runs WHERE id = ?) AND decision IS NULL RETURNING call_id",
        (run_id,),
    ).fetchall()
    return {call_id for (call_id,) in found}


def find(connection: Connection, run_id: str, call_id: str) -> Resolution | None:
    """How the call was decided; None if it was never asked, or is not decided."""
    row = connection.execute(
        'SELECT decision, "by" FROM approvals WHERE run = (SELECT key FROM runs WHERE id = ?) AND call_id = ?'
        " AND decision IS NOT NULL",
        (run_id, call_id),
    ).fetchone()
    return None if row is None else Resolution(decision=row[0], by=row[1])


def grants(connection: Connection, session_id: str) -> Grants:
    """What people allowed for the session. Raises CallerError unknown_session."""
    (data,) = connection.execute(
        "SELECT grants FROM sessions WHERE key = ?", (catalog.key_of(connection, session_id),)
    ).fetchone()
    return NO_GRANTS if data is None else Grants.decode(data)


def add_grant(connection: Connection, session_id: str, grant: Grant) -> Grants:
    """All grants of the session with this one. Raises CallerError unknown_session."""
    every = grants(connection, session_id).add(grant)
    connection.execute("UPDATE sessions SET grants = ? WHERE id = ?", (every.encode(), session_id))
    return every
