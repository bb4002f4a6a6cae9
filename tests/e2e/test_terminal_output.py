"""What models, tools, tool servers, titles and folders say never steers the terminal of a command that shows it.

Each command runs on a terminal of its own, and every byte that it writes is looked at: the commands have no sequences
of their own, so there must be none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from tests.actors.toolsets import hostile
from tests.attacks import ALL, ATTACKS
from tests.e2e.screen import Screen, sequences
from tests.e2e.test_cli import COMMAND, environment
from tests.e2e.wire import connect, daemon
from tests.model_server import model_server

SPOKEN = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe"
READ = '!tool name=files__read_file input={"path":"evil.txt"}'


def config(url: str) -> str:
    plan = {
        "tools": [[{"name": "do", "description": f"It {SPOKEN} does.", "inputSchema": {"type": "object"}}]],
        "prompts": [[{"name": f"p{SPOKEN}", "description": SPOKEN}, {"name": "plain", "description": SPOKEN}]],
        "resources": [[{"uri": f"file:///{SPOKEN}", "name": SPOKEN}]],
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
    }
    refusing = {"refuse": {"initialize": SPOKEN}}
    return f"""
        default_model = "real"
        [models.real]
        provider = "openai"
        base_url = "{url}"
        model = "theirs"
        [toolsets.files]
        kind = "builtin"
        [toolsets.their]
        kind = "mcp"
        command = "{sys.executable}"
        args = ["{hostile.__file__}", {json.dumps(json.dumps(plan))}]
        [toolsets.broken]
        kind = "mcp"
        command = "{sys.executable}"
        args = ["{hostile.__file__}", {json.dumps(json.dumps(refusing))}]
        restart = "never"
        [limits]
        model_attempts = 1
    """


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "wo\x1b]0;owned\x07\x9brk\u202e"
    folder.mkdir()
    (folder / "evil.txt").write_text(ALL.replace("\0", ""))  # with one it is a binary file
    return folder


@attrs.frozen
class Host:
    """A daemon in which everything is hostile."""

    folder: Path
    sessions: list[str]
    runs: list[str]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("output") / "data"
    with model_server() as service, daemon(folder, config(service.url)):
        host = Host(folder, [], [])
        trio.run(fill, host, place)
        yield host


async def fill(host: Host, place: Path) -> None:
    with trio.fail_after(60):
        async with connect(host.folder) as wire:
            for prompt in (f"!attack {SPOKEN}", READ, f"!status code=400 message={SPOKEN}"):
                session = (await wire.request("session.create", cwd=str(place)))["session"]
                started = await wire.request("run.start", session_id=session["id"], text=prompt, watch=True)
                await wire.events(started["watch_id"], gaps=True)
                host.sessions.append(session["id"])
                host.runs.append(started["run"]["id"])
            for name in ("their", "broken"):
                await wire.request("toolset.restart", name=name)


def seen(host: Host, place: Path, *words: str) -> str:
    """What the command wrote on a terminal, in which there is nothing that a terminal obeys."""
    with Screen([*COMMAND, *words], environment(GREENROOM_DATA=str(host.folder)), place) as screen:
        screen.wait()
        raw = bytes(screen.raw)
    assert set(sequences(raw)) <= {("control", "\r"), ("control", "\n"), ("control", "\t")}
    assert raw.count(b"\r") == raw.count(b"\r\n")  # those of the line discipline
    return raw.decode()


@pytest.mark.parametrize("prompt", ["!attack size=1", READ, f"!status code=400 message={SPOKEN}"])
def test_an_answer(host: Host, place: Path, prompt: str) -> None:
    found = seen(host, place, "run", prompt)
    assert "]0;owned" in found  # it can be seen
    if "attack" in prompt:
        assert all(f"{name}: " in found for name in ATTACKS if "halves" not in name)


def test_a_list_of_sessions_and_one_of_them(host: Host, place: Path) -> None:
    assert "!attack" in seen(host, place, "sessions")
    found = seen(host, place, "sessions", "show", host.sessions[0])
    assert "in /" in found and "␛]0;owned␇" in found


def test_runs_and_what_became_of_each(host: Host, place: Path) -> None:
    assert "failed" in seen(host, place, "runs")
    assert "answered 400: ]0;owned" in seen(host, place, "runs", "show", host.runs[-1])


def test_what_tool_servers_say_of_themselves(host: Host, place: Path) -> None:
    found = seen(host, place, "toolsets", "show", "their", "broken")
    assert "tool do: It ␛]0;owned␇" in found and "prompt p␛]0;owned␇" in found


def test_what_the_daemon_holds(host: Host, place: Path) -> None:
    assert "resident" in seen(host, place, "stats", "--tree")
