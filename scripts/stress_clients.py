"""Slow clients (class C): one that reads, one that never does, and two half-open ones, against 1 GB of events.

    python scripts/stress_clients.py [--json] [--quick]

A model service, a daemon, the healthy client and the bad ones are processes of their own. Several runs stream at
a fixed pace at the same time, each in a session of its own; when one ends, the next begins. Every client watches
all of the sessions.

- healthy: reads all there is. Delivery is from the service's sending of a delta to its arrival here.
- unread: has sent its requests and never reads.
- cut off: is behind a relay that stops forwarding and reading, as a network does that has gone.
- swallowed: is behind a relay that still takes everything and forwards nothing, in neither direction.

A bad client that was thrown out reads what had reached it, comes back and resumes from its last seq, and its text
is compared with what the healthy one had; then it is bad again, until all runs have ended. That the daemon makes
progress with a socket is seen from outside: bytes in its kernel queue (/proc/net/tcp) and bytes that came here.

First the same load goes without the bad clients: the base of memory and of the runs' durations.
Exit code 1 if a condition does not hold. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Daemon, Findings, Place, Reader, model_server, percentile, request, say

STAMP = re.compile(r"(\d+\.\d{6}) ")
MIB = 1 << 20
LOOKS = 8  # of the daemon at its connections, in the shortest of their periods
SAMPLE = 0.05  # seconds between two looks at sockets and memory
UNREAD, CUT_OFF, SWALLOWED = KINDS = "unread", "cut off", "swallowed"
# What the requirement says.
GROWTH = 8 * MIB
DELIVERY_MS = 50.0
# A machine on which this process itself is that late has other work: delivery is not judged on it.
OWN_LAG_MS = 20.0
STRETCH = 1.1  # of the runs' duration with bad clients, to that without
LATE = 1.0  # seconds that an abort may be seen later than the daemon's own look allows
# Replay logs are held small, so that they are full before the bad clients come.
LOGS = 4 * MIB
PATIENCE = 240.0


@attrs.frozen
class Size:
    base_runs: int  # without bad clients
    runs: int  # with them
    at_once: int
    deltas: int  # of each run
    bytes: int  # of each delta, its stamp not counted
    rate: int  # deltas a second of each run
    slow: float  # seconds: limits.slow_client_timeout
    ping: float
    silence: float

    @property
    def look(self) -> float:
        return min(self.slow, self.ping, self.silence) / LOOKS


# Answers are nearly as large as one may be (8 MiB): so are their snapshots.
FULL = Size(16, 136, 4, 3750, 2048, 600, 15.0, 20.0, 60.0)
QUICK = Size(6, 12, 4, 1600, 2048, 600, 2.0, 1.0, 4.0)


# ------------------------------------------------------------ sockets seen from outside
@attrs.frozen
class Seen:
    """A connection's two ends: what the daemon has given to the kernel so far, and whether it still has it open."""

    given: int
    open: bool


def look(client_port: int, daemon_port: int, sock: Any) -> Seen:
    queued, alive = 0, False
    ends = f":{daemon_port:04X}", f":{client_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            alive = fields[3] in ("01", "08")  # ESTABLISHED, CLOSE_WAIT
            queued = int(fields[4].partition(":")[0], 16)
    # tcpi_bytes_received, of Linux's struct tcp_info
    received = struct.unpack_from("Q", sock.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_INFO, 136), 128)[0]
    return Seen(queued + received, alive)


async def wait_aborted(stream: trio.SocketStream, daemon_port: int, *, progress: bool) -> float:
    """Seconds to the end of this connection: from the daemon's last progress with it, or from now."""
    port = stream.socket.getsockname()[1]
    given, since = -1, time.monotonic()
    while True:
        seen = look(port, daemon_port, stream.socket)
        if not seen.open:
            return time.monotonic() - since
        if progress and seen.given != given:
            given, since = seen.given, time.monotonic()
        await trio.sleep(SAMPLE)


