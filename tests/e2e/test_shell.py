"""Shell commands through a real daemon: asked for, allowed by rule, denied without a person, and gone when they end."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.actors.processes import until
from tests.e2e.test_cli import alive, answer, greenroom
from tests.e2e.wire import DaemonProcess, Wire, WireError, connect, daemon

LIMIT = 120.0  # absolute, for a hung test
NOBODY = "[limits]\nheadless_grace = 0.05\n"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Without any configuration."""
    with daemon(tmp_path_factory.mktemp("shell") / "data") as process:
        yield process


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """With a rule for `echo`, and one for the toolset's commands that these tests wait in."""
    rules = '[permissions]\nallow = ["shell(command=echo *)", "shell(command=seq *)", "shell(command=sleep *)"]\n'
    with daemon(tmp_path_factory.mktemp("rules") / "data", rules) as process:
        yield process


async def begin(wire: Wire, text: str, cwd: Path, **fields: Any) -> tuple[str, str, str]:
    """The ids of a session and its run, and the watch."""
    session = (await wire.request("session.create", cwd=str(cwd)))["session"]
    started = await wire.request("run.start", session_id=session["id"], text=text, watch=True, **fields)
    return session["id"], started["run"]["id"], started["watch_id"]


async def asked(wire: Wire, watch_id: str) -> dict[str, Any]:
    while (event := await wire.event(watch_id)) is not None:
        if event["type"] == "approval.requested":
            return event
    raise AssertionError("it was not asked")


async def call_of(wire: Wire, session_id: str) -> dict[str, Any]:
    """The only tool call of the session."""
    page = await wire.request("session.messages", session_id=session_id)
    (call,) = [part for message in page["messages"] for part in message["parts"] if part["kind"] == "tool"]
    return dict(call)


def marked() -> str:
    """An argument of `sleep` that no other process has."""
    return f"{os.getpid()}.{next(_numbers)}"


