"""Tool servers of the Model Context Protocol: a program of the guard's, or a service over HTTP.

One connection serves all sessions. It is held by a task of its own, because it is opened by one call and closed by
another; that task ends with it, and the program with the task. A server is offered no roots (it belongs to no session's
folder), no sampling and no elicitation: what it asks for all the same is refused by an error that says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actors._guard import Guard, Process
from actors._spool import ToolsetSpool
from actors._toolset_life import News, Preview
from actors.logs import hide
from actors.toolsets.mcp_http import open_http
from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_listing import Listing, read_listing
from actors.toolsets.mcp_results import tool_result
from actors.toolsets.mcp_stdio import Tail, open_stdio
from engine import codec
from engine.errors import PeerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools.cut import HeadTail
from engine.tools.explain import explain
from engine.tools.spec import ToolContext, ToolResult, ToolSpec
from engine.version import VERSION

if TYPE_CHECKING:
    from mcp import ClientSession

_log = logging.getLogger("greenroom.mcp")

# A server has this long to end after its input is closed (or, over HTTP, its session), then it is killed. Well within
# limits.toolset_stop_timeout.
CLOSE_GRACE: Final = 3.0
# When a connection broke, the program's exit code and last words follow at once or not at all.
_LAST_WORDS: Final = 1.0
# Lists that a server says have changed are read again at most this often.
CHANGES_SECONDS: Final = 1.0
# Of standard error in an error's text.
_STDERR_BYTES: Final = KIB
_STDERR_LINES: Final = 8
# What the official client says of a connection that has ended.
_ENDED: Final = frozenset({"Connection closed", "Session terminated"})


@attrs.frozen(slots=True, kw_only=True)
class Server:
    """How to reach it: `command` with exactly the environment `env` in the folder `cwd`, or `url`. `headers_env` names
    the variables of `environ` that headers are taken from when it is connected."""

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    cwd: str = "/"
    url: str | None = None
    headers_env: Mapping[str, str] = attrs.field(factory=dict)
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)


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

    async def open(self) -> Sequence[ToolSpec]:
        if importlib.util.find_spec("mcp") is None:
            raise PeerError("tool_error", "tool servers need another package: pip install 'greenroom[mcp]'")
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
        return await self._link.call(tool, value, preview)

    async def close(self) -> None:
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
        self._process: Process | None = None
        self._session: ClientSession | None = None
        self._scope = trio.CancelScope()
        self._leaving = trio.Event()
        self._changed = trio.Event()  # its lists
        self._noise: str | None = None
        self._lost = trio.Event()
        self._told: str | None = None  # the trouble that was told last
        self._read_at = -math.inf
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
                async with self._connected() as session:
                    self.listing = await self._read(session)
                    self._told = self.listing.trouble
                    self._session = session
                    self.begun.set()
                    await self._leaving.wait()
        except Exception as exc:  # noqa: BLE001 - what a server or the client's library does is this connection's end
            _log.debug("a tool server's connection has failed", exc_info=exc)
            self.broken = self.broken or await self._why(explain(exc))
        finally:
            self._session = None
            self.broken = self.broken or "its connection has ended"
            with trio.CancelScope(shield=True):  # bounded by the guard's kill
                if self._process is not None:
                    await self._process.aclose()
                await self._inbox.aclose()
            self._lost.set()
            self.begun.set()
            self.gone.set()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientSession]:
        import mcp
        import mcp_types

        async with contextlib.AsyncExitStack() as stack:
            if self._server.url is not None:
                streams = await stack.enter_async_context(
                    open_http(self._server.url, self._inbox, self._headers(), self._limits, on_lost=self._on_lost)
                )
            else:
                self._process = process = await self._guard.spawn(
                    self._server.command, cwd=self._server.cwd, env=self._server.env, stdin="pipe"
                )
                stack.push_async_callback(self._end, process)
                streams = await stack.enter_async_context(open_stdio(process, self._inbox, self._tail, self._limits))
                nursery = await stack.enter_async_context(trio.open_nursery())
                stack.callback(nursery.cancel_scope.cancel)
                nursery.start_soon(self._watch, process)
            client = mcp_types.Implementation(name="greenroom", version=VERSION)
            session = mcp.ClientSession(*streams, message_handler=self._on_message, client_info=client)
            await stack.enter_async_context(session)
            try:
                await session.initialize()
                yield session
            except Exception as exc:
                # Here the program's standard error is still read.
                self.broken = await self._why(exc.message if isinstance(exc, mcp.MCPError) else explain(exc))
                raise

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
        self.broken = await self._why("the server has ended")
        self._lost.set()

    def _on_lost(self, why: str) -> None:
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

    async def _on_message(self, message: Any) -> None:
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            self._changed.set()

    async def _read(self, session: ClientSession) -> Listing:
        self._read_at = trio.current_time()
        return await read_listing(session, self._inbox, self._chosen)

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
        session = self._session
        if self._lost.is_set() or session is None:
            return News(broken=self.broken or "its connection has ended")
        await trio.sleep_until(self._read_at + CHANGES_SECONDS)
        self._changed = trio.Event()
        try:
            with trio.fail_after(self._limits.toolset_start_timeout):
                listing = await self._read(session)
        except BaseException:
            self._changed.set()  # it was not told
            raise
        return News(tools=listing.tools, trouble=listing.trouble)

    # ------------------------------------------------------------ calls
    async def call(self, tool: str, value: codec.Json, preview: Preview | None) -> ToolResult:
        import mcp
        import mcp_types as types

        if self._session is None or self._lost.is_set():
            return ToolResult(text=f"The tool server is gone: {self.broken}", is_error=True)

        async def show(progress: float, total: float | None, message: str | None) -> None:
            if preview is not None:
                preview(f"{message or f'{progress:g}' + (f' of {total:g}' if total is not None else '')}\n")

        arguments = value if isinstance(value, dict) else {}
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=tool, arguments=arguments))
        try:
            # Not `call_tool`, which judges results by schemas of the server's, a pattern of which may take for ever.
            answer = await self._session.send_request(request, types.CallToolResult, progress_callback=show)
        except mcp.MCPError as exc:
            if exc.message not in _ENDED:
                return ToolResult(text=exc.message, is_error=True)
            self.broken = await self._why("its connection has ended")
            self._lost.set()
            return ToolResult(text=f"The tool server broke off in the call: {self.broken}", is_error=True)
        return await tool_result(answer, self._inbox, self._spool)
