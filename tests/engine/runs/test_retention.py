"""Which ended runs go, at the bounds and one past them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.runs.retention import Retention


def test_due_means_age_at_least_the_retention() -> None:
    policy = Retention(retention=300, most=10)
    policy.ended("a", 100.0)
    assert policy.next_due() == 400.0
    assert policy.due(399.999) == []
    assert policy.due(400.0) == ["a"]
    assert policy.due(400.0) == [] and policy.next_due() is None


def test_the_cap_drops_the_oldest_end_first() -> None:
    policy = Retention(retention=300, most=3)
    for i, name in enumerate("dbca"):
        policy.ended(name, float(i))
    assert policy.due(4.0) == ["d"]
    assert len(policy) == 3 and "d" not in policy and "b" in policy


def test_exactly_the_cap_is_kept() -> None:
    policy = Retention(retention=300, most=3)
    for name in "abc":
        policy.ended(name, 0.0)
    assert policy.due(1.0) == []


def test_the_stamp_of_an_end_is_set_once() -> None:
    policy = Retention(retention=300, most=3)
    policy.ended("a", 0.0)
    policy.ended("b", 10.0)
    policy.ended("a", 200.0)
    assert policy.due(300.0) == ["a"]


def test_age_and_cap_together() -> None:
    policy = Retention(retention=100, most=2)
    for i in range(5):
        policy.ended(f"r{i}", 10.0 * i)
    assert policy.due(101.0) == ["r0", "r1", "r2"]
    assert policy.next_due() == 130.0


def test_a_forgotten_run_is_never_due() -> None:
    policy = Retention(retention=100, most=2)
    policy.ended("a", 0.0)
    policy.forget("a")
    policy.forget("unknown")
    assert policy.due(1000.0) == []


@given(st.floats(0, 1e9), st.floats(1e-3, 1e6))
def test_at_the_time_that_it_names_a_run_is_due(end: float, retention: float) -> None:
    """Whatever is rounded: who sleeps until then and asks would ask again at once, for ever on a clock that stands."""
    policy = Retention(retention=retention, most=1)
    policy.ended("a", end)
    due = policy.next_due()
    assert due is not None and policy.due(due) == ["a"]
