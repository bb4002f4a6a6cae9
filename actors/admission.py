"""Which sessions may have an active run: the daemon's bound, who waits for a place, and the drain.

A session takes one place, for its active run, for a start under way, or while the registry begins the next of its
queue. Queues that wait for a place come before new starts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import trio

from engine.errors import CallerError

# What a client should wait before it tries a refused run again: about the life of a short run.
RETRY_AFTER_MS: Final = 1000
# The same when memory is at its bound: by then some work has ended, and the governor has looked a few times.
MEMORY_RETRY_AFTER_MS: Final = 5000


class Admission:
    """`begin` is called, synchronously, with a session whose queue has got a place: it is held until `begun_with`."""

    def __init__(self, most: int, begin: Callable[[str], None]) -> None:
        self._most = most
        self._begin = begin
        self._active: dict[str, str] = {}  # run -> session
        self._starting: Counter[str] = Counter()  # starts under way by session
        self._waiting: dict[str, None] = {}  # sessions whose queue waits for a place, in order
        self._drained: trio.Event | None = None
        self._full = False  # the process's memory

    @property
    def active_runs(self) -> int:
        return len(self._active)

    @property
    def draining(self) -> bool:
        return self._drained is not None

    def refuse_draining(self) -> None:
        if self.draining:
            raise CallerError("draining", "the daemon is shutting down")

    @contextlib.contextmanager
    def starting(self, session_id: str) -> Iterator[None]:
        """A start in the session, which holds a place. Raises CallerError draining, overloaded."""
        self.refuse_draining()
        if self._full:
            message = "the daemon's memory is at its bound: no run can begin until some of it is free"
            raise CallerError("overloaded", message, retry_after_ms=MEMORY_RETRY_AFTER_MS)
        taken = {*self._active.values(), *self._starting, *self._waiting}
        # One run at a time is active in a session: a start in one that has a place takes none.
        if session_id not in taken and len(taken) >= self._most:
            raise CallerError(
                "overloaded",
                f"{self._most} runs are active, which is the daemon's bound",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self._starting[session_id] += 1
        try:
            yield
        finally:
            self.begun_with(session_id)

    def begun_with(self, session_id: str) -> None:
        """A start is over, whatever came of it."""
        self._starting[session_id] -= 1
        if not self._starting[session_id]:
            del self._starting[session_id]
        self._fill()

    def begun(self, run_id: str, session_id: str) -> None:
        """A run is active."""
        self._active[run_id] = session_id

    def ended(self, run_id: str) -> None:
        """A run is not active (any more)."""
        self._active.pop(run_id, None)
        self._fill()

    def is_active(self, session_id: str) -> bool:
        """A run is active in the session."""
        return session_id in self._active.values()

    def wait(self, session_ids: Iterable[str]) -> None:
        """Runs wait in these sessions, and none is active there or has priority."""
        self._waiting.update(dict.fromkeys(session_ids))
        self._fill()

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        self._waiting.pop(session_id, None)

    def memory_full(self, full: bool) -> None:
        """While it is, starts are refused and queues wait. Idempotent."""
        self._full = full
        self._fill()

    def _fill(self) -> None:
        while self._waiting and not self.draining and not self._full:
            if len({*self._active.values(), *self._starting}) >= self._most:
                break
            session_id = next(iter(self._waiting))
            del self._waiting[session_id]
            self._starting[session_id] += 1
            self._begin(session_id)
        if self._drained is not None and not self._active and not self._starting:
            self._drained.set()

    def begin_drain(self) -> None:
        """Refuse new runs from now on; those that wait stay in their queues. Idempotent."""
        if self._drained is None:
            self._drained = trio.Event()
        self._fill()

    async def drain(self) -> None:
        """Begin it, and wait until no run is active."""
        self.begin_drain()
        assert self._drained is not None
        await self._drained.wait()
