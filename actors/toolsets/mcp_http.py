"""Tool servers over streamable HTTP: the official client's streams on requests of our own.

The official transport holds an answer whole, resumes a broken one inside itself without end, keeps the stream of a call
that was cancelled, and gives up the connection for what one request meets. Here each request is a task with one socket,
and what comes passes the scanner that bounds it while it arrives (engine.mcp.scanner).

A request's answer is a JSON document, or a stream of events that ends with it. A stream that breaks off after an event
with an id is asked for again from there. Beside the requests, a server with sessions has one stream for what it says by
itself. A server that has forgotten the session is lost, and connected again by its supervisor.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio

from actors.toolsets.mcp_answers import RESUME_FIRST, RESUME_LONGEST, Failed, Reader
from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_socket import Answer, Broken, Peer
from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.scanner import NO_CUTS, Cuts

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCRequest

_log = logging.getLogger("greenroom.mcp")

# Requests of one server that are under way, each with a socket; others wait for their turn.
REQUESTS_MOST: Final = 64
# Messages of ours that have no answer (a call that was cancelled, what we say to a question), under way at a time: only
# a server that asks without end and takes nothing has more, which are dropped.
NOTICES_MOST: Final = 64
# For one of them, and for the end of a session: nobody waits for either.
NOTICE_SECONDS: Final = 30.0
GOODBYE_SECONDS: Final = 2.0
# A stream that broke off is asked for again so often until it brings something new; for one that does each time, the
# deadline of its call is the bound.
RESUMES_MOST: Final = 5

# Of an error in JSON, which is some words.
_ERROR_BYTES: Final = 16 * KIB
_FAILED: Final = -32000  # the first of JSON-RPC's codes for what an implementation finds
_WHY_CHARACTERS: Final = 500
_SESSION_ID: Final = "mcp-session-id"
_VERSION: Final = "mcp-protocol-version"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"


@contextlib.asynccontextmanager
async def open_http(
    url: str,
    inbox: Inbox,
    headers: Mapping[str, str],
    limits: Limits = DEFAULT,
    ssl_context: ssl.SSLContext | None = None,
    on_lost: Callable[[str], None] = lambda why: None,
) -> AsyncIterator[tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]]:
    """The streams that mcp.ClientSession takes. `headers` go with every request, to the server at `url` alone.

    The inbox stays its owner's. A response has no deadline of its own: a call has. `on_lost` is told why the session
    is over, if the server ends it; requests are answered with errors from then on. Leaving the block ends all requests
    and the session, for which the server has GOODBYE_SECONDS, cancelled or not.
    """
    # Not the public ones: these carry the sender's context to the receiver, as the official transports do.
    from mcp.shared._context_streams import create_context_streams

    arrived, reading = create_context_streams[Any](0)
    writing, leaving = create_context_streams[Any](0)
    peer = Peer(url, headers, limits, ssl_context)
    try:
        async with trio.open_nursery() as nursery:
            connection = _Connection(peer, inbox, limits, nursery, arrived, on_lost)
            nursery.start_soon(connection.run, leaving)
            try:
                yield reading, writing
            finally:
                for stream in (reading, writing, arrived, leaving):
                    stream.close()
                nursery.cancel_scope.cancel(reason="the connection to the tool server ends")
    finally:
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            await connection.goodbye()
        with trio.CancelScope(shield=True):
            await peer.aclose()


class _Connection:
    """Messages of the client to requests, and what comes to messages for it."""

    def __init__(
        self,
        peer: Peer,
        inbox: Inbox,
        limits: Limits,
        nursery: trio.Nursery,
        arrived: Any,
        on_lost: Callable[[str], None],
    ) -> None:
        self._inbox = inbox
        self._limits = limits
        self._peer = peer
        self._nursery = nursery
        self._arrived = arrived
        self._on_lost = on_lost
        self._requests: dict[str, trio.CancelScope] = {}
        self._places = trio.Semaphore(REQUESTS_MOST)
        self._notices = 0
        self._session: str | None = None
        self._version: str | None = None

    async def run(self, leaving: Any) -> None:
        """Take what the client sends. It never has to wait for the server, but for the first of its notices."""
        async for sent in leaving:
            message = sent.message
            method = getattr(message, "method", None)
            extra = getattr(sent.metadata, "headers", None) or {}
            self._version = extra.get(_VERSION, self._version)
            if method is not None and getattr(message, "id", None) is not None:
                scope = self._requests[str(message.id)] = trio.CancelScope()
                # In the context of who asks: what the server asks in the answer is known to be of that call.
                leaving.last_context.run(self._nursery.start_soon, self._request, message, extra, scope)
                continue
            if method == "notifications/initialized":
                self._notices += 1
                await self._notice(message, extra)
                if self._session is not None:
                    self._nursery.start_soon(self._listen)
                continue
            if method == "notifications/cancelled":
                number = str((message.params or {}).get("requestId"))
                if number in self._requests:
                    self._requests[number].cancel(reason="the call was cancelled")
            if self._notices < NOTICES_MOST:
                self._notices += 1
                self._nursery.start_soon(self._notice, message, extra)
            else:
                self._inbox.on_noise(f"a message was dropped: {NOTICES_MOST} others have not been taken")

    async def goodbye(self) -> None:
        """End the session, if there is one."""
        if self._session is not None:
            with contextlib.suppress(Broken):
                async with self._peer.request("DELETE", self._headers({})):
                    self._session = None

    # ------------------------------------------------------------ one message of ours
    async def _notice(self, message: Any, extra: Mapping[str, str]) -> None:
        """Counted already."""
        try:
            with trio.move_on_after(NOTICE_SECONDS):
                async with self._peer.request("POST", self._headers(extra), _encoded(message)) as answer:
                    if answer.status >= 300:
                        raise Failed(await self._refusal(answer))
                    await answer.receive()
        except (Broken, Failed) as exc:
            self._inbox.on_noise(f"a message was not taken: {exc}")
        finally:
            self._notices -= 1

    async def _request(self, message: JSONRPCRequest, extra: Mapping[str, str], scope: trio.CancelScope) -> None:
        import mcp_types as types

        try:
            with scope:
                try:
                    async with self._places:
                        await self._answered(message, extra)
                except (Failed, Broken) as exc:
                    error = types.ErrorData(code=_FAILED, message=str(exc)[:_WHY_CHARACTERS])
                    await self._deliver(types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error))
        finally:
            if self._requests.get(str(message.id)) is scope:
                del self._requests[str(message.id)]

    async def _answered(self, message: JSONRPCRequest, extra: Mapping[str, str]) -> None:
        """Returns when the answer is delivered. Raises Failed, Broken."""
        reader = Reader(message.id, self._deliver, self._inbox, self._limits)
        begins = message.method == "initialize"
        async with self._peer.request("POST", self._headers({} if begins else extra), _encoded(message)) as answer:
            kind = await self._kind(answer)
            if begins:
                self._session = _session_id(answer)
            if kind == _JSON:
                await reader.document(answer)
                return
            if kind != _EVENTS:
                raise Failed(f"the server answered with {kind or 'something'}, and not as a tool server does")
            await reader.events(answer)
        attempts = 0
        while not reader.answered:
            if reader.last_id is None:
                raise Failed(reader.why)
            if attempts == RESUMES_MOST:
                raise Failed(f"{reader.why}, also when it was asked for again")
            attempts += 1
            await trio.sleep(reader.wait)
            before = reader.last_id
            await self._resume(reader)
            if reader.last_id != before:
                attempts = 0

    async def _resume(self, reader: Reader) -> None:
        """Go on with a stream. Raises Failed if the server will not."""
        assert reader.last_id is not None
        headers = self._headers({"accept": _EVENTS, "last-event-id": reader.last_id})
        try:
            async with self._peer.request("GET", headers) as answer:
                if answer.status >= 500:  # it may be back in a moment
                    reader.why = await self._refusal(answer)
                    return
                if await self._kind(answer) != _EVENTS:
                    raise Failed(f"{reader.why}, and the server does not go on with it")
                await reader.events(answer)
        except Broken as exc:
            reader.why = str(exc)

    async def _listen(self) -> None:
        """What the server says by itself, for as long as it has a stream for that."""
        reader = Reader(None, self._deliver, self._inbox, self._limits)
        wait = RESUME_FIRST
        had = False
        while True:
            headers = {"accept": _EVENTS} | ({"last-event-id": reader.last_id} if reader.last_id else {})
            before = reader.count
            try:
                async with self._peer.request("GET", self._headers(headers)) as answer:
                    if not had and 300 <= answer.status < 500:
                        return  # one that has no such stream may say that it knows nothing of it, as of a session
                    if answer.status < 500:
                        if await self._kind(answer) != _EVENTS:
                            return
                        had = True
                        await reader.events(answer)
            except Broken:
                pass
            except Failed as exc:
                _log.debug("a tool server says nothing by itself any more: %s", exc)
                return
            wait = RESUME_FIRST if reader.count > before else min(wait * 2, RESUME_LONGEST)
            await trio.sleep(max(wait, reader.wait))

    # ------------------------------------------------------------ parts
    async def _deliver(self, message: Any, cuts: Cuts = NO_CUTS) -> None:
        """To the client, which takes its time; if it is gone, nobody misses it."""
        import anyio

        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._inbox.deliver(self._arrived, message, cuts)

    def _headers(self, extra: Mapping[str, str]) -> dict[str, str]:
        headers = {"accept": f"{_JSON}, {_EVENTS}", "content-type": _JSON}
        if self._session is not None:
            headers[_SESSION_ID] = self._session
        if self._version is not None:
            headers[_VERSION] = self._version
        return headers | {name.lower(): value for name, value in extra.items()}

    async def _kind(self, answer: Answer) -> str:
        """The type of an answer that is one. Raises Failed for any other."""
        if answer.status >= 300:
            raise Failed(await self._refusal(answer))
        if answer.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Failed("the server's answer is compressed, which was not asked for")
        if answer.status == HTTPStatus.ACCEPTED:
            raise Failed("the server took the request and has no answer to it")
        return answer.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()

    async def _refusal(self, answer: Answer) -> str:
        """What a status says. That of a session that is not known (any more) is the end of the connection."""
        said = await self._said(answer)
        # Some servers have another status for it, and say it in their error.
        if self._session is not None and (
            answer.status == HTTPStatus.NOT_FOUND
            or (answer.status == HTTPStatus.BAD_REQUEST and "session" in said.lower())
        ):
            self._session = None
            self._on_lost("the server does not know its session any more")
            return "the server does not know its session any more; it is connected again"
        with contextlib.suppress(ValueError):
            status = HTTPStatus(answer.status)
            said = f"{answer.status} {status.phrase}" + (f": {said}" if said else "")
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                said += "; what it wants to know of us are headers, which headers_env names"
            elif 300 <= status < 400:
                said += f"; it is at {answer.headers.get(b'location', b'another place').decode(errors='replace')!r}"
            return f"the server answered {said}"
        return f"the server answered with the status {answer.status}"

    async def _said(self, answer: Answer) -> str:
        """The text of an error in an answer, if it has a short one. A page, for people with a browser, is not read."""
        body = b""
        if answer.headers.get(b"content-type", b"").lower().startswith(_JSON.encode()):
            with contextlib.suppress(Broken):
                while len(body) <= _ERROR_BYTES and (data := await answer.receive()):
                    body += data
        try:
            said = orjson.loads(body)["error"]["message"] if len(body) <= _ERROR_BYTES else ""
        except (ValueError, LookupError, TypeError):
            return ""
        return said[:_WHY_CHARACTERS] if isinstance(said, str) else ""


def _session_id(answer: Answer) -> str | None:
    """Raises Failed for one that cannot be sent back."""
    given = answer.headers.get(_SESSION_ID.encode())
    if given is None:
        return None
    text = given.decode("latin-1")
    if not (text.isascii() and text.isprintable() and text and " " not in text):
        raise Failed("the id of the server's session has characters that none may have")
    return text


def _encoded(message: Any) -> bytes:
    text: str = message.model_dump_json(by_alias=True, exclude_unset=True)
    return text.encode(errors="replace")
