"""What a Markdown text is made of, line by line: a machine after CommonMark's, for every writer.

Containers (quotes, list items) hold one open leaf (paragraph, heading, code, table). A line is taken once; what it ends
is closed for good.

Not all of CommonMark: HTML is shown as it is written, there are no link reference definitions, emphasis does not cross
the place where a long paragraph was given away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import attrs

from engine.rendering.boxes import DEPTH_MAX, Boxes, Item, Quote
from engine.rendering.source import Code, Indented, Leaf, Paragraph, Table
from engine.rendering.tables import COLUMNS_MAX, DELIMITER, Align, aligns_of, cells_of

_FENCE: Final = re.compile(r"(`{3,}(?=[^`]*$)|~{3,})\s*([^\s`{]*)")
_HEADING: Final = re.compile(r"(#{1,6})(?:\s+|$)(.*)")
_HEADING_END: Final = re.compile(r"(?:^|\s)#+\s*$")
_RULE: Final = re.compile(r"(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$")
_SETEXT: Final = re.compile(r"(=+|-+)\s*$")
_ITEM: Final = re.compile(r"([-*+]|\d{1,9}[.)])( +|$)")
_TASK: Final = re.compile(r"\[([ xX])\] ")
INDENTED: Final = 4  # spaces that make code


@attrs.frozen(slots=True, kw_only=True)
class Kinds:
    """How a writer shows leaves: what makes each."""

    paragraph: Callable[[], Paragraph]
    heading: Callable[[int], Paragraph]  # of a level
    code: Callable[[str, str, int], Code]
    indented: Callable[[], Indented]
    rule: Callable[[], Leaf]
    table: Callable[[list[str], tuple[Align, ...]], Table]


class Blocks:
    """The state of the machine after some whole lines (and pieces of one)."""

    __slots__ = ("blank", "kinds", "leaf", "out", "stack")

    def __init__(self, stack: Boxes, out: list[str], kinds: Kinds) -> None:
        self.stack, self.out, self.kinds = stack, out, kinds
        self.leaf: Leaf | None = None
        self.blank = False  # a blank line since the last leaf

    def copy(self, out: list[str]) -> Blocks:
        other = Blocks(self.stack.copy(), out, self.kinds)
        other.leaf = None if self.leaf is None else self.leaf.copy(other.stack, out)
        other.blank = self.blank
        return other

    # -------------------------------------------------------------- lines
    def line(self, text: str, *, first: bool, last: bool) -> None:
        """A source line without its newline, clean; or a piece of one, if it is not both the first and the last."""
        if first or self.leaf is None:  # of a line that began with nothing but spaces the text comes later
            self._begin(text, last)
        else:
            self.leaf.more(text, last)
        if last and self.leaf is not None and self.leaf.one_line:
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
        if isinstance(leaf, Code) and whole:
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
            open_text = self.leaf if isinstance(self.leaf, Paragraph) else None
            if indent >= INDENTED and (open_text is not None or len(self.stack)):
                break
            if indent >= INDENTED:
                if isinstance(self.leaf, Indented):
                    self.leaf.more_line(rest[INDENTED:], last)
                else:
                    self._open(self.kinds.indented(), matched).more_line(rest[INDENTED:], last)
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
                self._open(self.kinds.heading(len(found[1])), matched).more(
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
        if isinstance(self.leaf, Indented):
            self.leaf.blanks += 1
            return
        self.close()
        # Items go on after a blank line; a quote does not without its sign.
        self.stack.pop_to(matched, self.out)

    def _block(self, body: str, indent: int, whole: bool, text: Paragraph | None, matched: int) -> bool:
        """A block that is known by a whole line."""
        if whole and text is not None and not text.given:
            if found := _SETEXT.match(body):
                self.leaf = heading = self.kinds.heading(1 if found[1][0] == "=" else 2)
                text.as_heading(heading)
                self.close()
                return True
            if "|" in text.last_line and ("|" in body or ":" in body) and DELIMITER.match(body):
                head, aligns = cells_of(text.last_line), aligns_of(body)
                if len(head) == len(aligns) <= COLUMNS_MAX:
                    self.leaf = table = self.kinds.table(head, aligns)
                    text.as_table(table)
                    return True
        if found := _FENCE.match(body):
            self._open(self.kinds.code(found[1], found[2], indent), matched)
            return True
        if _RULE.match(body):
            self._open(self.kinds.rule(), matched)
            self.close()
            return True
        if whole and isinstance(self.leaf, Table) and "|" in body and not _ITEM.match(body):
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

    def _text(self, body: str, last: bool, matched: int, open_text: Paragraph | None) -> None:
        if open_text is not None:  # also when a container's sign is missing: a lazy line
            open_text.more_line(body, last)
        else:
            self._open(self.kinds.paragraph(), matched).more_line(body, last)

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
