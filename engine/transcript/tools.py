"""The tool-state machine of one call, and its repair.

pending    the model is still writing the call, or it waits for a person or a free place
running    the tool works
completed  terminal: `output` is set
error      terminal: `error` is set; the model sees it as the result

A call reaches exactly one terminal state. A run that ends for any reason moves every open call to `error`
first, so that a provider never sees a call without a result.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import attrs

from engine.transcript.records import ToolPart, ToolState

TRANSITIONS: Final = MappingProxyType[ToolState, frozenset[ToolState]](
    {
        "pending": frozenset({"running", "error"}),
        "running": frozenset({"completed", "error"}),
        "completed": frozenset(),
        "error": frozenset(),
    }
)
TERMINAL: Final = frozenset(state for state, after in TRANSITIONS.items() if not after)


def advance(part: ToolPart, state: ToolState, **fields: object) -> ToolPart:
    """The part in its next state. A step that the table does not have is a defect and raises AssertionError."""
    assert state in TRANSITIONS[part.state], f"tool call {part.call_id}: {part.state} -> {state}"
    return attrs.evolve(part, state=state, **fields)  # type: ignore[arg-type]


def interrupt(part: ToolPart, why: str, now_ms: int) -> ToolPart:
    """The part with the result that a call gets when its run ends before the tool did."""
    return advance(part, "error", error=f"The call did not finish: {why}.", finished_at=now_ms)
