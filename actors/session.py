"""A session: the single writer of its transcript, and the parent of its runs.

One run at a time writes. The session stores the user's message first (durable before the reply), then starts the
run as its child. Stopping the session stops its runs; deleting it is the registry's business.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._feed import RunFeed, SessionFeed
from actors.run import Run, RunRef, Services
from engine import ids
from engine.commands import InputFile, SessionChanges, StartRun
from engine.errors import CallerError, OwnError
from engine.runs.log import ReplayLog
from engine.runs.record import Run as RunRecord
from engine.storage.starting import StoredRun
from engine.tools import paths
from engine.transcript.records import FilePart, Message, Part, TextPart, UserMessage
from engine.transcript.session import Session as SessionRecord


@attrs.frozen(slots=True)
class StartedRun:
    """The answer to a started run. `feed` begins at its first event."""

    run: RunRecord
    message_id: str
    revision: int
    feed: RunFeed


@attrs.frozen(slots=True)
class _Start:
    start: StartRun


@attrs.frozen(slots=True)
class _Update:
    changes: SessionChanges


class SessionRef(Ref):
    __slots__ = ()

    async def start_run(self, start: StartRun) -> StartedRun | StoredRun:
        """Store the message and start its run; for a repeated request what the first one stored, whose run may
        have ended and left memory. Raises CallerError (session_busy, stale_revision, …)."""
        started: StartedRun | StoredRun = await self._ask(_Start(start))
        return started

    async def update(self, changes: SessionChanges) -> SessionRecord:
        record: SessionRecord = await self._ask(_Update(changes))
        return record

    @property
    def feed(self) -> SessionFeed:
        """What watchers of the session share."""
        actor = self._cell.actor
        assert isinstance(actor, Session)
        return actor.feed

    @property
    def active(self) -> RunFeed | None:
        """The run that is writing now."""
        actor = self._cell.actor
        assert isinstance(actor, Session)
        return actor.active

    def idle_for(self, now: float) -> float:
        """Seconds since the session was last used, at `now` on trio's clock; 0 while it has a run or a watcher."""
        actor = self._cell.actor
        assert isinstance(actor, Session)
        return actor.idle_for(now)

    async def cancel_run(self, run_id: str, reason: str) -> None:
        """Cancel the run and wait for its end; nothing if it is not active."""
        actor = self._cell.actor
        assert isinstance(actor, Session)
        await actor.cancel_run(run_id, reason)


