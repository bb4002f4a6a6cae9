"""The blocks of Markdown as elements of a page.

What is shown is a sequence of pieces that are balanced each: where one ends, whatever is open is closed (`suspend`),
and what goes on in the next is opened again there with the class `on`, without its marker, once something comes.
"""

from __future__ import annotations

from typing import Final

from engine.rendering import source
from engine.rendering.blocks import Kinds
from engine.rendering.boxes import Boxes, Item
from engine.rendering.html_inline import code, inline

BULLETS: Final = "-*+"
TASKS: Final = "☐☑"  # open and done
ALIGNED: Final = {"left": "", "right": " class='right'", "middle": " class='middle'"}


class Page(Boxes):
    """The boxes. Those from `opened` on have no element in this piece: they get one when something is shown in them.
    A list's element stays open after its last item (`ended`): the next block may be its next item."""

    __slots__ = ("ended", "opened")

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.ended = ""  # the name of the list in the innermost element that is open; none: there is none

    @property
    def is_closed(self) -> bool:
        """Nothing is open, whatever comes."""
        return not self.boxes and not self.ended

    def enter(self, out: list[str]) -> None:
        """Open the boxes that are not. What is written behind this is in the innermost."""
        for box in self.boxes[self.opened :]:
            if isinstance(box, Item):
                name = "ul" if box.marker in BULLETS else "ol"
                if self.ended != name:
                    self._end_list(out)
                    out.append(f"<{name}>")
                self.ended = ""
                out.append(_item(box))
                box.marked = True
            else:
                self._end_list(out)
                out.append("<blockquote>")
            self.opened += 1
        self._end_list(out)

    def show_empty(self, out: list[str]) -> None:
        self.enter(out)

    def suspend(self, out: list[str]) -> None:
        self.leave(0, out)
        self._end_list(out)

    def leave(self, count: int, out: list[str]) -> None:
        while self.opened > count:
            self._end_list(out)
            self.opened -= 1
            box = self.boxes[self.opened]
            if isinstance(box, Item):
                out.append("</li>")
                self.ended = "ul" if box.marker in BULLETS else "ol"
            else:
                out.append("</blockquote>")

    def _end_list(self, out: list[str]) -> None:
        if self.ended:
            out.append(f"</{self.ended}>")
            self.ended = ""


def _item(box: Item) -> str:
    if box.marked:
        return "<li class='on'>"
    if box.done is not None:
        return f"<li class='task'><span class='box'>{TASKS[box.done]}</span> "
    return "<li>" if box.marker in BULLETS else f"<li value='{int(box.marker[:-1])}'>"


class Leaf(source.Leaf):
    __slots__ = ()
    stack: Page

    def suspend(self) -> None:
        """The piece ends: end what is open of this in it."""

    def begin(self) -> str:
        """What the start tag of its next element has beside the name."""
        self.stack.enter(self.out)
        if self.shown:
            return " class='on'"
        return " class='gap'" if self.show() else ""


class Paragraph(Leaf, source.Paragraph):
    __slots__ = ()

    @property
    def name(self) -> str:
        return "p"

    def more(self, text: str, last: bool) -> None:
        self.text += text

    def close(self) -> None:
        text = self.text.strip(" \n")
        if text:
            self.out.append(f"<{self.name}{self.begin()}>{inline(text)}</{self.name}>")
        self.text = ""

    def suspend(self) -> None:
        self.close()
        self.given, self.line_at = True, 0


class Heading(Paragraph):
    __slots__ = ("level",)
    spaced = True
    one_line = True

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    @property
    def name(self) -> str:
        return f"h{self.level}"


class Lined(Leaf, source.Lined):
    """The element is open from its first line on."""

    __slots__ = ()

    def more(self, text: str, last: bool) -> None:
        self._open()
        runs, self.state = self.highlighter.line(text, self.state)
        self.out.append(code(runs) + ("\n" if last else ""))

    def close(self) -> None:
        self.suspend()

    def suspend(self) -> None:
        if self.inside:
            self.out.append("</code></pre>")
            self.inside = False

    def _open(self) -> None:
        if not self.inside:
            self.out.append(f"<pre{self.begin()}><code>")
            self.inside = True


class Code(Lined, source.Code):
    __slots__ = ()


class Indented(Lined, source.Indented):
    __slots__ = ()

    def show_blanks(self, count: int) -> None:
        if count:
            self._open()
            self.out.append("\n" * count)


class Rule(Leaf):
    __slots__ = ()
    spaced = True

    def close(self) -> None:
        self.out.append(f"<hr{self.begin()}>")


class Table(Leaf, source.Table):
    """Its rows are shown as they come; missing cells are left out, as are those beyond the columns."""

    __slots__ = ()

    def row(self, cells: list[str]) -> None:
        self._open()
        self.out.append(f"<tr>{self._cells('td', cells)}</tr>")

    def close(self) -> None:
        self._open()
        self.suspend()

    def suspend(self) -> None:
        if self.inside:
            self.out.append("</tbody></table>")
            self.inside = False

    def _open(self) -> None:
        if self.inside:
            return
        head = "" if self.shown else f"<thead><tr>{self._cells('th', self.head)}</tr></thead>"
        self.out.append(f"<table{self.begin()}>{head}<tbody>")
        self.inside = True

    def _cells(self, name: str, cells: list[str]) -> str:
        return "".join(
            f"<{name}{ALIGNED[align]}>{inline(cell)}</{name}>" for cell, align in zip(cells, self.aligns, strict=False)
        )


KINDS: Final = Kinds(paragraph=Paragraph, heading=Heading, code=Code, indented=Indented, rule=Rule, table=Table)
