"""How fast messages of one server are taken: a bucket of tokens that fills with time.

What a server sends costs the daemon time whatever it is. Beyond its share it waits, in the pipe or socket that it
writes to: a flood is slow for who floods.
"""

from __future__ import annotations

from typing import Final

# Of a message (without its long strings) that costs as much as a small one does: reading JSON takes up to 90 µs a KiB,
# and a message some 200 µs on its way.
BYTES_A_TOKEN: Final = 4 * 1024


class Pace:
    """`rate` tokens a second; after a pause as many come at once. Times are in seconds, of any clock."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._at: float | None = None
        self.taken = 0  # messages

    def take(self, count: int, size: int, now: float) -> float:
        """So many messages of so many bytes together were taken; how long to wait before the next ones are."""
        if self._at is not None:
            self._tokens = min(self._rate, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        self.taken += count
        self._tokens -= count + size // BYTES_A_TOKEN
        return max(0.0, -self._tokens / self._rate)
