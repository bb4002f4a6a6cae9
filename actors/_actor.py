"""The actor kernel: one task tree with private state, a bounded mailbox and a life cycle.

The numbered life of every actor (`_live`):

1. its nursery opens; its cancel scope is the actor's own, children and background tasks live in it
2. `on_start` runs under the start deadline; only when it returns does the starter get the Ref
3. running: the mailbox is served, one message at a time
4. stop is asked (never through the mailbox): nothing is accepted any more, waiting asks fail, the grace
   deadline is set on the cancel scope
5. `on_stopping` runs: make no new work
6. children are stopped, all together (a supervisor has stopped its own one by one in step 5)
7. `on_stop` runs: leave what must outlive the actor in order
8. what is left in the nursery is cancelled with the reason
9. ended: every waiting ask has failed with ActorDied, the watchers and the parent are told, stop returns

A stop during step 2 cancels `on_start` at once; then, as after a start that failed, children that it started
are stopped, and steps 5 and 7 are left out. When the grace ends, or an actor above crashes, the steps
to 8 are cut short by trio.Cancelled and 9 follows all the same. Asks go one way (gateway, registry, session,
run, toolset, store); a notice upwards is a plain synchronous call into a latch that always has room. That is
why bounded mailboxes cannot deadlock here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, Final

import trio

from actors._ask import ActorDied, Deferrals, Deferred, Envelope
from actors._ending import Ending, split_failure
from actors._log_context import enter_actor
from actors._mailbox import Mailbox
from actors._ref import Ref as Ref
from actors._statistics import ActorStatistics, Outcome, State
from engine import limits
from engine.errors import EngineError

_log = logging.getLogger("greenroom.actors")

# Cancelling or starting 10,000 tasks at once stalls the loop for most of a second: in slices it keeps turning.
SLICE: Final = 100
# Between the deadlines of two slices, in seconds: a few times what killing a slice takes.
SLICE_PAUSE: Final = 0.02
# Messages handled without a checkpoint of the handler's own before the loop gives way to other tasks.
BURST: Final = 16
# Of the grace that an actor has left, what its children may use: the rest is for its own on_stop.
CHILDREN_SHARE: Final = 0.9


class Actor:
    """Base of all actors: private state and the rules of its messages. Used only through its Ref.

    Subclasses override the hooks. An EngineError out of `handle` goes to the asker and the actor lives on; any
    other exception, also of a background task, crashes it.
    """

    cell: Cell
    mailbox_messages: ClassVar[int] = limits.DEFAULT.mailbox_messages

    def make_ref(self, cell: Cell) -> Ref:
        return Ref(cell)

    async def on_start(self) -> None:
        """Make the actor usable. Raising makes the start fail with that error."""

    async def handle(self, message: Any) -> Any:
        """Act on one message; the value answers an ask. `self.cell.defer(…)` answers later."""
        raise AssertionError(f"{type(self).__name__} takes no messages, got {type(message).__name__}")

    async def on_stopping(self, reason: str) -> None:
        """Before the children are stopped: make no new work."""

    async def on_stop(self, reason: str) -> None:
        """After the children have ended, within the grace: leave in order what outlives the actor."""

    def on_child_end(self, child: Cell, outcome: Outcome) -> None:
        """A latched notice, synchronous: a child has ended. Raising crashes this actor, not the child."""


class Cell:
    """The kernel's side of one actor; for the actor itself and the kernel only. Others hold the Ref."""

    __slots__ = (
        "__weakref__", "_asked", "_children", "_deadline", "_deferrals", "_mailbox", "_starter", "_starting", "_usable",
        "actor", "ending", "grace", "handled", "name", "nursery", "parent", "ref", "state",
    )  # fmt: skip

    def __init__(self, actor: Actor, name: str, parent: Cell | None, grace: float) -> None:
        self.actor = actor
        self.name = name
        self.parent = parent
        self.grace = grace
        self.state: State = "starting"
        self.ending = Ending()
        self.handled = 0
        self.nursery: trio.Nursery | None = None  # its cancel scope is the actor's: the grace deadline is set on it
        self._asked: Outcome | None = None
        self._children: dict[str, Cell] | None = None  # most actors never have any
        self._deferrals = Deferrals()
        self._starter: trio.Event | None = None  # what the starter waits for
        self._starting: trio.CancelScope | None = None  # of on_start while it runs
        self._usable = False  # the start has succeeded
        self._deadline = math.inf
        self._mailbox = Mailbox(actor.mailbox_messages)
        self.ref = actor.make_ref(self)
        actor.cell = self

    def __repr__(self) -> str:
        return f"<{type(self.actor).__name__} {self.path} {self.state}>"

    @property
    def path(self) -> str:
        return self.name if self.parent is None else f"{self.parent.path}/{self.name}"

    @property
    def children(self) -> tuple[Cell, ...]:
        return tuple(self._children.values()) if self._children else ()

    def child(self, name: str) -> Cell | None:
        return self._children.get(name) if self._children else None

    @property
    def outcome(self) -> Outcome | None:
        return self.ending.outcome

    @property
    def stop_reason(self) -> str | None:
        """Why a stop was asked; None before."""
        return self._asked.reason if self._asked is not None else None

    # ------------------------------------------------------------ for the actor
    async def start_child(
        self, actor: Actor, name: str, *, grace: float | None = None, timeout: float | None = None
    ) -> Any:
        """Start a child in this actor's nursery; returns its Ref when it can be used. Raises what its `on_start`
        raised, trio.TooSlowError past `timeout` seconds, ActorDied when this actor or the child is stopped first.
        Cancelled: the child is stopped and joined."""
        await trio.lowlevel.checkpoint_if_cancelled()  # else the child would be begun and stopped
        if self.state not in ("starting", "running") or self.nursery is None:
            raise ActorDied(f"{self.path} is {self.state}: it starts no children")
        children = self._children = self._children if self._children is not None else {}
        assert name not in children, f"{self.path} has a child {name} already"
        cell = Cell(actor, name, self, limits.DEFAULT.cancel_grace if grace is None else grace)
        children[name] = cell
        start_timeout = limits.DEFAULT.toolset_start_timeout if timeout is None else timeout
        # Not nursery.start: it opens a nursery for each start and costs four times as much.
        self.nursery.start_soon(_live, cell, start_timeout, name=name)
        return await cell.wait_started()

    def start_soon(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """A background task of the actor: ends with it, and crashes it by raising."""
        assert self.nursery is not None, f"{self.path} is not running"
        self.nursery.start_soon(work, *arguments, name=f"{self.path}:{getattr(work, '__name__', 'task')}")

    def defer(self, work: Callable[..., Awaitable[Any]], *arguments: Any, keep: bool = False) -> Deferred:
        """Return this from `handle`: `work` runs in its own task and its value answers the ask. Whatever it
        raises goes to the asker and nowhere else; it is cancelled when the asker goes away (with `keep` it goes
        on), and at the latest when the actor has stopped. Such tasks begin in the order of their messages."""
        return Deferred(work, arguments, keep)

    def finish(self, reason: str = "finished") -> None:
        """End by itself: like a stop, but the outcome is `finished`."""
        self._ask_stop(Outcome("finished", reason), None)

    # ------------------------------------------------------------ start and stop
    async def _begin(self, timeout: float) -> bool:
        """Run `on_start`. False: a stop came first, and cancelled it. Raises what it raised, or TooSlowError."""
        if self._asked is not None:
            return False
        with trio.CancelScope(deadline=trio.current_time() + timeout) as self._starting:
            await self.actor.on_start()
        cut, self._starting = self._starting.cancelled_caught, None
        if cut and self._asked is None:
            raise trio.TooSlowError(f"{self.path} could not be started in {timeout:g} s")
        if self._asked is None:
            self.state = "running"
            self._usable = True
            if self._starter is not None:
                self._starter.set()
        return not cut

    async def wait_started(self) -> Any:
        """The Ref, once the actor can be used; or raises why it could not be started. Cancelled: so is the start."""
        ref = self.ref
        try:
            if not self._usable and self.outcome is None:
                self._starter = trio.Event()
                await self._starter.wait()
        except BaseException:
            self._ask_stop(Outcome("stopped", "its start was cancelled"), None)
            with trio.CancelScope(shield=True):  # bounded: the grace deadline is on the actor's own scope
                await self.wait_ended()
            raise
        finally:
            self._starter = None
        if self._usable:
            return ref  # it may have ended since
        assert self.outcome is not None
        raise self.outcome.error or ActorDied(f"{self.path} was stopped while it started: {self.outcome.reason}")

    def request_stop(self, reason: str, grace: float | None = None) -> None:
        """Ask for the end without waiting for it. Asked again, only an earlier deadline counts."""
        self._ask_stop(Outcome("stopped", reason), grace)

    def _ask_stop(self, outcome: Outcome, grace: float | None) -> None:
        if self.outcome is not None:
            return
        if self._asked is None:
            self._asked = outcome
            self.state = "stopping"
            if self._starting is not None:
                self._starting.cancel(reason=outcome.reason)
            self._refuse()
        self._deadline = min(self._deadline, trio.current_time() + (self.grace if grace is None else grace))
        if self.nursery is not None:
            self.nursery.cancel_scope.deadline = self._deadline

    def _refuse(self) -> None:
        """Close the mailbox: senders that wait and asks that were not begun fail now; the loop wakes and ends."""
        for envelope in self._mailbox.close():
            if envelope.reply is not None:
                envelope.reply.fail(self.died())

    def died(self) -> ActorDied:
        why = self.outcome or self._asked
        return ActorDied(f"{self.path} has ended: {why.reason if why else 'cancelled'}")

    async def wait_ended(self) -> Outcome:
        return await self.ending.wait()

    async def stop_child(self, child: Cell, reason: str) -> None:
        child.request_stop(reason, self._grace_for(child))
        await child.wait_ended()

    async def stop_children(self, reason: str) -> None:
        """Stop all children together, asked in slices. Joined when it returns."""
        order = self.children
        for begin in range(0, len(order), SLICE):
            # If they all hang, they are killed in slices as well: the first ones have a little less time.
            earlier = (len(order) - 1 - begin) // SLICE * SLICE_PAUSE
            for child in order[begin : begin + SLICE]:
                grace = self._grace_for(child)
                child.request_stop(reason, grace - min(earlier, grace / 2))
            await trio.lowlevel.checkpoint()
        for child in order:
            await child.wait_ended()

    def _grace_for(self, child: Cell) -> float:
        left = self._deadline - trio.current_time()
        return min(child.grace, max(left, 0.0) * CHILDREN_SHARE)

    # ------------------------------------------------------------ mailbox
    async def deliver(self, envelope: Envelope) -> None:
        """Wait for room. No checkpoint while there is some. Raises ActorDied when the actor takes no more."""
        if self._mailbox.closed or not await self._mailbox.put(envelope):
            raise self.died()

    async def _serve(self) -> None:
        """Handle one message after the other until the mailbox is closed."""
        burst = 0
        while (envelope := await self._mailbox.get()) is not None:
            if self._asked is None:
                await self._handle(envelope)
            elif envelope.reply is not None:  # handed over in the moment before the stop: it was not begun either
                envelope.reply.fail(self.died())
            del envelope  # an idle actor keeps nothing of its last message, nor of the answer
            burst += 1
            if burst == BURST:  # neither get nor the handler needs to have been a checkpoint
                burst = 0
                await trio.lowlevel.checkpoint()

    async def _handle(self, envelope: Envelope) -> None:
        reply = envelope.reply
        if reply is not None:
            if reply.abandoned:
                return
            reply.begun = True
        self.handled += 1
        try:
            value = await self.actor.handle(envelope.message)
        except EngineError as exc:
            if reply is None:
                _log.warning("%s refused %s: %s", self.path, type(envelope.message).__name__, exc)
            else:
                reply.fail(exc)
        except BaseException:
            if reply is not None:
                reply.fail(ActorDied(f"{self.path} ended while it worked on {type(envelope.message).__name__}"))
            raise
        else:
            if isinstance(value, Deferred):
                assert self.nursery is not None
                # A task is always run to its first checkpoint, also in a cancelled nursery: the slot is settled.
                self._deferrals.add(value, reply)
                self.nursery.start_soon(self._deferrals.answer_next, self.died, name=f"{self.name}:deferred")
            elif reply is not None:
                reply.set(value)

    # ------------------------------------------------------------ end
    def _end(self, outcome: Outcome) -> None:
        self.state = "ended"
        self.nursery = None
        self._refuse()
        if self.parent is not None and self.parent._children is not None:
            del self.parent._children[self.name]
        if self._starter is not None:
            self._starter.set()
        self.ending.set(outcome)

    def statistics(self) -> ActorStatistics:
        return ActorStatistics(
            name=self.name,
            kind=type(self.actor).__name__,
            state=self.state,
            mailbox=self._mailbox.waiting,
            mailbox_bound=self.actor.mailbox_messages,
            waiting_senders=self._mailbox.waiting_senders,
            handled=self.handled,
            children=len(self._children or ()),
        )


async def _live(cell: Cell, start_timeout: float) -> None:
    """The life of one actor: the steps that the module's docstring numbers."""
    outcome: Outcome | None = None
    failure: BaseException | None = None
    escaped: BaseException | None = None  # what is not the actor's own: a cancellation from above, Ctrl-C
    enter_actor(cell.name, cell.parent.name if cell.parent is not None else None)
    try:
        async with trio.open_nursery() as nursery:
            cell.nursery = nursery
            usable = False
            try:
                usable = await cell._begin(start_timeout)
            except Exception as exc:  # noqa: BLE001 - it is raised again, to the starter
                failure = exc
                cell.request_stop("its start failed")
            if usable:
                await cell._serve()
            asked = cell._asked
            assert asked is not None, "an actor is served until its stop is asked"
            if usable:
                await cell.actor.on_stopping(asked.reason)
            await cell.stop_children(asked.reason)
            if usable:
                await cell.actor.on_stop(asked.reason)
            outcome = asked
            nursery.cancel_scope.cancel(reason=asked.reason)
    except BaseException as exc:  # noqa: BLE001 - what is not the actor's own is raised below
        crash, escaped = split_failure(exc)
        failure = failure or crash
    if failure is not None:
        outcome = Outcome("crashed", f"{type(failure).__name__}: {failure}", failure)
    elif escaped is not None:
        outcome = Outcome("killed", "an enclosing scope was cancelled")
    elif outcome is None:
        outcome = Outcome("killed", f"{cell.stop_reason}; its grace expired")
    cell._end(outcome)
    if failure is not None and cell._usable:
        _log.error("%s crashed", cell.path, exc_info=failure)
    try:
        if cell.parent is not None:
            cell.parent.actor.on_child_end(cell, outcome)
    finally:
        # No cycles from here on: what the actor held is freed with its last Ref, not at some later collection.
        cell.actor.cell = weakref.proxy(cell)
        del cell.ref
    if escaped is not None:
        raise escaped
    if failure is not None and cell._usable and cell.parent is None:
        raise failure


@contextlib.asynccontextmanager
async def open_actor(
    actor: Actor, name: str, *, grace: float = limits.DEFAULT.cancel_grace, start_timeout: float = math.inf
) -> AsyncIterator[Any]:
    """Start a root actor, give its Ref, and stop it at the end, also when the body is cancelled: the actor is
    shielded from scopes around this one, and its end is bounded by its grace.

    A crash of the root cancels the body and is raised from here, inside an ExceptionGroup as nurseries do. What
    the body or the start raises comes out as it is.
    """
    failure: Exception | None = None
    cell = Cell(actor, name, None, grace)

    async def live_shielded() -> None:
        with trio.CancelScope(shield=True):
            await _live(cell, start_timeout)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live_shielded, name=name)
        try:
            yield await cell.wait_started()
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
            failure = exc
        finally:
            cell.request_stop("its owner has ended")
            with trio.CancelScope(shield=True):  # bounded: the grace deadline is on the actor's own scope
                await cell.wait_ended()
    if failure is not None:
        raise failure
