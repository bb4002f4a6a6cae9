"""What a client shows of a run that its daemon lost, by what of the answer was on the disk."""

from __future__ import annotations

from typing import Any

import pytest

from actors.terminal.conversation import Conversation
from engine.rendering.styles import plain

ASKED = {
    "info": {"id": "msg_u", "role": "user", "created_at": 1, "run_id": "run_1"},
    "parts": [{"id": "prt_u", "kind": "text", "text": "go on"}],
}
LOST = "[interrupted: the daemon lost this run]"


def answer(text: str) -> dict[str, Any]:
    info = {"id": "msg_a", "role": "assistant", "created_at": 2, "run_id": "run_1", "finish": "interrupted"}
    return {"info": info, "parts": [{"id": "prt_t", "kind": "text", "text": text}] if text else []}


def event(type: str, **fields: Any) -> dict[str, Any]:
    return {"seq": 1, "at": 1, "type": type, **fields}


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ([ASKED], ["> go on", LOST]),
        ([ASKED, answer("")], ["> go on", LOST]),
        ([ASKED, answer("half of")], ["> go on", "half of", LOST]),
    ],
)
def test_what_is_stored_is_shown_and_that_it_was_interrupted_once(
    stored: list[dict[str, Any]], shown: list[str]
) -> None:
    conversation = Conversation()
    conversation.attach({"messages": []})
    events = [
        event("run.started", message=ASKED),
        event("turn.started", turn=1, message_id="msg_a"),
        event("part.started", part_id="prt_t", message_id="msg_a", kind="text"),
        event("part.delta", part_id="prt_t", text="half of it"),
    ]
    conversation.take("run.events", {"run_id": "run_1", "events": events})
    assert lines(conversation) == ["> go on", "half of it"]
    # The daemon was killed and started again: it says what is left.
    conversation.take("run.gap", {"run_id": "run_1", "from": 5, "to": 9})
    snapshot = {"run_id": "run_1", "seq": 9, "status": "interrupted", "message_id": "msg_a", "pending_approvals": []}
    conversation.take("run.snapshot", {**snapshot, "offset": 0, "more": False})
    assert conversation.needs_page
    conversation.repair({"messages": stored})
    assert conversation.run is None and lines(conversation) == shown
    conversation.attach({"messages": stored})  # once more: the connection was lost
    assert lines(conversation) == shown


def lines(conversation: Conversation) -> list[str]:
    view = conversation.view
    return [line for each in view.page(view.place(0), 50).lines if (line := plain(each).strip())]
