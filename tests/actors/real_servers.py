"""Real tool servers, as others publish them, in the versions that scripts/pins-servers.txt and scripts/servers pin:
scripts/test sets them up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.toolset import ToolsetRef
from engine.tools.environment import child_environment
from tests.actors import official_server
from tests.actors.processes import read_until, until

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-servers"
NODE = ROOT / ".servers" / "node_modules" / "@modelcontextprotocol"
LIMIT = 120.0
LISTENING = "0A"  # in /proc/net/tcp


def installed(folder: Path, *command: str | Path) -> tuple[str, ...]:
    marker = folder if folder.name != "node_modules" else folder.parent
    program = shutil.which(command[0])
    if program is None or not (marker / "greenroom-made").exists():
        why = f"{marker.name} is not set up (scripts/test does it; node servers need node and npm)"
        if os.environ.get("GREENROOM_NEED_SERVERS"):
            pytest.fail(why)
        pytest.skip(why)
    return (program, *map(str, command[1:]))


def python(name: str, *args: str) -> tuple[str, ...]:
    return installed(PYTHON, PYTHON / "bin" / name, *args)


def node(name: str, *args: str) -> tuple[str, ...]:
    return installed(NODE.parent, "node", NODE / name / "dist" / "index.js", *args)


async def offered(ref: ToolsetRef) -> dict[str, set[str]]:
    """The tools, and of each the names of what its schema has."""
    tools = {
        spec.name.removeprefix("fake."): set(json.loads(spec.input_schema).get("properties", {}))
        for spec in await ref.specs()
    }
    status = await ref.status()
    assert status.error is None, status.error
    return tools


@asynccontextmanager
async def over_http(folder: Path, *command: str) -> AsyncIterator[tuple[str, Path]]:
    """A server that takes its port from the environment: its URL and its log. The port is one that the system gave it,
    so that nobody else can have taken it meanwhile."""
    log = folder / "server.log"
    env = {**child_environment(os.environ), "PORT": "0"}
    with log.open("wb") as file, trio.fail_after(LIMIT):
        process = await trio.lowlevel.open_process(list(command), env=env, stdout=file, stderr=file)
        try:
            await until(lambda: b"listening" in log.read_bytes().lower() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{listening_port(process.pid)}/mcp", log
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def official() -> AsyncIterator[dict[str, str]]:
    """The server of official_server.py: its URLs, by way."""
    command = installed(PYTHON, PYTHON / "bin" / "python", official_server.__file__)
    with trio.fail_after(LIMIT):
        process = await trio.lowlevel.open_process(list(command), stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            ports = (await read_until(process.stdout, b"\n")).decode().split()
            yield {way: f"http://127.0.0.1:{port}/mcp" for way, port in zip(official_server.WAYS, ports, strict=True)}
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                if process.stdout is not None:
                    await process.stdout.aclose()


def listening_port(pid: int) -> int:
    """The port that a process of one listener has."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in inodes:
                return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError(f"process {pid} listens at no port")
