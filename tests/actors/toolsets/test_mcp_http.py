"""The official client over streamable HTTP: a real server on a port, which answers in JSON and in events."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest
import trio
import trustme
from mcp import ClientSession, MCPError

from actors._spool import ToolsetSpool, open_spools
from actors.toolsets import mcp_answers, mcp_socket
from actors.toolsets.mcp_http import open_http
from actors.toolsets.mcp_inbox import Inbox
from engine.limits import MIB, Limits
from tests.actors.mcp_server import LINE
from tests.actors.mcp_web import serving
from tests.actors.processes import until

LIMIT = 60.0
LIMITS = Limits()
MOST = LIMITS.tool_memory_bytes
ESCAPED = json.dumps(LINE)[1:-1].encode()
HEAD = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"'
TAIL = b'"}]}}'
BREAK = b"(the connection breaks)"

# Seconds without a step of any task before a look at the disk is worth it: threads are at work there.
QUIET = 0.005


@attrs.define
class Server:
    """`body` makes the body of a call's answer from its id and arguments; `kind` is its type."""

    kind: bytes = b"application/json"
    body: Callable[[int, dict[str, Any]], list[bytes]] = lambda number, given: []
    encoding: bytes = b""
    seen: list[tuple[bytes, dict[bytes, bytes]]] = attrs.Factory(list)

    streams: list[trio.SocketStream] = attrs.Factory(list)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        connection = h11.Connection(h11.SERVER)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            while True:
                request, body = await self._request(stream, connection)
                if request is None:
                    return
                await self._answer(stream, connection, request, body)
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()

    async def _request(self, stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Request | None, bytes]:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return request, body
            else:
                return None, b""

    async def _answer(self, stream: Any, connection: h11.Connection, request: h11.Request, body: bytes) -> None:
        self.seen.append((request.method, dict(request.headers)))
        status, kind, pieces = 200, b"application/json", list[bytes]()
        message = json.loads(body) if body else {}
        if request.method == b"GET":
            status = 405
        elif message.get("method") == "initialize":
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "test", "version": "1"},
            }
            pieces = [json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()]
        elif message.get("method") == "tools/list":
            tools = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
            pieces = [json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": tools}).encode()]
        elif message.get("method") == "tools/call":
            kind = self.kind
            pieces = self.body(message["id"], message["params"]["arguments"])
        elif "id" not in message:
            status = 202
        headers = [(b"content-type", kind), (b"transfer-encoding", b"chunked")]
        if self.encoding and pieces:
            headers.append((b"content-encoding", self.encoding))
        await stream.send_all(connection.send(h11.Response(status_code=status, headers=headers)))
        for piece in pieces:
            if piece == BREAK:
                await trio.aclose_forcefully(stream)
            await stream.send_all(connection.send(h11.Data(data=piece)))
        await stream.send_all(connection.send(h11.EndOfMessage()))


@attrs.define
class World:
    session: ClientSession
    inbox: Inbox
    spool: ToolsetSpool
    noise: list[str]
    folder: Path

    async def call(self, **given: Any) -> str:
        (found,) = (await self.session.call_tool("t", given)).content
        return found.text  # type: ignore[union-attr]

    def files(self) -> list[str]:
        return [name for _, _, names in os.walk(self.folder / "spool") for name in names]


@contextlib.asynccontextmanager
async def connected(tmp_path: Path, server: Server, limits: Limits = LIMITS) -> AsyncIterator[World]:
    noise: list[str] = []
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery, open_spools(tmp_path, limits) as spools:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, server.serve, [listener])
            spool = spools.of_toolset("server")
            inbox = Inbox(spool, noise.append, limits)
            world = None
            async with (
                open_http(f"http://127.0.0.1:{port}/mcp", inbox, {"authorization": "Bearer secret"}) as streams,
                ClientSession(*streams) as session,
            ):
                await session.initialize()
                world = World(session, inbox, spool, noise, tmp_path)
                yield world
            await inbox.aclose()
            assert world.files() == []
            nursery.cancel_scope.cancel()


