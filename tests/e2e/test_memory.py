"""The memory governor and the accounting on a real daemon: limits that its size exceeds from the start."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.wire import Wire, WireError, connect, daemon

LIMIT = 120.0  # absolute, for a hung test; nothing here waits for time to pass
# Of any Python process the resident memory is more than this.
TINY = "1MiB"


async def create(wire: Wire) -> str:
    return str((await wire.request("session.create", toolsets=[]))["session"]["id"])


async def memory_is(wire: Wire, state: str) -> dict[str, Any]:
    """Ask until the governor has looked: its memory figures."""
    while True:
        memory: dict[str, Any] = (await wire.request("daemon.stats"))["memory"]
        if memory["state"] == state:
            return memory
        await trio.sleep(0.02)  # a look at everything that is held costs the daemon its time


@contextlib.asynccontextmanager
async def many_connections(folder: Path) -> AsyncIterator[None]:
    """Some 20 MiB of the daemon's memory, by 600 clients that say nothing."""

    async def client(*, task_status: trio.TaskStatus[None]) -> None:
        async with connect(folder):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(600):
            await nursery.start(client)
        yield
        nursery.cancel_scope.cancel()


async def test_above_the_hard_limit_new_runs_are_refused_and_active_ones_go_on(tmp_path: Path) -> None:
    # The first look comes with the start, the second only after the test: what is admitted in between is at work.
    bounds = f'[limits]\nmemory_soft = "{TINY}"\nmemory_hard = "{TINY}"\ngovernor_interval = 3600\n'
    with daemon(tmp_path / "data", bounds) as process, trio.fail_after(LIMIT):
        async with connect(process.folder) as wire:
            await memory_is(wire, "hard")
            session = await create(wire)
            with pytest.raises(WireError) as refused:
                await wire.request("run.start", session_id=session, text="count to 3")
            assert (refused.value.code, refused.value.data["retry_after_ms"]) == ("overloaded", 5000)
            assert "memory" in str(refused.value)
            # Everything else is answered as ever.
            assert (await wire.request("session.get", session_id=session))["session"]["id"] == session
            assert (await wire.request("run.list", session_id=session))["runs"] == []
        assert "memory is hard (was normal)" in process.errors()


async def test_a_run_at_work_is_not_harmed_by_the_hard_limit(tmp_path: Path) -> None:
    """The limit is between a daemon at rest and one with many connections."""
    with daemon(tmp_path / "probe") as process:
        async with connect(process.folder) as wire:
            rest = (await wire.request("daemon.stats"))["memory"]["resident"]
    bound = f'"{int(rest * 1.35)}B"'
    bounds = f"[limits]\nmemory_soft = {bound}\nmemory_hard = {bound}\ngovernor_interval = 0.05\n"
    with daemon(tmp_path / "data", bounds) as process, trio.fail_after(LIMIT):
        async with connect(process.folder) as wire, connect(process.folder) as other:
            session = await create(wire)
            started = await wire.request("run.start", session_id=session, text="count to 100000 every 1 ms", watch=True)
            async with many_connections(process.folder):
                await memory_is(wire, "hard")
                with pytest.raises(WireError) as refused:
                    await other.request("run.start", session_id=await create(other), text="count to 3")
                assert refused.value.code == "overloaded"
                before = (await wire.request("run.get", run_id=started["run"]["id"]))["run"]["last_seq"]
                while (await wire.request("run.get", run_id=started["run"]["id"]))["run"]["last_seq"] <= before + 10:
                    pass
            # What took the memory is gone, and what it took was given back: runs are admitted again.
            await memory_is(wire, "normal")
            again = await other.request("run.start", session_id=await create(other), text="count to 3", watch=True)
            assert (await other.events(again["watch_id"]))[-1]["status"] == "completed"
            stopped = await wire.request("run.stop", run_id=started["run"]["id"])
            assert stopped["run"]["status"] == "cancelled"


