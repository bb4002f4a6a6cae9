"""How many descriptors this process may have open, and how many of them clients may take.

Without a bound of their own the sockets of clients would take what runs need (the store, blobs, model calls, pipes of
programs), and a thousand idle ones would fail all work. Most systems allow 1,024 to begin with, and many more to who
asks.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

# Beside those of clients: the store, the log, pipes of 32 programs, model calls of 256 runs.
BESIDE: Final = 512


def raise_limit(sockets: int) -> None:
    """Allow the process as many descriptors as so many sockets and the rest need, if it may have them. For programs:
    what they start inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets + BESIDE if hard == resource.RLIM_INFINITY else min(sockets + BESIDE, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower bound than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def shares(sockets: int, told: int) -> tuple[int, int]:
    """How many sockets clients may open, and how many more are told that these are too many: at most as many as
    asked for, and so many that half of all descriptors stay for the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sockets, told
    return min(sockets, max(soft - BESIDE - told, soft // 2)), min(told, soft // 8)
