"""stress_processes: tool servers (MCP) of a daemon's sessions that do not want to end.

The server is scripts/_stress_tool.py, which leaves three processes behind that ignore SIGTERM, two of them in sessions
of their own. Each session has a server to itself, started by its first use, and ends in one of four ways, in turn:

- close: the server has answered a call, the session is deleted, and the server is stopped because nobody uses it
- stop: a call is at work; its run is stopped and then the toolset restarted, or the toolset under the call
- hung: the server never answers `initialize`; its run is stopped, and the start times out or is broken off by a restart
- killed: the daemon gets SIGKILL with several at work or starting; another is started on its data
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import trio
from _daemon import Findings, model_server, say
from _stress_processes import (
    AT_ONCE,
    PATIENCE,
    PIDS,
    QUICK,
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

KINDS = ("close", "stop", "hung")
IDLE = 0.3  # seconds until a server that nobody uses is stopped
DRAIN = 1.0  # seconds that a run at work has when the daemon ends
START = 5.0 if QUICK else 2.0  # seconds that a start may take
SEED = 23


def config(model: str, records: Path, serving: int, hanging: int, start: float = START) -> str:
    """The model is a service at this address. So many toolsets of either kind, each with records of its own: equal
    servers would be one."""

    def toolset(name: str, how: str, restart: str) -> str:
        arguments = json.dumps(["-I", "-S", str(TOOL), how, f"{records / name}-"])
        command = json.dumps(sys.executable)
        return f'[toolsets.{name}]\nkind = "mcp"\ncommand = {command}\nargs = {arguments}\nrestart = "{restart}"\n'

    return "".join(
        (
            'default_model = "service"\n[models.service]\nprovider = "openai"\nmodel = "any"\n',
            f'base_url = "{model}"\n',
            f"[limits]\ntoolset_idle = {IDLE}\ntoolset_start_timeout = {start}\ndrain_timeout = {DRAIN}\n",
            *(toolset(f"serves{number}", "serves", "on_failure") for number in range(serving)),
            *(toolset(f"hangs{number}", "silent", "never") for number in range(hanging)),
            "[permissions]\nallow = [",
            ", ".join(f'"serves{number}"' for number in range(serving)),
            "]\n",
        )
    )


def held(pid: int, model: str) -> int:
    """Descriptors of the daemon but its connections to the model's service, which are kept for a while."""
    port = f":{int(model.split(':')[2].split('/')[0]):04X}"
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    pooled = {f"socket:[{line[9]}]" for line in lines if line[2].endswith(port)}
    folder, found = f"/proc/{pid}/fd", []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):  # it was closed
            found.append(os.readlink(f"{folder}/{name}"))
    return sum(target not in pooled for target in found)


