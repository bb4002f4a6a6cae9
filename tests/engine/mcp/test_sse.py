from __future__ import annotations

import json

import attrs
import pytest

from engine.limits import Limits
from engine.mcp.scanner import Event, Line, Piece, Rejected
from engine.mcp.sse import FIELD_BYTES, BrokenEvents, EventScanner

SMALL = attrs.evolve(Limits(), tool_memory_bytes=16, mcp_line_bytes=2000)
LONG = "x" * 17


def scan(body: bytes, step: int) -> tuple[bytes, list[Event]]:
    """(the stream that comes out, the events of its data)."""
    scanner = EventScanner(SMALL, lambda: "n0nce")
    found = [event for begin in range(0, len(body), step) for event in scanner.feed(body[begin : begin + step])]
    return b"".join(event for event in found if isinstance(event, bytes)), [
        event for event in found if not isinstance(event, bytes)
    ]


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_pass_and_long_strings_are_cut_out(step: int, end: bytes) -> None:
    lines = [
        b": hello",
        b"event: message",
        b"id: 7",
        b'data: {"a": "%s"}' % LONG.encode(),
        b"",
        b"retry: 5",
        b"",
        b"data:",
    ]
    body, events = scan(end.join([*lines, b"", b""]), step)
    assert body == (b': hello\nevent: message\nid: 7\ndata: {"a": "greenroom-cut:n0nce:0"}\n\nretry: 5\n\ndata: \n\n')
    assert b"".join(event.data for event in events if isinstance(event, Piece)) == LONG.encode()
    assert [event.cuts.sizes for event in events if isinstance(event, Line)] == [(17,)]


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_data_of_several_lines_are_one(step: int) -> None:
    value = {"a": [1, LONG], "b": {"c": "short"}}
    pretty = json.dumps(value, indent=2).replace("\n", "\ndata: ")
    body, events = scan(f"data: {pretty}\nid: 1\n\n".encode(), step)
    identity, data, *rest = body.decode().split("\n")
    assert (identity, rest) == ("id: 1", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {**value, "a": [1, "greenroom-cut:n0nce:0"]}
    assert sum(isinstance(event, Line) for event in events) == 1


@pytest.mark.parametrize("step", [1, 1000])
def test_data_that_is_rejected_says_so_and_the_next_event_comes(step: int) -> None:
    body, events = scan(b"data: no json at all\n\ndata: [1]\n\n", step)
    assert body == b'data: "the message is not JSON"\n\ndata: [1]\n\n'
    assert isinstance(events[0], Rejected)
    assert events[1] == Line(b"[1]")


def test_an_event_that_was_not_ended_is_none() -> None:
    body, _ = scan(b'data: {"a": 1}\nid: 1\n', 4)
    assert body == b""


def test_other_fields_are_bounded() -> None:
    for body in (b"id: " + b"1" * FIELD_BYTES, b"id: 12\n" * (FIELD_BYTES // 6)):
        with pytest.raises(BrokenEvents):
            scan(body, 1000)
