"""Scopes that end (class H): connect/cancel cycles of everything that clients are, and what is left of them.

    python scripts/stress_scopes.py [--cycles N] [--json] [--quick]

- sockets (two fifths of the cycles): connections to a daemon that end at every stage, by a reset or a farewell in turn
- watches (three tenths): opened and closed on connections that stay, of a run that streams, a session, an ended run
- streams (three tenths): model calls of actors.models in this process, cancelled at a moment of chance, left, broken
- runs (one in a thousand): runs of the daemon, stopped by a client while their model is silent

Afterwards nothing of it may be left: tasks or actors, descriptors, CPU of an idle process, memory that grows with the
cycles. Exit code 1 if a condition does not hold. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import (
    Client,
    Daemon,
    Findings,
    Socket,
    frame,
    model_server,
    request,
    resident,
    say,
    slope,
    upgrade,
)

from actors.models import Models
from engine.config import ModelConfig
from engine.errors import PeerError
from engine.providers.base import ModelRequest
from engine.transcript.records import Message, TextPart, UserMessage

SEED = 20
SHARES = {"sockets": 0.4, "watches": 0.3, "streams": 0.3, "runs": 0.001}
AT_ONCE = {"sockets": 16, "watches": 4, "streams": 8, "runs": 4}
CYCLES, CYCLES_QUICK = 100_000, 1_500
SAMPLES = 100  # of memory, over the cycles of one kind
IDLE_SHARE = 0.01  # of a core
IDLE_SHARE_QUICK = 0.05  # in a short look, which a busy machine disturbs; what never rests takes a whole one
# Bytes a cycle after the plateau. What leaks holds a socket, a task or a buffer: kilobytes. Few cycles say less.
SLOPE = 100.0
SLOPE_QUICK = 8192.0
WARM_UP = 100  # cycles of each kind
# Seconds until what was cut is gone: the goodbyes of connections and the look of the gateway at them.
SETTLE = 60.0
CYCLE_SECONDS = 0.05  # at the most, on average
PATIENCE = 60.0

Cycle = Callable[[int], Awaitable[None]]


async def cycles(kind: str, count: int, one: Cycle, memory: Callable[[], int]) -> list[tuple[float, float]]:
    """Do `one` that many times, some at a time. The memory's course, by cycle."""
    started = 0
    points: list[tuple[float, float]] = []
    every = max(1, count // SAMPLES)

    async def worker() -> None:
        nonlocal started
        while started < count:
            number = started
            started += 1
            if number % every == 0:
                points.append((number, memory()))
            if number and count > WARM_UP and number % (count // 5) == 0:
                say(f"{kind}: {number} of {count}")
            await one(number)

    with trio.fail_after(PATIENCE + count * CYCLE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(min(AT_ONCE[kind], count)):
                nursery.start_soon(worker)
    return points


async def idle_cpu(cpu: Callable[[], float], seconds: float) -> float:
    """The share of a core that is used while nothing happens."""
    before, began = cpu(), time.monotonic()
    await trio.sleep(seconds)
    return (cpu() - before) / (time.monotonic() - began)


# ------------------------------------------------------------ sockets of the daemon
class Sockets:
    """One connection a cycle; `stages` are where it ends."""

    def __init__(self, daemon: Daemon, session_id: str, run_id: str) -> None:
        self._daemon = daemon
        self._random = random.Random(SEED)
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        head = upgrade(daemon.ws_url, daemon.headers)
        wrong = upgrade(daemon.ws_url, {**daemon.headers, "Authorization": "Bearer wrong"})
        initialize = frame(request(1, "initialize", protocol=1, client={"name": "cycle", "version": "1"}).encode())
        watch = frame(request(2, "run.watch", run_id=run_id).encode())
        watch_session = frame(request(3, "session.watch", session_id=session_id).encode())
        listed = frame(request(4, "session.list").encode())
        messages = frame(request(5, "session.messages", session_id=session_id).encode())
        # What is sent, and how many reads follow before the end.
        self._stages: list[tuple[bytes, int]] = [
            (b"", 0),  # connected
            (head[:40], 0),  # in the request's head
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 1),
            (wrong, 1),  # refused
            (head, 0),  # in the handshake
            (head, 1),  # connected, silent
            (head + initialize[:9], 1),  # in a frame
            (head + initialize, 0),
            (head + initialize, 2),  # initialized
            (head + initialize + listed * 3 + messages, 1),  # with requests at work
            (head + initialize + watch, 0),
            (head + initialize + watch, 4),  # with a watch of a run that streams
            (head + initialize + watch_session, 2),
            (head + initialize + watch * 20 + watch_session, 3),
            (head + initialize + watch + frame(b"\x03\xe8", 0x88), 3),  # by an orderly close
            (head + initialize + frame(b"\xff\xfe") + frame(b"{"), 3),  # by garbage
        ]

    async def __call__(self, number: int) -> None:
        data, reads = self._stages[number % len(self._stages)]
        async with await trio.open_tcp_stream(*self._address) as stream:
            if data:
                await stream.send_all(data)
            for _ in range(reads):
                with trio.move_on_after(1.0):
                    if not await stream.receive_some(65_536):
                        break
            if self._random.random() < 0.1:
                await trio.sleep(self._random.random() * 0.01)
            if (number // len(self._stages)) % 2:
                Socket(stream).reset()


# ------------------------------------------------------------ watches on connections that stay
class Watches:
    def __init__(self, clients: list[Client], session_id: str, run_id: str, ended_id: str) -> None:
        self._clients = clients
        self._session_id, self._run_id, self._ended_id = session_id, run_id, ended_id

    async def __call__(self, number: int) -> None:
        client = self._clients.pop()
        try:
            await self._one(client, number % 4)
        finally:
            self._clients.append(client)

    async def _one(self, client: Client, kind: int) -> None:
        if kind == 3:
            await client.request("run.watch", run_id=self._ended_id)
        elif kind == 2:
            watch = await client.request("session.watch", session_id=self._session_id)
        else:
            watch = await client.request("run.watch", run_id=self._run_id)
        if kind == 3:
            await until_closed(client)
            return
        if kind == 1:
            await client.push()
        await client.request("watch.close", watch_id=watch["watch_id"])
        client.forget()


async def until_closed(client: Client) -> None:
    while (await client.push())["method"] != "watch.closed":
        pass


# ------------------------------------------------------------ runs that are stopped
async def stop_run(daemon: Daemon, number: int) -> None:
    scenario = ("silence n=3", "hang", "slow_head every=0.005", "stream n=1000 rate=500")[number % 4]
    async with daemon.connect() as client:
        session = (await client.request("session.create", toolsets=[]))["session"]["id"]
        run = (await client.request("run.start", session_id=session, text=f"!{scenario}", watch=True))["run"]["id"]
        if number % 2:
            await client.push()
        status = (await client.request("run.stop", run_id=run))["run"]["status"]
        assert status == "cancelled", status
        await client.request("session.delete", session_id=session)


# ------------------------------------------------------------ streams of model services
class Streams:
    """One model call a cycle, in this process."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._random = random.Random(SEED)
        # What the service does, and what the caller: reads so many times, or is cancelled after a moment.
        self._stages: list[tuple[str, str, int | None]] = [
            ("service", "stream n=5", 1000),  # to its end: the connection is used again
            ("service", "stream n=200 rate=1000", None),
            ("service", "hang", None),
            ("service", "slow_head every=0.001", None),
            ("service", "silence n=3", 1),
            ("service", "silence n=3", None),
            ("service", "stream n=2000", 1),
            ("service", "cut", 1000),
            ("service", "status code=503", 1000),
            ("refused", "stream", 1000),
            ("service", "stream n=50", 0),
        ]

    async def __call__(self, number: int) -> None:
        name, scenario, reads = self._stages[number % len(self._stages)]
        seconds = self._random.random() * 0.02 if reads is None else PATIENCE
        messages = (Message(UserMessage(id="m1", created_at=1), (TextPart(id="p1", text=f"!{scenario}"),)),)
        asked = ModelRequest(model=name, instructions=None, messages=messages, tools=())
        try:
            with trio.move_on_after(seconds) as scope:
                async with self._models.open(name, asked) as stream:
                    left = reads if reads is not None else 1 << 30
                    while left > 0 and await stream.receive() is not None:
                        left -= 1
            assert reads is None or not scope.cancelled_caught, f"{scenario} took {PATIENCE} s"
        except PeerError:
            pass


# ------------------------------------------------------------ what is left
@attrs.frozen
class Left:
    """Of the daemon, while one connection asks."""

    actors: list[str]  # their paths
    counts: dict[str, int]
    descriptors: int


async def look(daemon: Daemon) -> Left:
    async with daemon.connect() as client:
        stats = await client.request("daemon.stats")
        return Left(sorted(paths(stats["actors"])), stats["counts"], daemon.descriptors())


def paths(actors: Mapping[str, Any], above: str = "") -> list[str]:
    """All actors' paths; the number of a connection is of no account."""
    found = []
    for name, actor in actors.items():
        path = f"{above}/{'connection' if actor['kind'] == 'Connection' else name}"
        found += [path, *paths(actor.get("children", {}), path)]
    return found


async def settled(daemon: Daemon, before: Left) -> Left:
    """What is left when it is as before, or has had the time for that."""
    with trio.move_on_after(SETTLE):
        while True:
            left = await look(daemon)
            if len(left.actors) == len(before.actors) and left.descriptors <= before.descriptors:
                break
            await trio.sleep(0.2)
    return await look(daemon)


class Scopes:
    def __init__(self, count: int, quick: bool, findings: Findings) -> None:
        self._counts = {kind: max(1, int(count * share)) for kind, share in SHARES.items()}
        self._idle_seconds, self._idle_share = (2.0, IDLE_SHARE_QUICK) if quick else (10.0, IDLE_SHARE)
        self._slope = SLOPE_QUICK if quick else SLOPE
        self._findings = findings

    def _grown(self, kind: str, points: list[tuple[float, float]]) -> None:
        """Judge the memory's course of its second half."""
        rise = round(slope(points[len(points) // 2 :]), 1)
        good = rise <= self._slope
        what = f"{kind}: memory of each cycle after the plateau ≤ {self._slope:g}"
        self._findings.hold(f"{kind}_slope_bytes", rise, good, "bytes", what)
        self._findings.note(f"{kind}_memory_mb", round(points[-1][1] / 2**20, 1), "MiB", f"{kind}: resident at the end")

    async def daemon(self, daemon: Daemon) -> None:
        note, hold = self._findings.note, self._findings.hold
        # What is opened once and kept, such as readers of the database, is opened before the first look.
        await self._load(daemon, dict.fromkeys(self._counts, WARM_UP))
        before = await settled(daemon, await look(daemon))
        cpu = await idle_cpu(daemon.cpu, self._idle_seconds)
        note("idle_cpu_before", round(cpu, 5), "cores", "daemon: CPU while idle, before")
        for kind, points in (await self._load(daemon, self._counts)).items():
            self._grown(kind, points)
        after = await settled(daemon, before)
        cpu = await idle_cpu(daemon.cpu, self._idle_seconds)
        what = f"daemon: CPU while idle < {self._idle_share}"
        hold("idle_cpu", round(cpu, 5), cpu < self._idle_share, "cores", what)
        more = [path for path in after.actors if path not in before.actors]
        same = len(after.actors) == len(before.actors)
        hold("actors", len(after.actors), same, "", f"daemon: actors, before {len(before.actors)}; new {more[:5]}")
        known = after.descriptors <= before.descriptors
        hold("descriptors", after.descriptors, known, "", f"daemon: descriptors, before {before.descriptors}")
        sockets_left = after.counts["sockets"]
        hold("sockets_left", sockets_left, sockets_left == 1, "", "daemon: sockets, that of the question = 1")
        errors = daemon.errors()
        hold("defects", errors[:5], not errors, "", "defects in the daemon's log: none")

    async def _load(self, daemon: Daemon, counts: Mapping[str, int]) -> dict[str, list[tuple[float, float]]]:
        """The cycles that concern the daemon, in a session that is deleted behind them. Memory's course by kind."""
        # No connection stays open unread: it would not answer pings, and be dropped.
        async with daemon.connect() as client:
            session = (await client.request("session.create", toolsets=[]))["session"]["id"]
            start = await client.request("run.start", session_id=session, text="!stream n=20", watch=True)
            await until_closed(client)
            ended = start["run"]["id"]
            start = await client.request("run.start", session_id=session, text="!stream n=1000000 rate=20")
            run = start["run"]["id"]
        points = {"sockets": await self._timed("sockets", counts, Sockets(daemon, session, run), daemon)}
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(daemon.connect()) for _ in range(AT_ONCE["watches"])]
            watches = Watches(clients, session, run, ended)
            points["watches"] = await self._timed("watches", counts, watches, daemon)
        # Ended runs stay for a while, so that the memory of stopped ones has no plateau here.
        await self._timed("runs", counts, functools.partial(stop_run, daemon), daemon)
        async with daemon.connect() as client:
            await client.request("session.delete", session_id=session)
        return points

    async def _timed(
        self, kind: str, counts: Mapping[str, int], one: Cycle, daemon: Daemon
    ) -> list[tuple[float, float]]:
        began = time.monotonic()
        points = await cycles(kind, counts[kind], one, daemon.resident)
        self._rate(kind, counts[kind], began)
        return points

    def _rate(self, kind: str, count: int, began: float) -> None:
        self._findings.note(f"{kind}_cycles", count, "", f"{kind}: cycles")
        rate = round(count / (time.monotonic() - began), 1)
        self._findings.note(f"{kind}_rate", rate, "/s", f"{kind}: cycles a second")

    async def streams(self, base_url: str) -> None:
        note, hold = self._findings.note, self._findings.hold
        wrong: list[str] = []
        sys.unraisablehook = lambda told: wrong.append(f"{told.exc_value!r} in {told.object!r}")
        warnings.simplefilter("error", ResourceWarning)
        configs = {
            "service": ModelConfig(provider="openai", base_url=base_url, model="service"),
            # Port 9 is that of `discard`, which nobody serves.
            "refused": ModelConfig(provider="openai", base_url="http://127.0.0.1:9/v1", model="service"),
        }
        async with Models(configs) as models:  # once, so that what is imported and cached stays out
            await cycles("streams", WARM_UP, Streams(models), resident)
        gc.collect()
        tasks, descriptors = living(), own_descriptors()
        async with Models(configs) as models:
            began = time.monotonic()
            points = await cycles("streams", self._counts["streams"], Streams(models), resident)
            self._rate("streams", self._counts["streams"], began)
            self._grown("streams", points)
            calls = models.statistics().calls
            hold("calls_left", calls, calls == 0, "", "streams: open calls = 0")
            cpu = await idle_cpu(time.process_time, self._idle_seconds)
            what = f"streams: CPU while idle < {self._idle_share}"
            hold("streams_idle_cpu", round(cpu, 5), cpu < self._idle_share, "cores", what)
        gc.collect()
        left, open_now = living(), own_descriptors()
        hold("tasks", left, left == tasks, "", f"streams: tasks, before {tasks}")
        hold(
            "streams_descriptors", open_now, open_now <= descriptors, "", f"streams: descriptors, before {descriptors}"
        )
        hold("not_closed", wrong[:5], not wrong, "", "streams: what the collector of garbage had to close: nothing")
        note("seed", SEED, "", "seed of what is by chance")


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def own_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, help=f"of all kinds together; {CYCLES:,}, with --quick {CYCLES_QUICK:,}")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="few cycles and a short look at the idle processes")
    asked = parser.parse_args()
    count = asked.cycles or (CYCLES_QUICK if asked.quick else CYCLES)
    findings = Findings("scopes", asked.quick)
    scopes = Scopes(count, asked.quick, findings)
    with findings.told(), model_server() as models, tempfile.TemporaryDirectory(prefix="stress-") as folder:
        daemon = Daemon(models.url, Path(folder))
        try:
            trio.run(scopes.daemon, daemon)
        finally:
            daemon.stop()
        trio.run(scopes.streams, models.url)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
