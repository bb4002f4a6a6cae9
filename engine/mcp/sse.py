"""A stream of server-sent events whose data are JSON documents, bounded while it arrives.

The long strings of an event's data leave as pieces before it (engine.mcp.scanner), data of several lines are one
document. Comments, fields that nobody knows and the data of events that are not called `message` are passed over as
they come, whatever their length. A line ends with a line feed, a carriage return, or both; a byte order mark before the
first one is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.scanner import Document, Event

# Of a name, an id or a wait: much more than any is long. Ids go back to the server in a header, of which servers take
# 8 KiB.
FIELD_BYTES: Final = 4 * KIB
# More digits than a wait of a century has, in milliseconds.
_RETRY_DIGITS: Final = 12
_MARK: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data:"
_FIELDS: Final = (b"event:", b"id:", b"retry:")


class BrokenEvents(ValueError):
    """The stream cannot be read on: a field is longer than any may be."""


def line_ends(data: bytes) -> int:
    """About how many lines end in it: half of them at the least."""
    return max(data.count(b"\n"), data.count(b"\r"))


@attrs.frozen(slots=True)
class EventEnd:
    """The end of an event, after what its data gave: its `id` ("": ids end here; None: it has none) and the seconds to
    wait before the stream is asked for again, if it says them."""

    id: str | None = None
    retry: float | None = None


class EventScanner:
    """Feed it the body of a response: it gives Piece, Line and Rejected of an event's data, then its EventEnd. An event
    that the stream's end cuts off has none, and pieces that came of it are void."""

    def __init__(self, limits: Limits = DEFAULT, nonce: Callable[[], str] | None = None) -> None:
        self._document = Document(limits, nonce)
        self._mark: bytes | None = b""  # as much of one as the stream began with; None: it is known whether it has one
        self._returned = False  # the last byte was a carriage return, of whose line end a line feed may be the rest
        self._begun = bytearray()  # of a line that is not known to be data, nor to be passed over
        self._known: bytes | None = None  # what the line is that arrives: _DATA, one of _FIELDS, b"" to pass over
        self._after_data = False  # the event has some
        self._foreign = False  # the event is not called `message`
        self._id: str | None = None
        self._retry: float | None = None

    def feed(self, data: bytes) -> list[Event | EventEnd]:
        """Raises BrokenEvents."""
        events: list[Event | EventEnd] = []
        data = self._with_line_feeds(data)
        position = 0
        while position < len(data):
            feed = data.find(b"\n", position)
            end = feed if feed >= 0 else len(data)
            # What keeps a connection alive may come in floods: it costs as little as can be.
            if feed >= 0 and self._known is None and not self._begun and data[position : position + 1] in b":\n":
                if feed == position:
                    self._end_event(events)
                position = end + 1
                continue
            self._part(data[position:end], events)
            if feed >= 0:
                self._end_line(events)
            position = end + 1
        return events

    def _with_line_feeds(self, data: bytes) -> bytes:
        """What came, without a mark at the stream's beginning, and with a line feed as the end of each line."""
        if self._mark is not None:
            data = self._mark + data
            if len(data) < len(_MARK) and _MARK.startswith(data):
                self._mark = data
                return b""
            self._mark = None
            data = data.removeprefix(_MARK)
        if self._returned and data:
            data = data.removeprefix(b"\n")
            self._returned = False
        if b"\r" in data:
            self._returned = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _part(self, data: bytes, events: list[Event | EventEnd]) -> None:
        """More of a line."""
        if self._known is None:
            self._begun += data
            self._known = _known(self._begun)
            if self._known == _DATA:
                data = bytes(self._begun[len(_DATA) :])
                self._begun.clear()
                if self._after_data and not self._foreign:
                    events += self._document.feed(b"\n")
                self._after_data = True
            elif self._known == b"":
                self._begun.clear()
        elif self._known in _FIELDS:
            self._begun += data
        if self._known == _DATA and not self._foreign:
            events += self._document.feed(data)
        if len(self._begun) > FIELD_BYTES:
            raise BrokenEvents("a field of an event is too long")

    def _end_line(self, events: list[Event | EventEnd]) -> None:
        known, self._known = self._known, None
        if known in _FIELDS:
            value = bytes(self._begun)[len(known) :].removeprefix(b" ")
            self._field(known, value)
        blank = known is None and not self._begun
        self._begun.clear()
        if blank:
            self._end_event(events)

    def _end_event(self, events: list[Event | EventEnd]) -> None:
        if self._after_data or self._id is not None or self._retry is not None:
            events += self._document.finish()
            events.append(EventEnd(self._id, self._retry))
            self._after_data = False
            self._id = self._retry = None
        self._foreign = False

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"event:":
            self._foreign = value not in (b"", b"message")
        elif name == b"id:":
            text = value.decode(errors="replace")
            # It becomes a header, which takes no other characters.
            if text.isascii() and (text.isprintable() or not text):
                self._id = text
        elif value.isdigit() and len(value) <= _RETRY_DIGITS:
            self._retry = int(value) / 1000


def _known(line: bytearray) -> bytes | None:
    """What a line is that begins so; None if more of it has to be seen."""
    for name in (_DATA, *_FIELDS):
        if line.startswith(name):
            return name
    if any(name.startswith(line) for name in (_DATA, *_FIELDS)):
        return None
    return b""
