"""What calls cost: to the digit, whatever is summed in whatever order."""

from __future__ import annotations

import sqlite3
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import codec
from engine.prices import COST_EXACT_BELOW, PRICE_MAX, Price, cost, priced
from engine.transcript.records import COST_DIGITS, NO_USAGE, Usage

PRICE = Price(input=3.0, output=15.0, cache_read=0.3, cache_write=3.75)


@pytest.mark.parametrize(
    ("usage", "price", "expected"),
    [
        (Usage(), PRICE, 0.0),
        (Usage(input_tokens=1_000_000), PRICE, 3.0),
        (Usage(output_tokens=1), PRICE, 0.000015),
        (Usage(output_tokens=10, reasoning_tokens=9), PRICE, 0.00015),  # thinking is part of the output
        (Usage(input_tokens=100, cache_read_tokens=60, cache_write_tokens=30), PRICE, 0.0001605),
        (Usage(input_tokens=100, cache_read_tokens=60), Price(input=1, output=2), 0.0001),
        (Usage(input_tokens=7, cache_read_tokens=70), Price(input=1, output=2), 0.00007),  # a service that miscounts
        (Usage(input_tokens=3), Price(input=0.1, output=0, per="1K"), 0.0003),
        (Usage(input_tokens=1), Price(input=0.0005, output=0), 0.0),  # half of the last digit goes to the even one
        (Usage(input_tokens=3), Price(input=0.0005, output=0), 0.000000002),
        (Usage(input_tokens=10**9), Price(input=PRICE_MAX, output=0), 1e9),
    ],
)
def test_a_call(usage: Usage, price: Price, expected: float) -> None:
    assert cost(usage, price) == expected
    assert priced(usage, price).cost == expected
    assert priced(usage, None) is usage


@given(st.lists(st.integers(0, 10**14), max_size=30).filter(lambda units: sum(units) < COST_EXACT_BELOW * 10**9))
def test_sums_are_exact_in_memory_and_in_the_database(units: list[int]) -> None:
    costs = [float(Decimal(unit).scaleb(-COST_DIGITS)) for unit in units]
    expected = float(Decimal(sum(units)).scaleb(-COST_DIGITS))
    total = Usage(cost=0.0)
    stored = 0.0
    connection = sqlite3.connect(":memory:")
    for one in costs:
        total += Usage(cost=one)
        (stored,) = connection.execute(f"SELECT round(? + ?, {COST_DIGITS})", (stored, one)).fetchone()
    connection.close()
    assert total.cost == expected == stored
    backwards = Usage(cost=0.0)
    for one in reversed(costs):
        backwards += Usage(cost=one)
    assert backwards == total


def test_a_sum_without_prices_has_no_cost() -> None:
    assert (NO_USAGE + Usage(input_tokens=1)).cost is None
    assert (NO_USAGE + Usage(cost=0.1) + Usage(input_tokens=1) + Usage(cost=0.2)).cost == 0.3


@pytest.mark.parametrize("amount", [-0.1, PRICE_MAX + 1, float("inf"), float("nan"), "3", None, True])
def test_what_is_no_price(amount: object) -> None:
    with pytest.raises(codec.DecodeError) as caught:
        codec.decode({"input": amount, "output": 1.0}, Price)
    assert [path for path, _ in caught.value.fields] == ["input"]
    assert codec.decode({"input": 0, "output": PRICE_MAX}, Price).cache_read is None
