"""Do thousands of lives leave anything behind?

    python scripts/bench_lifetimes.py [--sessions N] [--quick] [--json]

N sessions (10,000) are opened, prompted and closed, some at a time: every second one is deleted, the others are left to
the daemon, which unloads them. What is held after the first tenth is what there may be after all of them:

- in a daemon as a process, over the wire: its resident memory, at most 5 % more;
- in a program (open_engine): the objects that the collector knows and the memory, at most 5 % more;
- a closed actor is gone within a second, whether its session was deleted or unloaded;
- sessions that were unloaded come back unnoticed: the next message finds the whole history.

Beside them a naive daemon: the same engine with its bounds switched off, so that what has ended stays, as it does where
nothing evicts. Progress is on standard error; the last line is JSON. The exit code is 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import sys
import tempfile
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
import trio.testing
from _daemon import Client, Daemon, Findings, percentile, resident, say

from actors._memory import give_back
from actors.api import Engine, open_engine
from engine.config import Config
from engine.limits import MIB, Limits

AT_ONCE = 16
GROWTH = 1.05
# Both bounds on what stays (ended runs, idle sessions) are 256: what is measured first has reached them, though half of
# its sessions were deleted. A quick measure has lower bounds.
FIRST_LEAST = 1000
QUICK_FIRST, QUICK_COUNT = 200, 400
QUICK = {"terminal_retained_max": 64, "idle_sessions_max": 64}
PROMPT = "count to 2"
RETURNED = 50  # sessions that are used again
GONE, GONE_QUICK = 1.0, 5.0  # seconds; a short measure may be on a busy machine
PATIENCE = 1800.0
QUIET = 3.0  # seconds in which the daemon comes to rest before its memory is looked at
QUIET_SHORT = 1.0  # of a quick measure
SAMPLES = 5
# No bound of these is ever reached.
NEVER = 10**9
NAIVE = Limits(
    terminal_retention=NEVER, terminal_retained_max=NEVER, all_logs_bytes=NEVER, passivate_after=NEVER,
    idle_sessions_max=NEVER,
)  # fmt: skip


# ------------------------------------------------------------ many lives
async def many(
    numbers: range, live: Callable[[int], Awaitable[None]], what: str, look: Callable[[], int] = resident
) -> None:
    """All of them, AT_ONCE at a time. `look` gives the bytes of resident memory that progress is told with."""
    waiting = iter(numbers)
    told = time.monotonic()

    async def work() -> None:
        nonlocal told
        for number in waiting:
            await live(number)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"{what}: {number + 1} of {numbers.stop}, {mib(look())} MiB")

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work)


# ------------------------------------------------------------ a daemon
class Lives:
    """Clients of a daemon; `kept` are the sessions that were not deleted."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._free: list[Client] = []
        self.kept: list[str] = []

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            self._free = [await stack.enter_async_context(self._daemon.connect()) for _ in range(AT_ONCE)]
            yield

    async def live(self, number: int) -> None:
        client = self._free.pop()
        session = (await client.request("session.create", model="demo"))["session"]["id"]
        await prompt(client, session)
        if number % 2:
            await client.request("session.delete", session_id=session)
        else:
            self.kept.append(session)
        self._free.append(client)


async def prompt(client: Client, session: str) -> None:
    started = await client.request("run.start", session_id=session, text=PROMPT, watch=True)
    while (push := await client.push())["method"] != "watch.closed":
        assert push["params"]["watch_id"] == started["watch_id"]
    client.forget()


async def at_rest(daemon: Daemon, quiet: float) -> tuple[int, dict[str, Any]]:
    """Bytes of the daemon's resident memory when nothing is at work, and its stats."""
    await trio.sleep(quiet)
    samples = []
    for _ in range(SAMPLES):
        samples.append(daemon.resident())
        await trio.sleep(0.2)
    async with daemon.connect() as client:
        stats = await client.request("daemon.stats")
    say(f"{mib(round(statistics.median(samples)))} MiB: {stats['memory']['owned']}")
    return round(statistics.median(samples)), stats


async def in_daemon(findings: Findings, first: int, count: int, bounds: dict[str, int]) -> None:
    most = Limits(**bounds).idle_sessions_max
    quiet = QUIET_SHORT if bounds else QUIET
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon("http://127.0.0.1:1", Path(folder), bounds)
        try:
            lives = Lives(daemon)
            async with lives.clients():
                idle, _ = await at_rest(daemon, quiet)
                findings.note("idle_mib", mib(idle), "MiB", "an idle daemon is resident with")
                began = time.monotonic()
                await many(range(first), lives.live, "daemon", daemon.resident)
                before, _ = await at_rest(daemon, quiet)
                findings.note("first_mib", mib(before), "MiB", f"after {first} sessions")
                await many(range(first, count), lives.live, "daemon", daemon.resident)
                after, stats = await at_rest(daemon, quiet)
                seconds = time.monotonic() - began - 2 * (quiet + SAMPLES * 0.2)
                findings.note("life_ms", round(seconds / count * 1000, 2), "ms", f"a life, {AT_ONCE} at a time")
                counts = stats["counts"]
                findings.note("counts", counts, "", "held at the end")
                good = after <= GROWTH * before
                findings.hold("last_mib", mib(after), good, "MiB", f"after {count} sessions, ≤ + 5 %")
                good = counts["sessions"] <= most + most // 8 + AT_ONCE
                what = f"sessions in memory, {len(lives.kept)} are stored"
                findings.hold("live_sessions", counts["sessions"], good, "", what)
            async with daemon.connect() as client:
                await come_back(findings, client, lives.kept)
            findings.hold("errors", len(daemon.errors()), not daemon.errors(), "", "defects in the daemon's log")
        finally:
            daemon.stop()


