"""Events of a run: each type's JSON, and back again as a reader sees it."""

from __future__ import annotations

import json
from typing import Any, get_args

import attrs
import pytest

from engine.runs import events
from engine.runs.events import (
    CompactionStarted,
    Event,
    Numbered,
    PartDelta,
    PartFinished,
    RunFinished,
    RunStarted,
    RunStatus,
    ToolUpdated,
    TurnFinished,
)
from engine.transcript.records import Failure, Usage

USAGE = {
    "input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0,
}  # fmt: skip
TOKENS = Usage(input_tokens=1, output_tokens=2)
EXAMPLES: list[tuple[Event, dict[str, Any]]] = [
    (RunStatus(status="running"), {"type": "run.status", "status": "running"}),
    (CompactionStarted(), {"type": "compaction.started"}),
    (PartDelta(part_id="prt_1", text='a"🎉'), {"type": "part.delta", "part_id": "prt_1", "text": 'a"🎉'}),
    (
        PartFinished(part_id="prt_1", kind="text", bytes=7),
        {"type": "part.finished", "part_id": "prt_1", "kind": "text", "bytes": 7},
    ),
    (
        ToolUpdated(part_id="p", call_id="c", tool="a.b", state="running", input={"x": 1}),
        {"type": "tool.updated", "part_id": "p", "call_id": "c", "tool": "a.b", "state": "running", "input": {"x": 1}},
    ),
    (
        TurnFinished(turn=1, finish="stop", usage=TOKENS),
        {"type": "turn.finished", "turn": 1, "finish": "stop", "usage": USAGE},
    ),
    (
        RunFinished(status="failed", usage=TOKENS, error=Failure(code="deadline", message="m")),
        {"type": "run.finished", "status": "failed", "usage": USAGE, "error": {"code": "deadline", "message": "m"}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("event", "value"), EXAMPLES, ids=[value["type"] for _, value in EXAMPLES])
def test_an_event_as_json_and_back(event: Event, value: dict[str, Any]) -> None:
    body = events.encode(event)
    assert json.loads(b"{%b}" % body) == value
    assert events.decode({"seq": 9, "at": 5, **value}) == Numbered(9, 9, 5, event)


def test_the_users_message_is_json_inside_the_event() -> None:
    body = events.encode(RunStarted(session_id="ses_1", model="demo", message=b'{"info":{"id":"msg_1"},"parts":[]}'))
    assert json.loads(b"{%b}" % body)["message"] == {"info": {"id": "msg_1"}, "parts": []}


def test_a_merged_delta_tells_its_first() -> None:
    value = {"seq": 9, "from": 4, "at": 5, "type": "part.delta", "part_id": "p", "text": "x"}
    assert events.decode(value) == Numbered(9, 4, 5, PartDelta(part_id="p", text="x"))


def test_readers_ignore_what_they_do_not_know() -> None:
    assert events.decode({"seq": 1, "at": 1, "type": "of.later"}) is None
    assert events.decode({"seq": 1, "at": 1}) is None
    known = events.decode({"seq": 1, "at": 1, "type": "run.status", "status": "running", "of_later": 1})
    assert known == Numbered(1, 1, 1, RunStatus(status="running"))


def test_every_event_class_has_one_type() -> None:
    assert set(events.TYPES.values()) == set(get_args(Event))
    assert len(events.TYPES) == len(set(events.TYPES.values()))
    for cls in get_args(Event):
        assert attrs.has(cls) and events.TYPES[events.TYPE_OF[cls]] is cls
        # Numbers and types are the envelope's: no event may have fields of these names.
        assert not {"seq", "from", "at", "type"} & {field.name for field in attrs.fields(cls)}
