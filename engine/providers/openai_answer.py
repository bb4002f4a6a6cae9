"""The answer of a chat-completions service: bytes of the body in, model events out.

The format is spoken by dozens of servers that each take it a little differently; what is accepted:

- a stream of events (the rule), or one JSON object (a service that does not stream); error objects in either;
- tool calls in fragments by index, without index, without id, whole, with the name repeated, with the input as an
  object, and the older `function_call`;
- any finish reason or none before `[DONE]`. The finish is told last, when `[DONE]` or the end of the body shows
  that nothing follows it; a body that ends before a finish was a cut connection.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import orjson

from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.answer import AnswerDecoder, no_answer, parse_event, tokens, tool_name, whole_input
from engine.providers.base import AnswerFinished, ModelEvent, TextDelta, ToolCallStarted
from engine.providers.faults import error_of_object
from engine.transcript.records import Finish, Usage

_FINISHES: Final[dict[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_DONE: Final = b"[DONE]"


@attrs.define(slots=True)
class _Call:
    index: int  # its place in the answer
    call_id: str
    name: str
    last: str = ""  # the last character of the input so far
    early: str = ""  # input that came before the name


class OpenAIDecoder(AnswerDecoder):
    """A Decoder (see engine.providers.base)."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._calls: dict[int | str, _Call] = {}  # by the service's index or id, or place in its list
        self._newest: _Call | None = None
        self._count = 0  # of calls
        self._refused = False

    def _ends_a_stream(self, payload: bytes) -> bool:
        return payload == _DONE or super()._ends_a_stream(payload)

    # ------------------------------------------------------------ one event
    def _payload(self, payload: bytes, out: list[ModelEvent]) -> None:
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError:
            if payload.strip() == _DONE:
                self._end(out)
                return
            self._object(parse_event(payload), payload, out)
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
            raise no_answer(raw)
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
        name = tool_name(function.get("name"))
        text = function.get("arguments")
        if type(text) is dict:
            text = whole_input(text)
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

    # ------------------------------------------------------------ the end
    def _end(self, out: list[ModelEvent]) -> None:
        self._complete(out)
        if any(not call.name for call in self._calls.values()):
            raise PeerError("provider_error", "the model's service sent a tool call without a name")
        finish = _FINISHES.get(self._finish or "stop", "stop")
        if self._refused:
            finish = "content_filter"
        elif self._calls and finish == "stop":
            finish = "tool_calls"
        out.append(AnswerFinished(finish))


def _usage(value: dict[str, Any]) -> Usage:
    """`input_tokens` counts the whole prompt, `cache_read_tokens` the part of it that came from a cache."""
    prompt = value.get("prompt_tokens_details")
    completion = value.get("completion_tokens_details")
    prompt = prompt if type(prompt) is dict else {}
    completion = completion if type(completion) is dict else {}
    return Usage(
        input_tokens=tokens(value.get("prompt_tokens")),
        output_tokens=tokens(value.get("completion_tokens")),
        reasoning_tokens=tokens(completion.get("reasoning_tokens")),
        cache_read_tokens=tokens(prompt.get("cached_tokens", value.get("prompt_cache_hit_tokens"))),
    )
