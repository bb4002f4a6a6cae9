"""What calls of models took, in words."""

from __future__ import annotations

import pytest

from actors.cli.spent import money, spent


@pytest.mark.parametrize(
    ("cost", "text"),
    [(0.0, "0.00"), (3, "3.00"), (0.1, "0.10"), (0.0012, "0.0012"), (1e-9, "0.000000001"), (123456.5, "123456.50")],
)
def test_money(cost: float, text: str) -> None:
    assert money(cost) == text


def test_tokens_and_cost() -> None:
    usage = {"input_tokens": 12345, "output_tokens": 6, "reasoning_tokens": 3, "cache_read_tokens": 1000}
    assert spent(usage, "EUR") == "12,345 tokens in (1,000 cached), 6 out"
    assert spent({"input_tokens": 1, "output_tokens": 2, "cost": 0.5}, "EUR") == "1 tokens in, 2 out, 0.50 EUR"
    assert spent({"cost": 1}, "") == "0 tokens in, 0 out, 1.00"
