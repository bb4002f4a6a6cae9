"""Gathering: how the wait follows the load, and what it does to the frames of a connection."""

from __future__ import annotations

from bisect import bisect_left

import pytest
import trio

from actors.gateway.load import IDLE, TICKS_KEPT, WAIT_BUSY, WAIT_SATURATED, WINDOW, LoopMeter
from engine.runs import events
from tests.actors.gateway.fakes import FakeRun, serve


class Loop:
    """A loop that is busy for a share of its time, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.meter = LoopMeter(lambda: self.now)

    def turn(self, busy: float, ticks: int = 20, tick: float = 0.01) -> float:
        """Some ticks; the wait behind them."""
        for _ in range(ticks):
            self.now += tick * busy
            self.meter.before_io_wait(1.0)
            self.now += tick * (1 - busy)
            self.meter.after_io_wait(1.0)
        return self.meter.gathering()


def test_an_idle_loop_gathers_nothing() -> None:
    loop = Loop()
    assert [loop.turn(busy) for busy in (0.0, 0.3, IDLE)] == [0, 0, 0]


def test_the_wait_grows_with_the_load_to_its_bounds_and_goes_again() -> None:
    loop = Loop()
    busy = [loop.turn(0.8) for _ in range(10)]
    assert busy == sorted(busy) and busy[0] > 0 and busy[-1] == WAIT_BUSY
    saturated = [loop.turn(1.0) for _ in range(10)]
    assert saturated == sorted(saturated) and saturated[-1] == WAIT_SATURATED
    assert loop.turn(0.6) == WAIT_SATURATED  # between the two it stays, so that it does not swing
    idle = [loop.turn(0.1) for _ in range(10)]
    assert idle == sorted(idle, reverse=True) and idle[-1] == 0


def test_the_load_is_looked_at_once_a_window() -> None:
    loop = Loop()
    assert loop.turn(1.0, ticks=1, tick=WINDOW * 0.6) == 0
    assert loop.turn(1.0, ticks=1, tick=WINDOW * 0.6) > 0


def test_the_lag_is_that_of_the_longest_hundredth() -> None:
    loop = Loop()
    loop.turn(0.1, ticks=980, tick=0.001)
    assert loop.meter.lag_p99() <= 0.0004
    loop.turn(1.0, ticks=20, tick=0.05)
    assert 0.05 <= loop.meter.lag_p99() <= 0.11


def test_all_ticks_are_counted_also_those_the_lag_has_forgotten() -> None:
    loop = Loop()
    loop.turn(0.5, ticks=10, tick=0.001)
    for _ in range(3):
        loop.turn(0.0, ticks=1, tick=2 * TICKS_KEPT)
        loop.meter.lag_p99()
    loop.turn(1.0, ticks=4, tick=0.05)
    ticks = loop.meter.ticks()
    assert sum(ticks.counts) == 17
    assert ticks.sum == pytest.approx(10 * 0.0005 + 4 * 0.05)
    assert sum(ticks.counts[: bisect_left(ticks.bounds, 0.04)]) == 13  # all but the four long ones


@pytest.mark.parametrize("fact", [False, True])
async def test_deltas_are_gathered_when_the_loop_is_busy_and_nothing_else_waits(fact: bool) -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        await wire.request("run.watch", run_id="run_1")
        await wire.push()
        meter = served.ref._gateway._meter
        meter.gathering = lambda: 5.0  # type: ignore[method-assign]
        run.delta("first ")
        await trio.testing.wait_all_tasks_blocked()
        run.delta("second")
        if fact:
            run.fact(events.TurnFinished(turn=1, finish="stop", usage=run.feed.run.usage))
            _, params = await wire.push()
            assert [event["type"] for event in params["events"]] == ["part.delta", "turn.finished"]
            assert params["events"][0]["text"] == "first second"
            return
        # A reply goes at once, and takes along what had gathered.
        assert await wire.request("ping") == {}
        _, params = await wire.push()
        assert [event["text"] for event in params["events"]] == ["first second"]