class Servers:
    """On one daemon."""

    def __init__(self, records: Path) -> None:
        self.records = records
        self.left: list[str] = []
        self.slowest = dict.fromkeys(KINDS, 0.0)
        self.slowest_stop = 0.0

    def pids(self, toolset: str) -> set[int]:
        """All that its servers and what is below them have ever been."""
        found = (pids_in(record) for record in self.records.glob(f"{toolset}-*"))
        return set(itertools.chain.from_iterable(found))

    async def begin(self, wire: Wire, toolset: str, text: str) -> tuple[str, str, str]:
        """The ids of session, run and watch."""
        session = (await wire.request("session.create", cwd=str(self.records), toolsets=[toolset]))["session"]
        started = await wire.request("run.start", session_id=session["id"], text=text, watch=True)
        return session["id"], started["run"]["id"], started["watch_id"]

    async def all_there(self, toolset: str, before: set[int]) -> None:
        """A new server and all that it makes."""
        await until(lambda: len(self.pids(toolset) - before) >= PIDS)

    async def imported(self, wire: Wire) -> None:
        """The first start imports what all need, which may take longer than a start may."""
        while (await wire.request("toolset.restart", name="serves0"))["toolset"]["state"] != "ready":
            pass
        await until(lambda: not left_of(self.pids("serves0")))

    async def sessions(self, wire: Wire, numbers: Iterable[int]) -> None:
        left = iter(numbers)

        async def worker(of: int) -> None:
            for number in left:
                await self.session(wire, number, of)

        async with trio.open_nursery() as nursery:
            for of in range(AT_ONCE):
                nursery.start_soon(worker, of)

    async def session(self, wire: Wire, number: int, worker: int) -> None:
        kind = KINDS[number % len(KINDS)]
        turn = number // len(KINDS)
        toolset = f"hangs{turn}" if kind == "hung" else f"serves{worker}"
        before = self.pids(toolset)
        if kind == "close":
            session_id, _, watch_id = await self.begin(wire, toolset, f"!tool name={toolset}__echo input={{}}")
            await self.completed(wire, watch_id, session_id)
            await self.all_there(toolset, before)
            began = time.monotonic()
            await wire.request("session.delete", session_id=session_id)
        elif kind == "stop":
            session_id, run_id, watch_id = await self.begin(wire, toolset, f"!tool name={toolset}__wait input={{}}")
            await self.at_work(wire, watch_id)
            await self.taken(wire, toolset)  # a call that waits for its server would go to the next one
            await self.all_there(toolset, before)
            working = self.pids(toolset)
            began = time.monotonic()
            if turn % 2:
                await wire.request("run.stop", run_id=run_id)
                self.slowest_stop = max(self.slowest_stop, time.monotonic() - began)
            assert (await wire.request("toolset.restart", name=toolset))["toolset"]["state"] == "ready"
            if left := left_of(working):
                self.left.append(f"{toolset} was restarted: {left}")
            self.slowest[kind] = max(self.slowest[kind], time.monotonic() - began)
            await wire.events(watch_id)
            await wire.request("session.delete", session_id=session_id)
            await self.all_there(toolset, working)
            began = time.monotonic()  # the new one ends by itself
        else:
            session_id, run_id, watch_id = await self.begin(wire, toolset, "hello")
            await self.all_there(toolset, before)
            began = time.monotonic()
            await wire.request("run.stop", run_id=run_id)
            self.slowest_stop = max(self.slowest_stop, time.monotonic() - began)
            await wire.request("session.delete", session_id=session_id)
            if turn % 2:
                first = self.pids(toolset)
                began = time.monotonic()
                assert (await wire.request("toolset.restart", name=toolset))["toolset"]["state"] == "failed"
                if left := left_of(first | self.pids(toolset)):
                    self.left.append(f"{toolset} was restarted: {left}")
        await self.gone(toolset, kind, began)

    async def completed(self, wire: Wire, watch_id: str, session_id: str) -> None:
        assert (await wire.events(watch_id))[-1]["status"] == "completed"
        page = await wire.request("session.messages", session_id=session_id)
        calls = [part for message in page["messages"] for part in message["parts"] if part["kind"] == "tool"]
        assert [(call["state"], call.get("output")) for call in calls] == [("completed", "echo")], calls

    async def at_work(self, wire: Wire, watch_id: str) -> None:
        while (event := await wire.event(watch_id)) is None or event.get("state") != "running":
            assert event is not None, "the run has ended"

    async def taken(self, wire: Wire, toolset: str) -> None:
        """Until the server is ready and has a call."""
        while True:
            toolsets = (await wire.request("toolset.list"))["toolsets"]
            if next(one["state"] == "ready" and one["leases"] for one in toolsets if one["name"] == toolset):
                return

    async def gone(self, toolset: str, kind: str, began: float) -> None:
        with trio.move_on_after(max(0.0, began + 2 * WITHIN - time.monotonic())):
            await until(lambda: not left_of(self.pids(toolset)))
        self.slowest[kind] = max(self.slowest[kind], time.monotonic() - began)
        if left := left_of(self.pids(toolset)):
            self.left.append(f"{toolset}: {left}")


async def servers(folder: Path, sessions: int, findings: Findings) -> None:
    """All four ways; `sessions` together."""
    part = Part(findings, "servers")
    killed = sessions // 4
    with model_server() as service:
        await _ends(folder, sessions - killed, part, service.url)
        await _kills(folder, killed, part, service.url)


