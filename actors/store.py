"""The store actor: owner of the disk, and the typed way to everything durable.

Its Ref's methods do not pass through the mailbox: the disk groups what comes at the same time into one commit,
and a mailbox would line it up. After the actor's end they raise ActorDied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._clock import now_ms as wall_clock
from actors._disk import Disk, open_disk
from actors.journal import Flusher, RunJournal
from engine.commands import (
    MessagesPage,
    NewSession,
    OutputPiece,
    RunPage,
    SessionChanges,
    SessionPage,
    StartRun,
)
from engine.limits import Limits
from engine.runs.record import Run
from engine.storage import catalog, database, idempotency, ledger, outputs, reading, starting
from engine.storage.reading import FinalMessage
from engine.storage.starting import StoredRun
from engine.transcript.records import Message
from engine.transcript.session import Session

# How long the result of a request with an idempotency key is kept.
IDEMPOTENCY_MS: Final = 24 * 3600 * 1000
Write = Callable[..., Any]


class StoreRef(Ref):
    """Each method returns when what it says is durable (writes), or raises EngineError or ActorDied."""

    __slots__ = ()

    @property
    def _store(self) -> Store:
        actor = self._cell.actor
        assert isinstance(actor, Store)
        return actor

    @property
    def _disk(self) -> Disk:
        disk = self._store.disk
        if disk is None:
            raise ActorDied("the store has ended")
        return disk

    # ------------------------------------------------------------ sessions
    async def create_session(self, session: Session, new: NewSession, now: int) -> Session:
        """Store a new session; with a used idempotency key the session that the first request made."""
        claim = idempotency.claim("session.create", new)
        return await self._disk.write(functools.partial(catalog.create, session=session, claim=claim, now=now))

    async def get_session(self, session_id: str) -> Session:
        return await self._disk.read(functools.partial(catalog.get, session_id=session_id))

    async def update_session(self, session_id: str, changes: SessionChanges, now: int) -> Session:
        return await self._disk.write(
            functools.partial(catalog.update, session_id=session_id, changes=changes, now=now)
        )

    async def delete_session(self, session_id: str) -> None:
        await self._disk.write(functools.partial(catalog.delete, session_id=session_id))

    async def list_sessions(self, limit: int, cursor: str | None, query: str | None) -> SessionPage:
        return await self._disk.read(functools.partial(catalog.page, limit=limit, cursor=cursor, query=query))

    # ------------------------------------------------------------ transcripts
    async def messages(self, session_id: str, limit: int, cursor: str | None) -> MessagesPage:
        return await self._disk.read(
            functools.partial(reading.messages, session_id=session_id, limit=limit, cursor=cursor)
        )

    async def window(self, session_id: str, *, max_messages: int, max_bytes: int) -> tuple[Message, ...]:
        return await self._disk.read(
            functools.partial(reading.window, session_id=session_id, max_messages=max_messages, max_bytes=max_bytes)
        )

    async def read_output(self, handle: str, offset: int, limit: int) -> OutputPiece:
        return await self._disk.read(functools.partial(outputs.read, handle=handle, offset=offset, limit=limit))

    async def final_message(self, run_id: str) -> FinalMessage | None:
        return await self._disk.read(functools.partial(reading.final_message, run_id=run_id))

    # ------------------------------------------------------------ runs
    async def repeated_run(self, start: StartRun) -> StoredRun | None:
        """What the request's idempotency key made before. Raises CallerError idempotency_conflict."""
        claim = idempotency.claim("run.start", start)
        if claim is None:
            return None
        now = self._store.now_ms()
        return await self._disk.read(functools.partial(starting.repeated_run, claim=claim, now=now))

    async def start_run(self, run: Run, message: Message, start: StartRun, now: int) -> StoredRun:
        """Store the user's message and the run; with a used idempotency key, what the first request made."""
        return await self._disk.write(
            functools.partial(
                starting.start_run,
                run=run,
                message=message,
                seq_block=self._store.limits.seq_block,
                expected_revision=start.expected_revision,
                claim=idempotency.claim("run.start", start),
                now=now,
            )
        )

    def open_journal(self, session_id: str) -> RunJournal:
        """The journal of a run in this session."""
        flusher = self._store.flusher
        if flusher is None:
            raise ActorDied("the store has ended")
        return RunJournal(flusher, session_id)

    async def get_run(self, run_id: str) -> Run:
        return await self._disk.read(functools.partial(ledger.get, run_id=run_id))

    async def list_runs(self, session_id: str | None, active: bool | None, limit: int, cursor: str | None) -> RunPage:
        return await self._disk.read(
            functools.partial(ledger.page, session_id=session_id, active=active, limit=limit, cursor=cursor)
        )

    async def settle_open_runs(self) -> list[Run]:
        """Runs that a crash left open become `interrupted`. Before any run is started."""
        return await self._disk.write(functools.partial(starting.settle_open_runs, now=self._store.now_ms()))

    def commits(self) -> tuple[int, int]:
        """(commits, operations in them) so far."""
        disk = self._disk
        return disk.commits, disk.operations


class Store(Actor):
    """Opens the database of a data directory; see schema.open_writer for what may raise."""

    mailbox_messages = 1  # takes no messages

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits,
        durability: Literal["full", "normal"] = "full",
        now_ms: Callable[[], int] = wall_clock,
    ) -> None:
        self._folder = folder
        self._durability = durability
        self.now_ms = now_ms
        self._stop = trio.Event()
        self._closed = trio.Event()
        self.limits = limits
        self.disk: Disk | None = None
        self.flusher: Flusher | None = None

    def make_ref(self, cell: Cell) -> StoreRef:
        return StoreRef(cell)

    async def on_start(self) -> None:
        assert self.cell.nursery is not None
        await self.cell.nursery.start(self._own_disk)

    async def on_stop(self, reason: str) -> None:
        self._stop.set()
        await self._closed.wait()

    async def _own_disk(self, *, task_status: trio.TaskStatus[None]) -> None:
        path = self._folder / database.FILE_NAME
        writer = functools.partial(database.open_writer, path, self._durability)
        reader = functools.partial(database.open_reader, path)
        try:
            async with open_disk(writer, reader, path, bound=self.limits.disk_queue) as disk:
                self.disk = disk
                self.flusher = Flusher(disk, self.limits, self.now_ms)
                self.cell.start_soon(self.flusher.run)
                task_status.started()
                await self._stop.wait()
                self.disk = self.flusher = None
        finally:
            self.disk = self.flusher = None
            self._closed.set()
