"""A daemon with a tool server: called by a model, killed in a call, and gone with the daemon."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.actors import mcp_server
from tests.actors.processes import children, until, until_gone
from tests.actors.real_servers import python
from tests.e2e.test_shell import asked, begin, call_of
from tests.e2e.wire import DaemonProcess, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    command = python("mcp-server-time", "--local-timezone", "UTC")
    with model_server() as service:
        config = f"""
            default_model = "real"
            [models.real]
            provider = "openai"
            base_url = "{service.url}"
            model = "theirs"
            [toolsets.time]
            kind = "mcp"
            command = "{command[0]}"
            args = {list(command[1:])}
            [toolsets.fake]
            kind = "mcp"
            command = "{sys.executable}"
            args = ["{mcp_server.__file__}"]
            [permissions]
            allow = ["time", "fake.echo", "fake.silent"]
            [limits]
            toolset_first_wait = 60  # on a machine that has much else to do
        """
        with daemon(tmp_path_factory.mktemp("servers") / "data", config) as process:
            yield process


def below(pid: int) -> list[int]:
    found = children(pid)
    return found + [lower for child in found for lower in below(child)]


def fakes(host: DaemonProcess) -> list[int]:
    name = mcp_server.__file__.encode()
    return [pid for pid in below(host.pid) if name in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


async def test_a_model_calls_a_real_server(host: DaemonProcess, tmp_path: Path) -> None:
    given = '{"source_timezone":"UTC","time":"12:00","target_timezone":"Asia/Tokyo"}'
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session, _, watch = await begin(wire, f"!tool name=time__convert_time input={given}", tmp_path)
            assert (await wire.events(watch))[-1]["status"] == "completed"
            call = await call_of(wire, session)
            assert (call["tool"], call["state"]) == ("time.convert_time", "completed")
            assert "21:00" in call["output"]


async def test_what_no_rule_allows_is_asked(host: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            _, run, watch = await begin(wire, '!tool name=fake__stderr input={"size":1}', tmp_path)
            assert (await asked(wire, watch))["type"] == "approval.requested"
            await wire.request("run.stop", run_id=run)


async def test_a_server_killed_in_a_call_is_an_error_and_is_started_again(host: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session, _, watch = await begin(wire, "!tool name=fake__silent input={}", tmp_path)
            while (event := await wire.event(watch)) is not None and event.get("state") != "running":
                pass
            await until(lambda: bool(fakes(host)))
            (pid,) = fakes(host)
            os.kill(pid, signal.SIGKILL)
            assert (await wire.events(watch))[-1]["status"] == "completed"
            assert (await call_of(wire, session))["state"] == "error"
            session, _, watch = await begin(wire, '!tool name=fake__echo input={"text":"again"}', tmp_path)
            assert (await wire.events(watch))[-1]["status"] == "completed"
            assert (await call_of(wire, session))["output"] == "again"


async def test_a_run_does_not_wait_for_a_server_that_never_answers(tmp_path: Path) -> None:
    started = tmp_path / "started"
    hang = "import sys, time; open(sys.argv[1], 'a').write('x'); time.sleep(1000)"
    with model_server() as service:
        config = f"""
            default_model = "real"
            [models.real]
            provider = "openai"
            base_url = "{service.url}"
            model = "theirs"
            [toolsets.todo]
            kind = "builtin"
            [toolsets.hangs]
            kind = "mcp"
            command = "{sys.executable}"
            args = {json.dumps(["-c", hang, str(started)])}
            [toolsets.breaks]
            kind = "mcp"
            command = "/bin/false"
            [limits]
            toolset_first_wait = 1
            toolset_start_timeout = 600
        """
        with trio.fail_after(LIMIT), daemon(tmp_path / "data", config) as host:
            async with connect(host.folder) as wire:
                _, _, watch = await begin(wire, "hi", tmp_path)
                assert (await wire.events(watch))[-1]["status"] == "completed"
                states = {one["name"]: one for one in (await wire.request("toolset.list"))["toolsets"]}
                assert (states["hangs"]["state"], states["hangs"]["restarts"]) == ("starting", 0)
                asked = service.ended(1)["body"]
                assert {tool["function"]["name"].partition("__")[0] for tool in asked["tools"]} == {"todo"}
                assert "The tools of hangs, breaks are not there now" in asked["messages"][0]["content"]
                await until(lambda: started.exists() and started.read_text() == "x")


async def test_a_daemon_that_is_killed_leaves_no_server(tmp_path: Path) -> None:
    config = f'[toolsets.fake]\nkind = "mcp"\ncommand = "{sys.executable}"\nargs = ["{mcp_server.__file__}"]\n'
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config + 'restart = "always"\n') as host:
        await until(lambda: bool(fakes(host)))
        left = below(host.pid)
        host.process.kill()
        host.wait()
        await until_gone(left)


async def test_a_guard_killed_with_its_keepers_leaves_nothing_that_left_its_session(tmp_path: Path) -> None:
    """The daemon takes their place, and starts the server again below another guard."""
    launch = "import os, subprocess, sys\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    launch += "os.execv(sys.argv[1], sys.argv[1:])"
    arguments = json.dumps(["-c", launch, sys.executable, mcp_server.__file__])
    config = f'[toolsets.fake]\nkind = "mcp"\ncommand = "{sys.executable}"\nargs = {arguments}\nrestart = "always"\n'
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config) as host:
        await until(lambda: len(below(host.pid)) == 4)  # guard, keeper, server, and what has left its session
        before = below(host.pid)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in before[:2]:
                os.kill(pid, number)
        await until_gone(before)
        await until(lambda: len(below(host.pid)) == 4)
        assert not set(below(host.pid)) & set(before)
        assert len(children(host.pid)) == 1
