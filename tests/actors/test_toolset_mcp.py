"""Tool servers in their actor, with a real guard: a fake server that does what its calls say."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors._actor import open_actor
from actors._guard import Guard, open_guard
from actors._spool import open_spools
from actors.toolset import ToolsetActor, ToolsetRef
from actors.toolsets.mcp import McpToolset, Server
from engine import codec
from engine.limits import Limits
from engine.tools.spec import ToolContext, ToolResult
from tests.actors import mcp_server
from tests.actors.processes import until, until_gone

LIMIT = 120.0
CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/")
FAKE = (sys.executable, mcp_server.__file__)
# The first start imports the client, for which a machine with much else to do takes long.
QUICK = attrs.evolve(
    Limits(), toolset_first_wait=60, toolset_start_timeout=60, toolset_backoff_first=0.01, toolset_backoff_max=0.02
)


@attrs.frozen
class World:
    ref: ToolsetRef
    guard: Guard

    async def call(self, tool: str, **given: Any) -> ToolResult:
        return await self.ref.call(tool, codec.dump(given), CONTEXT)


@asynccontextmanager
async def opened(tmp_path: Path, command: tuple[str, ...] = FAKE, **given: Any) -> AsyncIterator[World]:
    server = given.pop("server", None) or Server(command=command, env=dict(os.environ), cwd=str(tmp_path))
    with trio.fail_after(LIMIT):
        async with open_spools(tmp_path, QUICK) as spools, open_guard(QUICK) as guard:
            spool = spools.of_toolset("fake")
            toolset = McpToolset(server, guard, spool, tools=given.pop("tools", None), limits=QUICK)
            actor = ToolsetActor(toolset, limits=QUICK, lazy=True, restart="on_failure", spool=spool, **given)
            async with open_actor(actor, "fake") as ref:
                yield World(ref, guard)
            assert guard.statistics().processes == 0, "no program is left"


def pids(tmp_path: Path) -> list[int]:
    """Of the fake servers in this folder."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if mcp_server.__file__.encode() in words and os.readlink(f"/proc/{name}/cwd") == str(tmp_path):
                    found.append(int(name))
            except OSError:
                continue
    return found


async def test_tools_are_listed_and_called(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        assert (await world.ref.status()).state == "stopped"
        assert [spec.name for spec in await world.ref.specs()] == [f"fake.{name}" for name in mcp_server.TOOLS]
        assert (await world.ref.status()).state == "ready"
        result = await world.call("echo", text="hello")
        assert (result.text, result.is_error) == ("hello", False)


async def test_chosen_tools_and_one_that_is_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path, tools=("echo", "nothing")) as world:
        assert [spec.name for spec in await world.ref.specs()] == ["fake.echo"]
        while (status := await world.ref.status()).state != "degraded":  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert status.error is not None and "no tool 'nothing'" in status.error.message


async def test_a_server_that_ends_in_a_call_gives_an_error_and_is_started_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        result = await world.call("exit", code=3)
        assert result.is_error
        assert (await world.call("echo", text="again")).text == "again"
        assert (await world.ref.status()).restarts == 1


async def test_a_server_that_is_killed_while_nobody_calls_is_started_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.call("echo", text="x")
        (pid,) = pids(tmp_path)
        os.kill(pid, signal.SIGKILL)
        await until_gone([pid])
        while (await world.ref.status()).restarts == 0:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await world.call("echo", text="again")).text == "again"
        assert pids(tmp_path) != [pid]


async def test_a_call_past_its_time_ends_and_the_next_works(tmp_path: Path) -> None:
    async with opened(tmp_path, call_timeout=1) as world:
        await world.ref.specs()
        result = await world.call("silent")
        assert result.is_error
        assert (await world.call("echo", text="x")).text == "x"
        assert (await world.ref.status()).restarts == 0


async def test_what_a_server_wrote_before_it_failed_is_shown(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('no licence found\\n'); sys.exit(4)"
    async with opened(tmp_path, (sys.executable, "-c", script)) as world:
        result = await world.call("echo")
        assert result.is_error
        assert "no licence found" in result.text and "exit code 4" in result.text


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path, ("no-such-program",)) as world:
        result = await world.call("echo")
        assert result.is_error and "no-such-program" in result.text


async def test_a_header_whose_variable_is_not_set(tmp_path: Path) -> None:
    server = Server(url="http://127.0.0.1:9", headers_env={"Authorization": "TOKEN"}, environ={})
    async with opened(tmp_path, server=server) as world:
        result = await world.call("echo")
        assert result.is_error and "TOKEN" in result.text and "not set" in result.text


LISTS = """
import json, sys
schema = {"type": "object"}
tools = [
    {"name": "good", "inputSchema": schema}, {"name": "good", "inputSchema": schema},
    {"name": "no name", "inputSchema": schema},
    {"name": "large", "inputSchema": {"type": "object", "description": "d" * 40000}},
    {"name": "long", "description": "d" * 100000, "inputSchema": schema},
    {"name": "wordy", "description": "d" * 50000, "inputSchema": schema},
]
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "x", "version": "1"}}
    elif asked["method"] == "tools/list":
        result = {"tools": tools, "nextCursor": sys.argv[1]} if sys.argv[1] else {"tools": tools}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


@pytest.mark.parametrize("cursor", ["", "again"])
async def test_a_server_that_lies_has_the_rest_of_its_tools(tmp_path: Path, cursor: str) -> None:
    async with opened(tmp_path, (sys.executable, "-c", LISTS, cursor)) as world:
        specs = {spec.name: spec for spec in await world.ref.specs()}
        assert set(specs) == {"fake.good", "fake.wordy"}
        assert len(specs["fake.wordy"].description) == 4096
        while (status := await world.ref.status()).state != "degraded":  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert status.error is not None and "'good' is there twice" in status.error.message


async def test_stop_leaves_no_program_even_one_that_never_answers(tmp_path: Path) -> None:
    script = "import time; time.sleep(1000)"
    async with opened(tmp_path, (sys.executable, "-c", script)) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.call, "echo")
        await until(lambda: world.guard.statistics().processes == 1)
        nursery.cancel_scope.cancel()


async def test_the_client_is_imported_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second, in which streams would stand still."""
    threads = []
    real = importlib.import_module

    def imported(name: str, package: str | None = None) -> Any:
        if name == "mcp":
            threads.append(threading.current_thread() is threading.main_thread())
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", imported)
    async with opened(tmp_path) as world:
        await world.call("echo", text="x")
    assert threads == [False]
