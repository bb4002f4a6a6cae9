"""Resumable streams (class D): the connection is cut after each of 10,000 events, and what is read goes on from there.

    python scripts/stress_resume.py [--json] [--quick]

A model service, a daemon and this process, all on this machine. The texts are known here by construction, one in
ASCII and one of emoji, CJK and what JSON escapes; "the text" below is compared with that, byte by byte.

1. Lanes: runs that stream while their one reader cuts its connection after every frame (a reset or a farewell, in
   turn) and goes on from its last seq with a new one.
2. Each cut: for every event of those runs after which the lanes did not cut, a new connection begins at its seq.
3. Nobody: a run that no one watches, and one that another client stops, have the outcome in the store.
4. Too old: a cursor that the replay log has let go gets a gap and a snapshot, while the run streams and afterwards.
5. Restarts: SIGTERM and SIGKILL in the middle of a run; its seq has risen, and the text is a beginning of the whole.

Exit code 1 if a condition does not hold. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio
from _daemon import Client, Daemon, Findings, Reader, model_server, percentile, say

FRAME_BYTES = 256 * 1024
ASCII = "word-{n};"
# Nothing with a blank: the service takes its settings apart there.
MIXED = 'é{n}漢字😀👩‍👩‍👧\u0301"\\/\n\t\u0001\u2028\x7f𝄞;'
# Events of the log's default bound, and a run that is longer.
LOG_ENTRIES = 4096
LONG = 6000
STEP_TIMEOUT = 600.0
# Deltas a second of a run that is to be met in the middle.
SLOW_RATE = 100


@attrs.frozen
class Size:
    runs: int
    deltas: int  # of each run
    rate: int  # deltas a second of each run: a lane reconnects as often
    at_once: int  # connections of step 2
    restarts: int

    @property
    def events(self) -> int:
        return self.runs * self.deltas


FULL = Size(runs=10, deltas=1000, rate=12, at_once=4, restarts=4)
QUICK = Size(runs=3, deltas=110, rate=50, at_once=4, restarts=2)


@attrs.define
class Lane:
    """A run whose reader was cut, and after which seqs."""

    run_id: str
    session_id: str
    template: str
    deltas: int
    cuts: set[int] = attrs.field(factory=set)
    reader: Reader = attrs.field(factory=Reader)
    resumed_ms: list[float] = attrs.field(factory=list)
    prefixes: dict[int, int] = attrs.field(factory=dict)  # bytes of text as of each seq

    @property
    def whole(self) -> bytes:
        return text_of(self.template, self.deltas)


def text_of(template: str, deltas: int) -> bytes:
    return "".join(template.replace("{n}", str(number)) for number in range(deltas)).encode()


class Stress:
    def __init__(self, daemon: Daemon, size: Size, findings: Findings) -> None:
        self._daemon = daemon
        self._size = size
        self._findings = findings
        self.largest = 0  # bytes of the largest frame
        self.wrong: list[str] = []  # what was not as it has to be, for the report

    # ------------------------------------------------------------ one run
    async def start(self, client: Client, template: str, deltas: int, rate: int, **more: Any) -> tuple[str, str]:
        """A run in a session of its own; the ids of both."""
        session = (await client.request("session.create", toolsets=[]))["session"]["id"]
        prompt = f"!stream n={deltas} rate={rate} text={template}"
        started = await client.request("run.start", session_id=session, text=prompt, **more)
        return session, started["run"]["id"]

    async def read(
        self, run_id: str, reader: Reader, until: Callable[[Reader], bool] = lambda reader: reader.closed is not None
    ) -> int:
        """Go on at the reader's cursor with a new connection, until it is enough or the run is told. Returns the
        run's last seq as the reply to the watch had it."""
        async with self._daemon.connect() as client:
            run = (await client.request("run.watch", run_id=run_id, after=reader.seq))["run"]
            while not until(reader) and reader.closed is None:
                reader.take(await client.push())
            self.largest = max(self.largest, client.socket.largest)
            return int(run["last_seq"])

    def expect(self, good: bool, what: str) -> None:
        if not good:
            self.wrong.append(what)
            say(f"WRONG: {what}")

    def compare(self, text: bytes, whole: bytes, what: str) -> None:
        at = next((i for i, (one, other) in enumerate(zip(text, whole, strict=False)) if one != other), None)
        at = min(len(text), len(whole)) if at is None else at
        self.expect(
            text == whole, f"{what}: {len(text)} bytes of {len(whole)}, other from {at}: {text[at : at + 40]!r}"
        )

    # ------------------------------------------------------------ 1: cut while it streams
    async def lanes(self) -> list[Lane]:
        size = self._size
        lanes: list[Lane] = []
        async with self._daemon.connect() as client:
            for number in range(size.runs):
                template = MIXED if number % 2 else ASCII
                session, run = await self.start(client, template, size.deltas, size.rate)
                lanes.append(Lane(run, session, template, size.deltas))
        async with trio.open_nursery() as nursery:
            for lane in lanes:
                nursery.start_soon(self._lane, lane)
        cuts = sum(len(lane.cuts) for lane in lanes)
        resumed = [ms for lane in lanes for ms in lane.resumed_ms]
        self._findings.note("cuts_live", cuts, "", "cuts while the runs streamed, after different events")
        p50, p99 = (round(percentile(resumed, share), 2) for share in (0.5, 0.99))
        self._findings.note("resume_p50_ms", p50, "ms", "from a cut to the next watch's reply, median")
        self._findings.note("resume_p99_ms", p99, "ms", "the same, 99th percentile")
        return lanes

    async def _lane(self, lane: Lane) -> None:
        reader = lane.reader
        number = 0
        while reader.closed is None:
            began = trio.current_time()
            async with self._daemon.connect() as client:
                await client.request("run.watch", run_id=lane.run_id, after=reader.seq)
                lane.resumed_ms.append((trio.current_time() - began) * 1000)
                reader.take(await client.push())
                self.largest = max(self.largest, client.socket.largest)
                if reader.ended is not None and reader.closed is None:
                    reader.take(await client.push())
                lane.cuts.add(reader.seq)
                number += 1
                if number % 2:
                    client.socket.reset()
        what = f"{lane.run_id} with {number} cuts"
        self.compare(reader.text, lane.whole, what)
        self.expect(not reader.gaps and reader.ended == "completed", f"{what}: {reader.ended}, gaps {reader.gaps}")

    # ------------------------------------------------------------ 2: cut after each event
    async def every(self, lanes: list[Lane]) -> None:
        """For each event a connection that begins behind it, unless a lane did."""
        work: list[tuple[Lane, int]] = []
        for lane in lanes:
            await self._prefixes(lane)
            work += [(lane, seq) for seq in range(lane.reader.seq + 1) if seq not in lane.cuts]
        work.reverse()
        left = len(work)
        say(f"{left} more cuts, {self._size.at_once} connections at once")

        async def worker() -> None:
            while work:
                lane, seq = work.pop()
                reader = Reader()
                whole = lane.whole
                reader.start(seq, whole[: lane.prefixes[seq]])
                await self.read(lane.run_id, reader)
                self.compare(reader.text, whole, f"{lane.run_id} after {seq}")
                self.expect(not reader.gaps, f"{lane.run_id} after {seq}: gaps {reader.gaps}")
                self.expect(reader.seq == lane.reader.seq, f"{lane.run_id} after {seq} ends at {reader.seq}")
                if work and len(work) % 1000 == 0:
                    say(f"{len(work)} left")

        async with trio.open_nursery() as nursery:
            for _ in range(self._size.at_once):
                nursery.start_soon(worker)
        cut = left + sum(len(lane.cuts) for lane in lanes)
        self._findings.hold(
            "cuts", cut, cut >= self._size.events, "", f"events after which was cut ≥ {self._size.events}"
        )

    async def _prefixes(self, lane: Lane) -> None:
        """Bytes of text as of each seq. Which seqs are deltas is read from an uncut watch; that each of them is one
        delta of the service is checked by their count."""
        deltas: list[int] = []
        async with self._daemon.connect() as client:
            await client.request("run.watch", run_id=lane.run_id, after=0)
            while (push := await client.push())["method"] != "watch.closed":
                assert push["method"] == "run.events", push
                for event in push["params"]["events"]:
                    if event["type"] == "part.delta":
                        deltas += range(event.get("from", event["seq"]), event["seq"] + 1)
        self.expect(len(deltas) == lane.deltas, f"{lane.run_id}: {len(deltas)} deltas")
        size, number = 0, 0
        places = set(deltas)
        for seq in range(lane.reader.seq + 1):
            if seq in places:
                size += len(lane.template.replace("{n}", str(number)).encode())
                number += 1
            lane.prefixes[seq] = size

    # ------------------------------------------------------------ 3: whoever listens
    async def nobody(self) -> None:
        deltas = 200
        async with self._daemon.connect() as client:
            session, run = await self.start(client, MIXED, deltas, 0)
        ended = await self.ended(run)
        self.expect(ended["status"] == "completed", f"a run that nobody watches: {ended}")
        self.compare(await self.stored(session), text_of(MIXED, deltas), "a run that nobody watches")
        async with self._daemon.connect() as one, self._daemon.connect() as other:
            session, run = await self.start(one, ASCII, LONG, SLOW_RATE)
            reader = Reader()
            await self.read(run, reader, lambda reader: len(reader.text) > 100)
            stopped = (await other.request("run.stop", run_id=run, reason="another client"))["run"]
        await self.read(run, reader)
        self.expect(stopped["status"] == reader.ended == "cancelled", f"stopped by another client: {stopped}")
        self.compare(await self.stored(session), reader.text, "a run stopped by another client")
        self.expect(text_of(ASCII, LONG).startswith(reader.text), "the text of a stopped run is no beginning")
        self._findings.note("listeners", "checked", "", "runs that nobody watched or another client stopped")

    async def ended(self, run_id: str) -> Any:
        """The run when it has ended."""
        async with self._daemon.connect() as client:
            while True:
                run = (await client.request("run.get", run_id=run_id))["run"]
                if run["status"] not in ("queued", "running"):
                    return run
                await trio.sleep(0.02)

    async def stored(self, session_id: str) -> bytes:
        """The text of the session's last message, from the store."""
        async with self._daemon.connect() as client:
            messages = (await client.request("session.messages", session_id=session_id, limit=2))["messages"]
            text = b""
            for part in messages[-1]["parts"]:
                if part["kind"] != "text":
                    continue
                if more := part.get("text_more"):
                    offset: int | None = 0
                    while offset is not None:
                        piece = await client.request("output.read", handle=more["handle"], offset=offset)
                        text += piece["text"].encode()
                        offset = piece.get("next_offset")
                else:
                    text += part["text"].encode()
            self.largest = max(self.largest, client.socket.largest)
            return text

    # ------------------------------------------------------------ 4: cursors that are too old
    async def too_old(self) -> None:
        for template in (ASCII, MIXED):
            async with self._daemon.connect() as client:
                session, run = await self.start(client, template, LONG, 4 * LOG_ENTRIES)
                whole = text_of(template, LONG)
                reader = Reader()
                await self.read(run, reader, lambda reader: reader.seq >= 10)
                # In the middle: wait until the log has let go of what follows, then while it still streams.
                last = 0
                while last <= LOG_ENTRIES + 200:
                    last = (await client.request("run.get", run_id=run))["run"]["last_seq"]
                    await trio.sleep(0.005)
                live = Reader()
                live.start(1, b"")
                await self.read(run, live)
                await self.ended(run)
                late = Reader()
                late.start(1, b"")
                await self.read(run, late)
                above = Reader()
                above.start(10**9, b"")
                await self.read(run, above)
            for name, found, reason in (
                ("live", live, "log_overflow"), ("late", late, "log_overflow"), ("above", above, "restart"),
            ):  # fmt: skip
                what = f"a cursor too old, {name}"
                self.compare(found.text, whole, what)
                self.expect(
                    bool(found.gaps) and found.gaps[0]["reason"] == reason and found.snapshots > 0,
                    f"{what}: gaps {found.gaps}, {found.snapshots} pieces",
                )
            self.compare(await self.stored(session), whole, "a long run in the store")
        self._findings.note("gaps", "checked", "", "cursors below the log and above the run: gap, snapshot, text")


