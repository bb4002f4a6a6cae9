from __future__ import annotations

import itertools
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PeerError
from engine.limits import DEFAULT, Limits
from engine.providers.anthropic_answer import AnthropicDecoder
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.transcript.records import Usage

STOP = AnswerFinished("stop")
CALLS = AnswerFinished("tool_calls")


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def begin(**usage: Any) -> bytes:
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "stop_reason": None, "usage": usage}
    return event("message_start", message=message)


def start(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def text(piece: str, index: int = 0) -> bytes:
    return delta(index, "text_delta", text=piece)


def fragment(piece: str, index: int = 0) -> bytes:
    return delta(index, "input_json_delta", partial_json=piece)


def stop(index: int = 0) -> bytes:
    return event("content_block_stop", index=index)


def ends(reason: str | None, **usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


END = event("message_stop")
DONE = ends("end_turn") + END


def decode(*parts: bytes, limits: Limits = DEFAULT) -> tuple[list[ModelEvent], PeerError | None]:
    decoder = AnthropicDecoder(limits)
    events = [event for part in parts for event in decoder.feed(part)]
    events += decoder.close()
    return events, decoder.error


def answer(*parts: bytes) -> list[ModelEvent]:
    """The events without reports of usage."""
    events, error = decode(*parts)
    assert error is None
    return [event for event in events if not isinstance(event, UsageReported)]


def failure(*parts: bytes) -> PeerError:
    _, error = decode(*parts)
    assert error is not None
    assert all(character.isprintable() for character in error.message)
    assert len(error.message) < 700
    return error


# ------------------------------------------------------------ text, usage, finish
def test_a_plain_answer() -> None:
    stream = [
        begin(input_tokens=25, output_tokens=1), start(0, "text", text=""), event("ping"),
        text("Hel"), text("lo"), stop(), ends("end_turn", output_tokens=15), END,
    ]  # fmt: skip
    events, error = decode(*stream)
    assert error is None
    assert events == [
        UsageReported(Usage(input_tokens=25, output_tokens=1)), TextDelta("Hel"), TextDelta("lo"),
        UsageReported(Usage(input_tokens=25, output_tokens=15)), STOP,
    ]  # fmt: skip


def test_usage_counts_the_whole_prompt() -> None:
    events, _ = decode(
        begin(input_tokens=10, cache_creation_input_tokens=200, cache_read_input_tokens=3000, output_tokens=1)
        + ends("end_turn", output_tokens=40, cache_read_input_tokens=None, output_tokens_details={"thinking_tokens": 9})
        + END
    )
    assert events[-1] == UsageReported(
        Usage(
            input_tokens=3210,
            output_tokens=40,
            reasoning_tokens=9,
            cache_read_tokens=3000,
            cache_write_tokens=200,
        )
    )
    assert sum(isinstance(event, UsageReported) for event in events) == 1


@pytest.mark.parametrize("usage", [{"input_tokens": -1, "output_tokens": "9"}, {"output_tokens_details": [1]}])
def test_counts_that_make_no_sense_do_no_harm(usage: dict[str, Any]) -> None:
    events, error = decode(begin(**usage) + text("x") + DONE)
    assert error is None
    assert UsageReported(Usage()) in events


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("of tomorrow", "stop"),
        (None, "stop"),
    ],
)
def test_stop_reasons(reason: str | None, finish: str) -> None:
    assert answer(begin(), text("x"), ends(reason), END)[-1] == AnswerFinished(finish)  # type: ignore[arg-type]


def test_an_answer_without_a_word_is_one_if_the_service_says_so() -> None:
    assert answer(begin(), DONE) == [STOP]


def test_nothing_follows_the_end() -> None:
    decoder = AnthropicDecoder(DEFAULT)
    assert not decoder.finished
    decoder.feed(begin() + text("a") + ends("end_turn"))
    assert decoder.finished and not decoder.done
    assert decoder.feed(END + text("never") + event("error", error={})) == [STOP]
    assert decoder.done and decoder.feed(text("never")) == [] and decoder.close() == []
    assert decoder.error is None


