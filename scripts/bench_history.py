"""What a long history costs: nothing. The same daemon and the same steps on sessions of 100 to 200,000 messages.

    python scripts/bench_history.py [--messages N …] [--data DIR] [--quick] [--json]

The histories are made by scripts/make_history.py, once if --data names a folder to keep them in (200,000 messages are
700 MB and some minutes). Each database has a session of 100 messages beside the long one, which ends alike: what
differs is the length alone. Measured for each length, on a copy, the model service and the daemon as processes of
their own:

- ready after, and resident memory when ready, beside a daemon without any history
- the newest page of 50 messages over the socket
- steps, each a run of one turn with all that it stores: long and short session by turns in the same daemon, wall time,
  CPU of the daemon, and resident memory by the step
- full collections in the daemon while it works: the pause, and the containers that the collector tracks
- the set-up of a step in this process: the window read, decoded and encoded as a request after each new message, with
  the rows kept and without; and what decoding a message and reading a field take
- `/healthz` all the while
- beside it the naive way: read all, build all (JSON to dicts) for each step, in a process of its own

Hard conditions are those of class A and N; times are not judged with --quick. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Client, Daemon, Findings, kept_waiting, model_server, percentile, resident, say, slope
from make_history import make, session_id

from actors.daemon import GC_THRESHOLDS
from engine.limits import DEFAULT, MIB
from engine.providers import openai_request
from engine.providers.base import ModelRequest
from engine.storage import applying, database, reading, window
from engine.storage.changes import AddMessage, AddPart
from engine.transcript.cache import RowCache
from engine.transcript.records import AssistantMessage, TextPart, UserMessage

SHORT = 100  # messages of the session that all are compared with
LENGTHS = (SHORT, 5_000, 50_000, 200_000)
LIMIT = 3600.0  # seconds for everything of one length; what takes longer hangs
# Ended runs are kept for a moment only: their logs are not what is measured.
LIMITS = {"terminal_retention": "1s", "terminal_retained_max": 8}
# A step adds two messages of 1 KB each, so that the window has as many messages as those of the seed.
PROMPT = f"!stream n=20 batch=4 text={'word-' * 10} pad={'x' * 900}"
BLOCK = 10  # steps on one session before the other has its turn
WARM_UP = 40  # steps before memory is looked at: SQLite's caches fill
PAGE = 50
PROBE = 0.05  # seconds between two looks at /healthz
# Class A and N.
READY_MB, READY_S, PAGE_MS, STEP_RATIO, SLOPE_KIB, GC_MS, HEALTH_MS = 16.0, 1.0, 20.0, 1.10, 1.0, 5.0, 20.0
SETUP_MS = 2.0  # aim
# What the pause of a full collection and the set-up of a step come from, which no busy machine changes.
TRACKED, HITS = 10_000, 85.0
# Of a message of 1 KB, decoded and as it stands in requests, and a fifth of a window that is being replaced.
KEPT_KIB = 6.0
# Resident memory goes up and down by so much whatever is done: of few steps that is no slope.
NOISE_KIB = 2048
# Few steps of a busy machine are compared with less precision. What grows with the history takes twenty times as long.
QUICK_RATIO = 3.0
WINDOW_BYTES = 98_304  # of a model whose window is not configured
NAIVE_MAX = 50_000  # messages: beyond it the naive way takes a quarter of a minute a step, and gigabytes


@attrs.frozen
class Size:
    steps: int  # on each of the two sessions
    starts: int
    pages: int
    setups: int
    naive: int  # messages at most
    window: int = 0  # messages of the daemon's windows, so few that few steps replace all of them; 0: as usual


# ------------------------------------------------------------ through the daemon
async def step(client: Client, session: str) -> None:
    await client.request("run.start", session_id=session, text=PROMPT, watch=True)
    while (push := await client.push())["method"] != "watch.closed":
        pass
    assert push["params"]["status"] == "completed", push


@asynccontextmanager
async def probed(daemon: Daemon, into: list[float]) -> AsyncIterator[None]:
    """/healthz is asked again and again meanwhile, over one connection; ms of each answer."""

    async def ask() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream:
            while True:
                began = time.perf_counter()
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                answer = await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 200"), answer
                into.append((time.perf_counter() - began) * 1000)
                await trio.sleep(PROBE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        yield
        nursery.cancel_scope.cancel()


class Collections:
    """Full collections in the daemon, at its signal."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "measures"
        os.environ["MEASURES"] = str(self.path)
        self._asked = 0

    async def one(self, daemon: Daemon) -> dict[str, Any]:
        self._asked += 1
        daemon.process.send_signal(signal.SIGUSR1)
        with trio.fail_after(30):
            # Another process writes it: there is nothing to wait for but the file.
            while not self.path.exists() or self.path.read_text().count("\n") < self._asked:  # noqa: ASYNC110
                await trio.sleep(0.02)
        found: dict[str, Any] = json.loads(self.path.read_text().splitlines()[self._asked - 1])
        return found


