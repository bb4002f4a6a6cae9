"""Arithmetic of restarts: how often a child may be restarted, and how long to wait before.

Restart intensity as in Erlang/OTP's supervisor: at most `restarts` in `period` seconds, then the supervisor
gives up and fails itself. Backoff is exponential with "full jitter" (M. Brooker, "Exponential Backoff And
Jitter", 2015) from a floor of half the delay, so that a restarted crowd spreads out but nobody restarts at once.
Time and randomness are given by the caller.
"""

from __future__ import annotations

from collections import deque

import attrs


@attrs.frozen(slots=True)
class Backoff:
    """Delays in seconds: `first`, doubled each attempt, never above `most`."""

    first: float = 1.0
    most: float = 32.0

    def delay(self, attempt: int, random: float) -> float:
        """The wait before attempt number `attempt` (from 1); `random` is in [0, 1)."""
        assert attempt >= 1 and 0.0 <= random < 1.0
        # 2**attempt of a long-lived loop would overflow a float; the cap is reached long before 64.
        full = min(self.most, self.first * 2.0 ** min(attempt - 1, 64))
        return full * (0.5 + 0.5 * random)


class Intensity:
    """Counts restarts in a sliding period. Holds at most `restarts` timestamps."""

    def __init__(self, restarts: int, period: float) -> None:
        assert restarts >= 0 and period > 0
        self.restarts = restarts
        self.period = period
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Record a restart at `now` (monotonic seconds). False: it is one too many, and was not recorded."""
        while self._times and now - self._times[0] >= self.period:
            self._times.popleft()
        if len(self._times) >= self.restarts:
            return False
        self._times.append(now)
        return True
