from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.limits import Limits
from engine.mcp.scanner import (
    HEAD_BYTES,
    SMALL_STRING_BYTES,
    Cuts,
    Document,
    Endless,
    Event,
    Line,
    LineScanner,
    Piece,
    Rejected,
)
from engine.mcp.unescape import Unescape

MOST = Limits().tool_memory_bytes
SMALL = attrs.evolve(Limits(), tool_memory_bytes=16, mcp_line_bytes=2000, mcp_line_strings=3, mcp_line_depth=5)


def scan(data: bytes, limits: Limits = SMALL, step: int | None = None, nonce: str = "n0nce") -> list[Event]:
    scanner = LineScanner(limits, lambda: nonce)
    step = step or len(data)
    events = [event for begin in range(0, len(data), step) for event in scanner.feed(data[begin : begin + step])]
    return events + scanner.finish()


def only_line(events: list[Event]) -> Line:
    (line,) = [event for event in events if not isinstance(event, Piece)]
    assert isinstance(line, Line)
    return line


def content(events: list[Event], index: int = 0) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Piece) and event.index == index)


def only_rejected(events: list[Event]) -> Rejected:
    (rejected,) = [event for event in events if not isinstance(event, Piece)]
    assert isinstance(rejected, Rejected)
    return rejected


@pytest.mark.parametrize("step", [1, 3, 16, 17, 64 * 1024, None])
def test_a_string_of_exactly_the_bound_stays_and_one_byte_more_is_cut(step: int | None) -> None:
    for limits, most in ((SMALL, 16), (Limits(), MOST)):
        step_ = step if most == 16 else max(step or 0, 999)
        stays = json.dumps({"a": "x" * most, "b": "y"}).encode()
        assert scan(stays + b"\n", limits, step_) == [Line(stays)]
        events = scan(json.dumps({"a": "x" * (most + 1), "b": "y"}).encode() + b"\n", limits, step_)
        assert content(events) == b"x" * (most + 1)
        assert only_line(events) == Line(
            b'{"a": "greenroom-cut:n0nce:0", "b": "y"}', Cuts("greenroom-cut:n0nce:", (most + 1,))
        )


def test_pieces_leave_while_the_string_arrives_and_come_before_their_line() -> None:
    scanner = LineScanner(SMALL)
    assert scanner.feed(b'{"a": "' + b"x" * 16) == []
    assert scanner.feed(b"y") == [Piece(0, b"x" * 16 + b"y")]
    assert scanner.feed(b"z" * 5) == [Piece(0, b"z" * 5)]
    (line,) = scanner.feed(b'"}\n')
    assert isinstance(line, Line)
    assert line.cuts.sizes == (22,)


@pytest.mark.parametrize("step", range(1, 9))
def test_escaped_quotes_and_backslashes_end_no_string(step: int) -> None:
    for text in ('"' * 20, "\\" * 20, '\\"' * 20, "\\\\" * 9 + "x", 'a\\"b' * 9):
        raw = json.dumps(text)[1:-1].encode()
        events = scan(b'{"a": "' + raw + b'", "b": "\\\\"}\n{"c": 1}\n', SMALL, step)
        assert content(events) == raw
        first, second = [event for event in events if isinstance(event, Line)]
        assert json.loads(first.data) == {"a": "greenroom-cut:n0nce:0", "b": "\\"}
        assert second == Line(b'{"c": 1}')


def test_several_cuts_of_a_line_are_told_apart() -> None:
    events = scan(b'["%s", "short", "%s"]\n' % (b"a" * 20, b"b" * 30), step=7)
    assert content(events, 0) == b"a" * 20
    assert content(events, 1) == b"b" * 30
    line = only_line(events)
    assert [line.cuts.find(text) for text in json.loads(line.data)] == [0, None, 1]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_ends_of_lines_and_blank_lines(end: bytes) -> None:
    assert scan(end.join([b"", b'{"a": 1}', b"  ", b"", b"[]", b""]), step=1) == [Line(b'{"a": 1}'), Line(b"[]")]


@pytest.mark.parametrize(
    "line", [b"Listening on 3000", b'"a string"', b"\x00\xff", b"12" * 5000, b'x "' + b"y" * 5000, b"\\" * 99]
)
def test_what_is_no_json_is_rejected_with_its_head_and_the_next_line_is_read(line: bytes) -> None:
    for step in (1, 20, None):
        rejected, following = scan(line + b'\n{"a": 1}\n', step=step)
        assert rejected == Rejected("is not JSON", line[: len(rejected.head)])  # type: ignore[union-attr]
        assert min(len(line), 16) <= len(rejected.head) <= HEAD_BYTES  # type: ignore[union-attr]
        assert following == Line(b'{"a": 1}')


