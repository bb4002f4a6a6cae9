"""Answers that nobody waits for: their long strings do not stay on the disk, where there is room for so much of all
servers together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from tests.actors.processes import until
from tests.actors.test_toolset_mcp import World, opened
from tests.actors.toolsets.test_mcp_http_resume import spooled

LONG = "x" * 200_000
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
        assert await raw(world, line) == "its error has a text that is too long"
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
