"""The application: the screens of a chat on Textual, beside trio (see actors/terminal/guest.py).

What the client's side tells comes as messages of Textual's own, thinned to a picture in FRAME seconds; what the person
does goes to it through the bridge.
"""

from __future__ import annotations

import asyncio
import select
import signal
import sys
import time
from typing import Any, ClassVar, Final

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message

from actors.terminal.guest import Bridge
from actors.terminal.talk import Talk
from actors.terminal.texts import bounded, pasted
from actors.terminal.ui.chat import ChatScreen
from actors.terminal.ui.colours import NoColours
from actors.terminal.ui.sessions import Sessions

FRAME: Final = 1 / 20  # seconds between two pictures, at least: what streams is read, not watched
# A terminal takes so much of a sequence (OSC 52), at most; the base64 of it is a third longer.
COPY_BYTES: Final = 74_000
_NOTES_MAX: Final = 20  # that wait for the screen to be there
_TERMINAL_SECONDS: Final = 2.0  # between two looks whether the terminal is still there
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Changed(Message):
    """Something on the client's side."""


class Told(Message):
    def __init__(self, text: str, serious: bool) -> None:
        super().__init__()
        self.text, self.serious = text, serious


class GivenBack(Message):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Found(Message):
    def __init__(self, query: str, sessions: list[dict[str, Any]]) -> None:
        super().__init__()
        self.query, self.sessions = query, sessions


class Copied(Message):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class ChatApp(App[None]):
    """Also the client's `talk.Screen`."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "greenroom"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", priority=True),
        Binding("ctrl+c", "copy_or_quit", "Copy or quit", show=False, priority=True),
    ]

    def __init__(self, bridge: Bridge, *, light: bool = False) -> None:
        super().__init__()
        self.bridge = bridge
        if self.no_color:
            self._filters = [NoColours()]  # the library's own keeps shades of grey
        self.talk: Talk | None = None  # set before the app runs
        self.theme = "textual-light" if light else "textual-dark"
        self.signalled = False  # it was a signal that ended it
        self._is_shown = False
        self._waits = False  # a picture is on its way
        self._drawn = 0.0
        self._early: list[Message] = []  # told before there was a screen

    def on_mount(self) -> None:
        assert self.talk is not None
        self.push_screen(ChatScreen(self.talk, self.bridge, classes="plain" if self.no_color else None))
        self._is_shown = True
        for message in self._early:
            self.post_message(message)
        self._early.clear()
        if self.signalled:
            self.exit()

    def catch_signals(self) -> None:
        """From now on a signal ends the application, and the terminal is put back before the process ends. Before it
        runs: it takes the terminal before there is a screen."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._end)
        if sys.__stdin__ is not None and sys.__stdin__.isatty():
            self._look_at_terminal(sys.__stdin__.fileno())

    def _look_at_terminal(self, descriptor: int) -> None:
        """Whose terminal goes away is not always told by a signal; the library would read its end for ever."""
        looked = select.poll()
        looked.register(descriptor, 0)
        if looked.poll(0):
            self._end()
        else:
            asyncio.get_running_loop().call_later(_TERMINAL_SECONDS, self._look_at_terminal, descriptor)

    def _end(self) -> None:
        self.signalled = True
        if self._is_shown:
            self.exit()

    @property
    def chat(self) -> ChatScreen | None:
        return next((screen for screen in self.screen_stack if isinstance(screen, ChatScreen)), None)

    # -------------------------------------------------------------- from the client's side
    def changed(self) -> None:
        if self._waits or not self._is_shown:
            return
        self._waits = True
        delay = max(self._drawn + FRAME - time.monotonic(), 0.0)
        asyncio.get_running_loop().call_later(delay, self.post_message, Changed())

    def note(self, text: str, *, serious: bool = False) -> None:
        self._tell(Told(text, serious))

    def give_back(self, text: str) -> None:
        self._tell(GivenBack(text))

    def show_sessions(self, query: str, sessions: list[dict[str, Any]]) -> None:
        self._tell(Found(query, sessions))

    def copy(self, text: str) -> None:
        self._tell(Copied(text))

    def _tell(self, message: Message) -> None:
        if self._is_shown:
            self.post_message(message)
        elif len(self._early) < _NOTES_MAX:
            self._early.append(message)

    def on_changed(self) -> None:
        self._waits = False
        self._drawn = time.monotonic()
        if self.chat is not None:
            self.chat.look()

    def on_told(self, message: Told) -> None:
        if self.chat is not None:
            self.chat.tell(message.text, serious=message.serious)

    def on_given_back(self, message: GivenBack) -> None:
        if self.chat is not None:
            self.chat.give_back(message.text)

    def on_found(self, message: Found) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Sessions):
                screen.show(message.query, message.sessions)

    def on_copied(self, message: Copied) -> None:
        # Clean, too: it is pasted into other terminals.
        whole = pasted(message.text)
        text = bounded(whole, COPY_BYTES).encode("utf-8", "replace").decode()
        self.copy_to_clipboard(text)
        cut = "" if text == whole else f" (the first {COPY_BYTES:,} bytes)"
        if self.chat is not None:
            self.chat.tell(f"copied{cut}")

    def on_sessions_search(self, message: Sessions.Search) -> None:
        assert self.talk is not None
        self.bridge.post(self.talk.find_sessions, message.query)

    # -------------------------------------------------------------- keys
    def action_turn_theme(self) -> None:
        self.theme = "textual-dark" if self.theme == "textual-light" else "textual-light"
        if self.chat is not None:
            self.chat.look()

    def action_copy_or_quit(self) -> None:
        chat = self.chat
        if chat is None or self.screen is not chat or not chat.copy_selected():
            self.exit()
