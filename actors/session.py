"""A session: the single writer of its transcript, and the parent of its runs.

One run at a time writes. The session stores the user's message first (durable before the reply), then starts the
run as its child. Stopping the session stops its runs; deleting it is the registry's business. The end of a run that
the disk refused is stored as soon as the disk takes it, and before anything else is added to the transcript.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import mimetypes
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._feed import RunFeed, SessionFeed
from actors.run import Run, RunRef, Services
from engine import ids
from engine.codec import DecodeError
from engine.commands import InputFile, SessionChanges, StartRun
from engine.errors import CallerError, EngineError, OwnError
from engine.runs import events
from engine.runs.events import RunFinished
from engine.runs.log import ReplayLog
from engine.runs.record import Run as RunRecord
from engine.storage.starting import StoredRun
from engine.tools import paths
from engine.transcript.records import FilePart, Message, Part, TextPart, UserMessage
from engine.transcript.session import Session as SessionRecord

# Between two attempts to store a run's end that the disk refused: soon after space was made, and no load until then.
SETTLE_DELAY: Final = 5.0
DELETED: Final = "deleted"  # the reason of a stop


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


@attrs.frozen(slots=True)
class _Begun:
    pass


class SessionRef(Ref):
    __slots__ = ()

    async def start_run(self, start: StartRun) -> StartedRun | StoredRun:
        """Store the message and start its run; for a repeated request what the first one stored, whose run may
        have ended and left memory. Raises CallerError (session_busy, stale_revision, …). Cancelled: a start that was
        begun goes on."""
        started: StartedRun | StoredRun = await self._do(_Start(start))
        return started

    async def update(self, changes: SessionChanges) -> SessionRecord:
        record: SessionRecord = await self._do(_Update(changes))
        return record

    async def begun(self) -> None:
        """Return when starts that were asked for before are over."""
        await self._do(_Begun())

    async def _do(self, message: object) -> Any:
        # No deadline here: a start may first join an old run, whose tools have their time to end.
        answer = await self._ask(message, timeout=None)
        if isinstance(answer, DecodeError):
            raise answer
        return answer

    @property
    def feed(self) -> SessionFeed:
        """What watchers of the session share. Looking at it is a use of the session."""
        actor = self._cell.actor
        assert isinstance(actor, Session)
        actor.use()
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
        self._lost: RunRecord | None = None  # a run whose end is not stored
        self._changed = trio.Event()
        self._used = trio.current_time()
        self._begun = trio.Event()  # the start of the active run is over
        self.active: RunFeed | None = None
        self.feed = SessionFeed(record)

    def make_ref(self, cell: Cell) -> SessionRef:
        return SessionRef(cell)

    async def on_start(self) -> None:
        self.cell.start_soon(self._publish)

    def on_child_end(self, child: Cell, outcome: object) -> None:
        # What an ended run held (its log, its last turn) is the registry's to keep or to drop.
        if self._run is child.ref:
            self._run = None

    async def handle(self, message: object) -> object:
        self._used = trio.current_time()
        try:
            match message:
                case _Start(start):
                    return await self._start(start)
                case _Update(changes):
                    record = await self._services.store.update_session(self._id, changes, self._services.now_ms())
                    self._changed.set()
                    return record
                case _Begun():
                    return None
        except DecodeError as exc:  # the caller's mistake, not this actor's: SessionRef raises it
            return exc
        return await super().handle(message)

    def use(self) -> None:
        """The session is not idle now."""
        self._used = trio.current_time()

    def idle_for(self, now: float) -> float:
        if self.active is not None or self.feed.watched or self._lost is not None:
            self._used = now
        return now - self._used

    async def cancel_run(self, run_id: str, reason: str) -> None:
        if self.active is not None and self.active.run.id == run_id:
            await self._begun.wait()  # it may be starting just now
        # A run that has settled is still joined: its actor ends a moment later.
        if self._run is not None and self._run.name == run_id:
            await self._run.cancel(reason)

    # ------------------------------------------------------------ starting a run
    async def _start(self, start: StartRun) -> StartedRun | StoredRun:
        services = self._services
        repeated = await services.store.repeated_run(start)
        if repeated is not None:
            return repeated
        await self._settle_lost()
        record = await services.store.get_session(self._id)
        model = start.model or record.model
        if not services.models.has(model):
            raise CallerError("unknown_model", f"no model is named {model!r}")
        if self.active is not None and self._run is not None:
            if start.when_busy != "interrupt":
                run_id = self.active.run.id
                raise CallerError("session_busy", f"run {run_id} is active in this session", run_id=run_id)
            await self._run.cancel("interrupted by a newer message")
            await self._settle_lost()
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
        log = ReplayLog(
            max_entries=limits.run_log_entries,
            max_bytes=limits.run_log_bytes,
            last_seq=run.first_seq - 1,
            budget=self._services.budget,
        )
        journal = self._services.store.open_journal(run.session_id)
        feed = RunFeed(run, log)
        actor = Run(self._services, record, feed, message, journal, self._settled)
        feed.snapshots_from(actor.snapshot)
        self.active = feed
        self._begun = trio.Event()
        self._on_run(feed)
        self.feed.add(feed)
        self._changed.set()
        try:
            ref: RunRef = await self.cell.start_child(actor, run.id)
            self._run = ref if ref.state != "ended" else None
        except BaseException as exc:
            journal.discard()
            now = self._services.now_ms()
            reason = "it could not be started"
            feed.run = attrs.evolve(run, status="interrupted", reason=reason, ended_at=now, last_seq=log.last_seq + 1)
            log.append(now, events.encode(RunFinished(status="interrupted", reason=reason, usage=run.usage)))
            feed.end()
            self._settled(feed, stored=False)
            if isinstance(exc, ActorDied):
                deleted = self.cell.stop_reason == DELETED
                raise CallerError("unknown_session" if deleted else "draining", "the session is being stopped") from exc
            if isinstance(exc, Exception):
                raise OwnError("internal", f"the run could not be started: {exc}") from exc
            raise
        finally:
            self._begun.set()
        return StartedRun(run, message.info.id, revision, feed)

    def _settled(self, feed: RunFeed, stored: bool) -> None:
        self.active = None
        self._on_settled(feed)
        self._changed.set()
        if not stored and self._lost is None and self.cell.nursery is not None:
            self._lost = feed.run
            self.cell.start_soon(self._settle_lost_in_time)

    async def _settle_lost(self) -> None:
        """Store the end that the disk refused, if there is one. Raises PeerError if it refuses again."""
        if self._lost is not None:
            await self._services.store.settle_run(self._lost)
            self._lost = None

    async def _settle_lost_in_time(self) -> None:
        while self._lost is not None:
            await trio.sleep(SETTLE_DELAY)
            with contextlib.suppress(EngineError):
                await self._settle_lost()

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
            try:
                data = base64.b64decode(item.data_base64 or "", validate=True)
            except binascii.Error as exc:
                raise DecodeError([("data_base64", f"is not base64: {exc}")]) from None
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
                with contextlib.suppress(EngineError):  # what cannot be read now is told with the next change
                    self.feed.change(self.describe(await self._services.store.get_session(self._id)))

    def describe(self, record: SessionRecord) -> SessionRecord:
        """The stored record with what only the actor knows."""
        return attrs.evolve(record, active_run_id=self.active.run.id if self.active is not None else None)
