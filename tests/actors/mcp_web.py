"""A tool server over HTTP for tests, with no library: it says what its script has it say, in raw bytes on a socket.

`script` gets each exchange that is not part of the handshake: calls of the tool `t`, GET streams, notices. What it
leaves alone is answered as a good server would.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import trio

LIMIT = 60.0  # seconds until a hanging test fails
GET, POST, DELETE = "GET", "POST", "DELETE"


@attrs.define
class Exchange:
    """One request; each has a connection of its own."""

    method: str
    headers: dict[str, str]
    message: dict[str, Any]
    stream: trio.abc.Stream
    said: bool = False

    @property
    def what(self) -> str:
        return str(self.message.get("method", ""))

    @property
    def resumes(self) -> str | None:
        return self.headers.get("last-event-id")

    async def raw(self, data: bytes) -> None:
        self.said = True
        await self.stream.send_all(data)

    async def head(self, status: int = 200, kind: str = "text/event-stream", *more: str) -> None:
        """Its body ends with the connection."""
        lines = [f"HTTP/1.1 {status} Said", f"content-type: {kind}", "connection: close", *more]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def hang(self) -> None:
        """Say nothing more, until the client has closed the connection."""
        self.said = True
        while await self.stream.receive_some():
            pass

    async def json(self, value: object, status: int = 200, *more: str) -> None:
        await self.head(status, "application/json", *more)
        await self.raw(json.dumps(value).encode())

    async def event(self, value: object = None, **fields: object) -> None:
        lines = [f"{name}: {said}" for name, said in fields.items()]
        lines.append("data: " + ("" if value is None else json.dumps(value)))
        await self.raw("\n".join([*lines, "", ""]).encode())

    def answer(self, text: str, number: int | None = None) -> dict[str, Any]:
        result = {"content": [{"type": "text", "text": text}]}
        return {"jsonrpc": "2.0", "id": self.message.get("id", number), "result": result}

    def error(self, text: str) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": self.message.get("id"), "error": {"code": -32000, "message": text}}


Script = Callable[[Exchange], Awaitable[None]]


async def good(exchange: Exchange) -> None:
    if exchange.what == "tools/call":
        await exchange.json(exchange.answer("good"))


@attrs.define
class Web:
    """`sessions` are the ids that it gives, one after the other; the last is known, and without any it has none."""

    script: Script = good
    tools: list[str] = attrs.Factory(lambda: ["t"])
    sessions: list[str] = attrs.Factory(lambda: ["one", "two", "three"])
    seen: list[Exchange] = attrs.Factory(list)
    open: int = 0
    begun: int = 0  # sessions
    url: str = ""

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.open += 1
        try:
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._serve(stream)
        finally:
            self.open -= 1

    async def _serve(self, stream: trio.abc.Stream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            received = await stream.receive_some()
            if not received:
                return
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive_some()
        exchange = Exchange(first.split()[0], headers, json.loads(body) if body else {}, stream)
        self.seen.append(exchange)
        await self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.what == "initialize":
            result = {
                "protocolVersion": exchange.message["params"]["protocolVersion"],
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "web", "version": "1"},
            }
            more = [f"mcp-session-id: {self.sessions[self.begun]}"] if self.sessions else []
            self.begun += 1
            await exchange.json({"jsonrpc": "2.0", "id": exchange.message["id"], "result": result}, 200, *more)
        elif exchange.what == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools]
            await exchange.json({"jsonrpc": "2.0", "id": exchange.message["id"], "result": {"tools": tools}})
        else:
            await self.script(exchange)
        if not exchange.said:
            status = {GET: 405, DELETE: 204}.get(exchange.method, 202)
            await exchange.head(status, "text/plain", "content-length: 0")

    def methods(self) -> list[str]:
        return [exchange.method for exchange in self.seen]

    def calls(self) -> list[Exchange]:
        return [exchange for exchange in self.seen if exchange.what == "tools/call"]

    def gets(self) -> list[Exchange]:
        return [exchange for exchange in self.seen if exchange.method == GET]


@contextlib.asynccontextmanager
async def serving(script: Script = good, tls: ssl.SSLContext | None = None, **given: Any) -> AsyncIterator[Web]:
    """On `localhost`, with TLS if there is a context for it."""
    web = Web(script, **given)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            web.url = f"http://127.0.0.1:{port}/mcp" if tls is None else f"https://localhost:{port}/mcp"
            listeners = [listener if tls is None else trio.SSLListener(listener, tls, https_compatible=True)]
            nursery.start_soon(trio.serve_listeners, web.serve, listeners)
            yield web
            nursery.cancel_scope.cancel()
