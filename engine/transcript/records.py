"""The records of a transcript: two message kinds and twelve part kinds, each with one fixed set of fields.

Frozen and slotted: a record is never shared mutably and its memory does not depend on which optional fields
are set. Free-form JSON (the input of a tool call) stays encoded as bytes and is decoded on demand. Records know
nothing of storage or the wire; KINDS is the one tag table. Times are integer milliseconds since the epoch (UTC).
Order is given by the store's integers, never by ids or times.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

import attrs

Role = Literal["user", "assistant"]
Finish = Literal["stop", "tool_calls", "length", "content_filter", "max_turns", "error", "cancelled", "interrupted"]
Form = Literal["whole", "cleared", "cut"]
ToolState = Literal["pending", "running", "completed", "error"]
PartKind = Literal[
    "text", "reasoning", "file", "tool", "step-start", "step-finish",
    "snapshot", "patch", "agent", "subtask", "retry", "compaction",
]  # fmt: skip


# After the point of a cost: a billionth, of which a token of the cheapest models costs dozens.
COST_DIGITS: Final = 9


@attrs.frozen(slots=True, kw_only=True)
class Usage:
    """Tokens of one or more model calls; `cost` in the configuration's currency, absent if no price is known. It is
    rounded to COST_DIGITS (see engine.prices), sums too."""

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost=round(sum(costs), COST_DIGITS) if costs else None,
        )


NO_USAGE: Final = Usage()


@attrs.frozen(slots=True, kw_only=True)
class Failure:
    """Why a run or message ended badly: a wire code and one sentence."""

    code: str
    message: str


# ------------------------------------------------------------------ messages
@attrs.frozen(slots=True, kw_only=True)
class UserMessage:
    """What a person or program sent. `run_id` is the run that it started."""

    id: str
    created_at: int
    run_id: str | None = None
    parent_id: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class AssistantMessage:
    """One turn of a model. `finish` is absent while it is being written; `parent_id` is the user message."""

    id: str
    created_at: int
    run_id: str | None = None
    parent_id: str | None = None
    finished_at: int | None = None
    model: str | None = None
    finish: Finish | None = None
    error: Failure | None = None
    usage: Usage | None = None


MessageInfo = UserMessage | AssistantMessage


# ------------------------------------------------------------------ parts
@attrs.frozen(slots=True, kw_only=True)
class Blob:
    """Content that the store owns as a file. `handle` is the name that it is read by, `hash` its SHA-256 in hex."""

    handle: str
    hash: str
    size: int  # bytes


@attrs.frozen(slots=True, kw_only=True)
class TextPart:
    id: str
    text: str


@attrs.frozen(slots=True, kw_only=True)
class ReasoningPart:
    """A model's thinking. `signature` is a provider's opaque proof, sent back unchanged."""

    id: str
    text: str
    signature: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class FilePart:
    """A file or medium: inline as `data_base64`, or behind `handle` when the store owns it as a blob (see Blob).
    `call_id` is that of the tool call which gave it."""

    id: str
    mime: str
    size: int  # bytes, decoded
    name: str | None = None
    handle: str | None = None
    hash: str | None = None
    data_base64: str | None = None
    call_id: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class ToolPart:
    """One tool call with its result. `input` is encoded JSON (an object), `output` text; times as in messages.
    `whole` has all that the tool gave, if `output` (or `error`) is its head and tail."""

    id: str
    call_id: str
    tool: str  # toolset.tool
    state: ToolState
    input: bytes = b"{}"
    output: str | None = None
    error: str | None = None
    whole: Blob | None = None
    title: str | None = None
    started_at: int | None = None
    finished_at: int | None = None


@attrs.frozen(slots=True, kw_only=True)
class StepStartPart:
    id: str
    turn: int  # from 1 in each run


@attrs.frozen(slots=True, kw_only=True)
class StepFinishPart:
    id: str
    turn: int
    finish: Finish
    usage: Usage


@attrs.frozen(slots=True, kw_only=True)
class SnapshotPart:
    """A named state of the working folder. Stored and shown; nothing produces it yet."""

    id: str
    snapshot: str


@attrs.frozen(slots=True, kw_only=True)
class PatchPart:
    """A change of one file. Hashes are of the whole content before and after, sizes in bytes."""

    id: str
    path: str
    before: str | None = None
    after: str | None = None
    size: int = 0


@attrs.frozen(slots=True, kw_only=True)
class AgentPart:
    """A mention of another agent. Stored and shown; nothing produces it yet."""

    id: str
    name: str


@attrs.frozen(slots=True, kw_only=True)
class SubtaskPart:
    """Work handed to another agent. Stored and shown; nothing produces it yet."""

    id: str
    agent: str
    description: str
    prompt: str


@attrs.frozen(slots=True, kw_only=True)
class RetryPart:
    """One repeated model call. `delay_ms` was waited before it."""

    id: str
    attempt: int
    reason: str
    delay_ms: int


@attrs.frozen(slots=True, kw_only=True)
class CompactionPart:
    """A summary that stands for all before `kept_from`, the id of the first message still sent as it is."""

    id: str
    summary: str
    kept_from: str | None = None


Part = (
    TextPart | ReasoningPart | FilePart | ToolPart | StepStartPart | StepFinishPart
    | SnapshotPart | PatchPart | AgentPart | SubtaskPart | RetryPart | CompactionPart
)  # fmt: skip

KINDS: Final = MappingProxyType[PartKind, type[Part]](
    {
        "text": TextPart,
        "reasoning": ReasoningPart,
        "file": FilePart,
        "tool": ToolPart,
        "step-start": StepStartPart,
        "step-finish": StepFinishPart,
        "snapshot": SnapshotPart,
        "patch": PatchPart,
        "agent": AgentPart,
        "subtask": SubtaskPart,
        "retry": RetryPart,
        "compaction": CompactionPart,
    }
)
KIND_OF: Final = MappingProxyType[type[Part], PartKind]({cls: kind for kind, cls in KINDS.items()})


@attrs.frozen(slots=True)
class Message:
    """A message with its parts in order. `form` says what a model is shown of it (engine.transcript.pruning): all,
    without old results of its calls, or with its long strings cut. `revision` is that of the rows that it was read
    from, which rises with each change of them; 0 if it was not read, or is still growing."""

    info: MessageInfo
    parts: tuple[Part, ...]
    form: Form = "whole"
    revision: int = attrs.field(default=0, eq=False)

    @property
    def role(self) -> Role:
        return "user" if isinstance(self.info, UserMessage) else "assistant"
