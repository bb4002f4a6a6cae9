"""A session: the single writer of its transcript, and the parent of its runs.

One run at a time writes. The session stores the user's message first (durable before the reply), then starts the
run as its child. What is sent while a run is active is refused, waits in the session's queue, goes to the active run,
or ends it first, as the sender chose. The registry says when the next of the queue may begin, because the daemon has
a bound of active runs. Stopping the session stops its active run and leaves its queue; deleting it is the registry's
business. The end of a run that the disk refused is stored as soon as the disk takes it, and before anything else is
added to the transcript.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Final, Protocol

import attrs
import trio

from actors._actor import Actor, Cell
from actors._ask import ActorDied
from actors._feed import RunFeed, SessionFeed, Snapshot
from actors.inputs import check_length, user_message
from actors.queue import Queue
from actors.run import Run, RunRef
from actors.services import Services
from actors.session_ref import BeginNext, Begun, Compact, Drop, SessionRef, Settle, Start, StartedRun, Update
from actors.snapshots import final as final_snapshot
from actors.titles import Titles
from engine import ids
from engine.codec import DecodeError
from engine.commands import StartRun
from engine.errors import CallerError, EngineError, OwnError
from engine.runs import events
from engine.runs.approvals import Resolution
from engine.runs.events import RunFinished
from engine.runs.log import ReplayLog
from engine.runs.record import Run as RunRecord
from engine.storage.starting import StoredRun
from engine.transcript.compaction import request_message
from engine.transcript.records import Message
from engine.transcript.session import Session as SessionRecord
from engine.transcript.window import Marks

# Between two attempts to store a run's end that the disk refused: soon after space was made, and no load until then.
SETTLE_DELAY: Final = 5.0
# Runs after which a title is made while the session has none: a model that fails twice is not asked for ever.
TITLE_ATTEMPTS: Final = 2
DELETED: Final = "deleted"  # the reason of a stop


class Notices(Protocol):
    """What a session tells whoever keeps its runs for watchers: latched, synchronous."""

    def run_waits(self, feed: RunFeed) -> None:
        """A run waits in the queue: it can be watched and stopped. With none active, `begin_next` is to be called when
        there is a place for one."""

    def run_begun(self, feed: RunFeed) -> None:
        """A run is active. It may have been known before."""

    def run_ended(self, feed: RunFeed, *, more: bool) -> None:
        """A run has its terminal event. `more`: others wait in the session, and `begin_next` is to be called when
        there is a place for one."""


class Session(Actor):
    def __init__(self, services: Services, record: SessionRecord, notices: Notices) -> None:
        self._services = services
        self._id = record.id
        self._notices = notices
        self._run: RunRef | None = None
        self._pins = services.store.pins()  # of the message that is being stored
        self._marks = Marks()
        self._lost: RunRecord | None = None  # a run whose end is not stored
        self._changed = trio.Event()
        self._used = trio.current_time()
        self._titles_left = TITLE_ATTEMPTS
        self._handling = False  # a message, which may take long
        self._begun = trio.Event()  # the start of the active run is over
        self.active: RunFeed | None = None
        self.queue = Queue()
        self.feed = SessionFeed(record)

    def make_ref(self, cell: Cell) -> SessionRef:
        return SessionRef(cell)

    async def on_start(self) -> None:
        if self.feed.session.queued:
            for run in await self._services.store.queued_runs(self._id):
                self._wait(run)
        self.cell.start_soon(self._publish)

    def on_child_end(self, child: Cell, outcome: object) -> None:
        # What an ended run held (its log, its last turn) is the registry's to keep or to drop.
        if self._run is child.ref:
            self._run = None

    async def handle(self, message: object) -> object:
        self._handling = True
        try:
            match message:
                case Start(start):
                    return await self._start(start)
                case Compact():
                    return await self._compact()
                case Update(changes):
                    record = await self._services.store.update_session(self._id, changes, self._services.now_ms())
                    self._changed.set()
                    return record
                case Settle():
                    await self._settle_lost()
                    return None
                case Begun():
                    return None
                case BeginNext():
                    await self._begin_next()
                    return None
                case Drop(run_id, reason):
                    await self._drop(run_id, reason)
                    return None
        except DecodeError as exc:  # the caller's mistake, not this actor's: SessionRef raises it
            return exc
        finally:
            self._handling = False
            self._used = trio.current_time()
        return await super().handle(message)

    def use(self) -> None:
        """The session is not idle now."""
        self._used = trio.current_time()

    def changed(self) -> None:
        self._changed.set()

    @property
    def lost(self) -> bool:
        """The end of a run is not stored."""
        return self._lost is not None

    def idle_for(self, now: float) -> float:
        if self._handling or self.active is not None or self.queue or self.feed.watched or self._lost is not None:
            self._used = now
        return now - self._used

    async def reply(self, run_id: str, call_id: str, resolution: Resolution) -> Resolution | None:
        run = self._run
        return None if run is None or run.name != run_id else await run.reply(call_id, resolution)

    async def cancel_run(self, run_id: str, reason: str) -> None:
        if self.active is not None and self.active.run.id == run_id:
            await self._begun.wait()  # it may be starting just now
        # A run that has settled is still joined: its actor ends a moment later.
        if self._run is not None and self._run.name == run_id:
            await self._run.cancel(reason)

    # ------------------------------------------------------------ starting a run
    async def _start(self, start: StartRun) -> StartedRun | StoredRun:
        try:
            return await self._start_pinned(start)
        finally:
            self._pins.release()  # the stored message refers to what it needs

    async def _start_pinned(self, start: StartRun) -> StartedRun | StoredRun:
        services = self._services
        repeated = await services.store.repeated_run(start)
        if repeated is not None:
            return repeated
        await self._settle_lost()
        record = await services.store.get_session(self._id)
        model = start.model or record.model
        if not services.models.has(model):
            raise CallerError("unknown_model", f"no model is named {model!r}")
        ahead = self.active or self.queue.head
        if ahead is not None and start.when_busy != "interrupt":
            if start.when_busy == "reject":
                self._refuse_busy()
            check_length(start, services.limits)
            if start.when_busy == "steer" and self.active is not None and self._run is not None:
                taken = await self._steer(self._run, self.active, start, record)
                if taken is not None:
                    return taken  # else it is ending, or has no turn left: the message is the next
            return await self._enqueue(start, record, model)
        self._check_revision(start, record)
        now = services.now_ms()
        run = RunRecord(
            id=ids.run_id(), session_id=self._id, status="running", model=model, created_at=now, started_at=now
        )
        message = await self._message(start, run.id, record.cwd, now)
        expected = start.expected_revision
        if self._run is not None and start.when_busy == "interrupt":
            # Only when nothing can be wrong with the request any more: a refused one changes nothing.
            await self._run.cancel("interrupted by a newer message")
            await self._settle_lost()
            expected = None  # the end of that run is a change of our own
        stored = await services.store.start_run(run, message, start, now, expected)
        if stored.repeated:
            return stored
        return await self._launch(record, self._feed_of(stored.run), message, stored.revision)

    async def _compact(self) -> StartedRun:
        services = self._services
        await self._settle_lost()
        record = await services.store.get_session(self._id)
        if not services.models.has(record.model):
            raise CallerError("unknown_model", f"no model is named {record.model!r}")
        self._refuse_busy()
        now = services.now_ms()
        run = RunRecord(
            id=ids.run_id(), session_id=self._id, status="running", model=record.model, created_at=now, started_at=now
        )
        message = request_message(ids.message_id(), ids.part_id(), run.id, now)
        stored = await services.store.start_compaction(run, message.info.id)
        return await self._launch(record, self._feed_of(run), message, stored.revision, compacts=True)

    def _refuse_busy(self) -> None:
        ahead = self.active or self.queue.head
        if ahead is not None:
            run_id = ahead.run.id
            raise CallerError("session_busy", f"run {run_id} is active in this session", run_id=run_id)

    def _check_revision(self, start: StartRun, record: SessionRecord) -> None:
        if start.expected_revision is not None and start.expected_revision != record.revision:
            raise CallerError(
                "stale_revision",
                f"the session is at revision {record.revision}, not {start.expected_revision}",
                revision=record.revision,
            )

    async def _message(self, start: StartRun, run_id: str, cwd: str, now: int) -> Message:
        services = self._services
        return await user_message(
            start,
            run_id=run_id,
            cwd=cwd,
            now=now,
            toolbox=services.toolbox,
            pins=self._pins,
            limits=services.limits,
        )

    def _feed_of(self, run: RunRecord) -> RunFeed:
        limits = self._services.limits
        log = ReplayLog(
            max_entries=limits.run_log_entries,
            max_bytes=limits.run_log_bytes,
            last_seq=run.first_seq - 1,
            budget=self._services.budget,
        )
        return RunFeed(run, log)

    async def _launch(
        self, record: SessionRecord, feed: RunFeed, message: Message, revision: int, *, compacts: bool = False
    ) -> StartedRun:
        run = feed.run
        journal = self._services.store.open_journal(run.session_id)
        actor = Run(self._services, record, feed, message, journal, self._settled, self._marks, compacts=compacts)
        feed.snapshots_from(actor.snapshot)
        self.active = feed
        self._begun = trio.Event()
        self._notices.run_begun(feed)
        self.feed.add(feed)
        self._changed.set()
        try:
            ref: RunRef = await self.cell.start_child(actor, run.id)
            self._run = ref if ref.state != "ended" else None
        except BaseException as exc:
            journal.discard()
            if not feed.ended:
                await self._settle_unstarted(feed)
            if isinstance(exc, ActorDied):
                deleted = self.cell.stop_reason == DELETED
                raise CallerError("unknown_session" if deleted else "draining", "the session is being stopped") from exc
            if isinstance(exc, Exception):
                raise OwnError("internal", f"the run could not be started: {exc}") from exc
            raise
        finally:
            self._begun.set()
        return StartedRun(run, message.info.id, revision, feed)

    async def _settle_unstarted(self, feed: RunFeed) -> None:
        """The end of a run that was stored and has no actor: stored before it is shown, if the disk takes it now."""
        end = attrs.evolve(
            feed.run,
            status="interrupted",
            reason="it could not be started",
            ended_at=self._services.now_ms(),
            last_seq=feed.log.last_seq + 1,
        )
        stored = False
        with (
            trio.CancelScope(shield=True, deadline=trio.current_time() + self._services.limits.cancel_grace),
            contextlib.suppress(EngineError, ActorDied),
        ):
            await self._services.store.settle_run(end)
            stored = True
        self._show_end(feed, end)
        self._settled(feed, stored=stored)

    def _settled(self, feed: RunFeed, stored: bool) -> None:
        self.active = None
        self._notices.run_ended(feed, more=bool(self.queue))
        self._changed.set()
        if stored and feed.run.status == "completed":
            self._name_soon()
        if not stored and self._lost is None and self.cell.nursery is not None:
            self._lost = feed.run
            self.cell.start_soon(self._settle_lost_in_time)

    async def _steer(
        self, run: RunRef, feed: RunFeed, start: StartRun, record: SessionRecord
    ) -> StartedRun | StoredRun | None:
        self._check_revision(start, record)
        message = await self._message(start, feed.run.id, record.cwd, self._services.now_ms())
        stored = await run.steer(message, start)
        if stored is None or stored.repeated:
            return stored
        self._changed.set()
        return StartedRun(feed.record(), message.info.id, stored.revision, feed)

    def _name_soon(self) -> None:
        if self._services.titles is not None and self._titles_left and self.cell.state == "running":
            self._titles_left -= 1
            self.cell.start_soon(self._name, self._services.titles)

    async def _name(self, titles: Titles) -> None:
        await titles.make(self._id)
        self._changed.set()

    # ------------------------------------------------------------ the queue
    async def _enqueue(self, start: StartRun, record: SessionRecord, model: str) -> StartedRun | StoredRun:
        self._check_revision(start, record)
        now = self._services.now_ms()
        run = RunRecord(id=ids.run_id(), session_id=self._id, status="queued", model=model, created_at=now)
        message = await self._message(start, run.id, record.cwd, now)
        stored = await self._services.store.enqueue_run(run, message, start, now)
        if stored.repeated:
            return stored
        feed = self._wait(stored.run)
        self._changed.set()
        return StartedRun(feed.run, message.info.id, stored.revision, feed)

    def _wait(self, run: RunRecord) -> RunFeed:
        feed = self._feed_of(run)
        feed.snapshots_from(functools.partial(self._nothing_yet, feed))
        self.queue.add(feed)
        self._notices.run_waits(feed)
        return feed

    async def _nothing_yet(self, feed: RunFeed) -> Snapshot:
        return await final_snapshot(self._services.store, feed.record())

    async def _begin_next(self) -> None:
        await self._settle_lost()
        feed = self.queue.head
        if self.active is not None or feed is None:
            return
        store = self._services.store
        record = await store.get_session(self._id)  # before it is begun: nothing may fail between that and its start
        begun = await store.begin_queued(feed.run.id, self._services.now_ms())
        assert begun is not None, "this session alone takes runs out of its queue"
        self.queue.take(begun.run.id)
        feed.run = begun.run
        with contextlib.suppress(EngineError):  # told as the run's end
            await self._launch(record, feed, begun.message, begun.revision)

    async def _drop(self, run_id: str, reason: str) -> None:
        feed = self.queue.get(run_id)
        if feed is None:
            return  # it has begun
        now = self._services.now_ms()
        end = attrs.evolve(
            feed.run, status="cancelled", reason=reason, ended_at=now, position=None, last_seq=feed.log.last_seq + 1
        )
        await self._services.store.drop_queued(end, now)
        self.queue.take(run_id)
        self._show_end(feed, end)
        self._notices.run_ended(feed, more=False)
        self._changed.set()

    def _show_end(self, feed: RunFeed, end: RunRecord) -> None:
        """The end of a run that has no actor."""
        feed.run = end
        feed.log.append(
            self._services.now_ms(),
            events.encode(RunFinished(status=end.status, reason=end.reason, error=end.error, usage=end.usage)),
        )
        feed.end()

    # ------------------------------------------------------------ ends that the disk refused
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
