"""The life of a toolset: lazy start, watch, restarts by policy, idle end, and stops in every state from many tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._actor import open_actor
from actors._toolset_life import FAILED_SECONDS, STABLE_SECONDS, News, Preview
from actors.toolset import Toolbox, ToolsetActor, ToolsetRef
from engine import codec
from engine.limits import Limits
from engine.tools.spec import ToolContext, ToolResult, ToolSpec

CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/")
LIMITS = Limits(toolset_restarts=3, toolset_backoff_first=1, toolset_backoff_max=8)


class Server:
    """A toolset that the test breaks. `log` has what happened to it."""

    kind = "fake"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails = 0  # how many of the next starts fail
        self.hangs = False  # whether a start or an end hangs
        self.delay = 0.0  # seconds that a start takes
        self.hangs_closing = False
        self.open_now = 0
        self._tell, self._news = trio.open_memory_channel[News | Exception](10)

    def tell(self, **news: Any) -> None:
        self._tell.send_nowait(News(**news))

    def crash(self, exc: Exception) -> None:
        self._tell.send_nowait(exc)

    async def open(self) -> Sequence[ToolSpec]:
        assert self.open_now == 0, "opened twice"
        self.open_now += 1
        self.log.append("open")
        if self.fails:
            self.fails -= 1
            raise OSError("no such server")
        if self.hangs:
            await trio.sleep_forever()
        if self.delay:
            await trio.sleep(self.delay)
        return [self.spec("wait"), self.spec("echo")]

    def spec(self, name: str) -> ToolSpec:
        return ToolSpec(name=name, description=f"Does {name}.", input_schema=b"{}")

    async def news(self) -> News:
        news = await self._news.receive()
        if isinstance(news, Exception):
            raise news
        return news

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        assert self.open_now == 1, "called while it is closed"
        if tool == "wait":
            try:
                await trio.sleep_forever()
            finally:
                self.log.append("left")
        return ToolResult(text="echo")

    async def close(self) -> None:
        if self.hangs_closing:
            await trio.sleep_forever()
        self.log.append("close")
        self.open_now -= 1


@asynccontextmanager
async def alive(server: Server, **given: Any) -> AsyncIterator[ToolsetRef]:
    given = {"limits": LIMITS, "lazy": True, "restart": "on_failure", **given}
    async with open_actor(ToolsetActor(server, **given), "fake") as ref:
        yield ref
    assert server.open_now == 0 or server.hangs_closing, "left open"


async def state(ref: ToolsetRef) -> str:
    return (await ref.status()).state


async def echo(ref: ToolsetRef) -> str:
    return (await ref.call("echo", b"{}", CONTEXT)).text


class Waiting:
    """A call that works until something ends it."""

    def __init__(self, ref: ToolsetRef, nursery: trio.Nursery) -> None:
        self.text: str | None = None
        nursery.start_soon(self._call, ref)

    async def _call(self, ref: ToolsetRef) -> None:
        self.text = (await ref.call("wait", b"{}", CONTEXT)).text


# ------------------------------------------------------------------ start
async def test_it_is_opened_by_its_first_use_only() -> None:
    server = Server()
    async with alive(server) as ref:
        assert await state(ref) == "stopped" and server.log == []
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ref.specs)
                nursery.start_soon(echo, ref)
        assert server.log == ["open"] and await state(ref) == "ready"
    assert server.log == ["open", "close"]


async def test_always_means_from_the_start_on() -> None:
    server = Server()
    async with alive(server, restart="always", idle=5) as ref:
        await wait_all_tasks_blocked()
        assert await state(ref) == "ready"


async def test_always_holds_up_no_start(autojump_clock: MockClock) -> None:
    server = Server()
    server.hangs = True
    began = trio.current_time()
    async with alive(server, restart="always") as ref:
        assert trio.current_time() == began and await state(ref) == "starting"


async def test_a_failed_start_is_tried_again_with_growing_waits(autojump_clock: MockClock) -> None:
    server = Server()
    server.fails = 3
    async with alive(server) as ref:
        began = trio.current_time()
        assert await echo(ref) == "echo"
        # 1, 2 and 4 seconds, each from half of it on.
        assert 3.5 <= trio.current_time() - began <= 7
        status = await ref.status()
        assert (status.restarts, status.error) == (3, None)
    assert server.log == ["open", "close"] * 4


async def test_after_the_last_attempt_it_is_failed_until_a_use_much_later(mock_clock: MockClock) -> None:
    server = Server()
    server.fails = 4
    async with alive(server) as ref:
        mock_clock.autojump_threshold = 0
        assert await echo(ref) == "The toolset fake is failed: it could not be started: OSError: no such server"
        mock_clock.autojump_threshold = float("inf")
        assert len(server.log) == 8 and await ref.specs() == ()
        mock_clock.jump(FAILED_SECONDS - 1)
        assert "is failed" in await echo(ref) and len(server.log) == 8
        mock_clock.jump(1.001)
        assert await echo(ref) == "echo"


async def test_never_means_one_start() -> None:
    server = Server()
    server.fails = 1
    async with alive(server, restart="never") as ref:
        assert "is failed" in await echo(ref)
        assert server.log == ["open", "close"]
        assert (await ref.restart()).state == "ready"


async def test_a_start_that_hangs_is_ended_and_closed(autojump_clock: MockClock) -> None:
    server = Server()
    server.hangs = True
    async with alive(server, restart="never") as ref:
        assert "was not ready within 30 s" in await echo(ref)
        assert server.log == ["open", "close"]


async def test_a_call_of_one_that_does_not_start_in_its_time_says_so(autojump_clock: MockClock) -> None:
    server = Server()
    server.hangs = True
    async with alive(server, call_timeout=40) as ref:
        result = await ref.call("echo", b"{}", CONTEXT)
        assert result.is_error and result.text == (
            "The toolset fake was not ready within the 40 s of a call, it is starting: "
            "it could not be started: it was not ready within 30 s"
        )


# ------------------------------------------------------------------ what a request to a model waits for
WAIT = LIMITS.toolset_first_wait


@asynccontextmanager
async def several(**servers: Server) -> AsyncIterator[tuple[Toolbox, dict[str, ToolsetRef]]]:
    async with AsyncExitStack() as stack:
        refs = {
            name: await stack.enter_async_context(
                open_actor(ToolsetActor(server, limits=LIMITS, lazy=True, restart="on_failure"), name)
            )
            for name, server in servers.items()
        }
        yield Toolbox(list(refs), refs.__getitem__), refs


async def test_tools_of_all_are_waited_for_at_once_and_not_beyond_the_first_wait(autojump_clock: MockClock) -> None:
    hanging, other, crashing, good = Server(), Server(), Server(), Server()
    hanging.hangs = other.hangs = True
    crashing.fails = 100
    async with several(hanging=hanging, other=other, crashing=crashing, good=good) as (toolbox, _):
        names = ["hanging", "other", "crashing", "good"]
        began = trio.current_time()
        tools = await toolbox.tools(names)
        assert trio.current_time() - began == WAIT
        assert [spec.name for spec in tools.specs] == ["good.wait", "good.echo"]
        assert tools.absent == ("hanging", "other", "crashing")
        assert hanging.log == other.log == ["open"]
        for pause in (0, 1, 30, 600):  # in the first attempt, between two, after the last
            await trio.sleep(pause)
            began = trio.current_time()
            assert await toolbox.tools(names) == tools and trio.current_time() == began


async def test_the_first_wait_and_just_past_it(autojump_clock: MockClock) -> None:
    for delay, there in ((WAIT - 0.001, True), (WAIT + 0.001, False)):
        server = Server()
        server.delay = delay
        async with several(slow=server) as (toolbox, _):
            assert bool((await toolbox.tools(["slow"])).specs) is there
            await trio.sleep(0.01)
            assert len((await toolbox.tools(["slow"])).specs) == 2  # it has come, and is there from the next turn on


async def test_one_whose_first_attempt_has_failed_is_not_waited_for(autojump_clock: MockClock) -> None:
    server = Server()
    server.fails = 1
    server.delay = 5
    async with several(bad=server) as (toolbox, refs):
        began = trio.current_time()
        assert (await toolbox.tools(["bad"])).absent == ("bad",)
        assert trio.current_time() == began and await state(refs["bad"]) == "restarting"
        await trio.sleep(2)  # the second attempt is made
        assert await state(refs["bad"]) == "starting" and server.log == ["open", "close", "open"]
        assert (await toolbox.tools(["bad"])).absent == ("bad",)
        assert trio.current_time() == began + 2
        assert await echo(refs["bad"]) == "echo"  # a call waits


async def test_the_last_known_tools_are_those_of_one_that_is_down(autojump_clock: MockClock) -> None:
    server = Server()
    async with several(gone=server) as (toolbox, refs):
        tools = await toolbox.tools(["gone"])
        server.hangs = True
        server.crash(OSError("gone"))
        await wait_all_tasks_blocked()
        for expected, pause in (("restarting", 2), ("starting", 300), ("failed", FAILED_SECONDS)):
            began = trio.current_time()
            assert await state(refs["gone"]) == expected
            assert await toolbox.tools(["gone"]) == tools and trio.current_time() == began
            await trio.sleep(pause)
        server.hangs = False
        assert await echo(refs["gone"]) == "echo"


# ------------------------------------------------------------------ watch
async def test_its_tools_change_and_part_of_it_may_not_work() -> None:
    server = Server()
    async with alive(server) as ref:
        assert [spec.name for spec in await ref.specs()] == ["fake.wait", "fake.echo"]
        server.tell(tools=[server.spec("echo"), server.spec("new")])
        server.tell(trouble="its resources cannot be listed")
        await wait_all_tasks_blocked()
        assert [spec.name for spec in await ref.specs()] == ["fake.echo", "fake.new"]
        status = await ref.status()
        assert status.state == "degraded" and status.error is not None and "resources" in status.error.message
        assert await echo(ref) == "echo"
        server.tell()
        await wait_all_tasks_blocked()
        assert await state(ref) == "ready" and (await ref.status()).error is None


@pytest.mark.parametrize("how", ["told", "raised"])
async def test_one_that_breaks_ends_its_calls_and_is_started_again(autojump_clock: MockClock, how: str) -> None:
    server = Server()
    async with alive(server) as ref, trio.open_nursery() as nursery:
        waiting = [Waiting(ref, nursery) for _ in range(3)]
        await wait_all_tasks_blocked()
        if how == "told":
            server.tell(broken="exit code 1")
        else:
            server.crash(ValueError("exit code 1"))
        assert await echo(ref) == "echo"  # a call made meanwhile waits for the new life
        for one in waiting:
            assert one.text is not None and "has broken" in one.text and "exit code 1" in one.text
        assert server.log == ["open", "left", "left", "left", "close", "open"]
        assert (await ref.status()).restarts == 1


async def test_a_long_life_begins_the_attempts_anew(autojump_clock: MockClock) -> None:
    server = Server()
    async with alive(server) as ref:
        for _ in range(5):
            assert await echo(ref) == "echo"
            await trio.sleep(STABLE_SECONDS)
            server.tell(broken="again")
            await wait_all_tasks_blocked()
        assert await echo(ref) == "echo"
        for _ in range(3):
            server.tell(broken="at once")
        await trio.sleep(30)  # longer than all waits together
        assert await state(ref) == "failed"


async def test_an_idle_one_is_closed_and_comes_back_with_its_tools_known(mock_clock: MockClock) -> None:
    server = Server()
    async with alive(server, idle=100) as ref, trio.open_nursery() as nursery:
        waiting = Waiting(ref, nursery)
        await wait_all_tasks_blocked()
        mock_clock.jump(110)  # a call that works keeps it
        await wait_all_tasks_blocked()
        assert await state(ref) == "ready" and waiting.text is None
        mock_clock.jump(11)  # over the call's own time
        await wait_all_tasks_blocked()
        assert waiting.text is not None and "did not finish in 120 s" in waiting.text
        mock_clock.jump(99)
        await wait_all_tasks_blocked()
        assert await state(ref) == "ready"
        mock_clock.jump(1.001)
        await wait_all_tasks_blocked()
        assert await state(ref) == "stopped" and server.log == ["open", "left", "close"]
        assert len(await ref.specs()) == 2 and await state(ref) == "stopped"
        assert await echo(ref) == "echo" and (await ref.status()).restarts == 0


class Slow(Server):
    """Whose end waits for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.let = trio.Event()

    async def close(self) -> None:
        await self.let.wait()
        await super().close()


