from __future__ import annotations

import json
from random import Random
from typing import Any

import attrs
import pytest

from engine.limits import Limits
from engine.mcp.scanner import Event, Line, Piece, Rejected
from engine.mcp.sse import FIELD_BYTES, BrokenEvents, EventEnd, EventScanner, line_ends

SMALL = attrs.evolve(Limits(), tool_memory_bytes=16, mcp_line_bytes=2000)
LONG = "x" * 17


def scan(body: bytes, step: int) -> list[Event | EventEnd]:
    """What comes out, the pieces of a string as one."""
    scanner = EventScanner(SMALL, lambda: "n0nce")
    found: list[Event | EventEnd] = []
    for begin in range(0, len(body), step):
        for event in scanner.feed(body[begin : begin + step]):
            last = found[-1] if found else None
            if isinstance(event, Piece) and isinstance(last, Piece) and event.index == last.index:
                found[-1] = Piece(event.index, last.data + event.data)
            else:
                found.append(event)
    return found


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_events_pass_and_long_strings_are_cut_out(step: int, end: bytes, mark: bytes) -> None:
    lines = [
        b": hello",
        b"event: message",
        b"id: 7",
        b'data: {"a": "%s"}' % LONG.encode(),
        b"",
        b"retry: 1500",
        b"",
        b"id: 8",
        b"data:",
        b"",
        b"id",
        b"",
        b"id:",
    ]
    found = scan(mark + end.join([*lines, b"", b""]), step)
    piece, line, *ends = found
    assert piece == Piece(0, LONG.encode())
    assert isinstance(line, Line) and line.cuts.sizes == (17,)
    assert line.data == b'{"a": "greenroom-cut:n0nce:0"}'
    assert ends == [EventEnd("7"), EventEnd(None, 1.5), EventEnd("8"), EventEnd("")]


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_line_ends_of_all_kinds(step: int) -> None:
    body = b"\rdata: [1]\r\rid: 2\r\n\rdata: [3,\ndata: 3]\r\n\ndata:\r\n [4]\n\r\n\rdata: [5]\n\r"
    ends = [EventEnd(), EventEnd("2"), EventEnd(), EventEnd(), EventEnd()]
    one, three, five = Line(b"[1]"), Line(b"[3,\n 3]"), Line(b"[5]")
    assert scan(body, step) == [one, ends[0], ends[1], three, ends[2], ends[3], five, ends[4]]


def test_an_event_ends_with_its_carriage_return() -> None:
    scanner = EventScanner()
    assert scanner.feed(b"data: [1]\r\r") == [Line(b"[1]"), EventEnd()]
    assert scanner.feed(b"\n") == scanner.feed(b"") == []
    assert scanner.feed(b"data: [2]\r\n\r") == [Line(b"[2]"), EventEnd()]


@pytest.mark.parametrize("begin", [b"\xef\xbb", b"\xef\xbb\xbf\xef\xbb\xbf"])
@pytest.mark.parametrize("step", [1, 1000])
def test_only_one_whole_mark_is_passed_over(step: int, begin: bytes) -> None:
    assert scan(begin + b"data: [1]\n\ndata: [2]\n\n", step) == [Line(b"[2]"), EventEnd()]


def test_lines_that_end_are_counted_in_any_way() -> None:
    assert [line_ends(end * 100) for end in (b"\n", b"\r", b"\r\n", b"\n\n\r")] == [100, 100, 100, 200]


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_data_of_several_lines_are_one(step: int) -> None:
    value = {"a": [1, LONG], "b": {"c": "short"}}
    pretty = json.dumps(value, indent=2).replace("\n", "\ndata: ")
    piece, line, end = scan(f"data: {pretty}\nid: 1\n\n".encode(), step)
    assert piece == Piece(0, LONG.encode())
    assert isinstance(line, Line)
    assert json.loads(line.data) == {**value, "a": [1, "greenroom-cut:n0nce:0"]}
    assert end == EventEnd("1")


