"""The governor's rules: levels at their bounds and one past, no flapping, and when memory is given back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from engine.limits import MIB
from engine.memory import GROWTH, MANY, ONCE_MORE, QUIET_PAUSE, RELEASE_PAUSE, Decision, Level, Sample, State, decide

SOFT, HARD = 500 * MIB, 1000 * MIB


def run(samples: Iterable[tuple[float, int, int]], state: State | None = None) -> list[Decision]:
    """The decisions for samples of (time, resident, held)."""
    decisions = []
    state = state or State()
    for now, resident, held in samples:
        decision = decide(state, Sample(resident, held), now, soft=SOFT, hard=HARD)
        decisions.append(decision)
        state = decision.state
    return decisions


def released(samples: Iterable[tuple[float, int, int, int]]) -> list[bool]:
    """Whether memory is given back, for samples of (time, resident, held, kept)."""
    state, found = State(), []
    for now, resident, held, kept in samples:
        decision = decide(state, Sample(resident, held, kept), now, soft=SOFT, hard=HARD)
        state = decision.state
        found.append(decision.release)
    return found


def test_what_is_kept_behind_the_work_does_not_hold_up_what_the_work_left() -> None:
    low, high = 40 * MIB, 40 * MIB + GROWTH
    # Four runs end; their logs and sessions stay for minutes.
    ends = [(0, low, 5, 0), (9, high, 5, 4), (10, high, 1, 200), (20, high, 1, 200)]
    assert released(ends) == [False, False, True, False]
    # When those leave, what they held is given back too; some of them are not worth it.
    assert released([(0, low, 1, 200), (9, low, 1, 101), (10, low, 1, 100)]) == [False, False, True]
    assert released([(0, low, 1, MANY - 1), (9, low, 1, 0)]) == [False, False]


def level(before: Level, resident: int) -> Level:
    (decision,) = run([(0, resident, 1)], State(level=before))
    return decision.state.level


@pytest.mark.parametrize(
    ("before", "resident", "after"),
    [
        ("normal", SOFT, "normal"),
        ("normal", SOFT + 1, "soft"),
        ("normal", HARD, "soft"),
        ("normal", HARD + 1, "hard"),
        ("soft", HARD, "soft"),
        ("soft", HARD + 1, "hard"),
        # Left at nine tenths of the bound, not before.
        ("soft", 450 * MIB + 1, "soft"),
        ("soft", 450 * MIB, "normal"),
        ("hard", 900 * MIB + 1, "hard"),
        ("hard", 900 * MIB, "soft"),
        ("hard", 450 * MIB + 1, "soft"),
        ("hard", 450 * MIB, "normal"),
    ],
)
def test_a_level_begins_one_byte_above_its_bound_and_ends_well_below_it(
    before: Level, resident: int, after: Level
) -> None:
    assert level(before, resident) == after


def test_a_value_that_hovers_at_a_bound_changes_the_level_once() -> None:
    hovering = [(t, SOFT + (MIB if t % 2 else -MIB), 5) for t in range(100)]
    levels = [decision.state.level for decision in run(hovering)]
    assert levels == ["normal", *["soft"] * 99]


def test_one_bound_for_both_goes_from_normal_to_hard_and_back() -> None:
    state = State()
    levels = []
    for resident in (HARD, HARD + 1, 900 * MIB + 1, 900 * MIB):
        decision = decide(state, Sample(resident, 1), 0, soft=HARD, hard=HARD)
        state = decision.state
        levels.append(state.level)
    assert levels == ["normal", "hard", "hard", "normal"]


def test_above_the_soft_bound_every_look_sheds_and_pages_go_at_once_and_then_rarely() -> None:
    decisions = run([(t, SOFT + 1, 5) for t in range(int(2 * RELEASE_PAUSE))])
    assert all(decision.shed for decision in decisions)
    assert [t for t, decision in enumerate(decisions) if decision.release] == [0, RELEASE_PAUSE]


def test_the_hard_level_gives_pages_back_even_just_after_the_soft_one() -> None:
    up, higher, down = run([(0, SOFT + 1, 5), (1, HARD + 1, 5), (2, 900 * MIB, 5)])
    assert (up.release, higher.release, down.release) == (True, True, False)
    assert down.state.level == "soft" and down.shed


def test_work_that_ends_above_a_bound_is_given_back_without_the_long_pause() -> None:
    decisions = run([(0, HARD + 1, 100), (1, HARD + 1, 100), (2, HARD + 1, 0), (3, 40 * MIB, 0)])
    assert [decision.release for decision in decisions] == [True, False, True, False]
    assert [decision.state.level for decision in decisions] == ["hard", "hard", "hard", "normal"]


def test_below_the_soft_bound_nothing_is_shed() -> None:
    assert not any(d.shed for d in run([(0, SOFT, 5), (1, SOFT + 1, 5), (2, 450 * MIB, 5)])[::2])


def quiet(resident: int, held: int, *, after: float = 100) -> Decision:
    """A daemon of 40 MiB that has worked with ten things, as it is looked at later."""
    return run([(0, 40 * MIB, 0), (1, 40 * MIB, 10), (1 + after, resident, held)])[-1]


@pytest.mark.parametrize(
    ("resident", "held", "release"),
    [
        (40 * MIB + GROWTH, 5, True),
        (40 * MIB + GROWTH - 1, 5, False),  # too little to be worth it
        (40 * MIB + GROWTH, 6, False),  # the work goes on
        (300 * MIB, 10, False),
        (300 * MIB, 0, True),
    ],
)
def test_pages_are_given_back_when_memory_grew_and_half_of_the_work_is_over(
    resident: int, held: int, release: bool
) -> None:
    decision = quiet(resident, held)
    assert (decision.release, decision.shed) == (release, False)


def test_what_stays_after_giving_back_is_the_new_floor() -> None:
    burst = [(0, 40 * MIB, 0), (1, 100 * MIB, 1000), (2, 100 * MIB, 0)]
    stays = [(2 + t, 60 * MIB, 0) for t in range(1, 200)]
    decisions = run([*burst, *stays])
    assert [decision.release for decision in decisions] == [False, False, True, *[False] * 199]
    # And it goes down with memory that is freed without our doing.
    state = run([(300, 50 * MIB, 2), (400, 52 * MIB, 2)], decisions[-1].state)[-1].state
    assert state.floor == 50 * MIB
    assert run([(500, 50 * MIB + GROWTH, 1)], state)[-1].release


def test_the_rest_of_a_burst_is_given_back_too_however_little_grew_since() -> None:
    burst = [(0, 40 * MIB, 0), (1, 100 * MIB, 8), (2, 100 * MIB, 4)]
    rest = [(3, 60 * MIB, 4), (4, 60 * MIB, 0), (1.9 + ONCE_MORE, 60 * MIB, 0), (2 + ONCE_MORE, 60 * MIB, 0)]
    after = [(2 + ONCE_MORE + t, 60 * MIB, 0) for t in range(1, 100)]
    decisions = run([*burst, *rest, *after])
    assert [decision.release for decision in decisions] == [
        False,
        False,
        True,
        False,
        False,
        False,
        True,
        *[False] * 99,
    ]


@pytest.mark.parametrize(("held", "release"), [(MANY, True), (MANY + 1, False)])
def test_many_ends_leave_pieces_behind_that_are_given_back_without_growth(held: int, release: bool) -> None:
    at_work = [(0, 40 * MIB, 0), (1, 40 * MIB, 2 * MANY)]
    assert run([*at_work, (2, 40 * MIB, held)])[-1].release == release


def test_an_end_in_portions_is_followed_by_halves_and_not_faster_than_the_pause() -> None:
    begin = [(0.0, 40 * MIB, 0), (1.0, 200 * MIB, 4096)]
    portions = [(2 + t / 4, 200 * MIB, 4096 * max(0, 100 - t) // 100) for t in range(120)]
    decisions = run([*begin, *portions])
    times = [portions[i][0] for i, decision in enumerate(decisions[2:]) if decision.release]
    held = [portions[i][2] for i, decision in enumerate(decisions[2:]) if decision.release]
    assert held == [2048, 1024, 491, 163, 0]  # each at most half of the one before
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= QUIET_PAUSE


def test_steady_work_gives_nothing_back() -> None:
    steady = [(t, (100 + t % 7) * MIB, 200 + t % 90) for t in range(1000)]
    assert not any(decision.release for decision in run(steady))


def resting(samples: Iterable[tuple[float, int, int]]) -> list[bool]:
    """Whether memory is given back, for samples of (time, resident, runs) with 20 clients that stay connected."""
    state, found = State(), []
    for now, resident, runs in samples:
        decision = decide(state, Sample(resident, 20 + runs, 0, runs), now, soft=SOFT, hard=HARD)
        state = decision.state
        found.append(decision.release)
    return found


def test_clients_that_stay_connected_do_not_hold_up_what_their_runs_left() -> None:
    low, high = 40 * MIB, 40 * MIB + GROWTH
    end = 10 + QUIET_PAUSE
    # One run that left much, and many that left pieces: when none has been at work for a while, and once.
    assert resting([(0, low, 0), (9, high, 1), (10, high, 0), (end - 0.1, high, 0), (end, high, 0), (90, high, 0)]) == [
        False, False, False, False, True, False,
    ]  # fmt: skip
    assert resting([(0, low, 0), (9, low, MANY), (10, low, 0), (end, low, 0), (90, low, 0)])[-2:] == [True, False]
    # Little that few have left, and work that goes on in between.
    assert not any(resting([(0, low, 0), (9, high - 1, MANY - 1), (10, high - 1, 0), (end, high - 1, 0)]))
    assert not any(resting([(0, low, 0), (9, high, 1), (10, high, 0), (end - 0.1, high, 1), (end, high, 0)]))
