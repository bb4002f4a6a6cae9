"""How busy the loop is, measured where it waits for I/O, and what follows: how long deltas may be gathered.

A frame costs about the same whether it carries one delta or ten. While the loop has time to spare each delta
leaves at once; when it has not, waiting a little makes frames larger and frees the time that the runs need. The
wait grows while the loop is busy and shrinks when it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from actors._tally import Histogram

WINDOW: Final = 0.1  # seconds between two looks at the load
BUSY: Final = 0.75  # share of the time: from here on gathering pays
SATURATED: Final = 0.92
IDLE: Final = 0.5
WAIT_FIRST: Final = 0.005  # seconds
WAIT_BUSY: Final = 0.025  # not to be noticed by a reader
WAIT_SATURATED: Final = 0.1  # below what a person takes for a pause

# Ticks of the loop by their length in powers of two of this; the last bucket takes all longer ones.
TICK_UNIT: Final = 0.0001
TICK_BUCKETS: Final = 18
TICK_BOUNDS: Final = tuple(TICK_UNIT * 2.0**bucket for bucket in range(TICK_BUCKETS - 1))
TICKS_KEPT: Final = 30.0  # seconds, up to twice of it, that `lag_p99` looks back


class LoopMeter(trio.abc.Instrument):
    """A trio instrument: two clock reads a tick. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._sampled = self._woke = clock()
        self._began = self._woke
        self._waited = 0.0  # in I/O since the last sample
        self._waited_before = 0.0  # in I/O up to the last sample
        self._asleep_since = 0.0
        self._wait = 0.0
        self._ticks = [0] * TICK_BUCKETS
        self._ticks_before = [0] * TICK_BUCKETS
        self._ticks_older = [0] * TICK_BUCKETS
        self._ticks_since = self._sampled

    def before_io_wait(self, timeout: float) -> None:
        now = self._asleep_since = self._clock()
        bucket = min(int((now - self._woke) / TICK_UNIT).bit_length(), TICK_BUCKETS - 1)
        self._ticks[bucket] += 1

    def after_io_wait(self, timeout: float) -> None:
        self._woke = self._clock()
        self._waited += self._woke - self._asleep_since

    def gathering(self) -> float:
        """Seconds for which deltas may wait for more of them, from the last frame of their connection on."""
        now = self._clock()
        passed = now - self._sampled
        if passed >= WINDOW:
            busy = 1 - self._waited / passed
            self._waited_before += self._waited
            self._sampled, self._waited = now, 0.0
            if busy >= BUSY:
                most = WAIT_SATURATED if busy >= SATURATED else max(self._wait, WAIT_BUSY)
                self._wait = min(max(2 * self._wait, WAIT_FIRST), most)
            elif busy < IDLE:
                self._wait = self._wait / 2 if self._wait > WAIT_FIRST else 0.0
        return self._wait

    def lag_p99(self) -> float:
        """99 of 100 ticks of the loop took at most so many seconds (a power of two of TICK_UNIT)."""
        now = self._clock()
        if now - self._ticks_since > TICKS_KEPT:
            self._ticks_older = _added(self._ticks_older, self._ticks_before)
            self._ticks_before, self._ticks, self._ticks_since = self._ticks, [0] * TICK_BUCKETS, now
        both = _added(self._ticks_before, self._ticks)
        left = sum(both) / 100
        for bucket in reversed(range(TICK_BUCKETS)):
            left -= both[bucket]
            if left < 0:
                return TICK_UNIT * 2.0**bucket
        return 0.0

    def ticks(self) -> Histogram:
        """All ticks since the start."""
        all_ticks = Histogram(TICK_BOUNDS)
        all_ticks.counts = _added(_added(self._ticks_older, self._ticks_before), self._ticks)
        all_ticks.sum = self._clock() - self._began - self._waited_before - self._waited
        return all_ticks


def _added(some: list[int], others: list[int]) -> list[int]:
    return [one + other for one, other in zip(some, others, strict=True)]