async def test_a_use_while_an_idle_one_is_closed_opens_it_again(mock_clock: MockClock) -> None:
    server = Slow()
    async with alive(server, idle=100) as ref, trio.open_nursery() as nursery:
        await echo(ref)
        mock_clock.jump(101)
        await wait_all_tasks_blocked()
        assert await state(ref) == "stopping"
        texts: list[str] = []

        async def use() -> None:
            texts.append(await echo(ref))

        for _ in range(3):
            nursery.start_soon(use)
        await wait_all_tasks_blocked()
        server.let.set()
        await wait_all_tasks_blocked()
        assert texts == ["echo"] * 3 and server.log == ["open", "close", "open"]


async def test_a_stop_while_an_idle_one_is_closed_holds(mock_clock: MockClock) -> None:
    server = Slow()
    async with alive(server, idle=100) as ref, trio.open_nursery() as nursery:
        await echo(ref)
        mock_clock.jump(101)
        await wait_all_tasks_blocked()
        waiting = Waiting(ref, nursery)
        await wait_all_tasks_blocked()
        nursery.start_soon(many, ref)
        await wait_all_tasks_blocked()
        server.let.set()
        await wait_all_tasks_blocked()
        assert waiting.text is not None and "is stopped" in waiting.text
        assert server.log == ["open", "close"]
        assert await echo(ref) == "echo"