def test_a_stop_reason_without_an_end_is_an_end() -> None:
    assert answer(begin(), text("a"), ends("max_tokens")) == [TextDelta("a"), AnswerFinished("length")]


def test_what_is_not_known_is_passed_over() -> None:
    assert answer(
        begin(),
        event("message_progress", percent=4),
        start(0, "server_tool_use", id="s", name="web_search", input={"q": 1}),
        fragment('{"q'),
        stop(),
        start(1, "web_search_tool_result", content=[]),
        stop(1),
        start(2, "text", text="a"),
        delta(2, "citations_delta", citation={}),
        delta(2, "hologram_delta", text="b"),
        stop(2),
        b"retry: 10\n: comment\n\n",
        DONE,
    ) == [TextDelta("a"), STOP]


def test_large_text_leaves_in_deltas_within_the_bound() -> None:
    long = "ä😀x" * 50_000
    pieces = [item.text for item in answer(begin(), text(long), DONE) if isinstance(item, TextDelta)]
    assert "".join(pieces) == long
    assert max(len(piece.encode()) for piece in pieces) <= DEFAULT.delta_bytes


def test_a_surrogate_pair_split_over_two_deltas() -> None:
    assert answer(begin(), text("a\ud83d"), text("\ude00b"), DONE) == [TextDelta("a"), TextDelta("😀b"), STOP]
    assert answer(begin(), text("a\ud83d"), stop(), DONE) == [TextDelta("a"), TextDelta("�"), STOP]
    # A half of one channel is given up before what closes that channel.
    assert answer(begin(), delta(0, "thinking_delta", thinking="\ud83d"), stop(), DONE) == [
        ReasoningDelta("�"), ReasoningFinished(None), STOP,
    ]  # fmt: skip
    assert answer(begin(), text("\ud83d"), start(1, "tool_use", id="t", name="f"), DONE)[0] == TextDelta("�")


# ------------------------------------------------------------ thinking
def thinking(index: int, text: str, signature: str | None) -> list[bytes]:
    signed = [delta(index, "signature_delta", signature=signature)] if signature is not None else []
    return [start(index, "thinking", thinking="", signature=""), delta(index, "thinking_delta", thinking=text), *signed]


def test_thinking_ends_with_its_signature() -> None:
    assert answer(begin(), *thinking(0, "hm", "c2ln"), stop(), text("yes", 1), stop(1), DONE) == [
        ReasoningDelta("hm"), ReasoningFinished("thinking:c2ln"), TextDelta("yes"), STOP,
    ]  # fmt: skip


def test_a_signature_may_come_in_pieces_or_without_text_or_not_at_all() -> None:
    pieces = [delta(0, "signature_delta", signature=piece) for piece in ("c2", "ln")]
    assert answer(begin(), start(0, "thinking", thinking=""), *pieces, stop(), DONE) == [
        ReasoningFinished("thinking:c2ln"), STOP,
    ]  # fmt: skip
    assert answer(begin(), *thinking(0, "hm", None), stop(), DONE) == [
        ReasoningDelta("hm"), ReasoningFinished(None), STOP,
    ]  # fmt: skip


def test_two_thoughts_in_a_row_are_two_even_if_the_first_is_not_ended() -> None:
    for between in (stop(), b""):
        events = answer(begin(), *thinking(0, "a", "x"), between, *thinking(1, "b", "y"), stop(1), DONE)
        assert events == [
            ReasoningDelta("a"), ReasoningFinished("thinking:x"),
            ReasoningDelta("b"), ReasoningFinished("thinking:y"), STOP,
        ]  # fmt: skip
    assert answer(begin(), *thinking(0, "a", "x"), DONE)[1:] == [ReasoningFinished("thinking:x"), STOP]


def test_redacted_thinking_is_kept_as_it_is() -> None:
    assert answer(begin(), start(0, "redacted_thinking", data="ZGF0YQ=="), stop(), DONE) == [
        ReasoningFinished("redacted_thinking:ZGF0YQ=="), STOP,
    ]  # fmt: skip


