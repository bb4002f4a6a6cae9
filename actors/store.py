"""The store actor: owner of the database. What is asked of it is in actors.store_ref.

The actor owns the life: its one task opens the disk, and closes it whatever ends the actor, after the runs that are
settling have settled.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Final

import trio

from actors._actor import Actor, Cell
from actors._ask import ActorDied
from actors._clock import now_ms as wall_clock
from actors._disk import Disk, open_disk
from actors._memory import untrack
from actors.blobs import BlobKeeper
from actors.journal import Flusher
from actors.paged import Paged
from actors.store_ref import StoreRef
from engine.errors import EngineError, OwnError
from engine.limits import MIB, Limits
from engine.storage import blobs as blob_files
from engine.storage import (
    catalog,
    database,
)
from engine.storage.blobs import Blobs
from engine.storage.database import Durability
from engine.transcript.cache import RowCache

_log = logging.getLogger("greenroom.store")

# Free pages of 4 KiB given back in one write: other writes wait for about as long as a large message takes.
_RECLAIM_PAGES: Final = MIB // 4096
_SHORTEN_ATTEMPTS: Final = 10  # then it is done behind one of the commits that follow
_SHORTEN_PAUSE: Final = 0.5


class Store(Actor):
    """The database in `folder`, which exists and is locked by this process. Its start raises PeerError disk_full or
    UnusableStore; it settles nothing by itself."""

    mailbox_messages = 1  # takes no messages

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits,
        durability: Durability = "full",
        now_ms: Callable[[], int] = wall_clock,
    ) -> None:
        self._folder = folder
        self._path = folder / database.FILE_NAME
        self._durability: Durability = durability
        self._disk: Disk | None = None
        self._journals: Flusher | None = None
        self._blobs: BlobKeeper | None = None
        self._paged: Paged | None = None
        self._freed = trio.Event()
        self._unused: set[str] = set()  # sessions of which nothing decoded is to be kept
        self._stop = trio.Event()
        self._closed = trio.Event()
        self.rows = RowCache(limits.row_cache_bytes, untrack)  # of the thread that reads
        self.limits = limits
        self.now_ms = now_ms

    def make_ref(self, cell: Cell) -> StoreRef:
        return StoreRef(cell)

    @property
    def disk(self) -> Disk:
        if self._disk is None:
            raise ActorDied("the store has ended")
        return self._disk

    @property
    def journals(self) -> Flusher:
        if self._journals is None:
            raise ActorDied("the store has ended")
        return self._journals

    @property
    def blobs(self) -> BlobKeeper:
        if self._blobs is None:
            raise ActorDied("the store has ended")
        return self._blobs

    @property
    def paged(self) -> Paged:
        if self._paged is None:
            raise ActorDied("the store has ended")
        return self._paged

    def reclaim(self) -> None:
        """Space was freed: give it back, in the background."""
        self._freed.set()

    def forget_rows(self, session_id: str) -> None:
        if self.rows.holds(session_id):
            self._unused.add(session_id)
            self._freed.set()

    async def on_start(self) -> None:
        assert self.cell.nursery is not None
        await self.cell.nursery.start(self._own)

    async def on_stop(self, reason: str) -> None:
        self._stop.set()
        await self._closed.wait()

    async def _own(self, *, task_status: trio.TaskStatus[None]) -> None:
        disk = self._disk = await open_disk(self._path, durability=self._durability, limits=self.limits)
        journals = self._journals = Flusher(disk, self.limits, self.now_ms)
        blobs = self._blobs = BlobKeeper(Blobs(self._folder / blob_files.FOLDER_NAME), disk, self.reclaim, self.limits)
        paged = self._paged = Paged(disk, self.reclaim)
        try:
            await paged.open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journals.run)
                nursery.start_soon(self._reclaim, disk, blobs, paged)
                nursery.start_soon(self._watch, disk)
                task_status.started()
                await self._stop.wait()
                nursery.cancel_scope.cancel(reason="the store stops")
        finally:
            # When everything is cancelled at once, runs settle behind shields of their own: they find us open.
            with trio.move_on_after(self.limits.cancel_grace, shield=True):
                await journals.wait_idle()
            with trio.move_on_after(self.limits.cancel_grace, shield=True):
                await journals.flush()  # what a run that was lost has left
            journals.close()
            self._disk = self._journals = self._blobs = self._paged = None
            await disk.aclose()
            self._closed.set()

    async def _watch(self, disk: Disk) -> None:
        await disk.wait_failed()
        raise OwnError("internal", "a thread of the store ended by a defect")

    async def _reclaim(self, disk: Disk, blobs: BlobKeeper, paged: Paged) -> None:
        try:
            await blobs.sweep()
        except EngineError as exc:
            _log.warning("files that nothing refers to were not all removed: %s", exc)
        self._freed.set()  # a crash may have come before space was given back
        while True:
            await self._freed.wait()
            self._freed = trio.Event()
            try:
                if self._unused:
                    unused, self._unused = self._unused, set()
                    await disk.read(functools.partial(self._forget, sessions=unused))
                await paged.remove_left()
                while await blobs.reap():
                    pass
                await _give_back(disk)
            except EngineError as exc:
                _log.warning("space of deleted sessions was not given back: %s", exc)

    def _forget(self, _: Connection, sessions: set[str]) -> None:
        for session_id in sessions:
            self.rows.forget(session_id)


async def _give_back(disk: Disk) -> None:
    """The pages that are free go back to the file system, in slices between other writes."""
    if not await disk.read(catalog.free_pages):
        return
    while await disk.write(functools.partial(catalog.reclaim, pages=_RECLAIM_PAGES)):
        pass
    # The database's file is cut off when the log is folded into it.
    for _ in range(_SHORTEN_ATTEMPTS):
        if await disk.shorten_log():
            return
        await trio.sleep(_SHORTEN_PAUSE)  # a reader is in the way; reads take milliseconds
