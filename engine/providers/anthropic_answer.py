"""The answer of a messages service: bytes of the body in, model events out.

- A stream of typed events, or one JSON object (a service that does not stream); error objects in either. Events,
  blocks and deltas of other types are passed over: the format is meant to grow.
- A call's input comes in fragments, or whole with the start of its block.
- Thinking ends with its signature, which the service wants back with the results of the calls that follow. What is
  stored is `thinking:` and the signature, or `redacted_thinking:` and the data of a block that has no text: to all
  but this format a signature is opaque.
- The finish is told last: at `message_stop`, or at the end of a body that has told its `stop_reason`. A body that
  ends before was a cut connection.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.answer import AnswerDecoder, no_answer, parse_event, tokens, tool_name, whole_input
from engine.providers.base import AnswerFinished, ModelEvent, ReasoningFinished, ToolCallStarted
from engine.providers.faults import error_of_object
from engine.transcript.records import Finish, Usage

THINKING: Final = "thinking"
REDACTED: Final = "redacted_thinking"

_FINISHES: Final[dict[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # a tool of the service's own took too long: the answer is not whole
    "refusal": "content_filter",
}
# What the service answers with before a stream began; in a stream the type is all there is.
_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@attrs.define(slots=True)
class _Call:
    index: int  # its place among the calls
    whole: str  # the input that came with the start, for want of fragments


class AnthropicDecoder(AnswerDecoder):
    """A Decoder (see engine.providers.base)."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._calls: dict[int, _Call] = {}  # of open blocks, by their index
        self._count = 0  # of calls
        self._thinking: int | None = None  # the index of the open block
        self._signature = ""  # of it, so far
        self._counts: dict[str, Any] = {}  # the newest of each of the service's counts

    # ------------------------------------------------------------ one event
    def _payload(self, payload: bytes, out: list[ModelEvent]) -> None:
        self._object(parse_event(payload), payload, out)

    def _object(self, value: Any, raw: bytes, out: list[ModelEvent]) -> bool:
        if type(value) is not dict:
            raise no_answer(raw)
        kind = value.get("type")
        match kind:
            case "content_block_delta":
                self._block_delta(_index(value), _inner(value, "delta"), out)
            case "content_block_start":
                self._block_started(_index(value), _inner(value, "content_block"), out)
            case "content_block_stop":
                self._block_stopped(_index(value), out)
            case "message_start":
                message = _inner(value, "message")
                self._counted(message.get("usage"))
            case "message_delta":
                self._stopped(_inner(value, "delta"))
                self._counted(value.get("usage"))
            case "message_stop":
                self._end(out)
                return True
            case "message":
                self._message(value, out)
            case _:
                if value.get("error") or kind == "error" or (kind is None and {"message", "detail"} & value.keys()):
                    raise _error(value)
                return False
        self._events += 1
        return True

    def _message(self, message: dict[str, Any], out: list[ModelEvent]) -> None:
        """An answer that was not streamed."""
        content = message.get("content")
        for index, block in enumerate(content if type(content) is list else ()):
            if type(block) is dict:
                self._block_started(index, block, out)
                self._block_stopped(index, out)
        self._stopped(message)
        self._counted(message.get("usage"))

    def _stopped(self, message: dict[str, Any]) -> None:
        reason = message.get("stop_reason")
        if type(reason) is str and reason:
            self._finish = reason

    # ------------------------------------------------------------ blocks
    def _block_started(self, index: int, block: dict[str, Any], out: list[ModelEvent]) -> None:
        self._end_thinking(out)
        match block.get("type"):
            case "text":
                self._text("text", _string(block, "text"), out)
            case "thinking":
                self._thinking = index
                self._text("reasoning", _string(block, "thinking"), out)
                self._sign(_string(block, "signature"))
            case "redacted_thinking":
                self._give_up_half(out)
                out.append(ReasoningFinished(f"{REDACTED}:{_unicode(_string(block, 'data'))}"))
            case "tool_use":
                self._call(index, block, out)

    def _block_delta(self, index: int, delta: dict[str, Any], out: list[ModelEvent]) -> None:
        match delta.get("type"):
            case "text_delta":
                self._text("text", _string(delta, "text"), out)
            case "input_json_delta":
                call = self._calls.get(index)
                text = _string(delta, "partial_json")
                if call is not None and text:
                    call.whole = ""
                    self._text(call.index, text, out)
            case "thinking_delta":
                self._thinking = index
                self._text("reasoning", _string(delta, "thinking"), out)
            case "signature_delta":
                self._thinking = index
                self._sign(_string(delta, "signature"))

    def _block_stopped(self, index: int, out: list[ModelEvent]) -> None:
        if index == self._thinking:
            self._end_thinking(out)
        call = self._calls.pop(index, None)
        if call is not None and call.whole:
            self._text(call.index, call.whole, out)

    def _call(self, index: int, block: dict[str, Any], out: list[ModelEvent]) -> None:
        name = tool_name(block.get("name"))
        if not name:
            raise PeerError("provider_error", "the model's service sent a tool call without a name")
        if self._count > self._limits.tool_calls_per_turn:
            return  # far beyond what a turn may have
        whole = block.get("input")
        self._give_up_half(out)
        self._calls[index] = _Call(self._count, whole_input(whole) if whole else "")
        out.append(ToolCallStarted(self._count, _unicode(_string(block, "id")), name))
        self._count += 1

    def _sign(self, piece: str) -> None:
        self._signature += piece
        if len(self._signature) > self._limits.provider_event_bytes:
            raise PeerError("provider_error", "the model's service sent a signature without an end")

    def _end_thinking(self, out: list[ModelEvent]) -> None:
        if self._thinking is not None:
            self._give_up_half(out)
            signature, self._signature, self._thinking = _unicode(self._signature), "", None
            out.append(ReasoningFinished(f"{THINKING}:{signature}" if signature else None))

    # ------------------------------------------------------------ counts and the end
    def _counted(self, usage: Any) -> None:
        """The service tells some counts at the start and some at the end, each the total so far."""
        if type(usage) is dict:
            self._counts |= {name: usage[name] for name in _COUNTS if usage.get(name) is not None}
            self._usage = _usage(self._counts)

    def _end(self, out: list[ModelEvent]) -> None:
        self._complete(out)
        self._end_thinking(out)
        for call in self._calls.values():
            if call.whole:
                self._text(call.index, call.whole, out)
        finish = _FINISHES.get(self._finish or "end_turn", "stop")
        if self._count and finish == "stop":
            finish = "tool_calls"
        out.append(AnswerFinished(finish))


_COUNTS: Final = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens_details",
)  # fmt: skip


def _usage(counts: dict[str, Any]) -> Usage:
    """The service's `input_tokens` leave out what a cache read or wrote; ours count the whole prompt."""
    read, written = tokens(counts.get("cache_read_input_tokens")), tokens(counts.get("cache_creation_input_tokens"))
    details = counts.get("output_tokens_details")
    return Usage(
        input_tokens=tokens(counts.get("input_tokens")) + read + written,
        output_tokens=tokens(counts.get("output_tokens")),
        reasoning_tokens=tokens(details.get("thinking_tokens")) if type(details) is dict else 0,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def _error(value: dict[str, Any]) -> PeerError:
    error = value.get("error")
    kind = error.get("type") if type(error) is dict else None
    return error_of_object(value, status=_STATUSES.get(kind) if type(kind) is str else None)


def _index(value: dict[str, Any]) -> int:
    index = value.get("index")
    return index if type(index) is int else 0


def _inner(value: dict[str, Any], name: str) -> dict[str, Any]:
    inner = value.get(name)
    return inner if type(inner) is dict else {}


def _string(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    return text if type(text) is str else ""


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