# ------------------------------------------------------------------ stop
async def many(ref: ToolsetRef, tasks: int = 10) -> None:
    """Stop it from many tasks at once: all return after the end."""
    life = ref._cell.actor._life  # type: ignore[attr-defined]
    returned = 0

    async def stop() -> None:
        nonlocal returned
        await life.stop()
        assert life.state == "stopped"
        returned += 1

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(stop)
    assert returned == tasks


@pytest.mark.parametrize("where", ["stopped", "connect", "watch", "call", "backoff", "failed", "closing"])
async def test_a_stop_in_every_state_and_a_start_afterwards(mock_clock: MockClock, where: str) -> None:
    server = Server()
    async with alive(server, restart="never" if where == "failed" else "on_failure") as ref:
        async with trio.open_nursery() as nursery:
            waiting: Waiting | None = None
            match where:
                case "connect":
                    server.hangs = True
                    nursery.start_soon(echo, ref)
                case "watch":
                    await echo(ref)
                case "call" | "closing":
                    waiting = Waiting(ref, nursery)
                case "backoff" | "failed":
                    server.fails = 1
                    nursery.start_soon(echo, ref)
            await wait_all_tasks_blocked()
            expected = {
                "connect": "starting",
                "watch": "ready",
                "call": "ready",
                "backoff": "restarting",
                "closing": "ready",
            }
            assert await state(ref) == expected.get(where, where)
            if where == "closing":
                nursery.start_soon(many, ref)
            await many(ref)
            server.hangs = False
        assert server.open_now == 0
        if waiting is not None:
            assert waiting.text is not None and "is stopped" in waiting.text
        for _ in range(2):  # start, stop again
            assert await echo(ref) == "echo"
            await many(ref)
    assert server.log.count("open") == server.log.count("close")


