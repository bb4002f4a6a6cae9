"""What a tool server offers: read to its end and within bounds, and read again when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.toolsets.mcp import CHANGES_SECONDS
from actors.toolsets.mcp_listing import ENTRIES_MOST
from engine.tools.spec import ResourceLine, ToolLine
from tests.actors.toolsets.hosting import LIMITS, World, hosted

OBJECT = {"type": "object"}
DO = {"name": "do", "inputSchema": OBJECT}


def tool(name: Any, schema: Any = OBJECT, **fields: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": schema, **fields}


async def names(world: World) -> list[str]:
    return [spec.name.removeprefix("bad.") for spec in await world.bad.specs()]


async def trouble(world: World) -> str:
    status = await world.status(lambda status: status.error is not None)
    assert status.state == "degraded" and status.error is not None
    return status.error.message


BAD: list[tuple[Any, str]] = [
    (tool("array", {"type": "array"}), "'array' has a schema that is not one of an object"),
    (tool("text", "object"), "'text' has a schema that is not an object"),
    ({"name": "without"}, "'without' has a schema that is not an object"),
    (
        tool("types", {"type": "object", "properties": {"a": {"type": "text"}}}),
        "'types' has a schema that has a 'type'",
    ),
    (tool("no name!"), "'no name!' is no name for a tool"),
    (tool("n" * 65), f"'{'n' * 65}' is no name for a tool"),
    (tool(7), "'7' is no name for a tool"),
    (tool("do"), "'do' is there twice"),
    ("do", "an entry of a list is not an object"),
    (tool("long", {"type": "object", "description": "d" * 33_000}), "'long' has a schema of more than 32,768 bytes"),
    (tool("far", {"type": "object", "description": "d" * 70_000}), "'far' has a string that is too long"),
    (tool("half", {"properties": {"\ud83d": {}}}), "'half' has a schema with a value that cannot be sent on"),
]


@pytest.mark.parametrize("begin", [0, 5, 10])
async def test_bad_tools_are_left_out_and_named(tmp_path: Path, begin: int) -> None:
    bad = BAD[begin : begin + 5]
    async with hosted(tmp_path, tools=[[DO, *(entry for entry, _ in bad), tool("last")]]) as world:
        assert await names(world) == ["do", "last"]
        said = await trouble(world)
        for _, says in bad:
            assert says in said
        assert not (await world.do()).is_error


async def test_of_many_troubles_the_first_are_said(tmp_path: Path) -> None:
    async with hosted(tmp_path, tools=[[DO, *[3] * 7]]) as world:
        await names(world)
        assert (await trouble(world)).endswith("; and 2 more")


async def test_a_tool_is_what_can_be_used_of_it(tmp_path: Path) -> None:
    wordy = tool("wordy", {"properties": {}}, description="d" * 5000, outputSchema="nonsense", annotations=[1], title=8)
    async with hosted(tmp_path, tools=[[DO, wordy, tool("silent", description=None, title="what it is")]]) as world:
        specs = {spec.name: spec for spec in await world.bad.specs()}
        assert len(specs["bad.wordy"].description) == LIMITS.mcp_description_characters
        assert specs["bad.wordy"].input_schema == b'{"type":"object","properties":{}}'
        assert specs["bad.silent"].description == "what it is"
        assert (await world.bad.status()).state == "ready"


async def test_a_result_is_no_matter_of_an_output_schema(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "pattern": "("}}, "required": ["n"]}
    async with hosted(tmp_path, tools=[[{**DO, "outputSchema": schema}]]) as world:
        result = await world.do(answer={"structuredContent": {"n": "no number"}})
        assert (result.text, result.is_error) == ('{"n":"no number"}', False)
        blocks = [{"type": "text", "text": "a"}, {"type": "hologram"}, 7, {"type": "text", "text": "b"}]
        result = await world.do(answer={"content": blocks, "structuredContent": [1], "isError": "yes"})
        assert result.text.splitlines()[0] == "a" and result.text.splitlines()[-1] == "b"
        assert result.text.count("not of the protocol") == 2 and not result.is_error
        assert (await world.do(answer={"content": None})).text.count("left out") == 1
        half = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[],"structuredContent":{"\\ud83d":1e999}}}'
        assert (await world.do(write=[half], answer=None)).text == '{"\\ud83d": Infinity}'
        half = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[{"type":"text","text":"half \\ud83d"}]}}'
        assert (await world.do(write=[half], answer=None)).text == "half ?"


@pytest.mark.parametrize("more", [0, 1])
async def test_the_number_of_tools_at_its_bound_and_one_past_it(tmp_path: Path, more: int) -> None:
    limits = attrs.evolve(LIMITS, mcp_tools=4)
    pages = [[DO, tool("a")], [tool("b"), tool("c")], [tool(f"d{number}") for number in range(more)]]
    async with hosted(tmp_path, limits=limits, tools=pages) as world:
        assert await names(world) == ["do", "a", "b", "c"]
        if more:
            assert "more than 4 tools" in await trouble(world)
        else:
            assert (await world.bad.status()).state == "ready"


@pytest.mark.parametrize("more", [0, 1])
async def test_the_bytes_of_all_tools_at_their_bound_and_one_past_it(tmp_path: Path, more: int) -> None:
    schema = b'{"type":"object"}'
    limits = attrs.evolve(LIMITS, mcp_tools_bytes=2 * len(schema) + 4)
    pages = [[DO, tool("a", description="d" * (4 + more))]]
    async with hosted(tmp_path, limits=limits, tools=pages) as world:
        assert await names(world) == ["do", "a"][: 2 - more]


@pytest.mark.parametrize("more", [0, 1])
async def test_the_pages_of_a_list_at_their_bound_and_one_past_it(tmp_path: Path, more: int) -> None:
    limits = attrs.evolve(LIMITS, mcp_pages=2)
    pages: list[Any] = [[DO], [tool("a")], *[[tool("b")]] * more]
    async with hosted(tmp_path, limits=limits, tools=pages) as world:
        assert await names(world) == ["do", "a"]
        if more:
            assert "more than 2 pages" in await trouble(world)


async def test_a_cursor_that_never_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path, endless=["tools"], record=str(tmp_path / "record")) as world:
        assert await names(world) == ["do"]
        assert "more than 32 pages" in await trouble(world)
        assert len(world.received("tools/list")) == LIMITS.mcp_pages


@pytest.mark.parametrize("cursor", ["same", 7, ["x"], "c" * 70_000])
async def test_a_cursor_that_leads_nowhere(tmp_path: Path, cursor: Any) -> None:
    page = {"tools": [DO], "nextCursor": cursor}
    async with hosted(tmp_path, answers={"tools/list": page}) as world:
        assert await names(world) == ["do"]
        assert len(world.received("tools/list")) <= 2
        assert "does not lead to the next one" in await trouble(world)


async def test_a_list_of_more_entries_than_are_looked_at(tmp_path: Path) -> None:
    async with hosted(tmp_path, tools=[[*[0] * ENTRIES_MOST, DO]]) as world:
        assert await names(world) == []
        said = await trouble(world)
        assert f"only the first {ENTRIES_MOST} are looked at" in said and len(said) < 1000


@pytest.mark.parametrize("lists", [{"tools": "do"}, {}, {"tools": {"do": DO}}])
async def test_a_list_that_is_none(tmp_path: Path, lists: Any) -> None:
    async with hosted(tmp_path, answers={"tools/list": lists}) as world:
        assert await names(world) == []
        assert "list of tools is none" in await trouble(world)


async def test_a_server_that_does_not_tell_its_tools_cannot_be_started(tmp_path: Path) -> None:
    limits = attrs.evolve(LIMITS, toolset_restarts=1)
    async with hosted(tmp_path, limits=limits, refuse={"tools/list": "not today"}) as world:
        result = await world.do()
        assert result.is_error and "not today" in result.text


# ------------------------------------------------------------------ prompts and resources
BOTH: dict[str, Any] = {"tools": {}, "prompts": {}, "resources": {}}


async def test_prompts_and_resources_are_listed_with_all_their_pages(tmp_path: Path) -> None:
    prompts = [[{"name": "greet", "description": "d" * 300}], [{"name": "bye", "title": "Bye", "arguments": 7}]]
    resources = [[{"uri": "file:///a", "name": "A"}], [{"uri": "x://b", "name": "B", "description": "the b"}], []]
    async with hosted(tmp_path, capabilities=BOTH, prompts=prompts, resources=resources) as world:
        assert (await world.bad.status()).prompts == ()
        assert await names(world) == ["do"]
        status = await world.bad.status()
        assert status.prompts == (
            ToolLine(name="greet", description="d" * 200),
            ToolLine(name="bye", description="Bye"),
        )
        assert status.resources == (
            ResourceLine(uri="file:///a", name="A", description=""),
            ResourceLine(uri="x://b", name="B", description="the b"),
        )


async def test_what_is_not_offered_is_not_asked_for(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        await names(world)
        assert world.received("prompts/list") == world.received("resources/list") == []


async def test_lists_of_something_else_than_tools_do_not_keep_the_tools_away(tmp_path: Path) -> None:
    refuse = {"prompts/list": "no prompts", "resources/list": "no such method"}
    async with hosted(tmp_path, capabilities=BOTH, refuse=refuse) as world:
        assert await names(world) == ["do"]
        said = await trouble(world)
        assert "prompts cannot be read: no prompts" in said and "resources cannot be read" in said


@pytest.mark.parametrize("more", [0, 1])
async def test_prompts_and_resources_at_their_bound_and_one_past_it(tmp_path: Path, more: int) -> None:
    limits = attrs.evolve(LIMITS, mcp_offers=2)
    prompts = [[{"name": str(number)} for number in range(2 + more)]]
    resources = [[{"uri": str(number)} for number in range(2 + more)]]
    async with hosted(tmp_path, limits=limits, capabilities=BOTH, prompts=prompts, resources=resources) as world:
        await names(world)
        status = await world.bad.status()
        assert status.prompts is not None and status.resources is not None
        assert (len(status.prompts), len(status.resources)) == (2, 2)
        if more:
            said = await trouble(world)
            assert "more than 2 prompts" in said and "more than 2 resources" in said


async def test_entries_that_are_none(tmp_path: Path) -> None:
    prompts = [[{"name": ""}, {"description": "x"}, 5, {"name": "good", "description": ["x"]}]]
    async with hosted(tmp_path, capabilities=BOTH, prompts=prompts, resources=[[{"name": "no uri"}]]) as world:
        await names(world)
        status = await world.status(lambda status: status.error is not None)
        assert status.prompts == (ToolLine(name="good", description=""),) and status.resources == ()


# ------------------------------------------------------------------ changes
@pytest.mark.parametrize("kind", ["tools", "prompts", "resources"])
async def test_lists_that_change_are_read_again(tmp_path: Path, kind: str) -> None:
    entry = {"tools": tool("new"), "prompts": {"name": "new"}, "resources": {"uri": "new"}}[kind]
    pages = [[DO, entry]] if kind == "tools" else [[entry]]
    notice = f'{{"jsonrpc":"2.0","method":"notifications/{kind}/list_changed"}}'
    async with hosted(tmp_path, capabilities=BOTH) as world:
        await world.do(change={kind: pages}, write=[notice])
        status = await world.status(lambda status: len(getattr(status, kind) or ()) == (2 if kind == "tools" else 1))
        assert status.state == "ready" and status.restarts == 0
        if kind == "tools":
            assert await names(world) == ["do", "new"]


async def test_a_list_that_cannot_be_read_again_leaves_what_there_is(tmp_path: Path) -> None:
    notice = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
    async with hosted(tmp_path) as world:
        await world.do(change={"refuse": {"tools/list": "not now"}}, write=[notice])
        assert "not now" in await trouble(world)
        assert await names(world) == ["do"] and not (await world.do()).is_error
        await world.do(change={"refuse": {}}, write=[notice])
        await world.status(lambda status: status.state == "ready")


async def test_changes_without_end_are_looked_at_ever_less_often(tmp_path: Path, mock_clock: MockClock) -> None:
    """The time is the test's; each look is asked for by changes right after the one before."""
    notice = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
    async with hosted(tmp_path, beside=True) as world:
        await world.bad.specs()
        link = world.toolset._link
        assert link is not None
        for look, pause in enumerate((1, 2, 4, 8), start=2):
            before = link._read_at
            await world.do(write=[notice], times=50)
            await wait_all_tasks_blocked()
            mock_clock.jump(pause - 0.1)
            await wait_all_tasks_blocked()
            assert link._read_at == before, "it is not time yet"
            mock_clock.jump(0.2)
            while len(world.received("tools/list")) < look:
                await trio.lowlevel.checkpoint()
            assert link._read_at > before
            await world.fine()
        mock_clock.jump(33)  # quiet for twice as long as it would be waited: it is looked at soon again
        await world.do(write=[notice])
        while len(world.received("tools/list")) < look + 1:
            await trio.lowlevel.checkpoint()
        assert link._pause == 2 * CHANGES_SECONDS
        assert (await world.bad.status()).restarts == 0
