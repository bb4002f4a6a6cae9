"""The registry: every live session and every run in memory, by id.

It admits runs, revives sessions from the store when they are used, keeps ended runs for late watchers and drops
them when they are due (engine.runs.retention), driven by a timer so that an idle daemon frees too. Its own mailbox
never waits for a session or the disk: whatever does is deferred.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math

import attrs
import trio

from actors._actor import Actor, Cell
from actors._ask import ActorDied
from actors._feed import Closed, RunFeed, SessionFeed
from actors.admission import Admission
from actors.creating import Defaults, new_session
from actors.idle import Idle
from actors.registry_ref import RegistryRef, RegistryStatistics, Request
from actors.run import SHUTDOWN
from actors.services import Services
from actors.session import DELETED, SETTLE_DELAY, Session
from actors.session_ref import SessionRef, StartedRun
from actors.snapshots import final as final_snapshot
from engine import ids
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
from engine.errors import CallerError, EngineError
from engine.runs import approvals
from engine.runs.approvals import Resolution
from engine.runs.lifecycle import ACTIVE
from engine.runs.log import ReplayLog
from engine.runs.record import Run as RunRecord
from engine.runs.retention import Retention
from engine.storage.starting import StoredRun
from engine.transcript.session import Session as SessionRecord

_log = logging.getLogger("greenroom.registry")


class Registry(Actor):
    def __init__(self, services: Services, defaults: Defaults) -> None:
        self._services = services
        self._limits = services.limits
        self._defaults = defaults
        self._sessions: dict[str, SessionRef] = {}
        self._idle = Idle(self._sessions, self._limits)
        self._opening: dict[str, trio.Event] = {}  # sessions that are being revived or deleted right now
        self._runs: dict[str, RunFeed] = {}  # active and retained
        self._admission = Admission(self._limits.active_runs_max, self._give_place)
        self._retention = Retention(retention=self._limits.terminal_retention, most=self._limits.terminal_retained_max)
        self._retained_changed = trio.Event()

    def make_ref(self, cell: Cell) -> RegistryRef:
        return RegistryRef(cell)

    async def on_start(self) -> None:
        # No run is active below a registry that starts: what the store has as open was lost, by a crash or with
        # the registry before this one.
        for run in await self._services.store.settle_open_runs():
            _log.warning("%s of %s is settled as interrupted", run.id, run.session_id)
        self._admission.wait(await self._services.store.queued_sessions())
        self.cell.start_soon(self._evict)
        self.cell.start_soon(self._idle.run)

    async def handle(self, message: object) -> object:
        if isinstance(message, Request):
            # A client that has gone does not leave a session half deleted or a run half started.
            keep = message.method != "drain"
            return self.cell.defer(getattr(self, message.method), *message.arguments, keep=keep)
        return await super().handle(message)

    async def on_stopping(self, reason: str) -> None:
        self._admission.begin_drain()

    async def on_stop(self, reason: str) -> None:
        for feed in self._runs.values():
            feed.close("draining")

    def on_child_end(self, child: Cell, outcome: object) -> None:
        ref = self._sessions.get(child.name)
        if ref is child.ref:
            del self._sessions[child.name]
            self._unloaded(child.name, ref)

    def _unloaded(self, session_id: str, session: SessionRef) -> None:
        """A session has left memory and is in the store."""
        session.feed.close("draining")
        self._services.models.forget(session_id)
        with contextlib.suppress(ActorDied):
            self._services.store.forget_rows(session_id)
        for feed in [feed for feed in self._runs.values() if feed.run.session_id == session_id]:
            if feed.run.status == "queued":  # it waits in the store, and has a new feed when the session is back
                self._drop(feed.run.id, "draining")
                self._admission.wait([session_id])

    def figures(self) -> RegistryStatistics:
        return RegistryStatistics(
            sessions=len(self._sessions),
            active_runs=self._admission.active_runs,
            queued_runs=sum(feed.run.status == "queued" for feed in self._runs.values()),
            retained_runs=len(self._retention),
            log_bytes=self._services.budget.size,
        )

    # ------------------------------------------------------------ sessions
    async def create_session(self, new: NewSession) -> SessionRecord:
        self._admission.refuse_draining()
        record = await new_session(new, self._defaults, self._services)
        return await self._services.store.create_session(record, new, record.created_at)

    async def fork_session(self, asked: ForkSession) -> SessionRecord:
        self._admission.refuse_draining()
        return await self._services.store.fork_session(asked, ids.session_id(), self._services.now_ms())

    async def list_sessions(self, limit: int, cursor: str | None, query: str | None) -> SessionPage:
        page = await self._services.store.list_sessions(limit, cursor, query)
        return attrs.evolve(page, items=tuple(self._describe(record) for record in page.items))

    async def get_session(self, session_id: str) -> SessionRecord:
        return self._describe(await self._services.store.get_session(session_id))

    async def update_session(self, session_id: str, changes: SessionChanges) -> SessionRecord:
        if changes.model is not None and not self._services.models.has(changes.model):
            raise CallerError("unknown_model", f"no model is named {changes.model!r}")
        if changes.toolsets is not None:
            self._services.toolbox.check(changes.toolsets)
        while True:
            session = await self._session(session_id)
            try:
                return self._describe(await session.update(changes))
            except ActorDied:
                if not await self._again(session):
                    raise

    async def delete_session(self, session_id: str) -> None:
        await self._services.store.get_session(session_id)  # raises unknown_session
        done = await self._exclusively(session_id)
        try:
            await self._delete(session_id)
        finally:
            del self._opening[session_id]
            done.set()

    async def _delete(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            active = session.active
            if active is not None:
                await session.cancel_run(active.run.id, "its session was deleted")
            with contextlib.suppress(ActorDied):
                await session.settle()  # while the disk refuses everything it stays, to see to that
            self._sessions.pop(session_id, None)  # its feed is closed below, when it is known how
            await session.stop(DELETED)
        await self._services.toolbox.end_session(session_id)
        try:
            await self._services.store.delete_session(session_id)
        except BaseException:
            if session is not None:
                self._unloaded(session_id, session)
            raise
        if session is not None:
            session.feed.close("deleted")
            self._services.models.forget(session_id)
        self._admission.forget(session_id)
        for run_id in [feed.run.id for feed in self._runs.values() if feed.run.session_id == session_id]:
            self._drop(run_id, "deleted")

    async def messages(self, session_id: str, limit: int, cursor: str | None) -> MessagesPage:
        return await self._services.store.messages(session_id, limit, cursor)

    async def watch_session(self, session_id: str) -> SessionFeed:
        return (await self._session(session_id)).feed

    def session_changed(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:  # else nobody watches it
            session.changed()

    async def _session(self, session_id: str) -> SessionRef:
        """The session's actor, revived from the store if it is not live. Concurrent callers share one start."""
        while True:
            session = self._sessions.get(session_id)
            if (busy := self._opening.get(session_id)) is not None:
                await busy.wait()  # also if it is still live: it is being deleted
            elif session is None:
                break
            elif session.state == "running":
                return session
            else:
                await session.wait_ended()  # on_child_end forgets it
        done = self._opening[session_id] = trio.Event()
        try:
            record = await self._services.store.get_session(session_id)
            actor = Session(self._services, record, self)
            revived: SessionRef = await self.cell.start_child(actor, session_id, grace=2 * self._limits.cancel_grace)
            self._sessions[session_id] = revived
            self._idle.opened()
            return revived
        finally:
            del self._opening[session_id]
            done.set()

    async def _again(self, session: SessionRef) -> bool:
        """Whether to look a session up again that died between its look-up and the ask: it was passivated, or
        deleted. Not after a crash: the ask may have been its cause, or may have been carried out."""
        if session.state == "running" or self._admission.draining:
            return False
        return (await session.wait_ended()).end == "stopped"

    async def _exclusively(self, session_id: str) -> trio.Event:
        """Wait until nobody else opens or deletes the session, and keep others out until the event is set."""
        while (busy := self._opening.get(session_id)) is not None:
            await busy.wait()
        event = self._opening[session_id] = trio.Event()
        return event

    def _describe(self, record: SessionRecord) -> SessionRecord:
        session = self._sessions.get(record.id)
        active = session.active if session is not None else None
        return record if active is None else attrs.evolve(record, active_run_id=active.run.id)

    # ------------------------------------------------------------ runs
    async def start_run(self, start: StartRun) -> StartedRun:
        with self._admission.starting(start.session_id):
            while True:
                session = await self._session(start.session_id)
                try:
                    return await self._with_feed(await session.start_run(start))
                except ActorDied:
                    if not await self._again(session):
                        raise

    async def compact_session(self, session_id: str) -> StartedRun:
        with self._admission.starting(session_id):
            while True:
                session = await self._session(session_id)
                try:
                    return await session.compact()
                except ActorDied:
                    if not await self._again(session):
                        raise

    def _give_place(self, session_id: str) -> None:
        self.cell.start_soon(self._begin_next, session_id)

    async def _begin_next(self, session_id: str) -> None:
        again = False
        try:
            await (await self._session(session_id)).begin_next()
        except CallerError:
            return  # the session was deleted
        except (ActorDied, EngineError) as exc:
            _log.warning("the queue of %s waits: %s", session_id, exc)
            again = True
        finally:
            self._admission.begun_with(session_id)
        if again:
            await trio.sleep(SETTLE_DELAY)
            self._admission.wait([session_id])

    async def stop_run(self, run_id: str, reason: str | None) -> RunRecord:
        feed = await self._find(run_id)
        if isinstance(feed, RunRecord):
            return feed
        session = self._sessions.get(feed.run.session_id)
        if session is not None:
            await session.cancel_run(run_id, reason or "stopped by a client")
        return feed.record()

    async def reply_approval(self, run_id: str, call_id: str, resolution: Resolution) -> Resolution:
        feed = await self._find(run_id)
        session = self._sessions.get(feed.run.session_id) if isinstance(feed, RunFeed) else None
        given = await session.reply(run_id, call_id, resolution) if session is not None else None
        if given is not None and session is not None:
            if given.decision == "cancel":
                await session.cancel_run(run_id, resolution.reason or "cancelled where an approval was asked")
            return given
        earlier = await self._services.store.approval(run_id, call_id)
        if earlier is None:
            raise approvals.unknown(call_id)
        if (earlier.decision, earlier.by) != (resolution.decision, resolution.by):
            raise approvals.already_resolved(earlier.decision, earlier.by)
        return earlier

    async def _find(self, run_id: str) -> RunFeed | RunRecord:
        """The run's feed; of a run that has left memory its record. Raises unknown_run."""
        feed = self._runs.get(run_id)
        if feed is not None:
            return feed
        run = await self._services.store.get_run(run_id)
        if run.status == "queued":
            await self._session(run.session_id)  # whose queue it is in
            return self._runs.get(run_id) or await self._services.store.get_run(run_id)
        session = self._sessions.get(run.session_id)
        if run.status in ACTIVE and session is not None:
            # It was stored a moment ago, and its session is about to begin it.
            with contextlib.suppress(ActorDied):
                await session.begun()
        return self._runs.get(run_id) or run

    async def _with_feed(self, started: StartedRun | StoredRun) -> StartedRun:
        if isinstance(started, StartedRun):
            return started
        feed = await self.watch_run(started.run.id)
        return StartedRun(feed.record(), started.message_id, started.revision, feed)

    async def get_run(self, run_id: str) -> RunRecord:
        found = await self._find(run_id)
        return found.record() if isinstance(found, RunFeed) else found

    async def list_runs(self, session_id: str | None, active: bool | None, limit: int, cursor: str | None) -> RunPage:
        if session_id is not None:
            await self._services.store.get_session(session_id)  # raises unknown_session
        page = await self._services.store.list_runs(session_id, active, limit, cursor)
        live = (self._runs[run.id].record() if run.id in self._runs else run for run in page.items)
        # A run may have ended since the page was read.
        return attrs.evolve(page, items=tuple(run for run in live if active is not True or run.status in ACTIVE))

    async def watch_run(self, run_id: str) -> RunFeed:
        run = await self._find(run_id)
        if isinstance(run, RunFeed):
            return run
        log = ReplayLog(max_entries=1, max_bytes=1, last_seq=run.last_seq)
        feed = RunFeed(run, log)
        feed.snapshots_from(functools.partial(final_snapshot, self._services.store, run))
        feed.end()
        feed.close("evicted")
        return feed

    async def read_output(self, handle: str, offset: int, limit: int) -> OutputPiece:
        return await self._services.store.read_output(handle, offset, limit)

    # ------------------------------------------------------------ what sessions tell (session.Notices)
    def run_waits(self, feed: RunFeed) -> None:
        self._keep(feed)
        if not self._admission.is_active(feed.run.session_id):  # the run that it was to wait for has just ended
            self._admission.wait([feed.run.session_id])

    def _keep(self, feed: RunFeed) -> None:
        if feed.run.id not in self._runs:
            self._runs[feed.run.id] = feed
            self._services.budget.open(feed.log)

    def run_begun(self, feed: RunFeed) -> None:
        self._keep(feed)
        self._services.tally.runs_started += 1
        self._admission.begun(feed.run.id, feed.run.session_id)

    def run_ended(self, feed: RunFeed, *, more: bool) -> None:
        run_id = feed.run.id
        if feed.run.started_at is not None:  # not those that were cancelled in their queue
            self._services.tally.runs_ended[feed.run.status] += 1
        if feed.run.error is not None:  # its text may quote what people and models said
            _log.warning("%s %s: %s", run_id, feed.run.status, feed.run.error.code)
        self._services.budget.end(feed.log)
        # From here on the feed keeps the log alone: what the run's actor held goes with it.
        feed.snapshots_from(functools.partial(final_snapshot, self._services.store, feed.run))
        self._retention.ended(run_id, trio.current_time())
        self._retained_changed.set()
        if more:
            self._admission.wait([feed.run.session_id])
        self._admission.ended(run_id)

    # ------------------------------------------------------------ passivation and eviction
    async def passivate(self, idle: float) -> None:
        """Unload sessions that nobody has used for so long; they come back when they are."""
        await self._idle.unload(idle)

    async def _evict(self) -> None:
        while True:
            due = self._retention.next_due()
            deadline = math.inf if due is None else due
            with trio.move_on_at(deadline):
                await self._retained_changed.wait()
            self._retained_changed = trio.Event()
            for run_id in self._retention.due(trio.current_time()):
                self._drop(run_id, "evicted")
                self._services.tally.runs_evicted += 1

    def _drop(self, run_id: str, why: Closed) -> None:
        """Release everything that is held of an ended run; its watchers are told."""
        feed = self._runs.pop(run_id, None)
        self._retention.forget(run_id)
        if feed is not None:
            feed.close(why)
            self._services.budget.close(feed.log)
            session = self._sessions.get(feed.run.session_id)
            if session is not None:
                session.forget(feed)

    # ------------------------------------------------------------ the governor
    def shed_logs(self) -> int:
        return self._services.budget.shed()

    def memory_full(self, full: bool) -> None:
        self._admission.memory_full(full)

    # ------------------------------------------------------------ drain
    async def drain(self) -> None:
        await self._admission.drain()

    async def end_runs(self) -> None:
        self._admission.begin_drain()
        async with trio.open_nursery() as nursery:
            for session in tuple(self._sessions.values()):
                active = session.active
                if active is not None:
                    nursery.start_soon(session.cancel_run, active.run.id, SHUTDOWN)
