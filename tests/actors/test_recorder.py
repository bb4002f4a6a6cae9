"""The last hour of what the daemon held."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from actors._actor import open_actor
from actors._ask import ActorDied
from actors.composition import open_composition
from actors.daemon import _Daemon
from actors.owners import OWNERS
from actors.recorder import PERIOD, SAMPLES, SERIES, History, Recorder
from engine import codec
from engine.config import Config
from engine.config_values import Listen
from engine.limits import DEFAULT


def stats(value: int = 1, **other: Any) -> dict[str, Any]:
    """A result of `daemon.stats` in which every figure is this."""
    return {
        "uptime_s": 1.5,
        "memory": {"resident": value, "state": "normal", "owned": dict.fromkeys(OWNERS, value)},
        "counts": {"sessions": value, "active_runs": value, "connections": value, "requests": 7},
        "processes": {"programs": value, "resident": value, "all": 1},
        "loop": {"lag_p99_ms": value + 0.25},
        "actors": {},
        **other,
    }


def lists(told: Mapping[str, Any]) -> dict[tuple[str, ...], list[float]]:
    found: dict[tuple[str, ...], list[float]] = {}
    for name, value in told.items():
        if isinstance(value, Mapping):
            found |= {(name, *path): series for path, series in lists(value).items()}
        elif name != "period_s":
            found[(name,)] = value
    return found


def test_every_series_is_told_in_the_shape_of_the_stats() -> None:
    history = History()
    assert all(series == [] for series in lists(history.told()).values())
    for value in (5, 6):
        history.add(1000 * value, stats(value))
    told = history.told()
    assert told["at"] == [5000, 6000] and told["period_s"] == PERIOD
    assert told["memory"]["resident"] == told["memory"]["owned"]["logs"] == [5, 6]
    assert told["loop"]["lag_p99_ms"] == [5.25, 6.25]
    assert lists(told).keys() == {("at",), *SERIES}


def test_the_oldest_look_goes_when_there_is_one_too_many() -> None:
    history = History(3)
    for at in range(1, 9):
        history.add(at, stats(at))
        expected = list(range(max(1, at - 2), at + 1))
        assert history.told()["at"] == history.told()["counts"]["sessions"] == expected


def test_the_longest_history_fits_a_frame_and_takes_the_memory_that_it_had() -> None:
    history = History()
    sizes = {id(series): series.__sizeof__() for series in history._series.values()}
    assert sum(sizes.values()) < 70_000
    for at in range(2 * SAMPLES + 1):
        history.add(2_000_000_000_000 + at, stats(2**40))
    assert {id(series): series.__sizeof__() for series in history._series.values()} == sizes
    told = history.told()
    assert len(told["at"]) == SAMPLES
    assert len(codec.dump(told)) < DEFAULT.frame_bytes // 2


def test_a_look_that_lacks_a_figure_leaves_nothing_of_it() -> None:
    history = History()
    history.add(1, stats())
    with pytest.raises(KeyError):
        history.add(2, stats(loop={}))
    assert {len(series) for series in lists(history.told()).values()} == {1}


async def test_a_look_each_period_whatever_becomes_of_one(autojump_clock: trio.testing.MockClock) -> None:
    looks: list[float] = []

    async def look() -> dict[str, Any]:
        looks.append(trio.current_time())
        if len(looks) == 2:
            raise ActorDied("the registry", "it is being restarted")
        if len(looks) == 3:
            await trio.sleep(math.inf)
        return stats(len(looks))

    history = History()
    begun = trio.current_time()
    async with open_actor(Recorder(history, look), "recorder"):
        await trio.sleep(5.5 * PERIOD)
    assert [round((at - begun) / PERIOD, 1) for at in looks] == [1.0, 2.0, 3.0, 4.5, 5.5][: len(looks)]
    assert history.told()["counts"]["sessions"] == [1, *range(4, len(looks) + 1)]
    assert len(looks) >= 4


async def test_the_daemon_can_be_looked_at_as_its_clients_see_it(tmp_path: Path) -> None:
    config = Config(listen=Listen(port=0))
    daemon = _Daemon(config, tmp_path, 0.0)
    with trio.fail_after(30):
        async with open_composition(config, tmp_path, extra=daemon.parts) as composition:
            daemon._history.add(1, await daemon._look(composition))
            assert composition.root.child("recorder").state == "running"
            told = daemon._history.told()
    assert told["at"] == [1]
    assert told["memory"]["resident"][0] > 1 << 20
    assert told["memory"]["owned"]["files"][0] > 1 << 16
    assert told["counts"]["connections"] == [0]
