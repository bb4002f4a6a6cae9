from __future__ import annotations

import itertools
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.rechunk import Rechunker

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def read(parts: list[bytes]) -> tuple[bytes, int, str]:
    """What an HTTP library makes of a response that arrives in these parts: its body, chunks, and how it ends."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    body, chunks = b"", 0
    try:
        for part in [*parts, b""]:
            client.receive_data(part)
            while True:
                event: Any = client.next_event()
                if isinstance(event, h11.Data):
                    body += event.data
                    chunks += event.chunk_start
                elif isinstance(event, h11.EndOfMessage):
                    return body, chunks, "ended"
                elif not isinstance(event, h11.Response | h11.InformationalResponse):
                    break
    except h11.RemoteProtocolError:
        return body, chunks, "broken"
    return body, chunks, "cut"


def rewritten(parts: list[bytes]) -> list[bytes]:
    rechunker = Rechunker()
    rechunker.request_sent()
    return [out for part in parts if (out := rechunker.rewrite(part))]


def test_the_chunks_of_one_read_become_one() -> None:
    [out] = rewritten([HEAD + chunked(b"hello", b" ", b"world")])
    assert out == HEAD + b"b\r\nhello world\r\n0\r\n\r\n"


RESPONSES = [
    HEAD + chunked(b"one", b"two" * 50, b"three"),
    HEAD + chunked(b"one", b"two", end=b"0;last\r\nX-Trailer: yes\r\n\r\n"),
    HEAD + b"3;name=value\r\nabc\r\n003 \r\ndef\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + chunked(b"after"),
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n5\r\nhello\r",
    b"HTTP/1.1 200 OK\r\n\r\n5\r\nhello\r\n",  # until the connection ends
    HEAD.replace(b"\r\n", b"\n") + chunked(b"line feeds"),
    HEAD + chunked(b"cut", end=b"") + b"ff\r\nabc",
    HEAD + chunked(b"good", end=b"") + b"zz\r\nbad",
    HEAD + b"3\r\nabcXX3\r\ndef\r\n",
    HEAD + b"f" * 20 + b"\r\n",
]


@given(st.sampled_from(RESPONSES), st.lists(st.integers(0, 300), max_size=12))
def test_a_library_reads_the_same_however_it_arrives(response: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(response)) for cut in cuts), len(response)]
    parts = [response[a:b] for a, b in itertools.pairwise(bounds) if a < b]
    body, _, end = read([response])
    got_body, got_chunks, got_end = read(rewritten(parts))
    assert (got_body, got_end) == (body, end)
    assert got_chunks <= max(len(parts), 1)


@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_pass_without_an_error(parts: list[bytes]) -> None:
    rewritten(parts)
    rewritten([HEAD, *parts])


def test_the_next_response_of_the_connection() -> None:
    rechunker = Rechunker()
    for _ in range(3):
        rechunker.request_sent()
        assert rechunker.rewrite(HEAD + chunked(b"a", b"b")) == HEAD + b"2\r\nab\r\n0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_held_is_bounded(size: int) -> None:
    rechunker = Rechunker()
    rechunker.request_sent()
    given_back = sum(len(rechunker.rewrite(b"h" * size)) for _ in range(300_000 // size))
    assert given_back == 300_000 // size * size
    assert len(rechunker._held) <= 17 * 1024
    rechunker.request_sent()
    rechunker.rewrite(HEAD)
    for _ in range(5000 // size + 1):
        rechunker.rewrite(b"f" * size)
    assert len(rechunker._held) <= 1024