def started(base_url: str, folder: Path, size: Size) -> tuple[Daemon, float, float]:
    """A daemon on the data in this folder, the least seconds until ready and MB when ready of some starts."""
    limits = LIMITS | ({"window_messages": size.window} if size.window else {})
    ready, idle = [], []
    for number in range(size.starts):
        daemon = Daemon(base_url, folder, limits, program=("scripts/_measured.py",))
        ready.append(daemon.ready_seconds)
        idle.append(daemon.idle["rss"])
        if number < size.starts - 1:
            daemon.stop()
    return daemon, min(ready), min(idle)


async def work(daemon: Daemon, folder: Path, length: int, size: Size, found: dict[str, Any]) -> None:
    """Pages, steps and collections of one daemon, into `found`."""
    sessions = [session_id(length)] + ([session_id(SHORT)] if length != SHORT else [])
    collections = Collections(folder)
    wall: dict[str, list[float]] = {name: [] for name in sessions}
    cpu: dict[str, float] = dict.fromkeys(sessions, 0.0)
    memory: list[tuple[float, float]] = []
    gcs: list[dict[str, Any]] = []
    health: list[float] = []
    waited, working = kept_waiting(daemon.process.pid), time.monotonic()
    async with daemon.connect() as client, probed(daemon, health):
        pages = []
        for _ in range(size.pages):
            began = time.perf_counter()
            page = await client.request("session.messages", session_id=sessions[0], limit=PAGE)
            pages.append((time.perf_counter() - began) * 1000)
        assert len(page["messages"]) == PAGE, len(page["messages"])
        for name in sessions:  # the first step brings in the HTTP client
            for _ in range(WARM_UP // len(sessions)):
                await step(client, name)
        done = 0
        for number in range(0, size.steps, BLOCK):
            # By turns, and each as often first: what drifts meanwhile strikes both alike.
            for name in sessions if number // BLOCK % 2 else reversed(sessions):
                before = daemon.cpu()
                for _ in range(min(BLOCK, size.steps - number)):
                    began = time.perf_counter()
                    await step(client, name)
                    wall[name].append((time.perf_counter() - began) * 1000)
                    done += 1
                cpu[name] += daemon.cpu() - before
            memory.append((done, daemon.resident() / 1024))
            if number % (10 * BLOCK) == 0:
                gcs.append(await collections.one(daemon))
        gcs.append(await collections.one(daemon))
        stats = await client.request("daemon.stats")
    waited = (kept_waiting(daemon.process.pid) - waited) / (time.monotonic() - working)
    own = [each["own"] for each in gcs[1:]]  # before the first is the start
    found |= {
        "page_first_ms": round(pages[0], 1),
        "page_ms": round(statistics.median(pages), 1),
        "steps": size.steps,
        "step_p50_ms": round(statistics.median(wall[sessions[0]]), 2),
        "step_cpu_ms": round(cpu[sessions[0]] / size.steps * 1000, 2),
        # The window has its full number of messages, and SQLite's caches are full, after the first third.
        "slope_kib": round(slope([point for point in memory if point[0] >= done / 3]), 3),
        "gc_ms": round(statistics.median(each["ms"] for each in gcs), 2),
        "gc_most_ms": round(max(each["ms"] for each in gcs), 2),
        "gc_own_percent": round(sum(total for each in own for _, total, _ in each) / 10 / sum(cpu.values()), 2),
        "gc_own_most_ms": round(max(most for each in own for _, _, most in each), 2),
        "gc_own_counts": [sum(each[generation][0] for each in own) for generation in range(3)],
        "tracked": gcs[-1]["tracked"],
        "frozen": gcs[-1]["frozen"],
        "waited_percent": round(100 * waited, 1),
        "health_p99_ms": round(percentile(health, 0.99), 1),
        "rows": {name: count for name, count in stats["counts"].items() if name.startswith("decoded")},
        "rows_kib": round(stats["memory"]["owned"]["rows"] / 1024),
        "requests_kib": round(stats["memory"]["owned"]["requests"] / 1024),
    }
    if length != SHORT:
        short = sessions[1]
        found["step_ratio"] = round(statistics.median(wall[sessions[0]]) / statistics.median(wall[short]), 3)
        found["step_cpu_ratio"] = round(cpu[sessions[0]] / cpu[short], 3)


# ------------------------------------------------------------ in this process
def setups(path: Path, name: str, count: int) -> dict[str, Any]:
    """Of the set-up of a step, which follows a new message of the user and one of the model; in ms."""
    writer, reader = database.open_writer(path, "normal"), database.open_reader(path)
    cache = RowCache(DEFAULT.row_cache_bytes)
    times: dict[str, list[float]] = {"kept": [], "read": [], "encode": []}
    gc.collect()
    gc.freeze()  # as in the daemon
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        for number in range(count):
            for info in (
                UserMessage(id=f"msg_new_{name}_{number}_u", created_at=number),
                AssistantMessage(id=f"msg_new_{name}_{number}_a", created_at=number, finished_at=number, finish="stop"),
            ):
                part = TextPart(id=f"prt_{info.id}", text="a line of text " * 100)
                applying.apply(writer, name, [AddMessage(info), AddPart(info.id, part)], number)
            for how, rows in (("kept", cache), ("read", None)) if number % 4 == 0 else (("kept", cache),):
                began = time.perf_counter()
                found = window.read(reader, name, DEFAULT.window_messages, WINDOW_BYTES, cache=rows)
                times[how].append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            request = ModelRequest(model="m", instructions=None, messages=messages_of(found), tools=())
            sum(map(len, openai_request.encode_request(request)))
            times["encode"].append((time.perf_counter() - began) * 1000)
        figures = cache.statistics()
        return {
            "window_messages": len(messages_of(found)),
            "setup_p50_ms": round(statistics.median(times["kept"][1:]), 3),
            "setup_p99_ms": round(percentile(times["kept"][1:], 0.99), 3),
            "setup_without_cache_p50_ms": round(statistics.median(times["read"]), 3),
            "encode_p50_ms": round(statistics.median(times["encode"][1:]), 3),
            "cache_hits_percent": round(100 * figures.hits / (figures.hits + figures.misses), 1),
        }
    finally:
        reader.close()
        database.close_writer(writer)


def messages_of(found: Any) -> Any:
    return getattr(found, "messages", found)


def decoding(path: Path, name: str) -> dict[str, Any]:
    """What a message takes to be decoded whole, and a field to be read."""
    reader = database.open_reader(path)
    try:
        messages = messages_of(window.read(reader, name, SHORT, 10 * MIB))
        count = len(messages)
        rounds = [
            timeit.timeit(lambda: window.read(reader, name, count, 10 * MIB), number=1) / count * 1e6 for _ in range(9)
        ]
        page = [timeit.timeit(lambda: reading.messages(reader, name, PAGE, None), number=1) * 1000 for _ in range(9)]
        record = messages[-1].info
        plain = {"id": record.id}
        number = 200_000
        return {
            "decode_us": round(statistics.median(rounds), 1),
            "page_in_process_ms": round(statistics.median(page), 2),
            "attribute_ns": round(timeit.timeit(lambda: record.id, number=number) / number * 1e9, 1),
            "key_ns": round(timeit.timeit(lambda: plain["id"], number=number) / number * 1e9, 1),
        }
    finally:
        reader.close()


# ------------------------------------------------------------ the naive way
def naive(path: Path, name: str) -> dict[str, Any]:
    """Read all, build all: what a step does without a window. Keeps what it built, as such programs do."""
    connection = sqlite3.connect(path)
    gc.collect()
    gc.freeze()
    before = resident()
    began = time.perf_counter()
    (session,) = connection.execute("SELECT key FROM sessions WHERE id = ?", (name,)).fetchone()
    parts: dict[int, list[Any]] = {}
    for message, part, kind, body, *long in connection.execute(
        "SELECT parts.message, parts.id, kind, parts.body, text, input, error FROM parts JOIN messages"
        " ON messages.key = parts.message WHERE session = ? ORDER BY messages.position, parts.position",
        (session,),
    ):
        strings = {key: value.decode() for key, value in zip(("text", "input", "error"), long, strict=True) if value}
        parts.setdefault(message, []).append({"id": part, "kind": kind, **json.loads(body), **strings})
    history = [
        {"id": message_id, "role": role, **json.loads(body), "parts": parts.pop(key, [])}
        for key, message_id, role, body in connection.execute(
            "SELECT key, id, role, body FROM messages WHERE session = ? ORDER BY position", (session,)
        )
    ]
    took = time.perf_counter() - began
    pauses = []
    for _ in range(3):
        began = time.perf_counter()
        gc.collect()
        pauses.append((time.perf_counter() - began) * 1000)
    return {
        "step_ms": round(took * 1000, 1),
        "memory_mb": round((resident() - before) / 1e6, 1),
        "gc_ms": round(min(pauses), 1),
        "tracked": len(gc.get_objects()),
        "messages": len(history),
    }


def in_process(path: Path, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--naive", str(path), name]
    out = subprocess.run(command, check=True, capture_output=True, timeout=LIMIT).stdout
    found: dict[str, Any] = json.loads(out)
    return found


# ------------------------------------------------------------
async def measure(base_url: str, made: Path, length: int, size: Size, empty: tuple[float, float]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-history-") as folder:
        root = Path(folder)
        shutil.copytree(made, root / "data")
        path = root / "data" / database.FILE_NAME
        name = session_id(length)
        Collections(root)
        daemon, found["ready_s"], found["ready_mb"] = started(base_url, root, size)
        found["ready_more_mb"] = round(found["ready_mb"] - empty[1], 1)
        try:
            with trio.fail_after(LIMIT):
                await work(daemon, root, length, size, found)
            errors = daemon.errors()
            assert not errors, errors[:3]
        finally:
            daemon.stop()
        found |= decoding(made / database.FILE_NAME, name)
        if length <= size.naive:
            found["naive"] = in_process(made / database.FILE_NAME, name)
        found |= setups(path, name, size.setups)
    return found


def judge(findings: Findings, length: int, found: dict[str, Any], size: Size) -> None:
    def key(name: str) -> str:
        return f"{name}_{length}"

    def what(text: str) -> str:
        return f"{length:,} messages: {text}"

    findings.hold(
        key("ready_more_mb"), found["ready_more_mb"], found["ready_more_mb"] <= READY_MB, "MB",
        what(f"resident when ready, more than an empty daemon, ≤ {READY_MB:g}"),
    )  # fmt: skip
    findings.aim(key("ready_s"), found["ready_s"], READY_S, "s", what("ready after"))
    findings.aim(key("page_ms"), found["page_ms"], PAGE_MS, "ms", what(f"the newest page of {PAGE}"))
    findings.note(key("page_first_ms"), found["page_first_ms"], "ms", what("the first of them"))
    bound = SLOPE_KIB + NOISE_KIB / max(found["steps"], 1) if found["steps"] < 1000 else SLOPE_KIB
    findings.hold(
        key("slope_kib"), found["slope_kib"], found["slope_kib"] < bound, "KiB", what(f"memory a step < {bound:.1f}")
    )
    if size.window:  # what is kept of messages is kept of windows
        sessions = 1 if length == SHORT else 2
        most = sessions * size.window * KEPT_KIB
        kept = found["rows_kib"] + found["requests_kib"]
        findings.hold(key("kept_kib"), kept, kept <= most, "KiB", what(f"kept of messages ≤ {most:g}"))
    findings.aim(key("gc_ms"), found["gc_ms"], GC_MS, "ms", what("full collection"))
    findings.hold(
        key("tracked"), found["tracked"], found["tracked"] <= TRACKED, f"(and {found['frozen']} frozen)",
        what(f"containers that the collector looks at, ≤ {TRACKED:,}"),
    )  # fmt: skip
    findings.aim(key("setup_p50_ms"), found["setup_p50_ms"], SETUP_MS, "ms", what("set-up of a step, p50"))
    findings.note(
        key("gc_own_percent"), found["gc_own_percent"],
        f"% of CPU, the longest pause {found['gc_own_most_ms']} ms, collections {found['gc_own_counts']}",
        what("collections that came by themselves"),
    )  # fmt: skip
    hits = found["cache_hits_percent"]
    findings.hold(key("cache_hits_percent"), hits, hits >= HITS, "%", what(f"messages found decoded, ≥ {HITS:g}"))
    findings.note(key("setup_p99_ms"), found["setup_p99_ms"], "ms", what("set-up of a step, p99"))
    if "step_ratio" in found:
        most = QUICK_RATIO if size.window else STEP_RATIO
        ratio = found["step_cpu_ratio"]
        findings.hold(
            key("step_cpu_ratio"), ratio, ratio <= most, "", what(f"CPU of a step by that of {SHORT}, ≤ {most:g}")
        )
        findings.aim(key("step_ratio"), found["step_ratio"], STEP_RATIO, "", what(f"a step by that of {SHORT}"))
    findings.note(key("step_p50_ms"), found["step_p50_ms"], f"ms, CPU {found['step_cpu_ms']} ms", what("a step"))
    findings.aim(key("health_p99_ms"), found["health_p99_ms"], HEALTH_MS, "ms", what("/healthz p99"))
    findings.note(key("waited_percent"), found["waited_percent"], "%", what("of the time the daemon had no core"))
    findings.note(
        key("decode_us"), found["decode_us"], f"µs; a field {found['attribute_ns']} ns, of a dict {found['key_ns']} ns",
        what("decoding a message"),
    )  # fmt: skip
    if "naive" in found:
        way = found["naive"]
        findings.note(
            key("naive_step_ms"), way["step_ms"],
            f"ms, {way['memory_mb']} MB, collection {way['gc_ms']} ms, {way['tracked']:,} tracked",
            what("the naive way: a step"),
        )  # fmt: skip
    findings.figures[f"all_{length}"] = found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=None, help=f"default {LENGTHS}")
    parser.add_argument("--data", type=Path, default=None, help="folder in which the histories are kept")
    parser.add_argument("--steps", type=int, default=None, help="on each session; default 1,000")
    parser.add_argument("--quick", action="store_true", help="100 and 2,000 messages, few steps, times not judged")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--naive", nargs=2, metavar=("FILE", "SESSION"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.naive:
        print(json.dumps(naive(Path(asked.naive[0]), asked.naive[1])))
        return 0
    lengths = asked.messages or ((SHORT, 2_000) if asked.quick else LENGTHS)
    if asked.quick:
        size = Size(steps=asked.steps or 40, starts=1, pages=10, setups=60, naive=NAIVE_MAX, window=30)
    else:
        size = Size(steps=asked.steps or 1000, starts=3, pages=50, setups=400, naive=NAIVE_MAX)
    findings = Findings("history", asked.quick)
    with tempfile.TemporaryDirectory(prefix="bench-history-") as folder, findings.told(), model_server() as service:
        kept = asked.data or Path(folder)
        empty_folder = Path(folder) / "empty"
        empty_folder.mkdir()
        Collections(empty_folder)
        daemon, *empty = started(service.url, empty_folder, size)
        daemon.stop()
        findings.note("empty_ready_s", empty[0], "s", "without a history, ready after")
        findings.note("empty_ready_mb", empty[1], "MB", "without a history, resident when ready")
        for length in lengths:
            made = kept / f"history-{length}"
            for messages in {SHORT, length}:
                make(made, messages, say)
            say(f"{length:,} messages")
            found = trio.run(measure, service.url, made, length, size, (empty[0], empty[1]))
            judge(findings, length, found, size)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
