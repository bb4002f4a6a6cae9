"""Calls that wait for a person: over the wire from several clients, on the command line, and over a crash."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.terminal import Terminal
from tests.e2e.test_cli import COMMAND, answer, environment, greenroom
from tests.e2e.wire import DaemonProcess, Wire, WireError, connect, daemon

LIMIT = 120.0
CONFIG = '[permissions]\nask = ["files.read_file"]\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("asks") / "data", CONFIG) as process:
        yield process


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "secret.txt").write_text("the word is heron")
    return folder


async def asked(wire: Wire, place: Path) -> tuple[str, dict[str, Any], str]:
    """A run whose only call waits: its id, what was asked, and the watch."""
    session = (await wire.request("session.create", cwd=str(place)))["session"]
    started = await wire.request("run.start", session_id=session["id"], text="read secret.txt", watch=True)
    while (event := await wire.event(started["watch_id"])) is not None:
        if event["type"] == "approval.requested":
            return started["run"]["id"], event, started["watch_id"]
    raise AssertionError("it was not asked")


async def test_every_client_sees_it_the_first_reply_wins_and_the_other_is_told(
    server: DaemonProcess, place: Path
) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            run_id, request, watch_id = await asked(one, place)
            assert (request["tool"], request["input"]) == ("files.read_file", {"path": "secret.txt"})
            assert (await two.request("run.get", run_id=run_id))["run"]["status"] == "waiting_approval"
            other = await two.request("run.watch", run_id=run_id)
            while (event := await two.event(other["watch_id"])) is not None and event["type"] != "approval.requested":
                pass
            assert event == request
            given = {"run_id": run_id, "call_id": request["call_id"]}
            assert await two.request("approval.reply", **given, decision="allow") == {
                "decision": "allow",
                "by": "client",
            }
            with pytest.raises(WireError) as caught:
                await one.request("approval.reply", **given, decision="deny")
            assert (caught.value.code, caught.value.data["decision"], caught.value.data["by"]) == (
                "already_resolved", "allow", "client",
            )  # fmt: skip
            assert (await one.request("approval.reply", **given, decision="allow"))["decision"] == "allow"
            events = await one.events(watch_id)
            (resolved,) = [event for event in events if event["type"] == "approval.resolved"]
            assert (resolved["decision"], resolved["by"]) == ("allow", "client")
            assert any(event["type"] == "tool.updated" and "heron" in event.get("output", "") for event in events)
            with pytest.raises(WireError) as caught:
                await one.request("approval.reply", run_id=run_id, call_id="call_other", decision="allow")
            assert caught.value.code == "unknown_approval"


async def test_a_crash_decides_and_the_next_run_asks_again(tmp_path: Path, place: Path) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), daemon(folder, CONFIG) as process:
        async with connect(folder) as wire:
            run_id, request, _ = await asked(wire, place)
            session_id = (await wire.request("run.get", run_id=run_id))["run"]["session_id"]
            process.signal(signal.SIGKILL)
            await wire.wait_closed()
        process.process.wait()
    with trio.fail_after(LIMIT), daemon(folder, CONFIG):
        async with connect(folder) as wire:
            assert (await wire.request("run.get", run_id=run_id))["run"]["status"] == "interrupted"
            with pytest.raises(WireError) as caught:
                await wire.request("approval.reply", run_id=run_id, call_id=request["call_id"], decision="allow")
            assert (caught.value.code, caught.value.data["decision"], caught.value.data["by"]) == (
                "already_resolved", "deny", "restart",
            )  # fmt: skip
            page = await wire.request("session.messages", session_id=session_id)
            (call,) = [part for part in page["messages"][-1]["parts"] if part["kind"] == "tool"]
            assert call["state"] == "error" and "approval" in call["error"]
            started = await wire.request("run.start", session_id=session_id, text="read secret.txt", watch=True)
            kinds = []
            while "approval.requested" not in kinds:
                event = await wire.event(started["watch_id"])
                assert event is not None
                kinds.append(event["type"])
            await wire.request("run.stop", run_id=started["run"]["id"])


async def test_a_client_that_comes_with_an_old_cursor_finds_it_in_the_snapshot(tmp_path: Path, place: Path) -> None:
    config = CONFIG + "[limits]\nrun_log_entries = 2\n"
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config) as process:
        async with connect(process.folder) as one, connect(process.folder) as two:
            session = (await one.request("session.create", cwd=str(place)))["session"]
            started = await one.request("run.start", session_id=session["id"], text="read secret.txt")
            run_id = started["run"]["id"]
            while (await one.request("run.get", run_id=run_id))["run"]["status"] != "waiting_approval":
                pass
            watch = await two.request("run.watch", run_id=run_id, after=1)
            assert (await two.push(watch["watch_id"]))["method"] == "run.gap"
            snapshot = await two.push(watch["watch_id"])
            (pending,) = snapshot["params"]["pending_approvals"]
            assert (pending["tool"], pending["input"]) == ("files.read_file", {"path": "secret.txt"})
            await two.request("approval.reply", run_id=run_id, call_id=pending["call_id"], decision="deny")


def test_without_a_terminal_the_command_line_denies_or_does_as_it_is_told(server: DaemonProcess, place: Path) -> None:
    denied = greenroom(server.folder, "run", "read secret.txt", cwd=place)
    assert "heron" not in denied.stdout and "asks for files.read_file" in denied.stderr
    allowed = greenroom(server.folder, "run", "--approve", "allow", "read secret.txt", cwd=place)
    assert "heron" in answer(allowed)
    assert greenroom(server.folder, "run", "--approve", "ask", "read secret.txt", cwd=place).returncode == 2


@pytest.mark.parametrize(
    ("typed", "code", "wanted"), [("y\n", 0, "heron"), ("what?\nn\n", 0, "denied"), ("c\n", 5, "cancelled")]
)
def test_on_a_terminal_the_person_is_asked(
    server: DaemonProcess, place: Path, typed: str, code: int, wanted: str
) -> None:
    run = Terminal([*COMMAND, "run", "read secret.txt"], environment(GREENROOM_DATA=str(server.folder)), place)
    run.expect("asks for files.read_file")
    for line in typed.splitlines(keepends=True):
        run.expect("allow?")
        run.type(line)
    assert run.wait() == code
    assert wanted.encode() in run.seen


def test_a_chat_asks_and_remembers(server: DaemonProcess, place: Path) -> None:
    chat = Terminal([*COMMAND, "chat", "--plain"], environment(GREENROOM_DATA=str(server.folder)), place)
    chat.expect("> ")
    chat.type("read secret.txt\n")
    chat.expect("allow?")
    chat.type("a\n")
    chat.expect("heron")
    chat.expect("> ")
    chat.type("read secret.txt\n")
    chat.expect("heron")
    chat.expect("> ")
    chat.type("/quit\n")
    assert chat.wait() == 0
    assert b"allow?" not in chat.seen
