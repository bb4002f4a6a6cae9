"""The memory governor: looks at the process's resident memory now and then, and does what engine.memory decides.

What can be had again goes first: replay logs of ended runs, idle sessions, SQLite's page caches. What is free is given
back to the system in a thread of its own, because that takes time by how much it is (see give_back): it is done while
work is ending, in halves, and not after all of it. Above the hard bound the registry refuses new runs. Nothing that
works is touched.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import weakref
from collections.abc import Callable
from typing import Final

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._memory import Resident, forget_names, freeze_again, give_back, resident
from actors.composition import Composition
from engine.errors import EngineError
from engine.limits import MIB, Limits
from engine.memory import Level, Sample, State, decide

_log = logging.getLogger("greenroom.memory")

# A full collection takes 3 ms in an idle daemon and 0.25 ms more for each active run, which nobody else may do
# anything in. What it frees is little (reference counting has freed the rest), but lies everywhere.
COLLECT_RUNS_MAX: Final = 16
# So many new modules are a library's first use, and the collector is told to leave it out: the HTTP client is 6,000
# containers, by which a full collection took 5 ms, not 0.4. Fewer are not worth freezing what is at work with them.
NEW_MODULES: Final = 20
# Sessions without run and watcher that nobody has used for so many seconds are caches, too: 10 KiB each.
SHED_IDLE: Final = 10.0
# A disk that does not answer, or thousands of sessions to be stopped, must not keep the governor from its work.
SHED_TIMEOUT: Final = 5.0
# trio forgets deadlines of closed scopes when more than this many, and twice the open ones, have gathered.
STALE_DEADLINES: Final = 1000
# Open scopes with a deadline for each thing that is held: a generous guess, of which only the time depends.
_DEADLINES_EACH: Final = 4
_SLICE: Final = 100
_FAR: Final = 3600.0


@attrs.frozen(slots=True, kw_only=True)
class GovernorStatistics:
    """Since the start: `releases` are the times that free pages were given back; `shed_bytes` what was dropped of
    replay logs."""

    level: Level
    releases: int
    shed_bytes: int


class GovernorRef(Ref):
    __slots__ = ()

    def governor_statistics(self) -> GovernorStatistics:
        actor = self._cell.actor
        assert isinstance(actor, Governor)
        return actor.figures()


class Governor(Actor):
    """`resident` and `give_back` are the process's own, but for tests. `held` counts what is worked with, `kept` what
    stays for a while behind it: memory is given back when much of either has ended."""

    mailbox_messages = 1  # takes no messages

    def __init__(
        self,
        composition: Composition,
        limits: Limits,
        *,
        held: Callable[[], int],
        kept: Callable[[], int] = lambda: 0,
        resident: Callable[[], Resident] = resident,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        self._composition = composition
        self._limits = limits
        self._held = held
        self._kept = kept
        self._resident = resident
        self._give_back = give_back
        self._thread = trio.CapacityLimiter(1)
        self._state = State()
        self._releases = 0
        self._shed = 0
        self._modules = len(sys.modules)

    def make_ref(self, cell: Cell) -> GovernorRef:
        return GovernorRef(cell)

    async def on_start(self) -> None:
        self.cell.start_soon(self._govern)

    def figures(self) -> GovernorStatistics:
        return GovernorStatistics(level=self._state.level, releases=self._releases, shed_bytes=self._shed)

    async def _govern(self) -> None:
        while True:
            with contextlib.suppress(ActorDied):  # a part is being restarted: the next look finds it
                await self._look()
            await trio.sleep(self._limits.governor_interval)

    async def _look(self) -> None:
        registry = self._composition.registry
        runs = registry.registry_statistics().active_runs
        sample = Sample(self._resident().total, self._held(), self._kept(), runs)
        limits = self._limits
        decision = decide(self._state, sample, trio.current_time(), soft=limits.memory_soft, hard=limits.memory_hard)
        before, self._state = self._state.level, decision.state
        level = decision.state.level
        if level != before:
            self._tell(before, level, sample)
        forget_names()  # each time: while they are kept, what is freed around them cannot be given back
        registry.memory_full(level == "hard")  # each time: a registry that was restarted does not know
        if decision.shed:
            self._shed += registry.shed_logs()
        if len(sys.modules) >= self._modules + NEW_MODULES and self._quiet:
            self._modules = len(sys.modules)
            freeze_again()
        if decision.release:
            await self._release(sample, caches=decision.shed)

    @property
    def _quiet(self) -> bool:
        """Whether there is time for a full collection."""
        return self._composition.registry.registry_statistics().active_runs <= COLLECT_RUNS_MAX

    def _tell(self, before: Level, level: Level, sample: Sample) -> None:
        does = {"normal": "", "soft": ": shedding", "hard": ": new runs are refused"}
        _log.log(
            logging.INFO if level == "normal" else logging.WARNING,
            "memory is %s (was %s) at %d MiB resident, %d things held; soft from %d MiB, hard from %d MiB%s",
            level, before, sample.resident // MIB, sample.held,
            self._limits.memory_soft // MIB, self._limits.memory_hard // MIB, does[level],
        )  # fmt: skip

    async def _release(self, sample: Sample, *, caches: bool) -> None:
        """Give what is free back to the system. `caches`: what can be read again becomes free first."""
        self._releases += 1
        if caches:
            with trio.move_on_after(SHED_TIMEOUT):
                await self._composition.registry.passivate(SHED_IDLE)
            with trio.move_on_after(SHED_TIMEOUT), contextlib.suppress(EngineError):
                await self._composition.store.shrink()
            self._composition.models.shed()
        await forget_deadlines(STALE_DEADLINES + 2 * _DEADLINES_EACH * sample.held)
        if self._quiet:
            gc.collect()
        await trio.to_thread.run_sync(self._give_back, limiter=self._thread)
        after = self._resident().total
        _log.debug("free pages were given back: %d KiB resident, %d before", after // 1024, sample.resident // 1024)


async def forget_deadlines(most: int) -> None:
    """Make trio forget the deadlines of scopes that are closed.

    It keeps each until its time or until more than STALE_DEADLINES and twice the open ones have gathered: after a
    burst some hundred scopes stay for up to an hour, each in a page of its own. As many more as that takes are closed
    here, `most` at the most, and none after it: those would stay as well.
    """
    deadline = trio.current_time() + _FAR
    for _ in range(0, most + 1, _SLICE):
        for _ in range(_SLICE):
            with trio.CancelScope(deadline=deadline) as scope:  # noqa: ASYNC100 - it is to be closed, nothing else
                pass
        newest = weakref.ref(scope)
        del scope
        await trio.lowlevel.checkpoint()  # where trio looks at them
        if newest() is None:
            return
