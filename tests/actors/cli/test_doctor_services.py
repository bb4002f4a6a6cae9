"""The doctor before real services and real tool servers, good ones and bad ones."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors._guard import open_guard
from actors._http import HttpClient
from actors._spool import open_spools
from actors.cli import doctor_daemon, doctor_models, doctor_tools
from actors.cli.doctor_checks import Result
from actors.client import AccessDenied, ClientError, ConnectionLost, Untrusted
from actors.places import DaemonFile, write_daemon_file
from engine.config import Config, ModelConfig, ToolsetConfig
from engine.limits import DEFAULT
from engine.storage import lock
from engine.version import VERSION
from tests.model_server import model_server

LIMIT = 60.0  # absolute, for a test that hangs
KEY = "sk-a-key-of-the-doctors-tests"
SERVER = Path(__file__).parents[1] / "mcp_server.py"


# ------------------------------------------------------------------ models
@contextlib.asynccontextmanager
async def answering(status: str, body: bytes = b"", *headers: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A service that gives each request the same answer; its address, and the heads of what it was asked."""
    asked: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        asked.append(head.decode())
        more = "".join(f"{header}\r\n" for header in headers)
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n".encode()
        await stream.send_all(answer + body)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()


def model(url: str, **changes: Any) -> ModelConfig:
    return attrs.evolve(ModelConfig(provider="openai", base_url=f"{url}/v1", model="theirs"), **changes)


async def ask(config: ModelConfig, **more: Any) -> Result:
    client = HttpClient(DEFAULT)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            result = await doctor_models.check(client, "ours", config, DEFAULT, **more)
            nursery.cancel_scope.cancel()
        await client.aclose()
    assert KEY not in result.text + "".join(result.advice)
    return result


def listing(*names: str) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()


async def test_a_service_that_has_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORS_KEY", KEY)
    async with answering("200 OK", listing("other", "theirs")) as (url, asked):
        told = await ask(model(url, api_key_env="DOCTORS_KEY"))
        assert told.state == "good"
        assert told.text == f"{url}/v1 answers, takes the key of the environment variable DOCTORS_KEY, and has theirs"
        assert asked[0].startswith("GET /v1/models HTTP/1.1")
        assert f"authorization: bearer {KEY}" in asked[0].lower()
        told = await ask(model(url, provider="anthropic", api_key_env="DOCTORS_KEY"))
        assert told.state == "good"
        assert asked[1].startswith("GET /v1/models?limit=1000 HTTP/1.1")
        assert f"x-api-key: {KEY}" in asked[1].lower()
        # The daemon that runs may have been started without it.
        assert (await ask(model(url, api_key_env="DOCTORS_KEY"), daemon=frozenset({"DOCTORS_KEY"}))).state == "good"
        told = await ask(model(url, api_key_env="DOCTORS_KEY"), daemon=frozenset({"PATH"}))
        assert told.state == "warning" and "was started without DOCTORS_KEY" in told.text


async def test_a_model_that_is_not_listed() -> None:
    names = [f"a{number}" for number in range(20)]
    async with answering("200 OK", listing("theirs-2", "\x1b[2Jevil", *names)) as (url, _):
        told = await ask(model(url))
    assert told.state == "warning"
    assert "did you mean theirs-2?" in told.text
    assert "and 12 more" in told.advice[0]
    assert "\x1b" not in told.text + told.advice[0]