@pytest.mark.parametrize("step", [1, 1000])
def test_data_that_is_rejected_says_so_and_the_next_event_comes(step: int) -> None:
    rejected, end, line, last = scan(b"data: no json at all\n\ndata: [1]\n\n", step)
    assert isinstance(rejected, Rejected) and rejected.reason == "is not JSON"
    assert (end, line, last) == (EventEnd(), Line(b"[1]"), EventEnd())


@pytest.mark.parametrize("step", [1, 1000])
def test_what_nobody_knows_is_passed_over(step: int) -> None:
    body = b": " + b"c" * 10 * FIELD_BYTES + b"\ndat: 1\ndatabase: 2\nx" + b"y" * 10 * FIELD_BYTES + b"\ndata: [2]\n\n"
    assert scan(body, step) == [Line(b"[2]"), EventEnd()]


@pytest.mark.parametrize("step", [1, 1000])
def test_events_of_other_names_have_no_data(step: int) -> None:
    body = b"event: ping\ndata: 12:30\ndata: again\nid: 3\n\ndata: [1]\n\n"
    assert scan(body, step) == [EventEnd("3"), Line(b"[1]"), EventEnd()]


@pytest.mark.parametrize("field", [b"id: a\x00b", b"id: \xff", b"id: \xc3\xa9", b"retry: soon", b"retry: " + b"9" * 13])
def test_fields_that_make_no_sense_are_none(field: bytes) -> None:
    assert scan(field + b"\ndata: [1]\n\n", 1000) == [Line(b"[1]"), EventEnd()]


def test_an_event_that_was_not_ended_is_none() -> None:
    assert scan(b'data: {"a": 1}\nid: 1\n', 4) == []


@pytest.mark.parametrize("name", [b"id: ", b"event: ", b"retry: "])
def test_other_fields_are_bounded(name: bytes) -> None:
    good = name + b"1" * (FIELD_BYTES - len(name))
    assert scan(good + b"\n\ndata: [1]\n\n", 1000)[-2:] == [Line(b"[1]"), EventEnd()]
    with pytest.raises(BrokenEvents):
        scan(good + b"1", 1000)


Said = tuple[Any, str | None, float | None]  # of an event: the value of its data, its id, its wait


def event_of(random: Random, end: bytes) -> tuple[bytes, Said]:
    """An event with its fields in any order, among comments, and what it says."""
    value = {"t": "y" * random.choice([0, 1, 16, 17, 60]), "n": [random.randrange(99)] * random.randrange(4)}
    number = random.choice([None, str(random.randrange(999))])
    wait = random.choice([None, random.randrange(99)])
    foreign = random.random() < 0.2
    text = json.dumps(value, indent=random.choice([None, 1])).encode()
    lines = [b"data: " + line for line in text.split(b"\n")]
    others = [b"id:%s" % number.encode()] if number is not None else []
    others += [b"retry: %d" % wait] if wait is not None else []
    others += [b": " + b"c" * random.randrange(40)] if random.random() < 0.5 else []
    for field in others:
        lines.insert(random.randrange(len(lines) + 1), field)
    lines.insert(0, b"event: other" if foreign else random.choice([b"event: message", b"event:", b"x: 1"]))
    return end.join([*lines, b"", b""]), (None if foreign else value, number, None if wait is None else wait / 1000)


def said(events: list[Event | EventEnd]) -> list[Said]:
    found: list[Said] = []
    value, texts = None, dict[int, bytes]()
    for event in events:
        if isinstance(event, Piece):
            texts[event.index] = event.data
        elif isinstance(event, Line):
            value = json.loads(event.data)
            cut = event.cuts.find(value["t"])
            value["t"] = value["t"] if cut is None else texts[cut].decode()
        elif isinstance(event, EventEnd):
            found.append((value, event.id, event.retry))
            value, texts = None, {}
    return found


def test_any_stream_cut_anywhere_says_what_was_put_in() -> None:
    random = Random(4)
    for _ in range(500):
        end = random.choice([b"\n", b"\r\n"])
        events = [event_of(random, end) for _ in range(random.randrange(1, 6))]
        body = b"".join(data for data, _ in events)
        assert said(scan(body, random.choice([1, 2, 7, 50, 10_000]))) == [wanted for _, wanted in events], body
