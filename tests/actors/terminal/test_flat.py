"""What a conversation keeps does not grow with what is said, but for its index."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from actors.terminal import conversation as conversations
from actors.terminal.cache import Texts
from actors.terminal.conversation import Conversation
from engine.limits import KIB
from engine.rendering.view import TranscriptView

WARM, MEASURED = 30, 60
SLOPE = 2 * KIB  # bytes a message, of its index: ids, heights, places


def event(type: str, **fields: Any) -> dict[str, Any]:
    return {"seq": 1, "at": 1, "type": type, **fields}


def run_of(number: int, text: str) -> list[list[dict[str, Any]]]:
    """The pushes of a run with a call that writes much, and an answer in pieces."""
    asked = {"info": {"id": f"msg_u{number}", "role": "user", "created_at": 1, "run_id": f"run_{number}"}}
    part = {"part_id": f"prt_c{number}", "call_id": "call_1", "tool": "shell.run", "input": {"command": "make"}}
    begin = [
        event("run.started", message={**asked, "parts": [{"id": "prt_u", "kind": "text", "text": "go on"}]}),
        event("turn.started", turn=1, message_id=f"msg_a{number}"),
        event("part.started", part_id=part["part_id"], message_id=f"msg_a{number}", kind="tool"),
        event("tool.updated", state="running", **part),
    ]
    writes = [[event("tool.output", call_id="call_1", text=text[:1000])] for _ in range(4)]
    says = [
        event("tool.updated", state="completed", output=text, **part),
        event("part.started", part_id=f"prt_t{number}", message_id=f"msg_a{number}", kind="text"),
    ]
    deltas = [
        [event("part.delta", part_id=f"prt_t{number}", text=text[at : at + KIB])] for at in range(0, len(text), KIB)
    ]
    end = [
        event("part.finished", part_id=f"prt_t{number}", kind="text", bytes=len(text)),
        event("turn.finished", turn=1, finish="stop", usage={}),
        event("run.finished", status="completed", usage={}),
    ]
    return [begin, *writes, says, *deltas, end]


def follow(conversation: Conversation, first: int, count: int) -> None:
    text = ("A sentence with *some* words in it. " * 8 + "\n\n") * 14
    for number in range(first, first + count):
        for events in run_of(number, text):
            conversation.take("run.events", {"run_id": f"run_{number}", "events": events})
            view = conversation.view
            view.page(view.end(24), 24)
            assert view.live_holders() <= 1


def test_memory_is_flat_over_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "Texts", lambda: Texts(16 * KIB))
    conversation = Conversation()
    conversation.view = TranscriptView(80, source=conversation.cache.get, shelf_bytes=16 * KIB)
    tracemalloc.start()
    try:
        follow(conversation, 0, WARM)
        before, _ = tracemalloc.get_traced_memory()
        follow(conversation, WARM, MEASURED)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    messages = 2 * MEASURED  # the person's and the model's
    assert len(conversation.places) == 2 * (WARM + MEASURED)
    assert (after - before) / messages < SLOPE, f"{(after - before) / messages:.0f} bytes a message"
    assert conversation.cache.retained_bytes() <= 16 * KIB
    assert conversation.view.live_holders() == 0
    assert not conversation._messages and not conversation._calls and not conversation._previews


def test_approvals_are_bounded() -> None:
    conversation = Conversation()
    asks = [
        event("approval.requested", call_id=f"call_{number}", tool="t.t", input={})
        for number in range(conversations.APPROVALS_MAX + 1)
    ]
    conversation.take("run.events", {"run_id": "run_1", "events": asks[:-1]})
    assert len(conversation.approvals) == conversations.APPROVALS_MAX
    conversation.take("run.events", {"run_id": "run_1", "events": asks[-1:]})
    assert len(conversation.approvals) == conversations.APPROVALS_MAX
