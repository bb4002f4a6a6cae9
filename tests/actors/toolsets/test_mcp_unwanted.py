"""Answers that nobody waits for: their long strings do not stay on the disk, where there is room for so much of all
servers together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from mcp.shared._context_streams import create_context_streams

from actors._spool import open_spools
from actors.toolsets.mcp_client import Client
from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_messages import message_of
from engine.limits import MIB, Limits
from engine.mcp.scanner import Line, LineScanner
from tests.actors import test_toolset_mcp
from tests.actors.processes import until
from tests.actors.test_toolset_mcp import World, opened
from tests.actors.toolsets.test_mcp_http_resume import spooled

LONG = "x" * 200_000
SHOWN = "x" * 500 + "… (200,000 bytes)"
NOTHING = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[]}}'


def answer(number: object, **parts: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, **parts})


async def raw(world: World, *lines: str) -> str:
    result = await world.call("raw", line="\n".join(lines))
    return result.text


async def test_an_answer_to_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        content = {"content": [{"type": "text", "text": LONG}]}
        error = {"code": 1, "message": LONG}
        lines = [answer(4711, result=content), answer("x", error=error), answer(4712, error={**error, "data": [LONG]})]
        assert await raw(world, *lines, NOTHING) == ""
        assert spooled(tmp_path) == []
        assert (await world.ref.status()).restarts == 0


async def test_an_error_that_is_too_long(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        line = answer("@id@", error={"code": 1, "message": LONG}).replace('"@id@"', "@id@")
        assert await raw(world, line) == SHOWN
        assert spooled(tmp_path) == []


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"error": LONG}, SHOWN),
        ({"error": {"code": 1, "message": "short", "other": LONG}}, "short"),
        ({"error": "broken"}, "broken"),
        ({"error": {"code": 1}}, "the answer has neither a result nor an error as it should be"),
        ({"result": LONG}, "the answer has neither a result nor an error as it should be"),
        ({"result": {"nothing": LONG}}, ""),
        ({"result": {"content": []}, "beside": LONG}, ""),
        ({"result": {"content": [{"type": "text", "text": "t"}]}, "error": {"code": 1, "message": LONG}}, "t"),
        ({"result": {"content": [], "_meta": {"a": [LONG]}}}, ""),
        (
            {"result": {"content": [{"type": "unknown", "t": LONG}, {"type": "text", "text": 5, "q": LONG}]}},
            "\n".join(["[a part of the result that is not of the protocol, left out]"] * 2),
        ),
        (
            {"result": {"content": [{"type": "resource_link", "name": "n", "uri": "file:///" + LONG}]}},
            "[resource n: file:///" + "x" * 192 + "… (200,008 bytes)]",
        ),
        (
            {"result": {"content": [{"type": "resource", "resource": {"uri": LONG, "text": "t"}}]}},
            "[resource " + "x" * 200 + "… (200,000 bytes)]\nt",
        ),
        (
            {"result": {"content": [{"type": "image", "mimeType": LONG, "data": "!"}]}},
            "[image: " + "x" * 200 + "… (200,000 bytes), which is not base64 as it should be]",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_answer_that_is_not_as_it_should_be_ends_the_call(
    tmp_path: Path, parts: dict[str, Any], text: str
) -> None:
    async with opened(tmp_path) as world:
        line = answer("@id@", **parts).replace('"@id@"', "@id@")
        assert await raw(world, line) == text
        assert spooled(tmp_path) == []
        assert (await world.ref.status()).restarts == 0


@pytest.mark.parametrize("long", ["", f'"{LONG}"'])
async def test_an_answer_that_is_not_json_ends_the_call(tmp_path: Path, long: str) -> None:
    async with opened(tmp_path) as world:
        for wrong in ("1" * 100_000, "oops"):
            line = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[%s],"n":%s}}' % (long, wrong)  # noqa: UP031
            assert await raw(world, line) == "the answer is not JSON"
        assert await raw(world, json.dumps({"long": LONG}), json.dumps([LONG]), NOTHING) == ""
        assert spooled(tmp_path) == []
        assert (await world.ref.status()).restarts == 0


LISTS = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"],
                  "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
                  "serverInfo": {"name": "x", "version": "1"}}
    elif asked["method"] == "tools/list":
        result = {"tools": [{"name": "l" * 200000, "inputSchema": {"type": "object"}}]}
    elif asked["method"] == "prompts/list":
        result = {"prompts": "p" * 200000}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
    if asked["method"] == "prompts/list":
        asked = json.loads(sys.stdin.readline())
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": "e" * 200000}), flush=True)
"""


