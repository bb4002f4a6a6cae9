"""A daemon with a tool server that asks: questions to clients, folders; and what else it says of itself."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.actors.processes import until
from tests.actors.toolsets import hostile
from tests.e2e.terminal import Terminal
from tests.e2e.test_cli import COMMAND, answer, environment, greenroom
from tests.e2e.test_shell import asked, begin, call_of
from tests.e2e.wire import DaemonProcess, Wire, WireError, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0
PLAN = {
    "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
    "prompts": [[{"name": "greet", "description": "says hello"}], [{"name": "part"}]],
    "resources": [[{"uri": "file:///notes", "name": "notes"}]],
}
FORM = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
    "required": ["word"],
}
ELICIT = {"method": "elicitation/create", "params": {"message": "Which?", "requestedSchema": FORM}}


def config(url: str, record: Path) -> str:
    plan = json.dumps({**PLAN, "record": str(record)})
    return f"""
        default_model = "real"
        [models.real]
        provider = "openai"
        base_url = "{url}"
        model = "theirs"
        [toolsets.their]
        kind = "mcp"
        command = "{sys.executable}"
        args = ["{hostile.__file__}", '{plan}']
        [permissions]
        allow = ["their"]
        headless = "allow"
        [limits]
        headless_grace = 1
        toolset_first_wait = 60  # on a machine that has much else to do
    """


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "lines"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, record: Path) -> Iterator[DaemonProcess]:
    with (
        model_server() as service,
        daemon(tmp_path_factory.mktemp("asks") / "data", config(service.url, record)) as process,
    ):
        yield process


def do(**given: Any) -> str:
    return f"!tool name=their__do input={json.dumps(given, separators=(',', ':'))}"


def told(record: Path) -> int:
    """Of how many calls the server was told that they are cancelled."""
    return record.read_text().count("notifications/cancelled")


async def output(wire: Wire, session: str) -> Any:
    call = await call_of(wire, session)
    assert call["state"] == "completed", call
    return json.loads(call["output"])


async def test_a_question_reaches_every_client_and_is_answered_once(host: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as one, connect(host.folder) as two:
            session, run, watch = await begin(one, do(ask=[ELICIT]), tmp_path)
            question = await asked(one, watch)
            assert question["input"] == {"message": "Which?", "schema": FORM}
            assert (question["tool"], question["question"]) == ("their.do", "their.do asks: Which?")
            assert (await one.request("run.get", run_id=run))["run"]["status"] == "waiting_approval"
            other = await two.request("run.watch", run_id=run)
            assert await asked(two, other["watch_id"]) == question
            reply = {"run_id": run, "call_id": question["call_id"], "decision": "allow"}
            with pytest.raises(WireError) as caught:
                await two.request("approval.reply", **reply, content={"word": "longer", "age": "x", "more": 1})
            assert {field["path"] for field in caught.value.data["fields"]} == {
                "content.word", "content.age", "content.more",
            }  # fmt: skip
            assert (await two.request("approval.reply", **reply, content={"word": "é", "age": 4}))["by"] == "client"
            with pytest.raises(WireError) as caught:
                await one.request("approval.reply", **{**reply, "decision": "deny"})
            assert caught.value.code == "already_resolved"
            events = await one.events(watch)
            assert events[-1]["status"] == "completed"
            assert await output(one, session) == [{"action": "accept", "content": {"word": "é", "age": 4}}]
            call = await call_of(one, session)
            assert question["parent_call_id"] == call["call_id"] != question["call_id"]


async def test_with_nobody_there_it_is_declined_whatever_headless_says(host: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session = (await wire.request("session.create", cwd=str(tmp_path)))["session"]["id"]
            started = await wire.request("run.start", session_id=session, text=do(ask=[ELICIT]))
            run = started["run"]["id"]
            while (await wire.request("run.get", run_id=run))["run"]["status"] != "completed":
                pass
            assert await output(wire, session) == [{"action": "decline"}]


async def test_the_folder_of_the_session_is_a_root(host: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session, _, watch = await begin(wire, do(ask=[{"method": "roots/list"}]), tmp_path)
            assert (await wire.events(watch))[-1]["status"] == "completed"
            (roots,) = await output(wire, session)
            assert {"uri": tmp_path.as_uri(), "name": tmp_path.name} in roots["roots"]


async def test_a_run_that_is_stopped_withdraws_its_question_and_tells_the_server(
    host: DaemonProcess, tmp_path: Path, record: Path
) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session, run, watch = await begin(wire, do(ask=[ELICIT]), tmp_path)
            question = await asked(wire, watch)
            cancelled = told(record)
            await wire.request("run.stop", run_id=run)
            events = await wire.events(watch)
            (resolved,) = [event for event in events if event["type"] == "approval.resolved"]
            assert (resolved["call_id"], resolved["decision"], resolved["by"]) == (
                question["call_id"], "cancel", "stop",
            )  # fmt: skip
            await until(lambda: told(record) == cancelled + 1)
            assert (await call_of(wire, session))["state"] == "error"


async def test_progress_is_shown_while_the_call_goes_on(host: DaemonProcess, tmp_path: Path) -> None:
    progress = (
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":@id@,"progress":1,"total":2}}'
    )
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            _, run, watch = await begin(wire, do(write=[progress], answer=None), tmp_path)
            try:
                call: Any = None
                while (event := await wire.event(watch)) is not None and event["type"] != "tool.output":
                    call = event.get("call_id", call)
                assert event is not None and (event["text"], event["call_id"]) == ("1 of 2\n", call)
            finally:
                await wire.request("run.stop", run_id=run)


async def test_prompts_and_resources_are_shown(host: DaemonProcess, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            _, _, watch = await begin(wire, do(), tmp_path)
            await wire.events(watch)
            (found,) = (await wire.request("toolset.list"))["toolsets"]
            assert found["prompts"] == [
                {"name": "greet", "description": "says hello"},
                {"name": "part", "description": ""},
            ]
            assert found["resources"] == [{"uri": "file:///notes", "name": "notes", "description": ""}]
    listed = answer(greenroom(host.folder, "toolsets"))
    assert "do (2 prompts, 1 resources)" in listed
    shown = answer(greenroom(host.folder, "toolsets", "show", "their"))
    assert "prompt greet: says hello" in shown and "resource file:///notes notes" in shown and "tool do" in shown
    assert greenroom(host.folder, "toolsets", "show", "other").returncode == 1


def test_on_a_terminal_the_person_fills_in_the_form(host: DaemonProcess, tmp_path: Path) -> None:
    run = Terminal([*COMMAND, "run", do(ask=[ELICIT])], environment(GREENROOM_DATA=str(host.folder)), tmp_path)
    run.expect("their.do asks: Which?")
    run.expect("answer?")
    run.type("y\n")
    run.expect("word (text):")
    run.type("far too long\n")
    run.expect("at most 5 characters")
    run.expect("word (text):")
    run.type("heron\n")
    run.expect("age (whole number; may be left out):")
    run.type("\n")
    assert run.wait() == 0
    assert b'"action": "accept"' in run.seen and b'"heron"' in run.seen


def test_without_a_terminal_a_question_is_declined(host: DaemonProcess, tmp_path: Path) -> None:
    done = greenroom(host.folder, "run", "--approve", "allow", do(ask=[ELICIT]), cwd=tmp_path)
    assert '"action": "decline"' in answer(done) and "declined" in done.stderr


async def test_a_crash_of_the_daemon_settles_the_question(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), model_server() as service:
        with daemon(folder, config(service.url, tmp_path / "lines")) as process:
            async with connect(folder) as wire:
                session, run, watch = await begin(wire, do(ask=[ELICIT]), tmp_path)
                question = await asked(wire, watch)
                process.signal(signal.SIGKILL)
                await wire.wait_closed()
            process.process.wait()
        with daemon(folder, config(service.url, tmp_path / "lines")):
            async with connect(folder) as wire:
                with pytest.raises(WireError) as caught:
                    await wire.request("approval.reply", run_id=run, call_id=question["call_id"], decision="allow")
                assert (caught.value.code, caught.value.data["by"]) == ("already_resolved", "restart")
                assert (await call_of(wire, session))["state"] == "error"
                session, _, watch = await begin(wire, do(answer={"content": []}), tmp_path)
                assert (await wire.events(watch))[-1]["status"] == "completed"