class Session(Actor):
    """`on_run` and `on_settled` are latched notices to the registry: a run was started, a run has ended."""

    def __init__(
        self,
        services: Services,
        record: SessionRecord,
        on_run: Callable[[RunFeed], None],
        on_settled: Callable[[RunFeed], None],
    ) -> None:
        self._services = services
        self._id = record.id
        self._on_run = on_run
        self._on_settled = on_settled
        self._run: RunRef | None = None
        self._changed = trio.Event()
        self._used = trio.current_time()
        self.active: RunFeed | None = None
        self.feed = SessionFeed(record)

    def make_ref(self, cell: Cell) -> SessionRef:
        return SessionRef(cell)

    async def on_start(self) -> None:
        self.cell.start_soon(self._publish)

    async def handle(self, message: object) -> object:
        self._used = trio.current_time()
        match message:
            case _Start(start):
                return await self._start(start)
            case _Update(changes):
                record = await self._services.store.update_session(self._id, changes, self._services.now_ms())
                self._changed.set()
                return record
        return await super().handle(message)

    def idle_for(self, now: float) -> float:
        if self.active is not None or self.feed.watched:
            self._used = now
        return now - self._used

    async def cancel_run(self, run_id: str, reason: str) -> None:
        # A run that has settled is still joined: its actor ends a moment later.
        if self._run is not None and self._run.name == run_id:
            await self._run.cancel(reason)

    # ------------------------------------------------------------ starting a run
    async def _start(self, start: StartRun) -> StartedRun | StoredRun:
        services = self._services
        repeated = await services.store.repeated_run(start)
        if repeated is not None:
            return repeated
        record = await services.store.get_session(self._id)
        model = start.model or record.model
        if not services.models.has(model):
            raise CallerError("unknown_model", f"no model is named {model!r}")
        if self.active is not None and self._run is not None:
            if start.when_busy != "interrupt":
                run_id = self.active.run.id
                raise CallerError("session_busy", f"run {run_id} is active in this session", run_id=run_id)
            await self._run.cancel("interrupted by a newer message")
            record = await services.store.get_session(self._id)
        if start.expected_revision is not None and start.expected_revision != record.revision:
            raise CallerError(
                "stale_revision",
                f"the session is at revision {record.revision}, not {start.expected_revision}",
                revision=record.revision,
            )
        now = services.now_ms()
        run = RunRecord(
            id=ids.run_id(), session_id=self._id, status="running", model=model, created_at=now, started_at=now
        )
        message = await self._message(start, run.id, record.cwd, now)
        stored = await services.store.start_run(run, message, start, now)
        if stored.repeated:
            return stored
        return await self._launch(record, stored.run, message, stored.revision)

    async def _launch(self, record: SessionRecord, run: RunRecord, message: Message, revision: int) -> StartedRun:
        limits = self._services.limits
        log = ReplayLog(max_entries=limits.run_log_entries, max_bytes=limits.run_log_bytes, last_seq=run.first_seq - 1)
        journal = self._services.store.open_journal(run.session_id)
        feed = RunFeed(run, log)
        actor = Run(self._services, record, feed, message, journal, self._settled)
        feed.snapshots_from(actor.snapshot)
        self.active = feed
        self._on_run(feed)
        try:
            self._run = await self.cell.start_child(actor, run.id)
        except BaseException as exc:
            # The run is stored but was never begun: the next start of the daemon settles it as interrupted.
            self.active = None
            feed.run = attrs.evolve(run, status="interrupted", reason="it could not be started")
            feed.end()
            self._on_settled(feed)
            if isinstance(exc, Exception):
                raise OwnError("internal", f"the run could not be started: {exc}") from exc
            raise
        self.feed.add(feed)
        self._changed.set()
        return StartedRun(run, message.info.id, revision, feed)

    def _settled(self, feed: RunFeed) -> None:
        self.active = None
        self._on_settled(feed)
        self._changed.set()

    # ------------------------------------------------------------ the user's message
    async def _message(self, start: StartRun, run_id: str, cwd: str, now: int) -> Message:
        parts: list[Part] = []
        for item in start.input:
            if isinstance(item, str):
                parts.append(TextPart(id=ids.part_id(), text=item))
            else:
                parts.append(await self._file(item, cwd))
        return Message(UserMessage(id=ids.message_id(), created_at=now, run_id=run_id), tuple(parts))

    async def _file(self, item: InputFile, cwd: str) -> FilePart:
        limit = self._services.limits.inline_media_bytes
        if item.path is not None:
            data = await self._services.toolbox.in_thread(paths.read_whole, cwd, item.path, limit)
            name = item.name or item.path.rpartition("/")[2]
        else:
            data = base64.b64decode(item.data_base64 or "", validate=True)
            name = item.name or "file"
        if len(data) > limit:
            raise CallerError("payload_too_large", f"{name} is over {limit} bytes", limit=limit)
        mime = item.mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
        encoded = base64.b64encode(data).decode()
        return FilePart(id=ids.part_id(), mime=mime, size=len(data), name=name, data_base64=encoded)

    # ------------------------------------------------------------ for watchers
    async def _publish(self) -> None:
        """Keep the watchers' record fresh. Changes that come while it is read are told together."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if self.feed.watched:
                record = await self._services.store.get_session(self._id)
                self.feed.change(self.describe(record))

    def describe(self, record: SessionRecord) -> SessionRecord:
        """The stored record with what only the actor knows."""
        return attrs.evolve(record, active_run_id=self.active.run.id if self.active is not None else None)