class Relay:
    """Between one client and the daemon; `stop` makes it a network that has gone."""

    def __init__(self, daemon_port: int, swallows: bool) -> None:
        self._daemon_port = daemon_port
        self._swallows = swallows
        self._stopped = trio.CancelScope()
        self.upstream: trio.SocketStream

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[str, int]]:
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(self._serve, listener)
            yield listener.socket.getsockname()[:2]
            nursery.cancel_scope.cancel()

    async def _serve(self, listener: trio.SocketListener) -> None:
        self.upstream = await trio.open_tcp_stream("127.0.0.1", self._daemon_port)
        async with listener, await listener.accept() as client, self.upstream:
            with self._stopped:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, client, self.upstream)
                    nursery.start_soon(self._forward, self.upstream, client)
            with contextlib.suppress(trio.BrokenResourceError):
                while self._swallows and await self.upstream.receive_some(MIB):
                    pass
            await trio.sleep_forever()

    async def _forward(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await target.send_all(data)

    def stop(self) -> None:
        self._stopped.cancel()


# ------------------------------------------------------------ the load
@attrs.define
class Load:
    """A number of sessions, each for one run, and what the healthy client was told of them."""

    sessions: list[str]
    runs: dict[str, Reader] = attrs.field(factory=dict)
    hashes: dict[str, str] = attrs.field(factory=dict)  # of the text of each run that has been told to its end
    news: trio.Event = attrs.field(factory=trio.Event)
    late: list[float] = attrs.field(factory=list)  # ms of delivery
    seconds: list[float] = attrs.field(factory=list)  # of each run, by the daemon's own record
    events_bytes: int = 0  # of frames
    gaps: int = 0
    over: trio.Event = attrs.field(factory=trio.Event)

    async def hash_of(self, run_id: str) -> str:
        """When the healthy client has all of it."""
        while run_id not in self.hashes:
            await self.news.wait()
        return self.hashes[run_id]


async def make_sessions(daemon: Daemon, count: int) -> list[str]:
    async with daemon.connect() as client:
        return [(await client.request("session.create", toolsets=[]))["session"]["id"] for _ in range(count)]


async def healthy(daemon: Daemon, load: Load, ready: trio.Event) -> None:
    async with daemon.connect() as client:
        for session in load.sessions:
            await client.request("session.watch", session_id=session)
        ready.set()
        while len(load.hashes) < len(load.sessions):
            messages = await client.socket.receive()
            now = time.monotonic()
            for message in messages:
                load.events_bytes += len(message)
                take(load, json.loads(message), now)


def take(load: Load, push: dict[str, Any], now: float) -> None:
    run_id = push["params"].get("run_id")
    if run_id is None:
        return  # session.changed
    reader = load.runs.setdefault(run_id, Reader())
    reader.take(push)
    if push["method"] == "run.gap":
        load.gaps += 1
    for event in push["params"].get("events", ()):
        if event["type"] == "part.delta":
            load.late += [(now - float(stamp)) * 1000 for stamp in STAMP.findall(event["text"])]
    if reader.ended is not None and run_id not in load.hashes:
        load.hashes[run_id] = digest(reader.text)
        reader.start(reader.seq, b"")
        load.news.set()
        load.news = trio.Event()


async def drive(daemon: Daemon, size: Size, load: Load) -> None:
    """Start the runs, some at a time, until all have ended."""
    waiting = list(reversed(load.sessions))
    prompt = f"!stream n={size.deltas} rate={size.rate} stamp=1 text={'x' * size.bytes}"

    async def lane() -> None:
        async with daemon.connect() as client:
            while waiting:
                session = waiting.pop()
                run = (await client.request("run.start", session_id=session, text=prompt))["run"]
                await load.hash_of(run["id"])
                run = (await client.request("run.get", run_id=run["id"]))["run"]
                assert run["status"] == "completed", run
                load.seconds.append((run["ended_at"] - run["started_at"]) / 1000)
                if len(load.seconds) % 10 == 0:
                    say(f"{len(load.seconds)} of {len(load.sessions)} runs, {load.events_bytes / MIB:.0f} MiB told")

    async with trio.open_nursery() as nursery:
        for _ in range(size.at_once):
            nursery.start_soon(lane)
    load.over.set()


# ------------------------------------------------------------ bad clients
@attrs.define
class Bad:
    """What was seen of one kind of bad client."""

    kind: str
    aborted: list[float] = attrs.field(factory=list)  # seconds to the end of each connection
    resumed: list[tuple[str, str]] = attrs.field(factory=list)  # runs, and what their text was
    gaps: int = 0


class Misbehaviour:
    """One kind of bad client: it is thrown out and comes back, until the load is `over`."""

    def __init__(self, place: Place, sessions: list[str], over: trio.Event, seen: Bad) -> None:
        self._place = place
        self._sessions = sessions
        self._over = over
        self._seen = seen

    async def run(self) -> None:
        while not self._over.is_set():
            readers: dict[str, Reader] = {}
            await self._connection(readers)
            for run_id, reader in readers.items():
                if reader.ended is None:
                    await self._resume(run_id, reader)

    async def _connection(self, readers: dict[str, Reader]) -> None:
        """One connection to its end; what it had of each run by then is in `readers`."""
        async with contextlib.AsyncExitStack() as stack:
            relay = None
            to = None
            if self._seen.kind != UNREAD:
                relay = Relay(self._place.port, swallows=self._seen.kind == SWALLOWED)
                to = await stack.enter_async_context(relay.open())
            client = await stack.enter_async_context(self._place.connect(to))
            for number, session in enumerate(self._sessions):
                await client.socket.send(request(100 + number, "session.watch", session_id=session))
            if relay is not None:
                # It is well at first: until something of a run has come.
                while not any(reader.seq for reader in readers.values()) and not self._over.is_set():
                    with trio.move_on_after(1.0):
                        remember(readers, await client.push())
                relay.stop()
            stream = client.socket.stream if relay is None else relay.upstream
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_over, nursery.cancel_scope)
                self._seen.aborted.append(
                    await wait_aborted(stream, self._place.port, progress=self._seen.kind != SWALLOWED)
                )
                nursery.cancel_scope.cancel()
                say(f"{self._seen.kind}: thrown out after {self._seen.aborted[-1]:.2f} s")
            with contextlib.suppress(ConnectionError), trio.move_on_after(1.0):
                while relay is None and not self._over.is_set():
                    remember(readers, await client.push())

    async def _until_over(self, scope: trio.CancelScope) -> None:
        await self._over.wait()
        scope.cancel()

    async def _resume(self, run_id: str, reader: Reader) -> None:
        """Go on from the last seq to the run's end."""
        gaps = len(reader.gaps)
        async with self._place.connect() as client:
            await client.request("run.watch", run_id=run_id, after=reader.seq)
            while reader.closed is None:
                reader.take(await client.push())
        self._seen.gaps += len(reader.gaps) - gaps
        self._seen.resumed.append((run_id, digest(reader.text)))


