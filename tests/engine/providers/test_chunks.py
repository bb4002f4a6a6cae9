from __future__ import annotations

import itertools
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.chunks import ChunkedBody

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def ours(parts: list[bytes]) -> tuple[bytes, bytes, str]:
    """What is left to the library, the body, and how it ends."""
    body = ChunkedBody()
    library, got = b"", b""
    for part in parts:
        head, piece = body.feed(part)
        library += head
        got += piece
    return library, got, "done" if body.done else "broken" if body.broken else "open"


def by_h11(response: bytes) -> tuple[bytes, str]:
    """What an HTTP library makes of the same response: its body, and how it ends."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    body = b""
    while True:
        try:
            event: Any = client.next_event()
        except h11.RemoteProtocolError:
            return body, "broken"
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return body, "done"
        elif event is h11.NEED_DATA:
            return body, "open"


def split(response: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(response)) for cut in cuts), len(response)]
    return [response[a:b] for a, b in itertools.pairwise(bounds) if a < b]


CHUNKED = [
    chunked(b"one", b"two" * 50, b"three"),
    chunked(b"one", b"two", end=b"0;last\r\nX-Trailer: yes\r\nX-Other: no\r\n\r\n"),
    b"3;name=value\r\nabc\r\n003 \r\ndef\r\n0\r\n\r\n",
    chunked(b"cut", end=b"") + b"ff\r\nabc",
    chunked(b"cut", end=b"0\r\n"),
    chunked(b"good", end=b"") + b"zz\r\nbad",
    b"3\r\nabcXX3\r\ndef\r\n",
    b"f" * 30 + b"\r\n",
    b"-3\r\nabc\r\n",
    b"",
]


@given(st.sampled_from(CHUNKED), st.lists(st.integers(0, 400), max_size=12))
def test_the_body_is_what_a_library_reads_however_it_arrives(body: bytes, cuts: list[int]) -> None:
    library, got, end = ours(split(HEAD + body, cuts))
    assert library == HEAD
    assert (got, end) == by_h11(HEAD + body)


@given(st.lists(st.integers(0, 200), max_size=12))
def test_interim_answers_and_bare_line_feeds_belong_to_the_head(cuts: list[int]) -> None:
    for head in (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD, HEAD.replace(b"\r\n", b"\n")):
        assert ours(split(head + chunked(b"after"), cuts)) == (head, b"after", "done")


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n5\r\nhello\r",
        b"HTTP/1.1 200 OK\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunked(b"a"),
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + HEAD[15:] + chunked(b"a"),
    ],
)
@given(st.lists(st.integers(0, 21_000), max_size=12))
def test_other_responses_are_the_library_s(response: bytes, cuts: list[int]) -> None:
    # The large head is given up as soon as it is too large, so it has to arrive in more than one part.
    cuts = [*cuts, 18_000]
    assert ours(split(response, cuts)) == (response, b"", "open")


def test_bytes_after_the_end_break_the_connection() -> None:
    assert ours([HEAD + chunked(b"a") + b"more"]) == (HEAD, b"a", "broken")


def test_the_next_response_of_the_connection() -> None:
    body = ChunkedBody()
    for _ in range(3):
        body.request_sent()
        assert not body.taken
        assert body.feed(HEAD + chunked(b"a", b"b")) == (HEAD, b"ab")
        assert body.taken
        assert body.done


@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_raise_nothing(parts: list[bytes]) -> None:
    ours(parts)
    ours([HEAD, *parts])


def test_what_is_held_is_bounded() -> None:
    for start, endless in ((b"", b"h"), (HEAD, b"f"), (HEAD, b"1;"), (HEAD + b"0\r\n", b"t")):
        body = ChunkedBody()
        body.feed(start)
        for _ in range(40_000):
            body.feed(endless)
            assert len(body._held) <= 16 * 1024
    assert ours([HEAD + b"0\r\n" + b"X: y\r\n" * 1000]) == (HEAD, b"", "broken")


def test_how_much_came_is_counted_in_chunks() -> None:
    body = ChunkedBody()
    for data, begun, chunks in (
        (HEAD[:20], False, 0),
        (HEAD[20:] + chunked(b"one", b"two", end=b""), True, 2),
        (chunked(b"three", end=b"4\r\nfo"), True, 2),  # a piece of a chunk is one too
        (b"ur\r\n0\r\n\r\n", True, 1),
    ):
        body.feed(data)
        assert (body.begun, body.chunks) == (begun, chunks)
    body.request_sent()
    body.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour")
    assert (body.begun, body.chunks) == (True, 0)
