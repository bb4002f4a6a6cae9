"""A daemon under load is killed at random moments: whatever it acknowledged has to be there after the next start.

    python scripts/stress_crash.py [--kills N] [--quick] [--seed S] [--json]

Each cycle: clients start runs, stop and interrupt them, call tools, create, update and delete sessions, repeat
requests; SIGKILL at a random moment; SQLite's check of a copy of the files; a new start (now and then killed too,
while it starts); then what the clients were shown is held against what the daemon says, through the wire alone:

- nothing acknowledged is missing or different; of text shown in deltas what is kept is a beginning
- no run is open, each lost one is `interrupted` once and for all, its seq is above everything shown
- the history is valid, a repeated request makes nothing twice, the next run in each session works

Sessions are left for new ones after a while, and checked again before their directory is. At the end the start is
timed with many ended runs and with none. Progress on standard error; the last line is JSON; exit code 1 if anything
is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.storage import checking, database  # noqa: E402 - found by the line above
from tests.e2e.wire import DaemonProcess, Wire, WireError, connect  # noqa: E402
from tests.stress.shown import Json, ShownRun, ShownSession, numbers  # noqa: E402

SLOTS = 12  # clients, each with a session of its own
LOAD_SECONDS = (0.03, 0.7)  # between the load's begin and the kill
START_KILLS = 0.2  # of the starts are killed too
SESSION_KILLS = 6  # kills that a session is used over, at most
DIRECTORY_KILLS = 50  # kills of one directory: what is checked at its end is bounded
CYCLE_LIMIT = 60.0  # seconds; a cycle that takes longer hangs
# Text that may be shown and not yet committed: `chunk_bytes` that wait and as much in flight, and a frame's more.
LOSS_MAX = 16 * 1024
# The start's timing: ended runs that are added, and the CPU time that they may cost at most. A start takes some 600 ms
# of it, on a busy machine a quarter more or less; to read so many runs takes several times this. That none is looked at
# is counted in SQLite's instructions in tests/engine/storage/test_database.py.
ENDED_RUNS = 100_000
ENDED_RUNS_MS = 250.0
KILLS, KILLS_QUICK = 200, 25
SEED_QUICK = 1  # what is run for every commit does the same each time
GONE = (ConnectionError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define
class Totals:
    kills: int = 0
    start_kills: int = 0
    sessions: int = 0
    deleted: int = 0
    acknowledged: int = 0
    statuses: dict[str, int] = attrs.field(factory=dict)
    repeated: int = 0  # requests without a reply, sent again after the restart
    lost_characters: int = 0  # most of one run, shown in deltas only
    gaps: int = 0
    ready_ms: list[float] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)

    def problem(self, text: str) -> None:
        self.problems.append(f"after kill {self.kills}: {text}")
        print(f"  PROBLEM {self.problems[-1]}", file=sys.stderr, flush=True)

    def add(self, session: ShownSession) -> None:
        """A session that is not used any more."""
        self.sessions += 1
        self.deleted += session.deletion == "done"
        self.acknowledged += session.acknowledged
        for run in session.runs.values():
            self.acknowledged += run.acknowledged
            self.gaps += run.gaps
            self.lost_characters = max(self.lost_characters, run.lost)
            status = run.record["status"] if run.record is not None else "deleted"
            self.statuses[status] = self.statuses.get(status, 0) + 1


@attrs.define
class Slot:
    """A client and the session it uses."""

    number: int
    session: ShownSession | None = None
    kills: int = 0


def only_gone(error: BaseException) -> bool:
    """Whether this is how the daemon's end is seen: of the socket, or of trio-websocket in the middle of something."""
    return isinstance(error, GONE) or type(error).__module__.startswith("trio_websocket")