def test_a_signature_without_an_end_is_not_kept() -> None:
    limits = attrs.evolve(DEFAULT, provider_event_bytes=1000)
    decoder = AnthropicDecoder(limits)
    for _ in range(100):
        decoder.feed(delta(0, "signature_delta", signature="x" * 100))
    assert decoder.error is not None and "signature" in decoder.error.message
    assert len(decoder._signature) <= 1100


# ------------------------------------------------------------ tool calls
def test_a_call_in_fragments() -> None:
    assert answer(
        begin(), text("I look."), stop(),
        start(1, "tool_use", id="toolu_9", name="files__read_file", input={}),
        fragment("", 1), fragment('{"path":', 1), fragment('"a"}', 1), stop(1), ends("tool_use"), END,
    ) == [
        TextDelta("I look."), ToolCallStarted(0, "toolu_9", "files__read_file"),
        ToolInputDelta(0, '{"path":'), ToolInputDelta(0, '"a"}'), CALLS,
    ]  # fmt: skip


def test_two_calls_and_one_whose_input_came_whole() -> None:
    stream = [
        begin(),
        start(0, "tool_use", id="a", name="f", input={}), start(1, "tool_use", id="b", name="g", input={"x": 2}),
        fragment('{"x":1}', 0), stop(0), stop(1),
        start(2, "tool_use", id="c", name="h", input={"x": 3}), fragment('{"x":4}', 2), ends("tool_use"), END,
    ]  # fmt: skip
    assert answer(*stream) == [
        ToolCallStarted(0, "a", "f"), ToolCallStarted(1, "b", "g"), ToolInputDelta(0, '{"x":1}'),
        ToolInputDelta(1, '{"x": 2}'), ToolCallStarted(2, "c", "h"), ToolInputDelta(2, '{"x":4}'), CALLS,
    ]  # fmt: skip


def test_a_whole_input_is_not_lost_with_the_end_of_its_block() -> None:
    events = answer(begin(), start(0, "tool_use", id="a", name="f", input={"x": 1}), ends("end_turn"), END)
    assert events == [ToolCallStarted(0, "a", "f"), ToolInputDelta(0, '{"x": 1}'), CALLS]


def test_a_call_without_a_name_is_an_error() -> None:
    assert "without a name" in failure(begin(), start(0, "tool_use", id="a", input={})).message


def test_calls_beyond_any_turn_are_not_kept() -> None:
    decoder = AnthropicDecoder(DEFAULT)
    events = decoder.feed(b"".join(start(i, "tool_use", id=str(i), name="f") for i in range(1000)))
    assert sum(isinstance(item, ToolCallStarted) for item in events) == DEFAULT.tool_calls_per_turn + 1
    assert len(decoder._calls) == DEFAULT.tool_calls_per_turn + 1


# ------------------------------------------------------------ bodies that are no stream
def test_an_answer_that_is_not_streamed() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": "All at once."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        7,
    ]
    usage = {"input_tokens": 3, "output_tokens": 4}
    value = {"type": "message", "role": "assistant", "content": content, "stop_reason": "tool_use", "usage": usage}
    body = json.dumps(value, indent=1).encode()
    events, error = decode(b"\n " + body[:50], body[50:])
    assert error is None
    assert events == [
        ReasoningDelta("hm"), ReasoningFinished("thinking:c2ln"), ReasoningFinished("redacted_thinking:ZGF0YQ=="),
        TextDelta("All at once."), ToolCallStarted(0, "a", "f"), ToolInputDelta(0, '{"x": 1}'), CALLS,
        UsageReported(Usage(input_tokens=3, output_tokens=4)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "says", "retry"),
    [
        (b'{"type":"error","error":{"type":"not_found_error","message":"model: x"}}', "model: x", False),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Later"}}', "Later", True),
        (b'[{"error":{"message":"busy","code":503}}]', "busy", True),
        (b'{"detail":"Not authenticated"}', "Not authenticated", False),
        (b'{"hello":"world"}', 'what is no answer: “{"hello":"world"}”', False),
        (b'{"type":"message","cont', "broken or was cut", True),
        (b"7", "what is no answer: “7”", False),
        (b"[7]", "what is no answer: “[7]”", False),
        (b"<!doctype html><title>Sign in</title>", "a web page: “<!doctype html>", False),
        (b"Bad Gateway", "what is no answer: “Bad Gateway”", False),
        (b"", "cut without an answer", True),
        (END, "without a word", True),
        (event("ping"), "what is no answer", False),
    ],
)
def test_a_body_that_is_no_answer(body: bytes, says: str, retry: bool) -> None:
    error = failure(body)
    assert error.code == "provider_error"
    assert says in error.message
    assert error.retry is retry


