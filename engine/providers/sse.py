"""Server-sent events without I/O: bytes in, the data of each event out.

Follows the WHATWG rules: lines end with LF, CR or CRLF; `data` lines of one event are joined with LF; comments and
other fields are passed over; a byte order mark at the start is dropped. Two differences, because the senders are
model services and not the web at large: `close` gives an event that lacks its blank line at the end (several
services end so), and a line that is no field at all is refused at once, because it is a proxy's page or garbage
that nobody would otherwise hear of.
"""

from __future__ import annotations

import re
from typing import Final

from engine.errors import PeerError
from engine.providers.faults import shown

_BOM: Final = b"\xef\xbb\xbf"
_FIELD: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_-]{0,63}(?::|\Z)")
# What a line may hold besides the data itself.
_LINE_EXTRA: Final = len(_BOM + b"data: ")


class EventSplitter:
    """Time is linear in the bytes fed, whatever their chunks. Holds at most `event_bytes` of one event's data (and
    a few bytes of its line). One byte more is an `error`, like a line that is no field: what came before is given,
    and nothing after it is taken."""

    def __init__(self, event_bytes: int) -> None:
        self._most = event_bytes
        self.error: PeerError | None = None
        self._line = bytearray()  # of a line without its end
        self._data: list[bytes] = []  # lines of an event without its end
        self._size = 0  # of `_data`, with the LFs between
        self._began = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes, in order."""
        events: list[bytes] = []
        try:
            self._feed(chunk, events)
        except PeerError as exc:
            self.error = exc
            self._drop()
        return events

    def close(self) -> bytes | None:
        """The data of an event that the body's end cut off before its blank line, None if there is none."""
        events: list[bytes] = []
        try:
            self._feed(b"\n\n", events)
        except PeerError as exc:
            self.error = exc
        self._drop()
        return events[0] if events else None

    def _feed(self, chunk: bytes, events: list[bytes]) -> None:
        if self.error is not None:
            return
        if b"\r" in chunk or self._after_cr:
            chunk = self._plain_ends(chunk)
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if not lines:
            self._hold(rest)
            return
        if self._line:
            self._hold(lines[0])
            lines[0] = bytes(self._line)
            self._line.clear()
        if not self._began:
            self._began = True
            lines[0] = lines[0].removeprefix(_BOM)
        data = self._data
        for line in lines:
            if line[:6] == b"data: ":
                self._add(line[6:])
            elif line:
                self._other(line)
            elif data:
                events.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
                self._size = 0
        if rest:
            self._hold(rest)

    def _plain_ends(self, chunk: bytes) -> bytes:
        """The chunk with LF for every line end; the LF of a CRLF that is split over two chunks is dropped."""
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._after_cr = False
            if not chunk:
                return chunk
        if chunk:
            self._after_cr = chunk[-1:] == b"\r"
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _drop(self) -> None:
        self._line.clear()
        self._data.clear()

    def _hold(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > self._most + _LINE_EXTRA:
            raise self._too_large()
        self._line += piece

    def _add(self, data: bytes) -> None:
        self._size += len(data) + (1 if self._data else 0)
        if self._size > self._most:
            raise self._too_large()
        self._data.append(data)

    def _other(self, line: bytes) -> None:
        """A line that is neither blank nor begins as nearly all do."""
        if line.startswith(b"data:"):
            self._add(line[5:])
        elif line == b"data":
            self._add(b"")
        elif line[:1] != b":" and _FIELD.match(line) is None:
            raise PeerError("provider_error", f"the model's service sent what is no server-sent event: {shown(line)}")

    def _too_large(self) -> PeerError:
        return PeerError(
            "provider_error",
            f"the model's service sent an event over {self._most:,} bytes (limits.provider_event_bytes)",
            limit=self._most,
        )
