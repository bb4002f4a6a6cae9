"""stress_processes: shell commands of a daemon's runs whose processes do not want to end.

Each session runs the tool (scripts/_stress_tool.py), which leaves three processes behind, as the command of a run of
the demo model. It ends in one of five ways, in turn:

- ends: the command ends by itself, and so does the run
- stop: the run is stopped
- deleted: the session is deleted while the command runs
- restarted: the toolset is restarted under all that are at work
- killed: the daemon gets SIGKILL with several at work; another is started on its data
"""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import trio
from _daemon import Findings, say
from _stress_processes import (
    AT_ONCE,
    PATIENCE,
    PIDS,
    SPARE,
    TOOL,
    WITHIN,
    Part,
    below,
    descriptors,
    left_of,
    pids_in,
    until,
)

from tests.e2e.wire import DaemonProcess, Wire, connect  # the root is where _daemon has said

CONFIG = '[permissions]\nallow = ["shell"]\n'
KINDS = ("ends", "stop", "deleted")
KILLED = 4  # sessions at work under a daemon that is killed, at least
KILLS = 4  # daemons, at most


class Shells:
    """On one daemon."""

    def __init__(self, process: DaemonProcess, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.left: list[str] = []  # when the end had returned
        self.slowest = 0.0

    async def begin(self, wire: Wire, name: str, *, stays: bool) -> tuple[str, str, str, Path]:
        """The ids of session, run and watch of a command whose processes are all there; it stays until it is ended."""
        record = self.folder / name
        command = shlex.join([sys.executable, "-I", "-S", str(TOOL), "answers", str(record)])
        session = (await wire.request("session.create", cwd=str(self.folder)))["session"]
        # Either way all of them are there before it ends.
        behind = "sleep 100000" if stays else f"until [ $(wc -l < {shlex.quote(str(record))}) = {PIDS} ]; do :; done"
        text = f"run {command}; {behind}"
        started = await wire.request("run.start", session_id=session["id"], text=text, watch=True)
        return session["id"], started["run"]["id"], started["watch_id"], record

    async def session(self, wire: Wire, number: int, kind: str) -> None:
        session_id, run_id, watch_id, record = await self.begin(wire, f"{kind}-{number}", stays=kind != "ends")
        if kind == "ends":
            began = time.monotonic()
            events = await wire.events(watch_id)
            assert events[-1]["status"] == "completed", events[-1]
        else:
            await until(lambda: len(pids_in(record)) == PIDS)
            began = time.monotonic()
            if kind == "stop":
                await wire.request("run.stop", run_id=run_id)
            else:
                await wire.request("session.delete", session_id=session_id)
        self.ended(record, began)

    def ended(self, record: Path, began: float) -> None:
        self.slowest = max(self.slowest, time.monotonic() - began)
        pids = pids_in(record)
        if len(pids) != PIDS or (left := left_of(set(pids))):
            self.left.append(f"{record.name}: {left if len(pids) == PIDS else pids}")

    async def several(self, wire: Wire, name: str, count: int) -> list[Path]:
        """As many commands at work."""
        records: list[Path] = []
        for number in range(count):
            records.append((await self.begin(wire, f"{name}-{number}", stays=True))[-1])
        await until(lambda: all(len(pids_in(record)) == PIDS for record in records))
        return records

    async def restarted(self, wire: Wire, name: str, count: int) -> None:
        records = await self.several(wire, name, count)
        began = time.monotonic()
        shell = (await wire.request("toolset.restart", name="shell"))["toolset"]
        assert shell["state"] == "ready", shell
        for record in records:
            self.ended(record, began)


async def shells(folder: Path, sessions: int, findings: Findings) -> None:
    """All five ways; `sessions` together."""
    part = Part(findings, "shells")
    killed = restarted = sessions // 4
    await _ends(folder, sessions - killed - restarted, restarted, part)
    await _kills(folder, killed, part)


async def _ends(folder: Path, sessions: int, restarted: int, part: Part) -> None:
    say(f"{sessions} commands that end, are stopped and lose their session; {restarted} that lose their toolset")
    records = folder / "shells-ends"
    records.mkdir()
    process = DaemonProcess(folder / "shells-ends-data", CONFIG)
    try:
        with trio.fail_after(PATIENCE + sessions):
            async with connect(process.folder) as wire:
                one = Shells(process, records)
                for number, kind in enumerate(KINDS):
                    await one.session(wire, -number - 1, kind)
                before = descriptors(process.pid)
                numbers = iter(range(sessions))

                async def worker() -> None:
                    for number in numbers:
                        await one.session(wire, number, KINDS[number % len(KINDS)])

                async with trio.open_nursery() as nursery:
                    for _ in range(AT_ONCE):
                        nursery.start_soon(worker)
                for number in range(0, restarted, AT_ONCE):
                    await one.restarted(wire, f"restarted-{number}", min(AT_ONCE, restarted - number))
                after = descriptors(process.pid)
                guard = below(process.pid)
    finally:
        process.signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
    seen = set(itertools.chain.from_iterable(pids_in(record) for record in records.iterdir()))
    note, hold = part.note, part.hold
    note("sessions", sessions + restarted, "", "commands that ended, were stopped, lost their session or toolset")
    note("processes_seen", len(seen), "", "processes of their trees")
    hold("left_at_return", one.left[:5], not one.left, "", "processes and zombies left when the end had returned: none")
    part.slowest("slowest_end_s", one.slowest, "the longest end")
    hold("daemon_descriptors", after, after <= before + SPARE, "", f"daemon: descriptors, before {before}")
    hold("below_daemon", len(guard), len(guard) == 1, "", "processes below the daemon: its guard")
    remaining = left_of(seen | guard)
    hold("left_in_all", len(remaining), not remaining, "", "processes left when the daemon had ended: none")
    hold("exit_code", code, code == 0, "", "exit code of the daemon: 0")


async def _kills(folder: Path, sessions: int, part: Part) -> None:
    daemons = min(KILLS, max(1, sessions // KILLED))
    say(f"{daemons} daemons killed under {sessions} commands")
    wrong: list[str] = []
    slowest, seen = 0.0, 0
    data = folder / "shells-kills-data"
    for number in range(daemons):
        records = folder / f"shells-kills-{number}"
        records.mkdir()
        process = DaemonProcess(data, CONFIG)
        try:
            with trio.fail_after(PATIENCE):
                async with connect(data) as wire:
                    at_work = min(max(1, sessions // daemons), 3 * AT_ONCE)
                    await Shells(process, records).several(wire, "killed", at_work)
                    known = below(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
                    began = time.monotonic()
                    await wire.wait_closed()
        finally:
            process.process.kill()
            process.wait()
        known |= set(itertools.chain.from_iterable(pids_in(record) for record in records.iterdir()))
        with trio.move_on_after(WITHIN):
            await until(lambda known=known: not left_of(known))  # type: ignore[misc]
        slowest = max(slowest, time.monotonic() - began)
        seen += len(known)
        if left := left_of(known):
            wrong.append(f"daemon {number}: {left}")
    part.note("killed_daemons", daemons, "", "daemons killed with SIGKILL, each on the data of the one before")
    part.note("killed_sessions", sessions, "", "their commands")
    part.note("killed_processes_seen", seen, "", "processes below them, guards and keepers included")
    part.hold("left_after_kill", wrong[:5], not wrong, "", f"processes and zombies left {WITHIN:g} s later: none")
    part.slowest("slowest_after_kill_s", slowest, "the longest until all were gone")
