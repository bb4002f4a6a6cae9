"""Huge results of tools (class J): what they cost the daemon's memory, how long they take, and what a model sees.

    python scripts/bench_tools.py [--only NAME,…] [--shell-gb N] [--quick] [--json]

The daemon, the model's service (tests/model_server.py), the tool servers (scripts/_mcp_server.py, which hold no result)
and the official client are processes of their own; a model asks for each call. The peak is the high-water mark of the
daemon's resident memory, above what it was at idle: after a small call through the same toolset. Measured:

- mcp: texts and images of 1, 10 and 100 MB over pipes and over HTTP, as JSON and as events; beside each the official
  client's own transport with the same server, given --official seconds
- shell: 1 GB of output and its counts, beside a plain reader of the same program; what a client sees live
- files: a large file read, one with huge lines searched, a large page fetched
- incident: 2,008 matches in 1,191 files of a large tree, searched in three sessions at once, with nine tool servers
  and a database of 500 MB

Hard conditions: the peaks, the counts, what the model and the client see, bounds of the disk; without --quick the
times, too. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Daemon, Findings, kept_waiting, model_server, say
from _incident import FILES, MATCHES, NEEDLE, make_history, make_tree
from _lines import FIRST, LAST, lines
from _mcp_server import LINE_BYTES, READY
from _tool_calls import (
    MB,
    PREVIEW_BYTES,
    RESULT_BYTES,
    SETTLE,
    Call,
    Caller,
    Cost,
    Health,
    Peak,
    caller,
    measured,
    status,
)

SCRIPTS = Path(__file__).resolve().parent
SERVER = [sys.executable, "-I", "-S", str(SCRIPTS / "_mcp_server.py")]
PRINTER = [sys.executable, "-I", "-S", str(SCRIPTS / "_lines.py")]
LIMIT = 3600.0  # seconds for one group; one that takes longer hangs
PEAK_MB = 4.0
STDIO_SECONDS = 2.0  # of 100 MB
HEALTH_MS = 20.0
SPOOL_BYTES = 256 * 2**20
SESSIONS, SERVERS = 3, 9
# The window of a model of 131,072 tokens at 3 bytes each, what JSON adds to it, and 18 tools.
REQUEST_BYTES = 500_000
TRANSPORTS, TOOLS = ("stdio", "json", "sse"), ("text", "image")
ALL_CALLS = list(product(TRANSPORTS, TOOLS))
QUICK_CALLS = [("stdio", "text"), ("stdio", "image"), ("json", "text"), ("sse", "text")]
SMALL = 10 * LINE_BYTES
_CUT = re.compile(r"^\[… ([\d,]+) lines?, ([\d,]+) bytes? cut …\]$", re.M)


@attrs.frozen
class Size:
    results: tuple[int, ...]  # bytes of a tool server's result
    calls: Collection[tuple[str, str]]  # transports and tools
    official: float  # seconds that the official client has for each
    officials: Collection[tuple[str, str]]  # what is measured of it
    shell: int  # bytes
    rows: Collection[str]  # of files and pages
    file: int  # bytes of the large file, and of the page
    filler: int  # files without a match
    history: int  # bytes of the sessions' transcripts


def toml(server: list[str]) -> str:
    return f"command = {json.dumps(server[0])}\nargs = {json.dumps(server[1:])}\n"


@contextlib.contextmanager
def http_server() -> Iterator[str]:
    """The tool server over HTTP; its address."""
    with subprocess.Popen([*SERVER, "--http"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            yield process.stdout.readline().decode().removeprefix(READY).strip()
        finally:
            process.stdin.close()
            process.wait(10)


def shown(output: str) -> tuple[int, int]:
    """Of a result that was cut: how many lines and bytes the whole had, by what is shown and what is said to be cut.
    The last line is a note on the whole."""
    body = output[: output.rindex("\n[") + 1]
    (cut,) = _CUT.findall(body)
    kept = _CUT.sub("", body)  # its line end is the one that it was given beside
    return kept.count("\n") - 1 + int(cut[0].replace(",", "")), len(kept.encode()) - 1 + int(cut[1].replace(",", ""))


class Bench:
    def __init__(self, models: Any, findings: Findings, size: Size, folder: Path) -> None:
        self.models, self.findings, self.size, self.folder = models, findings, size, folder
        self.health = Health()

    def on_daemon(self, name: str, tables: str, measure: Callable[[Daemon], Awaitable[None]]) -> None:
        """Measures on a daemon of their own, /healthz asked all the time."""
        self.folder.joinpath(name).mkdir(exist_ok=True)
        patient = {"toolset_first_wait": "600s"}  # however slow the machine is, servers are there when they are called
        daemon = Daemon(self.models.url, self.folder / name, patient, tables=tables, settle=0.2)

        async def bounded() -> None:
            with trio.fail_after(LIMIT):
                await measure(daemon)

        try:
            with self.health.asked(daemon):
                trio.run(bounded)
            assert not daemon.errors(), daemon.errors()[:5]
        finally:
            daemon.stop()

    def healthy(self, name: str) -> None:
        """The judgement on all that was measured since the last."""
        self.findings.aim(f"{name}_health_p99_ms", self.health.p99(), HEALTH_MS, "ms", f"{name}: /healthz, p99")
        self.health = Health()

    def peak(self, key: str, found: float, what: str) -> None:
        self.findings.hold(f"{key}_peak_mb", found, found <= PEAK_MB, "MB", f"{what}: peak above idle ≤ {PEAK_MB:g}")

    def cost(self, key: str, found: Cost, what: str) -> None:
        self.peak(key, found.peak, what)
        self.findings.note(f"{key}_cpu_s", found.cpu, "s", f"{what}: CPU of the daemon")
        self.findings.note(f"{key}_waited_s", found.waited, "s", f"{what}: its loop had no core")

    def result(self, key: str, call: Call, what: str) -> None:
        size = len(call.output.encode())
        good = call.state == "completed" and size <= RESULT_BYTES
        self.findings.hold(f"{key}_shown_bytes", size, good, "bytes", f"{what}: {call.state}, shown ≤ {RESULT_BYTES}")

    # ------------------------------------------------------------ tool servers
    def mcp(self) -> None:
        with http_server() as url:
            tables = f'[toolsets.stdio]\nkind = "mcp"\n{toml(SERVER)}'
            tables += "".join(f'[toolsets.{kind}]\nkind = "mcp"\nurl = "{url}/{kind}"\n' for kind in ("json", "sse"))
            tables += f"[permissions]\nallow = {json.dumps(TRANSPORTS)}\n"
            # Each on a daemon of its own: what one has left free would hide what the next one takes.
            for (kind, tool), size in product(self.size.calls, self.size.results):
                what = f"{kind}_{tool}_{size // MB}mb"
                self.on_daemon(what, tables, partial(self.mcp_result, kind, tool, size))
                if self.size.official and (kind, tool) in self.size.officials:
                    self.official(what, kind, tool, size, SERVER if kind == "stdio" else [f"{url}/{kind}"])
        self.healthy("mcp")

    def official(self, key: str, kind: str, tool: str, size: int, server: list[str]) -> None:
        """The same with the official client's own transport, in a process of its own. Told, not judged."""
        command = [sys.executable, str(SCRIPTS / "_mcp_official.py"), "stdio" if kind == "stdio" else "http"]
        with subprocess.Popen([*command, tool, str(size), *server], stdout=subprocess.PIPE) as process:
            try:
                out, _ = process.communicate(timeout=self.size.official)
                found = json.loads(out)
            except subprocess.TimeoutExpired:
                found = {"error": f"no answer within {self.size.official:g} s"}
                found["resident_mb"] = round(status(process.pid, "VmHWM") / MB)
                process.kill()
        what = f"{tool} of {size // MB} MB over {kind}, the official client's transport: s, peak MB"
        say(f"{what}: {found}")
        self.findings.note(f"{key}_official", found, "", what)

    async def mcp_result(self, kind: str, tool: str, size: int, daemon: Daemon) -> None:
        async with caller(daemon, self.models, self.folder) as one:
            await one.small(f"{kind}.{tool}", size=SMALL)
            call, cost = await measured(self.health, one, f"{kind}.{tool}", size=size)
        key, what = f"{kind}_{tool}_{size // MB}mb", f"{tool} of {size // MB} MB over {kind}"
        say(f"{what}: {call.seconds:.2f} s, {cost}")
        self.cost(key, cost, what)
        self.result(key, call, what)
        seconds = round(call.seconds, 3)
        if kind == "stdio" and size == 100 * MB:
            self.findings.aim(f"{key}_s", seconds, STDIO_SECONDS, "s", f"{what}: the run")
        else:
            self.findings.note(f"{key}_s", seconds, "s", f"{what}: the run")
        if tool == "text":
            counts, whole = shown(call.output), (size // LINE_BYTES, size)
            self.findings.hold(f"{key}_counts", counts, counts == whole, "", f"{what}: lines, bytes")

    # ------------------------------------------------------------ the shell
    def shell(self) -> None:
        self.on_daemon("shell", '[permissions]\nallow = ["shell"]\n', self.printed)
        self.healthy("shell")

    async def printed(self, daemon: Daemon) -> None:
        size = self.size.shell
        async with caller(daemon, self.models, self.folder) as one:
            await one.small("shell.run", command=shlex.join([*PRINTER, "1000"]))
            command = shlex.join([*PRINTER, str(size)])
            call, cost = await measured(self.health, one, "shell.run", command=command, timeout=600)
            most = max(path.stat().st_size for path in (daemon.folder / "data").rglob("*") if path.is_file())
        floor = await trio.to_thread.run_sync(read_plainly, [*PRINTER, str(size)])
        what = f"{size / 1e9:g} GB over the shell"
        say(f"{what}: {call.seconds:.2f} s (floor {floor:.2f}), {cost}")
        hold, note = self.findings.hold, self.findings.note
        self.cost("shell", cost, what)
        self.result("shell", call, what)
        counts, whole = shown(call.output), (lines(size), size)
        hold("shell_counts", counts, counts == whole, "", f"{what}: lines, bytes")
        ends = call.output.startswith(FIRST.decode()) and f"\n{LAST.decode()}[" in call.output
        hold("shell_ends", ends, ends, "", f"{what}: the first and the last line are shown")
        hold("shell_file_bytes", most, most <= SPOOL_BYTES, "bytes", f"{what}: kept on the disk ≤ {SPOOL_BYTES}")
        note("shell_s", round(call.seconds, 2), "s", f"{what}: the run")
        note("shell_floor_s", round(floor, 2), "s", f"{what}: a plain reader of the same program")
        note("shell_mb_per_s", round(size / call.seconds / MB), "MB/s", f"{what}; the floor is {size / floor / MB:.0f}")
        rate = round(call.live_per_second())
        good = 0 < rate <= PREVIEW_BYTES or len(call.live) < 2
        hold("shell_preview_bytes_per_s", rate, good, "bytes/s", f"{what}: seen live ≤ {PREVIEW_BYTES}")

    # ------------------------------------------------------------ files and pages
    def files(self) -> None:
        with http_server() as url:
            tables = '[toolsets.files]\nkind = "builtin"\n[toolsets.web]\nkind = "builtin"\n'
            tables += 'allow_networks = ["127.0.0.0/8"]\n[permissions]\nallow = ["files", "web"]\n'
            folder = self.folder / "large"
            (folder / "huge").mkdir(parents=True)
            with open(folder / "large.txt", "wb") as file:
                subprocess.run([*PRINTER, str(self.size.file)], stdout=file, check=True)
            (folder / "small.txt").write_text("a needle in a small file\n")
            for number in range(10):  # each below the bound of what is searched
                (folder / "huge" / f"{number}.txt").write_bytes(b"x" * 9 * MB + b" needle " + b"x" * 10**5)
            many = lines(self.size.file)
            rows: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
                ("read", "files.read_file", {"path": "small.txt"}, {"path": "large.txt"}),
                ("read_end", "files.read_file", {"path": "small.txt"}, {"path": "large.txt", "offset": many - 100}),
                ("search", "files.search_files", {"pattern": "needle", "path": "small.txt"}, {"pattern": "needle"}),
                ("fetch", "web.fetch", {"url": f"{url}/plain/1000"}, {"url": f"{url}/plain/{self.size.file}"}),
                ("fetch_html", "web.fetch", {"url": f"{url}/html/1000"}, {"url": f"{url}/html/{self.size.file}"}),
            ]
            for key, tool, little, given in rows:
                if key in self.size.rows:
                    self.on_daemon(key, tables, partial(self.large, key, tool, little, given, folder))
        self.healthy("files")

    async def large(
        self, key: str, tool: str, little: dict[str, Any], given: dict[str, Any], folder: Path, daemon: Daemon
    ) -> None:
        async with caller(daemon, self.models, folder) as one:
            await one.small(tool, **little)
            call, cost = await measured(self.health, one, tool, **given)
        what = f"{tool} of {json.dumps(given)}"
        say(f"{what}: {call.seconds:.2f} s, {cost}, ends with {call.output[-100:]!r}")
        self.cost(key, cost, what)
        self.result(key, call, what)
        self.findings.note(f"{key}_s", round(call.seconds, 2), "s", f"{what}: the run")

    # ------------------------------------------------------------ the incident
    def incident(self) -> None:
        folder = self.folder / "home"
        count, size = make_tree(folder, self.size.filler)
        say(f"a tree of {count:,} files and {size / MB:.0f} MB, {MATCHES:,} matches in {FILES:,} of them")
        told = 0

        def tell(written: int) -> None:
            nonlocal told
            if written >= told:
                say(f"{written / MB:.0f} of {self.size.history / MB:.0f} MB of history")
                told += self.size.history // 5

        data = self.folder / "incident" / "data"
        names = [f"server{number}" for number in range(SERVERS)]
        sessions = make_history(data, self.size.history, SESSIONS, folder, ["files", *names], tell)
        tables = '[toolsets.files]\nkind = "builtin"\n'
        tables += "".join(f'[toolsets.{name}]\nkind = "mcp"\n{toml([*SERVER, name])}' for name in names)
        tables += f"[permissions]\nallow = {json.dumps([*names, 'files'])}\n"
        self.on_daemon("incident", tables, partial(self.searched, sessions, names))
        self.healthy("incident")

    async def searched(self, sessions: list[str], names: list[str], daemon: Daemon) -> None:
        calls: dict[str, Call] = {}
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(daemon.connect()) for _ in sessions]
            callers = [
                Caller(daemon, client, self.models, session) for client, session in zip(clients, sessions, strict=True)
            ]
            for one in callers:
                await one.small("files.search_files", pattern=NEEDLE, path="project0/part0")
            for name in names:
                await callers[0].small(f"{name}.text", size=SMALL)

            async def search(number: int, one: Caller) -> None:
                # The first stops at the bounds of a result, the second goes through all of the tree.
                for what in (NEEDLE, f"{NEEDLE}_nowhere"):
                    calls[f"{number} {what}"] = await one.call("files.search_files", pattern=what)

            listed = await clients[0].request("toolset.list")
            live = sum(one["state"] == "ready" and one["name"] in names for one in listed["toolsets"])
            await trio.sleep(SETTLE)
            peak = Peak(daemon.process.pid)
            began, waited = time.monotonic(), kept_waiting(daemon.process.pid)
            with self.health.marked():
                async with trio.open_nursery() as nursery:
                    for number, one in enumerate(callers):
                        nursery.start_soon(search, number, one)
            seconds, most = round(time.monotonic() - began, 2), peak.mb()
            waited = round(kept_waiting(daemon.process.pid) - waited, 2)
        database = (daemon.folder / "data" / "greenroom.db").stat().st_size
        what = f"the incident ({SESSIONS} sessions, {live} tool servers, {database / MB:.0f} MB of history)"
        say(f"{what}: {seconds} s, {most} MB; {next(iter(calls.values())).output[-250:]!r}")
        note, hold = self.findings.note, self.findings.hold
        self.peak("incident", most, what)
        hold("incident_servers", live, live == SERVERS, "", "tool servers at work")
        shown = max(len(call.output.encode()) for call in calls.values())
        good = shown <= RESULT_BYTES and all(call.state == "completed" for call in calls.values())
        hold("incident_shown_bytes", shown, good, "bytes", f"{what}: the largest result ≤ {RESULT_BYTES}")
        largest = max(call.request_bytes for call in calls.values())
        hold(
            "incident_request_bytes", largest, largest <= REQUEST_BYTES, "bytes", f"a model's request ≤ {REQUEST_BYTES}"
        )
        note("incident_waited_s", waited, "s", f"{what}: the daemon's loop had no core")
        note("incident_s", seconds, "s", f"{what}: {2 * SESSIONS} searches of {self.size.filler + FILES:,} files")


