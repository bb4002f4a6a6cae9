from __future__ import annotations

import itertools
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PeerError
from engine.limits import DEFAULT
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.providers.openai_answer import OpenAIDecoder
from engine.transcript.records import Usage

DONE = b"data: [DONE]\n\n"
STOP = AnswerFinished("stop")


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event({"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


def call(**fields: Any) -> bytes:
    return delta(tool_calls=[fields])


def decode(*parts: bytes) -> tuple[list[ModelEvent], PeerError | None]:
    decoder = OpenAIDecoder(DEFAULT)
    events = [event for part in parts for event in decoder.feed(part)]
    events += decoder.close()
    return events, decoder.error


def answer(*parts: bytes) -> list[ModelEvent]:
    events, error = decode(*parts)
    assert error is None
    return events


def failure(*parts: bytes) -> PeerError:
    _, error = decode(*parts)
    assert error is not None
    assert all(character.isprintable() for character in error.message)
    assert len(error.message) < 700
    return error


def joined(events: list[ModelEvent]) -> list[ModelEvent]:
    """Adjacent fragments merged, so that their cutting does not matter."""
    out: list[ModelEvent] = []
    for item in events:
        last = out[-1] if out else None
        if isinstance(item, TextDelta) and isinstance(last, TextDelta):
            out[-1] = TextDelta(last.text + item.text)
        elif isinstance(item, ToolInputDelta) and isinstance(last, ToolInputDelta) and last.index == item.index:
            out[-1] = ToolInputDelta(item.index, last.text + item.text)
        else:
            out.append(item)
    return out


# ------------------------------------------------------------ text
def test_text_usage_and_finish() -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens_details": {"reasoning_tokens": 8},
    }  # fmt: skip
    events = answer(
        delta(role="assistant", content=""),
        delta(content="Hel"),
        delta(content="lo"),
        delta("stop"),
        event({"choices": [], "usage": usage}),
        DONE,
    )
    reported = UsageReported(Usage(input_tokens=100, output_tokens=20, reasoning_tokens=8, cache_read_tokens=64))
    assert events == [TextDelta("Hel"), TextDelta("lo"), reported, STOP]


def test_usage_beside_every_delta_is_reported_once_a_batch() -> None:
    def with_usage(tokens: int, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": finish}
        return event({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}})

    events = answer(with_usage(1) + with_usage(2), with_usage(3, "stop") + DONE)
    assert [item.usage.output_tokens for item in events if isinstance(item, UsageReported)] == [2, 3]


def test_counts_that_make_no_sense_do_no_harm() -> None:
    events = answer(
        delta(content="x"), event({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": "9"}}), DONE
    )
    assert UsageReported(Usage()) in events


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos", "stop"), ("", "stop")],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    assert answer(delta(content="x"), delta(reason), DONE)[-1] == AnswerFinished(finish)  # type: ignore[arg-type]


def test_the_finish_is_told_once_and_after_late_text() -> None:
    assert answer(delta("stop", content="a"), delta("stop", content="b"), DONE, delta(content="never")) == [
        TextDelta("a"), TextDelta("b"), STOP,
    ]  # fmt: skip


def test_done_without_a_finish_reason_is_an_end() -> None:
    assert answer(delta(content="a"), DONE) == [TextDelta("a"), STOP]


def test_a_finish_reason_without_done_is_an_end() -> None:
    assert answer(delta(content="a"), delta("stop")) == [TextDelta("a"), STOP]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning(field: str) -> None:
    events = answer(delta(**{field: "hm"}), delta(content="yes"), delta("stop"), DONE)
    assert events == [ReasoningDelta("hm"), TextDelta("yes"), STOP]


def test_a_refusal_is_text_that_ends_as_filtered() -> None:
    assert answer(delta(refusal="I will not"), delta("stop"), DONE) == [
        TextDelta("I will not"), AnswerFinished("content_filter"),
    ]  # fmt: skip


def test_other_choices_are_not_the_answer() -> None:
    second = event({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": None}]})
    assert answer(delta(content="a"), second, DONE) == [TextDelta("a"), STOP]


def test_a_whole_message_repeated_at_the_end_is_not_taken_twice() -> None:
    whole = event({"choices": [{"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}]})
    assert joined(answer(delta(content="ab"), delta(content="c"), whole, DONE)) == [TextDelta("abc"), STOP]


def test_large_text_leaves_in_deltas_within_the_bound() -> None:
    text = "ä😀x" * 50_000
    events = answer(event({"choices": [{"delta": {"content": text}}]}), DONE)
    pieces = [item.text for item in events if isinstance(item, TextDelta)]
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= DEFAULT.delta_bytes


# ------------------------------------------------------------ halves of characters
def test_a_character_split_over_two_chunks() -> None:
    stream = event(json.dumps({"choices": [{"delta": {"content": "a😀b"}}]}, ensure_ascii=False).encode())
    at = stream.index("😀".encode())
    for cut in range(at, at + 5):
        assert answer(stream[:cut], stream[cut:], DONE) == [TextDelta("a😀b"), STOP]


def raw(text: str) -> bytes:
    return event(b'{"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}' % text.encode())


def test_a_surrogate_pair_split_over_two_deltas() -> None:
    assert answer(raw(r"a\ud83d"), raw(r"\ude00b"), DONE) == [TextDelta("a"), TextDelta("😀b"), STOP]
    assert answer(raw(r"\uD83D"), raw(r"\uDE00"), DONE) == [TextDelta("😀"), STOP]


def test_a_half_that_stays_alone() -> None:
    assert joined(answer(raw(r"a\ud83d"), raw("b"), DONE)) == [TextDelta("a�b"), STOP]
    assert joined(answer(raw(r"a\ud83d"), DONE)) == [TextDelta("a�"), STOP]
    assert joined(answer(raw(r"\ude00a"), DONE)) == [TextDelta("�a"), STOP]
    assert joined(answer(raw(r"\ud83d"), delta(reasoning="r"), raw("b"), DONE)) == [
        TextDelta("�"), ReasoningDelta("r"), TextDelta("b"), STOP,
    ]  # fmt: skip


@given(st.lists(st.sampled_from(["\ud83d", "\ude00", "a", "😀", "\udfff\ud800"]), max_size=8))
def test_no_half_ever_leaves(pieces: list[str]) -> None:
    events = answer(delta(role="assistant"), *[delta(content=piece) for piece in pieces], DONE)
    for item in events:
        if isinstance(item, TextDelta):
            assert item.text
            item.text.encode()


# ------------------------------------------------------------ tool calls
def test_a_call_in_fragments() -> None:
    assert answer(
        call(index=0, id="call_9", type="function", function={"name": "files__read_file", "arguments": ""}),
        call(index=0, function={"arguments": '{"path":'}),
        call(index=0, function={"arguments": '"a"}'}),
        delta("tool_calls"),
        DONE,
    ) == [
        ToolCallStarted(0, "call_9", "files__read_file"),
        ToolInputDelta(0, '{"path":'),
        ToolInputDelta(0, '"a"}'),
        AnswerFinished("tool_calls"),
    ]


STARTED_TWICE = [
    ToolCallStarted(0, "a", "f"), ToolInputDelta(0, '{"x":1}'),
    ToolCallStarted(1, "b", "f"), ToolInputDelta(1, '{"x":2}'),
    AnswerFinished("tool_calls"),
]  # fmt: skip
TWO = (("a", '{"x":1}'), ("b", '{"x":2}'))


def test_two_calls_by_index() -> None:
    parts = [call(index=i, id=id, function={"name": "f", "arguments": text}) for i, (id, text) in enumerate(TWO)]
    assert answer(*parts, delta("tool_calls"), DONE) == STARTED_TWICE


def test_two_calls_interleaved() -> None:
    events = answer(
        call(index=0, id="a", function={"name": "f", "arguments": "{"}),
        call(index=1, id="b", function={"name": "g", "arguments": "{"}),
        call(index=0, function={"arguments": "}"}),
        call(index=1, function={"arguments": "}"}),
        DONE,
    )
    assert [item for item in events if isinstance(item, ToolInputDelta)] == [
        ToolInputDelta(0, "{"), ToolInputDelta(1, "{"), ToolInputDelta(0, "}"), ToolInputDelta(1, "}"),
    ]  # fmt: skip


def test_whole_calls_without_index() -> None:
    parts = [call(id=id, function={"name": "f", "arguments": text}) for id, text in TWO]
    assert answer(*parts, delta("stop"), DONE) == STARTED_TWICE
    at_once = delta(tool_calls=[{"id": id, "function": {"name": "f", "arguments": text}} for id, text in TWO])
    assert answer(at_once, delta("stop"), DONE) == STARTED_TWICE


def test_whole_calls_that_all_have_index_0() -> None:
    parts = [call(index=0, id=id, function={"name": "f", "arguments": text}) for id, text in TWO]
    assert answer(*parts, delta("stop"), DONE) == STARTED_TWICE


def test_whole_calls_without_index_and_id() -> None:
    expected = [attrs.evolve(item, call_id="") if isinstance(item, ToolCallStarted) else item for item in STARTED_TWICE]
    parts = [call(function={"name": "f", "arguments": text}) for _, text in TWO]
    assert answer(*parts, delta("stop"), DONE) == expected
    assert (
        answer(delta(tool_calls=[{"function": {"name": "f", "arguments": text}} for _, text in TWO]), DONE) == expected
    )


def test_fragments_without_index() -> None:
    parts = [call(id="a", function={"name": "f", "arguments": '{"x"'}), call(function={"arguments": ":1}"})]
    assert joined(answer(*parts, DONE)) == [
        ToolCallStarted(0, "a", "f"), ToolInputDelta(0, '{"x":1}'), AnswerFinished("tool_calls"),
    ]  # fmt: skip


def test_a_name_that_is_repeated_with_every_fragment() -> None:
    for index in ({"index": 0}, {}):
        parts = [call(**index, id="a", function={"name": "f", "arguments": text}) for text in ("{", '"x":', "1}")]
        assert joined(answer(*parts, DONE)) == [
            ToolCallStarted(0, "a", "f"), ToolInputDelta(0, '{"x":1}'), AnswerFinished("tool_calls"),
        ]  # fmt: skip


def test_a_name_that_comes_after_the_input() -> None:
    parts = [
        call(index=0, id="a", function={"arguments": "{"}),
        call(index=0, function={"name": "f", "arguments": "}"}),
    ]
    assert answer(*parts, DONE)[:2] == [ToolCallStarted(0, "a", "f"), ToolInputDelta(0, "{}")]


def test_input_as_an_object_and_the_older_function_call() -> None:
    assert answer(call(index=0, id="a", function={"name": "f", "arguments": {"x": 1}}), DONE)[1] == ToolInputDelta(
        0, '{"x": 1}'
    )
    events = answer(
        delta(function_call={"name": "f", "arguments": "{"}),
        delta(function_call={"arguments": "}"}),
        delta("function_call"),
        DONE,
    )
    assert joined(events) == [ToolCallStarted(0, "", "f"), ToolInputDelta(0, "{}"), AnswerFinished("tool_calls")]


def test_a_call_without_a_name_is_an_error() -> None:
    assert "without a name" in failure(call(index=0, id="a", function={"arguments": "{}"}), DONE).message


def test_calls_beyond_any_turn_are_not_kept() -> None:
    decoder = OpenAIDecoder(DEFAULT)
    many = [{"index": i, "id": str(i), "function": {"name": "f", "arguments": "{}"}} for i in range(10_000)]
    events = decoder.feed(delta(tool_calls=many))
    assert sum(isinstance(item, ToolCallStarted) for item in events) == DEFAULT.tool_calls_per_turn + 1
    assert len(decoder._calls) == DEFAULT.tool_calls_per_turn + 1


# ------------------------------------------------------------ bodies that are no stream
def test_an_answer_that_is_not_streamed() -> None:
    message = {
        "role": "assistant", "content": "All at once.",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }  # fmt: skip
    body = json.dumps(
        {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 3}},
        indent=1,
    ).encode()
    assert answer(b"\n " + body[:50], body[50:]) == [
        TextDelta("All at once."), ToolCallStarted(0, "a", "f"), ToolInputDelta(0, "{}"), AnswerFinished("tool_calls"),
        UsageReported(Usage(input_tokens=3)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "says", "retry"),
    [
        (b'{"error":{"message":"no such deployment"}}', "no such deployment", False),
        (b'[{"error":{"message":"busy","code":503}}]', "busy", True),
        (b'{"error":"plain words"}', "plain words", False),
        (b'{"detail":"Not authenticated"}', "Not authenticated", False),
        (b'{"hello":"world"}', 'what is no answer: “{"hello":"world"}”', False),
        (b'{"choices":[{"mess', "broken or was cut", True),
        (b"<!doctype html><title>Sign in</title>", "a web page: “<!doctype html>", False),
        (b"Bad Gateway", "what is no answer: “Bad Gateway”", False),
        (b"", "cut without an answer", True),
        (b": only a comment\n\n", "what is no answer", False),
        (DONE, "without a word", True),
    ],
)
def test_a_body_that_is_no_answer(body: bytes, says: str, retry: bool) -> None:
    error = failure(body)
    assert error.code == "provider_error"
    assert says in error.message
    assert error.retry is retry


def test_a_body_that_is_no_stream_is_bounded() -> None:
    limits = attrs.evolve(DEFAULT, provider_event_bytes=1000)
    decoder = OpenAIDecoder(limits)
    for _ in range(100):
        decoder.feed(b"[" * 100)
    assert decoder.error is not None
    assert len(decoder._body) <= 1000
    assert "over 1,000 bytes" in decoder.error.message


# ------------------------------------------------------------ errors in the stream
def test_an_error_in_the_middle_keeps_what_came_before() -> None:
    events, error = decode(delta(content="a") + event({"error": {"message": "Overloaded", "type": "overloaded_error"}}))
    assert events == [TextDelta("a")]
    assert error is not None
    assert (error.code, error.retry) == ("provider_error", True)
    assert "Overloaded" in error.message


def test_a_cut_connection() -> None:
    events, error = decode(delta(content="a"), delta(content="b")[:-9])
    assert events == [TextDelta("a")]
    assert error is not None
    assert (error.code, error.retry) == ("provider_error", True)
    assert "cut" in error.message


@pytest.mark.parametrize(
    ("garbage", "shown"),
    [
        (b"data: {broken\n\n", "not JSON: “{broken”"),
        (b'data: {"a":"\xff"}\n\n', r"\xff"),
        (b"\x00\x80\x1b[31m\n\n", r"\x80 [31m"),
        (b"data: 7\n\n", "no answer: “7”"),
        (b"data: " + b"[" * 5000 + b"\n\n", "not JSON: “[[[["),
        (b"data: \\ud800" + b"[" * 100_000 + b"\n\n", "not JSON"),
    ],
)
def test_garbage_is_named(garbage: bytes, shown: str) -> None:
    error = failure(delta(content="a"), garbage, DONE)
    assert error.code == "provider_error"
    assert shown in error.message


def test_an_event_over_the_bound() -> None:
    def stream(size: int) -> list[bytes]:
        empty = len(raw("")) - len(b"data: \n\n")
        whole = raw("x" * (size - empty))
        return [whole[at : at + 65_536] for at in range(0, len(whole), 65_536)]

    bound = DEFAULT.provider_event_bytes
    assert sum(len(item.text) for item in answer(*stream(bound), DONE) if isinstance(item, TextDelta)) > bound - 200
    error = failure(*stream(bound + 1), DONE)
    assert error.code == "provider_error"
    assert "4,194,304 bytes" in error.message


# ------------------------------------------------------------ fuzz
ANSWER = b"".join(
    [
        delta(role="assistant", content=""),
        delta(reasoning="hm 😀"),
        b": keep-alive\n\n",
        delta(content="Zeile\r\nä"),
        raw(r"\ud83d"),
        raw(r"\ude00"),
        call(index=0, id="call_9", function={"name": "f", "arguments": ""}),
        call(index=0, function={"arguments": '{"p":"😀"}'}),
        delta("tool_calls"),
        event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        DONE,
    ]
)


@given(st.lists(st.integers(0, len(ANSWER)), max_size=40))
def test_chunks_make_no_difference(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(ANSWER)]
    parts = [ANSWER[a:b] for a, b in itertools.pairwise(bounds)]
    events = answer(*parts)
    assert events[:-2] == [
        ReasoningDelta("hm 😀"),
        TextDelta("Zeile\r\nä"),
        TextDelta("😀"),
        ToolCallStarted(0, "call_9", "f"),
        ToolInputDelta(0, '{"p":"😀"}'),
    ]
    # Usage follows the finish if both come in one batch.
    assert set(events[-2:]) == {
        UsageReported(Usage(input_tokens=1, output_tokens=2)),
        AnswerFinished("tool_calls"),
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "tool_calls", "function", "name", "arguments", "index", "id",
                 "error", "usage", "finish_reason", "function_call", "refusal", "reasoning", "code", "type", "detail"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(JSON, max_size=5))
def test_any_json_gives_events_or_an_error(values: list[Any]) -> None:
    decode(*[event(value) for value in values], DONE)
    decode(json.dumps(values).encode())


@given(st.lists(st.binary(max_size=80) | st.sampled_from([b"data: ", b"\n\n", b"{", DONE, delta(content="x")])))
def test_any_bytes_give_events_or_an_error(parts: list[bytes]) -> None:
    limits = attrs.evolve(DEFAULT, provider_event_bytes=100)
    decoder = OpenAIDecoder(limits)
    for part in parts:
        decoder.feed(part)
        assert len(decoder._body) <= 100
        assert len(decoder._splitter._line) <= 110
    decoder.close()
    assert decoder.error is not None or decoder.done
