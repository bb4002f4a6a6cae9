"""Whose the daemon's memory is, in bytes by owner.

Three kinds of figures, and none is the rest that the others leave:

- told by the system or a library: files that are mapped, SQLite, what the C allocator has free
- counted here as it happens: replay logs, text that waits for the disk, decoded messages
- a number of things times what one costs: measured on CPython 3.11 as growth of the heap over 200 of each, and held to
  by scripts/bench_runs.py, which compares the sum with what is resident

The program itself is measured once, when the daemon is ready: its heap then.
"""

from __future__ import annotations

import sys
from typing import Final

import attrs
import trio

from actors._memory import Family, Resident, family, heap, resident, sqlite_bytes
from actors.models import ModelsStatistics
from actors.registry_ref import RegistryStatistics
from actors.store_ref import StoreStatistics
from engine.limits import KIB

# All there are, as `Owners.owned` tells them.
OWNERS: Final = (
    "files", "free", "program", "http", "sqlite", "rows", "requests", "logs", "unsaved", "runs", "ended_runs",
    "sessions", "connections",
)  # fmt: skip
# A WebSocket with its connection's actor, five tasks and their buffers.
CONNECTION_BYTES: Final = 38 * KIB
# A session's actor with its record and feed.
SESSION_BYTES: Final = 10 * KIB
# An active run beside its log: its actor and tasks, the stream of its model, its journal.
RUN_BYTES: Final = 56 * KIB
# An ended run beside its log: its record and feed, what a log takes beside its encoded bytes.
RETAINED_BYTES: Final = 9 * KIB
# The HTTP client with its certificates, once a model's service was called.
HTTP_CLIENT: Final = "httpx2"
HTTP_BYTES: Final = 4700 * KIB


@attrs.frozen(slots=True)
class Measured:
    """What has to be asked of the system; see actors._memory."""

    resident: Resident
    heap_free: int
    heap_used: int
    sqlite: int

    @property
    def free(self) -> int:
        """Of the allocator's free bytes those that are resident: at most what is not in use of what is no file."""
        return min(self.heap_free, max(0, self.resident.own - self.heap_used))


def measure() -> Measured:
    """20 µs, and more where the allocator's free lists are long: for a worker thread."""
    found = heap()
    return Measured(resident=resident(), heap_free=found.free, heap_used=found.used, sqlite=sqlite_bytes())


class Owners:
    """See the module. Of the daemon's loop."""

    def __init__(self) -> None:
        self._program = 0
        self._thread = trio.CapacityLimiter(1)

    def settle(self) -> None:
        """Everything is made and nothing is at work: what is held now is the program."""
        now = measure()
        self._program = now.resident.own - now.free - now.sqlite

    async def look(self, guard: int | None) -> tuple[Measured, Family]:
        """What has to be asked of the system, in one visit to a thread; and the guard of this pid with all that is
        below it."""
        return await trio.to_thread.run_sync(lambda: (measure(), family(guard)), limiter=self._thread)

    def owned(
        self,
        now: Measured,
        registry: RegistryStatistics,
        store: StoreStatistics,
        models: ModelsStatistics,
        connections: int,
    ) -> dict[str, int]:
        """Every owner."""
        measured = {"files": now.resident.shared, "free": now.free}
        return measured | self.counted(registry, store, models, connections)

    def counted(
        self, registry: RegistryStatistics, store: StoreStatistics, models: ModelsStatistics, connections: int
    ) -> dict[str, int]:
        """The owners that need no thread: all but the files, and what the allocator has free."""
        return {
            "program": self._program,
            "http": HTTP_BYTES if HTTP_CLIENT in sys.modules else 0,
            "sqlite": sqlite_bytes(),
            "rows": store.rows.bytes,
            "requests": models.piece_bytes,
            "logs": registry.log_bytes,
            "unsaved": store.unsaved,
            "runs": RUN_BYTES * registry.active_runs,
            "ended_runs": RETAINED_BYTES * (registry.retained_runs + registry.queued_runs),
            "sessions": SESSION_BYTES * registry.sessions,
            "connections": CONNECTION_BYTES * connections,
        }
