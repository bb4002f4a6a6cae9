"""What the daemon has done since its start, in plain integers: counting costs the work next to nothing, and whoever
shows the figures (actors/metrics.py) reads them when asked.

One Tally belongs to the composition and outlives its restarted parts. Labels are names of the configuration and
codes of this program, never what came from a client: a tally is bounded by them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

import attrs

from engine.transcript.records import COST_DIGITS, Usage

# Kinds of tokens, as engine.transcript.records.Usage names them.
TOKENS: Final = ("input", "output", "reasoning", "cache_read", "cache_write")

# Upper bounds in seconds. Commits: from a cached write to a disk that stalls. Calls: from a file that is read to the
# deadline of a model call.
COMMIT_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
CALL_BOUNDS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)


class Histogram:
    """How often a duration was at most each of `bounds` (ascending, in seconds), and the sum of all. One thread
    observes; another one may read, and sees a figure that is an observation old."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # of each bucket alone; the last is of what is longer than all
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def copy(self) -> Histogram:
        other = Histogram(self.bounds)
        other.counts = self.counts.copy()
        other.sum = self.sum
        return other


def _calls() -> defaultdict[str, Histogram]:
    return defaultdict(lambda: Histogram(CALL_BOUNDS))


@attrs.define(slots=True, kw_only=True)
class Tally:
    """Counts by what is named behind each."""

    runs_started: int = 0
    runs_ended: Counter[str] = attrs.field(factory=Counter)  # terminal status
    runs_evicted: int = 0
    deltas: int = 0  # of text and reasoning, from models
    model_calls: Counter[str] = attrs.field(factory=Counter)  # model
    model_failures: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # model, code
    model_retries: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # model, code
    compactions: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # model that wrote it, "completed" or "error"
    model_tokens: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # model, kind of token
    model_cost: defaultdict[str, float] = attrs.field(factory=lambda: defaultdict(float))  # model
    model_seconds: defaultdict[str, Histogram] = attrs.field(factory=_calls)  # model
    tool_calls: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # toolset, "completed" or "error"
    tool_seconds: defaultdict[str, Histogram] = attrs.field(factory=_calls)  # toolset

    def used(self, model: str, usage: Usage) -> None:
        """One call of the model cost this."""
        for kind in TOKENS:
            tokens: int = getattr(usage, f"{kind}_tokens")
            if tokens:
                self.model_tokens[model, kind] += tokens
        if usage.cost is not None:
            self.model_cost[model] = round(self.model_cost[model] + usage.cost, COST_DIGITS)
