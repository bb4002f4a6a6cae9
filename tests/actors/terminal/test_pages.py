"""Texts that the view wants, as they come from the daemon."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from actors.terminal import pages
from actors.terminal.conversation import Conversation
from actors.terminal.texts import Piece
from engine.rendering import view as views
from engine.rendering.styles import plain


def wanting() -> Conversation:
    """One answer, of which only the beginning is here."""
    part = {"id": "prt_1", "kind": "text", "text": "head", "text_more": {"bytes": 10**6, "handle": "h"}}
    info = {"id": "msg_1", "role": "assistant", "created_at": 1, "finish": "stop"}
    conversation = Conversation()
    conversation.attach({"messages": [{"info": info, "parts": [part]}]})
    view = conversation.view
    view.page(view.place(0), 5)
    assert list(view.wanted) == ["prt_1"]
    return conversation


@pytest.mark.parametrize("beyond", [False, True])
async def test_the_lines_of_a_long_text_are_made_by_a_thread(monkeypatch: pytest.MonkeyPatch, beyond: bool) -> None:
    conversation = wanting()
    view = conversation.view
    by: list[int] = []
    rendered = views.rendered

    def noted(*arguments: Any) -> Any:
        by.append(threading.get_ident())
        return rendered(*arguments)

    monkeypatch.setattr(views, "rendered", noted)
    text = "word " * (pages._AT_ONCE // 5) + "x" * (pages._AT_ONCE % 5 + beyond)
    await pages._supply(conversation, Piece(id="prt_1", kind="assistant", text=text, size=len(text)))
    assert len(by) == 1 and (by[0] == threading.get_ident()) is not beyond
    assert not view.wanted
    assert plain(view.page(view.place(0), 1).lines[0]).startswith("word word")


async def test_lines_of_another_width_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = wanting()
    view = conversation.view
    prepare = view.prepare

    def narrower(id: str, text: str) -> Any:
        make = prepare(id, text)
        view.resize(view._width - 10)  # while the thread is at work
        view.page(view.place(0), 5)
        return make

    monkeypatch.setattr(view, "prepare", narrower)
    text = "word " * pages._AT_ONCE
    await pages._supply(conversation, Piece(id="prt_1", kind="assistant", text=text, size=len(text)))
    assert plain(view.page(view.place(0), 1).lines[0]).startswith("word word") and not view.wanted


async def test_a_text_that_is_not_shown_any_more_is_passed_over() -> None:
    conversation = Conversation()
    await pages._supply(conversation, Piece(id="prt_gone", kind="assistant", text="x" * 10**5, size=10**5))
    assert len(conversation.view) == 0
