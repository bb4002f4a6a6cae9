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
Enter            send (an empty box: unfold what is selected)
Ctrl+J           a new line; Shift+Enter where the terminal tells it apart
Tab              while the session is at work: queue the message, or steer
                 the run with it
Escape           stop the run
PgUp PgDn, wheel scroll; Home and End with an empty box (else Ctrl+Home, …)
Ctrl+Up, +Down   select an entry; a click does, too; once more unfolds it
Ctrl+C           copy what is selected or marked; with nothing selected, quit
Ctrl+N           a new session
Ctrl+O           sessions: type to filter, Enter opens
Ctrl+T           dark or light
F2               answer what waits for you (y, a, n, r)
Ctrl+Q           quit; a run goes on without you

/compact         put a summary in place of the conversation's beginning,
                 for the model
/new  /sessions  as the keys above; /quit leaves"""


class Help(ModalScreen[None]):
    DEFAULT_CSS = """
    Help { align: center middle; }
    Help VerticalScroll {
        width: 78; max-width: 96%; height: auto; max-height: 90%;
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
