"""The list of sessions: type to filter, Enter opens."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList
from textual.widgets.option_list import Option

from actors.terminal.talk import SESSIONS_SHOWN
from actors.terminal.texts import one_line
from actors.terminal.ui.inputs import Line

_TITLE_CELLS: Final = 200  # what is wider than the screen is cut by it
_QUERY_CHARACTERS: Final = 200  # the protocol's
_LOW: Final = 12  # rows; with fewer the list has all of them


class Sessions(ModalScreen[str | None]):
    """Gives the id of the session that was chosen."""

    DEFAULT_CSS = """
    Sessions { align: center middle; }
    Sessions #box {
        width: 90%; max-width: 110; height: 80%; border: round $primary; background: $surface; padding: 0 1;
    }
    Sessions OptionList { height: 1fr; border: none; background: $surface; padding: 0; }
    Sessions OptionList > .option-list--option-highlighted { background: $primary; color: $text; }
    Sessions Input { border: none; height: 1; margin: 0 0 1 0; padding: 0; }
    Sessions.low #box { width: 100%; height: 100%; border: none; }
    Sessions.low Input { margin: 0; }
    Sessions.low Footer { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("enter", "choose", "Open", priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("pagedown", "move(10)", "Down", show=False, priority=True),
        Binding("pageup", "move(-10)", "Up", show=False, priority=True),
    ]

    class Search(Message):
        def __init__(self, query: str) -> None:
            super().__init__()
            self.query = query

    def __init__(self, current: str | None) -> None:
        super().__init__()
        self._current = current
        self._query = ""
        self._count = 0  # of those that can be chosen

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = "sessions"
            yield Line(placeholder="type to filter by title", max_length=_QUERY_CHARACTERS, compact=True)
            yield OptionList(markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(Line).focus()
        self.app.post_message(self.Search(""))

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < _LOW, "low")

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._query = event.value
        self.app.post_message(self.Search(event.value))

    def show(self, query: str, sessions: list[dict[str, Any]]) -> None:
        """What was found; an answer to an earlier query is passed over."""
        if query != self._query:
            return
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(self._row(session), id=session["id"]) for session in sessions])
        ids = [session["id"] for session in sessions]
        self._count = len(ids)
        if ids:
            options.highlighted = ids.index(self._current) if self._current in ids else 0
            if len(ids) >= SESSIONS_SHOWN:
                told = f"these are the newest {SESSIONS_SHOWN}: type a word of its title for an older one"
                options.add_option(Option(Text(told), disabled=True))
        else:
            options.add_option(Option(Text("no session has this in its title"), disabled=True))

    def _row(self, session: dict[str, Any]) -> Text:
        when = datetime.fromtimestamp(session["updated_at"] / 1000).strftime("%m-%d %H:%M")
        mark = "●" if "active_run_id" in session else "▸" if session["id"] == self._current else " "
        count = f"{session['message_count']:>5}"
        title = one_line(session.get("title") or "(no title)", _TITLE_CELLS)
        return Text(f"{mark} {when} {count}  {title}", no_wrap=True, overflow="ellipsis")

    def action_move(self, by: int) -> None:
        options = self.query_one(OptionList)
        if self._count:
            options.highlighted = min(max((options.highlighted or 0) + by, 0), self._count - 1)
            if options.highlighted == self._count - 1:
                options.scroll_end(animate=False)  # with what is said behind it

    def action_choose(self) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(options.get_option_at_index(options.highlighted).id)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option_id)

    def action_leave(self) -> None:
        self.dismiss(None)
