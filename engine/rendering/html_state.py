"""Where a text goes on that is shown in pieces: the open boxes and the open leaf, without anything of its text.

The daemon keeps nothing of it: it goes to the client with a piece and comes back with what follows. So it is as hostile
as the text, and everything in it is checked.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import attrs

from engine import codec
from engine.codec import Check
from engine.rendering import html_leaves as html
from engine.rendering.blocks import INDENTED, Blocks
from engine.rendering.boxes import DEPTH_MAX, Item, Quote
from engine.rendering.source import BLANKS_MAX, OPEN_MAX, Leaf
from engine.rendering.tables import COLUMNS_MAX, Align

_MARKER: Final = re.compile(r"[-*+]|\d{1,9}[.)]")
_CONTENT_MAX: Final = 32  # of an item: the indent of a marker of at most ten characters, and what is around it
_TEXT_MAX: Final = 32  # characters of a language's name and of what ends a comment: none of ours is longer


def _range(least: int, most: int) -> Check:
    return Check(f"{least} to {most}", lambda value: least <= value <= most)


def _at_most(most: int) -> Check:
    return Check(f"at most {most}", lambda value: len(value) <= most)


_Marker = Annotated[str, Check("a marker", lambda text: _MARKER.fullmatch(text) is not None)]
_Content = Annotated[int, _range(0, _CONTENT_MAX)]
_Level = Annotated[int, _range(1, 6)]
_Count = Annotated[int, _range(3, OPEN_MAX)]
_Indent = Annotated[int, _range(0, INDENTED)]
_Blanks = Annotated[int, _range(0, BLANKS_MAX)]
_Short = Annotated[str, _at_most(_TEXT_MAX)]
_Aligns = Annotated[tuple[Align, ...], _at_most(COLUMNS_MAX)]


@attrs.frozen(slots=True, kw_only=True)
class _Box:
    """A quote, or an item if there is a marker."""

    marker: _Marker | None = None
    content: _Content = 0
    done: bool | None = None
    marked: bool = False

    @classmethod
    def of(cls, box: Quote | Item) -> _Box:
        if isinstance(box, Quote):
            return cls()
        return cls(marker=box.marker, content=box.content, done=box.done, marked=box.marked)

    def opened(self) -> Quote | Item:
        if self.marker is None:
            return Quote()
        item = Item(self.marker, self.content, self.done)
        item.marked = self.marked
        return item


@attrs.frozen(slots=True, kw_only=True)
class _Leaf:
    """What does not belong to its kind has its default. Of code, `ends` is what the comment or string ends with that
    goes on into its next line."""

    kind: Literal["paragraph", "heading", "code", "indented", "table"]
    gap: bool
    shown: bool
    level: _Level = 1
    sign: Literal["`", "~"] = "`"
    count: _Count = 3
    indent: _Indent = 0
    language: _Short = ""
    ends: _Short = ""
    blanks: _Blanks = 0
    aligns: _Aligns = ()

    @classmethod
    def of(cls, leaf: Leaf) -> _Leaf:
        gap, shown = leaf.gap, leaf.shown
        ends = leaf.state[0] if isinstance(leaf, html.Lined) and leaf.state is not None else ""
        match leaf:
            case html.Heading():
                return cls(kind="heading", gap=gap, shown=shown, level=leaf.level)
            case html.Paragraph():
                return cls(kind="paragraph", gap=gap, shown=shown)
            case html.Code():
                return cls(
                    kind="code",
                    gap=gap,
                    shown=shown,
                    sign="`" if leaf.fence[0] == "`" else "~",
                    count=len(leaf.fence),
                    indent=leaf.indent,
                    language=leaf.highlighter.name,
                    ends=ends,
                )
            case html.Indented():
                return cls(kind="indented", gap=gap, shown=shown, blanks=min(leaf.blanks, BLANKS_MAX))
            case html.Table():
                return cls(kind="table", gap=gap, shown=shown, aligns=leaf.aligns)
            case _:
                raise AssertionError(f"{type(leaf).__name__} is never open at the end of a line")

    def opened(self) -> Leaf:
        leaf: html.Paragraph | html.Lined | html.Table
        match self.kind:
            case "heading" | "paragraph":
                leaf = html.Paragraph() if self.kind == "paragraph" else html.Heading(self.level)
                leaf.given = True
            case "code":
                leaf = html.Code(self.sign * self.count, self.language, self.indent)
                leaf.state = leaf.highlighter.state(self.ends)
            case "indented":
                leaf = html.Indented()
                leaf.blanks = self.blanks
            case "table":
                leaf = html.Table([], self.aligns)
        leaf.gap, leaf.shown = self.gap, self.shown
        return leaf


_Boxes = Annotated[tuple[_Box, ...], _at_most(DEPTH_MAX)]


@attrs.frozen(slots=True, kw_only=True)
class _State:
    boxes: _Boxes
    leaf: _Leaf | None = None
    begun: bool
    spaced: bool
    blank: bool
    within: bool


def save(blocks: Blocks, *, within: bool) -> str:
    """The state of a machine whose leaf and boxes are suspended. `within` a source line."""
    stack = blocks.stack
    state = _State(
        boxes=tuple(map(_Box.of, stack.boxes)),
        leaf=None if blocks.leaf is None else _Leaf.of(blocks.leaf),
        begun=stack.begun,
        spaced=stack.spaced,
        blank=blocks.blank,
        within=within,
    )
    return codec.dump(state).decode()


def restore(text: str, out: list[str]) -> tuple[Blocks, bool]:
    """A machine in the state that was saved, and whether it is within a line. Raises DecodeError."""
    state = codec.decode(codec.parse(text), _State)
    page = html.Page()
    page.boxes = [box.opened() for box in state.boxes]
    page.begun, page.spaced = state.begun, state.spaced
    blocks = Blocks(page, out, html.KINDS)
    blocks.blank = state.blank
    if state.leaf is not None:
        blocks.leaf = state.leaf.opened()
        blocks.leaf.enter(page, out, state.leaf.gap)
    return blocks, state.within
