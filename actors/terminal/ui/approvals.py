"""What waits for this person: a call to allow, or a tool's question to answer. In place, below the transcript."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from actors.terminal import forms
from actors.terminal.conversation import Approval
from actors.terminal.texts import bounded, one_line
from actors.terminal.ui.inputs import Line
from engine.mcp.forms import Form
from engine.rendering.cells import clean

# Of what is to be allowed, all that fits the wire's strings is shown; one scrolls through it.
_INPUT_BYTES: Final = 128 * 1024
_LINE_CELLS: Final = 200
# As in BINDINGS.
_MEANINGS: Final = {"y": "allow", "a": "allow_always", "n": "deny"}
_KEYS: Final = frozenset({*_MEANINGS, "r"})


class Approvals(Vertical):
    """One question at a time; hidden while there is none. `post`s what is answered."""

    DEFAULT_CSS = """
    Approvals {
        display: none; height: auto; max-height: 60%; padding: 0 1;
        border: round $warning; border-title-color: $warning; background: $background;
        #asked { height: auto; max-height: 12; }
        #asked:focus { background: $boost; }
        #keys { height: auto; color: $foreground; }
        #answer { display: none; height: 1; border: none; padding: 0; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide('allow')", "Allow"),
        Binding("a", "decide('allow_always')", "Always"),
        Binding("n", "decide('deny')", "Deny"),
        Binding("r", "reason", "Deny with reason"),
    ]

    class Answered(Message):
        def __init__(self, approval: Approval, answer: dict[str, Any]) -> None:
            super().__init__()
            self.approval, self.answer = approval, answer

    class Typed(Message):
        """A key that answers nothing: the person writes."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """There is nothing to answer any more: the keys belong to the composer."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.shown: Approval | None = None
        self._form: Form | None = None
        self._content: dict[str, Any] = {}
        self._field = 0
        self._writes = False  # a reason is being written
        self._passed_on = False  # the person writes: keys that come before the box has them are none to answer with

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="asked"):
            yield Static(id="what", markup=False)
        yield Static(id="keys", markup=False)
        yield Line(id="answer", compact=True)

    # -------------------------------------------------------------- what is asked
    def show(self, waiting: list[Approval], focus: bool) -> None:
        """The first of what waits; `focus` gives it the keys."""
        first = waiting[0] if waiting else None
        if first is not None:
            more = f" · {len(waiting) - 1} more" if len(waiting) > 1 else ""
            self.border_title = Text(f"{'a question' if self._is_question(first) else 'allow?'}{more}").plain
        if first == self.shown:
            return
        had_keys = self.has_keys
        self.shown, self._form, self._writes = first, None, False
        self._content, self._field = {}, 0
        self.display = first is not None
        self.query_one("#answer", Line).display = False
        if first is None:
            if had_keys:
                self.post_message(self.Left())
            return
        self.query_one("#what", Static).update(Text(self._what(first)))
        self._tell_keys()
        self.query_one("#asked", VerticalScroll).scroll_home(animate=False)
        if focus or had_keys:
            self.take_keys()

    @property
    def has_keys(self) -> bool:
        focused = self.screen.focused
        return focused is not None and self in focused.ancestors

    def take_keys(self) -> None:
        if self.shown is not None:
            self._passed_on = False
            answer = self.query_one("#answer", Line)
            (answer if answer.display else self.query_one("#asked", VerticalScroll)).focus()

    def _is_question(self, approval: Approval) -> bool:
        return "parent_call_id" in approval.request

    def _what(self, approval: Approval) -> str:
        request = approval.request
        asked = request.get("input") or {}
        tool = one_line(request["tool"], 80)
        if self._is_question(approval):
            return f"{tool} asks:\n{_lines(str(asked.get('message', '')))}"
        shown = [f"allow {tool}?"]
        for name, value in asked.items() if isinstance(asked, dict) else [("input", asked)]:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            shown.append(_indented(f"  {one_line(name, 60)}: ", _lines(text)))
        if "input_more" in request:
            shown.append(f"  [… of {request['input_more']['bytes']:,} bytes]")
        if request.get("question"):
            shown.append(f"({one_line(request['question'], _LINE_CELLS)})")
        return "\n".join(shown)

    def _tell_keys(self, text: str | None = None) -> None:
        approval = self.shown
        if text is None and approval is not None and self._is_question(approval):
            text = "y answer · n decline · Esc stop the run"
        self.query_one("#keys", Static).update(
            Text(text or "y allow · a always · n deny · r deny with a reason · Esc stop the run")
        )

    def on_key(self, event: events.Key) -> None:
        writes = self.query_one("#answer", Line).has_focus
        if event.is_printable and event.character is not None and event.key not in _KEYS and not writes:
            event.stop()
            self._pass_on(event.character)

    def _pass_on(self, character: str) -> None:
        self._passed_on = True
        self.post_message(self.Typed(character))

    # -------------------------------------------------------------- answers
    def action_decide(self, decision: str) -> None:
        approval = self.shown
        if approval is None or self._passed_on:
            self._pass_on(next(key for key, means in _MEANINGS.items() if means == decision))
        elif self._is_question(approval) and decision != "deny":
            self._form = forms.form_of(approval.request["input"]["schema"])
            self._content, self._field = {}, 0
            self._ask_field()
        else:
            self._answer({"decision": decision})

    def action_reason(self) -> None:
        if self.shown is None or self._passed_on:
            self._pass_on("r")
        elif not self._is_question(self.shown):
            self._writes = True
            self._open("why not? (Enter denies)")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._writes:
            reason = event.value.strip()[:500]
            self._answer({"decision": "deny", **({"reason": reason} if reason else {})})
        elif self._form is not None and self.shown is not None:
            field = self._form.fields[self._field]
            value, mistake = forms.take(field, self._about(), event.value)
            if mistake is not None:
                self._open(f"{mistake}; {self._prompt()}", keep=True)
                return
            if value is not None:
                self._content[field.name] = value
            self._field += 1
            self._ask_field()

    def _about(self) -> dict[str, Any]:
        assert self.shown is not None and self._form is not None
        about: dict[str, Any] = self.shown.request["input"]["schema"]["properties"][self._form.fields[self._field].name]
        return about

    def _prompt(self) -> str:
        assert self._form is not None
        count = f"{self._field + 1}/{len(self._form.fields)} "
        return count + one_line(forms.prompt(self._form.fields[self._field], self._about()), 2 * _LINE_CELLS)

    def _ask_field(self) -> None:
        assert self._form is not None
        if self._field >= len(self._form.fields):
            self._answer({"decision": "allow", "content": self._content})
        else:
            self._open(self._prompt())

    def _open(self, text: str, *, keep: bool = False) -> None:
        answer = self.query_one("#answer", Line)
        if not keep:
            answer.value = ""
        self._tell_keys(text)
        answer.display = True
        answer.focus()

    def _answer(self, answer: dict[str, Any]) -> None:
        assert self.shown is not None
        self.post_message(self.Answered(self.shown, answer))


def _lines(text: str) -> str:
    """Cleaned line by line, up to the bound."""
    return "\n".join(clean(line) for line in bounded(text, _INPUT_BYTES).replace("\r\n", "\n").split("\n"))


def _indented(lead: str, text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([lead + first, *(f"    {line}" for line in rest)])
