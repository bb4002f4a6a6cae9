"""The events of a run: flat records, one class a type.

An event is an immutable fact; its number (`seq`) and time (`at`) are given when the replay log takes it. Deltas
have no record on the hot path: the log keeps their escaped text (see engine.runs.log). `encode` gives the inside
of an event's JSON object without number and time, `decode` reads a whole event as it stands on the wire.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final, Literal

import attrs

from engine import codec
from engine.runs.lifecycle import Status
from engine.transcript.records import Failure, Finish, PartKind, ToolState, Usage

Decision = Literal["allow", "allow_always", "deny", "cancel"]
DecidedBy = Literal["client", "rule", "expiry", "stop", "restart", "call"]


@attrs.frozen(slots=True, kw_only=True)
class RunStarted:
    """Always the first. `message` is the user's message as the wire shows it (encoded JSON)."""

    session_id: str
    model: str
    message: bytes


@attrs.frozen(slots=True, kw_only=True)
class RunStatus:
    status: Status


@attrs.frozen(slots=True, kw_only=True)
class TurnStarted:
    turn: int
    message_id: str


@attrs.frozen(slots=True, kw_only=True)
class PartStarted:
    part_id: str
    message_id: str
    kind: PartKind


@attrs.frozen(slots=True, kw_only=True)
class PartDelta:
    """Text appended to a text or reasoning part. Concatenated in order they give its text."""

    part_id: str
    text: str


@attrs.frozen(slots=True, kw_only=True)
class PartFinished:
    """`bytes` is the length of the part's text in UTF-8 (0 without text). Kinds without deltas carry `part`."""

    part_id: str
    kind: PartKind
    bytes: int
    part: Any = None


@attrs.frozen(slots=True, kw_only=True)
class ToolUpdated:
    """`input` is the call's input as JSON."""

    part_id: str
    call_id: str
    tool: str
    state: ToolState
    title: str | None = None
    input: Any = None
    output: str | None = None
    error: str | None = None
    output_more: Any = None
    error_more: Any = None
    input_more: Any = None


@attrs.frozen(slots=True, kw_only=True)
class ToolOutput:
    """A live preview of a tool's output; may be thinned, is never history."""

    call_id: str
    text: str


@attrs.frozen(slots=True, kw_only=True)
class ApprovalRequested:
    """`question` says to a person what is asked; `expires_at` in ms (UTC). With `parent_call_id` it is a question that
    a tool asks in that call: `call_id` is its own then, and `input` has its `message` and `schema`."""

    call_id: str
    tool: str
    input: Any
    question: str | None = None
    expires_at: int | None = None
    input_more: Any = None
    parent_call_id: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class ApprovalResolved:
    call_id: str
    decision: Decision
    by: DecidedBy


@attrs.frozen(slots=True, kw_only=True)
class TurnFinished:
    turn: int
    finish: Finish
    usage: Usage


@attrs.frozen(slots=True, kw_only=True)
class RetryScheduled:
    attempt: int
    max_attempts: int
    delay_ms: int
    reason: str


@attrs.frozen(slots=True, kw_only=True)
class CompactionStarted:
    pass


@attrs.frozen(slots=True, kw_only=True)
class CompactionFinished:
    kept_from: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class MessageSteered:
    message: bytes


@attrs.frozen(slots=True, kw_only=True)
class RunFinished:
    """Always the last, always small: it follows the work it ends and never carries history."""

    status: Status
    usage: Usage
    reason: str | None = None
    error: Failure | None = None


Event = (
    RunStarted | RunStatus | TurnStarted | PartStarted | PartDelta | PartFinished | ToolUpdated | ToolOutput
    | ApprovalRequested | ApprovalResolved | TurnFinished | RetryScheduled | CompactionStarted
    | CompactionFinished | MessageSteered | RunFinished
)  # fmt: skip

TYPES: Final = MappingProxyType[str, type[Event]](
    {
        "run.started": RunStarted,
        "run.status": RunStatus,
        "turn.started": TurnStarted,
        "part.started": PartStarted,
        "part.delta": PartDelta,
        "part.finished": PartFinished,
        "tool.updated": ToolUpdated,
        "tool.output": ToolOutput,
        "approval.requested": ApprovalRequested,
        "approval.resolved": ApprovalResolved,
        "turn.finished": TurnFinished,
        "retry.scheduled": RetryScheduled,
        "compaction.started": CompactionStarted,
        "compaction.finished": CompactionFinished,
        "message.steered": MessageSteered,
        "run.finished": RunFinished,
    }
)
TYPE_OF: Final = MappingProxyType[type[Event], str]({cls: name for name, cls in TYPES.items()})
_HEADS: Final = {cls: b'"type":"%s"' % name.encode() for cls, name in TYPE_OF.items()}


@attrs.frozen(slots=True)
class Numbered:
    """An event as a watcher gets it. `first` < `seq` when adjacent deltas were merged. `at` is in ms (UTC)."""

    seq: int
    first: int
    at: int
    event: Event


def encode(event: Event) -> bytes:
    """The inside of the event's JSON object, without braces, `seq` and `at`: `"type":"…","turn":1`."""
    body = codec.dump(event)
    head = _HEADS[type(event)]
    return head if body == b"{}" else head + b"," + body[1:-1]


def decode(value: codec.Json) -> Numbered | None:
    """An event from its JSON object; None for a type that this version does not know (readers ignore it)."""
    cls = TYPES.get(value.get("type", ""))
    if cls is None:
        return None
    seq = int(value["seq"])
    return Numbered(seq, int(value.get("from", seq)), int(value["at"]), codec.lean(value, cls))