async def _ends(folder: Path, sessions: int, part: Part, model: str) -> None:
    say(f"{sessions} sessions with a tool server: closed, stopped and with one that never answers")
    records = folder / "servers-ends"
    records.mkdir()
    warm = AT_ONCE * len(KINDS)  # what is done at once was done at once
    process = DaemonProcess(
        folder / "servers-ends-data", config(model, records, AT_ONCE, (warm + sessions) // len(KINDS) + 1)
    )
    one = Servers(records)
    try:
        with trio.fail_after(PATIENCE + sessions):
            async with connect(process.folder) as wire:
                await one.imported(wire)
                await one.sessions(wire, range(1))
                await one.sessions(wire, range(1, len(KINDS)))
                await one.sessions(wire, range(len(KINDS), warm, len(KINDS)))
                one.slowest, one.slowest_stop = dict.fromkeys(KINDS, 0.0), 0.0
                before = held(process.pid, model)
                (guard,) = below(process.pid)
                guard_before = descriptors(guard)
                await one.sessions(wire, range(warm, warm + sessions))
                began = time.monotonic()
                with trio.move_on_after(WITHIN):
                    await until(lambda: held(process.pid, model) <= before and len(below(process.pid)) == 1)
                settled = time.monotonic() - began
                after, guard_after, children = held(process.pid, model), descriptors(guard), below(process.pid)
                # One that is in use when the daemon ends.
                known = one.pids("serves0")
                await one.begin(wire, "serves0", "!tool name=serves0__wait input={}")
                await one.all_there("serves0", known)
    finally:
        process.signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait(PATIENCE)
    ended = time.monotonic() - began
    seen = set(itertools.chain.from_iterable(pids_in(record) for record in records.iterdir()))
    part.note("sessions", sessions, "", "sessions that were closed, stopped, or had a server that never answered")
    part.note("processes_seen", len(seen), "", "processes of their servers' trees")
    part.hold("left", one.left[:5], not one.left, "", "processes and zombies left of a server that was ended: none")
    part.slowest("slowest_close_s", one.slowest["close"], f"from a session's end, {IDLE:g} s idle, to no process")
    part.slowest("slowest_restart_s", one.slowest["stop"], "toolset.restart under a call, to the new server's ready")
    part.slowest("slowest_hung_s", one.slowest["hung"], f"a start of {START:g} s that hangs, to no process")
    part.slowest("slowest_stop_s", one.slowest_stop, "run.stop of a call, or in a start that hangs")
    part.slowest("settled_s", settled, "from the last session's end to the baseline")
    part.hold("descriptors", after, after <= before, "", f"daemon: descriptors, before {before}")
    part.hold("guard_descriptors", guard_after, guard_after <= guard_before, "", f"guard: before {guard_before}")
    part.hold("below_daemon", len(children), children == {guard}, "", "processes below the daemon: its guard, the same")
    remaining = left_of(seen | {guard})
    part.hold("left_in_all", len(remaining), not remaining, "", "processes left when the daemon had ended: none")
    part.slowest("shutdown_s", ended, f"from SIGTERM, {DRAIN:g} s drain, to the daemon's end")
    part.hold("exit_code", code, code == 0, "", "exit code of the daemon, a server at work: 0")


async def _kills(folder: Path, sessions: int, part: Part, model: str) -> None:
    each = 2 * AT_ONCE
    daemons = -(-sessions // each)
    say(f"{daemons} daemons killed under {each} tool servers each, half of which never answer")
    rng = random.Random(SEED)
    wrong: list[str] = []
    slowest, seen = 0.0, 0
    data = folder / "servers-kills-data"
    for number in range(daemons):
        records = folder / f"servers-kills-{number}"
        records.mkdir()
        process = DaemonProcess(data, config(model, records, AT_ONCE, AT_ONCE, start=PATIENCE))
        one = Servers(records)
        at = rng.randint(1, each * PIDS) if number % 2 else each * PIDS

        def recorded(records: Path = records) -> set[int]:
            return set(itertools.chain.from_iterable(pids_in(record) for record in records.iterdir()))

        try:
            with trio.fail_after(PATIENCE):
                async with connect(data) as wire:
                    for server in range(AT_ONCE):
                        await one.begin(wire, f"serves{server}", f"!tool name=serves{server}__wait input={{}}")
                        await one.begin(wire, f"hangs{server}", "hello")
                    await until(lambda at=at, recorded=recorded: len(recorded()) >= at)  # type: ignore[misc]
                    known = below(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
                    began = time.monotonic()
                    await wire.wait_closed()
        finally:
            process.process.kill()
            process.wait()
        with trio.move_on_after(WITHIN):
            await until(lambda known=known, recorded=recorded: not left_of(known | recorded()))  # type: ignore[misc]
        slowest = max(slowest, time.monotonic() - began)
        seen += len(known | recorded())
        if left := left_of(known | recorded()):
            wrong.append(f"daemon {number}, killed at {at} processes: {left}")
    part.note("killed_daemons", daemons, "", "daemons killed with SIGKILL, each on the data of the one before")
    part.note("killed_sessions", daemons * each, "", "their sessions")
    part.note("killed_processes_seen", seen, "", "processes below them, guards and keepers included")
    part.hold("left_after_kill", wrong[:5], not wrong, "", f"processes and zombies left {WITHIN:g} s later: none")
    part.slowest("slowest_after_kill_s", slowest, "the longest until all were gone")
