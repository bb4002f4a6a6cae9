"""The governor: watches the loop and the process, and says what the daemon holds.

It samples how late the loop wakes a sleeper (the lag) and knows who owns which bytes. Acting on limits of memory is
not in this version.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from actors._actor import Actor, Cell, Ref

# A sample costs 10 µs: at 10 a second it is not felt, and a stall of 100 ms or more is never missed.
SAMPLE_SECONDS: Final = 0.1
SAMPLES: Final = 600  # one minute
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Owned = Callable[[], Mapping[str, int]]


class GovernorRef(Ref):
    __slots__ = ()

    def stats(self) -> dict[str, Any]:
        """`uptime_s`, `memory {resident, owned}` in bytes and `loop {lag_p99_ms}` of the wire's `daemon.stats`."""
        actor = self._cell.actor
        assert isinstance(actor, Governor)
        return actor.stats()


class Governor(Actor):
    """`owned` tells the bytes held by owner, in a few microseconds."""

    mailbox_messages = 1  # takes no messages

    def __init__(self, started: float, owned: Owned) -> None:
        self._started = started
        self._owned = owned
        self._lags: deque[float] = deque(maxlen=SAMPLES)

    def make_ref(self, cell: Cell) -> GovernorRef:
        return GovernorRef(cell)

    async def on_start(self) -> None:
        self.cell.start_soon(self._sample)

    async def _sample(self) -> None:
        while True:
            due = trio.current_time() + SAMPLE_SECONDS
            await trio.sleep_until(due)
            self._lags.append(trio.current_time() - due)

    def stats(self) -> dict[str, Any]:
        owned = dict(self._owned())
        return {
            "uptime_s": round(time.monotonic() - self._started, 3),
            "memory": {"resident": resident_bytes(), "owned": owned},
            "loop": {"lag_p99_ms": round(1000 * self._lag(0.99), 3)},
        }

    def _lag(self, quantile: float) -> float:
        if not self._lags:
            return 0.0
        ordered = sorted(self._lags)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the platform does not tell (Linux does)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0
