"""What streaming costs: the daemon against a model service, beside a bare pass-through on the same libraries.

    python scripts/bench_stream.py [--json] [--quick] [--only floor|daemon]

Model service (tests/model_server.py), server under test and clients are processes of their own; each stream has a
WebSocket of its own. Measured of each server:

- CPU µs a delta: the process's CPU time (all threads, from its CPU clock) over a scenario, by the deltas delivered
- added ms: from the service's sending of a delta (its text is the monotonic time) to its arrival at the client
- idle MB (resident and proportional) after the ready line, and the seconds from process start to that line

Medians of three rounds, one with --quick. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import ROOT, Daemon, Process, Socket, model_server, request

STAMP = re.compile(rb"(\d+\.\d{6}) ")
# A model service that sends a burst sends many events at a time.
BURST_BATCH = 50
# Streams are given this long beyond their nominal time before the measurement is given up.
PATIENCE = 60.0


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


def scenarios(quick: bool) -> list[Scenario]:
    seconds = 2.0 if quick else 5.0
    paced = [(1, 50), (50, 20), (50, 200)]
    return [
        Scenario("1 stream, burst", 1, 0, 0, 10_000 if quick else 30_000),
        *(Scenario(f"{n} × {rate}/s", n, rate, seconds, int(rate * seconds)) for n, rate in paced),
    ]


# ------------------------------------------------------------ servers under test
class Floor(Process):
    name = "floor"

    def __init__(self, base_url: str) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "bench_floor.py"), "--base-url", base_url]
        self.url = self._start(command, "floor ready ")
        self.gaps = 0

    async def stream(self, prompt: str, take: Callable[[bytes], None]) -> None:
        """Run one answer and give what arrives, message by message."""
        async with Socket.connect(self.url, {}) as socket:
            await socket.send(prompt)
            while True:
                for message in await socket.receive():
                    if message == b"[DONE]":
                        return
                    take(message)


class Streams(Daemon):
    def __init__(self, base_url: str, folder: Path) -> None:
        super().__init__(base_url, folder)
        self.gaps = 0  # how often a client fell behind the replay log and was given a snapshot instead

    async def stream(self, prompt: str, take: Callable[[bytes], None]) -> None:
        """Run one answer and give what arrives, message by message."""
        async with self.connect() as client:
            session = (await client.request("session.create", toolsets=[]))["session"]
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


async def measure(server: Server, scenario: Scenario) -> Round:
    added: list[float] = []
    messages = 0

    def take(message: bytes) -> None:
        nonlocal messages
        now = time.monotonic()
        messages += 1
        added.extend([now - float(stamp) for stamp in STAMP.findall(message)])

    server.gaps = 0
    cpu, began = server.cpu(), time.monotonic()
    with trio.fail_after(scenario.seconds + PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(scenario.streams):
                nursery.start_soon(server.stream, scenario.prompt, take)
    cpu, seconds = server.cpu() - cpu, time.monotonic() - began
    wanted = scenario.streams * scenario.deltas
    paced = scenario.rate > 0
    # A burst may outrun its reader: then a snapshot stands for what it missed, which is not counted here.
    complete = len(added) == wanted or (server.gaps > 0 and not paced)
    assert complete, f"{server.name}, {scenario.name}: {len(added)} of {wanted} deltas arrived, {server.gaps} gaps"
    added.sort()
    return Round(
        cpu_us=cpu / wanted * 1e6,
        p50_ms=added[len(added) // 2] * 1000 if paced else None,
        p99_ms=added[math.ceil(len(added) * 0.99) - 1] * 1000 if paced else None,
        seconds=seconds,
        merged=len(added) / messages,
        gaps=server.gaps,
    )


async def measure_all(server: Server, quick: bool) -> dict[str, dict[str, float]]:
    await measure(server, Scenario("warm-up", 2, 200, 0.5, 100))
    results = {}
    for scenario in scenarios(quick):
        rounds = [attrs.asdict(await measure(server, scenario)) for _ in range(1 if quick else 3)]
        results[scenario.name] = {
            key: round(statistics.median(one[key] for one in rounds), 2)
            for key in rounds[0]
            if rounds[0][key] is not None
        }
    return results


@contextlib.contextmanager
def under_test(name: str, base_url: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = Floor(base_url) if name == "floor" else Streams(base_url, Path(folder))
        try:
            yield server
        finally:
            server.stop()


def bench(name: str, quick: bool) -> dict[str, Any]:
    with model_server() as models, under_test(name, models.url) as server:
        results = trio.run(measure_all, server, quick)
        after = server.memory()
        return {"ready_s": server.ready_seconds, "idle_mb": server.idle, "after_mb": after, "streams": results}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, result in results.items():
        idle, after = result["idle_mb"], result["after_mb"]
        lines.append(
            f"{name}: ready in {result['ready_s']} s, idle {idle['rss']} MB resident ({idle['pss']} MB proportional), "
            f"{after['rss']} MB after"
        )
    lines.append(f"{'':18}" + "".join(f"{name:>48}" for name in results))
    unit = f"{'CPU µs/delta':>14}{'p50 ms':>9}{'p99 ms':>9}{'deltas/frame':>14}"
    lines.append(f"{'':18}" + "".join(f"{unit:>48}" for _ in results))
    for scenario in next(iter(results.values()))["streams"]:
        line = f"{scenario:18}"
        for result in results.values():
            one = result["streams"][scenario]
            latency = "".join(f"{one[key]:>9.1f}" if key in one else f"{'–':>9}" for key in ("p50_ms", "p99_ms"))
            cell = f"{one['cpu_us']:>14.1f}{latency}{one['merged']:>14.1f}"
            line += f"{cell:>48}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="one short round of each scenario")
    parser.add_argument("--only", choices=["floor", "daemon"], help="measure one of the two")
    asked = parser.parse_args()
    names = [asked.only] if asked.only else ["floor", "daemon"]
    results = {name: bench(name, asked.quick) for name in names}
    if not asked.json:
        print(table(results))
    print(json.dumps({"bench": "stream", "quick": asked.quick, **results}))


if __name__ == "__main__":
    main()