def remember(readers: dict[str, Reader], push: dict[str, Any]) -> None:
    if (run_id := push["params"].get("run_id")) is not None:
        readers.setdefault(run_id, Reader()).take(push)


def digest(text: bytes) -> str:
    return f"{hashlib.sha256(text).hexdigest()} of {len(text)} bytes"


def misbehave() -> None:
    """The process of the bad clients: its first line of input says where; at the end of its input it tells."""

    async def until_end(over: trio.Event) -> None:
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        over.set()

    async def main() -> None:
        os.nice(10)  # they stand for other machines: what they use is not to slow what is measured
        told = json.loads(sys.stdin.readline())
        over = trio.Event()
        bads = [Bad(kind) for kind in KINDS]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_end, over)
            for one in bads:
                nursery.start_soon(Misbehaviour(Place(**told["place"]), told["sessions"], over, one).run)
        print(json.dumps([attrs.asdict(one) for one in bads]), flush=True)

    trio.run(main)


async def be_bad(daemon: Daemon, load: Load, found: list[Bad]) -> None:
    """Run that process while the load lasts."""
    process = await trio.lowlevel.open_process(
        [sys.executable, __file__, "--bad-clients"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        place = {"url": daemon.url, "ws_url": daemon.ws_url, "headers": daemon.headers}
        await process.stdin.send_all(json.dumps({"place": place, "sessions": load.sessions}).encode() + b"\n")
        await load.over.wait()
        await process.stdin.aclose()
        answer = b""
        async for data in process.stdout:
            answer += data
        await process.wait()
        found += [Bad(**one) for one in json.loads(answer)]
    finally:
        process.kill()


# ------------------------------------------------------------ measuring
@attrs.define
class Probe:
    """Memory of the daemon, how long /healthz takes, and how late this process is itself: its figures have that in
    them."""

    most: int = 0
    lag: list[float] = attrs.field(factory=list)
    health: list[float] = attrs.field(factory=list)

    async def run(self, daemon: Daemon) -> None:
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        asked = f"GET /healthz HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            while True:
                self.most = max(self.most, daemon.resident())
                began = time.monotonic()
                await stream.send_all(asked)
                answer = await stream.receive_some(4096)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                self.health.append((time.monotonic() - began) * 1000)
                due = time.monotonic() + SAMPLE
                await trio.sleep(SAMPLE)
                self.lag.append((time.monotonic() - due) * 1000)


@attrs.frozen
class Phase:
    load: Load
    probe: Probe
    seconds: float
    cpu: float
    lag_ms: float
    counts: dict[str, int]  # of the daemon, at the end


async def phase(daemon: Daemon, size: Size, runs: int, bads: list[Bad] | None = None) -> Phase:
    """A load; with `bads`, what bad clients met meanwhile is added to it."""
    load = Load(await make_sessions(daemon, runs))
    probe = Probe()
    cpu, began = daemon.cpu(), time.monotonic()
    with trio.fail_after(PATIENCE + 2 * runs * size.deltas / size.rate / size.at_once):
        async with trio.open_nursery() as background:
            background.start_soon(probe.run, daemon)
            async with trio.open_nursery() as nursery:
                ready = trio.Event()
                nursery.start_soon(healthy, daemon, load, ready)
                await ready.wait()
                if bads is not None:
                    nursery.start_soon(be_bad, daemon, load, bads)
                nursery.start_soon(drive, daemon, size, load)
            background.cancel_scope.cancel()
    seconds, cpu = time.monotonic() - began, daemon.cpu() - cpu
    async with daemon.connect() as client:
        stats = await client.request("daemon.stats")
    return Phase(load, probe, seconds, cpu, stats["loop"]["lag_p99_ms"], stats["counts"])


async def stress(daemon: Daemon, size: Size, findings: Findings) -> None:
    say(f"base: {size.base_runs} runs of {size.deltas * size.bytes / MIB:.1f} MiB without bad clients")
    base = await phase(daemon, size, size.base_runs)
    say(f"{size.runs} runs with clients that are {', '.join(KINDS)}")
    bads: list[Bad] = []
    found = await phase(daemon, size, size.runs, bads)
    judge(size, base, found, bads, findings)
    errors = daemon.errors()
    findings.hold("defects", errors[:5], not errors, "", "defects in the daemon's log: none")


def judge(size: Size, base: Phase, found: Phase, bads: list[Bad], findings: Findings) -> None:
    note, hold = findings.note, findings.hold
    load = found.load
    note("events_mb", round((base.load.events_bytes + load.events_bytes) / 1e6, 1), "MB", "told to the healthy client")
    note("runs", size.base_runs + size.runs, "", "runs")
    note("memory_base_mb", round(base.probe.most / MIB, 1), "MiB", "resident at the most without bad clients")
    note("memory_mb", round(found.probe.most / MIB, 1), "MiB", "resident at the most with them")
    growth = (found.probe.most - base.probe.most) / len(KINDS)
    hold("growth_mb", round(growth / MIB, 2), growth <= GROWTH, "MiB", "more for each bad client ≤ 8")
    for key, one in (("base_", base), ("", found)):
        p50, p99 = (round(percentile(one.load.late, share), 2) for share in (0.5, 0.99))
        note(f"{key}delivery_p50_ms", p50, "ms", f"{key}delivery to the healthy client, median")
        own = round(percentile(one.probe.lag, 0.99), 2)
        note(f"{key}own_lag_p99_ms", own, "ms", f"{key}lag of this process, p99")
        if one is found:
            judged = own < OWN_LAG_MS
            note("delivery_judged", judged, "", f"this process was on time itself (lag < {OWN_LAG_MS:g} ms)")
            good = p99 < DELIVERY_MS or not judged
            hold("delivery_p99_ms", p99, good, "ms", f"delivery, 99th percentile < {DELIVERY_MS:g} if so")
        else:
            note("base_delivery_p99_ms", p99, "ms", "base_delivery, 99th percentile")
        note(f"{key}health_p99_ms", round(percentile(one.probe.health, 0.99), 2), "ms", f"{key}/healthz, p99")
        note(f"{key}loop_lag_p99_ms", one.lag_ms, "ms", f"{key}lag of the daemon's loop, p99")
        note(f"{key}cpu_share", round(one.cpu / one.seconds, 3), "cores", f"{key}CPU of the daemon")
    before, after = statistics.median(base.load.seconds), statistics.median(load.seconds)
    note("base_run_s", round(before, 3), "s", "a run without bad clients, median")
    note("run_s", round(after, 3), "s", "a run with them, median")
    stretch = round(after / before, 3)
    hold("stretch", stretch, stretch <= STRETCH, "", f"runs are longer with bad clients by a factor ≤ {STRETCH}")
    hold("healthy_gaps", load.gaps, load.gaps == 0, "", "gaps of the healthy client = 0")
    for one in bads:
        name = one.kind.replace(" ", "_")
        bound = (size.silence if one.kind == SWALLOWED else size.slow) + 2 * size.look + LATE
        most = round(max(one.aborted, default=math.inf), 2)
        since = "the relay's stop" if one.kind == SWALLOWED else "the last progress"
        hold(f"{name}_aborted_s", most, most <= bound, "s", f"{one.kind}: from {since} to its end ≤ {bound:.2f}")
        note(f"{name}_aborts", len(one.aborted), "", f"{one.kind}: times thrown out")
        note(f"{name}_gaps", one.gaps, "", f"{one.kind}: gaps told when it resumed")
        wrong = [(run_id, text) for run_id, text in one.resumed if load.hashes[run_id] != text]
        for run_id, text in wrong:
            say(f"WRONG: {one.kind} has {text} of {run_id}, the healthy client {load.hashes[run_id]}")
        good = len(one.resumed) > 0 and not wrong
        what = f"{one.kind}: runs resumed with the right text > 0, with a wrong one {len(wrong)}"
        hold(f"{name}_resumed", len(one.resumed), good, "", what)
    for name in ("aborted_slow", "aborted_silent", "gaps"):
        note(f"daemon_{name}", found.counts[name], "", f"by the daemon's count: {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="60 MB, and bad clients are thrown out sooner")
    parser.add_argument("--bad-clients", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bad_clients:
        misbehave()
        return 0
    size = QUICK if asked.quick else FULL
    findings = Findings("clients", asked.quick)
    limits: dict[str, str | int] = {
        "all_logs_bytes": LOGS,
        "slow_client_timeout": f"{size.slow:g}s",
        "ping_interval": f"{size.ping:g}s",
        "silence_timeout": f"{size.silence:g}s",
    }
    with findings.told(), model_server() as models, tempfile.TemporaryDirectory(prefix="stress-") as folder:
        daemon = Daemon(models.url, Path(folder), limits, settle=0.0)
        try:
            trio.run(stress, daemon, size, findings)
        finally:
            daemon.stop()
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
