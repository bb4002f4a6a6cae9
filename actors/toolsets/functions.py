"""A toolset of Python functions: async ones run on the loop, sync ones in worker threads."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import trio

from actors._toolset_life import Preview, no_news
from engine import codec
from engine.limits import DEFAULT, Limits
from engine.tools.function import FunctionTool, function_tool, result_of
from engine.tools.spec import ToolContext, ToolResult, ToolSpec

_log = logging.getLogger("greenroom.toolset.functions")

# Sync functions at work at once. One that never returns keeps its place, so that stuck threads are bounded too.
FUNCTION_THREADS: Final = 16


class FunctionsToolset:
    """Functions by name. Raises TypeError, naming function and parameter, for what cannot be a tool.

    A sync function cannot be interrupted: cancelled, a call waits `limits.cancel_grace` seconds for it; then its
    thread is abandoned to its end (from then on trio.from_thread.check_cancelled raises in it).
    """

    kind = "functions"

    def __init__(self, functions: Iterable[Callable[..., Any]], *, limits: Limits = DEFAULT) -> None:
        self._tools: dict[str, FunctionTool] = {}
        for function in functions:
            tool = function_tool(function)
            if tool.spec.name in self._tools:
                raise TypeError(f"{tool.spec.name}: two functions have this name")
            self._tools[tool.spec.name] = tool
        self._grace = limits.cancel_grace
        self._threads = trio.CapacityLimiter(FUNCTION_THREADS)

    async def open(self) -> Sequence[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        found = self._tools[tool]
        work = found.bind(value, context)
        returned = await work() if found.is_async else await self._in_thread(tool, work)
        if inspect.isawaitable(returned):  # a sync function that made a coroutine
            returned = await returned
        return result_of(returned)

    news = staticmethod(no_news)

    async def close(self) -> None:
        """Nothing is kept between calls."""

    async def _in_thread(self, tool: str, work: Callable[[], Any]) -> Any:
        place = _Place(self._threads)
        await self._threads.acquire_on_behalf_of(place)  # cancelled here, nothing was begun
        shield = trio.CancelScope(shield=True)
        returned: Any = None
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._bound_when_cancelled, shield)
            with shield:
                returned, error = await trio.to_thread.run_sync(
                    _capture,
                    work,
                    abandon_on_cancel=True,
                    limiter=place,  # type: ignore[arg-type] # documented: anything with these two methods
                )
            if shield.cancelled_caught:
                _log.warning("functions.%s went on %g s after it was cancelled: abandoned", tool, self._grace)
            nursery.cancel_scope.cancel(reason="the function has ended")
        if error is not None:
            raise error
        return returned

    async def _bound_when_cancelled(self, shield: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        finally:
            shield.deadline = trio.current_time() + self._grace


class _Place:
    """A place among the threads that was taken before: it is given back when the thread ends, abandoned or not."""

    def __init__(self, threads: trio.CapacityLimiter) -> None:
        self._threads = threads

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await trio.lowlevel.checkpoint()

    def release_on_behalf_of(self, borrower: object) -> None:
        self._threads.release_on_behalf_of(self)


def _capture(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        value = work()
        # What may be large is encoded here, beside the loop.
        return value if inspect.isawaitable(value) else result_of(value), None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is raised again in the call's own task
        return None, exc
