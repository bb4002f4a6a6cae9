"""Requests to a tool server and back: the official client's dispatcher, with bounds on what the server may ask of it.

What is asked here is asked raw, and what comes is looked at where it is used: the official session refuses a server's
whole list for one tool, and judges results by schemas of the server's. A request that is given up is told to the server
without anybody waiting for that. A server has as many requests of its own open as it takes answers; more are dropped.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import attrs
import orjson
import trio

from actors.toolsets.mcp_inbox import Inbox
from engine.limits import DEFAULT, Limits
from engine.mcp.scanner import NO_CUTS, Cuts
from engine.version import VERSION

if TYPE_CHECKING:
    from mcp.shared.dispatcher import CallOptions, ProgressFnT

_log = logging.getLogger("greenroom.mcp")

# Open at a time: requests of a server's that are not answered, and notices of ours that it has not taken.
ASKED_MOST: Final = 32
NOTICES_MOST: Final = 64

_VERSION_HEADER: Final = "mcp-protocol-version"
_VERSION_SHOWN: Final = 40
# What of a server's is looked at; anything else that it tells by itself is dropped as it comes.
_NOTICED: Final = frozenset(
    {
        "notifications/progress",
        "notifications/cancelled",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
    }
)

Handler = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Refused(Exception):
    """The server's answer is an error, or nothing that can be an answer."""


class Gone(Exception):
    """The connection has ended."""


@attrs.frozen(slots=True)
class Result:
    """`cuts` are the long strings of it."""

    result: dict[str, Any]
    cuts: Cuts