def read_plainly(command: list[str]) -> float:
    """Seconds for reading all that the program writes, and nothing else."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), 65536):
            pass
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("mcp", "shell", "files", "incident")
    parser.add_argument("--only", help=f"some of {', '.join(names)}", default=",".join(names))
    parser.add_argument("--shell-gb", type=float, help="output of the shell, default 1; 0.1 with --quick")
    parser.add_argument("--official", type=float, default=150.0, help="seconds for each of its calls; 0: none")
    parser.add_argument("--quick", action="store_true", help="less of everything; times are told and not judged")
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    asked = parser.parse_args()
    size = Size(
        results=(MB,) if asked.quick else (MB, 10 * MB, 100 * MB),
        official=asked.official,
        calls=QUICK_CALLS if asked.quick else ALL_CALLS,
        officials=QUICK_CALLS[:1] if asked.quick else ALL_CALLS,
        rows=("read", "search", "fetch_html") if asked.quick else ("read", "read_end", "search", "fetch", "fetch_html"),
        shell=int((asked.shell_gb or (0.1 if asked.quick else 1)) * 1e9),
        file=(30 if asked.quick else 300) * MB,
        filler=500 if asked.quick else 8000,
        history=(20 if asked.quick else 500) * MB,
    )
    findings = Findings("tools", asked.quick)
    with findings.told(), model_server() as models, tempfile.TemporaryDirectory(prefix="bench-tools-") as folder:
        bench = Bench(models, findings, size, Path(folder))
        for name in asked.only.split(","):
            getattr(bench, name)()
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
