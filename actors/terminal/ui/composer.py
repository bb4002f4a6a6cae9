"""Where a message is written: several lines; Enter sends."""

from __future__ import annotations

from typing import Any, Final

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from actors.terminal.texts import pasted

# A pasted text beyond it belongs into a file that the message names; typing in it would be slow.
CHARACTERS_MAX: Final = 200_000
_NEWLINES: Final = frozenset({"ctrl+j", "shift+enter", "alt+enter"})


class Composer(TextArea):
    DEFAULT_CSS = """
    Composer {
        height: auto; min-height: 3; max-height: 10; padding: 0 1;
        border: round $secondary; border-title-color: $foreground; border-subtitle-color: $foreground-muted;
        background: $background;
        &:focus { border: round $primary; }
    }
    """

    class Given(Message):
        """A message to send, taken out of the box: what is typed behind Enter begins the next one."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Refused(Message):
        def __init__(self, why: str) -> None:
            super().__init__()
            self.why = why

    def __init__(self, **more: Any) -> None:
        super().__init__(
            show_line_numbers=False, soft_wrap=True, tab_behavior="focus", highlight_cursor_line=False, **more
        )
        self.cursor_blink = False  # nothing is drawn while nothing happens

    # Textual calls the handlers of the classes below, too, unless an event prevents that.
    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            text, self.text = self.text, ""
            self.post_message(self.Given(text))
        elif event.key in _NEWLINES:
            event.stop()
            event.prevent_default()
            self.insert("\n")

    async def _on_paste(self, event: events.Paste) -> None:
        if len(self.text) + len(event.text) > CHARACTERS_MAX:
            event.stop()
            event.prevent_default()
            self.post_message(self.Refused("too long to be pasted: put it into a file and name that"))
        elif (text := pasted(event.text)) != event.text:
            event.stop()
            event.prevent_default()
            self.insert(text)

    def put_first(self, text: str) -> None:
        """Give a message back that was not taken, before what has been written since."""
        rest = self.text
        self.text = f"{text}\n{rest}" if rest else text
        self.move_cursor(self.document.end)
