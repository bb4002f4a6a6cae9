"""Plays a list of operations on a real engine: registry, sessions, runs and SQLite, with a scripted model and with
watchers that pull as a connection's writer does. After each operation the invariants are checked; at the end
everything is let go, and nothing may be held.

Time stands still unless an operation moves it (a MockClock that never jumps by itself: the disk's threads take real
time). What is under way when an operation begins is left to the scheduler and the disk, unless it says `settle`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from actors.api import Engine, open_engine
from actors.registry import Registry
from actors.store import Store
from engine.config import Config, ModelConfig
from engine.storage import applying, starting, waiting
from tests.actors.scripted import ScriptedModels
from tests.stress.clients import Clients
from tests.stress.invariants import Invariants
from tests.stress.kept import Kept
from tests.stress.model import Model
from tests.stress.seen import TERMINAL
from tests.stress.stored import stored_problems
from tests.stress.truth import LIMITS

HANGS_AFTER = 60.0  # real seconds of one example

Operation = tuple[Any, ...]


class World(Clients, Model, Invariants, Kept):
    async def play(self, operations: Sequence[Operation]) -> None:
        rest = deque(operations)
        while True:
            async with trio.open_nursery() as self.tasks:
                async with self._engine():
                    crash = await self._live(rest)
                    again = crash or bool(rest)
                    if crash:
                        await self._crash()
                    elif not again:
                        await self._let_go()
                        await self._check_kept()
                    self.closing = True
                    self.disk.release()
                await trio.testing.wait_all_tasks_blocked()
                assert not +self.under_way, f"asked of an engine that has ended: {+self.under_way}"
                if not crash:
                    self._drain_all()
                self._leave()
                self.tasks.cancel_scope.cancel()
            if crash:
                shutil.rmtree(self.data)
                self.copy.rename(self.data)
            if not again:
                break
        # What is durable is the same for the next daemon.
        async with trio.open_nursery() as self.tasks:
            async with self._engine():
                await self._check_kept()
                self.closing = True
            self.tasks.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        self.life += 1
        self.closing = False
        self.models = ScriptedModels()

        async def echo(text: str) -> str:
            """Say it again."""
            return text

        async def wait() -> str:
            """Wait until the test lets it go."""
            let_go = trio.Event()
            self.tools.append(let_go)
            await let_go.wait()
            return "waited"

        config = Config(
            default_model="model",
            models={"model": ModelConfig(provider="demo")},
            toolsets={},
            limits=LIMITS,
            durability="normal",
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("actors.composition.Models", lambda *_, **__: self.models)
            patch.setattr(starting, "start_run", self._store_run)
            patch.setattr(starting, "steer_run", self._store_steered)
            patch.setattr(waiting, "enqueue", self._store_queued)
            patch.setattr(waiting, "begin", self._store_begun)
            patch.setattr(applying, "apply", functools.partial(self.disk.gate, applying.apply))
            async with open_engine(config, data_dir=self.data, tools=[echo, wait]) as self.engine:
                self.registry = self.engine.registry
                actor = self.registry._cell.actor
                assert isinstance(actor, Registry)
                self.actor = actor
                store = self.engine._composition.store._cell.actor
                assert isinstance(store, Store)
                self.store = store
                self.tasks.start_soon(self._answer_calls, self.models)
                yield self.engine

    async def _live(self, rest: deque[Operation]) -> bool:
        """Play until the engine is to be closed; whether by a crash."""
        while rest:
            name, *arguments = rest.popleft()
            if name == "restart":
                return False
            if name == "crash":
                return True
            await getattr(self, f"do_{name}")(*arguments)
            self._check_now()
        return False

    async def _crash(self) -> None:
        """Keep the files as a kill would leave them now: what is told from here on never happened."""
        await self.settle()
        self._drain_all()
        self._check_now()
        shutil.copytree(self.data, self.copy)
        for run_id, feed in self.actor._runs.items():
            if feed.run.status not in TERMINAL | {"queued"}:
                self.script_of(run_id).crashed = True
        self._leave()
        self.life += 1

    def _leave(self) -> None:
        for follower in self.followers:
            follower.close()
        self.feeds.clear()
        self.calls.clear()
        self.tools.clear()

    async def settle(self) -> None:
        """Until nothing goes on but what waits for the model, for a watcher or for time."""
        self.disk.release()
        while True:
            await trio.testing.wait_all_tasks_blocked()
            disk = self.store.disk
            if all(worker._room.value == LIMITS.disk_queue for worker in (disk._writer, disk._reader)):
                return
            await disk.read(lambda connection: None)
            await disk.write(lambda connection: None)

    async def do_settle(self) -> None:
        await self.settle()
        self._check_settled()
        for session_id in self.sessions:
            if session_id not in self.deleted:
                await self._check_queue(session_id)

    async def do_hold(self) -> None:
        """Commits wait until the next operation that settles."""
        self.disk.hold()
        self.stats["held"] += 1

    async def do_rest(self) -> None:
        """Until nothing goes on but what waits for the disk too."""
        await trio.testing.wait_all_tasks_blocked()
        self._check_woken()

    async def do_turn(self, count: int) -> None:
        for _ in range(count):
            await trio.lowlevel.checkpoint()

    async def do_advance(self, seconds: float) -> None:
        await self.settle()  # else a grace would end that has no time to pass in
        self.clock.jump(seconds)
        self.stats["advance"] += 1


class Errors(logging.Handler):
    """Whatever the program logs as an error is one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def play(operations: Sequence[Operation], folder: Path) -> Counter[str]:
    """Returns how often what was done."""
    stats: Counter[str] = Counter()

    async def main() -> None:
        world = World(folder)
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            watchdog = threading.Timer(HANGS_AFTER, token.run_sync_soon, (scope.cancel,))
            watchdog.start()
            try:
                await world.play(operations)
            finally:
                watchdog.cancel()
        assert not scope.cancelled_caught, "it hangs"
        stats.update(world.stats)

    errors = Errors()
    logging.getLogger("greenroom").addHandler(errors)
    try:
        trio.run(main, clock=trio.testing.MockClock())
    finally:
        logging.getLogger("greenroom").removeHandler(errors)
    assert not errors.lines, errors.lines
    assert stored_problems(folder / "data") == []
    return stats