# ------------------------------------------------------------ load
class Load:
    """What one client does until the daemon is killed. Everything that it is shown goes to its session's record."""

    def __init__(self, slot: Slot, totals: Totals, folder: Path, files: Path, rng: random.Random) -> None:
        self.slot, self.totals, self.folder, self.files, self.rng = slot, totals, folder, files, rng
        self.news = trio.Condition()
        self.following = 0  # watches whose pushes are being taken
        self.gone = False  # the daemon is

    async def run(self, leaving: list[ShownSession]) -> None:
        try:
            async with connect(self.folder) as wire, trio.open_nursery() as nursery:
                await self.use(wire, nursery, leaving)
                # What arrived before the end was shown, too.
                async with self.news:
                    while self.following:
                        await self.news.wait()
        except BaseExceptionGroup as group:
            if (rest := group.split(only_gone)[1]) is not None:
                raise rest from None
        except Exception as exc:
            if not only_gone(exc):
                raise

    async def use(self, wire: Wire, nursery: trio.Nursery, leaving: list[ShownSession]) -> None:
        """Until the daemon is gone."""
        try:
            while True:
                session = self.slot.session or await self.create(wire)
                await self.act(wire, nursery, session)
                if session.deletion == "done":
                    leaving.append(session)
                    self.slot.session = None
        except WireError as exc:
            self.totals.problem(f"{self.slot.session}: refused: {exc}")
        except ConnectionError:
            pass

    async def create(self, wire: Wire) -> ShownSession:
        asked = {"title": self.word(), "metadata": {"n": 0}, "cwd": str(self.files), "idempotency_key": self.word()}
        reply, again = await self.both(partial(wire.request, "session.create", **asked), self.rng.random() < 0.3)
        if again is not None and again["session"]["id"] != reply["session"]["id"]:
            self.totals.problem(f"session.create, sent twice with one key, made {again} and {reply}")
        session = ShownSession(id=reply["session"]["id"], faces=[(asked["title"], asked["metadata"])])
        self.slot.session, self.slot.kills = session, 0
        return session

    async def act(self, wire: Wire, nursery: trio.Nursery, session: ShownSession) -> None:
        kind = self.rng.random()
        if kind < 0.12:
            await self.update(wire, session)
        elif kind < 0.16 and session.runs:
            session.deletion = "asked"
            await wire.request("session.delete", session_id=session.id)
            session.deletion = "done"
        else:
            run = await self.start(wire, nursery, session, self.prompt())
            await self.accompany(wire, nursery, session, run)

    async def accompany(self, wire: Wire, nursery: trio.Nursery, session: ShownSession, run: ShownRun) -> None:
        """What happens while a run is active; returns when it has ended."""
        match self.rng.choice(["wait", "wait", "wait", "stop", "interrupt", "update", "repeat"]):
            case "stop":
                await self.seen(run, self.rng.randint(1, 60))
                run.replied((await wire.request("run.stop", run_id=run.id, reason="enough"))["run"])
            case "interrupt":
                await self.seen(run, self.rng.randint(1, 60))
                run = await self.start(wire, nursery, session, self.prompt(), when_busy="interrupt")
            case "update":
                await self.seen(run, self.rng.randint(1, 20))
                await self.update(wire, session)
            case "repeat":
                keyed = [one for one in session.runs.values() if one.key is not None]
                if keyed:
                    await repeat(wire, session, self.rng.choice(keyed))
        await self.seen(run, None)

    async def start(
        self, wire: Wire, nursery: trio.Nursery, session: ShownSession, text: str, **fields: Any
    ) -> ShownRun:
        asked = {"session_id": session.id, "text": text, "watch": True, **fields}
        if self.rng.random() < 0.7:
            asked["idempotency_key"] = self.word()
        session.asked = asked
        # Both on their way at once, with one key: one run.
        twice = "idempotency_key" in asked and "when_busy" not in asked and self.rng.random() < 0.3
        reply, again = await self.both(partial(wire.request, "run.start", **asked), twice)
        run = session.started(reply, asked)
        session.asked = None
        nursery.start_soon(self.follow, wire, reply["watch_id"], run)
        if again is not None:
            if session.started(again, asked) is not run:
                self.totals.problem(f"run.start, sent twice with one key, made {again['run']} and {reply['run']}")
            await refused(wire, "unknown_watch", "watch.close", watch_id=again["watch_id"])  # or it has ended already
        return run

    async def both(self, request: Any, twice: bool) -> tuple[Any, Any]:
        replies: list[Any] = [None, None]

        async def send(number: int) -> None:
            try:
                replies[number] = await request()
            except (ConnectionError, WireError) as exc:
                replies[number] = exc

        async with trio.open_nursery() as nursery:
            for number in range(1 + twice):
                nursery.start_soon(send, number)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies[0], replies[1]

    async def follow(self, wire: Wire, watch_id: str, run: ShownRun) -> None:
        """Take what is pushed until the watch is closed, or the daemon has gone and all that arrived is taken."""
        self.following += 1
        try:
            while (frame := await wire.push(watch_id))["method"] != "watch.closed":
                run.push(frame)
                async with self.news:
                    self.news.notify_all()
        except ConnectionError:
            self.gone = True
            return
        finally:
            self.following -= 1
            async with self.news:
                self.news.notify_all()
        if run.end is None:
            self.totals.problem(f"the watch of {run.id} was closed before the run's end: {frame['params']}")

    async def seen(self, run: ShownRun, seq: int | None) -> None:
        """Wait until the client has that event, or (None) the last one."""
        async with self.news:
            while run.end is None and (seq is None or run.seq < seq):
                if self.gone:
                    raise ConnectionError("the daemon was killed")
                await self.news.wait()

    async def update(self, wire: Wire, session: ShownSession) -> None:
        face = (self.word(), {"n": self.rng.randint(1, 1000)})
        session.faces.append(face)
        reply = (await wire.request("session.update", session_id=session.id, title=face[0], metadata=face[1]))[
            "session"
        ]
        session.faces = [face]
        session.revision = max(session.revision, reply["revision"])
        session.acknowledged += 1

    def prompt(self) -> str:
        match self.rng.choice(["slow", "slow", "fast", "long", "burst", "search", "read"]):
            case "slow":
                return f"count to {self.rng.randint(10, 100)} every {self.rng.randint(1, 20)} ms"
            case "fast":
                return f"count to {self.rng.randint(200, 1500)} every 1 ms"
            case "long":
                return "count to 100000 every 1 ms"
            case "burst":
                return f"count to {self.rng.randint(1, 3000)}"
            case "search":
                return "search this folder for word"
            case _:
                return f"read {self.rng.choice(['small.txt', 'large.txt', 'missing.txt'])}"

    def word(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"


async def repeat(wire: Wire, session: ShownSession, run: ShownRun) -> None:
    """Send a run's start again with its key: the answer is that run, whatever became of it."""
    asked = {"session_id": session.id, "text": run.text, "idempotency_key": run.key}
    known = len(session.runs)
    try:
        session.started(await wire.request("run.start", **asked), asked)
    except WireError as exc:
        # The key covers the whole request, `when_busy` too.
        if exc.code != "idempotency_conflict":
            raise
    if len(session.runs) != known:
        run.problems.append(f"{run.id}: its start, repeated, made {list(session.runs)[-1]}")


# ------------------------------------------------------------ checks
async def pages(wire: Wire, method: str, key: str, **params: Any) -> list[Json]:
    """All of a list, oldest first. Its pages come newest first; inside, messages are chronological and runs are not."""
    found: list[Json] = []
    cursor: Json = {}
    while True:
        page = await wire.request(method, limit=100, **params, **cursor)
        found = (page[key] if key == "messages" else page[key][::-1]) + found
        if "next_cursor" not in page:
            return found
        cursor = {"cursor": page["next_cursor"]}


async def refused(wire: Wire, code: str, method: str, **params: Any) -> bool:
    try:
        await wire.request(method, **params)
    except WireError as exc:
        return bool(exc.code == code)
    return False


async def check_session(wire: Wire, session: ShownSession, totals: Totals) -> None:
    """Hold what was shown of a session against what the daemon says now."""
    if session.deletion != "none":
        gone = await refused(wire, "unknown_session", "session.get", session_id=session.id)
        if gone:
            for run_id in session.runs:
                if not await refused(wire, "unknown_run", "run.get", run_id=run_id):
                    totals.problem(f"{run_id} is there without its session {session.id}")
            session.deletion = "done"
            return
        if session.deletion == "done":
            totals.problem(f"{session.id} is there after its deletion")
        session.deletion = "none"
    try:
        record = (await wire.request("session.get", session_id=session.id))["session"]
    except WireError as exc:
        totals.problem(f"{session.id} is lost: {exc}")
        session.deletion = "done"
        return
    runs = await pages(wire, "run.list", "runs", session_id=session.id)
    messages = await pages(wire, "session.messages", "messages", session_id=session.id)
    for problem in session.check(record, runs, messages):
        totals.problem(problem)
    for run in session.runs.values():
        if run.lost > LOSS_MAX:
            totals.problem(f"{run.id}: {run.lost} characters that were shown are not kept")


async def check_late_watch(wire: Wire, run: ShownRun, totals: Totals) -> None:
    """A reader comes back to a run that the crash interrupted: it is told of a gap, what is kept, and the end."""
    watch_id = (await wire.request("run.watch", run_id=run.id, after=run.seq))["watch_id"]
    frames = [await wire.push(watch_id)]
    while frames[-1]["method"] != "watch.closed":
        frames.append(await wire.push(watch_id))
    methods = [frame["method"] for frame in frames]
    if methods[0] != "run.gap" or "run.events" in methods or frames[-1]["params"].get("status") != "interrupted":
        totals.problem(f"{run.id}: a reader that comes back is told {frames}")


async def check_use(wire: Wire, session: ShownSession, totals: Totals) -> None:
    """After the crash the session works: what had no reply is sent again, and the next run is as it should be."""
    asked = session.asked
    if asked is not None and "idempotency_key" in asked:
        known = next((run for run in session.runs.values() if run.key == asked["idempotency_key"]), None)
        run = session.started(await wire.request("run.start", **asked), asked)
        if known not in (None, run):
            totals.problem(f"run.start, sent again with its key, made {run.id} beside {known}")
        totals.repeated += 1
        run.replied((await wire.request("run.stop", run_id=run.id))["run"])
    session.asked = None
    if keyed := [run for run in session.runs.values() if run.key is not None]:
        await repeat(wire, session, keyed[-1])
    asked = {"session_id": session.id, "text": "count to 3", "watch": True}
    reply = await wire.request("run.start", **asked)
    run = session.started(reply, asked)
    while (frame := await wire.push(reply["watch_id"]))["method"] != "watch.closed":
        run.push(frame)
    if (run.end or {}).get("status") != "completed" or list(run.texts.values()) != [numbers(3)]:
        totals.problem(f"{run.id}: the next run in {session.id} ended with {run.end} and said {run.texts}")


async def check_slot(folder: Path, slot: Slot, totals: Totals) -> None:
    session = slot.session
    if session is None:
        return
    async with connect(folder) as wire:
        await check_session(wire, session, totals)
        if session.deletion == "none":
            cut = [run for run in session.runs.values() if run.record and run.record["status"] == "interrupted"]
            if cut:
                await check_late_watch(wire, cut[-1], totals)
            await check_use(wire, session, totals)


def check_files(folder: Path) -> Iterator[str]:
    """The store's check of a copy of what the kill left (opening the original would repair it before the daemon)."""
    with tempfile.TemporaryDirectory(prefix="stress-crash-") as copy:
        for name in ("greenroom.db", "greenroom.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                (Path(copy) / name).write_bytes((folder / name).read_bytes())
        (Path(copy) / "blobs").symlink_to(folder / "blobs")
        with contextlib.closing(database.open_beside(Path(copy) / "greenroom.db")) as connection:
            for found in checking.check(connection, Path(copy), live=False, progress=lambda *_: None):
                if found.kind == "problem":
                    yield f"what is stored is wrong: {found.place}: {found.text}"


# ------------------------------------------------------------ cycles
class Stress:
    def __init__(self, root: Path, seed: int, kills: int, began: float) -> None:
        self.root, self.seed, self.kills, self.began = root, seed, kills, began
        self.rng = random.Random(seed)
        self.totals = Totals()
        self.files = root / "files"
        self.files.mkdir()
        (self.files / "small.txt").write_text("a word\n")
        (self.files / "large.txt").write_text("many a word in a line\n" * 2000)
        self.folder = root / "data-0"

    async def run(self) -> None:
        slots = [Slot(number) for number in range(SLOTS)]
        leaving: list[ShownSession] = []  # sessions that are not used any more, of this directory
        process = await self.start()
        try:
            for number in range(1, self.kills + 1):
                with trio.fail_after(CYCLE_LIMIT):
                    process = await self.cycle(process, slots, leaving)
                for slot in slots:
                    slot.kills += 1
                    session = slot.session
                    if session is None:
                        continue
                    if session.deletion == "done" or slot.kills >= self.rng.randint(2, SESSION_KILLS):
                        leaving.append(session)
                        slot.session = None
                if number % DIRECTORY_KILLS == 0 or number == self.kills:
                    leaving += [slot.session for slot in slots if slot.session is not None]
                    with trio.fail_after(CYCLE_LIMIT):
                        await self.leave(leaving)
                    await self.kill(process)
                    slots, leaving = [Slot(number) for number in range(SLOTS)], []
                    if number < self.kills:
                        self.folder = self.root / f"data-{number}"
                        process = await self.start()
                self.report(number)
        finally:
            if process.process.poll() is None:
                process.process.kill()
                await trio.to_thread.run_sync(process.wait)

    async def start(self) -> DaemonProcess:
        began = time.monotonic()
        process = await trio.to_thread.run_sync(partial(DaemonProcess, self.folder), abandon_on_cancel=True)
        self.totals.ready_ms.append((time.monotonic() - began) * 1000)
        return process

    async def kill(self, process: DaemonProcess) -> None:
        process.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(process.wait)

    async def cycle(self, process: DaemonProcess, slots: list[Slot], leaving: list[ShownSession]) -> DaemonProcess:
        """Load, kill, start, check. Returns the new daemon."""
        async with trio.open_nursery() as nursery:
            for slot in slots:
                rng = random.Random(f"{self.seed} {self.totals.kills} {slot.number}")
                nursery.start_soon(Load(slot, self.totals, self.folder, self.files, rng).run, leaving)
            await trio.sleep(self.rng.uniform(*LOAD_SECONDS))
            await self.kill(process)
            self.totals.kills += 1
        for problem in await trio.to_thread.run_sync(lambda: list(check_files(self.folder))):
            self.totals.problem(problem)
        if self.rng.random() < START_KILLS:
            await self.start_and_kill()
        process = await self.start()
        async with connect(self.folder) as wire:
            if still := (await wire.request("run.list", active=True))["runs"]:
                self.totals.problem(f"runs are open after a restart: {still}")
        async with trio.open_nursery() as nursery:
            for slot in slots:
                nursery.start_soon(check_slot, self.folder, slot, self.totals)
        return process

    async def start_and_kill(self) -> None:
        """A start that is killed before or about when it is ready."""
        seconds = self.rng.uniform(0, statistics.median(self.totals.ready_ms) / 1000)
        command = [sys.executable, "-m", "actors.cli", "serve", "--data", str(self.folder), "--listen", "127.0.0.1:0"]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await trio.sleep(seconds)
        process.kill()
        await process.wait()
        self.totals.start_kills += 1

    async def leave(self, leaving: list[ShownSession]) -> None:
        """The last look at what is not used any more."""
        async with connect(self.folder) as wire:
            for session in leaving:
                await check_session(wire, session, self.totals)
                self.totals.add(session)

    def report(self, number: int) -> None:
        if number % 10 == 0 or number == self.kills:
            seconds = time.monotonic() - self.began
            print(
                f"  {number} of {self.kills} kills, {seconds:.0f} s, {number / seconds * 60:.0f} a minute, "
                f"{len(self.totals.problems)} problems",
                file=sys.stderr,
                flush=True,
            )


# ------------------------------------------------------------ the start
def add_ended_runs(folder: Path, count: int) -> None:
    """Copies of one ended run. The one place that knows a table: making as many through the wire takes an hour."""
    with contextlib.closing(sqlite3.connect(folder / "greenroom.db")) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(runs)") if row[1] not in ("key", "id")]
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" INSERT INTO runs (id, {', '.join(names)}) SELECT 'run_copy' || i, {', '.join(names)}"
            " FROM n, (SELECT * FROM runs WHERE NOT open LIMIT 1)",
            (count,),
        )


def time_one(folder: Path) -> tuple[float, float]:
    """(ms until ready, ms of CPU until then) of a start."""
    began = time.monotonic()
    process = DaemonProcess(folder)
    wall = (time.monotonic() - began) * 1000
    cpu = time.clock_gettime((~process.pid << 3) | 2) * 1000
    process.signal(signal.SIGKILL)
    process.wait()
    return wall, cpu


def time_start(root: Path, folder: Path, count: int, rounds: int) -> Json:
    """The best of some starts, with ended runs and without in turn: whatever else the machine has to do is both's."""
    add_ended_runs(folder, count)
    found: dict[str, list[tuple[float, float]]] = {"empty": [], "full": []}
    for _ in range(rounds):
        found["empty"].append(time_one(root / "empty"))
        found["full"].append(time_one(folder))
    best = {name: [round(min(figures), 1) for figures in zip(*times, strict=True)] for name, times in found.items()}
    return {
        "ended_runs": count,
        "ready_ms": {name: wall for name, (wall, _) in best.items()},
        "cpu_ms": {name: cpu for name, (_, cpu) in best.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=None, help=f"default {KILLS}; {KILLS_QUICK} with --quick")
    parser.add_argument("--quick", action="store_true", help=f"{KILLS_QUICK} kills, the same seed each time")
    parser.add_argument("--seed", type=int, default=None, help="of what the clients do and when the kills come")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    asked = parser.parse_args()
    kills = asked.kills or (KILLS_QUICK if asked.quick else KILLS)
    by_chance = SEED_QUICK if asked.quick else random.SystemRandom().randrange(10**6)
    seed = asked.seed if asked.seed is not None else by_chance
    print(f"stress_crash: {kills} kills, seed {seed}", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stress-crash-") as name:
        stress = Stress(Path(name), seed, kills, began)
        trio.run(stress.run)
        totals = stress.totals
        rate = round(kills / (time.monotonic() - began) * 60, 1)
        start = time_start(Path(name), stress.folder, ENDED_RUNS, 2 if asked.quick else 5)
    if start["cpu_ms"]["full"] - start["cpu_ms"]["empty"] > ENDED_RUNS_MS:
        totals.problem(f"the start depends on the number of ended runs: {start}")
    ready = sorted(totals.ready_ms)
    result = {
        "stress": "crash",
        "quick": asked.quick,
        "seed": seed,
        "kills": totals.kills,
        "start_kills": totals.start_kills,
        "kills_per_minute": rate,
        "sessions": totals.sessions,
        "sessions_deleted": totals.deleted,
        "runs": totals.statuses,
        "acknowledged": totals.acknowledged,
        "repeated_requests": totals.repeated,
        "lost_delta_characters_max": totals.lost_characters,
        "gaps": totals.gaps,
        "ready_ms": {"median": round(statistics.median(ready), 1), "max": round(ready[-1], 1)},
        "start": start,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "seconds": round(time.monotonic() - began, 1),
        "problems": totals.problems[:20],
        "problem_count": len(totals.problems),
        "ok": not totals.problems,
    }
    if not asked.json:
        print(
            f"{totals.kills} kills under load and {totals.start_kills} in starts, {rate} a minute\n"
            f"{totals.acknowledged} acknowledged facts of {sum(totals.statuses.values())} runs in {totals.sessions} "
            f"sessions: {len(totals.problems)} problems\n"
            f"runs by their end: {totals.statuses}\n"
            f"text shown and not kept, at most: {totals.lost_characters} characters of a run\n"
            f"ready in {result['ready_ms']['median']} ms (median); with {ENDED_RUNS} ended runs in "
            f"{start['ready_ms']['full']} ms, with none in {start['ready_ms']['empty']} ms"
        )
    print(json.dumps(result))
    return int(not result["ok"])


if __name__ == "__main__":
    sys.exit(main())
