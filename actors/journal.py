"""Journals: what runs have changed and not yet committed, and the one task that commits it in time.

A run adds changes synchronously and in order; its journal hands them to the disk in that order, one commit in flight
at a time. `commit` makes everything durable now. Otherwise the flusher commits what is older than `chunk_delay` or
larger than `chunk_bytes`, all journals that are about due in one batch: no timer and no task a run.

A commit that fails leaves its changes in place: the run hears of it at its next `commit` or `room`, and the next
commit after that tries them again. Nothing is lost silently.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable

import trio

from actors._ask import ActorDied
from actors._disk import Disk, DiskClosed
from engine.codec import DecodeError
from engine.limits import Limits
from engine.runs.lifecycle import TERMINAL
from engine.storage import applying
from engine.storage.changes import AddPart, AppendText, Change, FoldText, PutPart, PutRun
from engine.transcript.records import CompactionPart, ReasoningPart, TextPart, ToolPart

# What a change weighs beside its texts in the bound of unsaved bytes: about its row.
_ROW_BYTES = 256


class _Text:
    """Texts of one part that were added one after the other."""

    __slots__ = ("part_id", "pieces")

    def __init__(self, part_id: str, text: str) -> None:
        self.part_id = part_id
        self.pieces = [text]


class RunJournal:
    """The unsaved changes of one run. Its tasks may share it: each `commit` covers what was added before it."""

    __slots__ = (
        "__weakref__",
        "_error",
        "_flusher",
        "_flushing",
        "_in_flight",
        "_moved",
        "_pending",
        "_session_id",
        "revision",
        "since",
        "waiting",
    )

    def __init__(self, flusher: Flusher, session_id: str) -> None:
        self._flusher = flusher
        self._session_id = session_id
        self._pending: list[Change | _Text] = []
        self._flushing = trio.Lock()  # one commit in flight: keeps the order
        self._moved: trio.Event | None = None  # set when a commit has ended; only while somebody waits for room
        self._error: Exception | None = None
        self._in_flight = 0
        self.waiting = 0  # bytes that no commit has taken
        self.since = 0.0  # when the oldest change that waits was added, on trio's clock
        self.revision = 0  # of the session after the last commit

    def __repr__(self) -> str:
        return f"<RunJournal {self._session_id} {self.unsaved} B unsaved{', failed' if self._error else ''}>"

    @property
    def unsaved(self) -> int:
        """Bytes of changes that are not durable."""
        return self.waiting + self._in_flight

    @property
    def healthy(self) -> bool:
        """No commit has failed that the run has not heard of."""
        return self._error is None

    def add(self, change: Change) -> None:
        """Append a change; adjacent texts of one part become one. Raises DecodeError for half a surrogate pair,
        which no store can hold: nothing was added then."""
        weight = _weight(change)
        last = self._pending[-1] if self._pending else None
        if isinstance(change, AppendText) and isinstance(last, _Text) and last.part_id == change.part_id:
            last.pieces.append(change.text)
        else:
            self._pending.append(_Text(change.part_id, change.text) if isinstance(change, AppendText) else change)
            weight += _ROW_BYTES
        self.waiting += weight
        self._flusher.changed(self)

    async def commit(self) -> int:
        """Return the session's revision when all that was added before is durable.

        Raises what a commit of the flusher failed with and no call has raised yet, or what this one fails with:
        EngineError, ActorDied. The changes stay, and the next commit tries them again. Cancelled: they stay or are
        durable.
        """
        self._raise()
        async with self._flushing:
            await self._flush()
        return self.revision

    async def room(self) -> None:
        """Wait while more than `limits.unsaved_bytes` are unsaved; no checkpoint if there is room. Raises what
        `commit` raises."""
        self._raise()
        while self.unsaved > self._flusher.limits.unsaved_bytes:
            if self._flusher.closed:
                raise ActorDied("the store has ended")
            if self._moved is None:
                self._moved = trio.Event()
            await self._moved.wait()
            self._raise()

    def discard(self) -> None:
        """The run has ended: forget what is unsaved. For the end of a run whose last commit failed; after one that
        stored a terminal state it happens by itself."""
        self._pending.clear()
        self.waiting = 0
        self._flusher.forget(self)

    async def flush(self) -> None:
        """For the flusher: commit what waits, and keep an error for the run."""
        async with self._flushing:
            try:
                await self._flush()
            except Exception as exc:  # noqa: BLE001 - the run raises it at its next commit or room
                self._error = exc

    async def _flush(self) -> None:
        if not self._pending:
            return
        taken, self._pending = self._pending, []
        size, self.waiting = self.waiting, 0
        self._in_flight = size
        self._flusher.taken(self)
        changes = [AppendText(one.part_id, "".join(one.pieces)) if isinstance(one, _Text) else one for one in taken]
        try:
            self.revision = await self._flusher.write(self._session_id, changes)
        except BaseException as exc:
            # Failed, or cancelled before it was begun: as if it had not been taken.
            self._pending = taken + self._pending
            self.waiting += size
            if not isinstance(exc, Exception):
                self._flusher.changed(self)
            raise
        else:
            self._error = None
            if any(isinstance(change, PutRun) and change.run.status in TERMINAL for change in changes):
                self._flusher.forget(self)
        finally:
            self._in_flight = 0
            self._wake()

    def _wake(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            if self._pending:
                self._flusher.changed(self)
            raise error

    def store_ended(self) -> None:
        """For the flusher: wake those that wait for room."""
        self._wake()


class Flusher:
    """Commits the journals of a store in time; `run` is its task. A journal is open from its making until the
    terminal state of its run is durable, it is discarded, or nobody holds it any more."""

    def __init__(self, disk: Disk, limits: Limits, now_ms: Callable[[], int]) -> None:
        self._disk = disk
        self._now_ms = now_ms
        self._dirty: dict[RunJournal, None] = {}  # the one that waits longest first
        self._open: weakref.WeakSet[RunJournal] = weakref.WeakSet()
        self._bell = trio.Event()
        self._idle = trio.Event()
        self.limits = limits
        self.closed = False

    @property
    def journals(self) -> int:
        return len(self._open)

    @property
    def unsaved(self) -> int:
        """Bytes of all journals that are not durable."""
        return sum(journal.unsaved for journal in self._open)

    def open(self, session_id: str) -> RunJournal:
        if self.closed:
            raise ActorDied("the store has ended")
        journal = RunJournal(self, session_id)
        self._open.add(journal)
        return journal

    async def run(self) -> None:
        """Commit what is due, until cancelled."""
        while True:
            oldest = next(iter(self._dirty), None)
            with trio.move_on_at(math.inf if oldest is None else oldest.since + self.limits.chunk_delay):
                await self._bell.wait()
            self._bell = trio.Event()
            now = trio.current_time()
            if not any(self._is_due(journal, now, 1.0) for journal in self._dirty):
                continue
            # What will be due soon goes with what is: the journals come into step and share their commits.
            due = [journal for journal in self._dirty if self._is_due(journal, now, 0.5)]
            async with trio.open_nursery() as nursery:
                for journal in due:
                    nursery.start_soon(journal.flush)

    async def wait_idle(self) -> None:
        """Wait until the terminal states of all runs are durable. The caller bounds the wait."""
        while self._open:
            self._idle = trio.Event()
            await self._idle.wait()

    async def flush(self) -> None:
        """Commit what waits in any journal."""
        async with trio.open_nursery() as nursery:
            for journal in tuple(self._open):
                nursery.start_soon(journal.flush)

    def close(self) -> None:
        """The disk is closing."""
        self.closed = True
        for journal in tuple(self._open):
            journal.store_ended()

    def _is_due(self, journal: RunJournal, now: float, part: float) -> bool:
        return journal.waiting >= self.limits.chunk_bytes or now >= journal.since + part * self.limits.chunk_delay

    # ------------------------------------------------------------ for journals
    def changed(self, journal: RunJournal) -> None:
        """The journal has something that waits."""
        if journal not in self._dirty:
            if not journal.healthy:
                return  # the run has to hear of the failure first
            journal.since = trio.current_time()
            if not self._dirty:
                self._bell.set()
            self._dirty[journal] = None
        if journal.waiting >= self.limits.chunk_bytes:
            self._bell.set()

    def taken(self, journal: RunJournal) -> None:
        self._dirty.pop(journal, None)

    def forget(self, journal: RunJournal) -> None:
        self._dirty.pop(journal, None)
        self._open.discard(journal)
        self._idle.set()

    async def write(self, session_id: str, changes: list[Change]) -> int:
        work = functools.partial(applying.apply, session_id=session_id, changes=changes, now=self._now_ms())
        try:
            return await self._disk.write(work)
        except DiskClosed as exc:
            raise ActorDied(str(exc)) from None


def _weight(change: Change) -> int:
    """Bytes of the change's long strings in UTF-8. Raises DecodeError for text that is not Unicode."""
    match change:
        case AppendText(text=text):
            return _bytes(text)
        case AddPart(part=TextPart() | ReasoningPart() as part):
            return _bytes(part.text)
        case AddPart(part=CompactionPart() as part):
            return _bytes(part.summary)
        case FoldText(signature=str() as signature):
            return _bytes(signature)
        case AddPart(part=ToolPart() as part) | PutPart(part=ToolPart() as part):
            return len(part.input) + _bytes(part.output or "") + _bytes(part.error or "")
        case _:
            return 0


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise DecodeError([("text", f"is not Unicode text: {exc.reason} at {exc.start}")]) from None
