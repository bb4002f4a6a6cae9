"""Backoff and restart intensity, with given time and randomness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.restart import Backoff, Intensity


@pytest.mark.parametrize(
    ("attempt", "random", "delay"),
    [(1, 0.0, 0.5), (1, 0.5, 0.75), (2, 0.0, 1.0), (3, 0.5, 3.0), (6, 0.0, 16.0), (7, 0.0, 16.0), (10_000, 0.5, 24.0)],
)
def test_delays_double_up_to_the_most(attempt: int, random: float, delay: float) -> None:
    assert Backoff(first=1.0, most=32.0).delay(attempt, random) == delay


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True), st.floats(0.001, 10), st.floats(10, 1000))
def test_a_delay_is_never_zero_and_never_above_the_most(attempt: int, random: float, first: float, most: float) -> None:
    assert first / 2 <= Backoff(first=first, most=most).delay(attempt, random) <= most


@pytest.mark.parametrize(("attempt", "random"), [(0, 0.0), (-1, 0.5), (1, 1.0), (1, -0.1)])
def test_attempts_and_randomness_have_their_ranges(attempt: int, random: float) -> None:
    with pytest.raises(AssertionError):
        Backoff().delay(attempt, random)


def test_one_restart_too_many_in_the_period_is_refused() -> None:
    intensity = Intensity(3, 5.0)
    assert [intensity.allow(now) for now in (0.0, 1.0, 2.0, 4.9)] == [True, True, True, False]


def test_a_restart_leaves_the_period_exactly_at_its_end() -> None:
    intensity = Intensity(1, 5.0)
    assert intensity.allow(10.0)
    assert not intensity.allow(14.999)
    assert intensity.allow(15.0)
    # The refused one was not counted, the last one is.
    assert not intensity.allow(19.0)


def test_without_restarts_none_is_allowed() -> None:
    assert not Intensity(0, 1.0).allow(0.0)


@given(st.integers(1, 5), st.lists(st.floats(0, 3), max_size=50))
def test_in_no_period_more_than_the_intensity(restarts: int, gaps: list[float]) -> None:
    intensity, now, allowed = Intensity(restarts, 5.0), 0.0, []
    for gap in gaps:
        now += gap
        if intensity.allow(now):
            allowed.append(now)
    for i in range(len(allowed) - restarts):
        assert allowed[i + restarts] - allowed[i] >= 5.0
