"""The replay log: any appends, reads and trims; concatenated deltas give the same text; the bounds hold."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import codec
from engine.runs.log import SEGMENT_BYTES, SEGMENT_EVENTS, Gap, ReplayLog, Slice

FACT = b'"type":"turn.started","turn":1,"message_id":"msg_1"'
PLENTY = 1 << 30


def log(entries: int = PLENTY, size: int = PLENTY, last_seq: int = 0) -> ReplayLog:
    return ReplayLog(max_entries=entries, max_bytes=size, last_seq=last_seq)


def delta(into: ReplayLog, text: str, part: str = "prt_1", at: int = 5) -> int:
    return into.append_delta(at, part.encode(), codec.escaped(text))


def read(source: ReplayLog, after: int, max_bytes: int = PLENTY) -> list[dict[str, Any]]:
    found = source.read(after, max_bytes)
    assert isinstance(found, Slice)
    assert found.size == sum(map(len, found.events))
    events = [json.loads(event) for event in found.events]
    assert found.cursor == (events[-1]["seq"] if events else after)
    return events


# ------------------------------------------------------------------ the rules one by one
def test_events_are_numbered_from_one() -> None:
    it = log()
    assert (it.first_seq, it.last_seq, len(it), it.size) == (1, 0, 0, 0)
    assert [it.append(7, FACT), delta(it, "a"), it.append(8, FACT)] == [1, 2, 3]
    assert read(it, 0) == [
        {"seq": 1, "at": 7, "type": "turn.started", "turn": 1, "message_id": "msg_1"},
        {"seq": 2, "at": 5, "type": "part.delta", "part_id": "prt_1", "text": "a"},
        {"seq": 3, "at": 8, "type": "turn.started", "turn": 1, "message_id": "msg_1"},
    ]
    assert read(it, 2) == read(it, 0)[2:]
    assert read(it, 3) == []


def test_adjacent_deltas_of_one_part_are_merged_for_a_reader() -> None:
    it = log()
    for at, text in enumerate(["to", " ", 'be "or"', "\n", "🎉"]):
        delta(it, text, at=at)
    assert read(it, 0) == [
        {"seq": 5, "from": 1, "at": 4, "type": "part.delta", "part_id": "prt_1", "text": 'to be "or"\n🎉'}
    ]
    assert read(it, 3) == [{"seq": 5, "from": 4, "at": 4, "type": "part.delta", "part_id": "prt_1", "text": "\n🎉"}]


def test_deltas_of_different_parts_or_with_a_fact_between_are_not_merged() -> None:
    it = log()
    delta(it, "a")
    delta(it, "b", "prt_2")
    it.append(1, FACT)
    delta(it, "c", "prt_2")
    assert [event.get("text") for event in read(it, 0)] == ["a", "b", None, "c"]


def test_a_log_may_begin_above_what_was_reserved() -> None:
    it = log(last_seq=16_384)
    assert delta(it, "x") == 16_385
    assert it.read(3, PLENTY) == Gap(4, 16_385)
    assert [event["seq"] for event in read(it, 16_384)] == [16_385]


def test_a_cursor_above_the_last_event_is_a_gap() -> None:
    it = log()
    it.append(1, FACT)
    assert isinstance(it.read(1, PLENTY), Slice)
    assert isinstance(it.read(2, PLENTY), Gap)


def test_after_clear_the_numbering_goes_on() -> None:
    it = log()
    delta(it, "a")
    it.clear()
    assert (len(it), it.size, it.first_seq) == (0, 0, 2)
    assert it.read(0, PLENTY) == Gap(1, 1)
    assert read(it, 1) == []
    assert delta(it, "b") == 2


# ------------------------------------------------------------------ bounds
@pytest.mark.parametrize("entries", [1, 2, 10, 63, 64, 65, 1000])
def test_entries_at_the_bound_and_one_past_it(entries: int) -> None:
    for add in (lambda it: it.append(1, FACT), lambda it: delta(it, "x")):
        it = log(entries=entries)
        for _ in range(entries):
            add(it)
        assert len(it) == entries and it.first_seq == 1
        add(it)
        assert entries / 2 <= len(it) <= entries and it.first_seq > 1  # a cut takes half at the most
        assert it.last_seq == entries + 1


def test_bytes_at_the_bound_and_one_past_it() -> None:
    body = b'"type":"x","y":"%b"' % (b"z" * 100)
    one = log()
    one.append(1, body)
    it = log(size=3 * one.size)
    for _ in range(3):
        it.append(1, body)
    assert (len(it), it.first_seq) == (3, 1)
    it.append(1, body)
    assert (len(it), it.first_seq) == (3, 2)
    assert it.size == 3 * one.size


@pytest.mark.parametrize("size", [200, 1_000, SEGMENT_BYTES, 100_000])
def test_a_stream_of_tokens_never_holds_more_than_its_bytes(size: int) -> None:
    it = log(size=size)
    for i in range(20_000):
        delta(it, f"t{i} ")
        assert it.size <= size
    assert len(it) > 1


def test_the_newest_event_stays_even_if_it_alone_is_over_the_bound() -> None:
    it = log(size=100)
    it.append(1, FACT)
    delta(it, "x" * 5_000)
    assert (len(it), it.first_seq, it.last_seq) == (1, 2, 2)
    assert read(it, 1)[0]["text"] == "x" * 5_000
    it.append(1, FACT)
    assert (len(it), it.first_seq) == (1, 3)


def test_trim_tells_what_it_freed() -> None:
    it = log()
    for i in range(10):
        it.append(i, FACT)
    before, half = it.size, it.size // 2
    assert it.trim(half) == before - it.size
    assert it.size <= half and it.last_seq == 10
    it.trim(0)
    assert (len(it), it.first_seq) == (1, 10)


def test_a_segment_is_bounded_so_that_a_cut_loses_little() -> None:
    it = log()
    for _ in range(SEGMENT_EVENTS * 3):
        delta(it, "x")
    held = len(it)
    it.trim(it.size - 1)
    assert held - len(it) == SEGMENT_EVENTS


@pytest.mark.parametrize("max_bytes", [1, 200, 300, 1_000, 5_000])
def test_a_reader_with_little_room_gets_small_slices_and_the_same_text(max_bytes: int) -> None:
    it = log()
    words = [f"word{i} " for i in range(500)]
    for word in words:
        delta(it, word)
    cursor, text = 0, ""
    while cursor < it.last_seq:
        found = it.read(cursor, max_bytes)
        assert isinstance(found, Slice) and found.cursor > cursor
        assert found.size <= max_bytes or len(found.events) == 1
        if max_bytes >= 200:
            assert found.size <= max_bytes
        text += "".join(json.loads(event)["text"] for event in found.events)
        cursor = found.cursor
    assert text == "".join(words)


def test_memory_of_a_token_is_near_its_text() -> None:
    # 921 bytes a token as objects is what the log exists to avoid (engine.runs.log).
    it = log()
    for _ in range(10_000):
        delta(it, "tok ")
    assert it.size / 10_000 < 12


# ------------------------------------------------------------------ any history
TEXT = st.text(max_size=12) | st.sampled_from(['"', "\\", "\n", "🎉", "x" * 300, "\x00"])
OPERATION = st.one_of(
    st.tuples(st.just("delta"), st.sampled_from(["prt_1", "prt_2"]), TEXT),
    st.tuples(st.just("delta"), st.just("prt_1"), TEXT),  # runs of one part are what happens most
    st.tuples(st.just("fact"), st.just(""), st.just("")),
    st.tuples(st.just("trim"), st.integers(0, 4_000), st.just("")),
    st.tuples(st.just("clear"), st.just(""), st.just("")),
    st.tuples(st.just("read"), st.integers(0, 300), st.integers(1, 3_000)),
)


def flatten(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Deltas concatenated, facts as they are: what a reader has in the end, however it was cut."""
    pairs = [(event.get("part_id", ""), event.get("text", "fact")) for event in events]
    return [(part, "".join(text for _, text in same)) for part, same in groupby(pairs, key=lambda pair: pair[0])]


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATION, max_size=120), st.integers(1, 100), st.integers(1, 3_000), st.integers(0, 10_000))
def test_any_history(operations: list[Any], entries: int, size: int, start: int) -> None:
    it = log(entries, size, last_seq=start)
    truth: list[dict[str, Any]] = []  # every event there ever was; truth[i] has seq start + i + 1
    for kind, first, second in operations:
        if kind == "delta":
            delta(it, second, first)
            truth.append({"part_id": first, "text": second})
        elif kind == "fact":
            it.append(1, FACT)
            truth.append({})
        elif kind == "trim":
            it.trim(first)
            assert it.size <= first or len(it) <= SEGMENT_EVENTS
        elif kind == "clear":
            it.clear()
        else:
            follow(it, max(0, it.last_seq - first), second, truth, start)
        assert it.last_seq == start + len(truth)
        assert it.first_seq + len(it) == it.last_seq + 1
        assert (len(it) <= entries and it.size <= size) or len(it) == 1
        assert (it.size == 0) == (len(it) == 0)
    follow(it, it.first_seq - 1, PLENTY, truth, start)


