"""What runs cost and what they leave behind: memory per finished run, a burst, one-token runs, and stops.

    python scripts/bench_runs.py [--runs N] [--quick] [--json]

The model service (tests/model_server.py) and the daemon are processes of their own, each measure has a daemon of its
own. Measured:

- resident memory per finished run after the plateau, of N runs with 200 deltas and as many with 2,000: the retention is
  set small, so that the plateau is reached early and what grows after it is kept by nobody's intention. The runs before
  it are in the same sessions: one keeps its window for the next step, which is full after 10 runs, and sessions that
  begin with the measured runs would be measured with them (4 MB of 16 with 2,000 deltas, in the first 500 runs)
- a burst: many runs are active and end at once; resident memory when their window has passed
- whose the memory is: the sum of the owners in `daemon.stats` beside what is resident, idle, under load (streaming
  runs, each connection watching two), and when the load has ended
- a run of one token, everything durable: wall and CPU time; and runs a second of several clients
- from `run.stop` to the model's service seeing its connection closed

Hard conditions: the slope, the burst and the owners; without --quick the times, too. Few runs have a wider bound of
the slope.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Client, Daemon, Findings, model_server, percentile, say, slope

CLIENTS = 16
LIMIT = 1800.0  # seconds for each measure; one that takes longer hangs
# The retention of the slope's daemon: at most 64 ended runs for 2 s, and a window of few messages.
SLOPE_LIMITS = {"terminal_retention": "2s", "terminal_retained_max": 64, "window_messages": 20}
SAMPLES = 60
SLOPE_KIB = 0.3  # aim; a finished run that is kept costs at least 6
# Resident memory goes up and down by so much whatever is done: of few runs that is no slope.
NOISE_KIB = 2048
BURST_MB = 10.0
# Timers and the governor have this long after the window, and the window's length once more: sessions leave a quarter
# of it later, and memory is given back at most every 2 s, the last time when the last of them has left.
RETURN_PATIENCE = 4.0
OWNED_SHARE = 0.25  # of what is resident, by which the sum of the owners may be wrong
ONE_TOKEN_MS, ONE_TOKEN_CPU_MS, STOP_MS = 10.0, 8.0, 3.0


@attrs.frozen
class Size:
    runs: int
    long_runs: int  # 0: their slope is not taken
    # Runs before the slope is taken: SQLite's caches, the retained logs and the windows of the sessions are full then.
    warm_up: int
    long_warm_up: int
    burst: int
    window: float  # seconds that all runs of a burst are kept
    streams: int  # of the load whose memory is accounted for
    one_token: int
    rate: int  # one-token runs whose rate is taken
    stops: int


def size(quick: bool, runs: int | None) -> Size:
    if quick:
        return Size(
            runs=runs or 200, long_runs=0, warm_up=300, long_warm_up=0,
            burst=200, window=1.0, streams=60, one_token=20, rate=60, stops=10,
        )  # fmt: skip
    many = runs or 10_000
    return Size(
        runs=many, long_runs=many, warm_up=1000, long_warm_up=500,
        burst=1000, window=5.0, streams=200, one_token=300, rate=2000, stops=100,
    )  # fmt: skip


def burst_limits(window: float) -> dict[str, str | int]:
    """Of a daemon that keeps all runs of a burst for its window."""
    return {
        "terminal_retention": f"{window:g}s", "terminal_retained_max": 4096, "active_runs_max": 4096,
        "passivate_after": f"{window:g}s", "progress_timeout": f"{LIMIT:g}s",
    }  # fmt: skip


async def start(client: Client, session_id: str, text: str) -> Any:
    return await client.request("run.start", session_id=session_id, text=text, watch=True)


async def complete(client: Client, session_id: str, text: str) -> None:
    """A run from its start to its watch's end."""
    await start(client, session_id, text)
    while (push := await client.push())["method"] != "watch.closed":
        pass
    assert push["params"]["status"] == "completed", push


async def create(client: Client) -> str:
    return str((await client.request("session.create", toolsets=[]))["session"]["id"])


