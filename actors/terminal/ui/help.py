"""What the keys do."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

HELP: Final = """\
Enter         send; with an empty box: unfold what is selected
Ctrl+J        a new line (Shift+Enter, where the terminal tells)
Tab           while a run is at work: queue the message, or steer with it
Escape        stop the run
PgUp PgDn     scroll, as does the wheel; Home and End, with an empty box
Ctrl+Up Down  select an entry, as does a click; a second one unfolds it
Ctrl+C        copy what is selected or marked; quit if nothing is
Ctrl+N        a new session
Ctrl+O        sessions: type to filter, Enter opens
Ctrl+T        dark or light
F2            answer what waits for you (y, a, n, r)
Ctrl+Q        quit; a run goes on without you

/compact      let a summary take the place of the beginning
/new /sessions /help /quit, as the keys"""


class Help(ModalScreen[None]):
    DEFAULT_CSS = """
    Help { align: center middle; }
    Help VerticalScroll {
        width: 74; max-width: 96%; height: auto; max-height: 90%;
        border: round $primary; background: $surface; padding: 0 1;
    }
    Help Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,enter,q", "leave", "Back")]

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = "keys"
            yield Static(Text(HELP), markup=False)

    def action_leave(self) -> None:
        self.dismiss(None)
