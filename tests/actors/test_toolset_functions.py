"""Python functions as tools in their actor: on the loop and in threads, raising, returning much, never returning."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._actor import open_actor
from actors.toolset import ToolsetActor, ToolsetRef
from actors.toolsets.functions import FUNCTION_THREADS, FunctionsToolset
from engine import codec
from engine.limits import MIB, Limits
from engine.tools.spec import ToolContext, ToolResult

CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/folder")
DEADLINE = 60  # seconds until a hanging test fails


@asynccontextmanager
async def opened(*functions: Callable[..., Any], limits: Limits | None = None) -> AsyncIterator[ToolsetRef]:
    limits = limits or Limits()
    with trio.fail_after(DEADLINE):
        async with open_actor(ToolsetActor(FunctionsToolset(functions, limits=limits), limits=limits), "own") as ref:
            yield ref


async def call(ref: ToolsetRef, tool: str, **input: object) -> ToolResult:
    return await ref.call(tool, codec.dump(input), CONTEXT)


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def test_sync_and_async_functions() -> None:
    loop_thread = threading.get_ident()

    def where() -> bool:
        """Whether it runs beside the loop."""
        return threading.get_ident() != loop_thread

    async def here(context: ToolContext) -> dict[str, Any]:
        """Where it runs."""
        await trio.lowlevel.checkpoint()
        return {"loop": threading.get_ident() == loop_thread, "cwd": context.cwd}

    def later(text: str) -> Any:
        """A sync function that gives a coroutine."""

        async def work() -> str:
            return text

        return work()

    async with opened(add, where, here, later) as ref:
        assert (await call(ref, "add", a=2)).text == "3"
        assert (await call(ref, "where")).text == "true"
        assert (await call(ref, "here")).text == '{"loop":true,"cwd":"/folder"}'
        assert (await call(ref, "later", text="soon")).text == "soon"
        assert [spec.name for spec in await ref.specs()] == ["own.add", "own.where", "own.here", "own.later"]
        assert (await ref.status()).kind == "functions"


async def test_what_goes_wrong_is_a_result() -> None:
    def broken() -> str:
        """Raises."""
        raise LookupError("not there")

    async def broken_async() -> str:
        """Raises."""
        raise LookupError("not there either")

    def leaves() -> str:
        """Leaves."""
        sys.exit("bye")

    def odd() -> object:
        """Returns what is not JSON."""
        return object()

    def large() -> str:
        """Returns 10 MiB."""
        return "x" * (10 * MIB)

    def wide() -> list[str]:
        """Returns 10 MiB of JSON."""
        return ["x" * MIB] * 10

    async with opened(broken, broken_async, leaves, odd, large, wide, add) as ref:
        for tool, text in (
            ("broken", "own.broken failed: LookupError: not there"),
            ("broken_async", "own.broken_async failed: LookupError: not there either"),
            ("leaves", "own.leaves failed: SystemExit: bye"),
        ):
            assert await call(ref, tool) == ToolResult(text=text, is_error=True)
        assert (await call(ref, "odd")).text.startswith("own.odd failed: TypeError: the tool returned object")
        for tool in ("large", "wide"):
            result = await call(ref, tool)
            assert not result.is_error and 50_000 < len(result.text.encode()) <= 50 * 1024
        assert await call(ref, "add", a="2", c=1) == ToolResult(
            text="The input of own.add does not fit its schema:\n- a: expected an integer, not a string\n"
            "- c: is not a known field",
            is_error=True,
        )


async def test_an_async_function_that_never_returns(autojump_clock: MockClock) -> None:
    async def forever() -> str:
        """Never returns."""
        await trio.sleep_forever()
        raise AssertionError

    async with opened(forever, limits=Limits(tool_call_timeout=5)) as ref:
        assert await call(ref, "forever") == ToolResult(
            text="own.forever did not finish in 5 s and was stopped.", is_error=True
        )


class Stuck:
    """A sync function that never looks up; it waits in its thread until it is let go.
    `arrived` is set when as many wait as are expected."""

    def __init__(self, expected: int = 1) -> None:
        self.expected = expected
        self.arrived = trio.Event()
        self.open = threading.Event()
        self.arrivals = 0

    def __call__(self) -> str:
        """Waits."""
        trio.from_thread.run_sync(self._arrive)
        assert self.open.wait(DEADLINE)
        return "let go"

    __name__ = "stuck"

    def _arrive(self) -> None:
        self.arrivals += 1
        if self.arrivals == self.expected:
            self.arrived.set()


async def test_a_cancelled_call_waits_for_its_function() -> None:
    stuck = Stuck()
    async with opened(stuck) as ref:
        returned: list[bool] = []

        async def caller(scope: trio.CancelScope) -> None:
            with scope:
                await call(ref, "stuck")
            returned.append(stuck.open.is_set())

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(caller, scope)
            await stuck.arrived.wait()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert returned == []
            stuck.open.set()
        assert scope.cancelled_caught and returned == [True]


async def test_a_function_that_never_returns_is_abandoned_after_its_grace_and_keeps_its_place() -> None:
    stuck = Stuck(expected=FUNCTION_THREADS)
    limits = Limits(tool_call_timeout=0.01, cancel_grace=0.01)
    try:
        async with opened(stuck, add, limits=limits) as ref:
            async with trio.open_nursery() as nursery:
                for _ in range(FUNCTION_THREADS):
                    nursery.start_soon(call, ref, "stuck")
                await stuck.arrived.wait()
            assert (await ref.status()).leases == 0
            # Every place is taken by a thread that is stuck: the next waits for one, in vain.
            assert (await call(ref, "add", a=1)).text == "own.add did not finish in 0.01 s and was stopped."
            stuck.open.set()
            while (result := await call(ref, "add", a=1)).is_error:
                assert "did not finish" in result.text
            assert result.text == "2"
    finally:
        stuck.open.set()


def test_mistakes_are_told_when_the_toolset_is_made() -> None:
    with pytest.raises(TypeError, match="add: two functions have this name"):
        FunctionsToolset([add, add])

    def untyped(a):  # type: ignore[no-untyped-def]
        """Doc."""

    with pytest.raises(TypeError, match="untyped: parameter 'a' has no type"):
        FunctionsToolset([untyped])
