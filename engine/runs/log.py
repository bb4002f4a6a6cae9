"""The replay log of one run: its newest events in encoded form, bounded in entries and bytes.

The log holds what watchers send: for every event but deltas the encoded JSON object, for deltas the escaped JSON
text, adjacent ones of one part packed into a segment (one bytearray and an array of offsets), because a token
held as an object of its own costs 200 times its text. Merging a reader's missed deltas is then one slice, and
framing joins bytes; nothing is encoded a second time.

Rules:
- `seq` rises by one with each event; a log may begin at any number (after a restart: above what was reserved).
- Over a bound the oldest segment goes whole (SEGMENT_EVENTS events at most). The newest entry always stays, even if
  it alone is over the bound.
- A reader has a cursor, the last seq it has. `read` gives what follows, or a Gap if that is not held any more.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Final

import attrs

from engine.runs.budget import LogBudget

# A segment is the unit of trimming: small enough that a cut loses little, large enough that its overhead
# (about 300 bytes) is spread over many tokens. In a log with smaller bounds it is at most half of them, so that
# dropping the oldest one always suffices.
SEGMENT_EVENTS: Final = 64
SEGMENT_BYTES: Final = 16 * 1024
# Bytes of JSON around an event's own: `{"seq":12345678,"from":12345678,"at":1234567890123,}`.
ENVELOPE_BYTES: Final = 64
_END_BYTES: Final = array("I").itemsize


class _Fact:
    """One event that is not a delta."""

    __slots__ = ("at", "body", "first")

    def __init__(self, first: int, at: int, body: bytes) -> None:
        self.first = first
        self.at = at
        self.body = body

    @property
    def last(self) -> int:
        return self.first

    @property
    def size(self) -> int:
        return len(self.body) + ENVELOPE_BYTES


class _Deltas:
    """Adjacent deltas of one part. `ends[i]` is where the text of event `first + i` ends."""

    __slots__ = ("at", "ends", "first", "part_id", "text")

    def __init__(self, first: int, part_id: bytes) -> None:
        self.first = first
        self.part_id = part_id
        self.at = 0
        self.text = bytearray()
        self.ends = array("I")

    @property
    def last(self) -> int:
        return self.first + len(self.ends) - 1

    @property
    def size(self) -> int:
        return len(self.text) + _END_BYTES * len(self.ends) + ENVELOPE_BYTES

    def render(self, after: int, room: int) -> tuple[bytes, int]:
        """One merged delta of the events after `after` whose text fits `room` (at least one), and its last seq."""
        begin = max(0, after - self.first + 1)
        start = self.ends[begin - 1] if begin else 0
        end = begin + 1
        while end < len(self.ends) and self.ends[end] - start <= room:
            end += 1
        first, last = self.first + begin, self.first + end - 1
        merged = b'"from":%d,' % first if last > first else b""
        text = bytes(memoryview(self.text)[start : self.ends[end - 1]])
        body = b'{"seq":%d,%b"at":%d,"type":"part.delta","part_id":"%b","text":"%b"}' % (
            last, merged, self.at, self.part_id, text,
        )  # fmt: skip
        return body, last


@attrs.frozen(slots=True)
class Slice:
    """Encoded events after a cursor, in order. `cursor` is the last seq in them (or the reader's own)."""

    events: tuple[bytes, ...]
    cursor: int
    size: int  # bytes of the events


@attrs.frozen(slots=True)
class Gap:
    """The reader's cursor is older than the log (or newer than the run: it is of before a restart)."""

    first: int  # first seq that is missed
    last: int  # last seq that is missed


class ReplayLog:
    """See the module. Not thread-safe; times are milliseconds since the epoch."""

    def __init__(self, *, max_entries: int, max_bytes: int, last_seq: int = 0, budget: LogBudget | None = None) -> None:
        assert max_entries >= 1 and max_bytes >= 1
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._segment_events = max(1, min(SEGMENT_EVENTS, max_entries // 2))
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // 2)
        self._segments: deque[_Fact | _Deltas] = deque()
        self._entries = 0
        self._budget = budget  # of all logs; it may trim this one while it grows
        self.last_seq = last_seq
        self.last_fact = 0  # seq of the newest event that is not a delta: readers need not hurry for deltas alone
        self.size = 0  # bytes held

    def __len__(self) -> int:
        return self._entries

    @property
    def first_seq(self) -> int:
        """The oldest seq held; last_seq + 1 when nothing is."""
        return self._segments[0].first if self._segments else self.last_seq + 1

    def append(self, at: int, body: bytes) -> int:
        """Take an event that is not a delta; `body` is of engine.runs.events.encode. Returns its seq."""
        self.last_seq += 1
        self.last_fact = self.last_seq
        fact = _Fact(self.last_seq, at, body)
        self._segments.append(fact)
        self._grow(1, fact.size)
        return self.last_seq

    def append_delta(self, at: int, part_id: bytes, text: bytes) -> int:
        """Take a delta; `text` is JSON-escaped without quotes (engine.codec.escaped). Returns its seq."""
        self.last_seq += 1
        tail = self._segments[-1] if self._segments else None
        size = len(text) + _END_BYTES
        if (
            not isinstance(tail, _Deltas)
            or tail.part_id != part_id
            or len(tail.ends) >= self._segment_events
            or tail.size + size > self._segment_bytes
        ):
            tail = _Deltas(self.last_seq, part_id)
            self._segments.append(tail)
            size += tail.size
        tail.text += text
        tail.ends.append(len(tail.text))
        tail.at = at
        self._grow(1, size)
        return self.last_seq

    def read(self, after: int, max_bytes: int) -> Slice | Gap:
        """The events after the cursor `after`, at most `max_bytes` of them but one at least."""
        if after > self.last_seq or after + 1 < self.first_seq:
            return Gap(after + 1, self.last_seq)
        events: list[bytes] = []
        size, cursor = 0, after
        for segment in self._from(after):
            # A segment may need several merged deltas when the room is small.
            while cursor < segment.last:
                if isinstance(segment, _Fact):
                    body, last = b'{"seq":%d,"at":%d,%b}' % (segment.first, segment.at, segment.body), segment.first
                else:
                    body, last = segment.render(cursor, max(1, max_bytes - size - 2 * ENVELOPE_BYTES))
                if events and size + len(body) > max_bytes:
                    return Slice(tuple(events), cursor, size)
                events.append(body)
                size += len(body)
                cursor = last
        return Slice(tuple(events), cursor, size)

    def is_far(self, cursor: int) -> bool:
        """Whether a reader at `cursor` has missed a quarter of what the log can hold: it is time to read."""
        missed = self.last_seq - cursor
        share = self.size * missed // (self._entries or 1)  # bytes of what is missed, if all events are alike
        return missed * 4 > self._max_entries or share * 4 > self._max_bytes

    def trim(self, max_bytes: int) -> int:
        """Drop the oldest until at most `max_bytes` are held (the newest segment stays). Returns bytes freed."""
        before = self.size
        while self.size > max_bytes and len(self._segments) > 1:
            self._drop()
        return before - self.size

    def clear(self) -> None:
        """Drop everything; the numbering goes on."""
        freed = self.size
        self._segments.clear()
        self._entries = self.size = 0
        if self._budget is not None:
            self._budget.grew(-freed)

    def _from(self, after: int) -> list[_Fact | _Deltas]:
        """The segments that hold something after the cursor, oldest first: found from the tail, where readers are."""
        if self._segments and self._segments[-1].first <= after + 1:
            return [self._segments[-1]]
        found: list[_Fact | _Deltas] = []
        for segment in reversed(self._segments):
            if segment.last <= after:
                break
            found.append(segment)
        found.reverse()
        return found

    def _grow(self, entries: int, size: int) -> None:
        self._entries += entries
        self.size += size
        while (self._entries > self._max_entries or self.size > self._max_bytes) and len(self._segments) > 1:
            self._drop()
        if self._budget is not None:
            self._budget.grew(size)

    def _drop(self) -> None:
        segment = self._segments.popleft()
        self._entries -= segment.last - segment.first + 1
        self.size -= segment.size
        if self._budget is not None:
            self._budget.grew(-segment.size)
