"""Journals: what runs have changed and not yet committed, and the flusher that commits it in time.

A run adds changes synchronously; they keep their order. `commit` makes everything durable now; otherwise one
flusher for all runs commits what is older than `chunk_delay` or larger than `chunk_bytes`, all that is due in one
batch. A commit that fails leaves its changes in place, and the next one tries them again: nothing is lost silently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import trio

from actors._disk import Disk, Operation
from engine.errors import EngineError
from engine.limits import Limits
from engine.storage import applying
from engine.storage.changes import AppendText, Change

# What a change other than text counts in the bound of unsaved bytes: about its row.
ROW_BYTES = 200


class RunJournal:
    """The changes of one run. Not shared between runs; `revision` is the session's after the last commit."""

    def __init__(self, flusher: Flusher, session_id: str) -> None:
        self._flusher = flusher
        self._session_id = session_id
        self._changes: list[Change] = []
        self._size = 0
        self._in_flight: tuple[Operation[int], list[Change], int] | None = None
        self._lock = trio.Lock()
        self._error: EngineError | None = None
        self.revision = 0
        self.due = 0.0

    @property
    def size(self) -> int:
        """Bytes of changes that are not durable yet."""
        return self._size + (self._in_flight[2] if self._in_flight is not None else 0)

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    def add(self, change: Change) -> None:
        """Append a change. Adjacent texts of one part become one."""
        last = self._changes[-1] if self._changes else None
        if isinstance(change, AppendText):
            self._size += len(change.text)
            if isinstance(last, AppendText) and last.part_id == change.part_id:
                self._changes[-1] = AppendText(change.part_id, last.text + change.text)
                if self._size >= self._flusher.chunk_bytes:
                    self._flusher.hurry(self)
                return
        else:
            self._size += ROW_BYTES
        self._changes.append(change)
        if last is None:
            self._flusher.dirty(self)
        if self._size >= self._flusher.chunk_bytes:
            self._flusher.hurry(self)

    async def commit(self) -> int:
        """Return the session's revision when all changes so far are durable. Raises PeerError; they stay then."""
        async with self._lock:
            await self.land()
            self.begin()
            await self.land()
        return self.revision

    async def room(self) -> None:
        """Wait while more than `unsaved_bytes` wait for the disk. Raises the error of a failed commit."""
        if self._error is not None:
            raise self._error
        if self.size > self._flusher.unsaved_bytes:
            await self.commit()

    def begin(self) -> None:
        """Submit what there is, unless something is in flight. For `commit` and the flusher."""
        self._flusher.clean(self)
        if self._in_flight is None and self._changes:
            changes, self._changes = self._changes, []
            size, self._size = self._size, 0
            self._in_flight = (self._flusher.submit(self._session_id, changes), changes, size)

    async def land(self) -> None:
        """Wait for what is in flight. Cancelled: it stays in flight, and the next one waits for it."""
        if self._in_flight is None:
            return
        operation, changes, size = self._in_flight
        try:
            self.revision = await operation.wait()
        except EngineError as exc:
            self._error = exc
            self._changes = changes + self._changes
            self._size += size
            self._in_flight = None
            raise
        self._error = None
        self._in_flight = None

    def try_begin(self) -> bool:
        """For the flusher: submit unless a commit is at work, which takes everything anyway."""
        if self._lock.locked():
            return False
        self.begin()
        return self._in_flight is not None

    async def try_land(self) -> None:
        """For the flusher: wait for what is in flight; the error of a failure is kept for the run."""
        try:
            async with self._lock:
                await self.land()
        except EngineError:
            return

    def discard(self) -> None:
        """The run has ended: the flusher forgets it."""
        self._flusher.clean(self)


class Flusher:
    """Commits journals in time; one for the store."""

    def __init__(self, disk: Disk, limits: Limits, now_ms: Callable[[], int]) -> None:
        self._disk = disk
        self._now_ms = now_ms
        self._delay = limits.chunk_delay
        self.chunk_bytes = limits.chunk_bytes
        self.unsaved_bytes = limits.unsaved_bytes
        self._dirty: dict[RunJournal, None] = {}  # in the order in which they are due
        self._wake = trio.Event()

    def submit(self, session_id: str, changes: list[Change]) -> Operation[int]:
        return self._disk.submit(
            functools.partial(applying.apply, session_id=session_id, changes=changes, now=self._now_ms())
        )

    def dirty(self, run: RunJournal) -> None:
        run.due = trio.current_time() + self._delay
        if not self._dirty:
            self._wake.set()
        self._dirty[run] = None

    def hurry(self, run: RunJournal) -> None:
        if run in self._dirty and run.due:
            run.due = 0.0
            self._wake.set()

    def clean(self, run: RunJournal) -> None:
        self._dirty.pop(run, None)

    async def run(self) -> None:
        """For ever: wait for the first that is due, then commit all that are."""
        while True:
            oldest = next(iter(self._dirty), None)
            if oldest is None:
                await self._wake.wait()
            else:
                with trio.move_on_at(oldest.due):
                    await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            begun = [run for run in tuple(self._dirty) if run.due <= now and run.try_begin()]
            for run in begun:
                await run.try_land()