# ------------------------------------------------------------ errors in the stream
@pytest.mark.parametrize(
    ("kind", "message", "code", "retry"),
    [
        ("overloaded_error", "Overloaded", "provider_error", True),
        ("api_error", "It went wrong on our side", "provider_error", True),
        ("timeout_error", "It took too long", "provider_error", True),
        ("rate_limit_error", "Number of request tokens has exceeded your limit", "provider_error", True),
        ("invalid_request_error", "messages: at least one message is required", "provider_error", False),
        ("authentication_error", "invalid x-api-key", "provider_error", False),
        ("permission_error", "not for you, try again elsewhere", "provider_error", False),
        ("billing_error", "Your credit balance is too low", "provider_error", False),
        ("of_tomorrow_error", "Please try again", "provider_error", True),
        ("invalid_request_error", "prompt is too long: 204416 tokens > 200000 maximum", "context_overflow", False),
        (
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
            "context_overflow",
            False,
        ),
        ("request_too_large", "Request exceeds the maximum size", "context_overflow", False),
    ],
)
def test_an_error_in_the_middle_keeps_what_came_before(kind: str, message: str, code: str, retry: bool) -> None:
    broken = event("error", error={"type": kind, "message": message}, request_id="req_1")
    events, error = decode(begin() + text("a") + broken + text("never"))
    assert [item for item in events if isinstance(item, TextDelta)] == [TextDelta("a")]
    assert error is not None
    assert (error.code, error.retry) == (code, retry)
    assert message in error.message


def test_errors_of_no_known_shape() -> None:
    assert failure(begin(), event("error")).code == "provider_error"
    assert "went away" in failure(begin(), b'data: {"error":"it went away"}\n\n').message
    assert failure(begin(), event("error", error={"type": ["a"], "message": {}})).code == "provider_error"


def test_a_cut_connection() -> None:
    for stream in ([begin(), text("a"), text("b")[:-9]], [begin(), text("a"), stop()]):
        events, error = decode(*stream)
        assert events[1:] == [TextDelta("a")]
        assert error is not None
        assert (error.code, error.retry) == ("provider_error", True)
        assert "cut before its answer was complete" in error.message


@pytest.mark.parametrize(
    ("garbage", "shown"),
    [
        (b"data: {broken\n\n", "not JSON: “{broken”"),
        (b'data: {"a":"\xff"}\n\n', r"\xff"),
        (b"\x00\x80\x1b[31m\n\n", r"\x80 [31m"),
        (b"data: 7\n\n", "no answer: “7”"),
        (b"data: [DONE]\n\n", "not JSON"),
        (b"data: \\ud800" + b"[" * 100_000 + b"\n\n", "not JSON"),
        (
            b'data: {"type":"content_block_start","content_block":{"type":"tool_use","name":"f","input":'
            + b"[" * 1000 + b"]" * 1000 + b"}}\n\n",
            "nested too deeply",
        ),
        (b'data: {"error":{"x":' + b"[" * 1000 + b"]" * 1000 + b"}}\n\n", "nested too deeply"),
    ],
)  # fmt: skip
def test_garbage_is_named(garbage: bytes, shown: str) -> None:
    error = failure(begin(), text("a"), garbage, DONE)
    assert error.code == "provider_error"
    assert shown in error.message


