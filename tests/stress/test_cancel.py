"""Class E: a turn with three parallel calls stopped at each of its awaits; and what judges it finds what is wrong."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stress.cancel_matrix import open_matrix
from tests.stress.transcript_rules import Json, event_problems, transcript_problems


async def test_a_turn_with_three_calls_is_stopped_at_each_await(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_matrix(tmp_path) as matrix:
        outcomes = await matrix.all_cases()
    assert [outcome for outcome in outcomes if outcome.problems] == []
    stopped = sum(outcome.fired for outcome in outcomes)
    states = Counter(outcome.call_states for outcome in outcomes)
    with capsys.disabled():
        print(f" {stopped} places ", end="")
    assert stopped >= 100, "it looks away"
    # Before the calls, with some of them ended, with none ended, and with all of them.
    assert {(), ("error",) * 3, ("completed",) * 3} <= set(states) and len(states) >= 5, states


# ------------------------------------------------------------------ the judges are judged
def call(number: int, **fields: Any) -> Json:
    return {
        "id": f"part_{number}", "kind": "tool", "call_id": f"call_{number}", "tool": "shell.run", "input": {},
        "state": "completed", "output": "x", "started_at": 1, "finished_at": 2, **fields,
    }  # fmt: skip


def transcript() -> list[Json]:
    said = {"info": {"id": "msg_1", "role": "user"}, "parts": [{"id": "part_1", "kind": "text", "text": "go"}]}
    turn = {
        "info": {"id": "msg_2", "role": "assistant", "parent_id": "msg_1", "finish": "cancelled", "finished_at": 3},
        "parts": [
            {"id": "part_2", "kind": "step-start", "turn": 1},
            {"id": "part_3", "kind": "text", "text": "look"},
            call(4),
            call(5, state="error", error="no", output=None),
            {"id": "part_6", "kind": "step-finish", "turn": 1, "finish": "cancelled"},
        ],
    }
    del turn["parts"][3]["output"]  # type: ignore[index]
    return [said, turn]


def events() -> list[Json]:
    seen: list[Json] = [
        {"type": "run.started"},
        {"type": "turn.started"},
        {"type": "part.started", "part_id": "part_3"},
        {"type": "part.delta", "part_id": "part_3", "text": "look"},
        {"type": "part.finished", "part_id": "part_3"},
        {"type": "approval.requested", "call_id": "call_4"},
        {"type": "approval.resolved", "call_id": "call_4"},
        {"type": "tool.updated", "call_id": "call_4", "state": "running"},
        {"type": "tool.updated", "call_id": "call_4", "state": "completed", "output": "x"},
        {"type": "tool.updated", "call_id": "call_5", "state": "error", "error": "no"},
        {"type": "turn.finished"},
        {"type": "run.finished"},
    ]
    return [{**event, "seq": number} for number, event in enumerate(seen, 1)]


def test_what_is_right_is_right() -> None:
    assert transcript_problems(transcript()) == [] and event_problems(events(), transcript()) == []


def spoil_turn(change: Callable[[Json, list[Json]], object]) -> list[Json]:
    messages = copy.deepcopy(transcript())
    change(messages[1]["info"], messages[1]["parts"])
    return messages


@pytest.mark.parametrize(
    "change",
    [
        lambda info, parts: info.pop("finish"),
        lambda info, parts: info.update(parent_id="msg_0"),
        lambda info, parts: info.update(finish="stop"),
        lambda info, parts: parts.pop(),
        lambda info, parts: parts.pop(0),
        lambda info, parts: parts[0].update(turn=2),
        lambda info, parts: parts.append(copy.deepcopy(parts[2])),
        lambda info, parts: parts[2].update(state="running"),
        lambda info, parts: parts[2].pop("output"),
        lambda info, parts: parts[2].update(error="both"),
        lambda info, parts: parts[2].pop("finished_at"),
        lambda info, parts: parts[2].update(started_at=3),
        lambda info, parts: parts[3].update(call_id="call_4"),
        lambda info, parts: parts[1].update(id="part_1"),
    ],
)
def test_a_wrong_transcript_is_found(change: Callable[[Json, list[Json]], object]) -> None:
    assert transcript_problems(spoil_turn(change)) != []


@pytest.mark.parametrize(
    "change",
    [
        lambda events: events.pop(),
        lambda events: events.pop(3),
        lambda events: events.insert(-1, events[-1]),
        lambda events: events[3].update(text="other"),
        lambda events: events[8].update(state="running"),
        lambda events: events[8].update(output="other"),
        lambda events: events[9].update(call_id="call_4"),
        lambda events: events[4].update(part_id="part_9"),
        lambda events: events[6].update(call_id="call_5"),
        lambda events: events[10].update(type="turn.started"),
    ],
)
def test_wrong_events_are_found(change: Callable[[list[Json]], object]) -> None:
    seen = events()
    change(seen)
    assert event_problems(seen, transcript()) != []
