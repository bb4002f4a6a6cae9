"""Supervision: child specs, restart policy and strategy, as in Erlang/OTP's design principles.

A supervisor is an actor whose children are started in the order of their specs and stopped in reverse. When one
ends, its `restart` decides: `permanent` is always restarted, `transient` only after a crash or kill, `temporary`
never. The strategy decides who goes with it: `one_for_one` nobody, `one_for_all` every child, `rest_for_one`
those started after it (which may hold its Ref: their factories run again and get the new one). Every restart
counts against the restart intensity; one too many and the supervisor crashes, which its own parent sees.

Restarts wait for the backoff; a stop interrupts that wait and a start in flight at once.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
import trio

from actors._actor import SLICE, Actor, Cell, Ref
from actors._ask import ActorDied
from actors._statistics import Outcome
from engine import limits
from engine.restart import Backoff, Intensity

_log = logging.getLogger("greenroom.supervisor")
Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]

# OTP's habit for servers that must not flap: three restarts in five seconds, then give up.
RESTARTS: Final = 3
PERIOD: Final = 5.0
NO_BACKOFF: Final = Backoff(0.0, 0.0)


class TooManyRestarts(Exception):
    """A child ended more often than the restart intensity allows; the supervisor gives up."""


@attrs.frozen(slots=True, kw_only=True)
class ChildSpec:
    """How to make and keep one child. `factory` gives a fresh actor for every start; times are seconds."""

    name: str
    factory: Callable[[], Actor]
    restart: Restart = "permanent"
    start_timeout: float = limits.DEFAULT.toolset_start_timeout
    grace: float = limits.DEFAULT.cancel_grace


@attrs.define(slots=True)
class _Child:
    spec: ChildSpec
    ref: Any = None
    cell: Cell | None = None
    started_at: float = 0.0
    attempts: int = 0  # restarts since it last ran for a whole period of the intensity


class SupervisorRef(Ref):
    __slots__ = ()

    def child(self, name: str) -> Any:
        """The present Ref of a child. Raises ActorDied while it is not running (it may come back)."""
        supervisor = self._cell.actor
        assert isinstance(supervisor, Supervisor)
        return supervisor.child(name)

    def restarts(self, name: str) -> int:
        """How often the child was restarted."""
        supervisor = self._cell.actor
        assert isinstance(supervisor, Supervisor)
        return supervisor.restarts.get(name, 0)

    async def add(self, *specs: ChildSpec) -> list[Any]:
        """Start more children, in slices so that the loop keeps turning; returns their Refs. The first start
        that fails is raised; those started before it stay."""
        refs: list[Any] = []
        for begin in range(0, len(specs), SLICE):
            refs += await self._ask(_Add(specs[begin : begin + SLICE]), timeout=None)
        return refs

    async def remove(self, name: str, reason: str = "removed") -> None:
        """Stop a child for good; joined."""
        await self._ask(_Remove(name, reason), timeout=None)


@attrs.frozen(slots=True)
class _Add:
    specs: Sequence[ChildSpec]


@attrs.frozen(slots=True)
class _Remove:
    name: str
    reason: str


class Supervisor(Actor):
    """See the module. `clock` (monotonic seconds) and `draw` (uniform in [0, 1)) are injected by tests."""

    def __init__(
        self,
        specs: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: tuple[int, float] = (RESTARTS, PERIOD),
        backoff: Backoff = NO_BACKOFF,
        clock: Callable[[], float] = trio.current_time,
        draw: Callable[[], float] = random.random,
        ordered: bool = True,
    ) -> None:
        self._specs = tuple(specs)
        self._strategy = strategy
        self._intensity = Intensity(*intensity)
        self._backoff = backoff
        self._clock = clock
        self._draw = draw
        self._ordered = ordered  # a crowd of equals need not be stopped one by one
        self._children: dict[str, _Child] = {}
        # One entry a child at most waits here: a child that has ended has to be started again to end again.
        self._ended: deque[tuple[Cell, Outcome]] = deque()
        self._bell = trio.Event()
        self._monitor_scope = trio.CancelScope()
        self._monitor_ended = trio.Event()
        self._lock = trio.Lock()  # add and remove against a restart under way
        self.restarts: dict[str, int] = {}

    def make_ref(self, cell: Cell) -> SupervisorRef:
        return SupervisorRef(cell)

    def child(self, name: str) -> Any:
        child = self._children.get(name)
        if child is None or child.cell is None:
            raise ActorDied(f"{self.cell.path}/{name} is not running")
        return child.ref

    async def on_start(self) -> None:
        try:
            for spec in self._specs:
                await self._begin(spec)
        except BaseException:
            # What was started stops in reverse, as after a normal life.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.cell.grace):
                await self._stop_all("a sibling failed to start")
            raise
        self.cell.start_soon(self._monitor)

    async def handle(self, message: Any) -> Any:
        match message:
            case _Add(specs):
                return self.cell.defer(self._add, specs)
            case _Remove(name, reason):
                return self.cell.defer(self._remove, name, reason)
        return await super().handle(message)

    async def on_stopping(self, reason: str) -> None:
        # No restart may begin once the children are being stopped.
        self._monitor_scope.cancel(reason=reason)
        await self._monitor_ended.wait()
        await self._stop_all(reason)

    def on_child_end(self, child: Cell, outcome: Outcome) -> None:
        known = self._children.get(child.name)
        if known is not None and known.cell is child:
            known.cell = None
            self._ended.append((child, outcome))
            self._bell.set()

    # ------------------------------------------------------------ children
    async def _add(self, specs: Sequence[ChildSpec]) -> list[Any]:
        async with self._lock:
            return [await self._begin(spec) for spec in specs]

    async def _remove(self, name: str, reason: str) -> None:
        async with self._lock:
            child = self._children.pop(name, None)
            if child is not None and child.cell is not None:
                await child.ref.stop(reason)

    async def _begin(self, spec: ChildSpec) -> Any:
        assert spec.name not in self._children, f"{self.cell.path} has a child {spec.name} already"
        child = self._children[spec.name] = _Child(spec)
        try:
            await self._start(child)
        except BaseException:
            del self._children[spec.name]
            raise
        return child.ref

    async def _start(self, child: _Child) -> None:
        spec = child.spec
        child.ref = await self.cell.start_child(spec.factory(), spec.name, grace=spec.grace, timeout=spec.start_timeout)
        child.started_at = self._clock()
        cell: Cell = child.ref._cell
        if cell.outcome is None:
            child.cell = cell
        else:  # it ended between its start and now, when on_child_end did not know it yet
            self._ended.append((cell, cell.outcome))
            self._bell.set()

    async def _stop_all(self, reason: str) -> None:
        if not self._ordered:
            await self.cell.stop_children(reason)
            return
        for child in reversed(list(self._children.values())):
            await self._stop(child, reason)

    async def _stop(self, child: _Child, reason: str) -> None:
        if child.cell is not None:
            cell, child.cell = child.cell, None  # its end is ours: on_child_end has nothing to report
            cell.request_stop(reason)
            await cell.wait_ended()

    # ------------------------------------------------------------ restarts
    async def _monitor(self) -> None:
        try:
            with self._monitor_scope:
                while True:
                    await self._bell.wait()
                    self._bell = trio.Event()
                    while self._ended:
                        cell, outcome = self._ended.popleft()
                        async with self._lock:
                            await self._settle(cell, outcome)
        except TooManyRestarts as exc:
            # The crash below would cancel all children at once; in reverse order each can still use those before it.
            await self._stop_all(str(exc))
            raise
        finally:
            self._monitor_ended.set()

    async def _settle(self, cell: Cell, outcome: Outcome) -> None:
        child = self._children.get(cell.name)
        if child is None or child.ref is None or child.ref._cell is not cell:
            return  # it was removed, or restarted together with a sibling
        policy = child.spec.restart
        if policy == "temporary" or (policy == "transient" and outcome.end in ("finished", "stopped")):
            del self._children[cell.name]
            return
        if self._clock() - child.started_at >= self._intensity.period:
            child.attempts = 0
        await self._restart(child, outcome.reason)

    async def _restart(self, failed: _Child, reason: str) -> None:
        order = list(self._children.values())
        if self._strategy == "one_for_one":
            affected = [failed]
        elif self._strategy == "one_for_all":
            affected = order
        else:
            affected = order[order.index(failed) :]
        for child in reversed(affected):
            await self._stop(child, f"{failed.spec.name} is restarted")
        await self._pace(failed, reason)
        position = 0
        while position < len(affected):
            child = affected[position]
            try:
                await self._start(child)
            except Exception as exc:  # noqa: BLE001 - a start that fails counts as one more end of that child
                await self._pace(child, f"its start failed: {exc}")
            else:
                position += 1

    async def _pace(self, failed: _Child, reason: str) -> None:
        """Count a restart and wait its backoff. Raises TooManyRestarts."""
        name = failed.spec.name
        if not self._intensity.allow(self._clock()):
            raise TooManyRestarts(f"{self.cell.path}/{name} ended too often, the last time: {reason}")
        self.restarts[name] = self.restarts.get(name, 0) + 1
        failed.attempts += 1
        delay = self._backoff.delay(failed.attempts, self._draw())
        _log.warning("%s/%s is restarted in %.1f s: %s", self.cell.path, name, delay, reason)
        await trio.sleep(delay)
