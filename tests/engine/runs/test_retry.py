"""When a model call is made again, after which wait, and what its last error says; with given time and randomness."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PeerError
from engine.limits import Limits
from engine.runs import retry
from engine.runs.retry import Retry

LIMITS = Limits(model_attempts=4, retry_delay_first=1.0, retry_delay_max=30.0, retry_after_max=60.0, call_timeout=900)
WEEK = 604_800.0


def failed(retry: bool = True, code: str = "provider_error", **data: object) -> PeerError:
    return PeerError(code, "the service is overloaded", retry=retry, **data)


def after(
    error: PeerError, attempt: int = 1, left: float = 900.0, random: float = 0.0, limits: Limits = LIMITS
) -> Retry | None:
    return retry.after(error, attempt, left=left, random=random, limits=limits)


@pytest.mark.parametrize(
    ("attempt", "random", "delay"),
    [(1, 0.0, 1.0), (1, 0.5, 1.5), (2, 0.0, 2.0), (2, 0.5, 3.0), (3, 0.5, 6.0), (5, 0.0, 15.0), (99, 0.5, 22.5)],
)
def test_waits_double_from_the_first_up_to_the_most(attempt: int, random: float, delay: float) -> None:
    again = after(failed(), attempt, random=random, limits=Limits(model_attempts=1000))
    assert again == Retry(attempt=attempt + 1, max_attempts=1000, delay=delay, reason="the service is overloaded")
    assert again.delay_ms == 1000 * delay


@given(st.integers(1, 10), st.floats(0, 1, exclude_max=True))
def test_a_wait_of_our_choice_is_within_its_bounds(attempt: int, random: float) -> None:
    again = after(failed(), attempt, random=random, limits=Limits(model_attempts=11))
    assert again is not None and 1.0 <= again.delay <= 30.0


def test_attempts_are_bounded() -> None:
    assert [after(failed(), attempt) is not None for attempt in (1, 2, 3, 4, 5)] == [True, True, True, False, False]
    assert after(failed(), 1, limits=Limits(model_attempts=1)) is None


@pytest.mark.parametrize(
    "error",
    [
        failed(retry=False),
        failed(retry=False, retry_after=1.0),
        failed(code="context_overflow"),
        failed(code="disk_full"),
    ],
    ids=lambda error: f"{error.code} {error.retry}",
)
def test_what_does_not_pass_is_not_repeated(error: PeerError) -> None:
    assert after(error) is None
    assert retry.given_up(error, 3, LIMITS) is error


def test_a_silent_service_is_called_again() -> None:
    assert after(failed(code="provider_timeout")) is not None


@pytest.mark.parametrize(
    ("asked", "delay"),
    [(0.0, 1.0), (0.4, 1.0), (20.0, 20.0), (60.0, 60.0), (60.1, 60.0), (WEEK, 60.0), (math.inf, 60.0), (-3.0, 1.0)],
)
def test_the_pause_that_a_service_asks_for_is_kept_up_to_a_bound(asked: float, delay: float) -> None:
    again = after(failed(retry_after=asked))
    assert again is not None and again.delay == delay


def test_our_wait_is_not_cut_to_a_shorter_pause() -> None:
    again = after(failed(retry_after=3.0), 3, random=0.5)
    assert again is not None and again.delay == 6.0


@pytest.mark.parametrize("pause", ["soon", None, 7, [1]])
def test_a_pause_that_is_no_number_of_seconds_is_none(pause: object) -> None:
    again = after(failed(retry_after=pause))
    assert again is not None and again.delay == 1.0


def test_a_pause_longer_than_is_waited_is_named() -> None:
    error = failed(retry_after=WEEK)
    says = "the service is overloaded; it asked for a pause of 7 days, longer than the 60 s waited"
    again = after(error)
    assert again is not None and again.reason == says
    assert retry.given_up(error, 4, LIMITS).message == f"{says} (given up after 4 attempts)"
    for asked, named in ((61.0, "61 seconds"), (300.0, "5 minutes"), (5400.0, "90 minutes"), (36_000.0, "10 hours")):
        assert f"a pause of {named}," in retry.given_up(failed(retry_after=asked), 1, LIMITS).message
    assert "pause" not in retry.given_up(failed(retry_after=60.0), 4, LIMITS).message


def test_a_wait_that_does_not_end_before_the_call_is_not_begun() -> None:
    assert after(failed(), left=1.0) is None
    assert after(failed(), left=1.01) is not None
    assert after(failed(retry_after=WEEK), left=60.0) is None
    assert after(failed(), left=-5.0) is None


def test_the_last_error_says_after_how_many_attempts() -> None:
    error = failed(code="provider_timeout", status=503)
    last = retry.given_up(error, 4, LIMITS)
    assert last.message == "the service is overloaded (given up after 4 attempts)"
    assert (last.code, last.retry, last.data) == ("provider_timeout", False, {"status": 503})
    assert retry.given_up(error, 1, LIMITS).message == "the service is overloaded"


def test_a_call_out_of_time_says_so() -> None:
    alone, third = retry.out_of_time(1, LIMITS), retry.out_of_time(3, LIMITS)
    assert alone.message == "the model's service did not end its answer in 900 s"
    assert third.message == "the model's service did not end its answer in 900 s and 3 attempts"
    assert third.code == "provider_timeout" and not third.retry