def running(mark: str) -> list[int]:
    """Processes, other than zombies, that were given the mark."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(mark.encode() in word for word in words) and alive(int(name)):
                found.append(int(name))
    return found


async def test_it_is_asked_and_what_is_allowed_is_in_the_transcript(server: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, run_id, watch_id = await begin(wire, "run echo hi; pwd", tmp_path)
            request = await asked(wire, watch_id)
            assert (request["tool"], request["input"]) == ("shell.run", {"command": "echo hi; pwd"})
            await wire.request("approval.reply", run_id=run_id, call_id=request["call_id"], decision="allow")
            await wire.events(watch_id)
            call = await call_of(wire, session_id)
            assert (call["state"], call["output"]) == ("completed", f"hi\n{tmp_path}\n")


async def test_what_is_denied_is_not_run_and_the_model_is_told(server: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, run_id, watch_id = await begin(wire, "run echo > made", tmp_path)
            request = await asked(wire, watch_id)
            given = {"run_id": run_id, "call_id": request["call_id"], "decision": "deny", "reason": "not now"}
            await wire.request("approval.reply", **given)
            await wire.events(watch_id)
            call = await call_of(wire, session_id)
            assert call["state"] == "error" and "the user denied it (not now)" in call["error"]
            assert os.listdir(tmp_path) == []


async def test_a_rule_allows_its_command_and_nothing_behind_it(allowing: DaemonProcess, tmp_path: Path) -> None:
    victim = tmp_path / "x"
    victim.touch()
    with trio.fail_after(LIMIT):
        async with connect(allowing.folder) as wire:
            session_id, _, watch_id = await begin(wire, "run echo hi", tmp_path)
            kinds = [event["type"] for event in await wire.events(watch_id)]
            assert "approval.requested" not in kinds and kinds[-1] == "run.finished"
            assert (await call_of(wire, session_id))["output"] == "hi\n"
            for behind in ("; rm -rf x", " && rm -rf x", " $(rm -rf x)", " | xargs rm -rf x", " > x", "\nrm -rf x"):
                _, run_id, watch_id = await begin(wire, f"run echo hi{behind}", tmp_path)
                request = await asked(wire, watch_id)
                assert request["input"]["command"] == f"echo hi{behind}"
                given = {"run_id": run_id, "call_id": request["call_id"]}
                await wire.request("approval.reply", **given, decision="cancel")
            assert victim.exists() and victim.stat().st_size == 0


@pytest.mark.parametrize(("headless", "state"), [("deny", "error"), ("allow", "completed")])
async def test_with_nobody_there_the_configuration_decides(tmp_path: Path, headless: str, state: str) -> None:
    config = NOBODY + f'[permissions]\nheadless = "{headless}"\n'
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config) as process:
        async with connect(process.folder) as wire:
            session = (await wire.request("session.create", cwd=str(tmp_path)))["session"]
            started = await wire.request("run.start", session_id=session["id"], text="run echo hi")
            run = started["run"]
            while run["status"] != "completed":
                run = (await wire.request("run.get", run_id=run["id"]))["run"]
            call = await call_of(wire, session["id"])
            assert call["state"] == state
            assert call.get("output") == ("hi\n" if state == "completed" else None)
            assert state == "completed" or "nobody is there to be asked" in call["error"]


async def test_what_it_writes_is_shown_while_it_runs(server: DaemonProcess, tmp_path: Path) -> None:
    command = "echo one; until [ -e go ]; do sleep 0.01; done; echo two"
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            _, run_id, watch_id = await begin(wire, f"run {command}", tmp_path)
            request = await asked(wire, watch_id)
            await wire.request("approval.reply", run_id=run_id, call_id=request["call_id"], decision="allow")
            seen: list[dict[str, Any]] = []
            while not seen or seen[-1]["type"] != "tool.output":
                event = await wire.event(watch_id)
                assert event is not None, seen
                seen.append(event)
            assert (seen[-1]["call_id"], seen[-1]["text"]) == (request["call_id"], "one\n")
            (tmp_path / "go").touch()
            rest = await wire.events(watch_id)
            (end,) = [number for number, event in enumerate(rest) if event.get("output")]
            assert rest[end]["output"] == "one\ntwo\n"
            assert "tool.output" not in [event["type"] for event in rest[end:]]


async def test_a_stop_in_the_middle_of_a_command_leaves_no_process(allowing: DaemonProcess, tmp_path: Path) -> None:
    mark = marked()
    with trio.fail_after(LIMIT):
        async with connect(allowing.folder) as wire:
            session_id, run_id, watch_id = await begin(wire, f"run sleep 1{mark} | sleep 2{mark}", tmp_path)
            await until(lambda: len(running(mark)) >= 3)  # the shell and both
            stopped = await wire.request("run.stop", run_id=run_id)
            assert running(mark) == []
            assert stopped["run"]["status"] == "cancelled"
            assert (await wire.events(watch_id))[-1]["type"] == "run.finished"
            call = await call_of(wire, session_id)
            assert call["state"] == "error" and "did not finish" in call["error"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_end_of_the_daemon_leaves_no_process(tmp_path: Path, number: int) -> None:
    mark = marked()
    config = '[limits]\ndrain_timeout = 0.1\n[permissions]\nallow = ["shell"]\n'
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config) as process:
        async with connect(process.folder) as wire:
            command = f"trap '' TERM HUP; setsid sleep 1{mark} & sleep 2{mark}"
            await begin(wire, f"run {command}", tmp_path)
            await until(lambda: len(running(mark)) >= 3)
            process.signal(number)
            await wire.wait_closed()
        process.process.wait()
        if number == signal.SIGTERM:
            assert running(mark) == [], "an orderly end waits for what it has started"
        await until(lambda: running(mark) == [])


async def test_a_long_output_can_be_read_whole(allowing: DaemonProcess, tmp_path: Path) -> None:
    whole = "".join(f"{number}\n" for number in range(1, 200_001))
    with trio.fail_after(LIMIT):
        async with connect(allowing.folder) as wire:
            session_id, _, watch_id = await begin(wire, "run seq 200000", tmp_path)
            await wire.events(watch_id)
            call = await call_of(wire, session_id)
            assert call["output"].startswith("1\n2\n") and len(call["output"]) < 60_000
            more = call["output_more"]
            assert more["bytes"] == len(whole)
            read = ""
            offset: int | None = 0
            while offset is not None:
                piece = await wire.request("output.read", handle=more["handle"], offset=offset)
                assert piece["total"] == len(whole)
                read += piece["text"]
                offset = piece.get("next_offset")
            assert read == whole
            await wire.request("session.delete", session_id=session_id)
            with pytest.raises(WireError) as caught:
                await wire.request("output.read", handle=more["handle"])
            assert caught.value.code == "unknown_output"


def test_the_tools_that_a_rule_denies_are_not_offered(tmp_path: Path) -> None:
    with daemon(tmp_path / "data", '[permissions]\ndeny = ["shell"]\n') as process:
        told = answer(greenroom(process.folder, "run", "run echo hi", cwd=tmp_path))
        assert "no shell tool is available" in told


# ------------------------------------------------------------------ greenroom toolsets
def test_toolsets_on_the_command_line(server: DaemonProcess) -> None:
    listed = json.loads(answer(greenroom(server.folder, "toolsets", "--json")))["toolsets"]
    assert [(one["name"], one["kind"], one["state"]) for one in listed][:2] == [
        ("files", "builtin", "ready"),
        ("shell", "builtin", "ready"),
    ]
    assert [tool["name"] for tool in listed[1]["tools"]] == ["run", "start", "list", "view", "stop"]
    heads, *rows = answer(greenroom(server.folder, "toolsets", "list")).splitlines()
    assert heads.split() == ["TOOLSET", "KIND", "STATE", "CALLS", "RESTARTS", "TOOLS"]
    assert [row.split()[0] for row in rows] == [one["name"] for one in listed]
    assert "run start list view stop" in rows[1]


async def test_a_restart_ends_the_calls_of_a_toolset(allowing: DaemonProcess, tmp_path: Path) -> None:
    mark = marked()
    with trio.fail_after(LIMIT):
        async with connect(allowing.folder) as wire:
            session_id, _, watch_id = await begin(wire, f"run sleep 1{mark}", tmp_path)
            await until(lambda: len(running(mark)) >= 1)
            (before,) = [one for one in (await wire.request("toolset.list"))["toolsets"] if one["name"] == "shell"]
            assert before["leases"] == 1
            ended = await trio.to_thread.run_sync(greenroom, allowing.folder, "toolsets", "restart", "shell", "files")
            assert answer(ended) == "shell ready\nfiles ready\n"
            assert running(mark) == []
            assert (await wire.events(watch_id))[-1]["type"] == "run.finished"
            call = await call_of(wire, session_id)
            assert call["state"] == "error" and "the toolset shell is stopped" in call["error"]
            again, _, watch_id = await begin(wire, "run echo again", tmp_path)
            await wire.events(watch_id)
            assert (await call_of(wire, again))["output"] == "again\n"


def test_a_restart_of_what_is_not_there(server: DaemonProcess) -> None:
    ended = greenroom(server.folder, "toolsets", "restart", "nope")
    assert ended.returncode == 1 and "no toolset is named 'nope'" in ended.stderr and ended.stdout == ""
    shown = json.loads(answer(greenroom(server.folder, "toolsets", "restart", "--json", "shell")))["toolsets"]
    assert [(one["name"], one["state"]) for one in shown] == [("shell", "ready")]
