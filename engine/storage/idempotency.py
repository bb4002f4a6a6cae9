"""Keys that make a resend harmless: the first result is remembered for a day, over restarts.

The record is written in the transaction of what it protects, so that both are there or neither.
"""

from __future__ import annotations

import hashlib
from sqlite3 import Connection
from typing import Final

import attrs

from engine import codec
from engine.commands import ForkSession, NewSession, StartRun
from engine.errors import CallerError

RETENTION_MS: Final = 24 * 3600 * 1000  # of the wire contract


@attrs.frozen(slots=True)
class Claim:
    """A request's key with a digest of all else that it said."""

    method: str
    key: str
    digest: bytes


def claim(method: str, request: NewSession | StartRun | ForkSession) -> Claim | None:
    """None if the request has no key."""
    if request.idempotency_key is None:
        return None
    payload = codec.dump(attrs.evolve(request, idempotency_key=None))
    return Claim(method, request.idempotency_key, hashlib.sha256(payload).digest())


def result(connection: Connection, claim: Claim | None, now: int) -> str | None:
    """The id that the first such request made; None if this is the first. Raises CallerError idempotency_conflict."""
    if claim is None:
        return None
    row = connection.execute(
        "SELECT digest, result_id FROM idempotency WHERE method = ? AND key = ? AND created_at > ?",
        (claim.method, claim.key, now - RETENTION_MS),
    ).fetchone()
    if row is None:
        return None
    if row[0] != claim.digest:
        message = f"the idempotency key {claim.key!r} was used for another {claim.method}"
        raise CallerError("idempotency_conflict", message)
    return str(row[1])


def remember(connection: Connection, claim: Claim | None, result_id: str, now: int) -> None:
    """Record the result of a first request, and purge what is older than a day."""
    if claim is None:
        return
    connection.execute("DELETE FROM idempotency WHERE created_at <= ?", (now - RETENTION_MS,))
    connection.execute(
        "INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)", (claim.method, claim.key, claim.digest, result_id, now)
    )
