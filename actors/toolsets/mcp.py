"""Tool servers of the Model Context Protocol: a program of the guard's, or a service over HTTP.

One connection serves all sessions. It is held by a task of its own, because it is opened by one call and closed by
another; that task ends with it, and the program with the task. A server may ask a person a question in the middle of a
call, and for the folders of the sessions that use it; models are not its to use.

A call's time is that of its toolset: progress does not extend it, the time that a person takes for an answer does.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from actors._guard import Guard, Process
from actors._spool import ToolsetSpool
from actors._toolset_life import News, Preview
from actors.logs import hide
from actors.toolsets.mcp_calls import Questions, Roots
from actors.toolsets.mcp_client import Client, Gone, Handler, Refused, Result
from actors.toolsets.mcp_http import open_http
from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_listing import Listing, read_listing
from actors.toolsets.mcp_results import read_answer, tool_result
from actors.toolsets.mcp_stdio import Intake, Tail, open_stdio
from engine import codec
from engine.errors import PeerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools.cut import HeadTail
from engine.tools.explain import explain
from engine.tools.spec import Offer, ToolContext, ToolResult, ToolSpec

_log = logging.getLogger("greenroom.mcp")

# A server has this long to end after its input is closed (or, over HTTP, its session), then it is killed. Well within
# limits.toolset_stop_timeout.
CLOSE_GRACE: Final = 3.0
# When a connection broke, the program's exit code and last words follow at once or not at all.
_LAST_WORDS: Final = 1.0
# Lists that a server says have changed are read again at most this often: first, and if they change all the time.
CHANGES_SECONDS: Final = 1.0
CHANGES_LONGEST: Final = 60.0
# Of standard error in an error's text.
_STDERR_BYTES: Final = KIB
_STDERR_LINES: Final = 8


@attrs.frozen(slots=True, kw_only=True)
class Server:
    """How to reach it: `command` with exactly the environment `env` in the folder `cwd`, or `url`. `headers_env` names
    the variables of `environ` that headers are taken from when it is connected. `roots` are the folders that it is told
    of; absent, those of the sessions that use it."""

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    cwd: str = "/"
    url: str | None = None
    headers_env: Mapping[str, str] = attrs.field(factory=dict)
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    roots: tuple[str, ...] | None = None


class McpToolset:
    """`tools` absent means all that the server has."""

    kind = "mcp"

    def __init__(
        self,
        server: Server,
        guard: Guard,
        spool: ToolsetSpool,
        *,
        tools: Collection[str] | None = None,
        limits: Limits = DEFAULT,
    ) -> None:
        self._server = server
        self._guard = guard
        self._spool = spool
        self._chosen = tools
        self._limits = limits
        self._link: _Link | None = None
        self._offer = Offer()

    @property
    def offer(self) -> Offer:
        """As it was listed last."""
        return self._offer if self._link is None or self._link.listing is None else self._link.listing.offer

    async def open(self) -> Sequence[ToolSpec]:
        if importlib.util.find_spec("mcp") is None:
            raise PeerError("tool_error", "tool servers need another package: pip install 'greenroom[mcp]'")
        # The first time it takes a second and more: on the loop all streams would stand still. A stop need not wait.
        await trio.to_thread.run_sync(importlib.import_module, "mcp", abandon_on_cancel=True)
        self._link = link = _Link(self._server, self._guard, self._spool, self._chosen, self._limits)
        # Not a nursery's: it outlives this call. Its end is waited for by `close`.
        trio.lowlevel.spawn_system_task(link.run, name="tool server")
        await link.begun.wait()
        if link.broken is not None:
            raise PeerError("tool_error", link.broken)
        assert link.listing is not None
        return link.listing.tools

    async def news(self) -> News:
        assert self._link is not None
        return await self._link.news()

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        assert self._link is not None
        return await self._link.call(tool, value, context, preview)

    async def close(self) -> None:
        self._offer = self.offer
        link, self._link = self._link, None
        if link is not None:
            link.leave()
            await link.gone.wait()


class _Link:
    """One connection, from its opening to its end."""

    def __init__(
        self, server: Server, guard: Guard, spool: ToolsetSpool, chosen: Collection[str] | None, limits: Limits
    ) -> None:
        self._server = server
        self._guard = guard
        self._spool = spool
        self._chosen = chosen
        self._limits = limits
        self._inbox = Inbox(spool, self._on_noise, limits)
        self._tail = Tail()
        self._intake = Intake()
        self._process: Process | None = None
        self._client: Client | None = None
        self._questions = Questions(limits)
        self._roots = Roots(server.roots)
        self._scope = trio.CancelScope()
        self._leaving = trio.Event()
        self._changed = trio.Event()  # its lists
        self._noise: str | None = None
        self._lost = trio.Event()
        self._told: str | None = None  # the trouble that was told last
        self._read_at = -math.inf
        self._pause = CHANGES_SECONDS  # until they are read again
        self.listing: Listing | None = None
        self.broken: str | None = None
        self.begun = trio.Event()  # it is open, or has failed
        self.gone = trio.Event()

    def leave(self) -> None:
        """End it: by itself within the grace if it is open, at once if it is being opened."""
        self._leaving.set()
        self._scope.deadline = trio.current_time() + (CLOSE_GRACE if self.listing is not None else 0)

    async def run(self) -> None:
        """Until it is left or lost. Raises nothing but Cancelled."""
        try:
            with self._scope:
                async with self._connected() as client:
                    self.listing = await self._read(client)
                    self._told = self.listing.trouble
                    self._client = client
                    self.begun.set()
                    await self._leaving.wait()
        except Exception as exc:  # noqa: BLE001 - what a server or the client's library does is this connection's end
            _log.debug("a tool server's connection has failed", exc_info=exc)
            self.broken = self.broken or await self._why(explain(exc))
        finally:
            self._client = None
            self.broken = self.broken or "its connection has ended"
            with trio.CancelScope(shield=True):  # bounded by the guard's kill
                if self._process is not None:
                    await self._process.aclose()
                await self._inbox.aclose()
            self._lost.set()
            self.begun.set()
            self.gone.set()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        async with contextlib.AsyncExitStack() as stack:
            if self._server.url is not None:
                streams = await stack.enter_async_context(
                    open_http(self._server.url, self._inbox, self._headers(), self._limits, on_lost=self._lose)
                )
            else:
                self._process = process = await self._guard.spawn(
                    self._server.command, cwd=self._server.cwd, env=self._server.env, stdin="pipe"
                )
                stack.push_async_callback(self._end, process)
                streams = await stack.enter_async_context(
                    open_stdio(process, self._inbox, self._tail, self._limits, self._intake, self._lose)
                )
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel, reason="the connection to the tool server ends")
            if self._process is not None:
                nursery.start_soon(self._watch, self._process)
            client = Client(
                streams, nursery, self._handlers(), self._changed_lists, self._on_noise, self._inbox, self._limits
            )
            await nursery.start(self._converse, client)
            try:
                await client.initialize(self._capabilities())
                yield client
            except Refused as exc:
                self.broken = self._with_last_lines(str(exc))
                raise
            except Exception as exc:
                # Here the program's standard error is still read.
                self.broken = await self._why("its connection has ended" if isinstance(exc, Gone) else explain(exc))
                raise

    def _capabilities(self) -> dict[str, Any]:
        roots = {"roots": {"listChanged": True}} if self._roots.offered else {}
        return {"elicitation": {}, **roots}  # questions with a form, of which an empty object speaks in every version

    def _handlers(self) -> dict[str, Handler]:
        async def pong(params: Mapping[str, Any]) -> dict[str, Any]:
            return {}

        handlers: dict[str, Handler] = {"ping": pong, "elicitation/create": self._questions.elicit}
        return handlers | ({"roots/list": self._roots.list} if self._roots.offered else {})

    async def _converse(self, client: Client, task_status: trio.TaskStatus[None]) -> None:
        await client.run(task_status=task_status)
        self._lose(await self._why("its connection has ended"))

    def _headers(self) -> dict[str, str]:
        headers = {}
        for header, variable in self._server.headers_env.items():
            value = self._server.environ.get(variable, "").strip()
            if not value:
                raise PeerError("tool_error", f"the environment variable {variable}, for {header}, is not set")
            hide(value)
            headers[header] = value
        return headers

    async def _watch(self, process: Process) -> None:
        await process.wait()
        self._lose(await self._why("the server has ended"))

    def _lose(self, why: str) -> None:
        """The connection is of no use any more. The first reason stands."""
        if not self._lost.is_set():
            self.broken = why
            self._lost.set()

    async def _end(self, process: Process) -> None:
        """Its input is closed already."""
        with trio.move_on_after(CLOSE_GRACE):
            await process.wait()

    async def _why(self, what: str) -> str:
        """With the program's exit code and its last lines, if it has ended."""
        if self._process is not None:
            with trio.move_on_after(_LAST_WORDS, shield=True):
                await self._process.wait()
                await self._tail.ended.wait()
            ended = self._process.ended
            if ended is not None and ended.code is not None:
                what += f" (exit code {ended.code})"
            elif ended is not None and ended.signal is not None:
                what += f" (signal {ended.signal})"
        return self._with_last_lines(what)

    def _with_last_lines(self, what: str) -> str:
        said = self._tail.text()
        if said:
            cutter = HeadTail(_STDERR_BYTES, _STDERR_LINES)
            cutter.feed("\n".join(said.splitlines()[-_STDERR_LINES:])[-_STDERR_BYTES:])
            what += f"; its last lines: {cutter.result()}"
        return what

    # ------------------------------------------------------------ what it says by itself
    def _on_noise(self, what: str) -> None:
        self._noise = what[:_STDERR_BYTES]
        _log.debug("from a tool server: %s", self._noise)

    def _changed_lists(self) -> None:
        self._changed.set()

    async def _read(self, client: Client) -> Listing:
        self._read_at = trio.current_time()
        return await read_listing(client, self._inbox, self._chosen, self._limits)

    async def news(self) -> News:
        async with trio.open_nursery() as nursery:

            async def first(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, self._lost)
            nursery.start_soon(first, self._changed)
            if self._told is not None:
                self._told, trouble = None, self._told
                nursery.cancel_scope.cancel()
                return News(trouble=trouble)
        client = self._client
        if self._lost.is_set() or client is None:
            return News(broken=self.broken or "its connection has ended")
        if trio.current_time() - self._read_at > 2 * self._pause:
            self._pause = CHANGES_SECONDS
        await trio.sleep_until(self._read_at + self._pause)
        self._pause = min(2 * self._pause, CHANGES_LONGEST)
        self._changed = trio.Event()
        try:
            with trio.fail_after(self._limits.toolset_start_timeout):
                self.listing = await self._read(client)
        except (Refused, Gone) as exc:
            # One that is gone is told next.
            return News(trouble=f"its lists, which have changed, cannot be read: {explain(exc)}")
        except BaseException:
            self._changed.set()  # it was not told
            raise
        return News(tools=self.listing.tools, trouble=self.listing.trouble)

    # ------------------------------------------------------------ calls
    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        client = self._client
        if client is None or self._lost.is_set():
            return ToolResult(text=f"The tool server is gone: {self.broken}", is_error=True)

        async def show(progress: float, total: float | None, message: str | None) -> None:
            if preview is not None:
                preview(f"{message or f'{progress:g}' + (f' of {total:g}' if total is not None else '')}\n")

        if self._roots.offered and self._roots.use(context.cwd):
            client.tell("notifications/roots/list_changed")
            await self._roots.known()
        answer: Result | Refused | Gone
        began, end = trio.current_time(), trio.current_effective_deadline()
        async with contextlib.AsyncExitStack() as stack:
            async with trio.open_nursery() as nursery:
                with self._questions.call(context, nursery):
                    asking = client.request("tools/call", {"name": tool, "arguments": value}, show)
                    try:
                        answer = await stack.enter_async_context(asking)
                    except (Refused, Gone) as exc:
                        answer = exc
                    except trio.Cancelled:
                        if self._intake.since < began and trio.current_time() >= end:
                            self._lose(self._with_last_lines("it took nothing of its input in all the time of a call"))
                        raise
            return await self._result(answer)

    async def _result(self, answer: Result | Refused | Gone) -> ToolResult:
        if isinstance(answer, Refused) and not self._lost.is_set():
            return ToolResult(text=str(answer), is_error=True)
        if isinstance(answer, Exception):
            await self._lost.wait()  # its last words come at once or not at all
            return ToolResult(text=f"The tool server broke off in the call: {self.broken}", is_error=True)
        return await tool_result(read_answer(answer.result), self._inbox, self._spool)
