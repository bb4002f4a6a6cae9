"""The transcript: rows of the view's page, drawn line by line. No widget belongs to a message."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from actors.terminal.talk import Talk
from actors.terminal.ui.colours import THEMES, plain_of, strip_of
from engine.rendering.entries import Anchor, Page
from engine.rendering.styles import Role, encode, style

# While nothing has been said.
_WELCOME: Final = tuple(
    encode([(text, style(Role.NOTICE))])
    for text in ("", "  Write below, Enter sends. F1 lists the keys, Ctrl+O the sessions.")
)
WHEEL_ROWS: Final = 3
_BAR: Final = 1  # column of the scroll bar
_FROM_TOP: Final = 3  # rows: so near to the beginning, what is before it is asked for


class Transcript(Widget):
    """Follows the end until the person goes up; then it stays where it is, whatever comes."""

    DEFAULT_CSS = """
    Transcript { height: 1fr; padding: 0; background: $background; color: $foreground; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"transcript--selected", "transcript--bar", "transcript--thumb"}

    class Moved(Message):
        """What is seen has changed: the hint below has to."""

    class Wants(Message):
        """Texts of entries, or older messages."""

        def __init__(self, older: bool) -> None:
            super().__init__()
            self.older = older

    class Unfold(Message):
        def __init__(self, entry_id: str) -> None:
            super().__init__()
            self.entry_id = entry_id

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk
        self._following = True
        self._to_top = False  # the person wants the very beginning
        self._anchor: Anchor | None = None
        self._page: Page | None = None
        self._strips: list[Strip] = []
        self._seen: Anchor | None = None  # the last line there was when the person went up
        self.selected: str | None = None

    # -------------------------------------------------------------- what is seen
    @property
    def below(self) -> tuple[int, int]:
        """Lines below what is seen, and how many of them are new since the person went up."""
        page = self._page
        if page is None or self._following:
            return 0, 0
        view, seen = self._talk.conversation.view, self._seen
        left = max(page.total - page.first - len(page.lines), 0)
        new = view.total() - view.line_of(seen) - 1 if seen is not None and seen.id in view else 0
        return left, min(max(new, 0), left)

    def look(self) -> None:
        """Take the view's page anew and draw it."""
        view = self._talk.conversation.view
        rows = self.size.height
        if not rows or not self.size.width:
            return
        theme = THEMES.get(self.app.theme, THEMES["textual-dark"])
        view.resize(max(self.size.width - _BAR, 1))
        view.set_theme(theme)
        if self.selected is not None and self.selected not in view:
            self.selected = None
        view.select(self.selected)
        anchor = self._anchor
        if anchor is None or anchor.id not in view:
            self._following = self._following or anchor is not None
            anchor = view.place(0) if self._to_top else view.end(rows)
        elif self._following:
            anchor = view.end(rows)
        elif self._to_top:
            anchor = view.place(0)
        page = view.page(anchor, rows)
        if not self._following and page.first + rows >= page.total and not self._to_top:
            # At the end again, as far as it is known now.
            self._following = True
            page = view.page(view.end(rows), rows)
        self._anchor, self._page = page.anchor, page
        self._strips = [strip_of(line, theme) for line in (page.lines if len(view) else _WELCOME)]
        older = page.first <= _FROM_TOP and (self._to_top or not self._following or page.total <= rows)
        if view.wanted or older:
            self.post_message(self.Wants(older))
        self.refresh()
        self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        width = self.size.width - _BAR
        base = self.rich_style
        page = self._page
        strip = self._strips[y] if y < len(self._strips) else Strip([])
        strip = strip.adjust_cell_length(width).apply_style(base)
        if page is not None and page.selected is not None and page.selected[0] <= y < page.selected[1]:
            strip = _over(strip, self.get_component_rich_style("transcript--selected", partial=True))
        if (selection := self.text_selection) is not None and (span := selection.get_span(y)) is not None:
            begin, end = span
            end = strip.cell_length if end == -1 else end
            marked = self.screen.get_component_rich_style("screen--selection", partial=True)
            pieces = (strip.crop(0, begin), _over(strip.crop(begin, end), marked), strip.crop(end))
            strip = Strip.join(pieces)
        strip = strip.apply_offsets(0, y)
        return Strip.join([strip, Strip([Segment(*self._bar(y))])])

    def _bar(self, y: int) -> tuple[str, Style]:
        page, rows = self._page, self.size.height
        if page is None or page.total <= rows:
            return " ", self.rich_style
        size = max(rows * rows // page.total, 1)
        top = round(page.first / max(page.total - rows, 1) * (rows - size))
        name = "transcript--thumb" if top <= y < top + size else "transcript--bar"
        return "▐", self.get_component_rich_style(name)

    # -------------------------------------------------------------- moving
    def scroll_rows(self, by: int) -> None:
        view, anchor = self._talk.conversation.view, self._anchor
        if anchor is None or anchor.id not in view:
            return
        if by < 0:
            self._leave_end()
        self._following = self._to_top = False
        self.screen.clear_selection()
        self._anchor = view.move(anchor, by)
        self.look()

    def scroll_pages(self, pages: int) -> None:
        self.scroll_rows(pages * max(self.size.height - 2, 1))

    def to_end(self) -> None:
        self._following, self._to_top = True, False
        self.look()

    def to_top(self) -> None:
        self._leave_end()
        self._following, self._to_top = False, True
        self.look()

    def _leave_end(self) -> None:
        if self._following:
            self._seen = self._talk.conversation.view.end(1)

    def reset(self) -> None:
        """Another conversation is shown."""
        self.selected = self._anchor = None
        self._following, self._to_top = True, False
        self.look()

    # -------------------------------------------------------------- selecting
    def select_next(self, by: int) -> None:
        """The next entry that can be seen, or the one before; brought to sight."""
        page = self._page
        if page is None:
            return
        ids = [part.id for part in page.parts]
        at = ids.index(self.selected) + by if self.selected in ids else (len(ids) - 1 if by < 0 else 0)
        if 0 <= at < len(ids):
            self.selected = ids[at]
            self.look()
            return
        self.scroll_rows(by * max(self.size.height // 2, 1))
        ids = [part.id for part in self._page.parts] if self._page is not None else []
        if self.selected in ids and 0 <= ids.index(self.selected) + by < len(ids):
            self.selected = ids[ids.index(self.selected) + by]
        self.look()

    def deselect(self) -> None:
        self.selected = None
        self.look()

    def _entry_at(self, y: int) -> str | None:
        row = 0
        for part in self._page.parts if self._page is not None else ():
            row += part.rows
            if y < row:
                return part.id
        return None

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        lines = [plain_of(line).rstrip() for line in self._page.lines] if self._page is not None else []
        return selection.extract("\n".join(lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    # -------------------------------------------------------------- events
    def on_resize(self) -> None:
        self.look()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll_rows(-WHEEL_ROWS)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll_rows(WHEEL_ROWS)

    def on_click(self, event: events.Click) -> None:
        if self.screen.get_selected_text():
            return  # a text was marked
        if event.x >= self.size.width - _BAR:
            self._jump(event.y)
            return
        entry = self._entry_at(event.y)
        if entry is not None and entry == self.selected:
            self.post_message(self.Unfold(entry))
        self.selected = entry
        self.look()

    def _jump(self, y: int) -> None:
        view, page = self._talk.conversation.view, self._page
        if page is None:
            return
        self._leave_end()
        self._following = self._to_top = False
        self._anchor = view.place(page.total * y // max(self.size.height - 1, 1))
        self.look()


def _over(strip: Strip, style: Style) -> Strip:
    """With this style above the strip's own."""
    return Strip(Segment.apply_style(strip, post_style=style), strip.cell_length)
