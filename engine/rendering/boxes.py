"""What blocks of Markdown are in: quotes and list items, and what they put before each line of a terminal."""

from __future__ import annotations

from typing import Final

from engine.rendering.cells import width
from engine.rendering.styles import Role, Run, Theme, encode, style

# Beyond it a marker is text: a line of a thousand `>` is no work for every line that follows.
DEPTH_MAX: Final = 12
_QUOTE: Final = style(Role.QUOTE)
_MARKER: Final = style(Role.MARKER)


class Quote:
    __slots__ = ()
    cells = 2


class Item:
    """Of a list. `content` is the indent of what belongs to it, in its source; `done` is that of a task, or None."""

    __slots__ = ("cells", "content", "done", "marked", "marker")

    def __init__(self, marker: str, content: int, done: bool | None) -> None:
        self.marker, self.content, self.done = marker, content, done
        self.marked = False  # its marker has been shown
        self.cells = (1 if marker in "-*+" or done is not None else len(marker)) + 1

    def copy(self) -> Item:
        other = Item(self.marker, self.content, self.done)
        other.marked = self.marked
        return other


class Boxes:
    """The open boxes, outermost first. A writer's class says how they are shown."""

    __slots__ = ("begun", "boxes", "spaced")

    def __init__(self) -> None:
        self.boxes: list[Quote | Item] = []
        self.begun = False  # something has been shown
        self.spaced = False  # the last leaf wants space after it

    def __len__(self) -> int:
        return len(self.boxes)

    def match(self, text: str) -> tuple[str, int]:
        """What is left of a source line within the boxes that it continues, and how many these are."""
        for number, box in enumerate(self.boxes):
            body = text.lstrip(" ")
            indent = len(text) - len(body)
            if isinstance(box, Item):
                if not body:
                    continue
                if indent < box.content:
                    return text, number
                text = text[box.content :]
            elif body.startswith(">") and indent < 4:
                text = body[2:] if body.startswith("> ") else body[1:]
            else:
                return text, number
        return text, len(self.boxes)

    def copy(self) -> Boxes:
        raise NotImplementedError

    def push(self, box: Quote | Item) -> None:
        self.boxes.append(box)

    def pop_to(self, count: int, out: list[str]) -> None:
        """Close all boxes but the first `count`. An item in which nothing was is shown by its marker."""
        if any(isinstance(box, Item) and not box.marked for box in self.boxes[count:]):
            self.show_empty(out)
            self.begun = True
        self.leave(count, out)
        del self.boxes[count:]

    def show_empty(self, out: list[str]) -> None:
        """Show the open boxes, in which there is nothing."""
        raise NotImplementedError

    def leave(self, count: int, out: list[str]) -> None:
        """All boxes but the first `count` end."""


class Stack(Boxes):
    """Of a terminal: width and theme are those of the whole text."""

    __slots__ = ("base", "kept", "lead", "theme", "width")

    def __init__(self, width: int, theme: Theme, lead: Run, base: int) -> None:
        super().__init__()
        self.width, self.theme, self.lead, self.base = width, theme, lead, base
        self.kept = 0  # of the boxes, those that have been open since the last leaf

    def copy(self) -> Stack:
        other = Stack(self.width, self.theme, self.lead, self.base)
        other.boxes = [box.copy() if isinstance(box, Item) else box for box in self.boxes]
        other.kept, other.begun, other.spaced = self.kept, self.begun, self.spaced
        return other

    def show_empty(self, out: list[str]) -> None:
        out.append(encode(self.prefix()))

    def leave(self, count: int, out: list[str]) -> None:
        self.kept = min(self.kept, count)

    @property
    def indent(self) -> int:
        """Cells before the lines of the innermost box: half of the width at most."""
        return min(sum(box.cells for box in self.boxes), self.room // 2)

    @property
    def room(self) -> int:
        return self.width - width(self.lead[0])

    @property
    def inner(self) -> int:
        """Cells that are left for what is in the innermost box."""
        return self.room - self.indent

    def prefix(self) -> list[Run]:
        """What stands before the next line. A marker is given once."""
        runs: list[Run] = [self.lead]
        left = self.indent
        items = 0
        for box in self.boxes:
            if isinstance(box, Quote):
                text, value = f"{self.theme.bar} ", _QUOTE
            elif box.marked:
                text, value = " " * box.cells, _MARKER
            else:
                text, value = f"{self._marker(box, items)} ", _MARKER
                box.marked = True
            items += isinstance(box, Item)
            runs.append((text[:left], value))
            left = max(left - len(text), 0)
        return runs

    def gap(self) -> list[Run]:
        """A blank line between what was last and what comes: with the bars of the quotes that both are in."""
        bars = "".join(
            f"{self.theme.bar} " if isinstance(box, Quote) else " " * box.cells for box in self.boxes[: self.kept]
        )
        return [self.lead, (bars[: self.indent].rstrip(), _QUOTE)]

    def _marker(self, item: Item, items: int) -> str:
        if item.done is not None:
            return self.theme.boxes[item.done]
        if item.marker in "-*+":
            return self.theme.bullets[items % len(self.theme.bullets)]
        return item.marker