async def restarts(base_url: str, folder: Path, size: Size, findings: Findings) -> None:
    """Each restart meets a run in the middle; the next daemon on the same data tells it on."""
    daemon = Daemon(base_url, folder, {"drain_timeout": "100ms"}, settle=0.0)
    rises: list[int] = []
    wrong = 0
    largest = 0
    try:
        for number in range(size.restarts):
            stress = Stress(daemon, size, findings)
            how = signal.SIGKILL if number % 2 else signal.SIGTERM
            template = MIXED if number // 2 % 2 else ASCII
            async with daemon.connect() as client:
                _, run = await stress.start(client, template, LONG, SLOW_RATE)
            reader = Reader()
            # A second of streaming: some of it is durable by then.
            await stress.read(run, reader, lambda reader: reader.seq >= SLOW_RATE)
            seen = reader.seq
            code = await trio.to_thread.run_sync(daemon.end, how)
            stress.expect(code == (0 if how == signal.SIGTERM else -9), f"{how.name}: exit code {code}")
            daemon = Daemon(base_url, folder, {"drain_timeout": "100ms"}, settle=0.0)
            stress = Stress(daemon, size, findings)
            last = await stress.read(run, reader)
            ended = await stress.ended(run)
            stress.expect(last > seen and reader.seq > seen, f"{how.name}: seq {seen}, then {last} ({reader.seq})")
            allowed = ("cancelled", "interrupted") if how == signal.SIGTERM else ("interrupted",)
            stress.expect(ended["status"] in allowed, f"{how.name}: the run is {ended}")
            stress.expect(bool(reader.gaps) and reader.snapshots > 0, f"{how.name}: {reader.gaps}, {reader.closed}")
            stress.expect(text_of(template, LONG).startswith(reader.text), f"{how.name}: the text is no beginning")
            stress.expect(len(reader.text) > 0, f"{how.name}: nothing of the text was kept")
            rises.append(last - seen)
            wrong += len(stress.wrong)
            largest = max(largest, stress.largest)
            say(f"restart by {how.name}: seq {seen} → {last}, {ended['status']}, {len(reader.text)} bytes kept")
    finally:
        await trio.to_thread.run_sync(daemon.end, signal.SIGTERM)
    findings.hold("restarts_wrong", wrong, wrong == 0, "", f"wrong over {size.restarts} restarts of the daemon = 0")
    findings.note("seq_rises", rises, "", "seq risen over each restart by")
    findings.note("largest_frame_restart", largest, "bytes", "largest frame after a restart")


