"""The answer of a chat-completions service: bytes of the body in, model events out.

The format is spoken by dozens of servers that each take it a little differently; what is accepted:

- a stream of events (the rule), or one JSON object (a service that does not stream); error objects in either;
- tool calls in fragments by index, without index, without id, whole, with the name repeated, with the input as an
  object, and the older `function_call`;
- any finish reason or none before `[DONE]`. The finish is told last, when `[DONE]` or the end of the body shows
  that nothing follows it; a body that ends before a finish was a cut connection.

Text may come with half of a surrogate pair (an emoji split over two chunks): the half waits for the next delta.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import attrs
import orjson

from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.providers.faults import SHOWN_MAX, error_of_object, not_an_answer, shown
from engine.providers.sse import EventSplitter
from engine.transcript.records import Finish, Usage

_FINISHES: Final[dict[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_DONE: Final = b"[DONE]"
# A count of tokens above this is nonsense: what JSON readers elsewhere still take for an integer.
_TOKENS_MAX: Final = 2**53 - 1
# Characters in UTF-8 take at most this many bytes.
_BYTES_PER_CHARACTER: Final = 4
_LONE: Final = "�"

# Characters of a tool's name: providers allow 64, more is not a name of ours.
_NAME_MAX: Final = 256
_BEFORE_BODY: Final = b"\xef\xbb\xbf \t\r\n"

# Where text goes: the answer, the reasoning, or the input of the call at an index.
_Channel = Literal["text", "reasoning"] | int


@attrs.define(slots=True)
class _Call:
    index: int  # its place in the answer
    call_id: str
    name: str
    last: str = ""  # the last character of the input so far
    early: str = ""  # input that came before the name


class OpenAIDecoder:
    """A Decoder (see engine.providers.base)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._characters = max(1, limits.delta_bytes // _BYTES_PER_CHARACTER)
        self._splitter = EventSplitter(limits.provider_event_bytes)
        self._kind: Literal["unknown", "events", "json"] = "unknown"
        self._body = bytearray()  # of a JSON answer
        self._head = b""  # the begin of a stream, for an error that nothing else explains
        self._events = 0
        self._calls: dict[int | str, _Call] = {}  # by the service's index or id, or place in its list
        self._newest: _Call | None = None
        self._count = 0  # of calls
        self._half: tuple[_Channel, str] | None = None
        self._refused = False
        self._finish: str | None = None
        self._usage: Usage | None = None
        self.done = False
        self.error: PeerError | None = None

    @property
    def finished(self) -> bool:
        return self.done or self._finish is not None

    def feed(self, data: bytes) -> list[ModelEvent]:
        out: list[ModelEvent] = []
        if self.error is None:
            try:
                self._feed(data, out)
            except PeerError as exc:
                self.error = exc
            self._report_usage(out)
        return out

    def close(self) -> list[ModelEvent]:
        out: list[ModelEvent] = []
        if self.error is None and not self.done:
            try:
                if self._kind == "json":
                    self._whole(out)
                else:
                    self._last(out)
                if not self.done:
                    self._end(out)
            except PeerError as exc:
                self.error = exc
            self._report_usage(out)
        return out

    def _feed(self, data: bytes, out: list[ModelEvent]) -> None:
        if self._kind != "events":
            data = self._sniff(data)
        for payload in self._splitter.feed(data) if data else ():
            if not self.done:
                self._payload(payload, out)
        if self._splitter.error is not None and not self.done:
            raise self._splitter.error

    def _report_usage(self, out: list[ModelEvent]) -> None:
        """Once a batch: some services repeat it with every delta."""
        if self._usage is not None:
            out.append(UsageReported(self._usage))
            self._usage = None

    # ------------------------------------------------------------ bodies
    def _sniff(self, data: bytes) -> bytes:
        """Tell events from JSON and pages by the first byte that is no space. Returns what the splitter gets."""
        if self._kind == "unknown":
            data = data.lstrip(_BEFORE_BODY)
            if data[:1] == b"<":
                raise not_an_answer(data)
            if data[:1] in (b"{", b"["):
                self._kind = "json"
            elif data:
                self._kind = "events"
                self._head = data[: SHOWN_MAX + 1]
                return data
        most = self._limits.provider_event_bytes
        if len(self._body) + len(data) > most:
            raise PeerError("provider_error", f"the model's service sent a body over {most:,} bytes that is no stream")
        self._body += data
        return b""

    def _whole(self, out: list[ModelEvent]) -> None:
        """An answer that was not streamed."""
        body = bytes(self._body)
        value = _parse(body)
        if value is _NOT_JSON:
            raise PeerError(
                "provider_error", f"the model's service sent JSON that is broken or was cut: {shown(body)}", retry=True
            )
        if type(value) is list and value:
            value = value[0]  # one service wraps its errors so
        if not self._object(value, body, out):
            raise PeerError("provider_error", f"the model's service sent what is no answer: {shown(body)}")
        self._end(out)

    def _last(self, out: list[ModelEvent]) -> None:
        """What the end of the body leaves of a stream."""
        payload = self._splitter.close()
        if payload is not None and (payload == _DONE or _parse(payload) is not _NOT_JSON):
            self._payload(payload, out)
        if self.finished:
            return
        if not self._events and self._head:
            raise not_an_answer(self._head)
        what = "before its answer was complete" if self._events else "without an answer"
        raise PeerError("provider_error", f"the connection to the model's service was cut {what}", retry=True)

    # ------------------------------------------------------------ one event
    def _payload(self, payload: bytes, out: list[ModelEvent]) -> None:
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError:
            if payload.strip() == _DONE:
                self._end(out)
                return
            value = _parse(payload)
            if value is _NOT_JSON:
                raise PeerError(
                    "provider_error", f"the model's service sent an event that is not JSON: {shown(payload)}"
                ) from None
            self._object(value, payload, out)
            return
        try:
            # What nearly every event of a stream is: a piece of text and nothing else.
            choice = value["choices"][0]
            delta = choice["delta"]
            text = delta["content"]
            if (
                type(text) is str
                and 0 < len(text) <= self._characters
                and self._half is None
                and choice.get("finish_reason") is None
                and not choice.get("index")
                and len(delta) <= 2
                and (len(delta) == 1 or "role" in delta)
                and not value.get("usage")
                and not value.get("error")
            ):
                self._events += 1
                out.append(TextDelta(text))
                return
        except (LookupError, TypeError, AttributeError):
            pass  # another shape
        self._object(value, payload, out)

    def _object(self, value: Any, raw: bytes, out: list[ModelEvent]) -> bool:
        """A chunk, a whole answer or an error, in any shape. False for an object that says nothing to us."""
        if type(value) is not dict:
            raise PeerError("provider_error", f"the model's service sent what is no answer: {shown(raw)}")
        choices = value.get("choices")
        if value.get("error") or (choices is None and value.get("object") == "error"):
            raise error_of_object(value)
        if choices is None and {"message", "detail"} & value.keys():
            raise error_of_object(value)
        if type(value.get("usage")) is dict:
            self._usage = _usage(value["usage"])
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict and choice.get("index") in (0, None):
                self._choice(choice, out)
        told = choices is not None or type(value.get("usage")) is dict
        self._events += told
        return told

    def _choice(self, choice: dict[str, Any], out: list[ModelEvent]) -> None:
        if choice.get("error"):
            raise error_of_object(choice)
        delta = choice.get("delta")
        if type(delta) is not dict and not self._events:
            # An answer that was not streamed. Some services also repeat the whole at the end of a stream.
            delta = choice.get("message")
        if type(delta) is dict:
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            if type(reasoning) is str:
                self._text("reasoning", reasoning, out)
            content = delta.get("content")
            if type(content) is str:
                self._text("text", content, out)
            elif type(content) is list:
                for piece in content:
                    if type(piece) is dict and type(piece.get("text")) is str:
                        self._text("text", piece["text"], out)
            refusal = delta.get("refusal")
            if type(refusal) is str and refusal:
                self._refused = True
                self._text("text", refusal, out)
            calls = delta.get("tool_calls")
            for place, call in enumerate(calls if type(calls) is list else ()):
                if type(call) is dict:
                    self._call(call, call.get("function"), place, out)
            if type(delta.get("function_call")) is dict:
                self._call({"index": 0}, delta["function_call"], 0, out)
        finish = choice.get("finish_reason")
        if type(finish) is str and finish:
            self._finish = finish

    # ------------------------------------------------------------ tool calls
    def _call(self, fragment: dict[str, Any], function: Any, place: int, out: list[ModelEvent]) -> None:
        function = function if type(function) is dict else {}
        name = function.get("name")
        name = name[:_NAME_MAX].encode("utf-8", "replace").decode() if type(name) is str else ""
        text = function.get("arguments")
        if type(text) is dict:
            text = json.dumps(text)
        text = text if type(text) is str else ""
        call = self._which(fragment, place, name, text)
        if call is None:
            return
        if name and not call.name:
            call.name = name
            out.append(ToolCallStarted(call.index, call.call_id, name))
            text, call.early = call.early + text, ""
        if not text:
            return
        call.last = text.rstrip()[-1:] or call.last
        if call.name:
            self._text(call.index, text, out)
        else:
            call.early += text
            if len(call.early) > self._limits.tool_input_bytes:
                raise PeerError("provider_error", "the model's service sent the input of a tool call without its name")

    def _which(self, fragment: dict[str, Any], place: int, name: str, text: str) -> _Call | None:
        """The call that a fragment belongs to. None for calls far beyond what a turn may have."""
        call_id = fragment.get("id")
        call_id = call_id if type(call_id) is str else ""
        index = fragment.get("index")
        # Without an index the id tells; without either the place in the list, so that whole calls stay apart.
        key: int | str = index if type(index) is int else (call_id or f"place {place}")
        call = self._calls.get(key)
        if call is None and type(index) is not int and not call_id and not name:
            call = self._newest
        if call is not None:
            same = (
                (not call_id or not call.call_id or call_id == call.call_id)
                and (not name or not call.name or name == call.name)
                # Two whole inputs in a row under one place: in JSON no } is followed by {.
                and not (name and type(index) is not int and call.last == "}" and text.lstrip()[:1] == "{")
            )
            if same:
                call.call_id = call.call_id or call_id
                return call
        if self._count > self._limits.tool_calls_per_turn:
            return None
        call = self._calls[key] = self._newest = _Call(self._count, call_id, "")
        self._count += 1
        return call

    # ------------------------------------------------------------ text
    def _text(self, channel: _Channel, text: str, out: list[ModelEvent]) -> None:
        """Deltas of one piece of text: whole pairs of surrogates, at most `delta_bytes` each."""
        if self._half is not None or not text.isascii():
            text = self._whole_pairs(channel, text, out)
        for start in range(0, len(text), self._characters):
            out.append(_delta(channel, text[start : start + self._characters]))

    def _whole_pairs(self, channel: _Channel, text: str, out: list[ModelEvent]) -> str:
        if self._half is not None and text:
            if self._half[0] == channel:
                text = self._half[1] + text
                self._half = None
            else:
                self._give_up_half(out)
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._half = (channel, text[-1])
            text = text[:-1]
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def _give_up_half(self, out: list[ModelEvent]) -> None:
        if self._half is not None:
            out.append(_delta(self._half[0], _LONE))
            self._half = None

    # ------------------------------------------------------------ the end
    def _end(self, out: list[ModelEvent]) -> None:
        self.done = True
        self._give_up_half(out)
        if any(not call.name for call in self._calls.values()):
            raise PeerError("provider_error", "the model's service sent a tool call without a name")
        if not self._events:
            raise PeerError("provider_error", "the model's service ended its answer without a word", retry=True)
        finish = _FINISHES.get(self._finish or "stop", "stop")
        if self._refused:
            finish = "content_filter"
        elif self._calls and finish == "stop":
            finish = "tool_calls"
        out.append(AnswerFinished(finish))


class _NotJson:
    pass


_NOT_JSON: Final = _NotJson()


def _parse(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        if b"\\ud" not in payload and b"\\uD" not in payload:
            return _NOT_JSON
    try:
        # A lone half of a surrogate pair, which orjson refuses.
        return json.loads(payload)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _delta(channel: _Channel, text: str) -> ModelEvent:
    if channel == "text":
        return TextDelta(text)
    if channel == "reasoning":
        return ReasoningDelta(text)
    return ToolInputDelta(channel, text)


def _usage(value: dict[str, Any]) -> Usage:
    """`input_tokens` counts the whole prompt, `cache_read_tokens` the part of it that came from a cache."""
    prompt = value.get("prompt_tokens_details")
    completion = value.get("completion_tokens_details")
    prompt = prompt if type(prompt) is dict else {}
    completion = completion if type(completion) is dict else {}
    return Usage(
        input_tokens=_tokens(value.get("prompt_tokens")),
        output_tokens=_tokens(value.get("completion_tokens")),
        reasoning_tokens=_tokens(completion.get("reasoning_tokens")),
        cache_read_tokens=_tokens(prompt.get("cached_tokens", value.get("prompt_cache_hit_tokens"))),
    )


def _tokens(value: Any) -> int:
    return min(max(value, 0), _TOKENS_MAX) if type(value) is int else 0
