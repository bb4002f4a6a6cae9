"""Supervision: child specs, restart policy and strategy, as in Erlang/OTP's design principles.

A supervisor is an actor whose children are started in the order of their specs and stopped in reverse. When one
ends, its `restart` decides: `permanent` is always restarted, `transient` only after a crash or kill, `temporary`
never. The strategy decides who goes with it: `one_for_one` nobody, `one_for_all` every child, `rest_for_one`
those started after it (which may hold its Ref: their factories run again and get the new one). Every restart
counts against the restart intensity; one too many and the supervisor crashes, which its own parent sees.

Restarts wait for the backoff; a stop interrupts that wait and a start in flight at once.
"""

from __future__ import annotations

import contextlib
import logging
import random
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


@attrs.define(slots=True, eq=False)
class _Child:
    spec: ChildSpec
    ref: Any = None
    cell: Cell | None = None  # while it runs
    fell: str | None = None  # why it ended, while that calls for a restart that has not been counted
    backoff: trio.CancelScope | None = None  # while a restart waits
    started_at: float = 0.0
    attempts: int = 0  # restarts since it last ran for a whole period of the intensity
    restarts: int = 0


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
        return supervisor.restarts(name)

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
        self._closed = False  # no restart or start may begin any more
        self._restarting: set[_Child | None] = set()  # children with a restart under way; None: the whole group
        # Where siblings depend on each other one start or restart goes on at a time.
        self._turn = contextlib.nullcontext() if strategy == "one_for_one" else trio.Lock()

    def make_ref(self, cell: Cell) -> SupervisorRef:
        return SupervisorRef(cell)

    def child(self, name: str) -> Any:
        child = self._children.get(name)
        if child is None or child.cell is None:
            raise ActorDied(f"{self.cell.path}/{name} is not running")
        return child.ref

    def restarts(self, name: str) -> int:
        child = self._children.get(name)
        return child.restarts if child is not None else 0

    async def on_start(self) -> None:
        try:
            await self._add(self._specs)
        except BaseException:
            # What was started stops in reverse, as after a normal life.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.cell.grace):
                await self._stop_all("a sibling failed to start")
            raise

    async def handle(self, message: Any) -> Any:
        match message:
            case _Add(specs):
                return self.cell.defer(self._add, specs)
            case _Remove(name, reason):
                return self.cell.defer(self._remove, name, reason)
        return await super().handle(message)

    async def on_stopping(self, reason: str) -> None:
        await self._stop_all(reason)
        self._children.clear()  # whoever still holds this Ref holds no ended children with it

    def on_child_end(self, child: Cell, outcome: Outcome) -> None:
        known = self._children.get(child.name)
        if known is not None and known.cell is child:  # else it was stopped here, which is no fall
            known.cell = None
            self._settle(known, outcome)

    # ------------------------------------------------------------ children
    async def _add(self, specs: Sequence[ChildSpec]) -> list[Any]:
        async with self._turn:
            return [await self._add_one(spec) for spec in specs]

    async def _add_one(self, spec: ChildSpec) -> Any:
        if self._closed:
            raise ActorDied(f"{self.cell.path} is stopping: it starts no children")
        assert spec.name not in self._children, f"{self.cell.path} has a child {spec.name} already"
        child = self._children[spec.name] = _Child(spec)
        try:
            await self._start(child)
        except BaseException:
            self._forget(child)
            raise
        return child.ref

    async def _remove(self, name: str, reason: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            await self._stop(child, reason)

    def _forget(self, child: _Child) -> None:
        if self._children.get(child.spec.name) is child:
            del self._children[child.spec.name]

    async def _start(self, child: _Child) -> None:
        spec = child.spec
        child.ref = await self.cell.start_child(spec.factory(), spec.name, grace=spec.grace, timeout=spec.start_timeout)
        child.started_at = self._clock()
        cell: Cell = child.ref._cell
        if cell.outcome is None:
            child.cell = cell
        else:  # it ended between its start and now, when on_child_end did not know it yet
            self._settle(child, cell.outcome)

    async def _stop(self, child: _Child, reason: str) -> None:
        """Stop a child for now, wherever it is: running, starting, or waiting for its restart."""
        child.cell = child.fell = None  # its end is ours: on_child_end has nothing to report
        if child.backoff is not None:
            child.backoff.cancel(reason=reason)
        cell = self.cell.child(child.spec.name)
        if cell is not None:
            await self.cell.stop_child(cell, reason)

    async def _stop_all(self, reason: str) -> None:
        """Stop all for good."""
        self._closed = True
        if self._ordered:
            for child in reversed(list(self._children.values())):
                await self._stop(child, reason)
        else:
            await self.cell.stop_children(reason)

    # ------------------------------------------------------------ restarts
    def _settle(self, child: _Child, outcome: Outcome) -> None:
        """A child has ended by itself or in a stranger's hands: let it go, or have it restarted."""
        policy = child.spec.restart
        if policy == "temporary" or (policy == "transient" and outcome.end in ("finished", "stopped")):
            self._forget(child)
            return
        child.fell = outcome.reason
        if self._clock() - child.started_at >= self._intensity.period:
            child.attempts = 0
        only = child if self._strategy == "one_for_one" else None
        if not self._closed and only not in self._restarting:
            self._restarting.add(only)
            self.cell.start_soon(self._restart, only)

    async def _restart(self, only: _Child | None) -> None:
        """Bring what is down up again: one child, or the whole group in its order. Step by step, because during
        each wait another child may fall, be removed, or everything be stopped."""
        try:
            await trio.lowlevel.checkpoint()  # children that were killed with their supervisor are not restarted
            async with self._turn:
                while not self._closed and self.cell.stop_reason is None:
                    group = [child for child in self._children.values() if only is None or child is only]
                    failed = next((child for child in group if child.fell is not None), None)
                    down = next((child for child in group if child.cell is None), None)
                    if failed is not None:
                        await self._clear(failed)
                    elif down is not None:
                        await self._start_again(down)
                    else:
                        return
        except TooManyRestarts as exc:
            # The crash below would cancel all children at once; in reverse order each can still use those before it.
            await self._stop_all(str(exc))
            raise
        finally:
            self._restarting.discard(only)

    async def _clear(self, failed: _Child) -> None:
        """Stop those that go with it, count a restart and wait its backoff. Raises TooManyRestarts."""
        reason, failed.fell = failed.fell, None
        name = failed.spec.name
        for child in reversed(self._affected(failed)):
            await self._stop(child, f"{name} is restarted")
            if child.spec.restart == "temporary":
                self._forget(child)
        if self._children.get(name) is not failed:
            return  # removed meanwhile
        if not self._intensity.allow(self._clock()):
            raise TooManyRestarts(f"{self.cell.path}/{name} ended too often, the last time: {reason}")
        failed.restarts += 1
        failed.attempts += 1
        delay = self._backoff.delay(failed.attempts, self._draw())
        _log.warning("%s/%s is restarted in %.1f s: %s", self.cell.path, name, delay, reason)
        with trio.CancelScope() as failed.backoff:
            await trio.sleep(delay)
        failed.backoff = None

    def _affected(self, failed: _Child) -> list[_Child]:
        """Those that are restarted with it, in the order of their start."""
        order = list(self._children.values())
        match self._strategy:
            case "one_for_one":
                return []
            case "one_for_all":
                return order
            case "rest_for_one":
                return order[order.index(failed) :]

    async def _start_again(self, child: _Child) -> None:
        try:
            await self._start(child)
        except Exception as exc:  # noqa: BLE001 - a start that fails counts as one more end of that child
            child.fell = f"its start failed: {exc}"
