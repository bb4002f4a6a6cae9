"""What a check with fresh eyes found in the full-screen chat."""

from __future__ import annotations

import pytest
from textual.geometry import Size

from actors.terminal.talk import SESSIONS_SHOWN, Outgoing, Talk
from actors.terminal.ui.composer import Composer
from actors.terminal.ui.status import status_line
from tests.actors.scripted import Staged, staged
from tests.actors.terminal.talking import Watched, line_to, lines_of, talking
from tests.actors.terminal.test_screens import Stage, nobody, on_stage

__all__ = ["staged"]  # a fixture


def test_what_is_typed_first_goes_into_the_box() -> None:
    async def walk(stage: Stage) -> None:
        assert Composer.__name__ == stage.chat.AUTO_FOCUS
        stage.chat.approvals.action_decide("deny")  # a key that came before the box had the keys
        stage.chat.approvals.action_reason()
        await stage.press("y", "a")
        assert stage.chat.composer.text == "nrya" and stage.bridge.posted == []

    on_stage(walk)


def test_the_letters_of_a_word_answer_nothing() -> None:
    async def walk(stage: Stage) -> None:
        await stage.begin_run()
        await stage.ask()
        stage.chat.approvals.take_keys()
        await stage.pilot.pause()
        stage.chat.approvals._pass_on("u")
        for decision in ("deny", "allow", "allow_always"):
            stage.chat.approvals.action_decide(decision)  # they come before the box has the keys
        stage.chat.approvals.action_reason()
        await stage.pilot.pause()
        assert stage.chat.composer.text == "unyar" and stage.bridge.posted == []
        stage.chat.composer.text = ""
        await stage.press("f2", "n")
        assert [name for name, _ in stage.bridge.posted] == ["_reply"]

    on_stage(walk)


def test_a_low_terminal_shows_the_text_and_the_box() -> None:
    async def walk(stage: Stage) -> None:
        await stage.pilot.resize_terminal(20, 5)
        await stage.press("h", "i")
        lines = stage.lines()
        assert stage.chat.composer.region.size >= Size(18, 1) and lines[-1].strip() == "hi"
        assert any("number 3" in line for line in lines) and "connected" in lines[0]
        await stage.pilot.resize_terminal(80, 24)
        await stage.look()
        assert stage.sees("Enter: send") and not stage.chat.has_class("low")

    on_stage(walk, messages=4)


@pytest.mark.parametrize("cells", [0, 5, 20, 40, 100])
def test_of_the_state_the_connection_goes_last(cells: int) -> None:
    talk = Talk(nobody, Watched(), cwd="/")
    talk.connected = True
    talk.hello = {"default_model": "a-model-with-a-long-name"}
    talk.conversation.session = {"title": "a title of some length", "usage": {"input_tokens": 12_345}}
    text = status_line(talk, cells).plain
    assert text.endswith("connected")
    assert len(text) == max(cells, len("connected"))


def test_escape_stops_what_is_being_sent() -> None:
    async def walk(stage: Stage) -> None:
        stage.talk.outgoing = Outgoing("ses_1", "hello", "queue")
        await stage.press("escape")
        assert stage.bridge.posted == [("stop_run", ())]

    on_stage(walk)


async def test_what_is_stopped_while_it_is_sent_is_stopped_as_soon_as_it_is_a_run(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("hello", "queue")
        talk.stop_run()
        await screen.until(lambda: talk.conversation.ended is not None)
        assert (await lines_of(talk, screen))[0] == "> hello"
        assert talk.conversation.ended is not None and talk.conversation.ended["status"] == "cancelled"


def test_of_more_sessions_than_are_listed_that_is_said_and_the_list_fits_a_low_terminal() -> None:
    async def walk(stage: Stage) -> None:
        await stage.press("ctrl+o")
        found = [
            {"id": f"ses_{number}", "title": f"title {number}", "updated_at": 0, "message_count": 1}
            for number in range(SESSIONS_SHOWN)
        ]
        stage.app.show_sessions("", found)
        await stage.pilot.pause()
        await stage.pilot.resize_terminal(40, 5)
        await stage.pilot.pause()
        assert stage.sees("title 0") and stage.sees("title 2")
        await stage.press(*["pagedown"] * 12)
        assert stage.sees("these are the newest 100")
        await stage.press("enter")
        assert ("open_session", (f"ses_{SESSIONS_SHOWN - 1}",)) in stage.bridge.posted

    on_stage(walk)
