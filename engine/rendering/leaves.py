"""The leaves of Markdown as lines of a terminal: each gives lines away as soon as it can."""

from __future__ import annotations

from typing import Final

from engine.rendering import source, tables
from engine.rendering.boxes import Boxes, Stack
from engine.rendering.cells import wrap
from engine.rendering.highlight import CODE
from engine.rendering.inline import inline
from engine.rendering.source import OPEN_MAX
from engine.rendering.styles import Attr, Role, Run, attributes_of, encode, style

# Rows and characters of a table after which its columns stay as they are.
ROWS_MAX: Final = 64
TABLE_MAX: Final = 4096


class Leaf(source.Leaf):
    """`spaced`: blank lines stand around it."""

    __slots__ = ()
    stack: Stack

    def emit(self, lines: list[list[Run]]) -> None:
        stack = self.stack
        if lines and not self.shown:
            if self.show():
                self.out.append(encode(stack.gap()))
            stack.kept = len(stack)
        for runs in lines:
            self.out.append(encode([*stack.prefix(), *runs]))


class Paragraph(Leaf, source.Paragraph):
    """What is over OPEN_MAX is given away up to its last whole line."""

    __slots__ = ("carry",)

    def __init__(self) -> None:
        super().__init__()
        self.carry: list[Run] = []  # the last line of what was given away

    @property
    def base(self) -> int:
        return self.stack.base

    def more(self, text: str, last: bool) -> None:
        self.text += text
        while len(self.text) > OPEN_MAX:
            cut = self.text.rfind(" ", 0, OPEN_MAX) + 1 or OPEN_MAX
            runs = self.carry + inline(self.text[:cut], self.base)
            *lines, self.carry = wrap(runs, self.stack.inner)
            self.emit(lines)
            self.text = self.text[cut:]
            self.given, self.line_at = True, 0

    def close(self) -> None:
        text = self.text.rstrip(" \n")
        if text or self.carry:
            self.emit(wrap(self.carry + inline(text, self.base), self.stack.inner))
        self.text, self.carry = "", []


class Heading(Paragraph):
    __slots__ = ("level",)
    spaced = True
    one_line = True

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    @property
    def base(self) -> int:
        extra = {1: Attr.BOLD | Attr.UNDERLINE, 2: Attr.BOLD, 3: Attr.BOLD}.get(self.level, Attr.ITALIC)
        return style(Role.HEADING, attributes_of(self.stack.base) | extra)


class _Lined(Leaf, source.Lined):
    """Each source line is lines of its own, broken where they are full."""

    __slots__ = ()
    lead: Run = ("  ", CODE)

    def more(self, text: str, last: bool) -> None:
        runs, self.state = self.highlighter.line(text, self.state)
        *lines, rest = wrap(self.carry + runs, self.stack.inner - len(self.lead[0]), words=False)
        if last:
            lines.append(rest)
        self.carry = [] if last else rest
        self.emit([[self.lead, *line] for line in lines])

    def close(self) -> None:
        if self.carry:
            self.emit([[self.lead, *self.carry]])
        self.carry = []


class Code(_Lined, source.Code):
    __slots__ = ()


class Indented(_Lined, source.Indented):
    __slots__ = ()

    def show_blanks(self, count: int) -> None:
        self.emit([[self.lead]] * count)


class Rule(Leaf):
    __slots__ = ()
    spaced = True

    def close(self) -> None:
        self.emit([[(self.stack.theme.rule * self.stack.inner, style(Role.RULE))]])


class Table(Leaf, source.Table):
    __slots__ = ("characters", "layout", "rows")

    def __init__(self, head: list[str], aligns: tuple[tables.Align, ...]) -> None:
        super().__init__(head, aligns)
        self.rows: list[list[str]] = []
        self.characters = sum(map(len, head))
        self.layout: tables.Layout | None = None

    def copy(self, stack: Boxes, out: list[str]) -> source.Leaf:
        other = super().copy(stack, out)
        assert isinstance(other, Table)
        other.rows = list(self.rows)
        return other

    def row(self, cells: list[str]) -> None:
        if self.layout is not None:
            self.emit(self._lines(cells, self.layout))
            return
        self.rows.append(cells)
        self.characters += sum(map(len, cells))
        if len(self.rows) > ROWS_MAX or self.characters > TABLE_MAX:
            self.close()

    def close(self) -> None:
        if self.layout is not None:
            return
        layout = self.layout = tables.lay_out([self.head, *self.rows], self.aligns, self.stack.inner)
        self.emit(self._lines(self.head, layout, head=True))
        if layout.widths:
            self.emit([tables.rule_line(layout, self.stack.theme)])
        for cells in self.rows:
            self.emit(self._lines(cells, layout))
        self.rows = []

    def _lines(self, cells: list[str], layout: tables.Layout, *, head: bool = False) -> list[list[Run]]:
        stack = self.stack
        return tables.row_lines(cells, layout, stack.theme, stack.inner, stack.base, head=head)