def as_json(number: int, given: dict[str, Any]) -> list[bytes]:
    block = ESCAPED * 1000
    return [HEAD % number, *[block] * given["blocks"], b"x" * given.get("more", 0), TAIL]


def as_events(number: int, given: dict[str, Any]) -> list[bytes]:
    note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}'
    return [
        b": ping\r\n\r\nevent: message\r\ndata: ",
        note,
        b"\r\n\r\n",
        b"id: 1\r\ndata: ",
        *as_json(number, given),
        b"\r\n\r\n",
    ]


@pytest.mark.parametrize(("kind", "body"), [(b"application/json", as_json), (b"text/event-stream", as_events)])
async def test_long_texts_go_to_the_disk(tmp_path: Path, kind: bytes, body: Any) -> None:
    async with connected(tmp_path, Server(kind, body)) as world:
        assert await world.call(blocks=1) == LINE * 1000
        text = await world.call(blocks=100)
        assert text.startswith("greenroom-cut:")
        held = world.inbox.find([text])
        assert held is not None
        sole = held.take_sole(text)
        await held.aclose()
        assert sole is not None and sole.whole is not None
        assert sole.whole.path.read_text() == LINE * 100_000
        sole.whole.discard()
        assert world.noise == []


@pytest.mark.parametrize(("kind", "body"), [(b"application/json", as_json), (b"text/event-stream", as_events)])
async def test_what_is_not_kept_of_a_text_is_counted(tmp_path: Path, kind: bytes, body: Any) -> None:
    limits = attrs.evolve(LIMITS, spool_file_bytes=MIB)
    async with connected(tmp_path, Server(kind, body), limits) as world:
        text = await world.call(blocks=100)
        held = world.inbox.find([text])
        assert held is not None
        sole = held.take_sole(text)
        assert sole is not None and sole.whole is not None
        assert "[Of the output, 3,500,000 bytes in 100,000 lines, only the first 1,048,576 bytes are kept" in sole.text
        sole.whole.discard()
        await held.aclose()


async def test_a_string_of_exactly_the_bound_is_inline_and_one_byte_more_is_not(tmp_path: Path) -> None:
    async with connected(tmp_path, Server(body=as_json)) as world:
        assert await world.call(blocks=0, more=MOST) == "x" * MOST
        assert (await world.call(blocks=0, more=MOST + 1)).startswith("greenroom-cut:")


async def test_answers_that_come_at_the_same_time(tmp_path: Path) -> None:
    found: dict[int, str] = {}
    async with connected(tmp_path, Server(b"text/event-stream", as_events)) as world:

        async def one(blocks: int) -> None:
            text = await world.call(blocks=blocks)
            held = world.inbox.find([text])
            assert held is not None
            cut = held.find(text)
            assert cut is not None
            found[blocks] = (await cut.read(0, 64 * MIB)).decode()
            await held.aclose()

        async with trio.open_nursery() as nursery:
            for blocks in range(10, 20):
                nursery.start_soon(one, blocks)
    assert all(text == LINE * 1000 * blocks for blocks, text in found.items())
    assert len(found) == 10


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"application/json", lambda number, given: [b"<html>"]),
        (b"application/json", lambda number, given: [b"[" + b"1," * MIB + b"1]"]),
        (b"application/json", lambda number, given: [b"[" * 1000]),
        (b"application/json", lambda number, given: [HEAD % number, b"x" * MIB, BREAK]),
        (b"text/event-stream", lambda number, given: [b"data: " + HEAD % number, b"x" * MIB, BREAK]),
        (b"text/event-stream", lambda number, given: [b"data: no\n\n"]),
        (b"text/event-stream", lambda number, given: [b"data: [" + b"1," * MIB + b"1]\n\n"]),
        (b"text/html", lambda number, given: [b"<html>"]),
    ],
)
async def test_what_is_no_message_fails_the_call_and_not_the_next(tmp_path: Path, kind: bytes, body: Any) -> None:
    server = Server(kind, body)
    async with connected(tmp_path, server) as world:
        with pytest.raises(MCPError) as raised:
            await world.call(blocks=1)
        assert len(str(raised.value)) < 10_000
        server.kind, server.body = b"application/json", as_json
        assert await world.call(blocks=1) == LINE * 1000


