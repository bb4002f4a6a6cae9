"""Markdown to HTML that is safe to put into a page, piece by piece while a text streams.

The grammar is that of the terminal (`blocks`, `inline`). What comes out has a fixed set of elements and attributes
(TAGS, CLASSES); no HTML of the text passes, no picture is loaded, all text is cleaned like a terminal's (`cells.clean`)
and escaped.

A text is shown in *pieces*: each is balanced, and never changes, whatever comes after it. A piece ends where nothing is
open, or, if that does not come, where one has become large (PIECE_MAX, PARAGRAPH_MAX, HTML_MAX): what is open is closed
there and goes on in the next. So a text that streams costs each time what is behind its last piece, which is less than
OPEN_TEXT_MAX characters. What the HTML is depends on the text alone, not on how it came.

The work is linear in the text; `step` does a little of it at a time.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import attrs
import orjson

from engine.limits import KIB
from engine.rendering import html_state
from engine.rendering.blocks import Blocks
from engine.rendering.cells import clean
from engine.rendering.html_leaves import KINDS, Leaf, Page, Paragraph
from engine.rendering.source import OPEN_MAX

# Characters of source after which a piece ends with its line: some hundred lines of code. A paragraph that is open then
# is waited for, until it is long itself, or the piece is (the spaces before its lines are no part of it).
PIECE_MAX: Final = 8 * KIB
PARAGRAPH_MAX: Final = 4 * KIB
PIECE_HARD: Final = 11 * KIB
# Characters of HTML after which a piece ends with its line: twelve quotes in each other are 25 times as long as a text.
HTML_MAX: Final = 32 * KIB
# A piece, the last piece of a line that goes on, and the line behind it that is not ended.
OPEN_TEXT_MAX: Final = PIECE_HARD + 2 * OPEN_MAX
# Encoded bytes of one answer: a frame has room for them, and a piece is never larger.
ANSWER_MAX: Final = 240 * KIB
STATE_MAX: Final = 4 * KIB  # characters; twelve boxes and a table of 64 columns have half of it
STEP: Final = 256  # characters of source: some 250 µs of prose

_GLOBAL: Final = frozenset({"class"})
_NONE: Final[frozenset[str]] = frozenset()
# Everything that comes out, with its attributes.
TAGS: Final = MappingProxyType(
    {
        **dict.fromkeys(("p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "hr", "table", "span", "th", "td"), _GLOBAL),
        **dict.fromkeys(("ul", "ol", "blockquote", "code", "em", "strong", "del", "thead", "tbody", "tr", "br"), _NONE),
        "li": frozenset({"class", "value"}),
        "a": frozenset({"href", "rel", "target"}),
    }
)
CLASSES: Final = frozenset({"gap", "on", "task", "box", "url", "right", "middle", *"kscnar"})


@attrs.frozen(slots=True, kw_only=True)
class Rendered:
    """`html` of the first `taken` characters, for good; `open_html` of what is behind them, as if the text ended there.
    `state` goes with the text from `taken` on. `more`: there was no room for all; `open_html` is empty then."""

    html: str
    taken: int
    state: str
    open_html: str
    more: bool


class Rendering:
    """One text, or the part of one that begins where `state` was given (empty: at its begin). Raises
    engine.codec.DecodeError for a state that is none.

    Call `step` until it is False, then `result`.
    """

    def __init__(self, text: str, state: str = "") -> None:
        self._text = text
        self._out: list[str] = []
        if state:
            self._blocks, self._within = html_state.restore(state, self._out)
        else:
            self._blocks, self._within = Blocks(Page(), self._out, KINDS), False
        self._at = 0  # what has been read
        self._taken, self._state = 0, state
        self._pieces: list[str] = []
        self._bytes = 0  # of them, encoded
        self._measured = self._length = 0  # of `out`: how many have been measured, and their characters
        self._full = self._ended = False

    def step(self) -> bool:
        """Do a little of the work. Whether there is more to do."""
        until = self._at + STEP
        while not self._ended and self._at < until:
            self._line()
        return not self._ended

    def result(self) -> Rendered:
        assert self._ended, "there are steps left"
        rest = "" if self._full else "".join(self._out)
        full = self._full or self._bytes + _size(rest) > ANSWER_MAX
        return Rendered(
            html="".join(self._pieces),
            taken=self._taken,
            state=self._state,
            open_html="" if full else rest,
            more=full,
        )

    # ------------------------------------------------------------ lines
    def _line(self) -> None:
        """The next line, or piece of one; or the end of the text."""
        text, at = self._text, self._at
        end = text.find("\n", at, at + OPEN_MAX + 1)
        if end >= 0:
            self._take(text[at:end].removesuffix("\r"), end + 1, last=True)
        elif len(text) - at > OPEN_MAX:
            # Of a long line as much as there are whole words.
            cut = text.rfind(" ", at, at + OPEN_MAX) + 1 or at + OPEN_MAX
            self._take(text[at:cut], cut, last=False)
        else:
            if at < len(text) or self._within:
                self._blocks.line(clean(text[at:].removesuffix("\r")), first=not self._within, last=True)
            self._blocks.finish()
            self._suspend()
            self._ended = True

    def _take(self, line: str, end: int, *, last: bool) -> None:
        self._blocks.line(clean(line), first=not self._within, last=last)
        self._at, self._within = end, not last
        self._length += sum(map(len, self._out[self._measured :]))
        self._measured = len(self._out)
        if self._is_due():
            self._cut()

    # ------------------------------------------------------------ pieces
    def _is_due(self) -> bool:
        """Whether the piece ends here."""
        leaf = self._blocks.leaf
        page = self._blocks.stack
        assert isinstance(page, Page)
        if leaf is None and page.is_closed and not self._within:
            return True
        size = self._at - self._taken
        if isinstance(leaf, Paragraph):
            return len(leaf.text) >= PARAGRAPH_MAX or size >= PIECE_HARD
        return size >= PIECE_MAX or self._length >= HTML_MAX

    def _cut(self) -> None:
        self._suspend()
        piece = "".join(self._out)
        size = _size(piece)
        if self._bytes + size > ANSWER_MAX and self._pieces:
            self._full = self._ended = True
            return
        self._pieces.append(piece)
        self._bytes += size
        self._out.clear()
        self._measured = self._length = 0
        self._taken, self._state = self._at, html_state.save(self._blocks, within=self._within)

    def _suspend(self) -> None:
        """End all that is open in this piece."""
        leaf, page = self._blocks.leaf, self._blocks.stack
        assert isinstance(page, Page)
        if leaf is not None:
            assert isinstance(leaf, Leaf)
            leaf.suspend()
        page.suspend(self._out)


def _size(text: str) -> int:
    """Bytes of it within a frame."""
    return len(orjson.dumps(text))
