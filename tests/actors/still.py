"""A stage whose clocks stand still and whose disk has no thread: what happens between two steps of a test is the same
each time, down to the number of checkpoints.

The store is SQLite as ever, its operations run in the loop's own thread. trio's clock moves by `clock.jump`, the wall
clock by `wall.ms`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from sqlite3 import Connection
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import _disk, composition
from actors._ask import ActorDied
from actors._feed import RunFeed
from actors.api import RunHandle
from actors.registry import Registry
from engine.errors import PeerError
from tests.actors.scripted import LIMIT, Call, Stage, Staged, until_text

NOON = 1_800_000_000_000  # the wall clock at the start of a test, in ms


@contextlib.contextmanager
def real_limit(seconds: float) -> Iterator[None]:
    """A bound for what hangs on a clock that stands still. Raises trio.TooSlowError."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        watchdog = threading.Timer(seconds, token.run_sync_soon, (scope.cancel,))
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
    if scope.cancelled_caught:
        raise trio.TooSlowError


class _Inline:
    """In place of the thread of _disk._Worker. Before an operation is begun it can be cancelled, then not."""

    _connection: Connection | None = None
    _until_told = 1  # checkpoints after the operation, in which others may see what it did before its caller does

    async def start(self: Any) -> None:
        self._connection = self._open()

    async def run(self: Any, work: Callable[[Connection], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        if self._connection is None:
            raise ActorDied("the store is closed")
        operation = _disk._Operation(work, trio.lowlevel.current_task())
        self._run(self._connection, [operation])
        self.done += 1
        for _ in range(self._until_told):
            await trio.lowlevel.cancel_shielded_checkpoint()
        assert operation.result is not None
        return operation.result.unwrap()

    async def close(self: Any) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._close(connection)
        await trio.lowlevel.cancel_shielded_checkpoint()


class _InlineWriter(_Inline, _disk._Writer):
    _until_told = 5  # more than a read takes from its asker to its answer


class _InlineReader(_Inline, _disk._Reader):
    pass


@attrs.define
class Wall:
    """The wall clock."""

    ms: int = NOON

    def __call__(self) -> int:
        return self.ms


class StillStage:
    """A stage and its clocks."""

    def __init__(self, stage: Stage, clock: MockClock, wall: Wall) -> None:
        self.stage = stage
        self.clock = clock
        self.wall = wall

    @property
    def actor(self) -> Registry:
        actor = self.stage.registry._cell.actor
        assert isinstance(actor, Registry)
        return actor

    async def pass_time(self, seconds: float) -> None:
        """Time passes, and everybody does what they do in it. Nobody asks for anything."""
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    async def end(self, run: RunHandle, call: Call, how: str = "completed") -> None:
        """The end of a run; joined."""
        match how:
            case "completed":
                call.end()
            case "failed":
                call.fail(PeerError("provider_error", "no more, says the test"))
            case "cancelled":
                await run.stop("enough")
            case "interrupted":
                self.stage.disk.full = True
                call.end()
        record = await run.wait()
        self.stage.disk.full = False
        assert record.status == how
        await wait_all_tasks_blocked()
        assert run.id not in self.stage.runs_in_tree()

    async def one(self, text: str = "said", how: str = "completed") -> RunHandle:
        """A run in a session of its own, from its start to its end."""
        run, call = await self.stage.begin()
        call.text(text)
        await until_text(run, text)
        await self.end(run, call, how)
        return run

    def held(self) -> list[str]:
        """The ids of the runs in memory."""
        return list(self.actor._runs)


Still = Callable[..., contextlib.AbstractAsyncContextManager[StillStage]]


@pytest.fixture
def still(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> Still:
    """`async with still(terminal_retained_max=3) as it`: limits are given by name. A test asks for `mock_clock` too."""
    wall = Wall()
    monkeypatch.setattr(_disk, "_Writer", _InlineWriter)
    monkeypatch.setattr(_disk, "_Reader", _InlineReader)
    monkeypatch.setattr(composition, "Services", functools.partial(composition.Services, now_ms=wall))
    monkeypatch.setattr(composition, "Store", functools.partial(composition.Store, now_ms=wall))

    @contextlib.asynccontextmanager
    async def stage(**limits: float) -> AsyncIterator[StillStage]:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock), "the test has to ask for `mock_clock` itself"
        with real_limit(LIMIT):
            async with staged(limit=math.inf, **limits) as made:
                yield StillStage(made, clock, wall)

    return stage


def closings(*feeds: RunFeed) -> list[str]:
    """The ids of the runs in the order in which their watchers are told that they have left memory; grows."""
    found: list[str] = []

    def listen(feed: RunFeed) -> None:
        def ring() -> None:
            if feed.closed is not None and feed.run.id not in found:
                found.append(feed.run.id)

        feed.attach(ring)

    for feed in feeds:
        listen(feed)
    return found