class Client:
    """On the streams of a transport. `run` it in `nursery`, and it is of use from its start on.

    `handlers` answer requests of the server by method, raising Refusal for a bad one; `on_changed` is called when it
    says that its lists have changed; `on_noise` is told, in a sentence, of what was dropped. The inbox is the
    transport's, and stays its owner's. Of what the transport has not taken no
    more than `limits.mcp_waiting_bytes` of requests wait, and each no longer than for its own answer.
    """

    def __init__(
        self,
        streams: tuple[Any, Any],
        nursery: trio.Nursery,
        handlers: Mapping[str, Handler],
        on_changed: Callable[[], None],
        on_noise: Callable[[str], None],
        inbox: Inbox,
        limits: Limits = DEFAULT,
    ) -> None:
        from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher

        reading, writing = streams
        self._asked: set[str] = set()
        self._open: dict[str, Cuts | None] = {}
        self._inbox = inbox
        self._incoming = _Incoming(reading, self._asked, self._open, on_noise, inbox)
        self._limits = limits
        self._waiting: dict[str, int] = {}  # requests that the transport has not taken, and their sizes
        self._dispatcher: Any = JSONRPCDispatcher(self._incoming, _Outgoing(writing, self._asked, self._waiting))
        self._nursery = nursery
        self._handlers = handlers
        self._on_changed = on_changed
        self._on_noise = on_noise
        self._numbers = itertools.count(1)
        self._headers: dict[str, str] = {}
        self._notices = 0
        self.offered: Mapping[str, Any] = {}  # the server's capabilities

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the connection ends."""
        await self._dispatcher.run(self._answer, self._take, task_status=task_status)

    # ------------------------------------------------------------ ours
    async def initialize(self, capabilities: Mapping[str, Any]) -> None:
        """Raises Refused, Gone."""
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

        params = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": dict(capabilities),
            "clientInfo": {"name": "greenroom", "version": VERSION},
        }
        async with self.request("initialize", params) as answer:
            version, offered = answer.result.get("protocolVersion"), answer.result.get("capabilities")
            if version not in HANDSHAKE_PROTOCOL_VERSIONS:
                shown = "a long text" if answer.cuts.among(version) else repr(str(version)[:_VERSION_SHOWN])
                raise Refused(f"it speaks no version of the protocol that is known here: {shown}")
        self._headers = {_VERSION_HEADER: version}
        self.offered = offered if isinstance(offered, dict) else {}
        await self._dispatcher.notify("notifications/initialized", None, {"headers": self._headers})

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, on_progress: ProgressFnT | None = None
    ) -> AsyncIterator[Result]:
        """The result as it came, until the block ends: what lies in the inbox of it and was not taken there is removed
        then. Raises Refused, Gone. Cancelled before it has come, the server is told if it can know of the request."""
        size, waiting = len(orjson.dumps(params or {})), sum(self._waiting.values())
        if waiting + size > self._limits.mcp_waiting_bytes:
            raise Refused(f"it takes nothing: {waiting:,} bytes of other requests wait for it already")
        number = next(self._numbers)
        options: CallOptions = {"request_id": number, "cancel_on_abandon": False, "headers": self._headers}
        if on_progress is not None:
            options["on_progress"] = on_progress
        key = _key(number)
        self._open[key] = None
        self._waiting[key] = size
        cuts: Cuts | None = None
        try:
            try:
                answer = await self._answered(number, method, params, options)
            finally:
                self._waiting.pop(key, None)
                cuts = self._open.pop(key)
            yield Result(answer, cuts or NO_CUTS)
        finally:
            if cuts is not None:
                await self._inbox.drop(cuts)

    async def _answered(
        self, number: int, method: str, params: Mapping[str, Any] | None, options: CallOptions
    ) -> dict[str, Any]:
        import mcp

        try:
            answer = await self._dispatcher.send_raw_request(method, params, options)
        except mcp.MCPError as exc:
            if self._incoming.ended:
                raise Gone from None
            held = self._inbox.take(self._open[_key(number)] or NO_CUTS)
            said = held.plain(exc.message)
            await held.aclose()
            raise Refused(said) from None
        except trio.Cancelled:
            # The protocol does not let us cancel the first one, nor what was not sent.
            if method != "initialize" and _key(number) not in self._waiting:
                self.tell("notifications/cancelled", {"requestId": number, "reason": "it is not waited for any more"})
            raise
        if not isinstance(answer, dict):
            raise Refused("the server's answer is not an object")
        return answer

    def tell(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notice, in its own time. Dropped if the server takes none, or the connection ends."""
        if self._nursery.cancel_scope.cancel_called or self._incoming.ended:
            return
        if self._notices >= NOTICES_MOST:
            self._on_noise(f"a message was dropped: {NOTICES_MOST} others have not been taken")
            return
        self._notices += 1
        # In a context of its own: that of the caller holds the call, with all of its run, and a notice can wait long.
        contextvars.Context().run(self._nursery.start_soon, self._notify, method, params)

    async def _notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        try:
            await self._dispatcher.notify(method, params, {"headers": self._headers})
        finally:
            self._notices -= 1

    # ------------------------------------------------------------ the server's
    async def _answer(self, context: Any, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        from mcp import MCPError
        from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND

        handler = self._handlers.get(method)
        if handler is None:
            what = "models are not a tool server's to use here" if method.startswith("sampling/") else "unknown method"
            raise MCPError(METHOD_NOT_FOUND, what)
        try:
            return await handler(params or {})
        except Refusal as exc:
            raise MCPError(INVALID_PARAMS, str(exc)) from None

    async def _take(self, context: Any, method: str, params: Mapping[str, Any] | None) -> None:
        if method.endswith("/list_changed"):
            self._on_changed()


class Refusal(Exception):
    """A request of the server's cannot be answered; the text tells it why."""


class _Incoming:
    """What comes, without what nobody looks at. `asked` are the server's requests that have no answer yet, `open` are
    ours, with what the inbox has of their answer as soon as that has come."""

    def __init__(
        self,
        stream: Any,
        asked: set[str],
        open: dict[str, Cuts | None],
        on_noise: Callable[[str], None],
        inbox: Inbox,
    ) -> None:
        self._stream = stream
        self._asked = asked
        self._open = open
        self._on_noise = on_noise
        self._inbox = inbox
        self.ended = False

    @property
    def last_context(self) -> Any:
        """Of whoever sent the message: over HTTP, of the request whose answer it came in."""
        return self._stream.last_context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                item = await self._stream.__anext__()
            except BaseException:
                self.ended = True
                raise
            if not isinstance(item, Exception) and await self._passes(item.message, item.cuts):
                return item

    async def _passes(self, message: Any, cuts: Cuts) -> bool:
        method = getattr(message, "method", None)
        if method is None:
            key = _key(message.id)
            if key in self._open and self._open[key] is None:
                self._open[key] = cuts
                return True
            # Such as that to a call which was cancelled: it would lie on the disk for nobody.
            self._on_noise("an answer to nothing that is waited for")
            await self._inbox.drop(cuts)
            return False
        number = getattr(message, "id", None)
        if number is None:
            if method == "notifications/cancelled":
                self._asked.discard(_key((message.params or {}).get("requestId")))
            return method in _NOTICED
        if _key(number) in self._asked or len(self._asked) >= ASKED_MOST:
            self._on_noise(f"a request was dropped: {ASKED_MOST} others are not answered, or one of the same id")
            return False
        self._asked.add(_key(number))
        return True

    async def receive(self) -> Any:
        return await self.__anext__()

    async def aclose(self) -> None:
        self.ended = True
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Outgoing:
    """What leaves. `asked` as for what comes; `waiting` are our requests until they have left."""

    def __init__(self, stream: Any, asked: set[str], waiting: dict[str, int]) -> None:
        self._stream = stream
        self._asked = asked
        self._waiting = waiting

    async def send(self, item: Any) -> None:
        await self._stream.send(item)
        if getattr(item.message, "method", None) is None:
            self._asked.discard(_key(item.message.id))
        else:
            self._waiting.pop(_key(getattr(item.message, "id", None)), None)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _key(number: Any) -> str:
    """The same for 7 and "7": so the dispatcher tells them apart, too."""
    return str(number)
