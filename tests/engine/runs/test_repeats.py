"""Which calls go in circles."""

from __future__ import annotations

from typing import Any

import pytest

from engine.runs.repeats import Repeats
from engine.transcript.records import ToolPart


def part(**fields: Any) -> ToolPart:
    given = {"id": "part_1", "call_id": "call_1", "tool": "t.a", "state": "completed", "input": b"{}", "output": "x"}
    return ToolPart(**{**given, **fields})


def turn(repeats: Repeats, *parts: ToolPart) -> list[bool]:
    """A turn with these calls; which of them are made."""
    repeats.begin_turn()
    made = []
    for one in parts:
        made.append(repeats.why_not(one) is None)
        if made[-1]:
            repeats.ended(one)
    return made


def test_a_call_is_made_so_often_and_then_not_until_a_turn_without_it() -> None:
    repeats = Repeats(3)
    assert [turn(repeats, part())[0] for _ in range(6)] == [True] * 3 + [False] * 3
    assert turn(repeats, part(tool="t.b")) == [True]
    assert [turn(repeats, part())[0] for _ in range(4)] == [True] * 3 + [False]


@pytest.mark.parametrize(
    "other",
    [
        {"output": "y"},
        {"state": "error", "output": None, "error": "x"},
        {"input": b'{"a":1}'},
        {"tool": "t.b"},
        {"output": "\ud800"},
    ],
)
def test_what_differs_in_anything_is_no_repetition(other: dict[str, Any]) -> None:
    repeats = Repeats(2)
    for _ in range(5):
        assert turn(repeats, part()) == [True]
        assert turn(repeats, part(**other)) == [True]


def test_calls_beside_it_do_not_hide_it() -> None:
    repeats = Repeats(2)
    made = [turn(repeats, part(), part(tool="t.other", output=str(number))) for number in range(3)]
    assert made == [[True, True], [True, True], [False, True]]


def test_ids_do_not_matter_and_parallel_calls_of_a_turn_count_once() -> None:
    repeats = Repeats(2)
    for number in range(2):
        assert (
            turn(repeats, *(part(id=f"part_{number}_{n}", call_id=f"call_{number}_{n}") for n in range(5)))
            == [True] * 5
        )
    assert turn(repeats, part()) == [False]


def test_what_is_held_does_not_grow() -> None:
    repeats = Repeats(3)
    for number in range(1000):
        turn(repeats, part(input=str(number).encode()))
    assert len(repeats._before) + len(repeats._now) == 2
