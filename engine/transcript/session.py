"""A session: the lasting conversation, as the store keeps it and the wire shows it."""

from __future__ import annotations

import attrs

from engine.transcript.records import NO_USAGE, Usage
from engine.transcript.todo import Todo


@attrs.frozen(slots=True, kw_only=True)
class Session:
    """Fields as in the wire contract. `revision` grows with every change of the session or its transcript;
    `metadata` is an encoded JSON object; `active_run_id` is filled in by the session's actor;
    `parent_id` is the session that this one is a fork of; `usage` does not count what a fork copied."""

    id: str
    title: str
    model: str
    cwd: str
    created_at: int
    updated_at: int
    instructions: str | None = None
    toolsets: tuple[str, ...] = ()
    metadata: bytes = b"{}"
    revision: int = 0
    active_run_id: str | None = None
    queued: int = 0
    message_count: int = 0
    usage: Usage = NO_USAGE
    parent_id: str | None = None
    todos: tuple[Todo, ...] = ()
