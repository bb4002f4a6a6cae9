"""Does memory come back after a burst?

    python scripts/bench_return.py [--size MB] [--quick] [--json]

A daemon at rest, after one small run of each kind, is the baseline. Then comes the burst: answers of a model service,
8 MB each and eight at a time, each followed by a client, 1 GB in all; and the outputs of shell commands, as much again.
30 seconds after its end the daemon's resident memory is at most 32 MB above the baseline. Nothing is asked of the
daemon meanwhile: it has to let go by itself.

Beside it a naive daemon: what it would hold that keeps the events of its ended runs, as bytes and nothing else.
Progress is on standard error; the last line is JSON. The exit code is 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import trio
from _daemon import ROOT, Client, Daemon, Findings, model_server, say

MB = 1_000_000
ABOVE = 32 * MB
WAIT = 30.0
EVERY = 1.0  # seconds between two looks
AT_ONCE = 8
DELTA = 4000  # characters of a delta
ANSWER = 8 * MB  # what a turn may have, nearly
PATIENCE = 1200.0
PRINTER = (sys.executable, str(ROOT / "scripts" / "_lines.py"))
# The ends of the runs of a burst may wait long for a disk that others use; what is measured is memory.
SLOW_DISK = {"cancel_grace": "60s"}
RULES = '[permissions]\nallow = ["shell"]\n'


class Burst:
    """`sent` are bytes of answers and outputs that were asked for, `arrived` those of frames that came."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.sent = 0
        self.arrived = 0
        self.peak = 0

    async def answer(self, client: Client, size: int) -> None:
        """A run whose answer has so many bytes, read to its end."""
        count = max(size // DELTA, 1)
        await self._run(client, "service", f"!stream n={count} batch=4 text={'x' * DELTA}")
        self.sent += count * DELTA

    async def output(self, client: Client, size: int) -> None:
        """A run whose shell command prints so many bytes."""
        await self._run(client, "demo", f"run {shlex.join([*PRINTER, str(size)])}")
        self.sent += size

    async def _run(self, client: Client, model: str, text: str) -> None:
        session = (await client.request("session.create", model=model))["session"]["id"]
        await client.request("run.start", session_id=session, text=text, watch=True)
        while (push := await client.push())["method"] != "watch.closed":
            pass
        assert push["params"]["status"] == "completed", push  # who has fallen behind is not told of the last event

    async def many(self, total: int, each: int, what: str) -> None:
        left = [min(each, total - begin) for begin in range(0, total, each)]

        async def work() -> None:
            async with self.daemon.connect() as client:
                while left:
                    await (self.answer if what == "answers" else self.output)(client, left.pop())
                    self.peak = max(self.peak, self.daemon.resident())
                    say(f"{what}: {len(left)} left, {self.daemon.resident() / MB:.0f} MB resident")

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)


async def bench(findings: Findings, daemon: Daemon, size: int, wait: float, *, quick: bool) -> None:
    burst = Burst(daemon)
    async with daemon.connect() as client:
        await burst.answer(client, 1000)
        await burst.output(client, 1000)
    await trio.sleep(3)  # what the small runs left has gone
    baseline = daemon.resident()
    findings.note("baseline_mb", mb(baseline), "MB", "at rest, after a small run of each kind")
    burst.sent = 0
    began = time.monotonic()
    await burst.many(size, ANSWER, "answers")
    await burst.many(size, max(size // 16, MB), "outputs")
    findings.note("burst_mb", mb(burst.sent), "MB", "the burst: answers of models, outputs of a shell")
    findings.note("burst_s", round(time.monotonic() - began, 1), "s", "it took")
    findings.note("peak_mb", mb(burst.peak - baseline), "MB", "above the baseline during the burst")
    after = time.monotonic()
    above: list[int] = []
    while time.monotonic() - after < wait:
        await trio.sleep(EVERY)
        above.append(daemon.resident() - baseline)
        if quick and above[-1] <= ABOVE:
            break
    first = next((index + 1 for index, value in enumerate(above) if value <= ABOVE), None)
    findings.note("back_after_s", first, "s", f"below {ABOVE // MB} MB above the baseline after")
    held, what = above[-1], f"above the baseline {'within' if quick else 'after'} {wait:.0f} s, ≤ {ABOVE // MB}"
    findings.hold("above_mb", mb(held), held <= ABOVE, "MB", what)
    findings.note("naive_mb", mb(burst.sent), "MB", "naive: what the events of the ended runs would hold")
    async with daemon.connect() as client:
        stats = await client.request("daemon.stats")
        owned = {name: mb(value) for name, value in stats["memory"]["owned"].items()}
        findings.note("owned_mb", owned, "MB", "who holds what then")
    findings.hold("errors", len(daemon.errors()), not daemon.errors(), "", "defects in the daemon's log")


def mb(size: int) -> float:
    return round(size / MB, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=1000, metavar="MB", help="of the answers, and of the outputs (1000)"
    )
    parser.add_argument("--quick", action="store_true", help="48 MB of each, waited for until it is back")
    parser.add_argument("--json", action="store_true", help="figures as JSON only, on one line at the end")
    arguments = parser.parse_args()
    findings = Findings("return", arguments.quick)

    async def measure(daemon: Daemon) -> None:
        with trio.fail_after(PATIENCE):
            size = 48 if arguments.quick else max(arguments.size, 1)
            await bench(findings, daemon, size * MB, WAIT, quick=arguments.quick)

    with findings.told(), tempfile.TemporaryDirectory() as folder, model_server() as service:
        daemon = Daemon(service.url, Path(folder), SLOW_DISK, tables=RULES)
        try:
            trio.run(measure, daemon)
        finally:
            daemon.stop()
    return findings.report(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
