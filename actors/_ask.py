"""One ask between two actors: the envelope, its reply slot, and the two ways in which an actor itself fails it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from engine.errors import EngineError

_log = logging.getLogger("greenroom.actors")

# A join after a cancelled ask waits for work that has been cancelled too; longer than this is a defect.
JOIN_TIMEOUT: Final = 30.0


class ActorDied(Exception):
    """The actor ended before it answered, or had ended before it was asked."""


class AskTimeout(Exception):
    """The actor did not answer within the ask's deadline."""


class Reply:
    """The slot of one ask, for one asker. Settled once; the asker may have gone by then."""

    __slots__ = ("_asker", "_error", "_value", "abandoned", "begun", "scope", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.begun = False
        self.abandoned = False
        self.scope: trio.CancelScope | None = None  # of the deferred task that works on it
        self._value: Any = None
        self._error: BaseException | None = None
        self._asker: trio.lowlevel.Task | None = None  # parked here: a third of the cost of a trio.Event

    def set(self, value: Any) -> None:
        if not self.settled:
            self._value = value
            self._settle()

    def fail(self, error: BaseException) -> None:
        if not self.settled:
            self._error = error
            self._settle()

    def _settle(self) -> None:
        self.settled = True
        if self._asker is not None:
            trio.lowlevel.reschedule(self._asker)
            self._asker = None

    def abandon(self) -> None:
        """The asker has gone: work not begun is skipped, deferred work is cancelled."""
        self.abandoned = True
        if self.scope is not None:
            self.scope.cancel(reason="the asker has gone")

    async def wait(self) -> None:
        """Until it is settled. A slot that is settled already is no checkpoint: an answer is not lost to a
        deadline that passes in the same moment."""
        if not self.settled:
            self._asker = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._asker = None
        return trio.lowlevel.Abort.SUCCEEDED

    def result(self) -> Any:
        """The settled slot's value; or raises its error, an EngineError as a copy of the asker's own."""
        if self._error is None:
            return self._value
        if isinstance(self._error, EngineError | ActorDied):
            raise _copy(self._error)
        raise self._error


def _copy(error: Exception) -> Exception:
    """One error may answer several asks (a failed group commit). Raising writes traceback and context into the
    exception, so each asker gets its own. Not copy.copy: it calls __init__, whose signatures differ."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


@attrs.define(slots=True, eq=False)
class Envelope:
    message: Any
    reply: Reply | None


@attrs.frozen(slots=True)
class Deferred:
    """What `handle` returns to answer later from a task of its own; made by Cell.defer."""

    work: Callable[..., Awaitable[Any]]
    arguments: tuple[Any, ...]
    keep: bool = False  # begun work goes on when its asker has gone

    async def answer(self, reply: Reply | None, died: Callable[[], ActorDied]) -> None:
        """Do the work and settle the slot whatever happens; cut short with ActorDied by `died()`."""
        try:
            if reply is None:
                await self.work(*self.arguments)
            elif self.keep and not reply.abandoned:
                reply.set(await self.work(*self.arguments))
            elif not reply.abandoned:
                with trio.CancelScope() as reply.scope:
                    reply.set(await self.work(*self.arguments))
        except Exception as exc:  # noqa: BLE001 - it goes to the asker, who knows what to do about it
            if reply is not None and not reply.abandoned:
                reply.fail(exc)
            elif not isinstance(exc, EngineError):
                _log.error("%s failed and nobody waits for it", self.work.__name__, exc_info=exc)
        finally:
            if reply is not None:
                reply.fail(died())  # does nothing when it was settled above
                reply.scope = None


class Deferrals:
    """One actor's deferred work that has not begun. Tasks started in one tick begin in any order, so each takes the
    oldest work, whoever's task it was meant to be: work begins in the order of its messages."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[tuple[Deferred, Reply | None]] | None = None  # never empty

    def add(self, deferred: Deferred, reply: Reply | None) -> None:
        """For each there is one task of `answer_next`."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append((deferred, reply))

    async def answer_next(self, died: Callable[[], ActorDied]) -> None:
        assert self._waiting is not None, "there are as many tasks as deferrals"
        deferred, reply = self._waiting.popleft()
        if not self._waiting:
            self._waiting = None
        await deferred.answer(reply, died)
