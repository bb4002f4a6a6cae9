"""A run: one user message taken to a terminal event, as the store keeps it and the wire shows it."""

from __future__ import annotations

import attrs

from engine.runs.lifecycle import Status
from engine.transcript.records import NO_USAGE, Failure, Usage


@attrs.frozen(slots=True, kw_only=True)
class Run:
    """Fields as in the wire contract. Times in ms (UTC). `reason` says why a run was stopped or interrupted."""

    id: str
    session_id: str
    status: Status
    model: str
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    reason: str | None = None
    error: Failure | None = None
    usage: Usage = NO_USAGE
    first_seq: int = 1
    last_seq: int = 0
    position: int | None = None
