"""Streams through a server: the measurements of scripts/bench_stream.py, which says what they are."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import _profile
import attrs
import trio
from _daemon import ROOT, Daemon, Process, Socket, cpu_seconds, kept_waiting, percentile, pin, request

STAMP = re.compile(rb"(\d+\.\d{6}) ")
# A model service that sends a burst sends many events at a time.
BURST_BATCH = 50
# Streams are given this long beyond their nominal time before the measurement is given up.
PATIENCE = 60.0
# Functions shown of a profile; the rest is one line.
SHOWN = 16

PROFILED = [(50, 20), (50, 200)]  # streams, deltas a second
ONE_CORE = (300, 20)
ONE_CORE_QUICK = (60, 20)

Take = Callable[[bytes], None]
Run = Callable[[str, Take], Awaitable[None]]  # one answer to a prompt, message by message


@attrs.frozen
class Scenario:
    name: str
    streams: int
    rate: int  # deltas a second of each stream; 0: one burst
    seconds: float  # of streaming; of a burst unused
    deltas: int  # of each stream

    @property
    def prompt(self) -> str:
        batch = BURST_BATCH if not self.rate else 1
        return f"!stream n={self.deltas} rate={self.rate} batch={batch} stamp=1"


def paced(streams: int, rate: int, seconds: float) -> Scenario:
    return Scenario(f"{streams} × {rate}/s", streams, rate, seconds, int(rate * seconds))


def scenarios(quick: bool) -> list[Scenario]:
    seconds = 1.0 if quick else 5.0
    burst = 5_000 if quick else 30_000
    return [
        Scenario("1 stream, burst", 1, 0, 0, burst),
        *(paced(streams, rate, seconds) for streams, rate in [(1, 50), *PROFILED]),
        Scenario("50 × 1 delta", 50, 20, 0, 1),
    ]


# ------------------------------------------------------------ servers under test
class Floor(Process):
    name = "floor"

    def __init__(self, base_url: str) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "bench_floor.py"), "--base-url", base_url]
        self.url = self._start(command, "floor ready ")
        self.gaps = 0

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Run]:
        async with Socket.connect(self.url, {}) as socket:

            async def run(prompt: str, take: Take) -> None:
                await socket.send(prompt)
                while True:
                    for message in await socket.receive():
                        if message == b"[DONE]":
                            return
                        take(message)

            yield run


class Streams(Daemon):
    def __init__(self, base_url: str, folder: Path, program: Sequence[str]) -> None:
        # All runs end at once, and their ends may wait long for a disk that others use.
        limits: dict[str, str | int] = {"active_runs_max": 2 * ONE_CORE[0], "cancel_grace": "60s"}
        super().__init__(base_url, folder, limits, program=program)
        self.gaps = 0  # how often a client fell behind the replay log and was given a snapshot instead

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Run]:
        async with self.connect() as client:
            session = (await client.request("session.create", toolsets=[]))["session"]

            async def run(prompt: str, take: Take) -> None:
                await client.socket.send(request(9, "run.start", session_id=session["id"], text=prompt, watch=True))
                while True:
                    for message in await client.socket.receive():
                        if b'"part.delta"' in message:
                            take(message)
                        elif b'"run.gap"' in message:
                            self.gaps += 1
                        elif b'"watch.closed"' in message or b'"error":{' in message:
                            assert b'"completed"' in message, message[-600:]
                            return

            yield run


Server = Floor | Streams


# ------------------------------------------------------------ measuring
@attrs.define
class Round:
    """Of one scenario: CPU µs a delta, added ms (none for a burst), its seconds, deltas a message, gaps."""

    cpu_us: float
    p50_ms: float | None
    p99_ms: float | None
    seconds: float
    merged: float
    gaps: int


class Arrived:
    """The deltas of one stream."""

    def __init__(self) -> None:
        self.added: list[float] = []
        self.messages = 0
        self.began = math.inf  # when its first delta was sent
        self.ended = 0.0  # when its last one arrived

    def take(self, message: bytes) -> None:
        self.ended = time.monotonic()
        self.messages += 1
        sent = [float(stamp) for stamp in STAMP.findall(message)]
        self.began = min(self.began, sent[0])
        self.added.extend([self.ended - one for one in sent])


async def run_all(server: Server, scenario: Scenario, connected: Callable[[], None] | None = None) -> list[Arrived]:
    """All streams of the scenario. With `connected` they begin together when all are, after it was called."""
    streams = [Arrived() for _ in range(scenario.streams)]
    begin = trio.Event()
    waiting = scenario.streams if connected is not None else 0

    async def one(stream: Arrived) -> None:
        nonlocal waiting
        async with server.opened() as run:
            if connected is not None:
                waiting -= 1
                if waiting == 0:
                    connected()
                    begin.set()
                await begin.wait()
            await run(scenario.prompt, stream.take)

    server.gaps = 0
    with trio.fail_after(scenario.seconds + PATIENCE):
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(one, stream)
    got, wanted = sum(len(stream.added) for stream in streams), scenario.streams * scenario.deltas
    # A burst may outrun its reader: then a snapshot stands for what it missed, which is not counted here.
    complete = got == wanted or (server.gaps > 0 and not scenario.rate)
    assert complete, f"{server.name}, {scenario.name}: {got} of {wanted} deltas arrived, {server.gaps} gaps"
    return streams


async def measure(server: Server, scenario: Scenario) -> Round:
    cpu, began = server.cpu(), time.monotonic()
    streams = await run_all(server, scenario)
    cpu, seconds = server.cpu() - cpu, time.monotonic() - began
    wanted = scenario.streams * scenario.deltas
    added = [value for stream in streams for value in stream.added]
    return Round(
        cpu_us=cpu / wanted * 1e6,
        p50_ms=percentile(added, 0.5) * 1000 if scenario.rate else None,
        p99_ms=percentile(added, 0.99) * 1000 if scenario.rate else None,
        seconds=seconds,
        merged=len(added) / sum(stream.messages for stream in streams),
        gaps=server.gaps,
    )


async def warm_up(server: Server) -> None:
    await measure(server, Scenario("warm-up", 2, 200, 0.5, 100))


async def measure_all(server: Server, quick: bool) -> dict[str, dict[str, float]]:
    await warm_up(server)
    results = {}
    for scenario in scenarios(quick):
        rounds = [attrs.asdict(await measure(server, scenario)) for _ in range(1 if quick else 3)]
        results[scenario.name] = {
            key: round(statistics.median(one[key] for one in rounds), 2)
            for key in rounds[0]
            if rounds[0][key] is not None
        }
    return results


async def measure_one_core(server: Server, service: int, cores: list[int], quick: bool) -> dict[str, Any]:
    """The server on the first of the cores, the model service and the clients on the others."""
    await warm_up(server)
    pin(server.process.pid, cores[:1])
    pin(service, cores[1:])
    pin(os.getpid(), cores[1:])
    before: list[float] = []

    def now() -> list[float]:
        pid = server.process.pid
        return [time.monotonic(), server.cpu(), kept_waiting(pid), cpu_seconds(service), time.process_time()]

    try:
        scenario = paced(*ONE_CORE_QUICK, 1.0) if quick else paced(*ONE_CORE, 5.0)
        streams = await run_all(server, scenario, lambda: before.extend(now()))
    finally:
        pin(os.getpid(), cores)
    seconds, cpu, waited, services, clients = (after - value for after, value in zip(now(), before, strict=True))
    added = [value for stream in streams for value in stream.added]
    deltas = len(added)
    nominal = (scenario.deltas - 1) / scenario.rate
    others = len(cores) - 1
    return {
        "streams": scenario.name,
        "stretch": round(max(stream.ended - stream.began for stream in streams) / nominal, 3),
        "stretch_median": round(statistics.median(stream.ended - stream.began for stream in streams) / nominal, 3),
        "nominal_s": nominal,
        "all_s": round(seconds, 2),  # from the first run.start to the last end
        "cpu_us": round(cpu / deltas * 1e6, 1),
        "busy": round(cpu / seconds, 2),
        "kept_waiting": round(waited / seconds, 2),  # others had the core
        "merged": round(deltas / sum(stream.messages for stream in streams), 2),
        "p99_ms": round(percentile(added, 0.99) * 1000, 1),
        "service_busy": round(services / seconds / others, 2),
        "clients_busy": round(clients / seconds / others, 2),
    }


async def measure_profiles(server: Streams, samples: Path, quick: bool) -> dict[str, Any]:
    await warm_up(server)
    return {
        scenario.name: await profile(server, samples, scenario)
        for scenario in (paced(streams, rate, 1.0 if quick else 5.0) for streams, rate in PROFILED)
    }


async def profile(server: Streams, samples: Path, scenario: Scenario) -> dict[str, Any]:
    """µs a delta by layer and by function."""
    dump(server, samples)
    await run_all(server, scenario)
    dump(server, samples)
    us = 1e6 / (scenario.streams * scenario.deltas)
    seconds = _profile.read(samples)
    shown = dict(list(seconds.items())[:SHOWN])
    return {
        "cpu_us": round(sum(seconds.values()) * us, 1),
        "layers": {name: round(value * us, 1) for name, value in _profile.by_layer(seconds).items()},
        "functions": {name: round(value * us, 1) for name, value in shown.items()},
    }


def dump(server: Streams, samples: Path) -> None:
    """Have the samples written that were taken since the last time."""
    samples.unlink(missing_ok=True)
    server.process.send_signal(signal.SIGUSR1)
    while not samples.exists():
        time.sleep(0.01)
