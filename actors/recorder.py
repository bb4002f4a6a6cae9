"""What the daemon held in the last hour, for a page that is opened later: a look every few seconds, in fixed arrays.

A look is the result of `daemon.stats`, of which SERIES are kept. The arrays are there from the start and never grow:
360 samples of 20 series and their times are 60 KB, part of what the owner `program` is.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from actors._actor import Actor
from actors._ask import ActorDied
from actors._clock import now_ms
from actors.owners import OWNERS
from engine.codec import Json
from engine.errors import EngineError

# A look is a millisecond of CPU: one in ten thousand. An hour shows what a day's work does to memory.
PERIOD: Final = 10.0  # seconds
SAMPLES: Final = 360
# A part that does not answer (the disk is dead, a thread is not had) costs a sample, not the history.
LOOK_TIMEOUT: Final = 5.0

Path = tuple[str, ...]
LAG: Final[Path] = ("loop", "lag_p99_ms")
SERIES: Final[tuple[Path, ...]] = (
    ("memory", "resident"),
    *(("memory", "owned", owner) for owner in OWNERS),
    ("counts", "sessions"),
    ("counts", "active_runs"),
    ("counts", "connections"),
    ("processes", "programs"),
    ("processes", "resident"),
    LAG,
)
_FINE: Final = 1000  # the lag is kept in thousandths: arrays are of integers


class History:
    """The last `samples` looks."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples = samples
        self._count = 0  # of all looks
        self._at = array("q", bytes(8 * samples))
        self._series = {path: array("q", bytes(8 * samples)) for path in SERIES}

    def add(self, at: int, stats: Mapping[str, Any]) -> None:
        """A look at this time, in ms. Raises KeyError for one that lacks a figure."""
        found = {path: _figure(stats, path) for path in SERIES}
        place = self._count % self._samples
        self._at[place] = at
        for path, figure in found.items():
            self._series[path][place] = round(figure * _FINE) if path == LAG else int(figure)
        self._count += 1

    def told(self) -> dict[str, Json]:
        """The result of `daemon.history`, oldest first."""
        result: dict[str, Any] = {"period_s": PERIOD, "at": self._ordered(self._at)}
        for path, series in self._series.items():
            place = result
            for name in path[:-1]:
                place = place.setdefault(name, {})
            values = self._ordered(series)
            place[path[-1]] = [value / _FINE for value in values] if path == LAG else values
        return result

    def _ordered(self, series: array[int]) -> list[int]:
        if self._count <= self._samples:
            return series[: self._count].tolist()
        oldest = self._count % self._samples
        return (series[oldest:] + series[:oldest]).tolist()


class Recorder(Actor):
    """Looks every `period` seconds; the first time after one. The history outlives a recorder that is restarted."""

    mailbox_messages = 1  # takes no messages

    def __init__(
        self, history: History, look: Callable[[], Awaitable[Mapping[str, Any]]], *, period: float = PERIOD
    ) -> None:
        self._history = history
        self._look = look
        self._period = period

    async def on_start(self) -> None:
        self.cell.start_soon(self._record)

    async def _record(self) -> None:
        while True:
            await trio.sleep(self._period)
            # A part that is being restarted has no figures: the next look finds it.
            with trio.move_on_after(LOOK_TIMEOUT), contextlib.suppress(ActorDied, EngineError):
                self._history.add(now_ms(), await self._look())


def _figure(stats: Mapping[str, Any], path: Path) -> float:
    value: Any = stats
    for name in path:
        value = value[name]
    return float(value)
