"""The end of one actor: known once, to those who wait for it and those who watch for it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import trio

from actors._statistics import Outcome

_log = logging.getLogger("greenroom.actors")


class Ending:
    """A latch: the outcome, set once."""

    __slots__ = ("_event", "_watchers", "outcome")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._event: trio.Event | None = None  # most actors have nobody who waits
        self._watchers: list[Callable[[Outcome], None]] | None = None

    def set(self, outcome: Outcome) -> None:
        assert self.outcome is None, "an actor ends once"
        self.outcome = outcome
        if self._event is not None:
            self._event.set()
        watchers, self._watchers = self._watchers or (), None
        for watcher in watchers:
            _tell(watcher, outcome)

    async def wait(self) -> Outcome:
        if self.outcome is None:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()
        assert self.outcome is not None
        return self.outcome

    def watch(self, watcher: Callable[[Outcome], None]) -> Callable[[], None]:
        """Call `watcher` once, synchronously, at the end (at once if it has come). Returns how to forget it."""
        if self.outcome is not None:
            _tell(watcher, self.outcome)
            return lambda: None
        watchers = self._watchers = self._watchers if self._watchers is not None else []
        watchers.append(watcher)

        def forget() -> None:
            # Not from the list that `set` walks through: a watcher that forgets another must not skip a third.
            if self._watchers is not None:
                with contextlib.suppress(ValueError):
                    self._watchers.remove(watcher)

        return forget


def _tell(watcher: Callable[[Outcome], None], outcome: Outcome) -> None:
    try:
        watcher(outcome)
    except Exception:  # noqa: BLE001 - a stranger's callback must not harm the actor
        _log.exception("a watcher of an actor's end failed")


def split_failure(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What came out of an actor's nursery, apart: its own crash, and what has to go on upwards."""
    group = exc if isinstance(exc, BaseExceptionGroup) else BaseExceptionGroup("", [exc])
    cancelled, rest = group.split(trio.Cancelled)
    if rest is not None and not isinstance(rest, Exception):
        return None, exc  # KeyboardInterrupt, SystemExit
    crash: BaseException | None = rest
    while isinstance(crash, BaseExceptionGroup) and len(crash.exceptions) == 1:
        crash = crash.exceptions[0]
    return crash, cancelled