async def test_lists_that_are_none_and_long_names(tmp_path: Path) -> None:
    async with opened(tmp_path, (sys.executable, "-c", LISTS)) as world:
        assert await world.ref.specs() == ()
        while (status := await world.ref.status()).state != "degraded":  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert status.error is not None
        assert status.error.message == (
            f"its list of prompts is none; '{'l' * 80}… (200,000 bytes)' has a string that is too long; "
            f"its resources cannot be read: {'e' * 200}"
        )
        assert spooled(tmp_path) == []


async def test_the_answer_to_a_call_that_was_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.call("echo", text="x")
        # 100 MB take longer than the call is waited for, or are taken: in either case they do not stay.
        with trio.move_on_after(0.05):
            result = await world.call("text", size=100_000_000)
            assert result.whole is not None
            result.whole.discard()
        assert (await world.call("echo", text="again")).text == "again"  # which comes after it
        await until(lambda: not spooled(tmp_path))


SPIN = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "x", "version": "1"}}
    elif asked["method"] == "tools/list":
        result = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
    elif asked["method"] == "tools/call":
        result = {"content": [{"type": "text", "text": "done"}]}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
    if asked["method"] == "tools/call":
        sys.stdout.write(sys.argv[1])
        while True:
            sys.stdout.write("y" * 65536)
"""


@pytest.mark.parametrize("begin", ['{"jsonrpc":"2.0","method":"', "noise"])
async def test_a_line_without_an_end_ends_the_server_while_nobody_calls(
    tmp_path: Path, begin: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = attrs.evolve(test_toolset_mcp.QUICK, mcp_answer_bytes=2 * MIB)
    monkeypatch.setattr(test_toolset_mcp, "QUICK", limits)
    async with opened(tmp_path, (sys.executable, "-c", SPIN, begin)) as world:
        assert (await world.call("t")).text == "done"
        while (await world.ref.status()).restarts == 0:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert "one of its messages has more than 2,097,152 bytes" in caplog.text
        assert spooled(tmp_path) == []
        assert (await world.call("t")).text == "done"


async def test_an_answer_that_comes_in_the_tick_in_which_its_call_is_cancelled(tmp_path: Path) -> None:
    async with open_spools(tmp_path, Limits()) as spools:
        inbox = Inbox(spools.of_toolset("server"), print)
        arrived, reading = create_context_streams[Any](0)
        writing, leaving = create_context_streams[Any](0)

        async def ask(client: Client, scope: trio.CancelScope) -> None:
            with scope:
                async with client.request("x"):
                    await trio.sleep_forever()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                client = Client((reading, writing), nursery, {}, lambda: None, print, inbox)
                await nursery.start(client.run)
                for number in range(1, 21):
                    scope = trio.CancelScope()
                    nursery.start_soon(ask, client, scope)
                    await leaving.receive()
                    event = [*LineScanner().feed(answer(number, result={"a": LONG}).encode() + b"\n")]
                    arrival = inbox.arrival()
                    (data,) = [data for one in event if (data := await arrival.take(one)) is not None]
                    assert len(spooled(tmp_path)) == 1
                    line = event[-1]
                    assert isinstance(line, Line)
                    await inbox.deliver(arrived, message_of(data), line.cuts)
                    scope.cancel()
                    if number % 2:  # either it was there already, or not
                        await trio.testing.wait_all_tasks_blocked()
                    await until(lambda: not spooled(tmp_path))
                    with trio.move_on_after(0.01):
                        await leaving.receive()  # that it is cancelled
                nursery.cancel_scope.cancel()
        await inbox.aclose()
    for stream in (arrived, leaving):
        stream.close()


HELLO = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "x", "version": "1"}, "instructions": "i" * 200000}
    elif asked["method"] == "tools/list":
        result = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


async def test_long_instructions(tmp_path: Path) -> None:
    async with opened(tmp_path, (sys.executable, "-c", HELLO)) as world:
        assert [spec.name for spec in await world.ref.specs()] == ["fake.t"]
        assert spooled(tmp_path) == []
