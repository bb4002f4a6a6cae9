"""The Ref of the store: the typed way to everything durable.

Its methods do not pass through the mailbox: the disk puts what comes at the same time into one commit, and a mailbox
would line it up.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from sqlite3 import Connection
from typing import Protocol, TypeVar, cast

import attrs

from actors._actor import Ref
from actors._ask import ActorDied
from actors._disk import Disk, DiskClosed
from actors._tally import Histogram
from actors.blobs import BlobKeeper, Pins
from actors.journal import Flusher, RunJournal
from actors.paged import Paged
from engine.commands import (
    ForkSession,
    MessagesPage,
    NewSession,
    OutputPiece,
    RunPage,
    SessionChanges,
    SessionPage,
    StartRun,
)
from engine.errors import EngineError
from engine.limits import Limits
from engine.runs.approvals import Resolution
from engine.runs.record import Run
from engine.storage import (
    approvals,
    catalog,
    database,
    idempotency,
    ledger,
    outputs,
    reading,
    starting,
    waiting,
    window,
)
from engine.storage.media import with_media
from engine.storage.reading import FinalMessage
from engine.storage.starting import StoredRun
from engine.storage.waiting import BegunRun
from engine.tools.permissions import Grant, Grants
from engine.transcript.cache import CacheStatistics, RowCache
from engine.transcript.records import Message, Usage
from engine.transcript.session import Session
from engine.transcript.todo import Todo
from engine.transcript.window import Window

T = TypeVar("T")

_log = logging.getLogger("greenroom.store")


@attrs.frozen(slots=True, kw_only=True)
class StoreStatistics:
    """`writes` shared `commits`; `waiting` operations and `unsaved` bytes of `journals` open journals are not
    durable yet. The database's log had `log_bytes` after the last commit. `rows` are decoded messages."""

    writes: int
    commits: int
    reads: int
    waiting: int
    log_bytes: int
    journals: int
    unsaved: int
    rows: CacheStatistics
    commit_seconds: Histogram


class Insides(Protocol):
    """What the Ref asks of the store. See actors.store; each raises ActorDied after its end."""

    rows: RowCache
    limits: Limits
    now_ms: Callable[[], int]

    @property
    def disk(self) -> Disk: ...
    @property
    def journals(self) -> Flusher: ...
    @property
    def blobs(self) -> BlobKeeper: ...
    @property
    def paged(self) -> Paged: ...
    def reclaim(self) -> None: ...
    def forget_rows(self, session_id: str) -> None: ...


