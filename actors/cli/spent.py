"""What calls of models took, in words."""

from __future__ import annotations

from typing import Any


def spent(usage: dict[str, Any], currency: str) -> str:
    """Tokens and cost of a `usage` object, such as `1,234 tokens in (1,000 cached), 56 out, 0.0042 USD`."""
    cached = usage.get("cache_read_tokens", 0)
    text = f"{usage.get('input_tokens', 0):,} tokens in"
    text += f" ({cached:,} cached), " if cached else ", "
    text += f"{usage.get('output_tokens', 0):,} out"
    if "cost" in usage:
        text += f", {money(usage['cost'])} {currency}".rstrip()
    return text


def money(cost: float) -> str:
    """All digits that a cost has, two at least."""
    whole, _, rest = f"{cost:.9f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"
