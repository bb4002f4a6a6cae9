"""A busy daemon in a process of its own: a thousand live sessions, two hundred runs of the demo model at a time.

Every session is watched over real sockets, so that each is an actor; `daemon.stats` has to show all of them under
their parents. A quarter of the runs is stopped in the middle by two clients at once. At the end a SIGTERM comes while
runs stream and requests are in flight.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Daemon, percentile
from _stress_instruments import Progress

from actors.client import Client, ConnectionLost, RemoteError, connect

CONNECTIONS = 8
REQUESTERS = 50
SESSIONS_PER_RUN = 5
# A run of the demo model: 6 seconds of 20 deltas a second. Long enough that all are active when stats are asked.
NUMBERS, PAUSE_MS = 120, 50
TEXT = "".join(f"{number} " for number in range(1, NUMBERS + 1))
PING_EVERY = 0.05
# The whole measurement; ten times what it takes.
PATIENCE = 300.0
# No model service is there: the demo model needs none.
NOWHERE = "http://127.0.0.1:9/v1"


@attrs.define
class _Run:
    """What its watcher saw of a run."""

    text: str = ""
    ends: list[str] = attrs.Factory(list)


class Busy:
    """The clients' side of the measurement."""

    def __init__(self, daemon: Daemon, clients: list[Client], figures: dict[str, Any], progress: Progress) -> None:
        self._daemon = daemon
        self._clients = clients
        self._figures = figures
        self._progress = progress
        self.failed: list[str] = []
        self.runs: dict[str, _Run] = {}
        self.sessions: list[str] = []
        self._ended = trio.Event()
        self._waited_for: set[str] = set()

    def _client(self, number: int) -> Client:
        return self._clients[number % len(self._clients)]

    def hold(self, name: str, good: bool, what: object) -> None:
        """A hard condition."""
        if not good:
            self.failed.append(f"{name}: {what}")

    async def timed(self, name: str, work: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
        """Do the work from REQUESTERS tasks; the results in order."""
        jobs = enumerate(work)
        results: dict[int, Any] = {}

        async def requester() -> None:
            for number, job in jobs:
                results[number] = await job()
                self._progress.show(f"daemon: {name} {len(results)}")

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(REQUESTERS):
                nursery.start_soon(requester)
        self._figures[f"{name}_s"] = round(time.perf_counter() - began, 3)
        return [results[number] for number in sorted(results)]

    # ------------------------------------------------------------ watching
    async def watch(
        self, number: int, session_id: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Note what happens in a session until its connection ends."""
        try:
            async with self._client(number).watch_session(session_id) as watch:
                task_status.started()
                async for push in watch:
                    if push.method == "run.events":
                        self._note(push.params["run_id"], push.events)
        except (ConnectionLost, RemoteError):
            pass

    def _note(self, run_id: str, events: list[dict[str, Any]]) -> None:
        run = self.runs.setdefault(run_id, _Run())
        for event in events:
            if event["type"] == "part.delta":
                run.text += event["text"]
            elif event["type"] == "run.finished":
                run.ends.append(event["status"])
                self._waited_for.discard(run_id)
                if not self._waited_for:
                    self._ended.set()

    async def wait_ended(self, run_ids: Iterable[str]) -> None:
        self._waited_for = {run_id for run_id in run_ids if run_id not in self.runs or not self.runs[run_id].ends}
        self._ended = trio.Event()
        if self._waited_for:
            await self._ended.wait()

    # ------------------------------------------------------------ requests
    def create(self, number: int, cwd: str) -> Callable[[], Awaitable[str]]:
        async def job() -> str:
            result = await self._client(number).request("session.create", {"model": "demo", "cwd": cwd})
            return str(result["session"]["id"])

        return job

    def start(self, number: int, session_id: str, text: str) -> Callable[[], Awaitable[tuple[str, str]]]:
        async def job() -> tuple[str, str]:
            result = await self._client(number).request("run.start", {"session_id": session_id, "text": text})
            return session_id, str(result["run"]["id"])

        return job

    def stop(self, number: int, run_id: str) -> Callable[[], Awaitable[list[str]]]:
        async def one(client: Client) -> None:
            result = await client.request("run.stop", {"run_id": run_id})
            statuses.append(str(result["run"]["status"]))

        statuses: list[str] = []

        async def job() -> list[str]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one, self._client(number))
                nursery.start_soon(one, self._client(number + 1))
            return statuses

        return job

    async def ping(self, client: Client, took: list[float]) -> None:
        """What another client feels of the loop's stalls."""
        while True:
            began = time.perf_counter()
            await client.request("ping")
            took.append((time.perf_counter() - began) * 1e3)
            await trio.sleep(PING_EVERY)

    async def keep_asking(self, number: int, session_id: str, ended: Counter[str]) -> None:
        """Requests without end; how the last one ended."""
        while True:
            try:
                await self._client(number).request("session.get", {"session_id": session_id})
                ended["answered"] += 1
            except RemoteError as exc:
                ended[exc.code or "refused"] += 1
            except ConnectionLost:
                ended["connection lost"] += 1
                return

    # ------------------------------------------------------------ what the daemon shows
    async def check_tree(self, name: str, sessions: list[str], runs: list[tuple[str, str]]) -> None:
        """Every connection, session, run and toolset is there, under its parent, and nothing else is."""
        began = time.perf_counter()
        stats = await self._clients[0].request("daemon.stats")
        self._figures[f"{name}_stats_ms"] = round((time.perf_counter() - began) * 1e3, 1)
        self._figures[f"{name}_lag_p99_ms"] = stats["loop"]["lag_p99_ms"]
        root = stats["actors"]["daemon"]
        shown = {
            key: set(root["children"].get(key, {}).get("children", {}))
            for key in ("store", "toolsets", "registry", "governor", "recorder", "gateway")
        }
        self.hold(f"{name}: parts", set(root["children"]) == set(shown), set(root["children"]))
        self.hold(f"{name}: toolsets", shown["toolsets"] == {"files", "shell", "web", "todo"}, shown["toolsets"])
        connections = len(shown["gateway"])
        self.hold(f"{name}: connections", connections == len(self._clients), connections)
        self.hold(f"{name}: sessions", shown["registry"] == set(sessions), len(shown["registry"]))
        live = {
            (session_id, run_id)
            for session_id, node in root["children"]["registry"].get("children", {}).items()
            for run_id in node.get("children", {})
        }
        self.hold(f"{name}: runs", live == set(runs), f"{len(live)} shown, {len(runs)} active")
        cut = [key for key, node in _walk("daemon", root) if "more" in node]
        self.hold(f"{name}: whole tree", not cut, cut)
        self._figures[f"{name}_actors"] = sum(1 for _ in _walk("daemon", root))


def _walk(name: str, node: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    yield name, node
    for below, child in node.get("children", {}).items():
        yield from _walk(below, child)


async def daemon(sessions: int, progress: Progress) -> dict[str, Any]:
    """`sessions` live ones, a fifth as many runs at a time."""
    figures: dict[str, Any] = {"sessions": sessions, "runs": sessions // SESSIONS_PER_RUN}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = folder / "work"
        work.mkdir()
        (work / "note.txt").write_text("a needle in the hay\n" * 3)
        process = Daemon(NOWHERE, folder, {"drain_timeout": "2s"})
        try:
            with trio.move_on_after(PATIENCE) as scope:
                await _drive(process, sessions, str(work), figures, failed, progress)
            if scope.cancelled_caught:
                failed.append(f"hang: not done in {PATIENCE:g} s")
            failed += [f"log: {line}" for line in process.errors()]
        finally:
            process.process.kill()
            process.process.wait()
    figures["failed_conditions"] = failed
    return figures


async def _drive(
    process: Daemon, count: int, cwd: str, figures: dict[str, Any], failed: list[str], progress: Progress
) -> None:
    token = process.headers["Authorization"].removeprefix("Bearer ")
    async with trio.open_nursery() as nursery:
        clients = [await nursery.start(_connected, process.url, token) for _ in range(CONNECTIONS)]
        busy = Busy(process, clients, figures, progress)
        try:
            await _live(process, busy, count, cwd, figures, progress)
            await _end(process, busy, figures, progress)
        finally:
            failed += busy.failed
            nursery.cancel_scope.cancel()


async def _connected(url: str, token: str, task_status: trio.TaskStatus[Client] = trio.TASK_STATUS_IGNORED) -> None:
    async with connect(url, token=token) as client:
        task_status.started(client)
        await trio.sleep_forever()


async def _live(process: Daemon, busy: Busy, count: int, cwd: str, figures: dict[str, Any], progress: Progress) -> None:
    sessions = await busy.timed("create", (busy.create(number, cwd) for number in range(count)))
    before = process.resident()
    took: list[float] = []
    async with trio.open_nursery() as watchers:
        progress.show("daemon: watches", now=True)
        for number, session_id in enumerate(sessions):
            await watchers.start(busy.watch, number, session_id)
        figures["resident_bytes_each"] = round((process.resident() - before) / count)
        await busy.check_tree("idle", sessions, [])

        watchers.start_soon(busy.ping, busy._clients[-1], took)
        text = f"count to {NUMBERS} every {PAUSE_MS} ms"
        chosen = sessions[::SESSIONS_PER_RUN]
        cpu = process.cpu()
        runs = await busy.timed("start_runs", (busy.start(n, session_id, text) for n, session_id in enumerate(chosen)))
        await busy.check_tree("busy", sessions, runs)
        figures["busy_resident_mb"] = round(process.resident() / 1e6, 1)
        stopped = runs[::4]
        statuses = await busy.timed("stop_runs", (busy.stop(n, run_id) for n, (_, run_id) in enumerate(stopped)))
        wrong = Counter(itertools.chain(*statuses))
        busy.hold("stopped runs", wrong == {"cancelled": 2 * len(stopped)}, dict(wrong))
        # Real tool calls meanwhile, in sessions that have no run.
        others = sessions[1::SESSIONS_PER_RUN][: len(chosen) // 5]
        search = "search this folder for needle"
        searches = await busy.timed("start_searches", (busy.start(n, each, search) for n, each in enumerate(others)))
        progress.show("daemon: waiting for the runs' ends", now=True)
        await busy.wait_ended(run_id for _, run_id in (*runs, *searches))
        figures["busy_cpu_s"] = round(process.cpu() - cpu, 2)
        _check_runs(busy, [run_id for _, run_id in runs], {run_id for _, run_id in stopped}, searches)
        await busy.check_tree("after", sessions, [])
        watchers.cancel_scope.cancel()
    figures["ping_p50_ms"] = round(percentile(took, 0.5), 2)
    figures["ping_p99_ms"] = round(percentile(took, 0.99), 2)
    figures["ping_max_ms"] = round(max(took), 2)
    busy.sessions = sessions


def _check_runs(busy: Busy, runs: list[str], stopped: set[str], searches: list[tuple[str, str]]) -> None:
    for run_id in runs:
        run, expected = busy.runs[run_id], "cancelled" if run_id in stopped else "completed"
        busy.hold(f"end of {run_id}", run.ends == [expected], run.ends)
        whole = run.text == TEXT if expected == "completed" else TEXT.startswith(run.text)
        busy.hold(f"text of {run_id}", whole, run.text[-40:])
    for _, run_id in searches:
        run = busy.runs[run_id]
        busy.hold(f"search {run_id}", run.ends == ["completed"] and "needle" in run.text, run)


async def _end(process: Daemon, busy: Busy, figures: dict[str, Any], progress: Progress) -> None:
    """SIGTERM while runs stream and every connection asks without end."""
    ended: Counter[str] = Counter()
    text = "count to 100000 every 50 ms"
    await busy.timed(
        "last_runs", (busy.start(n, each, text) for n, each in enumerate(busy.sessions[::SESSIONS_PER_RUN]))
    )
    async with trio.open_nursery() as askers:
        for number in range(REQUESTERS):
            askers.start_soon(busy.keep_asking, number, busy.sessions[number], ended)
        await trio.sleep(0.5)
        progress.show("daemon: SIGTERM", now=True)
        began = time.perf_counter()
        code = await trio.to_thread.run_sync(process.stop)
        figures["shutdown_s"] = round(time.perf_counter() - began, 3)
    busy.hold("exit code", code == 0, code)
    busy.hold("requests at the end", ended["connection lost"] == REQUESTERS, dict(ended))
    figures["requests_until_the_end"] = ended.total()
