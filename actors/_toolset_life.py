"""The life of one toolset: opened when it is used, watched while it lives, opened again when it breaks, closed when
nobody has used it for a while or it is stopped. What is behind it (a server, a folder, functions) is a `Toolset`.

stopped -> starting -> ready <-> degraded -> stopping -> stopped
           starting, ready, degraded -> restarting -> starting     it broke, and its policy has another attempt
           starting, restarting -> failed                          none is left; a later use may begin anew

One task owns the toolset, so that it is never opened twice or closed while it is being opened. A stop ends whatever
that task does at once (a connect in flight, the wait before an attempt, the watch), and returns when it is closed, to
every caller. A toolset that was stopped starts again with its next use.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NoReturn, Protocol

import attrs
import trio

from engine import codec
from engine.limits import Limits
from engine.restart import Backoff
from engine.tools.explain import explain
from engine.tools.spec import ToolContext, ToolResult, ToolsetState, ToolSpec

_log = logging.getLogger("greenroom.toolset")

Preview = Callable[[str], None]  # takes live output of a call; bounded by the run that shows it
Restart = Literal["never", "on_failure", "always"]
# A toolset that has lived as long has started well: its next attempt is the first again.
STABLE_SECONDS: Final = 60.0
# After it has failed for good a use may begin anew, but not each of a run's calls.
FAILED_SECONDS: Final = 60.0
USABLE: Final = frozenset[ToolsetState]({"ready", "degraded"})
_PASSING: Final = frozenset[ToolsetState]({"starting", "restarting", "stopping"})


@attrs.frozen(slots=True, kw_only=True)
class News:
    """What a toolset tells while it is open: its tools as they are now (None: as before), what does not work of it
    (None: nothing), or that it has broken and takes no calls any more."""

    tools: Sequence[ToolSpec] | None = None
    trouble: str | None = None
    broken: str | None = None


class Toolset(Protocol):
    """What one kind of toolset brings. Tools are named as inside the toolset."""

    @property
    def kind(self) -> str: ...

    async def open(self) -> Sequence[ToolSpec]:
        """Make the tools usable. Cancelled past `limits.toolset_start_timeout`. Raising is a failed start."""

    async def news(self) -> News:
        """Wait for what changes while it is open; for ever if nothing can. Raising means that it has broken."""

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        """Run one of the tools on a JSON object. Calls are concurrent; cancelled ones return when they have ended.

        The result need not be bounded. Raises codec.DecodeError for input that does not fit, and what it likes."""

    async def close(self) -> None:
        """Give back what `open` took; also after an `open` that failed or was cancelled. It may be opened again."""


async def no_news() -> NoReturn:
    """`news` of a toolset in which nothing changes by itself."""
    await trio.sleep_forever()


class ToolsetLife:
    """See the module. `idle` in seconds: closed when it was not used for as long (inf: never)."""

    def __init__(
        self,
        toolset: Toolset,
        name: str,
        *,
        limits: Limits,
        restart: Restart = "never",
        idle: float = math.inf,
    ) -> None:
        self._toolset = toolset
        self._name = name
        self._limits = limits
        self._restart: Restart = restart
        self._idle = math.inf if restart == "always" else idle
        self._backoff = Backoff(limits.toolset_backoff_first, limits.toolset_backoff_max)
        self._wanted = trio.Event()
        self._news = trio.Event()  # the state has changed
        self._scope: trio.CancelScope | None = None
        self._watch = trio.CancelScope()
        self._calls: set[trio.CancelScope] = set()
        self._free = trio.Event()  # no call is left
        self._reopening = trio.Lock()  # it is being closed to be opened again
        self._asked = 0  # times that this was asked for, and those of them that it was closed for
        self._closed_for = 0
        self._failed_at = -math.inf
        self._began_at = 0.0  # the first attempt
        self._untried = False  # the first attempt has not failed yet
        self._idled = False  # its last life ended because nobody used it
        self.state: ToolsetState = "stopped"
        self.error: str | None = None  # why it is not (wholly) usable
        self.broken: str | None = None  # why its last life ended, if it was not asked to
        self.tools: dict[str, ToolSpec] = {}  # those of its last life while it is closed
        self.known = False  # whether its tools were ever read
        self.leases = 0
        self.restarts = 0

    # ------------------------------------------------------------ for users
    async def ready(self) -> bool:
        """Open it if it is closed; whether it can be used now. Waits while it starts, also again, and while it is
        being closed because nobody has used it."""
        while True:
            self.want()
            while self.state in _PASSING:
                await self._news.wait()
            if self.state != "stopped" or not self._idled:
                return self.state in USABLE

    async def first_tools(self) -> None:
        """If its tools were never read, open it and wait for them: only while the first attempt is made, and no longer
        than `limits.toolset_first_wait` from its begin, however many wait one after the other."""
        if self.known:
            return
        self.want()
        with trio.move_on_at(self._began_at + self._limits.toolset_first_wait):
            while not self.known and self._untried and self.state == "starting":
                await self._news.wait()

    def want(self) -> None:
        """Somebody is about to use it."""
        cold = self.state == "failed" and trio.current_time() - self._failed_at >= FAILED_SECONDS
        if self.state == "stopped":
            self._untried, self._began_at = True, trio.current_time()
        if self.state == "stopped" or cold:
            self._become("starting")
            self._wanted.set()

    @contextlib.contextmanager
    def lease(self, scope: trio.CancelScope) -> Iterator[None]:
        """A call at work: its scope is cancelled when the toolset breaks or is stopped, and the toolset is not closed
        before the block has ended."""
        self.leases += 1
        self._calls.add(scope)
        self._used()
        try:
            yield
        finally:
            self._calls.discard(scope)
            self.leases -= 1
            self._used()
            if not self.leases:
                self._free.set()

    async def stop(self) -> None:
        """Close it; returns when it is closed, to every caller. It may be used again afterwards."""
        self._idled = False
        while self.state not in ("stopped", "failed"):
            if self._scope is not None:
                self._scope.cancel(reason="the toolset is stopped")
            await self._news.wait()
        self._become("stopped")
        self._failed_at = -math.inf

    async def reopen(self, renew: Callable[[], None]) -> None:
        """Close it and open it again; returns to every caller when it has been opened after its call, or could not be.
        Those that come together are one; one that comes while it opens begins anew. `renew` is called before a close.
        """
        self._asked += 1
        mine = self._asked
        async with self._reopening:
            if self._closed_for < mine:  # not by one that came before, and closed it after this came
                renew()
                await self.stop()
                self._closed_for = self._asked
                self.want()
        while True:
            present = self._closed_for
            await self.ready()
            async with self._reopening:  # a later one may have ended this opening: what comes of that one holds
                if present == self._closed_for:
                    return

    # ------------------------------------------------------------ the owner
    async def run(self) -> NoReturn:
        """Own the toolset; cancelled, it is closed when this returns."""
        while True:
            await self._wanted.wait()
            with trio.CancelScope() as self._scope:
                await self._live()
            self._scope = None
            self._wanted = trio.Event()
            self._become("failed" if self.state == "failed" else "stopped")

    async def _live(self) -> None:
        """Until it has failed for good or is idle."""
        attempt = 0
        while True:
            began = trio.current_time()
            why = await self._once()
            if why is None:
                return
            stable = trio.current_time() - began >= STABLE_SECONDS
            attempt = 1 if stable else attempt + 1
            self._untried = False
            self.error = why
            _log.warning("%s: %s", self._name, why)
            if self._restart == "never" or attempt > self._limits.toolset_restarts:
                self._failed_at = trio.current_time()
                self._become("failed")
                return
            self._become("restarting")
            await trio.sleep(self._backoff.delay(attempt, random.random()))
            self.restarts += 1

    async def _once(self) -> str | None:
        """One life; why it ended, None if it was not used any more."""
        self._become("starting")
        began, self.broken = False, None
        try:
            with trio.fail_after(self._limits.toolset_start_timeout):
                self.tools = {spec.name: spec for spec in await self._toolset.open()}
            began = self.known = True
            self.error = None
            self._become("ready")
            self.broken = await self._watched()
        except Exception as exc:  # noqa: BLE001 - what a toolset raises is its end, not the daemon's
            _log.debug("%s", self._name, exc_info=exc)
            self.broken = f"it has broken: {explain(exc)}" if began else f"it could not be started: {self._why(exc)}"
        finally:
            if self.state in USABLE:
                self._become("stopping")
            await self._close()
        return self.broken

    def _why(self, exc: Exception) -> str:
        if isinstance(exc, trio.TooSlowError):
            return f"it was not ready within {self._limits.toolset_start_timeout:g} s"
        return explain(exc)

    async def _watched(self) -> str | None:
        self._used()
        while True:
            news: News | None = None
            with trio.CancelScope() as self._watch:
                self._used()
                news = await self._toolset.news()
            if news is None:
                if not self.leases:
                    self._idled = True
                    return None
                continue
            if news.tools is not None:
                self.tools = {spec.name: spec for spec in news.tools}
            if news.broken is not None:
                return f"it has broken: {news.broken}"
            self.error = news.trouble
            self._become("ready" if news.trouble is None else "degraded")

    def _used(self) -> None:
        self._watch.deadline = math.inf if self.leases else trio.current_time() + self._idle

    async def _close(self) -> None:
        for scope in self._calls:
            scope.cancel(reason="the toolset has ended")
        # Shielded: a server that was not closed would be left behind. Both waits have the deadline of a stop.
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self._limits.toolset_stop_timeout) as patience:
                while self.leases:
                    self._free = trio.Event()
                    await self._free.wait()
            if patience.cancelled_caught:
                _log.error("%s is closed under %d calls that do not end", self._name, self.leases)
            try:
                with trio.fail_after(self._limits.toolset_stop_timeout):
                    await self._toolset.close()
            except Exception:  # noqa: BLE001 - the end is not kept up by what it used
                _log.exception("%s could not be closed", self._name)

    def _become(self, state: ToolsetState) -> None:
        self.state = state
        news, self._news = self._news, trio.Event()
        news.set()
