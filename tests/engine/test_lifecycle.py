"""The life cycle of a run, held against the whole table: what is not listed here is refused."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from engine.runs.lifecycle import ACTIVE, TERMINAL, TRANSITIONS, Status, advance

ALLOWED = """
queued -> running cancelled interrupted
running -> waiting_approval stopping completed failed cancelled interrupted
waiting_approval -> running stopping failed cancelled interrupted
stopping -> completed failed cancelled interrupted
"""
STEPS = {
    (now, then)
    for line in ALLOWED.strip().splitlines()
    for now, _, after in [line.partition(" -> ")]
    for then in after.split()
}
STATUSES: tuple[Status, ...] = get_args(Status)


@pytest.mark.parametrize(("now", "then"), [*product(STATUSES, STATUSES)])
def test_every_step(now: Status, then: Status) -> None:
    if (now, then) in STEPS:
        assert advance(now, then) == then
    else:
        with pytest.raises(AssertionError):
            advance(now, then)


def test_terminal_statuses_absorb() -> None:
    assert {"completed", "failed", "cancelled", "interrupted"} == TERMINAL
    assert all(not TRANSITIONS[status] for status in TERMINAL)
    assert frozenset(STATUSES) == ACTIVE | TERMINAL and not ACTIVE & TERMINAL


def test_from_every_active_status_a_stop_and_a_crash_lead_to_an_end() -> None:
    for status in ACTIVE:
        assert {"cancelled", "interrupted"} <= TRANSITIONS[status]
