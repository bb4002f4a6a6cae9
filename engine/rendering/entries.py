"""The entries of a transcript view, the state of those that stream, and what a view tells of itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import attrs

from engine.rendering.kinds import Kind, renderer
from engine.rendering.markdown import FEED, Markdown
from engine.rendering.shelf import Key, Piece, ShelfStatistics
from engine.rendering.styles import Theme

Source = Callable[[str], str | None]


class Anchor(NamedTuple):
    """A line of an entry. It stays right when others change their heights."""

    id: str
    line: int


class Part(NamedTuple):
    """Rows of a page that are lines `line` to `line + rows` of one entry."""

    id: str
    line: int
    rows: int


@attrs.frozen(slots=True, kw_only=True)
class Stored:
    """An entry as it is loaded. `size`, in characters, makes the estimate of its height; `text` may be left to the
    source."""

    id: str
    kind: Kind
    revision: int = 0
    size: int = 0
    text: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class Page:
    """Rows to show. `first` is the number of the first among all `total` lines, as far as these are known now;
    `anchor` its place. `selected` are the rows (from, to before) of the selected entry."""

    first: int
    total: int
    lines: tuple[str, ...]
    anchor: Anchor | None
    parts: tuple[Part, ...]
    selected: tuple[int, int] | None


@attrs.frozen(slots=True, kw_only=True)
class ViewStatistics:
    """`rendered` and `rendered_lines` count what transient renderers made since the view was."""

    entries: int
    live: int
    rendered: int
    rendered_lines: int
    retained_bytes: int
    shelf: ShelfStatistics


@attrs.frozen(slots=True, kw_only=True)
class Made:
    """Lines of an entry that was wanted, made apart from the view: `TranscriptView.prepare`."""

    key: Key
    line: int
    size: int
    piece: Piece


class Live:
    """The text of an entry that streams, as UTF-8, and the state of its lines, if they have been looked at.

    Of the lines that will not change the newest are kept, at most `bound` bytes of them; what is before them is made
    again if it is looked at, and kept in `above` for the next look."""

    __slots__ = ("above", "bound", "encoded", "pending", "renderer")

    def __init__(self, encoded: bytes, bound: int) -> None:
        self.encoded = bytearray(encoded)
        self.bound = bound
        self.above: Piece | None = None
        self.pending: list[str] = []  # what the renderer has not had
        self.renderer: Markdown | None = None

    def extend(self, delta: str) -> None:
        self.encoded += encoded(delta)
        if self.renderer is not None:
            self.pending.append(delta)

    def rendered(self, kind: Kind, width: int, theme: Theme) -> Markdown:
        if self.renderer is None:
            self.renderer = renderer(kind, width, theme)
            self._feed(self.renderer, decoded(self.encoded))
        elif self.pending:
            self._feed(self.renderer, "".join(self.pending))
        self.pending.clear()
        return self.renderer

    def _feed(self, made: Markdown, text: str) -> None:
        for at in range(0, len(text), FEED):
            made.feed(text[at : at + FEED])
            while made.stable and made.stable_bytes() > self.bound:
                made.forget((len(made.stable) + 1) // 2)

    def retained_bytes(self) -> int:
        lines = 0 if self.renderer is None else self.renderer.retained_bytes()
        lines += 0 if self.above is None else self.above.bytes
        return sys.getsizeof(self.encoded) + sum(map(sys.getsizeof, self.pending)) + lines


class Entry:
    __slots__ = ("id", "kind", "live", "revision", "size", "text")

    def __init__(self, id: str, kind: Kind, revision: int, size: int) -> None:
        self.id, self.kind, self.revision, self.size = id, kind, revision, size
        self.text: bytes | None = None  # UTF-8, of what is not live
        self.live: Live | None = None


# A lone half of a surrogate pair may be in a text; it is shown as U+FFFD, and kept as it came.
def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def decoded(text: bytes | bytearray) -> str:
    return text.decode("utf-8", "surrogatepass")
