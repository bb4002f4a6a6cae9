"""The one screen of a chat: status, transcript, what waits for the person, the box, the keys."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Static, TextArea

from actors.terminal.conversation import Conversation
from actors.terminal.guest import Bridge
from actors.terminal.talk import Talk, WhenBusy
from actors.terminal.texts import one_line
from actors.terminal.ui.approvals import Approvals
from actors.terminal.ui.composer import CHARACTERS_MAX, Composer
from actors.terminal.ui.help import Help
from actors.terminal.ui.sessions import Sessions
from actors.terminal.ui.status import status_line
from actors.terminal.ui.transcript import Transcript

_TICK: Final = 0.5  # seconds between two pictures of what only time changes, while a run is at work
_STILL: Final = 1.0  # seconds without a key before a question takes the keys: what is typed must not answer it
_LOW: Final = 10  # rows; with fewer the box has no border, and the keys are not shown: the text comes first
_FRAMES: Final = "◐◓◑◒"
_NOTE_SECONDS: Final = 8.0
_NOTE_CELLS: Final = 300
_WORDS: Final = {"waiting_approval": "waiting for you", "stopping": "stopping", "queued": "queued"}


class ChatScreen(Screen[None]):
    AUTO_FOCUS = "Composer"  # from the first key on: without it the first widget that can have them has the keys
    DEFAULT_CSS = """
    ChatScreen { layout: vertical; background: $background; overflow: hidden; }
    #status { height: 1; background: $panel; color: $foreground; padding: 0 1; }
    #below { height: 1; display: none; }
    #note { width: 1fr; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; color: $text-accent; }
    #note.serious { color: $text-error; }
    #hint { width: auto; padding: 0 1; color: $text-accent; }
    .transcript--selected { background: $panel; }
    ChatScreen.plain .transcript--selected { text-style: reverse; }
    .transcript--bar { color: $surface; }
    .transcript--thumb { color: $primary; }
    Footer { height: 1; }
    ChatScreen.low Footer { display: none; }
    ChatScreen.low Composer { border: none; min-height: 1; max-height: 2; }
    ChatScreen.low Approvals { border: none; max-height: 3; }
    ChatScreen.low Approvals #asked { max-height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", priority=True),
        Binding("tab", "turn_busy", "Queue/steer", priority=True),
        Binding("ctrl+j", "app.bell", "Newline"),  # the box takes it; here it is shown
        Binding("ctrl+n", "new", "New", priority=True),
        Binding("ctrl+o", "sessions", "Sessions", priority=True),
        Binding("f1", "help", "Help", priority=True),
        Binding("ctrl+q", "app.quit", "Quit", priority=True),
        Binding("ctrl+t", "app.turn_theme", "Theme", priority=True),
        Binding("f2", "answer", "Answer", show=False, priority=True),
        Binding("pageup", "pages(-1)", "Up", show=False, priority=True),
        Binding("pagedown", "pages(1)", "Down", show=False, priority=True),
        Binding("ctrl+home", "top", "Top", show=False, priority=True),
        Binding("ctrl+end", "end", "End", show=False, priority=True),
        Binding("home", "home_key('home')", "Top", show=False, priority=True),
        Binding("end", "home_key('end')", "End", show=False, priority=True),
        Binding("ctrl+up", "select(-1)", "Select", show=False, priority=True),
        Binding("ctrl+down", "select(1)", "Select", show=False, priority=True),
    ]

    def __init__(self, talk: Talk, bridge: Bridge, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._talk = talk
        self._bridge = bridge
        self._shown: Conversation = talk.conversation
        self._when_busy: WhenBusy = "queue"
        self._typed = 0.0
        self._since: tuple[str, float] | None = None  # the run that is at work, and since when
        self._ticks: Timer | None = None
        self._status = Text()
        self._hint = self._note = ""  # below the transcript
        self._forget: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="status", markup=False)
        yield Transcript(self._talk)
        with Horizontal(id="below"):
            yield Static(id="note", markup=False)
            yield Static(id="hint", markup=False)
        yield Approvals(id="approvals")
        yield Composer(id="composer")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self._ticks = self.set_interval(_TICK, self._tick, pause=True)
        self.composer.focus()
        self.look()

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < _LOW, "low")
        self.look()  # the line of the state is made for a width

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def approvals(self) -> Approvals:
        return self.query_one(Approvals)

    # -------------------------------------------------------------- the picture
    def look(self) -> None:
        """Draw what is there now."""
        talk = self._talk
        if talk.conversation is not self._shown:
            self._shown = talk.conversation
            self.transcript.reset()
        status = status_line(talk, self.size.width - 2)
        if status != self._status:
            self._status = status
            self.query_one("#status", Static).update(status, layout=False)
        self._look_at_run()
        self._look_at_approvals()
        self.transcript.look()
        if self._ticks is not None:
            if talk.busy or talk.waiting is not None or talk.pending():
                self._ticks.resume()
            else:
                self._ticks.pause()

    def _look_at_run(self) -> None:
        talk, view = self._talk, self._talk.conversation.view
        run = talk.conversation.run
        now = time.monotonic()
        if run is None or not talk.connected:
            self._since = None if run is None else self._since
            view.set_spinner("◌ sending" if talk.outgoing is not None else None)
        else:
            if self._since is None or self._since[0] != run.id:
                self._since = (run.id, now)
            seconds = int(now - self._since[1])
            word = _WORDS.get(run.status, "working")
            frame = _FRAMES[int(now / _TICK) % len(_FRAMES)]
            steered = f" · {len(talk.conversation.steered)} to steer with" if talk.conversation.steered else ""
            note = f" · {run.note}" if run.note else ""
            view.set_spinner(f"{frame} {word} {seconds} s{note}{steered} · Esc stops")
        queued = (talk.conversation.session or {}).get("queued", 0)
        waiting = f" · {queued} queued" if queued else ""
        self.composer.border_title = Text(f"message{waiting}").plain
        if not talk.connected:
            kept = "no connection: what you write is kept here"
            kept += " · Enter starts a daemon" if talk.start else ""
        elif talk.busy:
            kept = f"Enter: {self._when_busy} · Tab: {'steer' if self._when_busy == 'queue' else 'queue'}"
        else:
            kept = "Enter: send"
        self.composer.border_subtitle = kept

    def _look_at_approvals(self) -> None:
        waiting = self._talk.pending()
        composer = self.composer
        still = not composer.text and time.monotonic() - self._typed > _STILL
        self.approvals.show(waiting, focus=still and self.focused is composer)
        if waiting and still and self.focused is composer:
            self.approvals.take_keys()
        if waiting and not self.approvals.has_keys:
            composer.border_subtitle = f"{composer.border_subtitle} · F2: answer what is asked"

    def _tick(self) -> None:
        self.look()

    def on_transcript_moved(self) -> None:
        left, new = self.transcript.below
        text = f"↓ {new:,} new lines below (End)" if new else f"↓ {left:,} lines below (End)" if left else ""
        if text != self._hint:
            self._hint = text
            self.query_one("#hint", Static).update(Text(text))
            self._show_below()

    def tell(self, text: str, *, serious: bool = False) -> None:
        """A note for a while."""
        self._note = one_line(text, _NOTE_CELLS)
        note = self.query_one("#note", Static)
        note.update(Text(self._note))
        note.set_class(serious, "serious")
        self._show_below()
        if self._forget is not None:
            self._forget.stop()
        self._forget = self.set_timer(_NOTE_SECONDS, self._forget_note)

    def _forget_note(self) -> None:
        self._note = ""
        self.query_one("#note", Static).update(Text(""))
        self._show_below()

    def _show_below(self) -> None:
        self.query_one("#below").display = bool(self._hint or self._note)

    def on_transcript_wants(self, message: Transcript.Wants) -> None:
        if self._talk.conversation.view.wanted:
            self._bridge.post(self._talk.want_texts)
        if message.older and self._talk.has_older:
            self._bridge.post(self._talk.want_older)

    def on_transcript_unfold(self, message: Transcript.Unfold) -> None:
        self._bridge.post(self._talk.unfold, message.entry_id)

    # -------------------------------------------------------------- the box
    def on_composer_given(self, given: Composer.Given) -> None:
        text = given.text
        if not text.strip():
            if self.transcript.selected is not None:
                self._bridge.post(self._talk.unfold, self.transcript.selected)
            elif text:
                self.give_back(text)
            return
        if self._obey(text.strip()):
            return
        if not self._talk.connected:
            self.give_back(text)
            self.tell("no connection: the message stays in the box")
            self._bridge.post(self._talk.connect_now)
        elif len(text) > CHARACTERS_MAX:
            self.give_back(text)
            self.tell("too long to be sent: put it into a file and name that", serious=True)
        elif self._talk.outgoing is not None:
            self.give_back(text)
            self.tell("the message before is still being sent")
        else:
            self.transcript.to_end()
            self._bridge.post(self._talk.send, text, self._when_busy)

    def _obey(self, text: str) -> bool:
        """A command of the line-by-line chat."""
        match text:
            case "/new":
                self.action_new()
            case "/sessions":
                self.action_sessions()
            case "/help":
                self.action_help()
            case "/quit" | "/exit":
                self.app.exit()
            case "/compact":
                self._bridge.post(self._talk.compact)
            case _:
                return False
        return True

    def on_composer_refused(self, message: Composer.Refused) -> None:
        self.tell(message.why, serious=True)

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        if self.composer.text:
            self._typed = time.monotonic()

    def give_back(self, text: str) -> None:
        self.composer.put_first(text)

    # -------------------------------------------------------------- approvals
    def on_approvals_answered(self, message: Approvals.Answered) -> None:
        approval = message.approval
        self._bridge.post(_reply, self._talk, approval.run_id, approval.call_id, message.answer)
        self.approvals.show([each for each in self._talk.pending() if each is not approval], focus=True)

    def on_approvals_left(self) -> None:
        self.composer.focus()

    def on_approvals_typed(self, message: Approvals.Typed) -> None:
        self.composer.focus()
        self.composer.insert(message.text)

    def on_click(self) -> None:
        if not self.approvals.has_keys:
            self.composer.focus()

    def action_answer(self) -> None:
        self.approvals.take_keys()

    # -------------------------------------------------------------- keys
    def action_stop(self) -> None:
        if self._talk.busy or self._talk.outgoing is not None:
            self._bridge.post(self._talk.stop_run)
        else:
            self.transcript.deselect()
        if not self.approvals.display:
            self.composer.focus()

    def action_turn_busy(self) -> None:
        self._when_busy = "steer" if self._when_busy == "queue" else "queue"
        self.look()

    def action_new(self) -> None:
        self._bridge.post(self._talk.new_session)

    def action_sessions(self) -> None:
        self.app.push_screen(Sessions(self._talk.session_id), self._open)

    def _open(self, session_id: str | None) -> None:
        if session_id is not None:
            self._bridge.post(self._talk.open_session, session_id)

    def action_help(self) -> None:
        self.app.push_screen(Help())

    def action_pages(self, by: int) -> None:
        self.transcript.scroll_pages(by)

    def action_top(self) -> None:
        self.transcript.to_top()

    def action_end(self) -> None:
        self.transcript.to_end()

    def action_home_key(self, key: str) -> None:
        """In a text it moves the cursor."""
        if self.composer.text and self.focused is self.composer:
            move = self.composer.action_cursor_line_start if key == "home" else self.composer.action_cursor_line_end
            move()
        elif key == "home":
            self.action_top()
        else:
            self.action_end()

    def action_select(self, by: int) -> None:
        self.transcript.select_next(by)

    def copy_selected(self) -> bool:
        """What is marked or selected, if anything is; then it is not any more."""
        if self.composer.selected_text:
            self.app.post_message(_copied(self.composer.selected_text))
            self.composer.selection = type(self.composer.selection).cursor(self.composer.selection.end)
            return True
        if marked := self.get_selected_text():
            self.app.post_message(_copied(marked))
            self.clear_selection()
            return True
        if self.transcript.selected is not None:
            self._bridge.post(self._talk.copy, self.transcript.selected)
            self.transcript.deselect()
            return True
        return False


def _reply(talk: Talk, run_id: str, call_id: str, answer: dict[str, Any]) -> None:
    talk.reply(run_id, call_id, **answer)


def _copied(text: str) -> Any:
    from actors.terminal.ui.app import Copied

    return Copied(text)
