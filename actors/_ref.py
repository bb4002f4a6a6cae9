"""The outsiders' handle of an actor: typed methods over tell and ask, stop, and what it shows of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from actors._ask import JOIN_TIMEOUT, AskTimeout, Envelope, Reply
from actors._ending import Ending
from actors._statistics import ActorStatistics, Outcome, State, tree
from engine import limits


class Target(Protocol):
    """What a Ref uses of the kernel's side of its actor (actors._actor.Cell)."""

    name: str
    actor: Any
    state: State
    ending: Ending

    @property
    def path(self) -> str: ...
    @property
    def children(self) -> tuple[Any, ...]: ...
    async def deliver(self, envelope: Envelope) -> None: ...
    def request_stop(self, reason: str, grace: float | None = None) -> None: ...
    async def wait_ended(self) -> Outcome: ...
    def statistics(self) -> ActorStatistics: ...


class Ref:
    """The only thing that others hold of an actor. Subclasses add typed methods; messages stay hidden."""

    __slots__ = ("__weakref__", "_cell")

    def __init__(self, cell: Target) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._cell.path} {self._cell.state}>"

    @property
    def name(self) -> str:
        return self._cell.name

    @property
    def state(self) -> State:
        return self._cell.state

    async def _tell(self, message: Any) -> None:
        """Deliver without an answer; waits while the mailbox is full. Raises ActorDied."""
        await self._cell.deliver(Envelope(message, None))

    async def _ask(
        self, message: Any, *, timeout: float | None = limits.DEFAULT.ask_timeout, join: bool = False
    ) -> Any:
        """Deliver and wait for the answer, `timeout` seconds in all (None: no deadline).

        Raises what the actor answered with, ActorDied, or AskTimeout. Cancelled or timed out: a message that was
        not begun is skipped, deferred work is cancelled; with `join` this returns only when that work has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # an asker who is cancelled already asks nothing
        reply = Reply()
        try:
            if timeout is None:
                await self._exchange(Envelope(message, reply), reply)
            else:
                with trio.CancelScope(deadline=trio.current_time() + timeout):
                    await self._exchange(Envelope(message, reply), reply)
            if not reply.settled:
                raise AskTimeout(f"{self._cell.path} did not answer {type(message).__name__} in {timeout} s")
            return reply.result()
        finally:
            if not reply.settled:
                reply.abandon()
                if join and reply.begun:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + JOIN_TIMEOUT):
                        await reply.wait()

    async def _exchange(self, envelope: Envelope, reply: Reply) -> None:
        await self._cell.deliver(envelope)
        await reply.wait()

    async def stop(self, reason: str = "asked", grace: float | None = None) -> Outcome:
        """Stop the actor and wait for its end. Idempotent: any number of callers wait for the same end. Not for
        the actor's own tasks (they use Cell.finish). `grace` in seconds; None: as it was started with."""
        self._cell.request_stop(reason, grace)
        return await self._cell.wait_ended()

    async def wait_ended(self) -> Outcome:
        """Wait for the actor's end, whatever brings it."""
        return await self._cell.wait_ended()

    def on_end(self, watcher: Callable[[Outcome], None]) -> Callable[[], None]:
        """Call `watcher` once, synchronously, when the actor ends (at once if it has). Returns how to forget it."""
        return self._cell.ending.watch(watcher)

    def statistics(self) -> ActorStatistics:
        return self._cell.statistics()

    def tree(self) -> dict[str, Any]:
        """The actor with all below it as JSON; see actors._statistics.tree."""
        return tree(self._cell)
