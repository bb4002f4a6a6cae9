"""What stands for a long string inside a message is never seen outside: not by people, models, logs, nor the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from engine.storage.spool import SpoolFile
from engine.tools.spec import Answer, Question, ToolResult
from tests.actors.toolsets.hosting import LIMITS, World, hosted
from tests.actors.toolsets.test_mcp_http_resume import spooled

MARKER = "greenroom-cut"
SMALL = attrs.evolve(LIMITS, tool_memory_bytes=1024, toolset_restarts=1)
LONG = "L" * 1500
SHORT = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[{"type":"text","text":"after"}]}}'


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end by itself is not waited for."""
    monkeypatch.setattr("actors.toolsets.mcp.CLOSE_GRACE", 0.1)


def variants(value: Any) -> Iterator[Any]:
    """The value with one of its strings (or numbers) long, each in turn."""
    if isinstance(value, dict | list) and value != []:
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            for changed in variants(inner):
                copy: Any = value.copy()
                copy[key] = changed
                yield copy
    else:
        yield LONG


def shown(result: ToolResult) -> Iterator[str]:
    yield result.text
    if isinstance(result.whole, SpoolFile):
        yield result.whole.path.read_text()
        result.whole.discard()
    for one in result.media:
        yield from (one.name, one.mime)
        if isinstance(one.data, SpoolFile):
            yield one.data.path.read_text(errors="replace")
            one.data.discard()
        elif isinstance(one.data, bytes):
            yield one.data.decode(errors="replace")


ANSWERS: list[dict[str, Any]] = [
    {"result": {"content": [{"type": "text", "text": "t", "annotations": {"a": "b"}}], "_meta": {"m": "n"}}},
    {"result": {"content": [{"type": "text", "text": "t"}, {"type": "text", "text": "u"}], "isError": True}},
    {"result": {"content": [{"type": "image", "data": "QUJD", "mimeType": "image/png"}]}},
    {"result": {"content": [{"type": "audio", "data": "QUJD", "mimeType": "audio/wav"}]}},
    {
        "result": {
            "content": [
                {"type": "resource_link", "uri": "u:", "name": "n", "title": "t", "description": "d", "mimeType": "m"}
            ]
        }
    },
    {"result": {"content": [{"type": "resource", "resource": {"uri": "u:", "mimeType": "m", "text": "t"}}]}},
    {"result": {"content": [{"type": "resource", "resource": {"uri": "u:", "mimeType": "m", "blob": "QUJD"}}]}},
    {"result": {"content": [{"type": "unknown", "a": "b"}]}},
    {"result": {"content": "c"}},
    {"result": {"content": [], "structuredContent": {"a": ["b", {"c": "d"}]}}},
    {"result": {"none": "n"}},
    {"result": "r"},
    {"error": {"code": 1, "message": "m", "data": {"d": ["e"]}}},
    {"error": "e"},
    {"result": {"content": []}, "error": {"message": "m"}, "beside": "b"},
]


