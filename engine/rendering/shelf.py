"""Lines of finished messages that are kept for the next picture, bounded in bytes; those used longest ago go first.

A rendering that would fill more than half of the shelf is kept in part: the lines around those that were asked for, so
that looking through a huge message does not render it for each picture, and does not push out everything else.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Final

import attrs

Key = tuple[str, int, int, str]  # message, revision, width, theme
# What an entry takes beside its lines: key, place in the dictionary, record. Measured on CPython 3.11 and rounded up.
ENTRY_BYTES: Final = 400


@attrs.frozen(slots=True)
class Piece:
    """Lines of a rendering from number `first` on; it has `total`."""

    first: int
    lines: tuple[str, ...]
    total: int
    bytes: int

    def has(self, begin: int, end: int) -> bool:
        return begin >= end or (self.first <= begin and end <= self.first + len(self.lines))


@attrs.frozen(slots=True, kw_only=True)
class ShelfStatistics:
    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int


class Shelf:
    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._pieces: OrderedDict[Key, Piece] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: Key, begin: int, end: int) -> Piece | None:
        """What is kept of this rendering, if that has the lines from `begin` to before `end` (or all after it)."""
        piece = self._pieces.get(key)
        if piece is None or not piece.has(begin, min(end, piece.total)):
            self._misses += 1
            return None
        self._hits += 1
        self._pieces.move_to_end(key)
        return piece

    def put(self, key: Key, lines: list[str], begin: int) -> None:
        """Keep a rendering: all of it, or what is around the line `begin` if it is long."""
        self.drop(key)
        first, kept, size = _clipped(lines, min(begin, max(len(lines) - 1, 0)), self._bound // 2)
        piece = Piece(first, kept, len(lines), size)
        if size > self._bound:
            return
        while self._bytes + size > self._bound:
            _, gone = self._pieces.popitem(last=False)
            self._bytes -= gone.bytes
            self._evictions += 1
        self._pieces[key] = piece
        self._bytes += size

    def drop(self, key: Key) -> None:
        piece = self._pieces.pop(key, None)
        if piece is not None:
            self._bytes -= piece.bytes

    def clear(self) -> None:
        self._pieces.clear()
        self._bytes = 0

    def statistics(self) -> ShelfStatistics:
        return ShelfStatistics(
            entries=len(self._pieces),
            bytes=self._bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
        )


def _clipped(lines: list[str], begin: int, bound: int) -> tuple[int, tuple[str, ...], int]:
    size = ENTRY_BYTES + sum(map(sys.getsizeof, lines)) + 8 * len(lines)
    if size <= bound:
        return 0, tuple(lines), size
    # A quarter of the room goes to what is above.
    first, room = begin, (bound - ENTRY_BYTES) // 4
    while first > 0 and (room := room - sys.getsizeof(lines[first - 1]) - 8) > 0:
        first -= 1
    end, size = first, ENTRY_BYTES
    while end < len(lines) and (grown := size + sys.getsizeof(lines[end]) + 8) <= bound:
        end, size = end + 1, grown
    return first, tuple(lines[first:end]), size
