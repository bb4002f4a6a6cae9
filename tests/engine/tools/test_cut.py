"""Head and tail with exact counts, at the bounds and one past them, in bounded memory."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.limits import MIB, Limits
from engine.tools.cut import HeadTail, cut_text

MARKER = re.compile(r"^\[… ([\d,]+) lines?, ([\d,]+) bytes? cut …\]$", re.MULTILINE)


def cut(text: str | bytes, max_bytes: int = 1000, max_lines: int = 100) -> str:
    cutter = HeadTail(max_bytes, max_lines)
    cutter.feed(text)
    return cutter.result()


def counts(text: str) -> tuple[int, int]:
    found = MARKER.search(text)
    assert found is not None, text
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


@pytest.mark.parametrize("text", ["", "a", "\n", "a\nb", "a" * 1000, "é" * 500, "a\n" * 100, "a\n" * 99 + "a"])
def test_what_fits_comes_out_as_it_went_in(text: str) -> None:
    assert cut(text) == text


def test_one_byte_past_the_bound_is_cut() -> None:
    result = cut("a" * 1001)
    head, marker, tail = result.split("\n")
    assert counts(marker) == (1, 1001 - len(head) - len(tail))
    assert set(head) == set(tail) == {"a"}
    assert len(head) + len(tail) > 800 and len(result.encode()) <= 1000


def test_one_line_past_the_bound_is_cut() -> None:
    result = cut("".join(f"{number}\n" for number in range(1, 102)))
    shown = result.splitlines()
    assert len(shown) == 100
    assert shown[:2] == ["1", "2"] and shown[48] == "49" and shown[-1] == "101" and shown[50] == "52"
    assert shown[49] == "[… 2 lines, 6 bytes cut …]"  # "50\n51\n"


def test_a_last_line_without_a_line_feed_counts() -> None:
    assert cut("a\n" * 100) == "a\n" * 100
    assert counts(cut("a\n" * 100 + "a"))[0] == 2


def test_lines_are_kept_whole_where_they_are_short() -> None:
    lines = [f"line {number:04}" for number in range(1000)]
    shown = cut("\n".join(lines), max_lines=1000).split("\n")
    assert shown == [*lines[:45], "[… 910 lines, 9,100 bytes cut …]", *lines[-45:]]


def test_characters_are_never_split() -> None:
    for shift in range(4):
        result = cut("x" * shift + "🎈" * 5000)
        assert "\ufffd" not in result
        lines, size = counts(result)
        assert lines == 1 and size == shift + 20_000 - len(MARKER.sub("", result).replace("\n", "").encode())


def test_bytes_split_inside_a_character_and_invalid_ones() -> None:
    cutter = HeadTail(1000, 100)
    for byte in "aé🎈".encode():
        cutter.feed(bytes([byte]))
    cutter.feed(b"\xff|\xf0\x9f")
    assert cutter.result() == "aé🎈\ufffd|\ufffd"
    assert cut("a\ud83db") == "a\ufffdb"


def test_memory_does_not_depend_on_what_is_fed() -> None:
    piece = b"0123456789abcdef" * 4096
    cutter = HeadTail(50 * 1024, 2000)
    tracemalloc.start()
    try:
        for _ in range(200):
            cutter.feed(piece)
        result = cutter.result()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MIB // 2
    assert counts(result) == (1, 200 * len(piece) - len(MARKER.sub("", result)) + 2)


def test_limits_are_those_of_a_tools_result() -> None:
    limits = Limits(tool_result_bytes=300, tool_result_lines=10)
    assert cut_text("a" * 300, limits) == "a" * 300
    assert len(cut_text("a" * 301, limits)) <= 300
    assert len(cut_text("a\n" * 11, limits).splitlines()) == 10


PIECES = st.lists(st.text(alphabet="a\né🎈", max_size=120), max_size=12)


@given(PIECES, st.integers(192, 400), st.integers(3, 12))
def test_any_pieces(pieces: list[str], max_bytes: int, max_lines: int) -> None:
    whole = "".join(pieces)
    by_text, by_bytes = HeadTail(max_bytes, max_lines), HeadTail(max_bytes, max_lines)
    for piece in pieces:
        by_text.feed(piece)
        by_bytes.feed(piece.encode())
    result = by_text.result()
    assert by_bytes.result() == result
    assert len(result.encode()) <= max_bytes
    lines = whole.count("\n") + (not whole.endswith("\n") and whole != "")
    if len(whole.encode()) <= max_bytes and lines <= max_lines:
        assert result == whole
        return
    assert result.count("\n") + (not result.endswith("\n")) <= max_lines
    cut_lines, cut_bytes = counts(result)
    found = MARKER.search(result)
    assert found is not None
    head, tail = result[: found.start()], result[found.end() + 1 :]
    # The line feed before the marker may be ours.
    for head_was in {head, head.removesuffix("\n")}:
        middle = whole[len(head_was) : len(whole) - len(tail)]
        if len(middle.encode()) == cut_bytes:
            break
    assert whole == head_was + middle + tail and len(middle.encode()) == cut_bytes
    assert cut_lines == middle.count("\n") + (not middle.endswith("\n"))


def test_what_a_character_lacks_is_not_passed_over_by_what_follows() -> None:
    cutter = HeadTail(1000, 100)
    for piece in (b"a\xc3", b"b\n", "é".encode()[:1], "é".encode()[1:], b"c"):
        cutter.feed(piece)
    assert cutter.result() == "a\ufffdb\néc"


@pytest.mark.parametrize("size", [999, 1000, 1001, 5000, 100_000])
def test_plain_bytes_are_cut_as_text_is_in_any_pieces(size: int) -> None:
    text = "".join(f"line {number:04}\n" for number in range(size // 10))
    for step in (7, 700, 50_000, size):
        cutter = HeadTail(1000, 100)
        for begin in range(0, len(text), step):
            cutter.feed(text[begin : begin + step].encode())
        assert cutter.result() == cut(text)
