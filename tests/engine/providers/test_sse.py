from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.sse import EventSplitter

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n"
    b"data: one\r\n\r\n"
    b"event: message\ndata:two\nid: 7\n\n"
    b"data: three\rdata: four\r\r"
    b"retry: 10\n\n"  # nothing to dispatch
    b"data\n\n"
    b"\n\n"
    b"data: \xf0\x9f\x98\x80\n\n"
)
EVENTS = [b"one", b"two", b"three\nfour", b"", b"\xf0\x9f\x98\x80"]


def test_a_stream_with_everything_that_the_format_allows() -> None:
    splitter = EventSplitter(100)
    assert splitter.feed(STREAM) == EVENTS
    assert splitter.close() is None
    assert splitter.error is None


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_chunks_make_no_difference(cuts: list[int]) -> None:
    splitter = EventSplitter(100)
    at, got = 0, []
    for cut in [*sorted(cuts), len(STREAM)]:
        got += splitter.feed(STREAM[at:cut])
        at = cut
    assert got == EVENTS


def test_the_last_event_needs_no_blank_line() -> None:
    splitter = EventSplitter(100)
    assert splitter.feed(b"data: a\n\ndata: b") == [b"a"]
    assert splitter.close() == b"b"


def test_an_event_at_the_bound_passes_and_one_byte_more_does_not() -> None:
    bound = 1000
    assert EventSplitter(bound).feed(b"data: " + b"x" * bound + b"\n\n") == [b"x" * bound]
    for stream in (
        b"data: ok\n\ndata: " + b"x" * (bound + 1) + b"\n\n",
        b"data: ok\n\ndata: " + b"x" * 500 + b"\ndata: " + b"x" * 500 + b"\n\n",  # the LF between counts
        b"data: ok\n\ndata: " + b"x" * 5000,  # without its end
    ):
        splitter = EventSplitter(bound)
        assert splitter.feed(stream) == [b"ok"]
        assert splitter.error is not None
        assert splitter.error.code == "provider_error"
        assert "1,000 bytes" in splitter.error.message
        assert splitter.feed(b"\n\ndata: later\n\n") == []


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_large_event_in_small_chunks(size: int) -> None:
    data = b"y" * 300_000
    stream = b"data: " + data + b"\n\n"
    splitter = EventSplitter(len(data))
    got = []
    for at in range(0, len(stream), size):
        got += splitter.feed(stream[at : at + size])
    assert got == [data]


@pytest.mark.parametrize("line", [b"\x00\xff\xfe", b"<html>", b'{"error": 1}', b"502 Bad Gateway"])
def test_what_is_no_field_is_an_error_that_shows_it(line: bytes) -> None:
    splitter = EventSplitter(1000)
    assert splitter.feed(b"data: before\n\n" + line + b"\n\n") == [b"before"]
    assert splitter.error is not None
    assert splitter.error.message.startswith("the model's service sent what is no server-sent event: “")
    assert all(character.isprintable() for character in splitter.error.message)


@given(st.lists(st.binary(max_size=60)))
def test_random_bytes_never_raise_and_never_pile_up(chunks: list[bytes]) -> None:
    splitter = EventSplitter(50)
    for chunk in chunks:
        assert all(len(event) <= 50 for event in splitter.feed(chunk))
        assert len(splitter._line) <= 50 + len(b"\xef\xbb\xbfdata: ")
        assert sum(map(len, splitter._data)) <= 50
    splitter.close()
