"""`markdown.render` on the wire: pieces, bounds, and that nobody waits for a long text."""

from __future__ import annotations

import json

import pytest
import trio

from actors.gateway.markup import Markup
from engine.errors import CallerError
from engine.limits import DEFAULT
from engine.rendering.html import STATE_MAX, STEP
from engine.wire import bounds
from engine.wire.methods import InvalidParams
from tests.actors.gateway.fakes import serve


async def test_a_text_is_shown_piece_by_piece() -> None:
    async with serve() as served, served.connect() as wire:
        first = await wire.request("markdown.render", text="# h\n\nsome *te")
        assert first.keys() == {"html", "taken", "state", "open_html", "more"}
        assert (first["html"], first["taken"], first["more"]) == ("<h1>h</h1>", 5, False)
        assert first["open_html"] == "<p class='gap'>some *te</p>"
        then = await wire.request("markdown.render", text="some *text*\n\n", state=first["state"])
        assert (then["html"], then["taken"], then["open_html"]) == ("<p class='gap'>some <em>text</em></p>", 13, "")
        assert await wire.request("markdown.render", text="", state=None) == {
            "html": "", "taken": 0, "state": "", "open_html": "", "more": False
        }  # fmt: skip


async def test_the_size_of_a_text_is_bounded_in_bytes() -> None:
    most = DEFAULT.markdown_bytes
    async with serve() as served, served.connect() as wire:
        for character in ("a", "\U0001f600"):
            text = character * (most // len(character.encode()))
            assert (await wire.request("markdown.render", text=text))["taken"] > 0
            error = await wire.error("markdown.render", text=text + "a")
            assert error["data"] == {"code": "payload_too_large", "limit": most}


async def test_the_largest_answer_is_a_frame_like_any_other() -> None:
    text = "&" * DEFAULT.markdown_bytes
    async with serve() as served, served.connect() as wire:
        number = await wire.send("markdown.render", text=text)
        frame = await wire.socket.get_message()
        assert DEFAULT.frame_bytes // 2 < len(frame.encode()) <= DEFAULT.frame_bytes
        answer = json.loads(frame)
        assert answer["id"] == number and answer["result"]["more"]
        rest = await wire.request(
            "markdown.render", text=text[answer["result"]["taken"] :], state=answer["result"]["state"]
        )
        assert rest["html"] and not rest["more"]


@pytest.mark.parametrize("state", ["x", "{}", "[]", '{"boxes":[]}'])
async def test_a_state_that_is_none_is_the_callers_mistake(state: str) -> None:
    async with serve() as served, served.connect() as wire:
        error = await wire.error("markdown.render", text="a", state=state)
        assert error["code"] == -32602
        assert [field["path"] for field in error["data"]["fields"]] == ["state"]
        assert (await wire.request("markdown.render", text="a"))["open_html"] == "<p>a</p>"
        assert served.ref.gateway_statistics().defects == 0


async def test_others_are_answered_while_a_text_is_at_work() -> None:
    async with serve() as served, served.connect() as wire, served.connect() as other:
        text = "a\n\n" * 20_000
        await wire.request("markdown.render", text="")  # what is loaded at the first use is there
        number = await wire.send("markdown.render", text=text)
        while not served.ref._gateway._shared.markup._turn.locked():
            await trio.lowlevel.checkpoint()
        assert await other.request("ping") == {}
        assert served.ref._gateway._shared.markup._turn.locked(), "the ping has waited for the text"
        assert (await wire.answer(number))["result"]["taken"] > 20_000


async def test_every_step_lets_others_run() -> None:
    markup = Markup(DEFAULT.markdown_bytes)
    await markup.render("", "")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await markup.render("some words\n" * 3000, "")
        nursery.cancel_scope.cancel()
    assert turns >= 3000 * 11 // STEP // 2


async def test_one_that_is_cancelled_keeps_no_place() -> None:
    markup = Markup(100)
    with trio.CancelScope() as scope:
        scope.cancel()
        await markup.render("a", "")
    assert scope.cancelled_caught
    assert isinstance(await markup.render("a", ""), dict)
    with pytest.raises(InvalidParams):
        await markup.render("a", "x")
    with pytest.raises(CallerError):
        await markup.render("a" * 101, "")
    assert isinstance(await markup.render("a" * 100, ""), dict)


def test_the_bound_of_a_state_is_that_of_its_maker() -> None:
    assert bounds.STATE_MAX == STATE_MAX
