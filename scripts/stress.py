"""Concurrency under stress: thousands of actors, then a busy daemon.

    python scripts/stress.py [--actors 10000] [--sessions 1000] [--json] [--quick] [--only actors|daemon]

actors   start N actors of the kernel under one supervisor, ask each 10 times from 50 tasks, stop all while asks are
         in flight; the same with bare trio tasks as the floor, in the same run
daemon   a real daemon with 1,000 live sessions and 200 runs of the demo model at a time, all watched over sockets;
         its actors as it shows them; stops by two clients at once; SIGTERM while runs stream and requests come in
Hard conditions, exit code 1 when one fails: nothing hangs, no ask is left without its end, no actor and no task is
left. Aims, reported and not enforced (they depend on the machine): the loop never stalls for 50 ms, an idle actor
holds less than 8 KiB. The last line is one JSON object with every figure; --json prints nothing else on stdout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import _stress_actors  # noqa: E402 - what these import is found by the line above
import _stress_daemon  # noqa: E402
from _stress_instruments import Progress  # noqa: E402

MEASUREMENTS = {**_stress_actors.MEASUREMENTS, "daemon": _stress_daemon.daemon}
STALL_AIM_MS = 50.0
BYTES_AIM = 8192
# The tracing of memory makes everything ten times slower, and its figure does not depend on the number.
MEMORY_ACTORS = 2000
# One run in five sessions, and at most 256 runs at a time in a daemon.
SESSIONS_MAX = 1280
# One measurement in its process; far beyond the hang limits of its phases.
PROCESS_TIMEOUT = 900.0


def in_own_process(measurement: str, count: int) -> dict[str, Any]:
    """Memory and pauses depend on what a process did before: each measurement begins afresh."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", measurement, "--actors", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=PROCESS_TIMEOUT, check=False)
    if done.returncode:
        return {"failed": f"the measurement `{measurement}` exited with {done.returncode}"}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(measurement: str, count: int) -> int:
    """What the process of one measurement does."""
    progress = Progress()
    try:
        figures = trio.run(partial(MEASUREMENTS[measurement], count, progress))
    finally:
        progress.clear()
    print(json.dumps(figures))
    return 0


# ------------------------------------------------------------ the parts
def actors(count: int, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """The figures and the hard conditions that failed."""
    kernel = in_own_process("kernel", count)
    floor = in_own_process("floor", count)
    memory = in_own_process("memory", min(count, MEMORY_ACTORS))
    failed = [figures["failed"] for figures in (kernel, floor, memory) if "failed" in figures]
    if not failed:
        for name in ("asks_hanging", "actors_left", "tasks_left"):
            if kernel[name]:
                failed.append(f"{name}: {kernel[name]}")
        stall = max(kernel[f"{phase}_stall_ms"] for phase in ("start", "ask", "stop"))
        kernel["longest_stall_ms"] = stall
        say(f"{count} actors, beside bare trio tasks")
        for label, key, unit in (
            ("start", "start_s", "s"), ("  longest stall", "start_stall_ms", "ms"),
            ("one ask, alone, p50", "lone_ask_p50_us", "µs"), ("asks from 50 tasks", "ask_us", "µs each"),
            ("  ask to answer p50", "ask_p50_us", "µs"), ("  ask to answer p99", "ask_p99_us", "µs"),
            ("  longest stall", "ask_stall_ms", "ms"),
            ("stop", "stop_s", "s"), ("  longest stall", "stop_stall_ms", "ms"),
            ("idle, resident", "rss_bytes_each", "bytes each"),
        ):  # fmt: skip
            say(f"  {label:22} {kernel[key]:>12,} {unit:11} floor {floor[key]:>12,}")
        say(f"  {'idle, by tracemalloc':22} {memory['traced_bytes_each']:>12,} bytes each")
        say(f"  asks in flight at the stop: {kernel['asks_in_flight_at_stop']}; hanging: {kernel['asks_hanging']}")
        say(f"  longest stall {stall} ms: {_aim(stall, STALL_AIM_MS, 'ms')}")
        say(f"  bytes of an idle actor: {_aim(kernel['rss_bytes_each'], BYTES_AIM, 'bytes')}")
    return {"kernel": kernel, "floor": floor, "memory": memory}, failed


def daemon(count: int, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    figures = in_own_process("daemon", count)
    if "failed" in figures:
        return figures, [figures["failed"]]
    failed: list[str] = figures.pop("failed_conditions")
    say(f"a daemon with {count} live sessions, {figures['runs']} runs at a time")
    for label, key, unit in (
        ("sessions created", "create_s", "s"), ("a live, watched session", "resident_bytes_each", "bytes, resident"),
        ("runs started", "start_runs_s", "s"), ("actors in daemon.stats", "busy_actors", ""),
        ("  its answer", "busy_stats_ms", "ms"), ("runs stopped", "stop_runs_s", "s"),
        ("ping p50", "ping_p50_ms", "ms"), ("ping p99", "ping_p99_ms", "ms"), ("ping, longest", "ping_max_ms", "ms"),
        ("loop lag p99, idle", "idle_lag_p99_ms", "ms"), ("loop lag p99, busy", "busy_lag_p99_ms", "ms"),
        ("resident, busy", "busy_resident_mb", "MB"), ("SIGTERM to exit", "shutdown_s", "s (2 of them drain)"),
    ):  # fmt: skip
        say(f"  {label:24} {figures[key]:>12,} {unit}")
    return figures, failed


def _aim(value: float, aim: float, unit: str) -> str:
    return f"{'within' if value < aim else 'OVER'} the aim of {aim:g} {unit}"


PARTS = {"actors": actors, "daemon": daemon}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, metavar="N", help="how many actors (default 10000, with --quick 1000)")
    parser.add_argument("--sessions", type=int, metavar="N", help="how many sessions (default 1000, with --quick 100)")
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="this part (may be repeated)")
    parser.add_argument("--measure", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    count = options.actors or (1000 if options.quick else 10_000)
    sessions = options.sessions or (100 if options.quick else 1000)
    if not _stress_daemon.REQUESTERS <= sessions <= SESSIONS_MAX:
        parser.error(f"--sessions: {_stress_daemon.REQUESTERS} to {SESSIONS_MAX}")
    if count < _stress_actors.ASKERS:
        parser.error(f"--actors: at least {_stress_actors.ASKERS}")
    if options.measure:
        return measure(options.measure, count)

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    result: dict[str, Any] = {}
    failed: list[str] = []
    for name in options.only or PARTS:
        result[name], wrong = PARTS[name](count if name == "actors" else sessions, say)
        failed += [f"{name}: {text}" for text in wrong]
    result["failed"] = failed
    for text in failed:
        print(f"FAILED {text}", file=sys.stderr)
    print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
