"""The bytes of all replay logs together never exceed their bound, and who pays is who should."""

from __future__ import annotations

import random

from engine.runs.budget import LogBudget
from engine.runs.log import ReplayLog


def make(budget: LogBudget) -> ReplayLog:
    log = ReplayLog(max_entries=1000, max_bytes=100_000, budget=budget)
    budget.open(log)
    return log


def fill(log: ReplayLog, size: int) -> None:
    while log.size < size:
        log.append(1, b"x" * 100)


def test_ended_logs_go_before_active_ones_oldest_end_first() -> None:
    budget = LogBudget(10_000)
    active, first, second = make(budget), make(budget), make(budget)
    for log in (active, first, second):
        fill(log, 3_000)
    budget.end(second)
    budget.end(first)
    before = (active.size, first.size)
    fill(active, 5_000)
    assert active.size >= 5_000 and first.size == before[1] and second.size < 300
    assert budget.size == active.size + first.size + second.size <= 10_000


def test_logs_of_ended_runs_have_a_bound_of_their_own_the_oldest_end_goes_first() -> None:
    budget = LogBudget(100_000, 6_400)  # two logs and the newest events of others
    active = make(budget)
    fill(active, 50_000)
    logs = [make(budget) for _ in range(4)]
    for log in logs:
        fill(log, 2_900)
    full = logs[0].size
    assert 2_900 <= full <= 3_000
    budget.end(logs[2])
    budget.end(logs[0])
    assert [log.size for log in logs] == [full] * 4, "two fit"
    budget.end(logs[1])
    assert logs[2].size < 300 and logs[0].size == full
    budget.end(logs[3])
    assert [log.size == full for log in logs] == [False, True, False, True]
    assert active.size >= 50_000
    assert budget.size == active.size + sum(log.size for log in logs)
    budget.end(active)
    assert active.size < 300 and logs[3].size < 300, "one that is larger than the bound keeps its newest events only"


def test_without_ended_logs_the_largest_active_one_loses_its_older_half() -> None:
    budget = LogBudget(10_000)
    small, large = make(budget), make(budget)
    fill(small, 2_000)
    fill(large, 7_500)
    newest = large.last_seq
    while large.first_seq == 1:
        large.append(1, b"y" * 100)
    assert small.first_seq == 1 and large.last_seq > newest
    assert 3_000 < large.size < 5_500 and budget.size <= 10_000


def test_exactly_the_bound_is_held() -> None:
    budget = LogBudget(328)  # two events of 100 bytes and their envelopes
    log = make(budget)
    log.append(1, b"x" * 100)
    log.append(1, b"x" * 100)
    assert (budget.size, log.first_seq) == (328, 1)
    log.append(1, b"x")
    assert log.first_seq > 1 and budget.size <= 328


def test_a_closed_log_counts_no_more() -> None:
    budget = LogBudget(10_000)
    log = make(budget)
    fill(log, 500)
    budget.end(log)
    budget.close(log)
    budget.close(log)
    assert budget.size == 0


def test_any_history_keeps_the_sum_right_and_within_the_bound() -> None:
    draw = random.Random(7)
    budget = LogBudget(100_000)
    logs: list[ReplayLog] = []
    ended: list[ReplayLog] = []
    for _ in range(20_000):
        choice = draw.random()
        if choice < 0.01 or not logs:
            logs.append(make(budget))
        elif choice < 0.02 and len(logs) > 1:
            ended.append(logs.pop(draw.randrange(len(logs))))
            budget.end(ended[-1])
        elif choice < 0.03 and ended:
            budget.close(ended.pop(0))
        else:
            draw.choice(logs).append_delta(1, b"p", b"t" * draw.randrange(40))
        held = sum(log.size for log in logs + ended)
        assert budget.size == held
        assert held <= 100_000


def test_shedding_empties_the_logs_of_ended_runs_and_leaves_the_active_ones() -> None:
    budget = LogBudget(100_000)
    ended, active = make(budget), make(budget)
    for log in (ended, active):
        for _ in range(5):
            log.append(1, b"x" * 100)
    budget.end(ended)
    assert budget.shed() == 4 * 164  # events of 100 bytes and their envelopes; the newest event stays
    assert (len(ended), len(active)) == (1, 5)
    assert budget.size == ended.size + active.size == 6 * 164
    assert budget.shed() == 0
