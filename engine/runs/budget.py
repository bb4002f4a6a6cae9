"""The budget of all replay logs together, in bytes.

Each log tells its growth as it happens, so the sum is always right and costs an addition. When it is over the
bound, logs of ended runs go first, the oldest end first and whole; then the largest of the active ones loses its
older half, until the sum fits. Readers that miss what went are told of a gap.

Logs of ended runs have a bound of their own, below that: nobody may ever come for them, and a burst of work has to be
forgotten soon after it.
"""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """What the budget asks of a log. `trim` tells the budget what it freed."""

    @property
    def size(self) -> int: ...

    def trim(self, max_bytes: int) -> int: ...


class LogBudget:
    """See the module. Logs are told apart by identity."""

    def __init__(self, max_bytes: int, ended_bytes: int | None = None) -> None:
        assert max_bytes >= 1
        self._max_bytes = max_bytes
        self._ended_bytes = max_bytes if ended_bytes is None else ended_bytes
        self._active: dict[int, Log] = {}
        self._ended: dict[int, Log] = {}  # oldest end first
        self._relieving = False
        self.size = 0

    def open(self, log: Log) -> None:
        """A log of an active run begins to count."""
        self._active[id(log)] = log
        self.grew(log.size)

    def end(self, log: Log) -> None:
        """Its run has ended: from now on it goes before the active ones."""
        if self._active.pop(id(log), None) is not None:
            self._ended[id(log)] = log
            over = sum(log.size for log in self._ended.values()) - self._ended_bytes
            for oldest in self._ended.values():
                if over <= 0:
                    return
                over -= oldest.trim(0)

    def close(self, log: Log) -> None:
        """The log has left memory."""
        if self._active.pop(id(log), None) or self._ended.pop(id(log), None):
            self.size -= log.size

    def shed(self) -> int:
        """Empty the logs of ended runs down to their newest events. Returns the bytes freed."""
        return sum(log.trim(0) for log in self._ended.values())

    def grew(self, size: int) -> None:
        """A log has grown by `size` bytes (negative: it has lost some)."""
        self.size += size
        if self.size > self._max_bytes and not self._relieving:
            self._relieve()

    def _relieve(self) -> None:
        self._relieving = True
        try:
            for log in self._ended.values():
                if self.size <= self._max_bytes:
                    return
                log.trim(0)
            while self.size > self._max_bytes and self._active:
                largest = max(self._active.values(), key=lambda log: log.size)
                if not largest.trim(largest.size // 2):
                    return  # every log is at its newest segment
        finally:
            self._relieving = False
