"""What the measures of tools share: a call made through a run, with its time, its result and the daemon's peak."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Client, Daemon, kept_waiting, percentile

MB = 10**6
MIB = 2**20
# What a model may see of a result, and a person of what comes live.
RESULT_BYTES = 50 * 1024
PREVIEW_BYTES = 64 * 1024
SETTLE = 0.3  # seconds: what a call leaves to be done, such as the removal of a file, is done then
_numbers = itertools.count(1)


class Peak:
    """The largest resident memory of a process, above what it was when this was made: the kernel counts, nothing is
    missed between two looks."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark is the present again
        self.idle = status(pid, "VmRSS")

    def mb(self) -> float:
        return round((status(self._pid, "VmHWM") - self.idle) / MB, 2)


def status(pid: int, name: str) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


# ------------------------------------------------------------ /healthz
_PROBE = """
import json, socket, sys, threading, time
host, port = sys.argv[1], int(sys.argv[2])
left = []
threading.Thread(target=lambda: left.append(sys.stdin.read()), daemon=True).start()
with socket.create_connection((host, port)) as connection:
    while not left:
        began = time.monotonic()
        connection.sendall(f"GET /healthz HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        print(began, time.monotonic() - began, flush=True)
        time.sleep(0.005)
"""


class Health:
    """How long /healthz takes (ms), asked 200 times a second by a process of its own: it waits for nobody but the
    daemon. Of the times that are marked, all others are left out."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self._marked: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def asked(self, daemon: Daemon) -> Iterator[None]:
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        command = [sys.executable, "-I", "-S", "-c", _PROBE, host, port]
        with tempfile.TemporaryFile("w+") as told:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=told)
            try:
                yield
            finally:
                process.communicate(timeout=30)
            told.seek(0)
            times = [tuple(map(float, line.split())) for line in told]
        for begin, end in self._marked:
            self.found += [took * 1000 for began, took in times if began < end and began + took > begin]
        self._marked.clear()

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._marked.append((began, time.monotonic()))

    def p99(self) -> float:
        return round(percentile(self.found, 0.99), 2)


# ------------------------------------------------------------ calls
@attrs.frozen
class Call:
    """One call: seconds of its whole run as its client sees it, what the model was sent of its result (of a request
    that the model's service does not keep: what the client was), and what came live as (time, bytes of text)."""

    seconds: float
    state: str
    output: str
    request_bytes: int
    live: list[tuple[float, int]]

    def live_per_second(self) -> float:
        """Bytes of text, over the time that they took; a piece is an eighth of a second's."""
        if len(self.live) < 2:
            return 0.0
        return sum(size for _, size in self.live[1:]) / (self.live[-1][0] - self.live[0][0])


class Caller:
    """A session whose model makes the calls that it is told to."""

    def __init__(self, daemon: Daemon, client: Client, models: Any, session: str) -> None:
        self.daemon, self.client, self.models, self.session = daemon, client, models, session

    async def call(self, tool: str, **given: Any) -> Call:
        # The scenario's settings are parted by blanks.
        value = json.dumps(given, separators=(",", ":")).replace(" ", "\\u0020")
        word = f"call{next(_numbers)}"
        text = f"!tool name={tool.replace('.', '__')} input={value} word={word}"
        began = time.monotonic()
        await self.client.request("run.start", session_id=self.session, text=text, watch=True)
        live: list[tuple[float, int]] = []
        part: dict[str, Any] = {}
        while True:
            push = await self.client.push()
            if push["method"] == "watch.closed":
                break
            for event in push["params"].get("events", ()):
                if event["type"] == "tool.output":
                    live.append((time.monotonic(), len(event["text"].encode())))
                elif event["type"] == "tool.updated":
                    part = event
        seconds = time.monotonic() - began
        if push["params"]["status"] != "completed":
            raise AssertionError(await self.client.request("run.get", run_id=push["params"]["run_id"]))
        asked = await trio.to_thread.run_sync(self.models.asked, word)
        results = [message["content"] for message in asked["body"]["messages"] if message["role"] == "tool"]
        return Call(seconds, part["state"], results[-1] if results else part["output"], asked["size"], live)

    async def small(self, tool: str, **given: Any) -> None:
        """The call after which the toolset is idle."""
        found = await self.call(tool, **given)
        assert found.state == "completed", found


@contextlib.asynccontextmanager
async def caller(daemon: Daemon, models: Any, folder: Path) -> AsyncIterator[Caller]:
    async with daemon.connect() as client:
        session = (await client.request("session.create", cwd=str(folder)))["session"]["id"]
        yield Caller(daemon, client, models, session)


@attrs.frozen
class Cost:
    """Of the daemon in a call: the peak of its memory, MB above what it was before; seconds of CPU, and for which its
    loop had no core."""

    peak: float
    cpu: float
    waited: float


async def measured(health: Health, one: Caller, tool: str, **given: Any) -> tuple[Call, Cost]:
    """A call and what it cost."""
    await trio.sleep(SETTLE)
    daemon = one.daemon
    peak, cpu, waited = Peak(daemon.process.pid), daemon.cpu(), kept_waiting(daemon.process.pid)
    with health.marked():
        found = await one.call(tool, **given)
    waited = kept_waiting(daemon.process.pid) - waited
    return found, Cost(peak.mb(), round(daemon.cpu() - cpu, 2), round(waited, 2))
