"""Tool servers over streamable HTTP: the official client on responses that are bounded while they arrive.

The official transport holds a response of JSON whole, whatever its size, and gives up on an event of more than 1 MiB.
Here both pass a scanner on their way to it: it sees small messages with markers (engine.mcp.scanner).
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

import orjson

from actors.toolsets.mcp_inbox import Inbox
from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.scanner import Document, Event, Rejected
from engine.mcp.sse import FIELD_BYTES, BrokenEvents, EventScanner

if TYPE_CHECKING:
    import httpx2
    from mcp.client._transport import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage

# Of a response that is neither JSON nor events: an error's page.
OTHER_BYTES: Final = 64 * KIB
# A request, once connected: a server that takes none of it for this long is stuck.
_WRITE_TIMEOUT: Final = 60.0

_FAILED: Final = -32000  # the first of JSON-RPC's codes for what an implementation finds
_WHY_CHARACTERS: Final = 500


@contextlib.asynccontextmanager
async def open_http(
    url: str,
    inbox: Inbox,
    headers: Mapping[str, str],
    limits: Limits = DEFAULT,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]]:
    """The streams that mcp.ClientSession takes. `headers` go with every request, to the server's origin alone.

    The inbox stays its owner's. A response has no timeout of its own: a call has. Without `ssl_context` one is made.
    """
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(None, connect=limits.connect_timeout, write=_WRITE_TIMEOUT)
    network = httpx2.AsyncHTTPTransport(verify=ssl_context or httpx2.create_ssl_context())
    bounded = _transport(network, inbox, limits)
    async with (
        httpx2.AsyncClient(transport=bounded, headers=dict(headers), timeout=timeout) as client,
        streamable_http_client(
            url, http_client=client, max_sse_event_size=limits.mcp_line_bytes + limits.tool_memory_bytes + FIELD_BYTES
        ) as streams,
    ):
        yield streams


def _transport(network: httpx2.AsyncBaseTransport, inbox: Inbox, limits: Limits) -> httpx2.AsyncBaseTransport:
    # The classes are made here because their bases are imported when the first server is connected.
    import httpx2

    def failed(why: str) -> httpx2.Response:
        """The official client lets an error of one request end the whole connection; an answer with an error is the
        request's alone."""
        error = {"code": _FAILED, "message": why[:_WHY_CHARACTERS]}
        body = orjson.dumps({"jsonrpc": "2.0", "id": 0, "error": error})
        return httpx2.Response(502, headers={"content-type": "application/json"}, content=body)

    class Bounded(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            request.headers["accept-encoding"] = "identity"  # what is packed cannot be bounded as it comes
            try:
                response = await network.handle_async_request(request)
            except httpx2.TransportError as exc:
                return failed(f"the server cannot be reached: {str(exc) or type(exc).__name__}")
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                return failed("the server's answer is compressed, which was not asked for")
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-length"]
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            return httpx2.Response(
                response.status_code,
                headers=headers,
                stream=Body(response.stream, kind),
                extensions=response.extensions,
            )

        async def aclose(self) -> None:
            await network.aclose()

    class Body(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream, kind: str) -> None:
            self._stream = stream
            self._kind = kind
            self._arrival = inbox.arrival()

        async def __aiter__(self) -> AsyncIterator[bytes]:
            if self._kind == "text/event-stream":
                events = EventScanner(limits)
                async for data in self._stream:
                    try:
                        found = events.feed(data)
                    except BrokenEvents as exc:
                        raise httpx2.RemoteProtocolError(str(exc)) from None
                    for event in found:
                        if isinstance(event, bytes):
                            yield event
                        else:
                            await self._arrival.take(event)
            elif self._kind == "application/json":
                document = Document(limits)
                try:
                    async for data in self._stream:
                        for event in document.feed(data):
                            await self._arrival.take(event)
                except httpx2.TransportError:
                    yield orjson.dumps("the message broke off")
                    return
                for event in document.finish():
                    yield await self._last(event)
            else:
                size = 0
                async for data in self._stream:
                    size += len(data)
                    if size > OTHER_BYTES:
                        raise httpx2.RemoteProtocolError(f"the response has more than {OTHER_BYTES:,} bytes")
                    yield data

        async def _last(self, event: Event) -> bytes:
            """The whole body: a message, or a string that is none and says why."""
            data = await self._arrival.take(event)
            if data is not None:
                return data
            return orjson.dumps(f"the message {event.reason}" if isinstance(event, Rejected) else "no message")

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                await self._arrival.aclose()

    return Bounded()
