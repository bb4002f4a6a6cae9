"""A run: one user message taken to exactly one terminal event.

The run's work is one background task under a scope of its own: turn after turn, a model's answer is streamed and
its tool calls are made. Whatever ends the work (success, an error, a stop, a cancelled scope further out) the same
settling follows, shielded with a deadline: the open turn is closed so that the history is valid, everything is
durable, and `run.finished` is shown last.

What was handed to the store and not shown yet when the work is cut short is shown before the end: text and events
never differ. If the disk refuses while a run settles, its end is shown as `interrupted` with `disk_full`, and its
session stores that end as soon as the disk takes it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._feed import RunFeed
from actors.answers import Answers
from actors.calls import Calls
from actors.compaction import OVERFLOW, Compactor
from actors.ends import End, lost_end
from actors.journal import RunJournal
from actors.progress import Progress, events_of
from actors.services import Services
from actors.snapshots import StoredSnapshot
from actors.toolset import Tools
from actors.windows import Windows
from engine import ids
from engine.commands import StartRun
from engine.errors import CallerError, EngineError, PeerError
from engine.providers.base import ModelRequest
from engine.runs.approvals import Resolution
from engine.runs.events import RunFinished, RunStatus
from engine.runs.lifecycle import Status, advance
from engine.runs.record import Run as RunRecord
from engine.runs.turn import Turn
from engine.storage.changes import PutRun
from engine.storage.starting import StoredRun
from engine.tools.names import provider_names
from engine.transcript.records import AssistantMessage, Failure, Finish, Message
from engine.transcript.session import Session
from engine.transcript.window import Marks
from engine.wire import events as wire_events

_log = logging.getLogger("greenroom.run")

SHUTDOWN: Final = "shutdown"


class RunRef(Ref):
    __slots__ = ()

    async def cancel(self, reason: str) -> None:
        """Stop the run as `cancelled`; returns when it has settled and everything of it has ended. Idempotent."""
        actor = self._cell.actor
        assert isinstance(actor, Run)
        actor.cancelled_by = actor.cancelled_by or reason
        await self.stop(reason)

    async def steer(self, message: Message, start: StartRun) -> StoredRun | None:
        """See Run.steer. Cancelled: the message is stored and shown, or nothing has happened."""
        actor = self._cell.actor
        assert isinstance(actor, Run)
        return await actor.steer(message, start)

    async def reply(self, call_id: str, resolution: Resolution) -> Resolution | None:
        """See Run.reply. Cancelled: decided and shown, or nothing has happened."""
        actor = self._cell.actor
        assert isinstance(actor, Run)
        return await actor.reply(call_id, resolution)


class Run(Actor):
    """See the module. `on_settled` is called once, synchronously, after the last event is in the log, with the feed
    and whether the end is stored. A run that `compacts` does nothing else, and `message` is not stored."""

    mailbox_messages = 1  # takes no messages: stop and events have ways of their own

    def __init__(
        self,
        services: Services,
        session: Session,
        feed: RunFeed,
        message: Message,
        journal: RunJournal,
        on_settled: Callable[[RunFeed, bool], None],
        marks: Marks,
        *,
        compacts: bool = False,
    ) -> None:
        self._services = services
        self._limits = services.limits
        self._session = session
        self._feed = feed
        self._message = message
        self._journal = journal
        self._on_settled = on_settled
        self._pins = services.store.pins()
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._settling = False
        self._boundary = trio.Lock()  # a turn begins, or a message is taken in
        self._steered = 0  # messages that no turn has seen
        self._ending = compacts  # it takes no messages in
        self._status: Status = "running"
        self._progress = Progress(feed, journal, services.limits, services.now_ms)
        self._answers = Answers(services.models, services.limits, self._progress, services.now_ms, services.random)
        self._windows = Windows(services, session, feed.run.id, feed.run.model, marks)
        self._compactor = Compactor(
            services, feed, self._progress, self._answers, self._windows, None if compacts else message.info.id
        )
        self._compacts = compacts
        self._calls = Calls(services, session, feed, self._progress, self._pins)
        self._clock = trio.CancelScope()  # of the whole run
        self._left = 0.0  # seconds that it had when a person was waited for
        self.cancelled_by: str | None = None

    def make_ref(self, cell: Cell) -> RunRef:
        return RunRef(cell)

    async def on_start(self) -> None:
        self._feed.log.append(
            self._services.now_ms(),
            wire_events.run_started(self._session.id, self._feed.run.model, self._message),
        )
        self._feed.ring()
        self.cell.start_soon(self._main)

    async def on_stopping(self, reason: str) -> None:
        if not self._settling:
            self._become("stopping")
        self._scope.cancel(reason=reason)
        await self._settled.wait()

    # ------------------------------------------------------------ the work
    async def _main(self) -> None:
        end: End | None = None  # stands when an enclosing scope is cancelled
        try:
            try:
                with self._scope:
                    end = await self._attempt()
                if self._scope.cancelled_caught:
                    end = self._stopped()
            except Exception as exc:  # noqa: BLE001 - what broke while a cancellation was on its way through
                end = self._failed(exc)
        finally:
            self._settling = True
            if end is None:
                # Who was asked to stop and did not come to it in the time for that was stopped all the same.
                asked = self._scope.cancel_called
                end = self._stopped() if asked else End("interrupted", "interrupted", "the daemon stopped")
            lost = lost_end(trio.TooSlowError())
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.cancel_grace):
                async with self._boundary:  # a message that is being taken in is shown before the end
                    lost = await self._settle(end)
            if not self._feed.ended:
                self._journal.discard()
                self._finish(self._record(lost, self._feed.log.last_seq + 1), stored=False)
            self._pins.release()
            self._settled.set()
            self.cell.finish("settled")

    def _stopped(self) -> End:
        asked = self.cell.stop_reason
        if self.cancelled_by is not None or asked == SHUTDOWN:
            return End("cancelled", "cancelled", self.cancelled_by or asked)
        return End("interrupted", "interrupted", asked)

    async def _attempt(self) -> End:
        """All turns; errors become the end that they mean."""
        try:
            with trio.move_on_after(self._limits.run_timeout) as self._clock:
                return await (self._compact() if self._compacts else self._turns())
            message = f"the run did not end in {self._limits.run_timeout:g} s"
            return End("failed", "error", error=Failure(code="deadline", message=message))
        except Exception as exc:  # noqa: BLE001 - a run ends in its own terminal state, whatever broke it
            return self._failed(exc)

    def _failed(self, exc: BaseException) -> End:
        while isinstance(exc, BaseExceptionGroup):
            exc = exc.exceptions[0]
        if self._scope.cancel_called:
            # What a service answers meanwhile is no news, a defect is.
            defect = None if isinstance(exc, EngineError) else exc
            _log.warning("%s was stopped, and met an error on its way out: %s", self._feed.run.id, exc, exc_info=defect)
            return self._stopped()
        if isinstance(exc, ActorDied):
            return lost_end(exc)
        if isinstance(exc, EngineError):
            return End("failed", "error", error=Failure(code=exc.code, message=exc.message))
        ref = ids.new_id("ref")
        _log.error("%s failed by a defect, ref %s", self._feed.run.id, ref, exc_info=exc, extra={"ref": ref})
        return End("failed", "error", error=Failure(code="internal", message=f"a defect of the daemon, ref {ref}"))

    async def _turns(self) -> End:
        for number in range(1, self._limits.turns_per_run + 1):
            tools = await self._services.toolbox.tools(self._session.toolsets)  # some may have come since the last turn
            known = [spec.name for spec in tools.specs]
            self._windows.give_tools(tools.specs, tools.note)
            turn = await self._answer(number, tools, provider_names(known))
            over = not turn.calls or turn.full
            finish: Finish = "tool_calls"
            if over:
                finish = "length" if turn.full else turn.finish or "stop"
                if not await self._goes_on():
                    return End("completed", finish)
            await self._progress.apply_held()
            if not over:
                await self._calls.run(turn, known, self._on_waiting)
            if number == self._limits.turns_per_run:
                finish = "max_turns"
            step = turn.interrupt(finish, "the answer reached its bound", self._services.now_ms())
            await self._progress.apply(self._progress.counted(turn, step))
        message = f"the run made {self._limits.turns_per_run} turns without an end"
        return End("failed", "max_turns", error=Failure(code="max_turns", message=message))

    async def _compact(self) -> End:
        if await self._compactor.by_hand():
            return End("completed", "stop")
        return End("completed", "stop", "there was too little that a summary could take the place of")

    async def _answer(self, number: int, tools: Tools, names: Mapping[str, str]) -> Turn:
        """A turn with the model's answer, which is asked for again with less if it was too much."""
        while True:
            try:
                turn = await self._answers.answer(functools.partial(self._begin, number, tools, names))
            except PeerError as exc:
                if self._progress.turn is None or not (exc.code == OVERFLOW or exc.data.get("images")):
                    raise
                failure = Failure(code=exc.code, message=exc.message)
                turn = self._progress.turn
                step = turn.interrupt("error", failure.message, self._services.now_ms(), failure)
                await self._progress.apply(self._progress.counted(turn, step))
                await self._compactor.after_overflow(exc)
            else:
                self._compactor.answered(turn.usage)
                return turn

    async def _begin(self, number: int, tools: Tools, names: Mapping[str, str]) -> tuple[Turn, ModelRequest]:
        run = self._feed.run
        info = AssistantMessage(
            id=ids.message_id(),
            created_at=self._services.now_ms(),
            run_id=run.id,
            parent_id=self._message.info.id,
            model=run.model,
        )
        turn = Turn(number, info, limits=self._limits, full_name=lambda name: names.get(name, name))
        compacted = False
        while True:
            async with self._boundary:  # what is sent to the run now is in the window, or behind this turn's message
                window = await self._windows.read()
                if compacted or not self._compactor.is_due(window):
                    self._steered = 0
                    self._ending = number == self._limits.turns_per_run
                    self._progress.turn = turn
                    await self._progress.apply(turn.begin())
                    break
            await self._compactor.in_time(window)
            compacted = True
        return turn, ModelRequest(
            model=run.model,
            instructions="\n\n".join(filter(None, (self._session.instructions, tools.note))) or None,
            messages=window.messages,
            tools=tools.specs,
            media=self._services.store.read_media,
            session_id=self._session.id,
        )

    # ------------------------------------------------------------ messages to the run at work
    async def steer(self, message: Message, start: StartRun) -> StoredRun | None:
        """Take the user's message in: it is the transcript's last when this returns, and the next turn has it. None
        if the run is ending. Raises CallerError queue_full, and as StoreRef.steer_run."""
        async with self._boundary:
            if self._settling or self._ending or self._scope.cancel_called:
                return None  # or the turn at work is the last that the run may make
            most = self._limits.queued_messages_max
            if self._steered >= most:
                raise CallerError("queue_full", f"{most} messages wait for the run's next turn, which is its bound")
            shown = wire_events.message_steered(message)
            await self._progress.reserve([shown])
            await self._journal.commit()  # the message of the turn at work comes before this one
            stored = await self._services.store.steer_run(self._feed.run, message, start, self._services.now_ms())
            if not stored.repeated:
                self._steered += 1
                await self._progress.reserve([shown])  # others may have used the numbers meanwhile
                self._progress.show([shown])
            return stored

    async def _goes_on(self) -> bool:
        """Whether there is something to answer yet; if not, no message is taken in any more."""
        async with self._boundary:
            self._ending = not self._steered
            return not self._ending

    # ------------------------------------------------------------ people
    async def reply(self, call_id: str, resolution: Resolution) -> Resolution | None:
        """Decide an approval; see Calls.reply. None if the run is ending: what waited is decided by that."""
        async with self._boundary:
            return None if self._settling else await self._calls.reply(call_id, resolution)

    def _on_waiting(self, waiting: bool) -> None:
        """The time in which a person is waited for does not count."""
        now = trio.current_time()
        if waiting:
            self._left = self._clock.deadline - now
        self._clock.deadline = math.inf if waiting else now + self._left
        if self._status != "stopping":
            self._become("waiting_approval" if waiting else "running")

    def _become(self, status: Status) -> None:
        self._status = advance(self._status, status)
        self._feed.run = attrs.evolve(self._feed.run, status=status)
        self._progress.show([RunStatus(status=status)])

    # ------------------------------------------------------------ for watchers that come too late
    async def snapshot(self) -> StoredSnapshot:
        """The message being written as of the log's head now; its text is read from the store."""
        return await self._progress.snapshot(self._services.store, self._message.info.id, self._calls.approvals.shown())

    # ------------------------------------------------------------ the end
    async def _settle(self, end: End) -> End:
        """Close the open turn, commit, and show the end. If the store refuses, what the end is to be shown as."""
        step = self._progress.take_unshown()
        waiting = self._calls.give_up()
        step.changes += waiting.changes
        step.facts += waiting.facts
        turn = self._progress.turn
        if turn is not None and not turn.closed:
            last = turn.interrupt(end.finish, end.why, self._services.now_ms(), end.error)
            self._progress.counted(turn, last)
            step.changes += last.changes
            step.facts += last.facts
        try:
            if not self._journal.healthy:  # the commit that failed behind our back may succeed now
                with contextlib.suppress(EngineError):
                    await self._journal.commit()
            await self._progress.reserve(step.facts)
            record = self._record(end, self._feed.log.last_seq + events_of(step.facts) + 1)
            step.changes.append(PutRun(record))
            await self._progress.apply(step)
        except Exception as exc:  # noqa: BLE001 - whatever broke it, watchers are told that the run has ended
            _log.error("%s could not be settled", self._feed.run.id, exc_info=exc)
            return lost_end(exc)
        self._finish(record, stored=True)
        return end

    def _record(self, end: End, last_seq: int) -> RunRecord:
        return attrs.evolve(
            self._feed.run,
            status=end.status,
            ended_at=self._services.now_ms(),
            reason=end.reason,
            error=end.error,
            last_seq=last_seq,
        )

    def _finish(self, record: RunRecord, *, stored: bool) -> None:
        self._status = advance(self._status, record.status)
        self._feed.run = record
        self._progress.show(
            [RunFinished(status=record.status, reason=record.reason, error=record.error, usage=record.usage)]
        )
        self._feed.end()
        self._on_settled(self._feed, stored)
