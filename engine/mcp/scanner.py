"""JSON documents, one a line, from a peer that is not trusted: bounded while they arrive.

    scanner = LineScanner()
    for event in scanner.feed(data):     # any bytes, cut anywhere
        ...                              # Piece, Line or Rejected
    scanner.finish()                     # at the stream's end

A string of more than `limits.tool_memory_bytes` is cut out of its line: its content leaves as pieces, as they come,
and in the line stands a marker in its place. So the line stays small, can be parsed by anyone, and what was cut is
found again by its marker. What remains of a line, the number of its cuts and its depth are bounded too; a line that
breaks a bound is rejected by name, skipped to its end, and the next one is read.

A marker is random and new for each line with cuts, drawn when the line's first cut begins: no peer can write one that
it has not seen, and none is ever shown to it. A line that holds one twice all the same is rejected, or, if the second
is written with escapes, refused by `Cuts.find`.

Nothing is done byte by byte. Within a line two facts carry the state from one segment to the next: whether it ends
inside a string, and whether its last byte escapes the next. A segment is at most as long as a string may be, so that
only strings that cross its borders can be too long: those inside it are not looked at one by one.

Lengths are of the JSON text, escapes included. Whether it is JSON is for its parser to say: here garbage only keeps
within the bounds. Pieces are passed on as they are (engine.mcp.unescape makes text of them).
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable
from typing import Final

import attrs

from engine.limits import DEFAULT, KIB, Limits

# Of a rejected line this much is kept, for a log: what a program prints by mistake can be recognised.
HEAD_BYTES: Final = 256
# When half of what may remain of a line is used up, shorter strings are cut out too: an answer of many strings of
# middle length is long, but not wrong.
SMALL_STRING_BYTES: Final = 4 * KIB

# A request or a notice as every server writes it: its method before its parameters.
_ASKS: Final = re.compile(
    rb'\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?(?:\s*"id"\s*:\s*(?:\d{1,18}|"[^"\\]{0,100}")\s*,)?\s*"method"\s*:'
)
_MARKER: Final = "greenroom-cut:"
_NONCE_BYTES: Final = 16  # 128 random bits: not to be guessed
_BLANK: Final = b" \t\r\n"
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS: Final = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}


@attrs.frozen(slots=True)
class Piece:
    """The next bytes of the cut string `index` (from 0 in each line), escaped as they came."""

    index: int
    data: bytes


@attrs.frozen(slots=True)
class Cuts:
    """What was cut out of a line: `sizes` in bytes of JSON text, by index. `prefix` is unguessable."""

    prefix: str = ""
    sizes: tuple[int, ...] = ()

    def find(self, value: str) -> int | None:
        """The index of the cut that `value`, a string of the parsed line, stands for; None if it is a plain string.

        Raises ValueError for what begins like a marker and is none."""
        if not self.sizes or not value.startswith(self.prefix):
            return None
        index = value[len(self.prefix) :]
        if index.isascii() and index.isdigit() and int(index) < len(self.sizes) and str(int(index)) == index:
            return int(index)
        raise ValueError("a string looks like a marker of a cut")

    def among(self, *values: object) -> bool:
        """Whether one of the values is a string that is not itself."""
        return bool(self.sizes) and any(isinstance(value, str) and value.startswith(self.prefix) for value in values)


NO_CUTS: Final = Cuts()


@attrs.frozen(slots=True)
class Line:
    """A whole line without its end; all pieces of its cuts came before it."""

    data: bytes
    cuts: Cuts = NO_CUTS


@attrs.frozen(slots=True)
class Rejected:
    """A line that is skipped: `reason` for a person, `head` its beginning. Pieces that came of it are void."""

    reason: str
    head: bytes


Event = Piece | Line | Rejected


class Endless(Exception):
    """A line has more bytes than any may have: nothing that comes after it is waited for."""


class Document:
    """One JSON document, cut while it arrives. `LineScanner` has one a line; an HTTP body is one as a whole.

    `feed` and `finish` give the events; after a Rejected the rest is passed over.
    """

    def __init__(self, limits: Limits = DEFAULT, nonce: Callable[[], str] | None = None) -> None:
        self._limits = limits
        self._nonce = nonce or _nonce
        self.clear()

    def clear(self) -> None:
        """Begin anew: the next bytes are those of another document."""
        self._kept = bytearray()  # the document without its cuts
        self._scanned = False  # a document shorter than a long string is only collected
        self._rejected = False
        self._in_string = False
        self._escaped = False  # the last byte was a backslash that escapes the next
        self._begin = 0  # where in `_kept` the content of the open string begins
        self._cutting = False  # the open string leaves in pieces
        self._size = 0  # of it so far
        self._prefix = ""
        self._sizes: list[int] = []

    @property
    def asks(self) -> bool:
        """What has come of the document begins as no answer does: nobody waits for it."""
        return _ASKS.match(self._kept[:HEAD_BYTES]) is not None

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self._rejected or not data:
            return events
        if not self._scanned:
            if len(self._kept) + len(data) <= self._limits.tool_memory_bytes:
                self._kept += data
                return events
            self._scanned = True
            # It begins with a blank or a bracket: what programs print by mistake is not scanned for strings.
            if (self._kept or data).lstrip(_BLANK)[:1] not in (b"{", b"[", b""):
                self._reject("is not JSON", events, data)
                return events
            collected = bytes(self._kept)
            self._kept.clear()
            self._scan(collected, events)
        self._scan(data, events)
        return events

    def finish(self) -> list[Event]:
        """The end of the document: its Line (none if it is blank), or why it is rejected. Begins anew."""
        events: list[Event] = []
        if not self._rejected and (line := bytes(self._kept).strip(_BLANK)):
            reason = self._fault(line)
            if reason is None:
                cuts = Cuts(self._prefix, tuple(self._sizes)) if self._sizes else NO_CUTS
                events.append(Line(line, cuts))
            else:
                self._reject(reason, events)
        self.clear()
        return events

    def abandon(self, reason: str) -> list[Event]:
        """The end of the document before it was whole. Begins anew."""
        events: list[Event] = []
        if not self._rejected and (self._kept.strip(_BLANK) or self._cutting):
            self._reject(reason, events)
        self.clear()
        return events

    def _scan(self, data: bytes, events: list[Event]) -> None:
        position = 0
        while position < len(data) and not self._rejected:
            most = self._string_bytes()
            self._segment(data[position : position + most], most, events)
            position += most
            if len(self._kept) > self._limits.mcp_line_bytes:
                self._reject(f"has more than {self._limits.mcp_line_bytes:,} bytes beside its long strings", events)

    def _string_bytes(self) -> int:
        most = self._limits.tool_memory_bytes
        return min(SMALL_STRING_BYTES, most) if len(self._kept) > self._limits.mcp_line_bytes // 2 else most

    def _segment(self, data: bytes, most: int, events: list[Event]) -> None:
        """Take at most `most` bytes, as many as a string may have that is not cut."""
        # The same bytes with what is escaped made harmless: every quote in it is the border of a string.
        quotes = b"." + data[1:] if self._escaped else data
        if b"\\" in quotes:
            quotes = quotes.replace(b"\\\\", b"..").replace(b'\\"', b"..")
        self._escaped = quotes.endswith(b"\\")
        position = 0
        if self._in_string:
            end = quotes.find(b'"')
            if end < 0:
                self._content(data, most, events)
                return
            self._content(data[:end], most, events)
            self._end_string()
            self._kept += b'"'
            position = end + 1
        if quotes.count(b'"', position) % 2 == 0:
            self._kept += data[position:]
            return
        begin = quotes.rfind(b'"') + 1
        self._kept += data[position:begin]
        self._in_string = True
        self._begin = len(self._kept)
        self._content(data[begin:], most, events)

    def _content(self, data: bytes, most: int, events: list[Event]) -> None:
        """Take content of the open string; what makes it too long makes it a cut."""
        if not self._cutting:
            self._kept += data
            if len(self._kept) - self._begin <= most:
                return
            if len(self._sizes) >= self._limits.mcp_line_strings:
                self._reject(f"has more than {self._limits.mcp_line_strings:,} long strings", events)
                return
            data = bytes(self._kept[self._begin :])
            del self._kept[self._begin :]
            self._cutting = True
            self._size = 0
            self._prefix = self._prefix or f"{_MARKER}{self._nonce()}:"
        if data:
            self._size += len(data)
            events.append(Piece(len(self._sizes), data))

    def _end_string(self) -> None:
        self._in_string = False
        if self._cutting:
            self._cutting = False
            self._kept += b"%s%d" % (self._prefix.encode(), len(self._sizes))
            self._sizes.append(self._size)

    def _fault(self, line: bytes) -> str | None:
        """Why a whole line is to be rejected; None if it is within its bounds."""
        if line[:1] not in (b"{", b"["):
            return "is not JSON"
        if self._in_string:
            return "ends inside a string"
        if self._sizes:
            prefix = self._prefix.encode()
            if line.count(prefix) != len(self._sizes):
                return "holds what looks like a marker of a cut"
            if re.search(rb'"%s\d+"\s*:' % re.escape(prefix), line):
                return "has a name that is too long"
        most, values = self._limits.mcp_line_depth, self._limits.mcp_line_values
        # Only a line with so many brackets can be so deep, and one with so many commas so full: few are looked at.
        brackets = line.count(b"[") + line.count(b"{")
        if brackets > most or brackets + line.count(b",") > values:
            outside = b"".join(line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
            if outside.count(b"[") + outside.count(b"{") + outside.count(b",") > values:
                return f"has more than {values:,} values"
            steps = (_STEPS[byte] for byte in outside.translate(None, _NO_BRACKETS))
            if max(itertools.accumulate(steps), default=0) > most:
                return f"is nested more than {most} deep"
        return None

    def _reject(self, reason: str, events: list[Event], data: bytes = b"") -> None:
        head = bytes(self._kept[:HEAD_BYTES])
        if self._prefix:  # a marker is not shown, and none begins where the head ends
            head = head[: 1 + head.rfind(b'"')].replace(self._prefix.encode(), b"")
        events.append(Rejected(reason, head + data[: HEAD_BYTES - len(head)]))
        self._rejected = True
        self._kept = bytearray()


class LineScanner:
    """Documents that end with a line feed. Holds at most one line of `limits.mcp_line_bytes` and one string of
    `limits.tool_memory_bytes`, whatever comes. `nonce` is for tests."""

    def __init__(self, limits: Limits = DEFAULT, nonce: Callable[[], str] | None = None) -> None:
        self._limits = limits
        self._size = 0  # of the line that has not ended
        self._document = Document(limits, nonce)

    def feed(self, data: bytes) -> list[Event]:
        """Events of the bytes that came, in order. Blank lines have none. Raises Endless for a line of more than
        `limits.mcp_answer_bytes`, rejected or not, and one that is no answer of more than `limits.mcp_unasked_bytes`;
        the events of what it was fed with are lost, and it is of no use any more."""
        events: list[Event] = []
        position = 0
        while (end := data.find(b"\n", position)) >= 0:
            # A line feed ends the line wherever it stands: in a JSON string it would have been escaped.
            events += self._document.feed(data[position:end])
            events += self._document.finish()
            position = end + 1
        self._size = len(data) - position + (0 if position else self._size)
        events += self._document.feed(data[position:] if position else data)
        most = self._limits.mcp_answer_bytes
        if self._size > self._limits.mcp_unasked_bytes and self._document.asks:
            most = self._limits.mcp_unasked_bytes
        if self._size > most:
            raise Endless(f"one of its messages has more than {most:,} bytes")
        return events

    def finish(self) -> list[Event]:
        """The end of the stream: a line without its end is rejected."""
        return self._document.abandon("was not finished")


def _nonce() -> str:
    return secrets.token_hex(_NONCE_BYTES)
