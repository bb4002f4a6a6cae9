"""The blocks of Markdown that have lines: each takes its source as it comes and gives lines away as soon as it can."""

from __future__ import annotations

from typing import Final

from engine.rendering import tables
from engine.rendering.boxes import Stack
from engine.rendering.cells import wrap
from engine.rendering.highlight import CODE, Highlighter, State
from engine.rendering.inline import inline
from engine.rendering.styles import Attr, Role, Run, attributes_of, encode, style

# Characters of a paragraph (or of a source line) that stay open: more than people write without a break, and little
# enough to be made again at each picture. What is longer is given away up to its last whole line.
OPEN_MAX: Final = 2048
# Rows and characters of a table after which its columns stay as they are.
ROWS_MAX: Final = 64
TABLE_MAX: Final = 4096
# Blank lines in a row within indented code that are shown: they are known to be code only when more of it follows.
BLANKS_MAX: Final = 64


class Leaf:
    """One block, entered once. `spaced`: blank lines stand around it."""

    __slots__ = ("gap", "out", "shown", "stack")
    spaced = False
    stack: Stack
    out: list[str]

    def __init__(self) -> None:
        self.gap = self.shown = False

    def enter(self, stack: Stack, out: list[str], gap: bool) -> None:
        self.stack, self.out, self.gap = stack, out, gap

    def copy(self, stack: Stack, out: list[str]) -> Leaf:
        """The same, writing elsewhere. What a leaf holds is replaced, never changed, or is copied by its class."""
        other = type(self).__new__(type(self))
        for kind in type(self).__mro__[:-1]:
            for name in kind.__dict__.get("__slots__", ()):
                setattr(other, name, getattr(self, name))
        other.stack, other.out = stack, out
        return other

    def more_line(self, text: str, last: bool) -> None:
        """A source line, or (not `last`) the first piece of one."""

    def more(self, text: str, last: bool) -> None:
        """The next piece of a source line."""

    def close(self) -> None:
        """Give away what is left."""

    def emit(self, lines: list[list[Run]]) -> None:
        stack = self.stack
        if lines and not self.shown:
            self.shown = True
            if stack.begun and (self.gap or self.spaced or stack.spaced):
                self.out.append(encode(stack.gap()))
            stack.begun = True
            stack.spaced = self.spaced
            stack.kept = len(stack)
        for runs in lines:
            self.out.append(encode([*stack.prefix(), *runs]))


class Paragraph(Leaf):
    __slots__ = ("carry", "given", "line_at", "text")

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.line_at = 0  # where the last source line begins
        self.carry: list[Run] = []  # the last line of what was given away
        self.given = False

    @property
    def is_whole(self) -> bool:
        return not self.given

    @property
    def last_line(self) -> str:
        return self.text[self.line_at :]

    @property
    def base(self) -> int:
        return self.stack.base

    def more_line(self, text: str, last: bool) -> None:
        if self.text or self.given:
            before = self.text
            if before.endswith("\\"):
                self.text = before[:-1] + "\n"
            else:
                bare = before.rstrip(" ")
                self.text = bare + ("\n" if len(before) - len(bare) >= 2 else " ")
        self.line_at = len(self.text)
        self.more(text.lstrip(" "), last)

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

    def as_heading(self, level: int) -> Heading:
        """This text underlined."""
        heading = Heading(level)
        heading.enter(self.stack, self.out, self.gap)
        heading.text = self.text
        return heading

    def as_table(self, head: list[str], aligns: tuple[tables.Align, ...]) -> Table:
        """The last line as the head of a table; what is before it stays a paragraph."""
        before = self.line_at > 0
        self.text = self.text[: self.line_at]
        self.close()
        table = Table(head, aligns)
        table.enter(self.stack, self.out, self.gap and not before)
        return table


class Heading(Paragraph):
    __slots__ = ("level",)
    spaced = True

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    @property
    def base(self) -> int:
        extra = {1: Attr.BOLD | Attr.UNDERLINE, 2: Attr.BOLD, 3: Attr.BOLD}.get(self.level, Attr.ITALIC)
        return style(Role.HEADING, attributes_of(self.stack.base) | extra)


class _Lined(Leaf):
    """Code: each source line is lines of its own, broken where they are full."""

    __slots__ = ("carry", "highlighter", "state")
    spaced = True
    lead: Run = ("  ", CODE)

    def __init__(self, language: str) -> None:
        super().__init__()
        self.highlighter = Highlighter(language)
        self.state: State = None
        self.carry: list[Run] = []  # of the source line that is not ended

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


class Code(_Lined):
    """Between fences. `indent` is that of the opening one, which its lines may have too."""

    __slots__ = ("fence", "indent")

    def __init__(self, fence: str, language: str, indent: int) -> None:
        super().__init__(language)
        self.fence, self.indent = fence, indent

    def ends_at(self, text: str) -> bool:
        body = text.strip(" ")
        return len(body) >= len(self.fence) and not body.strip(self.fence[0]) and len(text) - len(text.lstrip(" ")) < 4

    def more_line(self, text: str, last: bool) -> None:
        spaces = len(text) - len(text.lstrip(" "))
        self.more(text[min(spaces, self.indent) :], last)


class Indented(_Lined):
    __slots__ = ("blanks",)

    def __init__(self) -> None:
        super().__init__("")
        self.blanks = 0  # lines that are shown if code follows them

    def more_line(self, text: str, last: bool) -> None:
        self.emit([[self.lead]] * min(self.blanks, BLANKS_MAX))
        self.blanks = 0
        self.more(text, last)


class Rule(Leaf):
    __slots__ = ()
    spaced = True

    def close(self) -> None:
        self.emit([[(self.stack.theme.rule * self.stack.inner, style(Role.RULE))]])


class Table(Leaf):
    __slots__ = ("aligns", "characters", "head", "layout", "rows")
    spaced = True

    def __init__(self, head: list[str], aligns: tuple[tables.Align, ...]) -> None:
        super().__init__()
        self.head, self.aligns = head, aligns
        self.rows: list[list[str]] = []
        self.characters = sum(map(len, head))
        self.layout: tables.Layout | None = None

    def copy(self, stack: Stack, out: list[str]) -> Leaf:
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
