"""Markdown to lines of a terminal while it streams: each line is made once, only the open end is made again.

Lines of what is closed (see `blocks`) are stable. What may still change is bounded: a paragraph gives its lines away
beyond OPEN_MAX characters, a table fixes its columns after ROWS_MAX rows or OPEN_MAX characters, a source line is taken
in pieces of OPEN_MAX characters. So the work is linear in the text, and `tail` costs no more for a long text than for a
short one. What the lines are depends on the text alone, not on how it came. No line is wider than asked for.
"""

from __future__ import annotations

import sys
from typing import Final

from engine.rendering import leaves
from engine.rendering.blocks import Blocks, Kinds
from engine.rendering.boxes import Stack
from engine.rendering.cells import clean
from engine.rendering.source import OPEN_MAX
from engine.rendering.styles import DARK, TEXT, Run, Theme

WIDTH_MIN: Final = 8  # cells; a narrower terminal cuts the lines
FEED: Final = 4096  # characters: of two of them comes a line of a hundred bytes at the most, so some 1 MB of lines

_KINDS: Final = Kinds(
    paragraph=leaves.Paragraph,
    heading=leaves.Heading,
    code=leaves.Code,
    indented=leaves.Indented,
    rule=leaves.Rule,
    table=leaves.Table,
)


class Markdown:
    """One text, fed in pieces as it comes.

    `stable` are the lines that will not change any more: they are only ever added to, and belong to the caller for
    reading. `tail()` are those of the open end, as if the text ended here: `lines()`, both, is what the same text
    gives at once. Lines are styled strings (see `styles`), none wider than `width` cells (at least WIDTH_MIN). `lead`
    stands before each line, in its own style; `base` is the style of plain text.

    `feed` costs what is new; `tail` costs O(OPEN_MAX), and nothing if nothing is new. A hundred bytes of a line come of
    two of a table: who keeps a text of strangers feeds it in pieces of FEED characters and lets go of lines by
    `forget`. Lines keep their numbers; `gone` is that of the first one that is still in `stable`.
    """

    __slots__ = ("_blocks", "_first", "_measured", "_rest", "_stable_bytes", "_tail", "gone", "stable")

    def __init__(self, width: int, theme: Theme = DARK, *, lead: Run = ("", TEXT), base: int = TEXT) -> None:
        self.stable: list[str] = []
        self.gone = 0
        stack = Stack(max(width, WIDTH_MIN), theme, lead, base)
        self._blocks = Blocks(stack, self.stable, _KINDS)
        self._rest = ""  # of the line that is not ended
        self._first = True  # no piece of it has been taken
        self._tail: list[str] | None = []
        self._measured = self._stable_bytes = 0

    def feed(self, text: str) -> None:
        if not text:
            return
        self._tail = None
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            end = self._pieces(line)
            self._blocks.line(clean(end.removesuffix("\r")), first=self._first, last=True)
            self._first = True
        self._rest = self._pieces(self._rest)

    def _pieces(self, line: str) -> str:
        """Take what a long line has too much; what is left of it."""
        at = 0
        while len(line) - at > OPEN_MAX:
            self._blocks.line(clean(line[at : at + OPEN_MAX]), first=self._first, last=False)
            self._first = False
            at += OPEN_MAX
        return line[at:]

    @property
    def height(self) -> int:
        """Of all lines, forgotten ones too."""
        return self.gone + len(self.stable) + len(self.tail())

    def forget(self, count: int) -> None:
        """Let go of the first `count` lines in `stable`."""
        self._stable_bytes -= sum(map(sys.getsizeof, self.stable[: min(count, self._measured)]))
        self._measured = max(self._measured - count, 0)
        self.gone += min(count, len(self.stable))
        del self.stable[:count]

    def tail(self) -> list[str]:
        if self._tail is None:
            out: list[str] = []
            blocks = self._blocks.copy(out)
            if self._rest or not self._first:
                blocks.line(clean(self._rest.removesuffix("\r")), first=self._first, last=True)
            blocks.finish()
            self._tail = out
        return self._tail

    def lines(self) -> list[str]:
        """All lines that are not forgotten; a new list."""
        return self.stable + self.tail()

    def slice(self, begin: int, end: int) -> list[str]:
        """Lines from `begin` (no less than `gone`) to before `end`, without touching the others."""
        begin, end = begin - self.gone, end - self.gone
        stable = len(self.stable)
        if end <= stable:
            return self.stable[begin:end]
        return self.stable[begin:] + self.tail()[max(begin - stable, 0) : end - stable]

    def stable_bytes(self) -> int:
        """Of the lines in `stable`, measured; costs what is new."""
        for line in self.stable[self._measured :]:
            self._stable_bytes += sys.getsizeof(line)
        self._measured = len(self.stable)
        return self._stable_bytes + sys.getsizeof(self.stable)

    def retained_bytes(self) -> int:
        """Of the lines and the open end, measured."""
        return self.stable_bytes() + sum(map(sys.getsizeof, self._tail or [])) + 2 * OPEN_MAX
