"""The leaves of Markdown as they take in their source: what a text is made of, however it is shown.

Two writers show it: `leaves` as lines of a terminal, `html_leaves` as elements of a page. Each has a class for every
leaf here.
"""

from __future__ import annotations

from typing import ClassVar, Final

from engine.rendering.boxes import Boxes
from engine.rendering.highlight import Highlighter, State
from engine.rendering.styles import Run
from engine.rendering.tables import Align

# Characters of a source line that are taken at a time: more than people write without a break, and little enough to be
# read again at each picture of a text that is not ended.
OPEN_MAX: Final = 2048
# Blank lines in a row within indented code that are shown: they are known to be code only when more of it follows.
BLANKS_MAX: Final = 64


class Leaf:
    """One block, entered once. `spaced`: space stands around it. `one_line`: it ends with its source line. `inside`:
    its writer has begun something that has to be ended."""

    __slots__ = ("gap", "inside", "out", "shown", "stack")
    spaced: ClassVar[bool] = False
    one_line: ClassVar[bool] = False
    stack: Boxes
    out: list[str]

    def __init__(self) -> None:
        self.gap = self.inside = self.shown = False

    def enter(self, stack: Boxes, out: list[str], gap: bool) -> None:
        self.stack, self.out, self.gap = stack, out, gap

    def copy(self, stack: Boxes, out: list[str]) -> Leaf:
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

    def show(self) -> bool:
        """Its first line or element comes now: whether there is space before that."""
        stack = self.stack
        gap = stack.begun and (self.gap or self.spaced or stack.spaced)
        self.shown = stack.begun = True
        stack.spaced = self.spaced
        return gap


class Paragraph(Leaf):
    """`given`: a part of it has been given away, so that `text` is not all of it."""

    __slots__ = ("given", "line_at", "text")

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.line_at = 0  # where the last source line begins
        self.given = False

    @property
    def last_line(self) -> str:
        return self.text[self.line_at :]

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

    def as_heading(self, heading: Paragraph) -> None:
        """This text was underlined: it goes over to a heading."""
        heading.enter(self.stack, self.out, self.gap)
        heading.text = self.text

    def as_table(self, table: Table) -> None:
        """The last line was the head of a table; what is before it stays a paragraph."""
        before = self.line_at > 0
        self.text = self.text[: self.line_at]
        self.close()
        table.enter(self.stack, self.out, self.gap and not before)


class Lined(Leaf):
    """Code: each source line is shown as one."""

    __slots__ = ("carry", "highlighter", "state")
    spaced = True

    def __init__(self, language: str) -> None:
        super().__init__()
        self.highlighter = Highlighter(language)
        self.state: State = None
        self.carry: list[Run] = []  # what a writer that breaks lines keeps of one that is not ended


class Code(Lined):
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


class Indented(Lined):
    __slots__ = ("blanks",)

    def __init__(self) -> None:
        super().__init__("")
        self.blanks = 0  # lines that are shown if code follows them

    def more_line(self, text: str, last: bool) -> None:
        self.show_blanks(min(self.blanks, BLANKS_MAX))
        self.blanks = 0
        self.more(text, last)

    def show_blanks(self, count: int) -> None:
        raise NotImplementedError


class Table(Leaf):
    __slots__ = ("aligns", "head")
    spaced = True

    def __init__(self, head: list[str], aligns: tuple[Align, ...]) -> None:
        super().__init__()
        self.head, self.aligns = head, aligns

    def row(self, cells: list[str]) -> None:
        raise NotImplementedError
