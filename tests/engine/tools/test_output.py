from __future__ import annotations

import re

import attrs
import pytest

from engine.limits import Limits
from engine.tools.output import BATCH_BYTES, OutputCollector

LIMITS = Limits()
MOST = LIMITS.tool_result_bytes
LINES = LIMITS.tool_result_lines


def collected(data: bytes, step: int, limits: Limits = LIMITS) -> tuple[OutputCollector, bytes]:
    collector = OutputCollector(limits)
    written = bytearray()
    for begin in range(0, len(data), step):
        collector.feed(data[begin : begin + step])
        written += collector.take()
    return collector, bytes(written + collector.take(end=True))


@pytest.mark.parametrize("step", [1000, 8192, 65536])
@pytest.mark.parametrize("data", [b"", b"x" * MOST, b"\n" * LINES, "é".encode() * (MOST // 2), b"a\n" * LINES])
def test_output_within_the_bounds_is_shown_whole_and_nothing_of_it_is_written(data: bytes, step: int) -> None:
    collector, written = collected(data, step)
    assert written == b""
    assert collector.fits
    assert collector.result() == data.decode()


@pytest.mark.parametrize("step", [1000, 8192, 65536])
@pytest.mark.parametrize(
    ("data", "lines"),
    [(b"x" * (MOST + 1), "1 line"), (b"\n" * (LINES + 1), "2,001 lines"), (b"ab\n" * 100_000, "100,000 lines")],
)
def test_one_byte_or_line_more_is_written_whole_and_shown_in_part(data: bytes, lines: str, step: int) -> None:
    collector, written = collected(data, step)
    assert written == data
    assert not collector.fits
    shown = collector.result("out_handle")
    assert len(shown.encode()) <= MOST
    assert len(shown.splitlines()) <= LINES
    assert shown.startswith(data[:900].decode())
    last = f"[The whole output, {len(data):,} bytes in {lines}, is kept: read_output reads it by the handle out_handle]"
    assert shown.endswith("\n" + last)


def test_the_counts_of_what_is_cut_are_exact() -> None:
    lines = [f"line {number:06}" for number in range(50_000)]
    collector, _ = collected("\n".join(lines).encode(), 7777)
    shown = collector.result().split("\n")
    place = next(index for index, line in enumerate(shown) if line.startswith("[…"))
    cut_lines, cut_bytes = re.findall(r"\d[\d,]*", shown[place])
    head, tail = shown[:place], shown[place + 1 : -1]
    assert head + tail == lines[: len(head)] + lines[len(lines) - len(tail) :]
    assert int(cut_lines.replace(",", "")) == len(lines) - len(head) - len(tail)
    assert int(cut_bytes.replace(",", "")) == 12 * (len(lines) - len(head) - len(tail))


def test_batches_are_large_and_what_is_held_is_bounded() -> None:
    collector = OutputCollector()
    sizes = []
    for _ in range(10_000):
        collector.feed(b"z" * 999)
        sizes.append(len(collector.take()))
        assert len(collector._held) <= MOST + BATCH_BYTES
    assert all(size == 0 or size >= BATCH_BYTES for size in sizes)
    assert sum(size > 0 for size in sizes) <= 10_000 * 999 / BATCH_BYTES


def test_what_cannot_be_kept_is_said_and_not_held() -> None:
    collector = OutputCollector()
    data = b"x" * 300_000
    collector.feed(data)
    assert collector.take() == data
    collector.lost(300_000, "the disk refuses it")
    for _ in range(100):
        collector.feed(data)
        assert collector.take() == b""
        assert not collector._held
    assert collector.take(end=True) == b""
    shown = collector.result()
    assert len(shown.encode()) <= MOST
    note = "[The whole output, 30,300,000 bytes in 1 line, could not be kept because the disk refuses it]"
    assert shown.endswith("\n" + note)


def test_what_is_kept_in_part_is_said() -> None:
    collector = OutputCollector()
    collector.feed(b"x" * 100_000)
    assert len(collector.take(end=True)) == 100_000
    collector.lost(40_000, "it is full")
    shown = collector.result("out_1")
    assert shown.endswith(
        "[Of the output, 100,000 bytes in 1 line, only the first 60,000 bytes are kept because it is full: "
        "read_output reads it by the handle out_1]"
    )


@pytest.mark.parametrize("after", ["", "\n", "end", "é\n"])
def test_what_others_missed_is_counted(after: str) -> None:
    collector = OutputCollector()
    before = "é\n".encode() * 900 + b"\xf0\x9f"  # the character goes on in what was missed
    collector.feed(before)
    collector.missed(5, 2, b"\n")
    assert not collector.fits and collector.take(end=True) == before
    collector.lost(0, "it is full")
    collector.feed(after.encode())
    assert collector.take(end=True) == b""
    shown = collector.result("out_1")
    size, lines = {
        "": ("2,707", "902"),
        "\n": ("2,708", "903"),
        "end": ("2,710", "903"),
        "é\n": ("2,710", "903"),
    }[after]
    assert shown == (
        "é\n" * 900
        + f"[… 2 lines, 7 bytes cut …]\n{after}"
        + ("\n" if after == "end" else "")
        + f"[Of the output, {size} bytes in {lines} lines, only the first 2,702 bytes are kept because it is full: "
        "read_output reads it by the handle out_1]"
    )


def test_the_longest_reason_fits() -> None:
    limits = attrs.evolve(LIMITS, tool_result_bytes=4096, tool_result_lines=10)
    collector, _ = collected(b"line\n" * 100_000, 65536, limits)
    collector.lost(0, "é" * 10_000)
    shown = collector.result("out_" + "x" * 20)
    assert len(shown.encode()) <= 4096
    assert len(shown.splitlines()) <= 10


def test_bytes_that_are_no_text_are_written_as_they_are() -> None:
    data = b"\xff\xfe\x00" * 30_000
    collector, written = collected(data, 1001)
    assert written == data
    assert "\ufffd" in collector.result()


def test_nothing_is_held_of_what_others_write() -> None:
    collector = OutputCollector(writes=False)
    for _ in range(100):
        collector.feed(b"x" * 100_000)
        assert collector.take() == b""
        assert not collector._held
    assert collector.take(end=True) == b""
    assert "10,000,000 bytes in 1 line, is kept: read_output reads it by the handle out_1]" in collector.result("out_1")
