"""What the faults of a model's service cost: how soon a run stops in each, and how long it goes on trying.

    python scripts/bench_faults.py [--stops N] [--quick] [--json]

The model service (tests/model_server.py) and the daemon, with its default limits, are processes of their own. Measured
for each fault:

- ms from sending `run.stop` to its reply (the run has settled, is durable, and nothing of it is left), when the fault
  is known to be there: the service holds the request, its answer has fallen silent, or the run waits before it tries
  again. In half of the stops of a wait a part of it has passed
- the same at a moment that is drawn between nothing and 2 s after the start, whatever the run does then
- of faults that stay: attempts, and seconds until the run has failed

19 of 20 stops have to be answered within 100 ms (with --quick the median: few of them are measured, on a machine that
may be busy) and none may take a second; they have to leave every answer finished and every call with its result. A run
has to fail within the longest waits of its attempts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Client, Daemon, Findings, model_server, percentile, say

STOP_MS = 100.0
# Of any stop: a machine that is busy for a moment, or a slow disk, and nothing that the run waits for.
LONGEST_MS = 1000.0
ATTEMPTS = 4
# The longest waits of our choice before the attempts 2, 3 and 4 (limits.retry_delay_first, doubled twice at most).
WAITS = 2.0 + 4.0 + 8.0
# The longest that a service may ask for (limits.retry_after_max), three times.
ASKED_WAITS = 3 * 60.0
# Beside the waits: attempts that fail at once, commits, the watcher's frames.
SLACK = 2.0
# A moment of a run that is drawn is at most this long after its start: the first attempt, or the first wait.
MOMENT = 2.0
# Of a wait before it is stopped: it is 1 s at least.
PART_OF_WAIT = 0.5
SEED = 7
# Characters at the end of a log with a defect in it.
LOG_SHOWN = 4000


@attrs.frozen
class Fault:
    name: str
    prompt: str
    known_by: str  # the event, or "request": the service has it; "" for a run that ends by itself at once
    status: str = "cancelled"  # of a run that is stopped in it
    seconds: float | None = None  # in which a run fails whose fault stays; None: beyond a measurement's patience
    attempts: int = ATTEMPTS


FAULTS = [
    Fault("refused", "hello", "retry.scheduled", seconds=WAITS),
    Fault("accepted_and_silent", "!hang", "request"),
    Fault("head_without_end", "!slow_head", "request"),
    Fault("silent_in_the_middle", "!silence", "part.delta"),
    Fault("status_500", "!status code=500", "retry.scheduled", seconds=WAITS),
    Fault("status_429", "!status code=429", "retry.scheduled", seconds=WAITS),
    Fault("retry_after_a_week", "!status code=429 retry_after=604800", "retry.scheduled", seconds=ASKED_WAITS),
    Fault("dropped_in_the_middle", "!cut", "retry.scheduled", seconds=WAITS),
    Fault("overloaded_in_the_middle", "!error_midstream", "retry.scheduled", seconds=WAITS),
    Fault("page_with_200", "!html", "", "failed", seconds=0.0, attempts=1),
    Fault("error_with_200", "!error200", "", "failed", seconds=0.0, attempts=1),
]


class Bench:
    def __init__(self, models: Any, daemons: dict[str, Daemon], findings: Findings) -> None:
        self.models, self.daemons, self.findings = models, daemons, findings
        self._random = random.Random(SEED)
        self._numbers = itertools.count(1)

    def daemon(self, fault: Fault) -> Daemon:
        return self.daemons["refused" if fault.name == "refused" else "service"]

    async def all(self, stops: int, quick: bool) -> None:
        for fault in FAULTS:
            async with self.daemon(fault).connect() as client:
                taken = [await self._stop(client, fault, number % 2 == 1) for number in range(stops)]
            self._judge(fault.name, f"when it is known to be in {fault.name}", taken, quick)
        say("any moment, all faults at the same time")
        async with trio.open_nursery() as nursery:
            for fault in FAULTS:
                nursery.start_soon(self._moments, fault, stops, quick)
        chosen = [fault for fault in FAULTS if fault.seconds is not None and (not quick or fault.seconds <= WAITS)]
        say(f"{len(chosen)} faults that stay, at the same time")
        async with trio.open_nursery() as nursery:
            for fault in chosen:
                nursery.start_soon(self._stay, fault)
        for name, daemon in self.daemons.items():
            async with daemon.connect() as client:
                counts = (await client.request("daemon.stats"))["counts"]
            defects = len(daemon.errors())
            if defects:
                say((daemon.folder / "log").read_text(errors="replace")[-LOG_SHOWN:])
            what = f"lines of defects in the log, and active runs, of the daemon of {name}"
            left = [defects, counts["active_runs"]]
            self.findings.hold(f"{name}_left", left, left == [0, 0], "", what)

    # ------------------------------------------------------------ stops
    async def _stop(self, client: Client, fault: Fault, later: bool) -> float:
        """Stop a run that is known to be in the fault; ms until the reply."""
        run, word = await self._start(client, fault)
        if fault.known_by == "request":
            await trio.to_thread.run_sync(self.models.asked, word)
        elif fault.known_by:
            while not any(event["type"] == fault.known_by for event in (await client.push())["params"]["events"]):
                pass
            if later and fault.known_by == "retry.scheduled":
                await trio.sleep(self._random.random() * PART_OF_WAIT)
        return await self._stopped(client, run, fault)

    async def _moments(self, fault: Fault, stops: int, quick: bool) -> None:
        taken = []
        async with self.daemon(fault).connect() as client:
            for _ in range(stops):
                run, _ = await self._start(client, fault)
                await trio.sleep(self._random.random() * MOMENT)
                taken.append(await self._stopped(client, run, fault))
        self._judge(f"{fault.name}_any_moment", f"at any moment of {fault.name}", taken, quick)

    async def _start(self, client: Client, fault: Fault) -> tuple[dict[str, Any], str]:
        """A run in a session of its own, and the word by which the service knows its requests."""
        word = f"w{next(self._numbers)}w"
        session = (await client.request("session.create", toolsets=[]))["session"]["id"]
        prompt = f"{fault.prompt} id={word}"
        started = await client.request("run.start", session_id=session, text=prompt, watch=True)
        return started["run"], word

    async def _stopped(self, client: Client, run: dict[str, Any], fault: Fault) -> float:
        began = time.monotonic()
        ended = (await client.request("run.stop", run_id=run["id"]))["run"]
        taken = (time.monotonic() - began) * 1000
        assert ended["status"] in ("cancelled", fault.status), ended
        while (await client.push())["method"] != "watch.closed":
            pass
        await whole(client, run["session_id"])
        await client.request("session.delete", session_id=run["session_id"])
        return taken

    def _judge(self, key: str, what: str, taken: list[float], quick: bool) -> None:
        median, most = round(statistics.median(taken), 2), round(percentile(taken, 0.95), 2)
        longest = round(max(taken), 2)
        say(f"{len(taken)} stops {what}: median {median}, p95 {most}, longest {longest} ms")
        self.findings.note(f"stop_{key}_median_ms", median, "ms", f"stops of a run {what}, median")
        if quick:
            self.findings.hold(f"stop_{key}_ms", median, median < STOP_MS, "ms", f"the same < {STOP_MS:g}")
        else:
            self.findings.hold(f"stop_{key}_ms", most, most < STOP_MS, "ms", f"19 of 20 of them < {STOP_MS:g}")
        good = longest < LONGEST_MS
        self.findings.hold(f"stop_{key}_longest_ms", longest, good, "ms", f"the longest of them < {LONGEST_MS:g}")

    # ------------------------------------------------------------ faults that stay
    async def _stay(self, fault: Fault) -> None:
        assert fault.seconds is not None
        async with self.daemon(fault).connect() as client:
            run, word = await self._start(client, fault)
            began = time.monotonic()
            events: list[dict[str, Any]] = []
            while (push := await client.push())["method"] != "watch.closed":
                events += push["params"]["events"]
            seconds = round(time.monotonic() - began, 2)
            await whole(client, run["session_id"])
        assert push["params"]["status"] == "failed", push
        retries = [event["attempt"] for event in events if event["type"] == "retry.scheduled"]
        good = retries == list(range(2, fault.attempts + 1))
        if fault.name != "refused":
            requests = await trio.to_thread.run_sync(self.models.requests)
            good &= sum(word in str(asked["body"]) for asked in requests) == fault.attempts
        what = f"attempts at {fault.name}, each after the first announced = {fault.attempts}"
        self.findings.hold(f"attempts_{fault.name}", len(retries) + 1, good, "", what)
        most = fault.seconds + SLACK
        what = f"until a run at {fault.name} has failed ≤ {most:g}"
        self.findings.hold(f"failed_{fault.name}_s", seconds, seconds <= most, "s", what)


async def whole(client: Client, session: str) -> None:
    """Every stored answer is finished, between its two marks, and every call has its result."""
    for message in (await client.request("session.messages", session_id=session))["messages"]:
        if message["info"]["role"] == "assistant":
            kinds = [part["kind"] for part in message["parts"]]
            assert "finish" in message["info"] and (kinds[0], kinds[-1]) == ("step-start", "step-finish"), message
            calls = [part for part in message["parts"] if part["kind"] == "tool"]
            assert all(call["state"] in ("completed", "error") for call in calls), message


@contextlib.contextmanager
def daemons(base_url: str) -> Iterator[dict[str, Daemon]]:
    """One whose service is there, and one whose service's port is taken by nobody who listens."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        urls = {"service": base_url, "refused": f"http://127.0.0.1:{taken.getsockname()[1]}/v1"}
        found = {}
        for name, url in urls.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            found[name] = Daemon(url, Path(folder), settle=0.2)
            stack.callback(found[name].stop)
        yield found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, help="in each fault and way; default 30, 4 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer stops, and no fault that stays for minutes")
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    asked = parser.parse_args()
    stops = asked.stops or (4 if asked.quick else 30)
    findings = Findings("faults", asked.quick)
    with findings.told(), model_server() as models, daemons(models.url) as found:
        trio.run(Bench(models, found, findings).all, stops, asked.quick)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
