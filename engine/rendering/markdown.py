"""Markdown to lines of a terminal while it streams: each line is made once, only the open end is made again.

A block machine after CommonMark's, line by line: containers (quotes, list items) hold one open leaf (paragraph,
heading, code, table). Lines of what is closed are stable. What may still change is bounded: a paragraph gives its
lines away beyond OPEN_MAX characters, a table fixes its columns after ROWS_MAX rows or OPEN_MAX characters, a source
line is taken in pieces of OPEN_MAX characters. So the work is linear in the text, and `tail` costs no more for a long
text than for a short one. What the lines are depends on the text alone, not on how it came.

Not all of CommonMark: HTML is shown as it is written, there are no link reference definitions, emphasis does not cross
the place where a long paragraph was given away. No line is wider than asked for.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from engine.rendering import leaves
from engine.rendering.boxes import DEPTH_MAX, Item, Quote, Stack
from engine.rendering.cells import clean
from engine.rendering.leaves import OPEN_MAX, Leaf
from engine.rendering.styles import DARK, TEXT, Run, Theme
from engine.rendering.tables import COLUMNS_MAX, DELIMITER, aligns_of, cells_of

WIDTH_MIN: Final = 8  # cells; a narrower terminal cuts the lines
FEED: Final = 4096  # characters: of two of them comes a line of a hundred bytes at the most, so some 1 MB of lines

_FENCE: Final = re.compile(r"(`{3,}(?=[^`]*$)|~{3,})\s*([^\s`{]*)")
_HEADING: Final = re.compile(r"(#{1,6})(?:\s+|$)(.*)")
_HEADING_END: Final = re.compile(r"(?:^|\s)#+\s*$")
_RULE: Final = re.compile(r"(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$")
_SETEXT: Final = re.compile(r"(=+|-+)\s*$")
_ITEM: Final = re.compile(r"([-*+]|\d{1,9}[.)])( +|$)")
_TASK: Final = re.compile(r"\[([ xX])\] ")
INDENTED: Final = 4  # spaces that make code


class _Blocks:
    """The state of the machine after some whole lines (and pieces of one)."""

    __slots__ = ("blank", "leaf", "out", "stack")

    def __init__(self, stack: Stack, out: list[str]) -> None:
        self.stack, self.out = stack, out
        self.leaf: Leaf | None = None
        self.blank = False  # a blank line since the last leaf

    def copy(self, out: list[str]) -> _Blocks:
        other = _Blocks(self.stack.copy(), out)
        other.leaf = None if self.leaf is None else self.leaf.copy(other.stack, out)
        other.blank = self.blank
        return other

    # -------------------------------------------------------------- lines
    def line(self, text: str, *, first: bool, last: bool) -> None:
        """A source line without its newline, clean; or a piece of one, if it is not both the first and the last."""
        if first:
            self._begin(text, last)
        elif self.leaf is not None:
            self.leaf.more(text, last)
        if last and isinstance(self.leaf, leaves.Heading):
            self.close()

    def close(self) -> None:
        if self.leaf is not None:
            self.leaf.close()
            self.leaf = None

    def finish(self) -> None:
        self.close()
        self.stack.pop_to(0, self.out)

    def _begin(self, text: str, last: bool) -> None:
        rest, matched = self.stack.match(text)
        whole = matched == len(self.stack)
        leaf = self.leaf
        if isinstance(leaf, leaves.Code) and whole:
            if not leaf.ends_at(rest) or not last:
                leaf.more_line(rest, last)
                return
            self.close()
            return
        if not rest.strip():
            self._blank_line(matched)
            return
        while True:
            body = rest.lstrip(" ")
            indent = len(rest) - len(body)
            whole = matched == len(self.stack)
            open_text = self.leaf if isinstance(self.leaf, leaves.Paragraph) else None
            if indent >= INDENTED and (open_text is not None or len(self.stack)):
                break
            if indent >= INDENTED:
                if isinstance(self.leaf, leaves.Indented):
                    self.leaf.more_line(rest[INDENTED:], last)
                else:
                    self._open(leaves.Indented(), matched).more_line(rest[INDENTED:], last)
                return
            if body.startswith(">") and (len(self.stack) < DEPTH_MAX or not whole):
                self._push(Quote(), matched)
                rest = body[2:] if body.startswith("> ") else body[1:]
                matched = len(self.stack)
                if not rest.strip():
                    return
                continue
            if last and self._block(body, indent, whole, open_text, matched):
                return
            if found := _HEADING.match(body):
                self._open(leaves.Heading(len(found[1])), matched).more(
                    _HEADING_END.sub("", found[2]) if last else found[2], last
                )
                return
            found = _ITEM.match(body)
            if found is None or (whole and open_text is not None and not _interrupts(found, body)):
                break
            if whole and len(self.stack) >= DEPTH_MAX:
                break
            rest = self._item(found, body, indent, matched)
            matched = len(self.stack)
            if not rest.strip():
                return
        self._text(body, last, matched, open_text)

    def _blank_line(self, matched: int) -> None:
        self.blank = True
        if isinstance(self.leaf, leaves.Indented):
            self.leaf.blanks += 1
            return
        self.close()
        # Items go on after a blank line; a quote does not without its sign.
        self.stack.pop_to(matched, self.out)

    def _block(self, body: str, indent: int, whole: bool, text: leaves.Paragraph | None, matched: int) -> bool:
        """A block that is known by a whole line."""
        if whole and text is not None and text.is_whole:
            if found := _SETEXT.match(body):
                self.leaf = text.as_heading(1 if found[1][0] == "=" else 2)
                self.close()
                return True
            if "|" in text.last_line and ("|" in body or ":" in body) and DELIMITER.match(body):
                head, aligns = cells_of(text.last_line), aligns_of(body)
                if len(head) == len(aligns) <= COLUMNS_MAX:
                    self.leaf = text.as_table(head, aligns)
                    return True
        if found := _FENCE.match(body):
            self._open(leaves.Code(found[1], found[2], indent), matched)
            return True
        if _RULE.match(body):
            self._open(leaves.Rule(), matched)
            self.close()
            return True
        if whole and isinstance(self.leaf, leaves.Table) and "|" in body and not _ITEM.match(body):
            self.leaf.row(cells_of(body))
            return True
        return False

    def _item(self, found: re.Match[str], body: str, indent: int, matched: int) -> str:
        """A list's item opened; what follows its marker."""
        spaces = len(found[2])
        content = indent + len(found[1]) + (spaces if 1 <= spaces <= INDENTED else 1)
        rest = body[len(found[1]) + (content - indent - len(found[1])) :]
        task = _TASK.match(rest)
        self._push(Item(found[1], content, None if task is None else task[1] != " "), matched)
        return rest[task.end() :] if task else rest

    def _text(self, body: str, last: bool, matched: int, open_text: leaves.Paragraph | None) -> None:
        if open_text is not None:  # also when a container's sign is missing: a lazy line
            open_text.more_line(body, last)
        else:
            self._open(leaves.Paragraph(), matched).more_line(body, last)

    def _push(self, box: Quote | Item, matched: int) -> None:
        self.close()
        self.stack.pop_to(matched, self.out)
        self.stack.push(box)

    def _open(self, leaf: Leaf, matched: int) -> Leaf:
        self.close()
        self.stack.pop_to(matched, self.out)
        leaf.enter(self.stack, self.out, self.blank)
        self.blank = False
        self.leaf = leaf
        return leaf


def _interrupts(item: re.Match[str], body: str) -> bool:
    """Whether this begins a list within a paragraph: a year at the begin of a line does not."""
    return body != item[1] and (item[1] in "-*+" or item[1][:-1] == "1")


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
        self._blocks = _Blocks(stack, self.stable)
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