def test_an_event_over_the_bound() -> None:
    bound = DEFAULT.provider_event_bytes
    empty = len(text("").splitlines()[1]) - len("data: ")
    fits, over = text("x" * (bound - empty)), text("x" * (bound - empty + 1))
    told = answer(begin(), fits, DONE)
    assert sum(len(item.text) for item in told if isinstance(item, TextDelta)) == bound - empty
    assert "4,194,304 bytes" in failure(begin(), over, DONE).message


# ------------------------------------------------------------ fuzz
ANSWER = b"".join(
    [
        begin(input_tokens=1, output_tokens=1),
        event("ping"),
        *thinking(0, "hm 😀", "c2ln"),
        stop(),
        start(1, "text", text=""),
        text("Zeile\r\nä", 1),
        text("\ud83d", 1),
        text("\ude00", 1),
        stop(1),
        start(2, "tool_use", id="toolu_9", name="f", input={}),
        fragment('{"p":"😀"}', 2),
        stop(2),
        ends("tool_use", output_tokens=2),
        END,
    ]
)


@given(st.lists(st.integers(0, len(ANSWER)), max_size=40))
def test_chunks_make_no_difference(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(ANSWER)]
    parts = [ANSWER[a:b] for a, b in itertools.pairwise(bounds)]
    assert answer(*parts) == [
        ReasoningDelta("hm 😀"),
        ReasoningFinished("thinking:c2ln"),
        TextDelta("Zeile\r\nä"),
        TextDelta("😀"),
        ToolCallStarted(0, "toolu_9", "f"),
        ToolInputDelta(0, '{"p":"😀"}'),
        CALLS,
    ]
    reports = [item for item in decode(*parts)[0] if isinstance(item, UsageReported)]
    assert reports[-1] == UsageReported(Usage(input_tokens=1, output_tokens=2))


KINDS = [
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
    "message_stop", "message", "error", "text", "thinking", "redacted_thinking", "tool_use", "text_delta",
    "thinking_delta", "signature_delta", "input_json_delta",
]  # fmt: skip
NAMES = [
    "index", "content_block", "delta", "message", "usage", "stop_reason", "text", "thinking", "signature", "data",
    "name", "input", "id", "partial_json", "error", "content", "detail", "input_tokens", "output_tokens_details",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.sampled_from(["\ud83d", "\ude00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(
            lambda kind, rest: {"type": kind, **rest},
            st.sampled_from(KINDS) | inner,
            st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
        )
    ),
    max_leaves=20,
)  # fmt: skip


def check(events: list[ModelEvent], error: PeerError | None) -> None:
    """What every decoder promises: one end or an error, and text that can be stored."""
    assert sum(isinstance(item, AnswerFinished) for item in events) == (error is None)
    for item in events:
        for value in attrs.astuple(item, recurse=False):
            if isinstance(value, str):
                value.encode()
        if isinstance(item, TextDelta | ReasoningDelta | ToolInputDelta):
            assert item.text


@given(st.lists(JSON, max_size=5))
def test_any_json_gives_events_or_an_error(values: list[Any]) -> None:
    check(*decode(begin(), *[b"data: " + json.dumps(value).encode() + b"\n\n" for value in values], DONE))
    check(*decode(json.dumps(values).encode()))


@given(st.lists(st.binary(max_size=80) | st.sampled_from([b"data: ", b"\n\n", b"{", END, DONE, text("x"), begin()])))
def test_any_bytes_give_events_or_an_error(parts: list[bytes]) -> None:
    limits = attrs.evolve(DEFAULT, provider_event_bytes=150)
    decoder = AnthropicDecoder(limits)
    for part in parts:
        decoder.feed(part)
        assert len(decoder._body) <= 150
        assert len(decoder._splitter._line) <= 160
    decoder.close()
    assert decoder.error is not None or decoder.done
