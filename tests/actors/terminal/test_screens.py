"""The screens, without a terminal and a daemon: what is drawn, and what keys do. Textual runs on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from textual import events
from textual.pilot import Pilot

from actors.client import Client
from actors.terminal.guest import Bridge
from actors.terminal.talk import Talk
from actors.terminal.ui.app import COPY_BYTES, ChatApp
from actors.terminal.ui.chat import ChatScreen
from actors.terminal.ui.composer import CHARACTERS_MAX
from actors.terminal.ui.sessions import Sessions
from engine.rendering.cells import UNSAFE

EVIL = "a\x1b]0;owned\x07\x1b[2Jb\x9bc [bold red]markup[/] [@click=app.quit]x[/]"
Posted = list[tuple[str, tuple[Any, ...]]]


class Recorder(Bridge):
    """A bridge that notes what is posted."""

    def __init__(self) -> None:
        super().__init__()
        self.posted: Posted = []

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        self.posted.append((function.__name__, arguments))


@contextlib.asynccontextmanager
async def nobody(start: bool) -> AsyncIterator[Client]:
    raise AssertionError("nothing connects here")
    yield


def said(number: int, role: str, text: str) -> dict[str, Any]:
    info = {"id": f"msg_{number}", "role": role, "created_at": 1}
    return {"info": info, "parts": [{"id": f"prt_{number}", "kind": "text", "text": text}]}


class Stage:
    def __init__(self, app: ChatApp, talk: Talk, pilot: Pilot[None], bridge: Recorder) -> None:
        self.app, self.talk, self.pilot, self.bridge = app, talk, pilot, bridge

    @property
    def chat(self) -> ChatScreen:
        chat = self.app.chat
        assert chat is not None
        return chat

    def lines(self) -> list[str]:
        """The whole screen."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    def sees(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    async def look(self) -> None:
        self.chat.look()
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def events(self, *events: dict[str, Any]) -> None:
        told = [{"seq": 1, "at": 1, **event} for event in events]
        self.talk.conversation.take("run.events", {"run_id": "run_1", "events": told})
        await self.look()

    async def begin_run(self) -> None:
        message = {**said(1000, "user", "go on")}
        message["info"] = {**message["info"], "run_id": "run_1"}
        turn = {"type": "turn.started", "turn": 1, "message_id": "msg_1001"}
        await self.events({"type": "run.started", "message": message}, turn)

    async def ask(self, **request: Any) -> None:
        asked = {"call_id": "call_1", "tool": "shell.run", "input": {"command": "ls"}, **request}
        await self.events({"type": "approval.requested", **asked})

    async def resolve(self, call_id: str) -> None:
        await self.events({"type": "approval.resolved", "call_id": call_id, "decision": "allow", "by": "client"})


def on_stage(walk: Callable[[Stage], Awaitable[None]], messages: int = 0, **more: Any) -> None:
    async def run() -> None:
        bridge = Recorder()
        app = ChatApp(bridge)
        talk = Talk(nobody, app, cwd="/", session_id="ses_1", **more)
        talk.connected = True
        talk.hello = {"default_model": "demo"}
        page = [said(number, "assistant" if number % 2 else "user", f"number {number}") for number in range(messages)]
        talk.conversation.attach({"messages": page})
        app.talk = talk
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await walk(Stage(app, talk, pilot, bridge))

    asyncio.run(run())


def test_enter_sends_ctrl_j_is_a_new_line_and_a_paste_has_a_bound() -> None:
    async def walk(stage: Stage) -> None:
        await stage.press("h", "i", "ctrl+j", "y", "o", "u")
        assert stage.chat.composer.text == "hi\nyou" and stage.bridge.posted == []
        await stage.press("enter")
        assert stage.bridge.posted == [("send", ("hi\nyou", "queue"))]
        assert stage.chat.composer.text == ""
        await stage.press("space", "enter")
        assert len(stage.bridge.posted) == 1, "nothing is no message"
        composer = stage.chat.composer
        composer.text = ""
        composer.post_message(events.Paste(f"{EVIL}\r\n\tx"))
        await stage.pilot.pause()
        assert composer.text.startswith("a␛]0;owned␇") and composer.text.endswith("\n\tx")
        assert not any(UNSAFE.search(line) for line in stage.lines())
        composer.text = ""
        composer.post_message(events.Paste("x" * CHARACTERS_MAX))
        await stage.pilot.pause()
        assert len(composer.text) == CHARACTERS_MAX
        composer.post_message(events.Paste("y"))
        await stage.pilot.pause()
        assert len(composer.text) == CHARACTERS_MAX and stage.sees("too long to be pasted")

    on_stage(walk)