async def test_an_end_that_hangs_is_bounded(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.hangs_closing = True
    async with alive(server) as ref:
        await echo(ref)
        await many(ref)
    assert any("could not be closed" in record.getMessage() for record in caplog.records)


async def test_a_call_that_does_not_end_does_not_hold_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(Server):
        async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
            with trio.CancelScope(shield=True):
                await trio.sleep(1000)
            return ToolResult(text="at last")

    server = Stubborn()
    async with alive(server) as ref, trio.open_nursery() as nursery:
        Waiting(ref, nursery)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await many(ref)
        assert trio.current_time() - began <= 2 * LIMITS.toolset_stop_timeout
    assert any("do not end" in record.getMessage() for record in caplog.records)


async def test_a_restart_on_request() -> None:
    server = Server()
    async with alive(server) as ref, trio.open_nursery() as nursery:
        waiting = Waiting(ref, nursery)
        await wait_all_tasks_blocked()
        statuses: list[str] = []

        async def restart() -> None:
            statuses.append((await ref.restart()).state)

        async with trio.open_nursery() as several:
            for _ in range(3):
                several.start_soon(restart)
        assert statuses == ["ready"] * 3
        assert waiting.text is not None and "is stopped" in waiting.text
        assert await echo(ref) == "echo"


async def test_restarts_at_once_and_in_each_others_way_all_tell_what_came_of_it(autojump_clock: MockClock) -> None:
    """Those that come together are one; one that comes while it opens begins anew, and holds for all."""
    server = Server()
    async with alive(server) as ref:
        await echo(ref)
        server.delay = 5.0
        states: list[str] = []

        async def restart() -> None:
            states.append((await ref.restart()).state)

        began = trio.current_time()
        async with trio.open_nursery() as several:
            for _ in range(8):
                several.start_soon(restart)
        assert states == ["ready"] * 8
        assert server.log == ["open", "close", "open"] and trio.current_time() - began == 5
        states.clear()
        async with trio.open_nursery() as several:
            for pause in (0, 0, 2, 2, 4, 0):
                await trio.sleep(pause)
                several.start_soon(restart)
        assert states == ["ready"] * 6
        assert server.log[3:] == ["close", "open"] * 4 and trio.current_time() - began == 5 + 8 + 5


async def test_a_restart_of_what_cannot_start_says_so_to_all(autojump_clock: MockClock) -> None:
    server = Server()
    async with alive(server) as ref:
        await echo(ref)
        server.fails = 100
        states: list[str] = []

        async def restart() -> None:
            states.append((await ref.restart()).state)

        async with trio.open_nursery() as several:
            for _ in range(8):
                several.start_soon(restart)
        assert states == ["failed"] * 8


async def test_the_end_of_the_actor_closes_it_in_any_state(mock_clock: MockClock) -> None:
    for prepare in ("connect", "backoff", "call"):
        server = Server()
        async with trio.open_nursery() as nursery, alive(server) as ref:
            server.hangs, server.fails = prepare == "connect", prepare == "backoff"
            if prepare == "call":
                Waiting(ref, nursery)
            else:
                nursery.start_soon(echo, ref)
            await wait_all_tasks_blocked()
            await ref.stop()
        assert server.open_now == 0