class StoreRef(Ref):
    """Writes return when they are durable. All raise CallerError as named, PeerError disk_full, OwnError for a
    damaged store, DecodeError for a cursor or text that cannot be, and ActorDied after the store's end.

    Cancelled: a write that has begun is finished first; trio.Cancelled means that nothing was stored.
    """

    __slots__ = ()

    # ------------------------------------------------------------ sessions
    async def create_session(self, session: Session, new: NewSession, now: int) -> Session:
        """Store a new session; with a known idempotency key, the session that it made first. Raises
        idempotency_conflict."""
        claim = idempotency.claim("session.create", new)
        return await self._write(functools.partial(catalog.create, session=session, claim=claim, now=now))

    async def get_session(self, session_id: str) -> Session:
        """Raises unknown_session."""
        return await self._read(functools.partial(catalog.get, session_id=session_id))

    async def update_session(self, session_id: str, changes: SessionChanges, now: int) -> Session:
        """Raises unknown_session, stale_revision."""
        return await self._write(functools.partial(catalog.update, session_id=session_id, changes=changes, now=now))

    async def delete_session(self, session_id: str) -> None:
        """Remove the session with all that is stored of it, its files too; the space of its rows is given back in the
        background, as are files that the disk does not let go. Raises unknown_session."""
        with self._closing():
            await self._store.paged.delete(session_id)
            self._store.forget_rows(session_id)
            try:
                while await self._store.blobs.reap():
                    pass
            except EngineError as exc:
                _log.warning("%s is deleted, some of its files are not: %s", session_id, exc)
            finally:
                self._store.reclaim()

    async def fork_session(self, asked: ForkSession, session_id: str, now: int) -> Session:
        """Store `session_id`, a copy of a session up to a message; with a known idempotency key, the copy that it made
        first. Raises unknown_session, unknown_message, idempotency_conflict."""
        with self._closing():
            return await self._store.paged.fork(asked, session_id, now)

    async def name_session(self, session_id: str, title: str, usage: Usage) -> bool:
        """Give the session a title unless a person has; see engine.storage.catalog.name. Raises unknown_session."""
        now = self._store.now_ms()
        work = functools.partial(catalog.name, session_id=session_id, title=title, usage=usage, now=now)
        return await self._write(work)

    async def is_named(self, session_id: str) -> bool:
        """Whether a person (or a model) gave the session's title. Raises unknown_session."""
        return await self._read(functools.partial(catalog.is_named, session_id=session_id))

    async def put_todos(self, session_id: str, todos: tuple[Todo, ...]) -> int:
        """Replace the session's list of what is to be done; the revision after it. Raises unknown_session."""
        now = self._store.now_ms()
        return await self._write(functools.partial(catalog.put_todos, session_id=session_id, todos=todos, now=now))

    def forget_rows(self, session_id: str) -> None:
        """Nobody works in this session: what is decoded of it leaves memory soon."""
        self._store.forget_rows(session_id)

    async def list_sessions(self, limit: int, cursor: str | None = None, query: str | None = None) -> SessionPage:
        """The latest change first; see engine.storage.catalog.page."""
        return await self._read(functools.partial(catalog.page, limit=limit, cursor=cursor, query=query))

    # ------------------------------------------------------------ transcripts
    async def messages(self, session_id: str, limit: int, cursor: str | None = None) -> MessagesPage:
        """A page for clients, the newest first; see engine.storage.reading.messages. Raises unknown_session."""
        bound = self._store.limits.string_bytes
        return await self._read(
            functools.partial(reading.messages, session_id=session_id, limit=limit, cursor=cursor, string_bytes=bound)
        )

    async def window(
        self,
        session_id: str,
        *,
        max_messages: int,
        max_bytes: int,
        start: int | None = None,
        run_id: str | None = None,
        media_bytes: int | None = None,
    ) -> Window:
        """What a model gets, its media included up to `media_bytes` (limits.window_media_bytes at most); see
        engine.storage.window. Raises unknown_session."""
        blobs = self._store.blobs.blobs
        limits = self._store.limits
        most = limits.window_media_bytes if media_bytes is None else min(media_bytes, limits.window_media_bytes)
        rows = self._store.rows

        def work(connection: Connection) -> Window:
            found = window.read(
                connection, session_id, max_messages, max_bytes, rows, start=start, run_id=run_id, limits=limits
            )
            return attrs.evolve(found, messages=with_media(found.messages, blobs, most))

        return await self._read(work)

    async def read_media(self, digest: str, offset: int, size: int) -> bytes:
        """At most `size` bytes of a blob of a window. Raises PeerError disk_full."""
        return await self._store.blobs.read(digest, offset, size)

    async def read_output(self, handle: str, offset: int, limit: int) -> OutputPiece:
        """A piece of a long string; see engine.storage.outputs.read. Raises unknown_output."""
        blobs = self._store.blobs.blobs
        return await self._read(functools.partial(outputs.read, blobs=blobs, handle=handle, offset=offset, limit=limit))

    async def read_own_output(self, session_id: str, handle: str, offset: int, limit: int) -> OutputPiece:
        """A piece of an output of this session that is a blob. Raises unknown_output."""
        blobs = self._store.blobs.blobs
        return await self._read(
            functools.partial(
                outputs.read_own, session_id=session_id, handle=handle, offset=offset, limit=limit, blobs=blobs
            )
        )

    async def final_message(self, run_id: str) -> FinalMessage | None:
        """The run's newest answer without its texts; None if it has none (or there is no such run)."""
        return await self._read(functools.partial(reading.final_message, run_id=run_id))

    # ------------------------------------------------------------ runs
    async def repeated_run(self, start: StartRun) -> StoredRun | None:
        """The run that an earlier request with the same idempotency key made; None without one. To be asked before
        the session is found busy with that very run. Raises idempotency_conflict."""
        claim = idempotency.claim("run.start", start)
        if claim is None:
            return None
        return await self._read(functools.partial(starting.repeated_run, claim=claim, now=self._store.now_ms()))

    async def start_run(
        self, run: Run, message: Message, start: StartRun, now: int, expected_revision: int | None = None
    ) -> StoredRun:
        """Store the user's message and its run, with `limits.seq_block` numbers reserved. Look at `repeated` of what
        is returned. Raises unknown_session, stale_revision, idempotency_conflict."""
        return await self._write(
            functools.partial(
                starting.start_run,
                run=run,
                message=message,
                seq_block=self._store.limits.seq_block,
                expected_revision=expected_revision,
                claim=idempotency.claim("run.start", start),
                now=now,
            )
        )

    async def start_compaction(self, run: Run, message_id: str) -> StoredRun:
        """Store a run that only compacts; see engine.storage.starting. Raises unknown_session."""
        block = self._store.limits.seq_block
        return await self._write(
            functools.partial(starting.start_compaction, run=run, message_id=message_id, seq_block=block)
        )

    async def steer_run(self, run: Run, message: Message, start: StartRun, now: int) -> StoredRun:
        """Store a user's message for the run at work. Look at `repeated` of what is returned. Raises
        unknown_session, stale_revision, idempotency_conflict."""
        return await self._write(
            functools.partial(
                starting.steer_run,
                run=run,
                message=message,
                expected_revision=start.expected_revision,
                claim=idempotency.claim("run.start", start),
                now=now,
            )
        )

    async def enqueue_run(self, run: Run, message: Message, start: StartRun, now: int) -> StoredRun:
        """Store a run at the end of its session's queue. Look at `repeated` of what is returned. Raises
        unknown_session, stale_revision, idempotency_conflict, queue_full."""
        return await self._write(
            functools.partial(
                waiting.enqueue,
                run=run,
                message=message,
                most=self._store.limits.queued_messages_max,
                expected_revision=start.expected_revision,
                claim=idempotency.claim("run.start", start),
                now=now,
            )
        )

    async def begin_queued(self, run_id: str, now: int) -> BegunRun | None:
        """Take the run out of its queue; None if it does not wait there."""
        return await self._write(
            functools.partial(waiting.begin, run_id=run_id, seq_block=self._store.limits.seq_block, now=now)
        )

    async def drop_queued(self, run: Run, now: int) -> bool:
        """Store the end of a run that waits; whether it did."""
        return await self._write(functools.partial(waiting.drop, run=run, now=now))

    async def grants(self, session_id: str) -> Grants:
        """What people allowed for the session. Raises unknown_session."""
        return await self._read(functools.partial(approvals.grants, session_id=session_id))

    async def decide_approval(
        self, session_id: str, run_id: str, call_id: str, resolution: Resolution, grant: Grant | None
    ) -> Grants | None:
        """Store a decision, with what it allows from now on; all grants of the session if there is any. Both are
        stored or neither."""
        return await self._write(
            functools.partial(
                approvals.decide,
                session_id=session_id,
                run_id=run_id,
                call_id=call_id,
                resolution=resolution,
                grant=grant,
            )
        )

    async def approval(self, run_id: str, call_id: str) -> Resolution | None:
        """How a call was decided; None if it was never asked."""
        return await self._read(functools.partial(approvals.find, run_id=run_id, call_id=call_id))

    async def queued_runs(self, session_id: str) -> list[Run]:
        """The session's queue in order. Raises unknown_session."""
        return await self._read(functools.partial(waiting.of_session, session_id=session_id))

    async def queued_sessions(self) -> list[str]:
        """The sessions that have a queue, the oldest message first."""
        return await self._read(waiting.sessions)

    def pins(self) -> Pins:
        """What one run makes of outputs and media before a part of it is stored; released when the run has ended."""
        return self._store.blobs.pins()

    def open_journal(self, session_id: str) -> RunJournal:
        """The journal of a run of this session."""
        return self._store.journals.open(session_id)

    async def get_run(self, run_id: str) -> Run:
        """Raises unknown_run."""
        return await self._read(functools.partial(ledger.get, run_id=run_id))

    async def list_runs(
        self, session_id: str | None, active: bool | None, limit: int, cursor: str | None = None
    ) -> RunPage:
        """Newest first; `active` None: all. Raises unknown_session."""
        return await self._read(
            functools.partial(ledger.page, session_id=session_id, active=active, limit=limit, cursor=cursor)
        )

    async def settle_open_runs(self) -> list[Run]:
        """End the runs that a crash left open; see engine.storage.starting. Before any run is started."""
        return await self._write(functools.partial(starting.settle_open_runs, now=self._store.now_ms()))

    async def settle_run(self, run: Run) -> None:
        """Store the end of a run whose own last commit failed; see engine.storage.starting."""
        await self._write(functools.partial(starting.settle_run, run=run, now=self._store.now_ms()))

    async def shrink(self) -> None:
        """Free what can be read again: decoded messages, the page caches of both connections. They fill with use."""
        rows = self._store.rows

        def work(connection: Connection) -> None:
            rows.clear()
            database.shrink(connection)

        await self._read(work)
        await self._write(database.shrink)

    # ------------------------------------------------------------
    def store_statistics(self) -> StoreStatistics:
        store = self._store
        figures = store.disk.statistics()
        return StoreStatistics(
            writes=figures.writes,
            commits=figures.commits,
            reads=figures.reads,
            waiting=figures.waiting,
            log_bytes=figures.log_bytes,
            journals=store.journals.journals,
            unsaved=store.journals.unsaved,
            rows=store.rows.statistics(),
            commit_seconds=figures.commit_seconds,
        )

    @property
    def _store(self) -> Insides:
        return cast(Insides, self._cell.actor)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        with self._closing():
            return await self._store.disk.write(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        with self._closing():
            return await self._store.disk.read(work)

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        except DiskClosed as exc:
            raise ActorDied(str(exc)) from None