@pytest.mark.parametrize(
    ("status", "body", "state", "says"),
    [
        (
            "401 Unauthorized",
            b'{"error":{"message":"no such key: sk-a-key-of-the-doctors-tests"}}',
            "failed",
            "no such key: ‹hidden›",
        ),
        ("403 Forbidden", b"", "failed", "answered 403"),
        ("404 Not Found", b"", "warning", "lists no models (HTTP 404)"),
        ("405 Method Not Allowed", b"", "warning", "(HTTP 405)"),
        ("429 Too Many Requests", b'{"error":{"message":"slow down"}}', "warning", "slow down"),
        ("500 Oops", b'{"error":{"message":"broken \\u001b[31m"}}', "failed", "broken"),
        ("200 OK", b"<html>a page</html>", "warning", "with no list of models"),
        ("200 OK", b'{"data": "no list"}', "warning", "with no list of models"),
        ("200 OK", b"[" * 100_000, "warning", "with no list of models"),
        ("200 OK", b'{"data": [7, {"id": 8}, null]}', "warning", "does not list theirs"),
    ],
)
async def test_what_services_answer(
    status: str, body: bytes, state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCTORS_KEY", KEY)
    async with answering(status, body) as (url, _):
        told = await ask(model(url, api_key_env="DOCTORS_KEY"))
    assert told.state == state
    assert says in told.text
    assert told.advice
    assert "\x1b" not in told.text


async def test_a_service_that_sends_on_elsewhere() -> None:
    async with answering("301 Moved", b"", "Location: https://elsewhere/v1/models") as (url, _):
        told = await ask(model(url))
    assert told.state == "failed" and "https://elsewhere/v1/models" in told.text


async def test_nobody_listens_and_no_key(tmp_path: Path) -> None:
    async with answering("200 OK") as (url, _):
        pass
    told = await ask(model(url))
    assert told.state == "failed" and "start the service" in told.advice[0]
    told = await ask(model("http://no-such-host.invalid"))
    assert told.state == "failed"
    # What the resolver says differs with the network; its number alone helps nobody.
    assert "Unknown error" not in told.text
    assert "base_url in [models.ours]" in told.advice[0]
    told = await ask(model(url, api_key_env="NO_SUCH_VARIABLE_OF_OURS"))
    assert told.state == "failed" and told.advice[0].startswith("set NO_SUCH_VARIABLE_OF_OURS where the daemon")
    told = await ask(model(url, api_key_file=str(tmp_path / "none")))
    assert told.state == "failed" and str(tmp_path / "none") in told.advice[0]


async def test_a_real_call_only_if_it_is_wanted() -> None:
    with model_server() as server:
        config = ModelConfig(provider="openai", base_url=server.url, model="stream n=100000 rate=20")
        # This service lists no models.
        told = await ask(config)
        assert told.state == "warning"
        told = await ask(config, call=True)
        assert told.state == "good"
        assert "it began to answer after" in told.text
        # It was left at the first word.
        asked = await trio.to_thread.run_sync(server.ended, 1)
        assert asked["end"] == "closed"
        refused = attrs.evolve(config, model="status code=400 message=not_in_your_plan")
        told = await ask(refused, call=True)
        assert told.state == "failed" and "not in your plan" in told.text


def test_offline_nothing_is_asked() -> None:
    config = Config(models={"demo": ModelConfig(provider="demo"), "x": model("http://127.0.0.1:1")})
    checks = list(doctor_models.checks(config, HttpClient(DEFAULT), offline=True, call=False, daemon=None))
    assert [trio.run(check.work).state for check in checks] == ["good", "skipped"]


# ------------------------------------------------------------------ the daemon
async def test_a_directory_that_another_command_holds(tmp_path: Path) -> None:
    with lock.hold(tmp_path):
        seen = await doctor_daemon.see(tmp_path)
        (check,) = seen.checks
        told = await check.work()
        assert seen.pid == os.getpid()
        assert told.state == "warning" and str(os.getpid()) in told.text
        # It says where it is, and nobody is there.
        where = DaemonFile(url="http://127.0.0.1:1", ws_url="ws://127.0.0.1:1/ws", pid=1, token_file="/nonexistent")
        write_daemon_file(tmp_path, where)
        seen = await doctor_daemon.see(tmp_path)
        assert [(await check.work()).state for check in seen.checks] == ["failed", "failed"]
        assert seen.variables is not None and "PATH" in seen.variables
    seen = await doctor_daemon.see(tmp_path)
    (check,) = seen.checks
    told = await check.work()
    assert told.state == "skipped" and "is left of one that was killed" in told.text


@pytest.mark.parametrize(
    ("exc", "advice"),
    [
        (Untrusted("wss://x", "self-signed certificate"), "SSL_CERT_FILE"),
        (AccessDenied(401), "is not the daemon's"),
        (ConnectionLost(1006), "greenroom stop"),
    ],
)
def test_what_to_do_about_a_daemon_that_refuses(exc: ClientError, advice: str) -> None:
    told = doctor_daemon._refused(exc, Path("/data"))
    assert told.state == "failed" and advice in told.advice[0]


@pytest.mark.parametrize(("level", "state"), [("normal", "good"), ("soft", "warning"), ("hard", "failed")])
async def test_the_daemons_memory(level: str, state: str) -> None:
    stats = {"memory": {"resident": 1, "state": level}, "loop": {"lag_p99_ms": 250.0}}
    memory, latency = [await check.work() for check in doctor_daemon._figures(stats)]
    assert (memory.state, latency.state) == (state, "good")
    stats["loop"]["lag_p99_ms"] = 250.1
    _, latency = [await check.work() for check in doctor_daemon._figures(stats)]
    assert latency.state == "warning"


def test_versions_that_differ() -> None:
    assert doctor_daemon._version(VERSION).state == "good"
    assert doctor_daemon._version("0.0.1\x1b[2J").state == "warning"
    assert "\x1b" not in doctor_daemon._version("0.0.1\x1b[2J").text


# ------------------------------------------------------------------ tool servers
def program(folder: Path, text: str) -> str:
    path = folder / "server"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def try_out(
    folder: Path, chosen: ToolsetConfig, daemons: dict[str, Any] | None = None, patience: float = LIMIT
) -> Result:
    limits = attrs.evolve(DEFAULT, toolset_first_wait=patience)
    with trio.fail_after(LIMIT):
        async with open_spools(folder, limits) as spools, open_guard(limits) as guard:
            result = await doctor_tools.check("time", chosen, limits, guard, spools, daemons)
            assert guard.statistics().processes == 0
    return result


def good_server(**changes: Any) -> ToolsetConfig:
    return attrs.evolve(ToolsetConfig(kind="mcp", command=sys.executable, args=(str(SERVER),)), **changes)


async def test_a_good_tool_server_and_what_the_daemon_says_of_it(tmp_path: Path) -> None:
    told = await try_out(tmp_path, good_server())
    assert told.state == "good"
    assert "11 tools" in told.text
    told = await try_out(tmp_path, good_server(tools=("echo", "nothing")))
    assert told.state == "warning"
    assert "but not nothing" in told.text or "nothing" in told.text
    told = await try_out(tmp_path, good_server(), patience=0.001)
    assert told.state == "warning" and 'restart = "always"' in told.advice[0]
    told = await try_out(tmp_path, good_server(), {"name": "time", "state": "failed", "error": {"message": "no key"}})
    assert told.state == "warning"
    assert "in the daemon it has failed: no key" in told.text
    assert told.advice[0].startswith("greenroom toolsets restart time")


async def test_a_server_that_ends_is_shown_with_its_last_words(tmp_path: Path) -> None:
    text = "import os, sys; sys.stderr.write('\\x1b[2J no licence ' + os.environ['SECRET'] + '\\n'); sys.exit(7)"
    chosen = ToolsetConfig(kind="mcp", command=program(tmp_path, text), env={"SECRET": "a-secret-of-a-server"})
    told = await try_out(tmp_path, chosen)
    assert told.state == "failed"
    assert "exit code 7" in told.text and "no licence" in told.text
    assert "\x1b" not in told.text
    assert "a-secret-of-a-server" not in told.text
    # One that can only run once is not broken.
    told = await try_out(tmp_path, chosen, {"name": "time", "state": "ready"})
    assert told.state == "warning" and "the daemon uses it (ready)" in told.text


async def test_a_server_that_is_silent_leaves_nothing(tmp_path: Path) -> None:
    chosen = ToolsetConfig(kind="mcp", command=program(tmp_path, "import time; time.sleep(1000)"))
    limits = DEFAULT
    with trio.fail_after(LIMIT):
        async with open_spools(tmp_path, limits) as spools, open_guard(limits) as guard:
            with trio.move_on_after(1.0) as patience:
                await doctor_tools.check("time", chosen, limits, guard, spools)
            assert patience.cancelled_caught
            assert guard.statistics().processes == 0


async def test_what_can_be_seen_without_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await try_out(tmp_path, ToolsetConfig(kind="mcp", command="no-such-program-of-ours"))
    assert told.state == "failed"
    assert told.text == "there is no program no-such-program-of-ours that can be started"
    assert f"PATH is {os.environ['PATH']}"[:100] in told.advice[0]
    web = ToolsetConfig(kind="mcp", url="http://127.0.0.1:1/mcp", headers_env={"Authorization": "NO_SUCH_VARIABLE"})
    told = await try_out(tmp_path, web)
    assert told.text == "the environment variable NO_SUCH_VARIABLE, for Authorization, is not set"
    told = await try_out(tmp_path, attrs.evolve(web, headers_env=None))
    assert told.state == "failed" and "http://127.0.0.1:1/mcp" in told.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = await try_out(tmp_path, good_server())
    assert told.advice == ("pip install 'greenroom[mcp]'",)
