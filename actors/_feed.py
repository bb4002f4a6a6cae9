"""What the watchers of a run or session share: the replay log, the current record, and who is to be woken.

A watcher is a cursor and a latch. `attach` takes the latch's `ring`, a synchronous call that never waits; the
writer of events calls it after each batch, so that a run never waits for a watcher and a watcher costs O(1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import attrs
import trio

from engine.runs.lifecycle import ACTIVE
from engine.runs.log import ReplayLog
from engine.runs.record import Run
from engine.transcript.session import Session

Closed = Literal["finished", "evicted", "deleted", "draining"]
Ring = Callable[[], None]


class Bell:
    """A latch for one waiter: rings that nobody waited for are remembered as one. Half the cost of a trio.Event that
    is made anew for each wait, which matters where there is a wait for each delta."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
        else:
            self._rung = True

    async def wait(self) -> None:
        """Return after a ring, at once if there was one since the last wait returned. Cancelled: the ring stays."""
        if self._rung:
            await trio.lowlevel.checkpoint()
        else:
            assert self._task is None, "a bell has one waiter"
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._rung = False

    def forget(self) -> None:
        """Forget a ring that nobody waited for."""
        self._rung = False

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Snapshot(Protocol):
    """The message being written as of `seq`, told in pieces."""

    @property
    def seq(self) -> int: ...

    async def next(self) -> bytes | None:
        """The next encoded object (of the push, without `watch_id`), ≤ 64 KiB; None after the last, at least one.
        Its text is read now: of a message that is gone the rest is empty."""


class _Feed:
    __slots__ = ("_rings", "_watched", "closed")

    def __init__(self) -> None:
        self._watched: trio.Event | None = None  # somebody waits for one that answers
        # Each with whether somebody can be asked there. A dict keeps the order of attaching: nobody is always last.
        self._rings: dict[Ring, bool] = {}
        self.closed: Closed | None = None

    @property
    def watched(self) -> bool:
        return bool(self._rings)

    def attach(self, ring: Ring, *, answers: bool = True) -> None:
        """`answers`: it shows questions to a person, or to a program that answers them."""
        self._rings[ring] = answers
        if answers and self._watched is not None:
            watched, self._watched = self._watched, None
            watched.set()
            self._watched = None

    async def wait_watched(self) -> None:
        """Until there is a watcher that answers. Any number of tasks may wait."""
        while not any(self._rings.values()):
            if self._watched is None:
                self._watched = trio.Event()
            await self._watched.wait()

    def detach(self, ring: Ring) -> None:
        self._rings.pop(ring, None)

    def ring(self) -> None:
        for ring in tuple(self._rings):  # one of them may attach or detach
            ring()

    def close(self, why: Closed) -> None:
        """Nothing follows; watchers that have read all get `watch.closed` with this reason. Once."""
        if self.closed is None:
            self.closed = why
            self.ring()


class RunFeed(_Feed):
    """A run for its watchers. `ended` means that the terminal event is in the log (or was, before eviction)."""

    __slots__ = ("_snapshot", "ended", "log", "run")

    def __init__(self, run: Run, log: ReplayLog) -> None:
        super().__init__()
        self.run = run
        self.log = log
        self.ended = run.status not in ACTIVE
        self._snapshot: Callable[[], Awaitable[Snapshot]] | None = None

    def __repr__(self) -> str:
        return f"<RunFeed {self.run.id} {self.run.status} seq {self.log.first_seq}-{self.log.last_seq}>"

    @property
    def evicted(self) -> bool:
        return self.closed in ("evicted", "deleted")

    def record(self) -> Run:
        """The run as it is now."""
        return self.run if self.ended else attrs.evolve(self.run, last_seq=self.log.last_seq)

    def end(self) -> None:
        """The terminal event is in the log."""
        self.ended = True
        self.ring()

    async def snapshot(self) -> Snapshot:
        """The message being written as of some seq at or before the log's head when this returns."""
        assert self._snapshot is not None, "a feed is given its snapshots before it is handed out"
        return await self._snapshot()

    def snapshots_from(self, source: Callable[[], Awaitable[Snapshot]]) -> None:
        """Who tells the snapshots: the run while it is active, the store afterwards."""
        self._snapshot = source


class SessionFeed(_Feed):
    """A session for its watchers: its runs in memory, oldest first, and its newest record (conflated)."""

    __slots__ = ("_next", "_runs", "changes", "session")

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.changes = 0  # counts changes of the record: a watcher compares it with the one it has sent
        self._runs: dict[int, RunFeed] = {}
        self._next = 1

    @property
    def last_index(self) -> int:
        """The index of the newest run; runs are numbered from 1 in the order of their start."""
        return self._next - 1

    def runs_after(self, index: int) -> list[tuple[int, RunFeed]]:
        """The runs in memory that started after the one with this index, with their own indexes."""
        if index >= self.last_index:
            return []
        return [(key, feed) for key, feed in self._runs.items() if key > index]

    def add(self, feed: RunFeed) -> None:
        self._runs[self._next] = feed
        self._next += 1
        self.ring()

    def remove(self, feed: RunFeed) -> None:
        """The run has left memory."""
        for key, known in self._runs.items():
            if known is feed:
                del self._runs[key]
                return

    def change(self, session: Session) -> None:
        self.session = session
        self.changes += 1
        self.ring()
