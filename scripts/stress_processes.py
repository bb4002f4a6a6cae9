"""Processes that do not want to end (class G): tool servers with a grandchild that ignores TERM and left its session.

    python scripts/stress_processes.py [--sessions N] [--only PART] [--json] [--quick]

Three parts, each of so many sessions, whose server or command (scripts/_stress_tool.py) leaves three processes behind:

- servers: tool servers (MCP) of a daemon's sessions, ended by close, stop, a hung handshake, and SIGKILL of the daemon
  (scripts/_stress_servers.py)
- shells: shell commands of a daemon's runs that end, are stopped, lose their session or their toolset, or have their
  daemon killed (scripts/_stress_shells.py)
- guard: programs of the guard alone in a host, a process of its own. Close: the program's input ends, it exits and
  leaves the rest behind. Stop: with a grace that its grandchildren sit out. Hung: it never answers; the start is
  cancelled at a moment of chance, now and then before it is there. Killed: the host gets SIGKILL, at a moment of
  chance, with several sessions alive or starting

Afterwards nothing of it may be left, at the latest within 5 s (20 s with --quick), and of most when the call returns:
no process, no zombie, no descriptor of daemon, host or guard. Exit code 1 if a condition does not hold. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio
from _daemon import Findings, say
from _stress_processes import (
    AT_ONCE,
    LOOK,
    PATIENCE,
    PIDS,
    QUICK,
    TOOL,
    WITHIN,
    Part,
    below,
    descriptors,
    left_of,
    pids_in,
    until,
)
from _stress_servers import servers
from _stress_shells import shells

from actors._guard import Guard, Process, open_guard
from engine.limits import Limits

SEED = 22
SESSIONS, SESSIONS_QUICK = 500, 12
PARTS = ("servers", "shells", "guard")
GRACE = 0.05  # seconds; the tool's children sit out any
HOST_KINDS = ("close", "stop", "hung")


# ------------------------------------------------------------ the host
class Host:
    """In a process of its own: what the daemon does with its tool servers."""

    def __init__(self, guard: Guard, folder: Path, rng: random.Random) -> None:
        self.guard = guard
        self.folder = folder
        self.rng = rng
        self.left: list[str] = []  # at the moment when the end had returned
        self.slowest = 0.0

    async def spawn(self, how: str, record: Path) -> Process:
        command = [sys.executable, "-I", "-S", str(TOOL), how, str(record)]
        return await self.guard.spawn(command, cwd="/", env={}, stdin="pipe", stderr="null")

    async def handshake(self, process: Process) -> None:
        assert process.stdin is not None
        await process.stdin.send_all(b"hello\n")
        assert await process.stdout.receive_some() == b"hello\n"

    async def session(self, number: int, kind: str) -> None:
        record = self.folder / f"{kind}-{number}"
        if kind == "hung":
            await self.hung(record)
        else:
            async with await self.spawn("answers", record) as process:
                await self.handshake(process)
                await until(lambda: len(pids_in(record)) == PIDS)
                began = time.monotonic()
                if kind == "close":
                    assert process.stdin is not None
                    await process.stdin.aclose()
                    await process.wait()
                else:
                    await process.stop(GRACE)
                self.ended(record, began)

    async def hung(self, record: Path) -> None:
        at = self.rng.randint(-1, PIDS)  # as many processes are there; below 0: when it is asked for

        async def start() -> None:
            async with await self.spawn("silent", record) as process:
                await self.handshake(process)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            if at < 0:
                await trio.lowlevel.checkpoint()
            else:
                await until(lambda: len(pids_in(record)) >= at)
            began = time.monotonic()
            nursery.cancel_scope.cancel(reason="the handshake takes too long")
        self.ended(record, began)

    def ended(self, record: Path, began: float) -> None:
        self.slowest = max(self.slowest, time.monotonic() - began)
        if left := left_of(set(pids_in(record))):
            self.left.append(f"{record.name}: {left}")


async def host(folder: Path, sessions: int, seed: int) -> dict[str, Any]:
    """The three ways in which a session ends while its host lives."""
    async with open_guard(Limits()) as guard:
        one = Host(guard, folder, random.Random(seed))
        for number, kind in enumerate(HOST_KINDS):
            await one.session(-number - 1, kind)
        pid = guard.statistics().pid
        assert pid is not None
        before = descriptors(os.getpid()), descriptors(pid)
        numbers = iter(range(sessions))

        async def worker() -> None:
            for number in numbers:
                await one.session(number, HOST_KINDS[number % len(HOST_KINDS)])

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(worker)
        with trio.move_on_after(WITHIN):
            await until(lambda: not below(pid))
        return {
            "left": one.left,
            "slowest": one.slowest,
            "descriptors": [*before, descriptors(os.getpid()), descriptors(pid)],
            "below_guard": len(below(pid)),
            "processes": guard.statistics().processes,
            "guards": guard.statistics().guards,
        }


async def hold(folder: Path, sessions: int) -> None:
    """Sessions that wait for the SIGKILL of their host."""
    async with open_guard(Limits()) as guard, trio.open_nursery() as nursery:
        one = Host(guard, folder, random.Random())

        async def session(number: int) -> None:
            async with await one.spawn("answers", folder / f"killed-{number}") as process:
                await one.handshake(process)
                await trio.sleep_forever()

        for number in range(sessions):
            nursery.start_soon(session, number)


# ------------------------------------------------------------ the judge
def role(name: str, folder: Path, sessions: int, seed: int = 0) -> list[str]:
    quick = ["--quick"] if QUICK else []
    return [sys.executable, __file__, *quick, "--role", name, str(folder), str(sessions), str(seed)]


def ends(folder: Path, sessions: int, findings: Part) -> None:
    say(f"{sessions} sessions that end by close, stop and a hung handshake")
    done = subprocess.run(role("host", folder, sessions, SEED), stdout=subprocess.PIPE, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    pids = set(itertools.chain.from_iterable(pids_in(record) for record in folder.iterdir()))
    findings.note("sessions", sessions, "", "sessions ended by close, stop and a hung handshake")
    findings.note("processes_seen", len(pids), "", "processes of their trees")
    hold, left = findings.hold, seen["left"]
    hold("left_at_return", left[:5], not left, "", "processes and zombies left when the end had returned: none")
    findings.slowest("slowest_end_s", seen["slowest"], "the longest end")
    host_before, guard_before, host_after, guard_after = seen["descriptors"]
    hold("host_descriptors", host_after, host_after <= host_before, "", f"host: descriptors, before {host_before}")
    hold(
        "guard_descriptors", guard_after, guard_after <= guard_before, "", f"guard: descriptors, before {guard_before}"
    )
    count = seen["below_guard"] + seen["processes"]
    hold("below_guard", count, not count, "", "processes and zombies below the guard at the end: none")
    hold("guards", seen["guards"], seen["guards"] == 1, "", "guards that were needed: 1")
    remaining = left_of(pids)
    hold("left_in_all", len(remaining), not remaining, "", "processes left when the host had ended: none")


def kills(folder: Path, sessions: int, findings: Part) -> None:
    rounds = math.ceil(sessions / AT_ONCE)
    say(f"{rounds} hosts with {AT_ONCE} sessions each, killed")
    rng = random.Random(SEED)
    slowest, seen, wrong = 0.0, 0, []
    for number in range(rounds):
        records = folder / f"host-{number}"
        records.mkdir()
        at = AT_ONCE * PIDS if number % 2 else rng.randint(0, AT_ONCE * PIDS)
        process = subprocess.Popen(role("hold", records, AT_ONCE))

        def recorded(records: Path = records) -> set[int]:
            return set(itertools.chain.from_iterable(pids_in(record) for record in records.iterdir()))

        deadline = time.monotonic() + PATIENCE
        while len(recorded()) < at and time.monotonic() < deadline:
            time.sleep(LOOK)
        known = below(process.pid)
        process.kill()
        process.wait()
        began = time.monotonic()
        while (left := left_of(known | recorded())) and time.monotonic() < began + WITHIN:
            time.sleep(LOOK)
        slowest = max(slowest, time.monotonic() - began)
        seen += len(known | recorded())
        if left:
            wrong.append(f"host {number}, killed at {at} processes: {left}")
    findings.note("killed_hosts", rounds, "", "hosts killed with SIGKILL")
    findings.note("killed_sessions", rounds * AT_ONCE, "", "their sessions")
    findings.note("killed_processes_seen", seen, "", "processes of their trees, guards and keepers included")
    findings.hold("left_after_kill", wrong[:5], not wrong, "", f"processes and zombies left {WITHIN:g} s later: none")
    findings.slowest("slowest_after_kill_s", slowest, "the longest until all were gone")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, help=f"of each part; {SESSIONS}, with --quick {SESSIONS_QUICK}")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="few sessions, and 20 s in place of 5")
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        name, folder, sessions, seed = asked.role
        if name == "host":
            print(json.dumps(trio.run(functools.partial(host, Path(folder), int(sessions), int(seed)))))
        else:
            trio.run(hold, Path(folder), int(sessions))
        return 0
    count = asked.sessions or (SESSIONS_QUICK if asked.quick else SESSIONS)
    findings = Findings("processes", asked.quick)
    with findings.told(), tempfile.TemporaryDirectory(prefix="stress-") as folder:
        own = descriptors(os.getpid())
        parts = PARTS if asked.only is None else (asked.only,)
        if "servers" in parts:
            trio.run(servers, Path(folder), count, findings)
        if "shells" in parts:
            trio.run(shells, Path(folder), count, findings)
        if "guard" in parts:
            part = Part(findings, "guard")
            (Path(folder) / "ends").mkdir()
            (Path(folder) / "kills").mkdir()
            ends(Path(folder) / "ends", count - count // 4, part)
            kills(Path(folder) / "kills", count // 4, part)
        for what in ("sessions", "processes_seen"):
            count = sum(value for key, value in findings.figures.items() if key.endswith(f"_{what}"))
            findings.note(what, count, "", f"{what.removesuffix('_seen')} in all")
        now = descriptors(os.getpid())
        findings.hold("descriptors", now, now == own, "", f"own descriptors, before {own}")
        findings.note("seed", SEED, "", "seed of what is by chance")
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
