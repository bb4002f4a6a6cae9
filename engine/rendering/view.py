"""What is shown of a session: entries by id, of which only what streams is live, and lines of which only some exist.

An entry is *live* while it streams: its text and the state of its renderer are in memory. It is *finalised* when a new
top-level entry comes: both are dropped, and its lines are made again, by a renderer that is gone afterwards, when they
are looked at. They are kept on a shelf that is bounded in bytes. What an entry costs then is ENTRY_BYTES; where a
`source` gives the texts, so that 5,000 messages may be paged from a daemon, the view's memory is flat. Of a live one
the newest lines are kept, as far as they fill half of the shelf's bound, and lines above them that were looked at, half
of that: an answer of blank table rows is no matter.

The rules:

- Appending a top-level entry (anything but reasoning) finalises every answer and reasoning but the streaming one,
  which is the assistant entry that was appended last. Other kinds are never live; `finalise` ends them all.
- Reasoning comes between the pieces of an answer: appending it finalises nothing.
- A late `extend` or `update` makes a finalised entry live again, until the next top-level entry.
- A loaded session is finalised but for its last entry.
- The spinner is a line after everything, in no index: setting or removing it renders nothing and touches no shelf.
- A selection is a place, not a style: it renders nothing and makes nothing live.

Lines are addressed by `Anchor`: an entry and a line within it. Heights of entries that nobody has looked at are
estimates, corrected when they are rendered: line numbers shift then, an anchor does not. A client keeps the anchor of
its first row, scrolls with `move` (exact), jumps with `place` (by the estimates) and shows `page`.

Not for several threads. Pure: time, terminal and daemon are the client's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from engine.limits import DEFAULT
from engine.rendering.entries import (
    Anchor,
    Entry,
    Live,
    Made,
    Page,
    Part,
    Source,
    Stored,
    ViewStatistics,
    decoded,
    encoded,
)
from engine.rendering.heights import Heights
from engine.rendering.kinds import LOOKS, Kind, render, rendered
from engine.rendering.markdown import WIDTH_MIN, Markdown
from engine.rendering.shelf import Key, Shelf, clip
from engine.rendering.styles import DARK, Role, Theme, encode, plain, style

# Entries beside the streaming one whose text is held: its reasoning, the tools that run, late updates. Beyond it the
# one that was opened longest ago is finalised.
OPEN_ENTRIES_MAX: Final = 16
# What an entry costs beside its text: record, id, and its places in a list and a dictionary. Measured, rounded up.
ENTRY_BYTES: Final = 144
# Lines that `move` goes exactly, rendering what it passes; farther it goes by the estimates.
MOVE_MAX: Final = 1000
_UNSIZED: Final = 4  # lines of an entry of which not even the size is known


class TranscriptView:
    """Of one session, `width` cells wide (at least WIDTH_MIN). `source` gives the text of an entry by its id, or None
    if it is not at hand: then the rows are blank, and the id is in `wanted` until the text is `supply`-ed. With a
    source, texts of finalised entries are not kept here: the source has to have the text of an answer from the moment
    that the next answer is appended, and that of other entries when OPEN_ENTRIES_MAX are between."""

    def __init__(
        self,
        width: int,
        theme: Theme = DARK,
        *,
        source: Source | None = None,
        shelf_bytes: int = DEFAULT.render_cache_bytes,
    ) -> None:
        self._width, self._theme = max(width, WIDTH_MIN), theme
        self._source = source
        self._shelf = Shelf(shelf_bytes)
        self._live_bytes = shelf_bytes // 2  # of the lines of one live entry
        self._heights = Heights()
        self._entries: list[Entry] = []
        self._places: dict[str, int] = {}
        self._first_place = 0  # the place of entry 0: below 0 when older ones were put before it
        self._open: dict[str, Entry] = {}  # not finalised, oldest first
        self._streaming: str | None = None
        self._selected: str | None = None
        self._spinner: str | None = None
        self._text_bytes = self._id_bytes = 0
        self._rendered = self._rendered_lines = 0
        self.wanted: dict[str, int] = {}  # what the last page lacked, and from which line on

    # -------------------------------------------------------------- what there is
    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def live_holders(self) -> int:
        """Entries that hold the state of a renderer."""
        return sum(entry.live is not None for entry in self._open.values())

    def is_live(self, id: str) -> bool:
        return self._entries[self._at(id)].live is not None

    def retained_bytes(self) -> int:
        """Of everything that is held: shelf, texts, live state, index. Measured but for ENTRY_BYTES."""
        live = sum(entry.live.retained_bytes() for entry in self._open.values() if entry.live is not None)
        index = self._heights.retained_bytes() + ENTRY_BYTES * len(self._entries) + self._id_bytes
        return live + index + self._text_bytes + self._shelf.statistics().bytes

    def statistics(self) -> ViewStatistics:
        return ViewStatistics(
            entries=len(self._entries),
            live=self.live_holders(),
            rendered=self._rendered,
            rendered_lines=self._rendered_lines,
            retained_bytes=self.retained_bytes(),
            shelf=self._shelf.statistics(),
        )

    # -------------------------------------------------------------- entries
    def load(self, entries: Iterable[Stored]) -> None:
        """Show these instead of all that was shown: finalised but for the last. Nothing is rendered."""
        self._entries, self._places, self._open = [], {}, {}
        self._first_place = self._text_bytes = self._id_bytes = 0
        self._streaming = self._selected = self._spinner = None
        self._shelf.clear()
        self.wanted.clear()
        for stored in entries:
            self._add(stored, len(self._entries))
        self._heights.fill(map(self._estimate, self._entries))
        if self._entries:
            last = self._entries[-1]
            if last.kind == "assistant":
                self._streaming = last.id
            text = self._text_of(last)
            if text is not None:
                self._reopen(last, text)

    def put_older(self, entries: Iterable[Stored]) -> None:
        """Entries before the first one, in their order, finalised. Anchors stay; O(entries)."""
        older = list(entries)
        shown, self._entries = self._entries, []
        self._first_place -= len(older)
        for number, stored in enumerate(older):
            self._add(stored, self._first_place + number)
        self._heights.put_first(map(self._estimate, self._entries))
        self._entries += shown

    def append(self, id: str, kind: Kind, text: str = "", *, revision: int = 0) -> None:
        """A new entry at the end. A top-level one finalises the others but the streaming one; an assistant entry is
        the streaming one from now on."""
        if kind == "assistant":
            self._streaming = id
        if LOOKS[kind].top:
            self._settle()
        entry = self._add(Stored(id=id, kind=kind, revision=revision), self._first_place + len(self._entries))
        self._reopen(entry, encoded(text))
        self._heights.append(self._estimate(entry) if text else 0, known=False)

    def extend(self, id: str, delta: str) -> None:
        """More of a text that streams: costs what is new (of an entry that is no Markdown, all: `update` is as good).
        Of a finalised entry the text has to be at hand (LookupError)."""
        at = self._at(id)
        entry = self._entries[at]
        live = entry.live
        if live is None:
            text = self._text_of(entry)
            if text is None:
                raise LookupError(f"the text of {id} is not at hand")
            self._change(at, text + encoded(delta), None)
            return
        live.extend(delta)
        entry.size += len(delta)
        entry.revision += 1
        self._heights.unknow(at, self._estimate(entry))

    def update(self, id: str, text: str, *, revision: int | None = None) -> None:
        """The whole text anew. What was finalised is not any more."""
        self._change(self._at(id), encoded(text), revision)

    def remove(self, id: str) -> None:
        """O(entries)."""
        at = self._at(id)
        entry = self._entries.pop(at)
        self._shelf.drop(self._key(entry))
        self._open.pop(id, None)
        self._set_text(entry, None)
        self._id_bytes -= sys.getsizeof(id)
        self._heights.remove(at)
        del self._places[id]
        for number in range(at, len(self._entries)):
            self._places[self._entries[number].id] = self._first_place + number
        self._streaming = None if self._streaming == id else self._streaming
        self._selected = None if self._selected == id else self._selected

    def finalise(self) -> None:
        """Everything has ended: no entry is live."""
        self._streaming = None
        for entry in list(self._open.values()):
            self._close(entry)

    def set_spinner(self, text: str | None) -> None:
        """A line after everything, or none."""
        self._spinner = text

    def select(self, id: str | None) -> None:
        if id is not None:
            self._at(id)
        self._selected = id

    def text(self, id: str) -> str | None:
        """The source text of an entry, to copy; None if it is not at hand."""
        encoded = self._text_of(self._entries[self._at(id)])
        return None if encoded is None else decoded(encoded)

    def supply(self, id: str, text: str) -> None:
        """The text of an entry that was wanted: rendered and put on the shelf, not kept."""
        if id in self._places and not self.is_live(id):
            self.put(self.prepare(id, text)())
        self.wanted.pop(id, None)

    def prepare(self, id: str, text: str) -> Callable[[], Made]:
        """`supply` in two steps, of which the long one, to call what this returns, may be done by another thread: it
        touches nothing of the view. `put` takes what it gives."""
        entry = self._entries[self._at(id)]
        key, line, width, theme = self._key(entry), self.wanted.get(id, 0), self._width, self._theme

        def make() -> Made:
            lines = _ended(rendered(entry.kind, text, width, theme))
            return Made(key=key, line=line, size=len(text), piece=clip(lines, line, line + 1, self._live_bytes))

        return make

    def put(self, made: Made) -> bool:
        """What is of another width, theme or revision than now, or of an entry that is live or gone, is dropped: it
        is False then."""
        id, piece = made.key[0], made.piece
        if id not in self._places or self.is_live(id) or made.key != self._key(entry := self._entries[self._at(id)]):
            return False
        self.wanted.pop(id, None)
        entry.size = entry.size or made.size
        self._rendered += 1
        self._rendered_lines += piece.total
        self._shelf.put(made.key, piece.lines, made.line, first=piece.first, total=piece.total)
        self._heights.set(self._at(id), piece.total)
        return True

    # -------------------------------------------------------------- how it is shown
    def resize(self, width: int) -> None:
        """Nothing is rendered: all heights become estimates, O(entries)."""
        self._look(max(width, WIDTH_MIN), self._theme)

    def set_theme(self, theme: Theme) -> None:
        self._look(self._width, theme)

    def _look(self, width: int, theme: Theme) -> None:
        if (width, theme.name) == (self._width, self._theme.name):
            return
        scale = self._width / width
        self._width, self._theme = width, theme
        self._heights.fill(
            [self._estimate(entry, self._heights[number] * scale) for number, entry in enumerate(self._entries)]
        )
        for entry in self._open.values():
            if entry.live is not None:
                entry.live = Live(bytes(entry.live.encoded), self._live_bytes)

    # -------------------------------------------------------------- lines
    def total(self) -> int:
        """Lines of everything, as far as heights are known."""
        return self._heights.total() + (self._spinner is not None)

    def lines(self, begin: int, end: int) -> Page:
        """The rows from line `begin` to before `end`: `place` and `page`."""
        return self.page(self.place(begin), end - begin)

    def place(self, line: int) -> Anchor | None:
        """Where this line is by the heights that are known or estimated; None if there are no entries."""
        if not self._entries:
            return None
        at, within = self._heights.find(min(max(line, 0), max(self._heights.total() - 1, 0)))
        at = min(at, len(self._entries) - 1)
        return Anchor(self._entries[at].id, within)

    def line_of(self, anchor: Anchor) -> int:
        """The number of its line, as far as heights are known."""
        return self._heights.before(self._at(anchor.id)) + anchor.line

    def end(self, rows: int) -> Anchor | None:
        """The first row of the last page."""
        if not self._entries:
            return None
        last = len(self._entries) - 1
        bottom = Anchor(self._entries[last].id, self._height(last))
        return self.move(bottom, (self._spinner is not None) - rows)

    def move(self, anchor: Anchor, by: int) -> Anchor:
        """So many lines down (or up) from an anchor, within what there is. Renders what it passes, so that what is
        seen moves by just so much; beyond MOVE_MAX lines it goes by the estimates."""
        if abs(by) > MOVE_MAX:
            return self.place(self.line_of(anchor) + by) or anchor
        at, line = self._at(anchor.id), anchor.line + by
        while line < 0 and at > 0:
            at -= 1
            line += self._height(at)
        while at < len(self._entries) - 1 and line >= (height := self._height(at)):
            at += 1
            line -= height
        return Anchor(self._entries[at].id, min(max(line, 0), max(self._height(at) - 1, 0)))

    def page(self, anchor: Anchor | None, rows: int) -> Page:
        """So many rows from an anchor on. Renders what is seen and is not on the shelf, nothing else."""
        found: list[str] = []
        parts: list[Part] = []
        selected = None
        first = 0
        self.wanted.clear()
        if anchor is not None:
            begin = at = self._at(anchor.id)
            line = min(anchor.line, max(self._height(at, anchor.line) - 1, 0))
            anchor = Anchor(anchor.id, line)
            while at < len(self._entries) and len(found) < rows:
                entry = self._entries[at]
                lines = self._slice(at, line, line + rows - len(found))
                if lines:
                    if entry.id == self._selected:
                        selected = (len(found), len(found) + len(lines))
                    parts.append(Part(entry.id, line, len(lines)))
                    found += lines
                at, line = at + 1, 0
            first = self._heights.before(begin) + anchor.line
        if self._spinner is not None and len(found) < rows:
            found += render("notice", self._spinner, self._width, self._theme)[:1]
        return Page(
            first=first, total=self.total(), lines=tuple(found), anchor=anchor, parts=tuple(parts), selected=selected
        )

    def copied(self, begin: Anchor, end: Anchor) -> str:
        """The text of the rows from one anchor to another, that one too: what a person marked."""
        rows = self.line_of(end) - self.line_of(begin) + 1
        return "\n".join(plain(line).rstrip() for line in self.page(begin, rows).lines)

    # -------------------------------------------------------------- inside
    def _at(self, id: str) -> int:
        return self._places[id] - self._first_place

    def _key(self, entry: Entry) -> Key:
        return (entry.id, entry.revision, self._width, self._theme.name)

    def _add(self, stored: Stored, place: int) -> Entry:
        if stored.id in self._places:
            raise ValueError(f"{stored.id} is there already")
        entry = Entry(stored.id, stored.kind, stored.revision, stored.size or len(stored.text or ""))
        if stored.text is not None and self._source is None:
            self._set_text(entry, encoded(stored.text))
        self._entries.append(entry)
        self._places[stored.id] = place
        self._id_bytes += sys.getsizeof(stored.id)
        return entry

    def _set_text(self, entry: Entry, text: bytes | None) -> None:
        self._text_bytes += (0 if text is None else sys.getsizeof(text)) - (
            0 if entry.text is None else sys.getsizeof(entry.text)
        )
        entry.text = text

    def _text_of(self, entry: Entry) -> bytes | None:
        if entry.live is not None:
            return bytes(entry.live.encoded)
        if entry.text is not None or self._source is None:
            return entry.text or b""
        text = self._source(entry.id)
        return None if text is None else encoded(text)

    def _change(self, at: int, text: bytes, revision: int | None) -> None:
        entry = self._entries[at]
        self._shelf.drop(self._key(entry))
        entry.revision = entry.revision + 1 if revision is None else revision
        self._reopen(entry, text)
        self._heights.unknow(at, self._estimate(entry))

    def _reopen(self, entry: Entry, text: bytes) -> None:
        """Not finalised any more: its text is held, and if it is Markdown, it is live."""
        entry.size = len(text)
        if LOOKS[entry.kind].markdown:
            self._set_text(entry, None)
            entry.live = Live(text, self._live_bytes)
        else:
            self._set_text(entry, text)
        self._open[entry.id] = entry
        late = [id for id in self._open if id != self._streaming]
        for id in late[: max(len(late) - OPEN_ENTRIES_MAX, 0)]:
            self._close(self._open[id])

    def _settle(self) -> None:
        """Finalise what has been live, but for what streams. Tools go on beside each other."""
        for entry in [entry for entry in self._open.values() if entry.live is not None]:
            if entry.id != self._streaming:
                self._close(entry)

    def _close(self, entry: Entry) -> None:
        """Finalise: what its live state has made goes to the shelf, the state and (with a source) the text go."""
        if self._open.pop(entry.id, None) is None:
            return
        live, entry.live = entry.live, None
        if live is not None:
            if live.renderer is not None:
                made = live.rendered(entry.kind, self._width, self._theme)
                last = made.height
                lines = [*made.lines(), ""] if last else []
                self._shelf.put(self._key(entry), lines, last, first=made.gone)
                self._heights.set(self._at(entry.id), last + 1 if last else 0)
            if self._source is None:
                self._set_text(entry, bytes(live.encoded))
        elif self._source is not None:
            self._set_text(entry, None)

    def _estimate(self, entry: Entry, height: float = 0) -> int:
        """Lines of an entry that was not rendered: a quarter of each line is blank, and one follows it."""
        if entry.size:
            return 2 + entry.size * 4 // (3 * self._width)
        return max(round(height), 1) if height else _UNSIZED

    def _height(self, at: int, line: int = 0) -> int:
        """The exact height of an entry (an estimate, while its text is not at hand). What has to be rendered for it is
        kept around `line`."""
        if not self._heights.known(at):
            entry = self._entries[at]
            if entry.live is not None:
                self._measure(at, entry, entry.live)
            else:
                self._slice(at, line, line + 1)
        return self._heights[at]

    def _measure(self, at: int, entry: Entry, live: Live) -> Markdown:
        made = live.rendered(entry.kind, self._width, self._theme)
        height = made.height
        self._heights.set(at, height + 1 if height else 0)
        return made

    def _slice(self, at: int, begin: int, end: int) -> list[str]:
        """Lines of one entry; its height is exact afterwards, if its text is at hand."""
        entry = self._entries[at]
        if entry.live is not None:
            made = self._measure(at, entry, entry.live)
            height = made.height
            if begin < made.gone:
                return self._above(entry, entry.live, made.gone + len(made.stable), begin, end)
            return made.slice(begin, end) + ([""] if height and begin <= height < end else [])
        piece = self._shelf.get(self._key(entry), begin, end)
        if piece is not None:
            self._heights.set(at, piece.total)
            return piece.between(begin, end)
        text = self._text_of(entry)
        if text is None:
            self.wanted[entry.id] = begin
            blank = [encode([(self._theme.more, style(Role.NOTICE))]), *[""] * (self._heights[at] - 1)]
            return blank[begin:end]
        return self._make(at, entry, decoded(text), begin, end)

    def _make(self, at: int, entry: Entry, text: str, begin: int, end: int) -> list[str]:
        lines = _ended(rendered(entry.kind, text, self._width, self._theme))
        piece = self._shelf.put(self._key(entry), lines, begin, end)
        entry.size = entry.size or len(text)
        self._rendered += 1
        self._rendered_lines += piece.total
        self._heights.set(at, piece.total)
        return piece.between(begin, end)

    def _above(self, entry: Entry, live: Live, stands: int, begin: int, end: int) -> list[str]:
        """Lines of a live entry that it has let go of: made again, and kept for the next look, if they are among the
        first `stands`, which will not change."""
        if live.above is None or not live.above.has(begin, end):
            lines = _ended(rendered(entry.kind, decoded(live.encoded), self._width, self._theme))
            piece = clip(lines, begin, end, self._live_bytes // 2)
            self._rendered += 1
            self._rendered_lines += piece.total
            lines_that_stand = piece.between(piece.first, stands)
            live.above = clip(lines_that_stand, begin, begin, self._live_bytes // 2, first=piece.first)
            return piece.between(begin, end)
        return live.above.between(begin, end)


def _ended(lines: Iterator[str]) -> Iterator[str]:
    """With a blank line after them, if there are any."""
    line = None
    for line in lines:
        yield line
    if line is not None:
        yield ""