@pytest.mark.parametrize("step", [1, 64, 5000])
def test_what_remains_of_a_line_is_bounded(step: int) -> None:
    fits = b"[" + b"1," * 998 + b"12]"
    assert len(fits) == 2000
    assert scan(fits + b"\n", step=step) == [Line(fits)]
    rejected, following = scan(fits + b" \n[]\n", step=step)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "has more than 2,000 bytes beside its long strings"
    assert following == Line(b"[]")


@pytest.mark.parametrize("step", [1, 7, None])
def test_the_number_of_long_strings_is_bounded(step: int | None) -> None:
    long = b'"' + b"x" * 17 + b'"'
    assert len(only_line(scan(b"[%s]\n" % b",".join([long] * 3), step=step)).cuts.sizes) == 3
    events = scan(b"[%s]\n" % b",".join([long] * 4), step=step)
    assert only_rejected(events).reason == "has more than 3 long strings"
    assert not content(events, 3)


def test_depth_is_bounded_and_brackets_in_strings_do_not_count() -> None:
    fits = b'[[[[{"a": "]]]][[[[[[[\\"[[["}]]]]'
    assert scan(fits + b"\n") == [Line(fits)]
    assert only_rejected(scan(b"[[[[[[1]]]]]]\n")).reason == "is nested more than 5 deep"
    assert only_rejected(scan(b'{"a":' * 100 + b"\n")).reason == "is nested more than 5 deep"
    assert scan(b"[" + b"[]," * 99 + b"[]]\n") == [Line(b"[" + b"[]," * 99 + b"[]]")]


@pytest.mark.parametrize(
    "line",
    [
        b"[1,2,3,4,[]]",
        b'{"a":[{"b":{}}],"c":1,"d":2}',
        b'["' + b",[{" * 100 + rb"""\",",1,2,"\\",{}]""",
    ],
)
def test_values_are_bounded_and_those_in_strings_do_not_count(line: bytes) -> None:
    limits = attrs.evolve(Limits(), mcp_line_values=6)
    assert LineScanner(limits).feed(line + b"\n") == [Line(line)]
    for more in (line[:-1] + b",1" + line[-1:], b"[" + line + b"]"):
        assert only_rejected(LineScanner(limits).feed(more + b"\n")).reason == "has more than 6 values"


def test_a_name_that_is_too_long_is_rejected() -> None:
    for blank in (b"", b" \t"):
        events = scan(b'{"%s"%s: 1}\n' % (b"k" * 17, blank))
        assert only_rejected(events).reason == "has a name that is too long"


def test_a_stream_that_ends_inside_a_line() -> None:
    for rest in (b'{"a": 1}', b'{"a": "' + b"x" * 17):
        assert only_rejected(scan(b"{}\n" + rest)[1:]).reason == "was not finished"
    assert scan(b"{}\n \r") == [Line(b"{}")]
    assert only_rejected(scan(b'["' + b"x" * 17 + b"\n")).reason == "ends inside a string"


def test_many_strings_of_middle_length_are_cut_out_too() -> None:
    text = "m" * (SMALL_STRING_BYTES + 1)
    message = json.dumps([text] * 700).encode()
    assert len(message) > 2 * Limits().mcp_line_bytes
    events = scan(message + b"\n", Limits(), step=60_000)
    line = only_line(events)
    assert len(line.data) < Limits().mcp_line_bytes
    found: list[Any] = [line.cuts.find(item) for item in json.loads(line.data)]
    assert found[0] is None
    assert found[-1] == len(line.cuts.sizes) - 1
    assert content(events, found[-1]) == text.encode()


# ------------------------------------------------------------------ markers
def test_a_line_that_holds_its_own_marker_is_rejected() -> None:
    long = b"x" * 17
    for forged in (b"greenroom-cut:n0nce:0", b"greenroom-cut:n0nce:7", b"see greenroom-cut:n0nce:"):
        # Kept strings are short: the marker is spread over what is kept of a line with one cut.
        limits = attrs.evolve(SMALL, tool_memory_bytes=30)
        for line in (b'["%s", "%s"]' % (forged, long * 2), b'["%s", "%s"]' % (long * 2, forged)):
            assert only_rejected(scan(line + b"\n", limits)).reason == "holds what looks like a marker of a cut"


def test_a_marker_without_a_cut_is_a_plain_string() -> None:
    limits = attrs.evolve(SMALL, tool_memory_bytes=30)
    line = only_line(scan(b'["greenroom-cut:n0nce:0"]\n', limits))
    assert line.cuts.find("greenroom-cut:n0nce:0") is None


