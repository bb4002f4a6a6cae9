"""A stream of server-sent events whose data are JSON documents, bounded while it arrives.

What comes out is a stream of such events again, for any reader of them: the long strings of the data are cut out and
leave as pieces before their event (engine.mcp.scanner), data of several lines become one. Other fields pass as they
are. Lines end with a line feed, with or without a carriage return before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.scanner import Document, Event, Line, Rejected

# Of fields other than data (names, ids, waits, comments): much more than any is long.
FIELD_BYTES: Final = 16 * KIB
_DATA: Final = b"data:"


class BrokenEvents(ValueError):
    """The stream cannot be read on: a field is longer than any may be."""


class EventScanner:
    """Feed it the body of a response: it gives Piece, Line and Rejected of the data, and then the bytes of the event
    that they are of. Rejected data are a JSON string that says why: it is no message, and readers say so."""

    def __init__(self, limits: Limits = DEFAULT, nonce: Callable[[], str] | None = None) -> None:
        self._document = Document(limits, nonce)
        self._fields = bytearray()  # of the open event, data not among them
        self._begun = bytearray()  # of a line that is not known to be data
        self._in_data = False  # the line that arrives is data
        self._after_data = False  # the event has some
        self._events: list[Event | bytes] = []

    def feed(self, data: bytes) -> list[Event | bytes]:
        """Raises BrokenEvents."""
        self._events = []
        position = 0
        while position < len(data):
            feed = data.find(b"\n", position)
            end = feed if feed >= 0 else len(data)
            self._part(data[position:end])
            if feed >= 0:
                self._end_line()
            position = end + 1
        return self._events

    def _part(self, data: bytes) -> None:
        """More of a line."""
        if self._in_data:
            self._events += self._document.feed(data)
            return
        self._begun += data
        if self._begun.startswith(_DATA):
            if self._after_data:
                self._events += self._document.feed(b"\n")
            self._in_data = self._after_data = True
            self._events += self._document.feed(bytes(self._begun[len(_DATA) :]))
            self._begun.clear()
        elif len(self._begun) + len(self._fields) > FIELD_BYTES:
            raise BrokenEvents("a field of an event is too long")

    def _end_line(self) -> None:
        if self._in_data:
            self._in_data = False
            return
        line = bytes(self._begun).removesuffix(b"\r")
        self._begun.clear()
        if line:
            self._fields += line + b"\n"
            return
        if self._after_data:
            self._end_data()
        self._events.append(bytes(self._fields) + b"\n")
        self._fields.clear()
        self._after_data = False

    def _end_data(self) -> None:
        text = b""
        for event in self._document.finish():
            self._events.append(event)
            if isinstance(event, Line):
                # Between the values of a document a line feed is a blank, and in a string there is none.
                text = event.data.replace(b"\n", b" ").replace(b"\r", b" ")
            elif isinstance(event, Rejected):
                text = orjson.dumps(f"the message {event.reason}")
        self._fields += b"data: " + text + b"\n"