async def test_above_the_soft_limit_ended_runs_are_told_from_the_store(tmp_path: Path) -> None:
    bounds = f'[limits]\nmemory_soft = "{TINY}"\ngovernor_interval = 0.05\n'
    with daemon(tmp_path / "data", bounds) as process, trio.fail_after(LIMIT):
        async with connect(process.folder) as wire:
            await memory_is(wire, "soft")
            session = await create(wire)
            started = await wire.request("run.start", session_id=session, text="count to 300", watch=True)
            await wire.events(started["watch_id"], gaps=True)  # the end may have been shed before it was sent
            assert (await wire.request("run.get", run_id=started["run"]["id"]))["run"]["status"] == "completed"
            while (await wire.request("daemon.stats"))["memory"]["owned"]["logs"] > 1000:
                pass  # until it has shed: the log's newest events stay
            watch = await wire.request("run.watch", run_id=started["run"]["id"], after=0)
            gap = await wire.push(watch["watch_id"])
            assert gap["method"] == "run.gap"
            text = ""
            while (push := await wire.push(watch["watch_id"]))["method"] != "watch.closed":
                if push["method"] == "run.snapshot":
                    text += push["params"].get("text", "")
            assert text == "".join(f"{n} " for n in range(1, 301))
            assert push["params"]["status"] == "completed"


async def test_the_owners_explain_what_is_resident(tmp_path: Path) -> None:
    with daemon(tmp_path / "data") as process, trio.fail_after(LIMIT):
        async with connect(process.folder) as wire:
            memory = (await wire.request("daemon.stats"))["memory"]
            shown = await trio.to_thread.run_sync(stats, process.folder)
    assert "explained" in shown and "(normal)" in shown
    for owner in ("program", "files", "sqlite", "connections", "sum"):
        assert f"\n  {owner} " in shown
    owned = memory["owned"]
    assert all(type(held) is int and held >= 0 for held in owned.values())
    assert owned["connections"] > 0 and owned["sqlite"] > 0 and owned["files"] > 0
    assert sum(owned.values()) == pytest.approx(memory["resident"], rel=0.25)


def stats(folder: Path) -> str:
    """What `greenroom stats` says."""
    command = [sys.executable, "-m", "actors.cli", "stats", "--data", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True).stdout


# ------------------------------------------------------------ the allocator
def environment_of(pid: int) -> dict[str, str]:
    """As the process was started; what it sets itself is not in it."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if entry)


def test_the_daemon_is_started_again_with_the_allocator_of_the_system(tmp_path: Path) -> None:
    with daemon(tmp_path / "data") as process:
        environ = environment_of(process.pid)
        assert (environ["PYTHONMALLOC"], environ["MALLOC_ARENA_MAX"]) == ("malloc", "2")
        assert environ["MALLOC_MMAP_THRESHOLD_"] == str(128 * 1024)
        described = json.loads((tmp_path / "data" / "daemon.json").read_text())
        assert described["pid"] == process.pid  # the same process


def test_a_choice_of_the_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "pymalloc")
    with daemon(tmp_path / "data") as process:
        assert environment_of(process.pid)["PYTHONMALLOC"] == "pymalloc"


PROGRAM = """
import os, sys
from actors.cli.allocator import use_system_allocator
before = os.getpid(), os.environ.get("PYTHONMALLOC")
os.environ["TIMES"] = str(int(os.environ.get("TIMES", "0")) + 1)
use_system_allocator()
print(os.environ["TIMES"], os.getpid(), sys.argv[1:], *before[1:], sorted(os.environ))
sys.exit(7)
"""


@pytest.mark.parametrize("given", [{}, {"MALLOC_ARENA_MAX": "3"}])
def test_programs_that_the_daemon_starts_have_the_environment_of_before(given: dict[str, str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONMALLOC"} | given
    command = [sys.executable, "-W", "error", "-c", PROGRAM, "an argument", "--more"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 7
    names = sorted([*environ, "TIMES", *({"LC_CTYPE"} - environ.keys() if "'LC_CTYPE'" in said else ())])
    assert said == f"2 {process.pid} ['an argument', '--more'] malloc {names}\n"
