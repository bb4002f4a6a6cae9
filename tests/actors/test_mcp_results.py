"""Answers of tool servers as results: over real pipes, from a server that answers as it is told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from actors.toolsets.mcp_results import MEDIA_MOST, tool_result
from engine.limits import MIB, Limits
from engine.storage.spool import SpoolFile
from engine.tools.spec import Media, ToolResult
from tests.actors import mcp_server
from tests.actors.test_mcp_stdio import World, connected

MOST = Limits().tool_memory_bytes
LONG = "z" * (MOST + 1)


async def result(world: World, tool: str, **given: Any) -> ToolResult:
    return await tool_result(await world.session.call_tool(tool, given), world.inbox, world.spool)


async def answered(world: World, content: list[dict[str, Any]], **fields: Any) -> ToolResult:
    answer = {"jsonrpc": "2.0", "id": "@id@", "result": {"content": content, **fields}}
    return await result(world, "raw", line=json.dumps(answer).replace('"@id@"', "@id@"))


async def test_short_texts_are_joined_and_need_no_file(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        assert await result(world, "echo", text="é漢") == ToolResult(text="é漢")
        texts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        assert await answered(world, texts, isError=True) == ToolResult(text="one\ntwo", is_error=True)
        assert await answered(world, []) == ToolResult(text="")


@pytest.mark.parametrize("others", [0, 1])
async def test_a_long_text_is_cut_and_kept_whole(tmp_path: Path, others: int) -> None:
    async with connected(tmp_path) as world:
        content = [{"type": "text", "text": mcp_server.LINE * 5000}, {"type": "text", "text": "last"}][: 1 + others]
        found = await answered(world, content)
        assert isinstance(found.whole, SpoolFile)
        assert found.whole.path.read_text() == mcp_server.LINE * 5000 + "\nlast" * others
        assert len(found.text.encode()) <= Limits().tool_result_bytes
        assert found.whole.handle in found.text
        assert len(world.files()) == 1
        found.whole.discard()


@pytest.mark.parametrize(
    ("before", "counted"),
    [
        ([], "21,000,000 bytes in 600,000 lines"),
        # With what joins them: 2 line feeds and 5 bytes more, and 20 lines of 35 bytes after.
        ([{"type": "text", "text": "first"}], "21,000,707 bytes in 600,022 lines"),
    ],
)
async def test_what_is_not_kept_of_a_text_is_counted(tmp_path: Path, before: list[Any], counted: str) -> None:
    async with connected(tmp_path) as world:
        after = [{"type": "text", "text": mcp_server.LINE * 20}] if before else []
        texts = [*before, {"type": "text", "text": mcp_server.LINE * 600_000}, *after]
        found = await answered(world, texts)
        expected = (
            f"[Of the output, {counted}, only the first 4,194,304 bytes are kept because a bound of what is kept "
        )
        assert found.text.splitlines()[-1].startswith(expected + "on the disk is reached: read_output")
        assert len(found.text.encode()) <= Limits().tool_result_bytes
        assert found.text.startswith("first\n" if before else mcp_server.LINE)
        assert mcp_server.LINE * 20 + "[Of the" in found.text, "the end is shown"
        assert isinstance(found.whole, SpoolFile)
        whole = ("first\n" if before else "") + mcp_server.LINE * 120_000
        assert found.whole.path.read_bytes() == whole.encode()[: 4 * MIB]
        found.whole.discard()


async def test_media_short_and_long(tmp_path: Path) -> None:
    small, large = b"\x89PNG" * 10, bytes(range(256)) * 1000
    async with connected(tmp_path) as world:
        content = [
            {"type": "text", "text": "see"},
            {"type": "image", "mimeType": "image/png", "data": base64.b64encode(small).decode()},
            {"type": "image", "mimeType": "image/png", "data": base64.b64encode(large).decode()},
            {"type": "audio", "mimeType": "audio/wav", "data": "no base64!"},
            {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "a/b", "blob": "AAAA"}},
            {"type": "resource", "resource": {"uri": "file:///b", "text": LONG}},
            {"type": "resource_link", "name": "n", "uri": "file:///c"},
        ]
        found = await answered(world, content)
        first, second, third = found.media
        assert first == Media(mime="image/png", name="image", data=small)
        assert isinstance(second.data, SpoolFile) and second.data.path.read_bytes() == large
        assert third == Media(mime="a/b", name="file:///a", data=b"\0\0\0")
        assert found.text.startswith(
            "see\n[image: image/png, 40 bytes]\n[image: image/png, 256,000 bytes]\n"
            "[audio: audio/wav, which is not base64 as it should be]\n[file:///a: a/b, 3 bytes]\n[resource file:///b]\nzzz"
        )
        assert isinstance(found.whole, SpoolFile)
        assert found.whole.path.read_text().endswith(LONG + "\n[resource n: file:///c]")
        second.data.discard()
        found.whole.discard()
        assert world.files() == []


async def test_a_medium_over_the_bound_of_a_file_is_said_to_be_missing(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        found = await result(world, "image", size=6 * MIB // 1024)
        assert found.media == ()
        assert found.text == ("[image: image/png, not kept because a bound of what is kept on the disk is reached]")
        assert world.files() == []


async def test_media_of_one_result_are_bounded(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        image = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(bytes(70_000)).decode()}
        found = await answered(world, [image] * (MEDIA_MOST + 1))
        assert len(found.media) == MEDIA_MOST
        assert found.text.endswith("left out: a result has 16 files at most]")
        for medium in found.media:
            assert isinstance(medium.data, SpoolFile)
            medium.data.discard()


async def test_structured_answers(tmp_path: Path) -> None:
    async with connected(tmp_path) as world:
        found = await answered(world, [], structuredContent={"a": [1, "b"], "c": LONG})
        assert json.loads(found.text) == {"a": [1, "b"], "c": "[65,537 bytes, left out]"}
        both = await answered(world, [{"type": "text", "text": LONG}], structuredContent={"result": LONG})
        assert isinstance(both.whole, SpoolFile)
        assert both.whole.path.read_text() == LONG
        both.whole.discard()
        assert world.files() == []
