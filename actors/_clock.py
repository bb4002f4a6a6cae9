"""The wall clock: times that are stored or sent, in ms since the epoch (UTC). Order never depends on it."""

from __future__ import annotations

import time


def now_ms() -> int:
    return time.time_ns() // 1_000_000
