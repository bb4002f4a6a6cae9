"""The official client over our pipes: a real server process, which does what its calls say."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from mcp import ClientSession, MCPError
from trio.testing import wait_all_tasks_blocked

from actors._guard import Process, open_guard
from actors._spool import Collected, ToolsetSpool, open_spools
from actors.toolsets.mcp_inbox import HELD_MOST, Inbox
from actors.toolsets.mcp_stdio import STDERR_BYTES, Tail, open_stdio
from engine.limits import MIB, Limits
from engine.mcp.unescape import NotBase64
from tests.actors import mcp_server

LIMIT = 60.0
MOST = Limits().tool_memory_bytes
LIMITS = attrs.evolve(Limits(), spool_file_bytes=4 * MIB)

# Seconds without a step of any task before a look at the disk is worth it: threads are at work there.
QUIET = 0.005


@attrs.define
class World:
    session: ClientSession
    inbox: Inbox
    spool: ToolsetSpool
    process: Process
    stderr: Tail
    noise: list[str]
    folder: Path

    async def call(self, tool: str, **given: Any) -> list[Any]:
        result = await self.session.call_tool(tool, given)
        return list(result.content)

    async def text(self, text: str) -> Collected:
        """The text of a message, and what it is cut to."""
        held = self.inbox.find([text])
        async with self.spool.output() as output:
            cut = None if held is None else held.find(text)
            if cut is None:
                await output.feed(text.encode())
            else:
                await cut.feed(output)
            collected = await output.finish()
        if held is not None:
            await held.aclose()
        return collected

    def files(self) -> list[str]:
        return [name for _, _, names in os.walk(self.folder / "spool") for name in names]


@contextlib.asynccontextmanager
async def connected(tmp_path: Path, code: int = 0) -> AsyncIterator[World]:
    noise: list[str] = []
    stderr = Tail()
    with trio.fail_after(LIMIT):
        async with open_spools(tmp_path, LIMITS) as spools, open_guard() as guard:
            spool = spools.of_toolset("server")
            inbox = Inbox(spool, noise.append, LIMITS)
            command = [sys.executable, mcp_server.__file__]
            async with await guard.spawn(command, cwd=str(tmp_path), env=dict(os.environ), stdin="pipe") as process:
                async with (
                    open_stdio(process, inbox, stderr, LIMITS) as streams,
                    ClientSession(*streams) as session,
                ):
                    await session.initialize()
                    yield World(session, inbox, spool, process, stderr, noise, tmp_path)
                assert (await process.wait()).code == code, "a server whose input has ended ends"
            await inbox.aclose()
            assert World(session, inbox, spool, process, stderr, noise, tmp_path).files() == []


async def test_a_string_of_exactly_the_bound_is_inline_and_one_byte_more_is_not(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        (found,) = await world.call("text", size=MOST)
        assert found.text == "x" * MOST
        (found,) = await world.call("text", size=MOST + 1)
        assert found.text.startswith("greenroom-cut:")
        assert len(world.files()) == 1
        collected = await world.text(found.text)
        assert collected.whole is not None
        assert collected.whole.path.read_bytes() == b"x" * (MOST + 1)
        collected.whole.discard()
        assert world.files() == []


async def test_escaped_text_comes_back_exactly(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        (found,) = await world.call("escaped", size=20_000)
        collected = await world.text(found.text)
        assert collected.whole is not None
        assert collected.whole.path.read_text() == mcp_server.LINE * 20_000
        assert "in 20,000 lines, is kept" in collected.text
        collected.whole.discard()


async def test_the_only_long_text_of_an_answer_is_not_read_again(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        (found,) = await world.call("escaped", size=20_000)
        held = world.inbox.find([found.text])
        assert held is not None
        sole = held.take_sole(found.text)
        await held.aclose()
        assert sole is not None and sole.whole is not None
        assert sole.whole.path.read_text() == mcp_server.LINE * 20_000
        assert sole.text.startswith(mcp_server.LINE * 10)
        assert len(sole.text.encode()) <= Limits().tool_result_bytes
        assert sole.whole.handle in sole.text.splitlines()[-1]
        sole.whole.discard()


async def test_media_become_the_bytes_that_they_are(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        (found,) = await world.call("image", size=1000)
        held = world.inbox.find([found.data])
        assert held is not None
        cut = held.find(found.data)
        assert cut is not None
        writer = await world.spool.file()
        await cut.decode(writer)
        assert writer.file.hash == hashlib.sha256(bytes(range(256)) * 3 * 1000).hexdigest()
        await writer.discard()
        await held.aclose()
        (found,) = await world.call("text", size=MOST + 1)
        held = world.inbox.find([found.text])
        assert held is not None
        cut = held.find(found.text)
        assert cut is not None
        writer = await world.spool.file()
        with pytest.raises(NotBase64):  # 65,537 letters are one too many
            await cut.decode(writer)
        await writer.discard()
        await held.aclose()


async def test_many_texts_of_middle_length(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        texts = [item.text for item in await world.call("many", count=300, size=10_000)]
        held = world.inbox.find(texts)
        assert held is not None
        for number, text in enumerate(texts):
            cut = held.find(text)
            whole = text.encode() if cut is None else await cut.read(0, MIB)
            assert whole == f"{number}:".encode() + b"y" * 10_000
            assert held.take_sole(text) is None
        assert len(world.files()) == 1
        await held.aclose()


async def test_what_is_over_the_bound_of_a_file_is_said_to_be_missing(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        for size, counted, kept in (
            (4 * MIB, "4,194,304", None),
            (4 * MIB + 1, "4,194,305", "4,194,304"),
            (5 * MIB, "5,242,880", "4,194,304"),
        ):
            (found,) = await world.call("text", size=size)
            held = world.inbox.find([found.text])
            assert held is not None
            cut = held.find(found.text)
            assert cut is not None
            assert (cut.size, cut.size + cut.missed) == (4 * MIB, size)
            sole = held.take_sole(found.text)
            assert sole is not None and sole.whole is not None and sole.size == size
            assert sole.whole.path.read_bytes() == b"x" * (4 * MIB)
            expected = f"[The whole output, {counted} bytes in 1 line, is kept: read_output"
            if kept is not None:
                expected = f"[Of the output, {counted} bytes in 1 line, only the first {kept} bytes are kept because a "
                expected += "bound of what is kept on the disk is reached: read_output"
            assert expected in sole.text
            sole.whole.discard()
            await held.aclose()


async def test_garbage_between_messages_harms_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        lines = [
            "Listening on port 3000",
            "x" * 300_000,
            '{"half": ',
            '{"jsonrpc": "2.0"}',
            "[" * 200,
            '"' + "y" * 99_999,
        ]
        for line in lines:
            assert await world.call("garbage", text=line) == []
        assert len(world.noise) == len(lines)
        assert all(len(text) < 1000 for text in world.noise)
        assert "Listening on port 3000" in world.noise[0]
        assert (await world.call("echo", text="still here"))[0].text == "still here"
        assert world.files() == []


async def test_a_flood_of_long_notifications_is_dropped(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        assert await world.call("notify", count=100, size=100_000) == []
        assert len(world.noise) == 100
        assert world.files() == []


async def test_answers_that_nobody_takes_are_bounded(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        texts = [(await world.call("text", size=MOST + 1))[0].text for _ in range(HELD_MOST + 3)]
        assert len(world.files()) == HELD_MOST
        assert world.inbox.find(texts[:3]) is None
        held = world.inbox.find([texts[-1]])
        assert held is not None
        await held.aclose()


async def test_a_marker_that_a_server_makes_up_is_a_plain_string(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        (real,) = await world.call("text", size=MOST + 1)
        # The server cannot know it; here it is told.
        (forged,) = await world.call("echo", text=real.text)
        held = world.inbox.find([forged.text])
        assert held is not None, "the marker of another message"
        await held.aclose()
        assert world.inbox.find([real.text]) is None
        line = {"jsonrpc": "2.0", "id": "@id@", "result": {"content": [{"type": "text", "text": "greenroom-cut:00:0"}]}}
        (made_up,) = await world.call("raw", line=json.dumps(line).replace('"@id@"', "@id@"))
        assert made_up.text == "greenroom-cut:00:0"
        assert world.inbox.find([made_up.text]) is None


async def test_a_server_that_ends_in_a_call(tmp_path: Path) -> None:
    async with connected(tmp_path, code=3) as world:
        with pytest.raises(MCPError, match="Connection closed"):
            await world.call("exit", code=3)


async def test_the_end_of_its_standard_error_is_kept(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        await world.call("stderr", size=500_000)
        while not world.stderr.text().endswith("the last words"):
            await wait_all_tasks_blocked(QUIET)
        assert len(world.stderr.text()) <= STDERR_BYTES
        assert world.stderr.size == 500_000 + len("\nthe last words\n")


async def test_a_cancelled_call_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel_in_the_middle() -> None:
                    while not world.files():
                        await wait_all_tasks_blocked(QUIET)
                    scope.cancel()

                nursery.start_soon(cancel_in_the_middle)
                await world.call("text", size=3_000_000)
                nursery.cancel_scope.cancel()
        assert (await world.call("echo", text="next"))[0].text == "next"
