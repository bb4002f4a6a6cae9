"""Real tool servers, as others publish them: all their tools are listed, and one is called. Set up by scripts/test."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
import trio

from actors.toolset import ToolsetRef
from actors.toolsets.mcp import Server
from engine import codec
from engine.tools.environment import child_environment
from tests.actors.processes import until
from tests.actors.test_toolset_mcp import CONTEXT, opened

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-servers"
NODE = ROOT / ".servers" / "node_modules" / "@modelcontextprotocol"


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


async def names(ref: ToolsetRef) -> set[str]:
    specs = {spec.name.removeprefix("fake.") for spec in await ref.specs()}
    status = await ref.status()
    assert status.error is None, status.error
    return specs


async def test_time(tmp_path: Path) -> None:
    async with opened(tmp_path, python("mcp-server-time", "--local-timezone", "UTC")) as world:
        assert await names(world.ref) == {"get_current_time", "convert_time"}
        given = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        result = await world.call("convert_time", **given)
        assert not result.is_error and "21:00" in result.text
        assert (await world.call("convert_time", **{**given, "target_timezone": "No/Where"})).is_error


async def test_git(tmp_path: Path) -> None:
    await trio.run_process(["git", "init", "-q", "-b", "trunk", str(tmp_path / "repo")])
    async with opened(tmp_path, python("mcp-server-git")) as world:
        assert {"git_status", "git_diff", "git_commit", "git_log", "git_show"} <= await names(world.ref)
        result = await world.call("git_status", repo_path=str(tmp_path / "repo"))
        assert not result.is_error and "trunk" in result.text


async def test_filesystem(tmp_path: Path) -> None:
    folder = (tmp_path / "files").resolve()
    folder.mkdir()
    (folder / "a.txt").write_text("hello\n" * 20_000)
    async with opened(tmp_path, node("server-filesystem", str(folder))) as world:
        assert {"read_text_file", "write_file", "list_directory", "search_files"} <= await names(world.ref)
        result = await world.call("read_text_file", path=str(folder / "a.txt"))
        assert not result.is_error and result.text.startswith("hello\n") and result.whole is not None
        refused = await world.call("read_text_file", path="/etc/passwd")
        assert refused.is_error


async def test_everything_over_pipes(tmp_path: Path) -> None:
    async with opened(tmp_path, node("server-everything", "stdio")) as world:
        assert {"echo", "get-sum"} <= await names(world.ref)
        assert "hello" in (await world.call("echo", message="hello")).text
        shown: list[str] = []
        given = codec.dump({"duration": 0.2, "steps": 2})
        result = await world.ref.call("trigger-long-running-operation", given, CONTEXT, shown.append)
        assert not result.is_error and shown


async def test_everything_over_http(tmp_path: Path, unused_port: int) -> None:
    command = node("server-everything", "streamableHttp")
    env = {**child_environment(os.environ), "PORT": str(unused_port)}
    log = tmp_path / "log"
    with log.open("wb") as file, trio.fail_after(60):
        process = await trio.lowlevel.open_process(command, env=env, stdout=file, stderr=file)
        try:
            await until(lambda: b"listening" in log.read_bytes().lower())
            server = Server(url=f"http://127.0.0.1:{unused_port}/mcp")
            async with opened(tmp_path, server=server) as world:
                assert {"echo", "get-sum"} <= await names(world.ref)
                assert "hello" in (await world.call("echo", message="hello")).text
        finally:
            process.kill()
            await process.wait()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
