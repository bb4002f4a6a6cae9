"""Counting durations."""

from __future__ import annotations

from actors._tally import TOKENS, Histogram, Tally
from engine.transcript.records import Usage


def test_a_duration_is_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.11, 1.0, 1.01, 50.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    assert round(histogram.sum, 2) == 52.22


def test_a_copy_stays_as_it_is() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(0.5)
    copy = histogram.copy()
    histogram.observe(2.0)
    assert (copy.bounds, copy.counts, copy.sum) == ((1.0,), [1, 0], 0.5)


def test_two_tallies_share_nothing() -> None:
    one, other = Tally(), Tally()
    one.model_calls["demo"] += 1
    one.tool_seconds["files"].observe(1.0)
    assert not other.model_calls and not other.tool_seconds


def test_tokens_are_counted_by_kind_and_only_those_there_are() -> None:
    tally = Tally()
    tally.used("m", Usage(input_tokens=3, output_tokens=5, cache_read_tokens=2))
    tally.used("m", Usage(input_tokens=4, reasoning_tokens=1, cache_write_tokens=7))
    tally.used("other", Usage())
    assert [tally.model_tokens["m", kind] for kind in TOKENS] == [7, 5, 1, 2, 7]
    assert {model for model, _ in tally.model_tokens} == {"m"}


def test_costs_are_added_exactly_where_there_are_prices() -> None:
    tally = Tally()
    for _ in range(10):
        tally.used("m", Usage(cost=0.1))
    tally.used("free", Usage(input_tokens=1))
    assert tally.model_cost == {"m": 1.0}
