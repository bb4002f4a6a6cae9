"""Which ended runs to drop from memory, and when: a pure policy on a monotonic clock.

A run is due when its age since its end is at least the retention; beyond `most` ended runs the oldest end goes
first, whatever its age. Active runs are not known here, so they are never counted and never dropped. The stamp
of a run's end is set once; a second end of the same run changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict


class Retention:
    """`retention` in seconds, times on one monotonic clock given by the caller."""

    def __init__(self, *, retention: float, most: int) -> None:
        assert retention > 0 and most >= 1
        self._retention = retention
        self._most = most
        self._ended: OrderedDict[str, float] = OrderedDict()  # run id -> end, oldest first

    def __len__(self) -> int:
        return len(self._ended)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._ended

    def ended(self, run_id: str, now: float) -> None:
        """The run has reached its terminal state. `now` never goes back."""
        self._ended.setdefault(run_id, now)

    def forget(self, run_id: str) -> None:
        """The run was dropped for another reason (its session was deleted)."""
        self._ended.pop(run_id, None)

    def due(self, now: float) -> list[str]:
        """The runs to drop now, oldest end first; they are forgotten here."""
        drop: list[str] = []
        for run_id, end in self._ended.items():
            if now < end + self._retention and len(self._ended) - len(drop) <= self._most:
                break
            drop.append(run_id)
        for run_id in drop:
            del self._ended[run_id]
        return drop

    def next_due(self) -> float | None:
        """When the oldest run becomes due; None when there is none."""
        for end in self._ended.values():
            return end + self._retention
        return None