async def come_back(findings: Findings, client: Client, kept: list[str]) -> None:
    """Sessions that have left memory (the oldest) and such that have not, used again."""
    times: dict[str, list[float]] = {}
    whole = True
    for name, sessions in (("unloaded", kept[:RETURNED]), ("live", kept[-RETURNED:])):
        for session in sessions:
            began = time.perf_counter()
            await prompt(client, session)
            times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
            page = await client.request("session.messages", session_id=session)
            said = [part.get("text") for message in page["messages"] for part in message["parts"]]
            whole = whole and said.count(PROMPT) == 2 and len(page["messages"]) == 4
    findings.hold(
        "come_back", whole, whole, "", f"{len(kept[:RETURNED])} unloaded sessions went on with all that was said"
    )
    for name, found in times.items():
        findings.note(f"{name}_p50_ms", round(percentile(found, 0.5), 2), "ms", f"a run in one that was {name}, p50")


# ------------------------------------------------------------ a program
class Inside:
    """The same with an engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def live(self, number: int) -> None:
        session = await self._engine.create_session(model="demo")
        await (await session.start(PROMPT)).wait()
        if number % 2:
            await session.delete()


def held() -> tuple[int, int]:
    """(objects that the collector knows, bytes of resident memory) when all that can go has gone."""
    gc.collect()
    give_back()
    return len(gc.get_objects()), resident()


async def in_program(findings: Findings, first: int, count: int, bounds: dict[str, int]) -> None:
    async with open_engine(Config(limits=Limits(**bounds))) as engine:
        inside = Inside(engine)
        await many(range(first), inside.live, "program")
        await trio.testing.wait_all_tasks_blocked(0.5)
        objects, memory = held()
        await many(range(first, count), inside.live, "program")
        await trio.testing.wait_all_tasks_blocked(0.5)
        objects_after, memory_after = held()
        findings.note("first_objects", objects, "", f"objects after {first} sessions")
        good = objects_after <= GROWTH * objects
        findings.hold("last_objects", objects_after, good, "", f"objects after {count} sessions, ≤ + 5 %")
        findings.note("first_program_mib", mib(memory), "MiB", f"a program is resident with after {first} sessions")
        good = memory_after <= GROWTH * memory
        findings.hold("last_program_mib", mib(memory_after), good, "MiB", f"after {count} sessions, ≤ + 5 %")
        await gone(findings, engine, GONE_QUICK if bounds else GONE)


async def gone(findings: Findings, engine: Engine, most: float) -> None:
    """How long an actor's object is there after its end."""
    for how in ("deleted", "unloaded"):
        session = await engine.create_session(model="demo")
        run = await session.start("count to 50 every 1 ms")
        actors = [
            weakref.ref(cell.actor)
            for cell in engine.registry._cell.children
            if cell.name == session.id
            for cell in (cell, *cell.children)
        ]
        assert len(actors) == 2, "a session and its run"
        await run.wait()
        if how == "deleted":
            await session.delete()
        else:
            while engine.registry._cell.child(session.id) is not None:
                await engine.registry.passivate(0)
        del session, run
        began = time.monotonic()
        while any(actor() is not None for actor in actors) and time.monotonic() - began < most:
            await trio.sleep(0.005)
            if time.monotonic() - began > most / 2:
                gc.collect()
        seconds = round(time.monotonic() - began, 3)
        left = [repr(actor()) for actor in actors if actor() is not None]
        what = f"actors of a session that was {how} are gone, within {most:g}"
        findings.hold(f"{how}_gone_s", seconds, not left, "s", what)


async def naive(findings: Findings, first: int, count: int, _: dict[str, int]) -> None:
    async with open_engine(Config(limits=NAIVE)) as engine:
        inside = Inside(engine)
        # None is deleted here: a daemon that keeps everything keeps it for those that are left.
        await many(range(0, 2 * first, 2), inside.live, "naive")
        objects, memory = held()
        await many(range(2 * first, 2 * count, 2), inside.live, "naive")
        objects_after, memory_after = held()
        objects_each = round((objects_after - objects) / (count - first), 1)
        memory_each = round((memory_after - memory) / (count - first) / 1024, 1)
        findings.note("naive_objects_a_session", objects_each, "", "naive: objects that each session leaves")
        findings.note("naive_kib_a_session", memory_each, "KiB", "naive: memory that each session leaves")


def mib(size: int) -> float:
    return round(size / MIB, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=10_000, metavar="N", help="lives (10000); at least 2000")
    parser.add_argument("--quick", action="store_true", help="400 lives with lower bounds: for every commit")
    parser.add_argument("--json", action="store_true", help="figures as JSON only, on one line at the end")
    arguments = parser.parse_args()
    count = QUICK_COUNT if arguments.quick else max(arguments.sessions, 2 * FIRST_LEAST)
    first = QUICK_FIRST if arguments.quick else max(count // 10, FIRST_LEAST)
    bounds = QUICK if arguments.quick else {}
    findings = Findings("lifetimes", arguments.quick)

    async def measure(work: Callable[..., Awaitable[None]], begin: int, end: int) -> None:
        with trio.fail_after(PATIENCE):
            await work(findings, begin, end, bounds)

    with findings.told():
        trio.run(measure, in_daemon, first, count)
        trio.run(measure, in_program, first, count)
        trio.run(measure, naive, 100, 100 + first // 2)
    return findings.report(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
