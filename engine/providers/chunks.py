"""The body of a chunked HTTP/1.1 response, taken out of the bytes of its connection.

A model's service sends each token as a chunk of its own, and an HTTP library spends far more on a chunk than on its
bytes. So only the head is left to the library; the body is read here. A response that is not chunked, or whose head
is not understood, belongs to the library as a whole.
"""

from __future__ import annotations

import re
from typing import Final, Literal

_HEAD_END: Final = re.compile(rb"\n\r?\n")
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding:[ \t]*chunked[ \t]*\r?\n", re.I)
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1\d\d[ \r\n]")
_BODILESS: Final = re.compile(rb"HTTP/1\.[01] (?:204|304)[ \r\n]")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*|[ \t]*)\r\n")
# A head above this is the library's, with its body: services send a tenth of it.
_HEAD_MAX: Final = 16 * 1024
# The line of a chunk's size with extensions, or of a trailer; services send none.
_LINE_MAX: Final = 1024
# Trailers of one body.
_TRAILERS_MAX: Final = 64


class ChunkedBody:
    """`feed` the bytes of each read in order, `request_sent` before those of each response. Holds at most a head or
    a line. After `broken` the connection is of no more use."""

    def __init__(self) -> None:
        self.request_sent()

    def request_sent(self) -> None:
        self._state: Literal["head", "library", "size", "data", "end", "trailers", "done", "broken"] = "head"
        self._held = b""  # of the head (given already), or of a line
        self._left = 0  # bytes of the chunk, or trailers, that may still come
        self.chunks = 0  # pieces of them that the last feed brought

    @property
    def begun(self) -> bool:
        """Whether the head has ended, whoever reads the body."""
        return self._state != "head"

    @property
    def taken(self) -> bool:
        """Whether the head has ended and the body is read here."""
        return self._state not in ("head", "library")

    @property
    def done(self) -> bool:
        """Whether the body has ended as it should."""
        return self._state == "done"

    @property
    def broken(self) -> bool:
        return self._state == "broken"

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What of `data` is the library's, and what it brought of the body, without its framing."""
        if self._state == "library":
            return data, b""
        if self._state != "head":
            return b"", self._body(data)
        head = self._head(data)
        return data[:head], self._body(data[head:]) if head < len(data) else b""

    def _head(self, data: bytes) -> int:
        """How much of `data` is the library's; sets the state in which the rest is read."""
        seen = len(self._held)
        head = self._held + data
        while True:
            end = _HEAD_END.search(head)
            if end is None:
                self._held = head
                if len(head) > _HEAD_MAX:
                    self._state, self._held = "library", b""
                return len(data)
            if _INTERIM.match(head) is None:
                break
            seen -= end.end()
            head = head[end.end() :]
        self._held = b""
        if _CHUNKED.search(head, 0, end.end()) is None or _BODILESS.match(head):
            self._state = "library"
            return len(data)
        self._state = "size"
        return max(0, end.end() - seen)

    def _body(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        left, state = self._left, self._state
        while at < size:
            if state == "data":
                piece = data[at : at + left]
                pieces.append(piece)
                at += len(piece)
                left -= len(piece)
                if left == 0:
                    state = "end"
            elif state == "size":
                line = _SIZE.match(data, at)
                if line is None:
                    state = self._wait(data, at, state)
                    break
                left = int(line[1], 16)
                at = line.end()
                if left:
                    state = "data"
                else:
                    state, left = "trailers", _TRAILERS_MAX
            elif state == "end":
                if size - at < 2:
                    self._held = data[at:]
                    break
                state = "size" if data[at : at + 2] == b"\r\n" else "broken"
                at += 2
            elif state == "trailers":
                feed = data.find(b"\n", at)
                if feed < 0:
                    state = self._wait(data, at, state)
                    break
                left -= 1
                if data[at:feed].strip(b"\r") == b"":
                    state = "done"
                elif left == 0:
                    state = "broken"
                at = feed + 1
            else:  # bytes after the end, or after what was not understood
                state = "broken"
                break
        self._left, self._state, self.chunks = left, state, len(pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _wait(self, data: bytes, at: int, state: Literal["size", "trailers"]) -> Literal["size", "trailers", "broken"]:
        """Hold a line whose end is still to come."""
        if len(data) - at >= _LINE_MAX or data.find(b"\n", at) >= 0:
            return "broken"
        self._held = data[at:]
        return state