def test_what_is_typed_right_behind_enter_begins_the_next_message() -> None:
    async def walk(stage: Stage) -> None:
        await stage.press("h", "i")
        for key, character in (("enter", "\r"), ("y", "y"), ("o", "o")):  # as they come in one read of the terminal
            stage.chat.composer.post_message(events.Key(key, character))
        await stage.pilot.pause()
        assert stage.bridge.posted == [("send", ("hi", "queue"))] and stage.chat.composer.text == "yo"

    on_stage(walk)


def test_without_a_connection_the_message_stays_in_the_box() -> None:
    async def walk(stage: Stage) -> None:
        stage.talk.connected = False
        stage.talk.waiting = 3
        await stage.press("h", "i", "enter")
        assert stage.chat.composer.text == "hi"
        assert [name for name, _ in stage.bridge.posted] == ["connect_now"]
        await stage.look()
        assert stage.sees("reconnecting in 3 s") and not stage.sees(" connected")
        stage.talk.connected = True
        await stage.look()
        assert stage.sees("connected") and stage.chat.composer.text == "hi"
        stage.app.give_back("first")
        await stage.pilot.pause()
        assert stage.chat.composer.text == "first\nhi"

    on_stage(walk)


def test_tab_chooses_what_enter_does_while_a_run_is_at_work() -> None:
    async def walk(stage: Stage) -> None:
        await stage.begin_run()
        assert stage.sees("Enter: queue")
        await stage.press("tab")
        assert stage.sees("Enter: steer")
        await stage.press("x", "enter", "escape")
        assert stage.bridge.posted == [("send", ("x", "steer")), ("stop_run", ())]

    on_stage(walk)


def test_it_follows_the_end_until_the_person_goes_up() -> None:
    async def walk(stage: Stage) -> None:
        await stage.look()
        assert stage.sees("number 39") and not stage.sees("below")
        await stage.press("pageup")
        assert not stage.sees("number 39") and stage.sees("lines below (End)")
        before = stage.lines()[1:15]
        await stage.begin_run()
        await stage.events(
            {"type": "part.started", "part_id": "prt_x", "message_id": "msg_1001", "kind": "text"},
            {"type": "part.delta", "part_id": "prt_x", "text": "\n\n".join(f"new {n}" for n in range(30))},
        )
        assert stage.lines()[1:15] == before and stage.sees("new lines below (End)")
        await stage.press("end")
        assert stage.sees("new 29") and not stage.sees("below")
        await stage.press("home")
        assert stage.sees("number 0")
        await stage.press("ctrl+end", "ctrl+t")
        assert stage.app.theme == "textual-light" and stage.sees("new 29")
        await stage.pilot.resize_terminal(40, 12)
        await stage.pilot.pause()
        assert stage.sees("new 29") and all(len(line) <= 40 for line in stage.lines())

    on_stage(walk, messages=40)


def test_a_selected_entry_is_unfolded_by_enter_and_copied_by_ctrl_c() -> None:
    async def walk(stage: Stage) -> None:
        await stage.press("ctrl+up", "enter")
        await stage.press("ctrl+c")
        assert stage.bridge.posted == [("unfold", ("prt_3",)), ("copy", ("prt_3",))]
        assert stage.chat.transcript.selected is None
        stage.app.copy("x" * (COPY_BYTES + 1))
        await stage.pilot.pause()
        assert stage.app.clipboard.startswith("x" * COPY_BYTES + "\n[… 1 bytes more]")
        assert stage.app._exit is False
        await stage.press("ctrl+c")
        assert stage.app._exit is True, "with nothing selected it quits"

    on_stage(walk, messages=4)


ANSWERS: list[tuple[list[str], dict[str, str]]] = [
    (["y"], {"decision": "allow"}),
    (["a"], {"decision": "allow_always"}),
    (["n"], {"decision": "deny"}),
    (["r", "n", "o", "enter"], {"decision": "deny", "reason": "no"}),
    (["r", "enter"], {"decision": "deny"}),
]