async def many(
    daemon: Daemon,
    count: int,
    prompt: str,
    each: Callable[[int], None] = lambda done: None,
    sessions: Sequence[str | None] = (None,) * CLIENTS,
) -> float:
    """`count` runs by some clients, one session each (None: a new one); the seconds they took. `each` hears of each
    that has ended."""
    left, done = count, 0
    began = time.monotonic()

    async def client_task(known: str | None) -> None:
        nonlocal left, done
        async with daemon.connect() as client:
            session = known or await create(client)
            while left > 0:
                left -= 1
                await complete(client, session, prompt)
                done += 1
                each(done)

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(client_task, session)
    return time.monotonic() - began


# ------------------------------------------------------------ measures
async def measure_slope(daemon: Daemon, warm_up: int, runs: int, deltas: int) -> dict[str, Any]:
    points: list[tuple[float, float]] = []
    every = max(1, runs // SAMPLES)
    prompt = f"!stream n={deltas} batch=50"

    def sample(done: int) -> None:
        if done % every == 0:
            points.append((done, daemon.resident() / 1024))
        if done % max(1, runs // 4) == 0:
            say(f"{done} of {runs} runs of {deltas} deltas, {daemon.resident() / 2**20:.1f} MB")

    async with daemon.connect() as client:
        sessions = [await create(client) for _ in range(CLIENTS)]
    await many(daemon, warm_up, prompt, sessions=sessions)
    cpu = daemon.cpu()
    seconds = await many(daemon, runs, prompt, sample, sessions)
    cpu = daemon.cpu() - cpu
    return {
        "runs": runs,
        "kib_per_run": round(slope(points), 3),
        "plateau_mb": [round(edge[1] / 1024, 1) for edge in (points[0], points[-1])],
        "runs_per_second": round(runs / seconds, 1),
        "cpu_ms_per_run": round(cpu / runs * 1000, 2),
    }


async def measure_burst(daemon: Daemon, count: int, window: float) -> dict[str, Any]:
    # What a daemon that has worked holds anyway (SQLite's bounded caches above all) belongs to the baseline.
    await many(daemon, count * 6 // 10, "!stream n=200 batch=50")
    await trio.sleep(2 * window + RETURN_PATIENCE)
    baseline = daemon.resident()
    descriptors = daemon.descriptors()
    active = await begin_burst(daemon, count)
    during = daemon.resident()
    began = time.monotonic()
    await in_parallel(daemon, [partial(stop, run_id) for run_id in active])
    stopped = time.monotonic() - began
    ended = daemon.resident()
    counts = (await stats(daemon))["counts"]
    assert counts["active_runs"] == 0, counts
    assert counts["retained_runs"] == count or stopped > window / 2, counts  # a slow machine: the first are due
    await trio.sleep(window)
    passed = daemon.resident()
    await trio.sleep(window + RETURN_PATIENCE)
    memory = daemon.resident()
    descriptors_more = daemon.descriptors() - descriptors
    counts = (await stats(daemon))["counts"]
    return {
        "runs": count,
        "baseline_mb": round(baseline / 2**20, 1),
        "active_mb": round(during / 2**20, 1),
        "ended_mb": round(ended / 2**20, 1),
        "window_passed_mb": round(passed / 2**20, 1),
        "after_mb": round(memory / 2**20, 1),
        "kept_mb": round((memory - baseline) / 2**20, 1),
        "stopped_in_s": round(stopped, 2),
        "descriptors_more": descriptors_more,
        "counts": {name: counts[name] for name in ("sessions", "active_runs", "retained_runs")},
    }


async def stats(daemon: Daemon) -> Any:
    """What the daemon says that it holds, over a connection that is not left silent meanwhile: it would be dropped."""
    async with daemon.connect() as client:
        return await client.request("daemon.stats")


async def begin_burst(daemon: Daemon, count: int) -> list[str]:
    """Start that many runs, and wait until each has shown its text; their ids."""
    active: list[str] = []

    async def begin(client: Client) -> None:
        started = await start(client, await create(client), "!silence n=200")
        active.append(started["run"]["id"])
        text = ""
        while len(text) < 200 * len("partial "):
            params = (await client.push())["params"]
            if params["watch_id"] == started["watch_id"]:  # else of an earlier one, on its way when it was closed
                text += "".join(event.get("text", "") for event in params["events"])
        await client.request("watch.close", watch_id=started["watch_id"])

    await in_parallel(daemon, [begin] * count)
    return active


async def measure_owned(daemon: Daemon, streams: int, window: float) -> dict[str, dict[str, Any]]:
    """By state: MB resident, MB by owner, and their sum as a share of what is resident."""
    found: dict[str, dict[str, Any]] = {}
    runs: list[str] = []

    async def look(state: str) -> None:
        said = await stats(daemon)
        memory = said["memory"]
        found[state] = {
            "resident_mb": round(memory["resident"] / 2**20, 1),
            "owned_mb": {owner: round(held / 2**20, 2) for owner, held in memory["owned"].items()},
            "explained": round(sum(memory["owned"].values()) / memory["resident"], 3),
            "counts": {name: said["counts"][name] for name in ("sessions", "active_runs", "connections")},
        }

    async def two_streams() -> None:
        async with daemon.connect() as client:
            for _ in range(2):
                started = await start(client, await create(client), "!stream n=100000 rate=5")
                runs.append(started["run"]["id"])
            while True:
                await client.push()

    await look("idle")
    async with trio.open_nursery() as load:
        for _ in range(streams // 2):
            load.start_soon(two_streams)
        while (await stats(daemon))["counts"]["active_runs"] < streams // 2 * 2:
            pass
        await trio.sleep(2)  # the streams are at work
        await look("load")
        load.cancel_scope.cancel()
    await in_parallel(daemon, [partial(stop, run_id) for run_id in runs])
    await trio.sleep(2 * window + RETURN_PATIENCE)
    await look("after")
    return found


async def stop(run_id: str, client: Client) -> None:
    run = (await client.request("run.stop", run_id=run_id))["run"]
    assert run["status"] == "cancelled", run


async def in_parallel(daemon: Daemon, jobs: list[Callable[[Client], Awaitable[None]]]) -> None:
    """The jobs over some connections, one at a time on each."""
    left = list(reversed(jobs))

    async def client_task() -> None:
        async with daemon.connect() as client:
            while left:
                await left.pop()(client)

    async with trio.open_nursery() as nursery:
        for _ in range(4 * CLIENTS):
            nursery.start_soon(client_task)


async def measure_one_token(daemon: Daemon, count: int) -> dict[str, float]:
    """Runs of one token, one after another, each the first of its session (made before)."""
    wall = []
    async with daemon.connect() as client:
        for _ in range(20):
            await complete(client, await create(client), "!stream n=1")
        sessions = [await create(client) for _ in range(count)]
        cpu = daemon.cpu()
        for session in sessions:
            began = time.monotonic()
            await complete(client, session, "!stream n=1")
            wall.append((time.monotonic() - began) * 1000)
        cpu = daemon.cpu() - cpu
    return {
        "runs": count,
        "median_ms": round(statistics.median(wall), 2),
        "p99_ms": round(percentile(wall, 0.99), 2),
        "cpu_ms": round(cpu / count * 1000, 2),
    }


async def measure_rate(daemon: Daemon, count: int) -> float:
    return round(count / await many(daemon, count, "!stream n=1"), 1)


async def measure_stop(daemon: Daemon, models: Any, count: int) -> dict[str, float]:
    """ms from sending `run.stop` until the model's service sees its connection closed, and until the reply."""
    closed, replied = [], []
    number = max(asked["number"] for asked in await trio.to_thread.run_sync(models.requests))
    async with daemon.connect() as client:
        session = await create(client)
        for _ in range(count):
            started = await start(client, session, "!silence n=1")
            while not any(event["type"] == "part.delta" for event in (await client.push())["params"]["events"]):
                pass
            began = time.monotonic()
            await client.request("run.stop", run_id=started["run"]["id"])
            replied.append((time.monotonic() - began) * 1000)
            number += 1
            asked = await trio.to_thread.run_sync(models.ended, number)
            assert asked["end"] == "closed", asked
            closed.append((asked["ended_at"] - began) * 1000)
            while (await client.push())["method"] != "watch.closed":
                pass
    return {
        "stops": count,
        "closed_median_ms": round(statistics.median(closed), 2),
        "closed_p99_ms": round(percentile(closed, 0.99), 2),
        "replied_median_ms": round(statistics.median(replied), 2),
    }


# ------------------------------------------------------------ all of them
class Bench:
    def __init__(self, models: Any, findings: Findings) -> None:
        self.models, self.findings = models, findings

    def measure(self, limits: dict[str, Any], what: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Run one measure on a daemon of its own."""

        async def bounded(daemon: Daemon) -> Any:
            with trio.fail_after(LIMIT):
                return await what(daemon, *arguments)

        with tempfile.TemporaryDirectory(prefix="bench-runs-") as folder:
            daemon = Daemon(self.models.url, Path(folder), limits, settle=0.2)
            try:
                result = trio.run(bounded, daemon)
                assert not daemon.errors(), daemon.errors()[:5]
                return result
            finally:
                daemon.stop()

    def all(self, size: Size, quick: bool) -> None:
        self.times(size, quick)
        self.burst(size)
        self.owners(size)
        self.slopes(size)

    def times(self, size: Size, quick: bool) -> None:
        async def both(daemon: Daemon) -> Any:
            one = await measure_one_token(daemon, size.one_token)
            return one, await measure_rate(daemon, size.rate), await measure_stop(daemon, self.models, size.stops)

        one, rate, stop = self.measure({}, both)
        self.aim("one_token_ms", one["median_ms"], ONE_TOKEN_MS, "ms", "a run of one token, wall (median)", quick)
        self.aim("one_token_cpu_ms", one["cpu_ms"], ONE_TOKEN_CPU_MS, "ms", "a run of one token, CPU (mean)", quick)
        self.findings.note("one_token_p99_ms", one["p99_ms"], "ms", "a run of one token, wall (p99)")
        self.findings.note("runs_per_second", rate, "runs/s", f"one-token runs of {CLIENTS} clients")
        closed = stop["closed_median_ms"]
        self.aim("stop_closed_ms", closed, STOP_MS, "ms", "run.stop to the closed model connection (median)", quick)
        self.findings.note("stop_closed_p99_ms", stop["closed_p99_ms"], "ms", "the same (p99)")
        self.findings.note("stop_replied_ms", stop["replied_median_ms"], "ms", "run.stop to its reply (median)")

    def aim(self, key: str, value: float, most: float, unit: str, what: str, quick: bool) -> None:
        """A time. A short measure on a busy machine is told and not judged."""
        if quick:
            self.findings.note(key, value, unit, f"{what}, aim ≤ {most:g}")
        else:
            self.findings.hold(key, value, value <= most, unit, f"{what} ≤ {most:g}")

    def burst(self, size: Size) -> None:
        burst = self.measure(burst_limits(size.window), measure_burst, size.burst, size.window)
        self.findings.note("burst", burst, "", f"{size.burst} runs that end at once")
        what = f"kept after the window of a burst ≤ {BURST_MB:g}"
        self.findings.hold("burst_kept_mb", burst["kept_mb"], burst["kept_mb"] <= BURST_MB, "MB", what)
        clean = burst["counts"]["retained_runs"] == 0 and burst["descriptors_more"] <= 0
        self.findings.hold("burst_released", clean, clean, "", "no run and no descriptor is left of it")

    def owners(self, size: Size) -> None:
        states = self.measure(burst_limits(size.window), measure_owned, size.streams, size.window)
        self.findings.note("owned", states, "", "memory by owner")
        for state, found in states.items():
            share = found["explained"]
            what = f"of the resident memory explained, {state}: 1 ± {OWNED_SHARE:g}"
            self.findings.hold(f"explained_{state}", share, abs(1 - share) <= OWNED_SHARE, "", what)

    def slopes(self, size: Size) -> None:
        measured = ((200, size.warm_up, size.runs), (2000, size.long_warm_up, size.long_runs))
        for deltas, warm_up, runs in measured:
            if not runs:
                continue
            most = max(SLOPE_KIB, round(NOISE_KIB / runs, 2))
            result = self.measure(SLOPE_LIMITS, measure_slope, warm_up, runs, deltas)
            self.findings.note(f"runs_of_{deltas}", result, "", f"runs of {deltas} deltas")
            what = f"memory per finished run of {deltas} deltas after the plateau < {most:g}"
            value = result["kib_per_run"]
            self.findings.hold(f"slope_{deltas}_kib", value, value < most, "KiB", what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="for the slopes; default 10000, 200 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer of everything; times are told and not judged")
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    asked = parser.parse_args()
    findings = Findings("runs", asked.quick)
    with model_server() as models:
        Bench(models, findings).all(size(asked.quick, asked.runs), asked.quick)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
