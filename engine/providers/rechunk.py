"""Merging the chunks of an HTTP/1.1 body: what one read brought becomes one chunk.

A model's service sends each token as a chunk of its own, and an HTTP library spends far more on a chunk than on its
bytes. So the bytes are rewritten between the socket and the library: `5\\r\\nhello\\r\\n6\\r\\n world\\r\\n` leaves as
`b\\r\\nhello world\\r\\n`. Only the framing changes. What is not understood passes unchanged, from there to the end of
the response, and the library judges it.
"""

from __future__ import annotations

import re
from typing import Final, Literal

_HEAD_END: Final = re.compile(rb"\n\r?\n")
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding:[ \t]*chunked[ \t]*\r?\n", re.I)
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1\d\d[ \r\n]")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*|[ \t]*)\r\n")
# A head above this passes unchanged, with its body: services send a tenth of it.
_HEAD_MAX: Final = 16 * 1024
# A chunk's size with extensions; services send none.
_SIZE_LINE_MAX: Final = 1024


class Rechunker:
    """`rewrite` the bytes of each read in order; `request_sent` before the reads of each response. Holds at most one
    head or the line of one chunk's size; an empty result of non-empty input means that nothing is ready yet."""

    def __init__(self) -> None:
        self._state: Literal["head", "size", "data", "end", "pass"] = "head"
        self._held = b""  # of the head (already passed on), of a size line or of a chunk's end
        self._left = 0  # bytes of the chunk that are still to come

    def request_sent(self) -> None:
        self._state = "head"
        self._held = b""

    def rewrite(self, data: bytes) -> bytes:
        """`data` with its chunks merged; data of an unfinished chunk leaves at once."""
        if self._state == "pass":
            return data
        if self._state == "head":
            passed = self._head(data)
            if passed == len(data):
                return data
            return data[:passed] + self._body(data[passed:])
        return self._body(data)

    def _head(self, data: bytes) -> int:
        """How much of `data` is the head, which passes unchanged; sets the state that the rest is read in."""
        seen = len(self._held)
        head = self._held + data
        while True:
            end = _HEAD_END.search(head)
            if end is None:
                self._held = head
                if len(head) > _HEAD_MAX:
                    self._state, self._held = "pass", b""
                return len(data)
            if _INTERIM.match(head) is None:
                break
            seen -= end.end()
            head = head[end.end() :]
        self._held = b""
        self._state = "size" if _CHUNKED.search(head, 0, end.end()) else "pass"
        return len(data) if self._state == "pass" else max(0, end.end() - seen)

    def _body(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        left, state = self._left, self._state
        rest = b""
        while at < size:
            if state == "data":
                piece = data[at : at + left] if at or left < size else data
                pieces.append(piece)
                at += len(piece)
                left -= len(piece)
                if left == 0:
                    state = "end"
            elif state == "end":
                if size - at < 2:
                    self._held = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    state, rest = "pass", data[at:]
                    break
                at += 2
                state = "size"
            else:
                line = _SIZE.match(data, at)
                if line is None and size - at < _SIZE_LINE_MAX and data.find(b"\n", at) < 0:
                    self._held = data[at:]
                    break
                left = int(line[1], 16) if line is not None else 0
                if line is None or left == 0:  # broken, or the last chunk with its trailers
                    state, rest = "pass", data[at:]
                    break
                at = line.end()
                state = "data"
        self._left, self._state = left, state
        if not pieces:
            return rest
        merged = b"".join(pieces)
        return b"%x\r\n%b\r\n%b" % (len(merged), merged, rest)