async def seen(world: World, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Everything that is shown of the toolset beside results."""
    status = await world.bad.status()
    specs = await world.bad.specs() if status.state in ("ready", "degraded") else ()
    return [
        repr(status),
        repr(world.toolset.offer),
        *(spec.name + spec.description + spec.input_schema.decode() for spec in specs),
        *(record.getMessage() for record in caplog.records),
        world.record.read_text() if world.record.exists() else "",
    ]


async def test_of_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    found: list[str] = []
    async with hosted(tmp_path, limits=SMALL) as world:
        for parts in ANSWERS:
            for changed in variants(parts):
                line = json.dumps({"jsonrpc": "2.0", "id": "@id@", **changed}).replace('"@id@"', "@id@")
                result = await world.do(write=[line], answer=None)
                texts = list(shown(result))
                assert not any(MARKER in text for text in texts), line[:300]
                found += texts
        assert spooled(tmp_path) == []
        assert (await world.bad.status()).restarts == 0
        assert not any(MARKER in text for text in await seen(world, caplog))
    # It is not that nothing was shown: the beginning of what is not a text of the answer, and its size.
    assert any("L" * 200 + "… (1,500 bytes)" in text for text in found)
    assert any(LONG in text for text in found)


ASKS: list[dict[str, Any]] = [
    {"id": "i", "method": "ping", "params": {"p": "q"}},
    {"id": "j", "method": "roots/list"},
    {"id": "k", "method": "unknown/method"},
    {
        "id": "e",
        "method": "elicitation/create",
        "params": {
            "message": "m",
            "requestedSchema": {"type": "object", "properties": {"a": {"type": "string", "title": "t"}}},
        },
    },
    {"method": "notifications/progress", "params": {"progressToken": "@id@", "progress": 1, "message": "m"}},
    {"method": "notifications/cancelled", "params": {"requestId": "r", "reason": "s"}},
    {"id": 4711, "result": {"a": "b"}},
    {"id": "zzz", "error": {"code": 1, "message": "m"}},
    {"neither": "n"},
    {"id": "i", "result": "r", "deep": json.loads("[" * 200 + "]" * 200)},  # rejected, its beginning is logged
]


async def test_of_what_a_server_says_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    async def ask(question: Question) -> Answer:
        told.append(repr(question))
        return Answer(action="decline")

    async with hosted(tmp_path, limits=SMALL) as world:
        for message in ASKS:
            for changed in variants(message):
                line = json.dumps({"jsonrpc": "2.0", **changed}).replace('"@id@"', "@id@")
                result = await world.do(write=[line, line[:-1], SHORT], answer=None, asks=ask, preview=told.append)
                assert result.text == "after"
        # The last answers to its requests have left by now.
        assert (await world.do(write=[SHORT], answer=None)).text == "after"
        assert spooled(tmp_path) == []
        assert not any(MARKER in text for text in [*told, *await seen(world, caplog)])


TOOL = {
    "name": "do", "title": "t", "description": "d",
    "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "description": "e"}}, "required": ["a"]},
}  # fmt: skip
PROMPT = {"name": "p", "title": "t", "description": "d", "arguments": [{"name": "a"}]}
RESOURCE = {"uri": "u", "name": "n", "title": "t", "description": "d", "mimeType": "m"}
OFFERS: dict[str, Any] = {"tools": {}, "prompts": {}, "resources": {}}


async def test_of_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    lists = {
        "tools/list": {"tools": [*variants(TOOL), TOOL, LONG]},
        "prompts/list": {"prompts": [*variants(PROMPT), PROMPT], "nextCursor": LONG},
    }
    for resources in ({"resources": [*variants(RESOURCE), RESOURCE]}, {"resources": LONG}):
        answers = {**lists, "resources/list": resources}
        async with hosted(tmp_path, limits=SMALL, capabilities=OFFERS, answers=answers) as world:
            assert [spec.name for spec in await world.bad.specs()] == ["bad.do"]
            status = await world.status(lambda status: status.state == "degraded")
            assert status.error is not None and "string that is too long" in status.error.message
            assert spooled(tmp_path) == []
            assert not any(MARKER in text for text in await seen(world, caplog))


INITIALIZED = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {"a": "b"}}, "instructions": "i"}


@pytest.mark.parametrize(
    "plan",
    [
        *({"answers": {"initialize": changed}} for changed in variants(INITIALIZED)),
        {"refuse": {"initialize": LONG}},
        {"refuse": {"tools/list": LONG}},
    ],
    ids=["version", "capability", "instructions", "refusal", "no-list"],
)
async def test_of_the_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: dict[str, Any]) -> None:
    caplog.set_level(logging.DEBUG)
    async with hosted(tmp_path, limits=SMALL, **plan) as world:
        result = await world.do(write=[SHORT], answer=None)
        assert result.is_error == (result.text != "after")
        assert spooled(tmp_path) == []
        assert MARKER not in result.text
        assert not any(MARKER in text for text in await seen(world, caplog))
        if "refuse" in plan:
            assert "L" * 200 in result.text and "(1,500 bytes)" in result.text