def test_approvals_are_answered_in_place_and_go_when_answered_elsewhere() -> None:
    async def walk(stage: Stage) -> None:
        await stage.begin_run()
        for number, (keys, answer) in enumerate(ANSWERS):
            await stage.ask(call_id=f"call_{number}")
            assert stage.sees("allow shell.run?") and stage.sees("command: ls")
            await stage.press(*keys)
            assert stage.bridge.posted == [("_reply", (stage.talk, "run_1", f"call_{number}", answer))]
            stage.bridge.posted.clear()
            await stage.resolve(f"call_{number}")
        assert not stage.sees("allow shell.run?") and stage.chat.focused is stage.chat.composer
        await stage.ask()
        await stage.press("h")  # answers nothing: it is the beginning of a message
        assert stage.chat.composer.text == "h" and stage.chat.focused is stage.chat.composer
        await stage.press("y", "a", "n")
        assert stage.chat.composer.text == "hyan" and stage.bridge.posted == []
        await stage.look()  # as its ticks do in half a second
        assert stage.sees("F2: answer")
        await stage.press("f2")
        assert stage.chat.focused is not stage.chat.composer
        await stage.resolve("call_1")
        assert not stage.sees("allow shell.run?") and stage.chat.focused is stage.chat.composer
        await stage.ask()  # while something is in the box
        await stage.press("y")
        assert stage.chat.composer.text == "hyany" and stage.bridge.posted == []

    on_stage(walk)


def test_a_question_is_a_form_field_by_field() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "title": EVIL}, "count": {"type": "integer", "minimum": 2}},
        "required": ["name", "count"],
    }

    async def walk(stage: Stage) -> None:
        await stage.begin_run()
        await stage.ask(input={"message": EVIL, "schema": schema}, parent_call_id="call_0")
        assert stage.sees("asks:") and stage.sees("a␛]0;owned␇")
        await stage.press("y")
        assert stage.sees("1/2 a␛]0;owned␇")
        await stage.press("y", "o", "enter", "1", "enter")
        assert stage.sees("at least 2")
        await stage.press("backspace", "7", "enter")
        answer = {"decision": "allow", "content": {"name": "yo", "count": 7}}
        assert stage.bridge.posted == [("_reply", (stage.talk, "run_1", "call_1", answer))]

    on_stage(walk)


def test_nothing_of_others_is_obeyed_or_taken_for_markup() -> None:
    async def walk(stage: Stage) -> None:
        stage.talk.conversation.session = {"title": EVIL, "model": EVIL, "usage": {}, "queued": 0}
        stage.talk.conversation.attach({"messages": [said(1, "user", EVIL), said(2, "assistant", f"```\n{EVIL}\n```")]})
        await stage.begin_run()
        part = {"part_id": "prt_c", "call_id": "call_1", "tool": EVIL, "input": {EVIL: EVIL}}
        await stage.events({"type": "tool.updated", "state": "running", **part})
        await stage.events({"type": "tool.output", "call_id": "call_1", "text": EVIL})
        await stage.ask(tool=EVIL, input={EVIL: f"{EVIL}\n{EVIL}"}, question=EVIL)
        stage.app.note(EVIL)
        stage.app.note(EVIL, serious=True)
        await stage.pilot.pause()
        seen = stage.lines()
        assert not any(UNSAFE.search(line) for line in seen)
        assert sum("[bold red]markup" in line for line in seen) >= 5
        stage.app.push_screen(Sessions("ses_1"))
        await stage.pilot.pause()
        row = {"id": "ses_1", "title": EVIL, "updated_at": 1, "message_count": 1}
        stage.app.show_sessions("", [row])
        await stage.pilot.pause()
        seen = stage.lines()
        assert stage.sees("[bold red]markup") and not any(UNSAFE.search(line) for line in seen)

    on_stage(walk)


def test_sessions_are_filtered_by_typing_and_opened() -> None:
    rows = [{"id": f"ses_{n}", "title": f"title {n}", "updated_at": n, "message_count": n} for n in range(1, 4)]

    async def walk(stage: Stage) -> None:
        await stage.press("ctrl+o")
        stage.app.show_sessions("", rows)
        await stage.pilot.pause()
        assert stage.sees("title 3")
        await stage.press("t", "i")
        stage.app.show_sessions("t", rows[:1])  # the answer to what was typed before
        await stage.pilot.pause()
        assert stage.sees("title 3")
        stage.app.show_sessions("ti", rows[1:])
        await stage.pilot.pause()
        assert not stage.sees("title 1")
        await stage.press("down", "enter")
        asked = [arguments for name, arguments in stage.bridge.posted if name == "find_sessions"]
        assert asked == [("",), ("t",), ("ti",)]
        assert stage.bridge.posted[-1] == ("open_session", ("ses_3",))
        await stage.press("f1")
        assert stage.sees("stop the run")
        await stage.press("escape")
        assert not stage.sees("stop the run")

    on_stage(walk)
