"""What the decoders of model services share: bodies told apart, text in whole characters, one end.

A body is a stream of events (the rule), or one JSON object (a service that does not stream, or an error with status
200); anything else is named in an error. Text may come with half of a surrogate pair (an emoji split over two
chunks): the half waits for the next delta of its channel.
"""

from __future__ import annotations

import abc
import json
from typing import Any, Final, Literal

import attrs
import orjson

from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.base import ModelEvent, ReasoningDelta, TextDelta, ToolInputDelta, UsageReported
from engine.providers.faults import SHOWN_MAX, not_an_answer, shown
from engine.providers.sse import EventSplitter
from engine.transcript.records import Usage

# A count of tokens above this is nonsense: what JSON readers elsewhere still take for an integer.
_TOKENS_MAX: Final = 2**53 - 1
# Characters in UTF-8 take at most this many bytes.
_BYTES_PER_CHARACTER: Final = 4
_LONE: Final = "�"
# Characters of a tool's name: providers allow 64, more is not a name of ours.
_NAME_MAX: Final = 256
_BEFORE_BODY: Final = b"\xef\xbb\xbf \t\r\n"

# Where text goes: the answer, the reasoning, or the input of the call at an index.
Channel = Literal["text", "reasoning"] | int


@attrs.frozen(slots=True)
class NotJson:
    """What `parse` gives for bytes that are none."""


NOT_JSON: Final = NotJson()


class AnswerDecoder(abc.ABC):
    """A Decoder (see engine.providers.base) of one service's format. A subclass takes what `_payload` and `_object`
    are given, sets `_finish` when the service says how its answer ends, and calls `_end` when nothing follows."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._characters = max(1, limits.delta_bytes // _BYTES_PER_CHARACTER)
        self._splitter = EventSplitter(limits.provider_event_bytes)
        self._kind: Literal["unknown", "events", "json"] = "unknown"
        self._body = bytearray()  # of a JSON answer
        self._head = b""  # the begin of a stream, for an error that nothing else explains
        self._events = 0  # that said something of the answer
        self._half: tuple[Channel, str] | None = None
        self._finish: str | None = None  # in the service's word
        self._usage: Usage | None = None
        self.done = False
        self.error: PeerError | None = None

    # ------------------------------------------------------------ of one format
    @abc.abstractmethod
    def _payload(self, payload: bytes, out: list[ModelEvent]) -> None:
        """The data of one event."""

    @abc.abstractmethod
    def _object(self, value: Any, raw: bytes, out: list[ModelEvent]) -> bool:
        """A JSON value: an event, a whole answer or an error, in any shape. False if it says nothing to us."""

    @abc.abstractmethod
    def _end(self, out: list[ModelEvent]) -> None:
        """The answer is complete: begins with `_complete`, and tells the finish last."""

    def _ends_a_stream(self, payload: bytes) -> bool:
        """Whether the data of an event that lacks its blank line is whole."""
        return parse(payload) is not NOT_JSON

    # ------------------------------------------------------------ the decoder
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
        value = parse(body)
        if value is NOT_JSON:
            raise PeerError(
                "provider_error", f"the model's service sent JSON that is broken or was cut: {shown(body)}", retry=True
            )
        if type(value) is list and value:
            value = value[0]  # one service wraps its errors so
        if not self._object(value, body, out):
            raise no_answer(body)

    def _last(self, out: list[ModelEvent]) -> None:
        """What the end of the body leaves of a stream."""
        payload = self._splitter.close()
        if payload is not None and self._ends_a_stream(payload):
            self._payload(payload, out)
        if self.finished:
            return
        if not self._events and self._head:
            raise not_an_answer(self._head)
        what = "before its answer was complete" if self._events else "without an answer"
        raise PeerError("provider_error", f"the connection to the model's service was cut {what}", retry=True)

    def _complete(self, out: list[ModelEvent]) -> None:
        self.done = True
        self._give_up_half(out)
        if not self._events:
            raise PeerError("provider_error", "the model's service ended its answer without a word", retry=True)

    # ------------------------------------------------------------ text
    def _text(self, channel: Channel, text: str, out: list[ModelEvent]) -> None:
        """Deltas of one piece of text: whole pairs of surrogates, at most `delta_bytes` each."""
        if self._half is not None or not text.isascii():
            text = self._whole_pairs(channel, text, out)
        for start in range(0, len(text), self._characters):
            out.append(_delta(channel, text[start : start + self._characters]))

    def _whole_pairs(self, channel: Channel, text: str, out: list[ModelEvent]) -> str:
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


def parse(payload: bytes) -> Any:
    """The value of JSON, NOT_JSON if it is none."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        if b"\\ud" not in payload and b"\\uD" not in payload:
            return NOT_JSON
    try:
        # A lone half of a surrogate pair, which orjson refuses.
        return json.loads(payload)
    except (ValueError, RecursionError):
        return NOT_JSON


def parse_event(payload: bytes) -> Any:
    """The value of an event's data. Raises PeerError if it is no JSON."""
    value = parse(payload)
    if value is NOT_JSON:
        raise PeerError("provider_error", f"the model's service sent an event that is not JSON: {shown(payload)}")
    return value


def no_answer(raw: bytes) -> PeerError:
    """The error of a JSON value that is neither an answer nor an error."""
    return PeerError("provider_error", f"the model's service sent what is no answer: {shown(raw)}")


def tool_name(value: Any) -> str:
    """The name of a call as it came, empty if it has none."""
    return value[:_NAME_MAX].encode("utf-8", "replace").decode() if type(value) is str else ""


def whole_input(value: Any) -> str:
    """The text of an input that came as a value. Raises PeerError for one nested as deeply as only a reader takes."""
    try:
        return json.dumps(value)
    except RecursionError:
        raise PeerError("provider_error", "the model's service sent a tool's input nested too deeply") from None


def tokens(value: Any) -> int:
    """A count of tokens, 0 for what is none."""
    return min(max(value, 0), _TOKENS_MAX) if type(value) is int else 0


def _delta(channel: Channel, text: str) -> ModelEvent:
    if channel == "text":
        return TextDelta(text)
    if channel == "reasoning":
        return ReasoningDelta(text)
    return ToolInputDelta(channel, text)
