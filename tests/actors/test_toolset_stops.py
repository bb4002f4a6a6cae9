"""Stops by many tasks at a time of a toolset whose program is a real one: in a connect that hangs, in a wait before it
is started again, while it is watched, in a call; then it works again."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import attrs
import pytest
import trio

from actors._actor import open_actor
from actors._guard import open_guard
from actors._spool import open_spools
from actors.toolset import ToolsetActor, ToolsetRef
from actors.toolsets.mcp import McpToolset, Server
from engine.limits import Limits
from tests.actors import mcp_server
from tests.actors.processes import descriptors, until
from tests.actors.test_toolset_life import CONTEXT

LIMIT = 60.0
TASKS = 20
# Far beyond the test's own time: nothing here ends by itself.
LIMITS = attrs.evolve(
    Limits(), toolset_start_timeout=10 * LIMIT, toolset_backoff_first=10 * LIMIT, toolset_backoff_max=10 * LIMIT
)
# As long as there is the file `broken` it fails at once, or with `silent` never answers.
WRAPPED = """
import os, runpy, sys, time
if os.path.exists("broken"):
    sys.exit("it is broken")
while os.path.exists("silent"):
    time.sleep(0.01)
runpy.run_path(sys.argv[1], run_name="__main__")
"""
STATES = {"connect": "starting", "backoff": "restarting", "watch": "ready", "call": "ready"}


@pytest.mark.parametrize("where", STATES)
async def test_many_stops_at_a_time(tmp_path: Path, where: str) -> None:
    server = Server(
        command=(sys.executable, "-c", WRAPPED, mcp_server.__file__), env=dict(os.environ), cwd=str(tmp_path)
    )
    marks = {"connect": ("silent",), "backoff": ("broken",)}.get(where, ())
    for mark in marks:
        (tmp_path / mark).touch()
    with trio.fail_after(LIMIT):
        async with open_spools(tmp_path, LIMITS) as spools, open_guard(LIMITS) as guard:
            spool = spools.of_toolset("fake")
            toolset = McpToolset(server, guard, spool, limits=LIMITS)
            actor = ToolsetActor(toolset, limits=LIMITS, lazy=True, restart="on_failure", spool=spool)
            async with open_actor(actor, "fake") as ref, trio.open_nursery() as nursery:
                life = actor._life
                if where == "call":
                    nursery.start_soon(ref.call, "silent", b"{}", CONTEXT)
                    await until(lambda: life.leases == 1)
                else:
                    nursery.start_soon(ref.call, "echo", b'{"text":"x"}', CONTEXT)
                    await until(lambda: life.state == STATES[where] and (where != "watch" or not life.leases))
                if where == "connect":
                    await until(lambda: guard.statistics().spawned == 1)
                assert life.state == STATES[where]
                await stopped_by_many(actor)
                assert guard.statistics().processes == 0
                for mark in marks:
                    (tmp_path / mark).unlink()
                before = descriptors()
                for _ in range(2):  # start, stop again
                    await echo(ref)
                    await stopped_by_many(actor)
                    assert guard.statistics().processes == 0
                await until(lambda: descriptors() == before)


async def stopped_by_many(actor: ToolsetActor) -> None:
    returned = 0

    async def stop() -> None:
        nonlocal returned
        await actor._life.stop()
        assert actor._life.state == "stopped"
        returned += 1

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(stop)
    assert returned == TASKS


async def echo(ref: ToolsetRef) -> None:
    assert (await ref.call("echo", b'{"text":"again"}', CONTEXT)).text == "again"


async def test_no_more_servers_than_processes_may_be(tmp_path: Path) -> None:
    limits = attrs.evolve(LIMITS, processes_max=2)
    server = Server(command=(sys.executable, mcp_server.__file__), env=dict(os.environ), cwd=str(tmp_path))
    with trio.fail_after(LIMIT):
        async with (
            open_spools(tmp_path, limits) as spools,
            open_guard(limits) as guard,
            contextlib.AsyncExitStack() as stack,
        ):
            refs = []
            for name in ("one", "two", "three"):
                toolset = McpToolset(server, guard, spools.of_toolset(name), limits=limits)
                actor = ToolsetActor(toolset, limits=limits, lazy=True, restart="never")
                refs.append(await stack.enter_async_context(open_actor(actor, name)))
            await echo(refs[0])
            await echo(refs[1])
            refused = await refs[2].call("echo", b"{}", CONTEXT)
            assert refused.is_error and "2 processes are there, the most that may be at once" in refused.text
            assert guard.statistics().processes == 2
            await refs[0].stop()
            assert (await refs[2].restart()).state == "ready"
            await echo(refs[2])
            assert guard.statistics().processes == 2