@pytest.mark.parametrize("which", ["packed", "page", "field"])
async def test_bodies_that_cannot_be_bounded_are_refused(tmp_path: Path, which: str) -> None:
    server = Server(body=as_json)
    if which == "page":
        server.kind, server.body = b"text/plain", lambda number, given: [b"x" * MIB]
    elif which == "field":
        server.kind, server.body = b"text/event-stream", lambda number, given: [b"id: " + b"1" * MIB]
    async with connected(tmp_path, server) as world:
        server.encoding = b"gzip" if which == "packed" else b""
        with pytest.raises(MCPError):
            await world.call(blocks=1)
        server.encoding, server.kind, server.body = b"", b"application/json", as_json
        assert await world.call(blocks=1) == LINE * 1000


async def test_headers_go_with_every_request_and_nothing_is_asked_to_be_packed(tmp_path: Path) -> None:
    server = Server(body=as_json)
    async with connected(tmp_path, server) as world:
        await world.call(blocks=1)
    assert {method for method, _ in server.seen} >= {b"POST"}
    for _, headers in server.seen:
        assert headers[b"authorization"] == b"Bearer secret"
        assert headers[b"accept-encoding"] == b"identity"


async def test_a_call_that_is_cancelled_while_its_answer_comes_leaves_no_file(tmp_path: Path) -> None:
    def endless(number: int, given: dict[str, Any]) -> list[bytes]:
        return [HEAD % number, *[b"x" * MIB] * 2000]

    server = Server(body=endless)
    async with connected(tmp_path, server) as world:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.call)
            while not world.files():  # noqa: ASYNC110 - a file is looked for, and the stream never pauses
                await trio.sleep(QUIET)
            nursery.cancel_scope.cancel()
        server.body = as_json
        assert await world.call(blocks=1) == LINE * 1000


async def test_a_server_that_cannot_be_reached_fails_the_call(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with open_spools(tmp_path) as spools:
            inbox = Inbox(spools.of_toolset("server"), lambda text: None, LIMITS)
            async with open_http("http://127.0.0.1:1/mcp", inbox, {}) as streams, ClientSession(*streams) as session:
                for _ in range(2):  # the connection outlives it
                    with pytest.raises(MCPError, match=r"cannot be reached: .*Connection refused"):
                        await session.initialize()


# ------------------------------------------------------------ TLS
async def initialized(tmp_path: Path, url: str, context: ssl.SSLContext | None) -> str:
    async with open_spools(tmp_path) as spools:
        inbox = Inbox(spools.of_toolset("server"), lambda text: None, LIMITS)
        async with open_http(url, inbox, {}, LIMITS, context) as streams, ClientSession(*streams) as session:
            await session.initialize()
            (found,) = (await session.call_tool("t", {})).content
            return str(found.text)  # type: ignore[union-attr]


async def test_a_server_with_a_certificate_is_trusted_by_those_who_know_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(own)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(tls=own) as web:
        assert await initialized(tmp_path, web.url, trusting) == "good"
        await until(lambda: web.open == 0)
        assert web.methods()[-1] == "DELETE"
        seen = len(web.seen)
        with pytest.RaisesGroup(pytest.RaisesExc(MCPError, match="not trusted.*certificate"), flatten_subgroups=True):
            await initialized(tmp_path, web.url, None)
        assert len(web.seen) == seen


@pytest.mark.parametrize(("kind", "body"), [(b"application/json", as_json), (b"text/event-stream", as_events)])
async def test_connections_are_kept_for_the_next_call_and_those_that_ended_are_not_used(
    tmp_path: Path, kind: bytes, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_answers, "_LINGER", LIMIT)
    monkeypatch.setattr(mcp_socket, "IDLE_SECONDS", LIMIT)
    server = Server(kind, body)
    async with connected(tmp_path, server) as world:
        for _ in range(3):
            assert await world.call(blocks=1) == LINE * 1000
            await trio.testing.wait_all_tasks_blocked(QUIET)
        assert len(server.streams) == 1
        await server.streams[0].aclose()
        assert await world.call(blocks=1) == LINE * 1000
        assert len(server.streams) == 2
