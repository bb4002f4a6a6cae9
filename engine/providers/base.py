"""What every provider gives and takes: the request of one model call, and the events of its answer.

A decoder is sans-I/O: `feed(bytes) -> list[ModelEvent]`, then `close() -> list[ModelEvent]` at the end of the
body. What the service did wrong is its `error`, a PeerError("provider_error" | "context_overflow") with `retry`
saying whether the same call may succeed later: the events before it are given first, and nothing follows them. It
never holds more than `limits.provider_event_bytes` of undecoded input.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import attrs

from engine.errors import PeerError
from engine.tools.spec import ToolSpec
from engine.transcript.records import Finish, Message, Usage


@attrs.frozen(slots=True)
class TextDelta:
    text: str  # never empty, never half of a surrogate pair


@attrs.frozen(slots=True)
class ReasoningDelta:
    text: str


@attrs.frozen(slots=True)
class ReasoningFinished:
    """The piece of reasoning so far is whole; without text before it, a piece that has none. `signature` is the
    service's proof of it, which goes back with the results of this answer's calls; None if it gives none."""

    signature: str | None


@attrs.frozen(slots=True)
class ToolCallStarted:
    """A new tool call. `index` is its place in this answer; `call_id` is the provider's, or empty if it has none."""

    index: int
    call_id: str
    name: str  # as towards the provider: toolset__tool


@attrs.frozen(slots=True)
class ToolInputDelta:
    """A fragment of the call's input (JSON text). Concatenated they are the input."""

    index: int
    text: str


@attrs.frozen(slots=True)
class UsageReported:
    """Tokens of this call so far; a later report replaces an earlier one."""

    usage: Usage


@attrs.frozen(slots=True)
class AnswerFinished:
    """Exactly one a call, after all of its deltas (usage may still follow)."""

    finish: Finish


ModelEvent = (
    TextDelta | ReasoningDelta | ReasoningFinished | ToolCallStarted | ToolInputDelta | UsageReported | AnswerFinished
)


# Bytes of a blob: its hash, from where on, how many at most; fewer at its end. Raises PeerError.
ReadMedia = Callable[[str, int, int], Awaitable[bytes]]


@attrs.frozen(slots=True, kw_only=True)
class ModelRequest:
    """One model call: all that an encoder needs. `messages` is the window, oldest first, valid for a provider
    (every tool call has its result). `media` reads what stands in it as a marker (engine.transcript.media).
    `session_id` is set if this is a step of the session: what is kept of its requests is what this one has."""

    model: str  # the name that the endpoint knows
    instructions: str | None
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    media: ReadMedia | None = None
    session_id: str | None = None


class Decoder(Protocol):
    """`finished` once the service said how its answer ends: a connection that breaks or falls silent after that has
    taken nothing, and `close` gives the rest. `done` once nothing can follow."""

    error: PeerError | None
    done: bool

    @property
    def finished(self) -> bool: ...

    def feed(self, data: bytes) -> list[ModelEvent]: ...

    def close(self) -> list[ModelEvent]: ...


class Encoder(Protocol):
    """Body of a request as pieces of bytes (joined they are one JSON document)."""

    def __call__(self, request: ModelRequest) -> Iterable[bytes]: ...
