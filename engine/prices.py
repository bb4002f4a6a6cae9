"""What model calls cost, from a table of prices in the configuration.

Money is decimal: a price is what is written in the file, digit for digit, and a call's cost is rounded once, to
COST_DIGITS after the point. Costs are kept as floats, each the one nearest to its decimal; a sum is rounded to the same
digits again. So sums are exact, in any order, as long as they stay below COST_EXACT_BELOW.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Final, Literal

import attrs

from engine.codec import Check
from engine.transcript.records import COST_DIGITS, Usage

PRICE_MAX: Final = 1_000_000.0
# Above it neighbouring floats are so far apart that the last digit is not kept.
COST_EXACT_BELOW: Final = 2_000_000
_QUANTUM: Final = Decimal(1).scaleb(-COST_DIGITS)

Amount = Annotated[float, Check(f"0 to {PRICE_MAX:.0f}", lambda amount: 0 <= amount <= PRICE_MAX)]


@attrs.frozen(slots=True, kw_only=True)
class Price:
    """Of `per` tokens. What a cache read or wrote costs as much as other input if it has no price of its own."""

    input: Amount
    output: Amount
    cache_read: Amount | None = None
    cache_write: Amount | None = None
    per: Literal["1K", "1M"] = "1M"


def cost(usage: Usage, price: Price) -> float:
    """The cost of a call in the price's currency. `input_tokens` of a usage count the whole prompt, what a cache read
    and wrote included; reasoning is a part of the output."""
    read, written = usage.cache_read_tokens, usage.cache_write_tokens
    plain = max(usage.input_tokens - read - written, 0)
    exact = (
        plain * _decimal(price.input)
        + read * _decimal(price.input if price.cache_read is None else price.cache_read)
        + written * _decimal(price.input if price.cache_write is None else price.cache_write)
        + usage.output_tokens * _decimal(price.output)
    ) / (1000 if price.per == "1K" else 1_000_000)
    return float(exact.quantize(_QUANTUM, ROUND_HALF_EVEN))


def priced(usage: Usage, price: Price | None) -> Usage:
    """The usage with its cost; without a price as it is."""
    return usage if price is None else attrs.evolve(usage, cost=cost(usage, price))


def _decimal(amount: float) -> Decimal:
    return Decimal(repr(amount))  # the digits that were written, not the float's own
