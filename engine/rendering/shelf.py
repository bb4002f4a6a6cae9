"""Lines of finished messages that are kept for the next picture, bounded in bytes; those used longest ago go first.

A rendering that would fill more than half of the shelf is kept in part: the lines around those that were asked for, so
that looking through a huge message does not render it for each picture, and does not push out everything else.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterable
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

    def between(self, begin: int, end: int) -> list[str]:
        """Lines from `begin` to before `end`, those of them that are here."""
        return list(self.lines[max(begin - self.first, 0) : max(end - self.first, 0)])


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

    def put(self, key: Key, lines: Iterable[str], begin: int, end: int = 0, *, first: int = 0, total: int = 0) -> Piece:
        """Keep a rendering: all of it, or what is around the line `begin` if it is long. `lines` are those from number
        `first` on, of `total` if there are more behind them. Returns the piece that has those from `begin` to before
        `end`, however many they are."""
        self.drop(key)
        asked = clip(lines, begin, end, self._bound // 2, first=first, total=total)
        piece = asked
        if asked.bytes > self._bound // 2:
            piece = clip(asked.lines, begin, begin, self._bound // 2, first=asked.first, total=asked.total)
        if piece.bytes > self._bound:
            return asked
        while self._bytes + piece.bytes > self._bound:
            _, gone = self._pieces.popitem(last=False)
            self._bytes -= gone.bytes
            self._evictions += 1
        self._pieces[key] = piece
        self._bytes += piece.bytes
        return asked

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


def clip(lines: Iterable[str], begin: int, end: int, bound: int, *, first: int = 0, total: int = 0) -> Piece:
    """Of lines that come one after another, numbered from `first` on: those from `begin` to before `end`, and of those
    around them what fits `bound` bytes, a quarter of it above. What is not kept is let go as it comes."""
    kept: deque[str] = deque()
    size, above, full = ENTRY_BYTES, 0, False
    number = first
    for number, line in enumerate(lines, first + 1):
        if full:
            continue
        at, cost = number - 1, sys.getsizeof(line) + 8
        while size + cost > bound and kept and first < begin and (at < begin or above > bound // 4):
            gone = sys.getsizeof(kept.popleft()) + 8
            size, above, first = size - gone, above - gone, first + 1
        if size + cost > bound and at >= max(end, begin + 1):
            full = True
            continue
        kept.append(line)
        size += cost
        above += cost if at < begin else 0
    return Piece(first, tuple(kept), max(number, total), size)
