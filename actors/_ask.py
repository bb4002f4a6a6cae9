"""One ask between two actors: the envelope, its reply slot, and the two ways in which an actor itself fails it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

# A join after a cancelled ask waits for work that has been cancelled too; longer than this is a defect.
JOIN_TIMEOUT: Final = 30.0


class ActorDied(Exception):
    """The actor ended before it answered, or had ended before it was asked."""


class AskTimeout(Exception):
    """The actor did not answer within the ask's deadline."""


class Reply:
    """The slot of one ask. Settled once; the asker may have gone by then."""

    __slots__ = ("_arrived", "_error", "_value", "abandoned", "begun", "scope")

    def __init__(self) -> None:
        self._arrived = trio.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self.begun = False
        self.abandoned = False
        self.scope: trio.CancelScope | None = None  # of the deferred task that works on it

    @property
    def settled(self) -> bool:
        return self._arrived.is_set()

    def set(self, value: Any) -> None:
        if not self.settled:
            self._value = value
            self._arrived.set()

    def fail(self, error: BaseException) -> None:
        if not self.settled:
            self._error = error
            self._arrived.set()

    def abandon(self) -> None:
        """The asker has gone: work not begun is skipped, deferred work is cancelled."""
        self.abandoned = True
        if self.scope is not None:
            self.scope.cancel(reason="the asker has gone")

    async def wait(self) -> Any:
        await self._arrived.wait()
        if self._error is not None:
            # A fresh traceback for each asker; the cause is shared.
            raise self._error.with_traceback(None)
        return self._value

    async def settle(self) -> None:
        await self._arrived.wait()


@attrs.frozen(slots=True)
class Deferred:
    """What `handle` returns to answer later from a task of its own; made by Cell.defer."""

    work: Callable[..., Awaitable[Any]]
    arguments: tuple[Any, ...]


@attrs.frozen(slots=True)
class Envelope:
    message: Any
    reply: Reply | None
