"""A daemon with a tool server over HTTP that hangs in a call: other sessions and toolsets go on, a stop is a stop, no
header is in the log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from tests.actors import mcp_server
from tests.actors.mcp_web import Exchange, good, serving
from tests.actors.processes import until
from tests.e2e.test_shell import begin, call_of
from tests.e2e.wire import connect, daemon
from tests.model_server import model_server

LIMIT = 120.0
SECRET = "s3cr3t-0f-th1s-t3st"


async def test_a_server_that_hangs_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call" and exchange.message["params"]["arguments"].get("hang"):
            await exchange.head(200, "application/json")
            await exchange.raw(b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"')
            await exchange.raw(b"x" * 500_000)
            await exchange.hang()
        await good(exchange)

    monkeypatch.setenv("WEB_KEY", SECRET)
    # Without a session it need not be told of the end, while the daemon is waited for.
    async with serving(script, sessions=[]) as web:
        with model_server() as service:
            config = f"""
                default_model = "real"
                [models.real]
                provider = "openai"
                base_url = "{service.url}"
                model = "theirs"
                [toolsets.far]
                kind = "mcp"
                url = "{web.url}"
                headers_env = {{ X-Key = "WEB_KEY" }}
                [toolsets.fake]
                kind = "mcp"
                command = "{sys.executable}"
                args = ["{mcp_server.__file__}"]
                [permissions]
                allow = ["far", "fake.echo"]
                [limits]
                toolset_first_wait = 60  # on a machine that has much else to do
            """
            with trio.fail_after(LIMIT), daemon(tmp_path / "data", config, "--log-level", "debug") as host:
                async with connect(host.folder) as wire:
                    session, _, watch = await begin(wire, "!tool name=far__t input={}", tmp_path)
                    assert (await wire.events(watch))[-1]["status"] == "completed"
                    assert (await call_of(wire, session))["output"] == "good"

                    _, hanging, watch = await begin(wire, '!tool name=far__t input={"hang":1}', tmp_path)
                    await until(lambda: len(web.calls()) == 2)
                    for name, given in (("fake__echo", '{"text":"good"}'), ("far__t", "{}")):
                        session, _, beside = await begin(wire, f"!tool name={name} input={given}", tmp_path)
                        assert (await wire.events(beside))[-1]["status"] == "completed"
                        assert (await call_of(wire, session))["output"] == "good"
                    await wire.request("run.stop", run_id=hanging)
                    assert (await wire.events(watch))[-1]["status"] == "cancelled"
                    await until(lambda: web.open == 0)
                    assert [path for path in (host.folder / "spool").rglob("*") if path.is_file()] == []
            assert {exchange.headers.get("x-key") for exchange in web.seen} == {SECRET}
            log = (tmp_path / "data.log").read_text()
            assert "greenroom" in log and SECRET not in log
