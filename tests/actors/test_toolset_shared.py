"""Two names for one toolset: opened once, closed after the last, and news for both."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._actor import open_actor
from actors._guard import open_guard
from actors._spool import open_spools
from actors._toolset_life import Preview
from actors._toolset_shared import SharedToolset
from actors.composition import make_toolsets
from actors.toolset import ToolsetActor, ToolsetRef
from engine import codec
from engine.commands import OutputPiece
from engine.config import Config, ToolsetConfig
from engine.limits import Limits
from engine.tools.spec import ToolContext, ToolResult, ToolSpec
from tests.actors import mcp_server
from tests.actors.test_toolset_life import CONTEXT, LIMITS, Server, Waiting, echo, state


@asynccontextmanager
async def two(server: Server, tools: Collection[str] | None = None, **given: object) -> AsyncIterator[list[ToolsetRef]]:
    """The second with its choice of tools."""
    shared = SharedToolset(server)
    one, other = (
        ToolsetActor(shared.view(chosen), limits=LIMITS, lazy=True, restart="on_failure", **given)  # type: ignore[arg-type]
        for chosen in (None, tools)
    )
    async with open_actor(one, "one") as first, open_actor(other, "other") as second:
        yield [first, second]
    assert server.open_now == 0, "left open"


async def test_it_is_opened_once_and_closed_after_the_last() -> None:
    server = Server()
    async with two(server) as refs:
        async with trio.open_nursery() as nursery:
            for ref in (*refs, *refs):
                nursery.start_soon(echo, ref)
        assert [await state(ref) for ref in refs] == ["ready", "ready"]
        await refs[0].stop()
        assert server.log == ["open"] and await echo(refs[1]) == "echo"
        await refs[1].stop()
        assert server.log == ["open", "close"]


async def test_each_has_its_choice_of_tools_and_what_is_not_there_is_said() -> None:
    server = Server()
    async with two(server, tools=("echo", "nothing")) as refs:
        assert [spec.name for spec in await refs[0].specs()] == ["one.wait", "one.echo"]
        assert [spec.name for spec in await refs[1].specs()] == ["other.echo"]
        await wait_all_tasks_blocked()
        status = await refs[1].status()
        assert status.state == "degraded" and status.error is not None
        assert status.error.message == "it has no tool 'nothing'"
        assert await state(refs[0]) == "ready"
        server.tell(tools=[server.spec("echo"), server.spec("nothing")], trouble="its resources cannot be listed")
        await wait_all_tasks_blocked()
        assert [spec.name for spec in await refs[0].specs()] == ["one.echo", "one.nothing"]
        assert [spec.name for spec in await refs[1].specs()] == ["other.echo", "other.nothing"]
        for ref in refs:
            status = await ref.status()
            assert status.error is not None and status.error.message == "its resources cannot be listed"


async def test_news_go_on_when_the_one_that_listened_has_left() -> None:
    server = Server()
    async with two(server) as refs:
        for ref in refs:
            await echo(ref)
        await wait_all_tasks_blocked()
        await refs[0].stop()
        server.tell(trouble="no resources")
        await wait_all_tasks_blocked()
        assert await state(refs[1]) == "degraded"


@pytest.mark.parametrize("how", ["told", "raised"])
async def test_one_that_breaks_has_broken_for_both_and_is_opened_once_again(
    autojump_clock: MockClock, how: str
) -> None:
    server = Server()
    async with two(server) as refs, trio.open_nursery() as nursery:
        waiting = [Waiting(ref, nursery) for ref in refs]
        await wait_all_tasks_blocked()
        if how == "told":
            server.tell(broken="exit code 1")
        else:
            server.crash(ValueError("exit code 1"))
        for ref in refs:
            assert await echo(ref) == "echo"
        for one in waiting:
            assert one.text is not None and "exit code 1" in one.text
        await trio.sleep(LIMITS.toolset_backoff_first)  # the second may have had its call before it knew
        assert [name for name in server.log if name != "left"] == ["open", "close", "open"]
        assert [(await ref.status()).restarts for ref in refs] == [1, 1]


async def test_a_restart_of_one_is_one_of_what_they_share(autojump_clock: MockClock) -> None:
    server = Server()
    async with two(server) as refs, trio.open_nursery() as nursery:
        waiting = [Waiting(ref, nursery) for ref in refs]
        await wait_all_tasks_blocked()
        assert (await refs[0].restart()).state == "ready"
        assert await echo(refs[1]) == "echo"
        assert waiting[0].text is not None and "is stopped" in waiting[0].text
        assert waiting[1].text is not None and "restarted under another name" in waiting[1].text
        assert [name for name in server.log if name != "left"] == ["open", "close", "open"]


async def test_a_stop_of_one_that_connects_leaves_the_connect_to_the_other(autojump_clock: MockClock) -> None:
    server = Server()
    server.hangs = True
    async with two(server) as refs, trio.open_nursery() as nursery:
        for ref in refs:
            nursery.start_soon(echo, ref)
            await wait_all_tasks_blocked()
        began = trio.current_time()
        await refs[0].stop()  # it was the one that had begun; the other one hangs then
        assert trio.current_time() == began
        server.hangs = False
        await refs[1].restart()
        assert await echo(refs[1]) == "echo"
        assert server.log == ["open", "close", "open", "close", "open"]


async def test_a_failed_start_is_closed_by_who_made_it(autojump_clock: MockClock) -> None:
    server = Server()
    server.fails = 1
    async with two(server) as refs:
        assert await echo(refs[0]) == "echo"
        assert server.log == ["open", "close", "open"]


async def test_an_idle_one_is_closed_when_both_are_idle(mock_clock: MockClock) -> None:
    server = Server()
    async with two(server, idle=100) as refs, trio.open_nursery() as nursery:
        await echo(refs[0])
        Waiting(refs[1], nursery)
        await wait_all_tasks_blocked()
        mock_clock.jump(101)
        await wait_all_tasks_blocked()
        assert [await state(ref) for ref in refs] == ["stopped", "ready"] and server.log == ["open"]
        mock_clock.jump(20)  # over the call's own time
        await wait_all_tasks_blocked()
        mock_clock.jump(101)
        await wait_all_tasks_blocked()
        assert [await state(ref) for ref in refs] == ["stopped", "stopped"] and server.log == ["open", "left", "close"]


async def test_servers_that_are_configured_alike_are_one_process(tmp_path: Path) -> None:
    def server(**fields: Any) -> ToolsetConfig:
        return ToolsetConfig(kind="mcp", command=sys.executable, args=(mcp_server.__file__,), **fields)

    config = Config(
        toolsets={
            "one": server(tools=("echo",)),
            "two": server(call_timeout=9.0),
            "three": server(env={"ANOTHER": "1"}),
            "four": server(restart="never"),
        }
    )
    async with open_spools(tmp_path) as spools, open_guard(Limits()) as guard:
        made = make_toolsets(config, (), spools, guard, nothing_kept)
        async with contextlib.AsyncExitStack() as stack:
            refs = {name: await stack.enter_async_context(open_actor(make(), name)) for name, make in made.items()}
            with trio.fail_after(60):
                for name, ref in refs.items():
                    assert (await ref.call("echo", codec.dump({"text": name}), CONTEXT)).text == name
                assert guard.statistics().processes == 2
                assert [spec.name for spec in await refs["one"].specs()] == ["one.echo"]
                assert len(await refs["two"].specs()) > 1
                await refs["one"].stop()
                assert (await refs["two"].call("echo", b'{"text":"still"}', CONTEXT)).text == "still"
                await refs["two"].stop()
                assert guard.statistics().processes == 2
                await refs["four"].stop()
                assert guard.statistics().processes == 1


async def nothing_kept(session_id: str, handle: str, offset: int, limit: int) -> OutputPiece:
    raise AssertionError


class Wavering(Server):
    """Takes its time to open and to close, fails now and then, and may be called when it has just broken."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.calm = False

    async def open(self) -> Sequence[ToolSpec]:
        assert self.open_now == 0, "opened twice"
        self.open_now += 1
        if not self.calm:
            await trio.sleep(self._rng.choice((0, 0, 1, 50)))
            if self._rng.random() < 0.2:
                raise OSError("no such server")
        return [self.spec("wait"), self.spec("echo")]

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        await trio.sleep(self._rng.choice((0, 1)))
        return ToolResult(text="echo")

    async def close(self) -> None:
        await trio.sleep(self._rng.choice((0, 0, 1)))
        self.open_now = 0


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_three_names_do_it_is_open_once_or_not_at_all(autojump_clock: MockClock, seed: int) -> None:
    rng = random.Random(seed)
    server = Wavering(rng)
    shared = SharedToolset(server)
    async with contextlib.AsyncExitStack() as stack:
        refs: list[ToolsetRef] = []
        for name in ("one", "two", "three"):
            idle = rng.choice((5, 99))
            actor = ToolsetActor(shared.view(), limits=LIMITS, lazy=True, restart="on_failure", idle=idle)
            refs.append(await stack.enter_async_context(open_actor(actor, name)))

        async def use(ref: ToolsetRef) -> None:
            for _ in range(12):
                with trio.move_on_after(rng.choice((0.5, 2, 1000))):
                    match rng.randrange(6):
                        case 0 | 1:
                            await echo(ref)
                        case 2:
                            await ref.restart()
                        case 3:
                            await ref._cell.actor._life.stop()  # type: ignore[attr-defined]
                        case 4:
                            with contextlib.suppress(trio.WouldBlock):
                                server.tell(broken="it was the test")
                        case 5:
                            await trio.sleep(rng.choice((1, 10)))

        async with trio.open_nursery() as nursery:
            for ref in (*refs, *refs):
                nursery.start_soon(use, ref)
        server.calm = True
        while server._news.statistics().current_buffer_used:  # what nobody has heard
            server._news.receive_nowait()
        for ref in refs:
            await ref.restart()
            assert await echo(ref) == "echo"
    assert server.open_now == 0, "left open"
