"""The life cycle of a run as a table.

queued            waits for the session's active run to end
running           a model is being called or tools work
waiting_approval  a tool call waits for a person
stopping          a stop was asked; the work is being joined and history repaired
completed, failed, cancelled, interrupted   terminal and absorbing: nothing leaves them, nothing is added

A stop asked of a terminal run changes nothing. `interrupted` is for runs that the daemon lost (a crash, a
failed store), `cancelled` for those that were asked to stop, `failed` for those that could not go on.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

Status = Literal["queued", "running", "waiting_approval", "stopping", "completed", "failed", "cancelled", "interrupted"]

TRANSITIONS: Final = MappingProxyType[Status, frozenset[Status]](
    {
        "queued": frozenset({"running", "cancelled", "interrupted"}),
        "running": frozenset({"waiting_approval", "stopping", "completed", "failed", "cancelled", "interrupted"}),
        "waiting_approval": frozenset({"running", "stopping", "failed", "cancelled", "interrupted"}),
        # A run that was about to end by itself when the stop came may still end as it would have.
        "stopping": frozenset({"completed", "failed", "cancelled", "interrupted"}),
        "completed": frozenset(),
        "failed": frozenset(),
        "cancelled": frozenset(),
        "interrupted": frozenset(),
    }
)
TERMINAL: Final = frozenset(status for status, after in TRANSITIONS.items() if not after)
ACTIVE: Final = frozenset(TRANSITIONS) - TERMINAL


def advance(now: Status, then: Status) -> Status:
    """`then`, if the table allows the step; otherwise AssertionError: a status is ours, never a peer's."""
    assert then in TRANSITIONS[now], f"run status: {now} -> {then}"
    return then