def follow(it: ReplayLog, cursor: int, max_bytes: int, truth: list[dict[str, Any]], start: int) -> None:
    """Read from the cursor to the end: a gap exactly when something is missing, else the truth from there on."""
    if cursor + 1 < it.first_seq:
        assert it.read(cursor, max_bytes) == Gap(cursor + 1, it.last_seq)
        return
    begin, got = cursor, []
    while cursor < it.last_seq:
        events = read(it, cursor, max_bytes)
        assert events
        for event in events:
            assert event.get("from", event["seq"]) == cursor + 1
            cursor = event["seq"]
        got += events
    assert read(it, cursor, max_bytes) == []
    assert flatten(got) == flatten(truth[begin - start :])


def test_a_reader_is_far_once_it_has_missed_a_quarter_of_the_log() -> None:
    log = ReplayLog(max_entries=400, max_bytes=1_000_000)
    for _ in range(100):
        log.append_delta(1, b"p", b"x")
    assert not log.is_far(0)
    log.append_delta(1, b"p", b"x")
    assert log.is_far(0) and not log.is_far(1)


def test_a_reader_is_far_by_bytes_too() -> None:
    log = ReplayLog(max_entries=1000, max_bytes=40_000)
    log.append(1, b"x" * 9_000)
    assert not log.is_far(0)
    log.append(1, b"x" * 9_000)
    assert log.is_far(0) and not log.is_far(1) and not log.is_far(2)