async def stress(daemon: Daemon, size: Size, findings: Findings) -> None:
    one = Stress(daemon, size, findings)
    with trio.fail_after(STEP_TIMEOUT):
        say(f"1: {size.runs} runs of {size.deltas} deltas, cut after each frame")
        lanes = await one.lanes()
    with trio.fail_after(STEP_TIMEOUT):
        say("2: the cuts that are left")
        await one.every(lanes)
    with trio.fail_after(STEP_TIMEOUT):
        say("3: whoever listens")
        await one.nobody()
        say("4: cursors that are too old")
        await one.too_old()
    findings.hold("wrong", len(one.wrong), not one.wrong, "", "texts or events that were wrong = 0")
    findings.hold("largest_frame", one.largest, one.largest <= FRAME_BYTES, "bytes", f"largest frame ≤ {FRAME_BYTES}")
    findings.hold("defects", daemon.errors()[:5], not daemon.errors(), "", "defects in the daemon's log: none")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="some hundreds of cuts")
    asked = parser.parse_args()
    size = QUICK if asked.quick else FULL
    findings = Findings("resume", asked.quick)
    with findings.told(), model_server() as models, tempfile.TemporaryDirectory(prefix="stress-") as folder:
        daemon = Daemon(models.url, Path(folder), settle=0.0)
        try:
            trio.run(stress, daemon, size, findings)
        finally:
            daemon.stop()
        (Path(folder) / "restarts").mkdir()
        say("5: restarts")
        trio.run(restarts, models.url, Path(folder) / "restarts", size, findings)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