@pytest.mark.parametrize("index", ["1", "", "-1", "00", "0 ", "\u0660", "x"])
def test_a_string_that_only_looks_like_a_marker_is_refused(index: str) -> None:
    cuts = Cuts("greenroom-cut:n0nce:", (17,))
    assert cuts.find("greenroom-cut:n0nce:0") == 0
    with pytest.raises(ValueError, match="looks like a marker"):
        cuts.find("greenroom-cut:n0nce:" + index)


def test_markers_are_new_for_each_line_and_not_to_be_guessed() -> None:
    scanner = LineScanner(SMALL)
    line = b'["%s"]\n' % (b"x" * 17)
    prefixes = {event.cuts.prefix for _ in range(100) for event in scanner.feed(line) if isinstance(event, Line)}
    assert len(prefixes) == 100
    assert all(len(prefix.split(":")[1]) == 32 for prefix in prefixes)


# ------------------------------------------------------------------ documents
def test_a_document_may_have_line_feeds_between_its_values() -> None:
    document = Document(SMALL, lambda: "n0nce")
    events = document.feed(b'{\n  "a": "' + b"x" * 17 + b'",\n')
    events += document.feed(b'  "b": 1\n}\n') + document.finish()
    assert json.loads(only_line(events).data) == {"a": "greenroom-cut:n0nce:0", "b": 1}
    assert document.feed(b"[]") + document.finish() == [Line(b"[]")]


def test_what_is_held_does_not_grow_with_what_comes() -> None:
    scanner = LineScanner(Limits())
    for begin in (b'{"a": "', b"[1,2,", b"garbage "):
        scanner.feed(begin)
        for _ in range(64):
            scanner.feed(b"1" * 100_000)
            assert len(scanner._document._kept) <= Limits().mcp_line_bytes + MOST
        scanner.feed(b"\n")


@pytest.mark.parametrize("begin", [b'{"a":"', b"garbage", b'[["'])
def test_a_line_without_an_end_is_endless(begin: bytes) -> None:
    limits = attrs.evolve(SMALL, mcp_answer_bytes=5000)
    for more in (5000, 5001):
        scanner = LineScanner(limits)
        scanner.feed(b"{}\n" * 4000)  # those that have ended do not count
        scanner.feed(b"{}\n" + begin)
        for _ in range(4):
            scanner.feed(b"x" * 1000)
        last = b"x" * (more - 4000 - len(begin))
        if more == 5000:
            scanner.feed(last)
            assert Line(b"{}") in scanner.feed(b"\n{}\n")
        else:
            with pytest.raises(Endless, match="more than 5,000 bytes"):
                scanner.feed(last)


@pytest.mark.parametrize(
    "begin", [b'{"jsonrpc":"2.0","method":"m","a":"', b' { "id" : "x", "method":"m","a":"', b'{"method":"']
)
def test_what_is_no_answer_is_endless_sooner(begin: bytes) -> None:
    limits = attrs.evolve(SMALL, mcp_answer_bytes=9000, mcp_unasked_bytes=5000)
    scanner = LineScanner(limits)
    scanner.feed(begin + b"x" * (5000 - len(begin)))
    with pytest.raises(Endless, match="more than 5,000 bytes"):
        scanner.feed(b"x")
    scanner = LineScanner(limits)
    scanner.feed(b'{"jsonrpc":"2.0","id":1,"result":{"method":"m","a":"')
    scanner.feed(b"x" * 8000)
    assert isinstance(scanner.feed(b'"}}\n')[-1], Line)


texts = st.text(st.sampled_from('ab"\\\n\u0001é漢😀\ud83d\ude00/'), max_size=60)
values = st.recursive(
    st.none() | st.integers() | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner)
)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=3), st.integers(1, 40), st.booleans())
def test_any_value_comes_back(items: list[Any], step: int, ascii_only: bool) -> None:
    data = json.dumps({"items": items}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    limits = attrs.evolve(SMALL, mcp_line_bytes=10_000, mcp_line_strings=99, mcp_line_depth=99)
    events = scan(data + b"\n", limits, step)
    line = only_line(events)

    def put_back(value: Any) -> Any:
        if isinstance(value, str):
            index = line.cuts.find(value)
            if index is None:
                return value
            unescape = Unescape()
            raw = content(events, index)
            return (unescape.feed(raw[:5]) + unescape.feed(raw[5:]) + unescape.finish()).decode()
        if isinstance(value, list):
            return [put_back(item) for item in value]
        return {key: put_back(item) for key, item in value.items()} if isinstance(value, dict) else value

    if not ascii_only:
        data = data.decode(errors="replace").encode()  # halves of pairs: three bytes that are no UTF-8
    expected = json.loads(data)
    found = put_back(json.loads(line.data.decode(errors="replace")))
    assert whole(found) == whole(expected)


def whole(value: Any) -> str:
    """The value's JSON with each half of a pair replaced."""
    text: str = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
