"""A WebSocket server that a test plays the daemon with, request by request."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

TOKEN = "a-token"
HELLO = {
    "protocol": 1,
    "server": {"name": "fake", "version": "1"},
    "limits": {},
    "models": [{"name": "demo", "provider": "demo"}],
    "default_model": "demo",
    "toolsets": ["files"],
}


class Asked:
    """A request that waits for the test's answer."""

    def __init__(self, socket: WebSocketConnection, frame: dict[str, Any]) -> None:
        self.socket = socket
        self.id = frame["id"]
        self.method: str = frame["method"]
        self.params: dict[str, Any] = frame["params"]

    async def send(self, frame: dict[str, Any]) -> None:
        await self.socket.send_message(json.dumps({"jsonrpc": "2.0", **frame}))

    async def reply(self, **result: Any) -> None:
        await self.send({"id": self.id, "result": result})

    async def refuse(self, code: str, message: str = "no", **data: Any) -> None:
        await self.send({"id": self.id, "error": {"code": -32000, "message": message, "data": {"code": code, **data}}})

    async def push(self, method: str, **params: Any) -> None:
        await self.send({"method": method, "params": params})

    async def push_deltas(self, watch_id: str, first: int, last: int, run_id: str = "run_1") -> None:
        """One `run.events` a delta."""
        for seq in range(first, last + 1):
            event = {"seq": seq, "at": 1, "type": "part.delta", "part_id": "prt_1", "text": f"{seq} "}
            await self.push("run.events", watch_id=watch_id, run_id=run_id, events=[event])


class FakeDaemon:
    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.headers: list[dict[str, str]] = []
        self.accepts = True  # False: 401
        self._send, self._receive = trio.open_memory_channel[Asked](100)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def asked(self, method: str) -> Asked:
        """The next request, which has to be this one."""
        request = await self._receive.receive()
        assert request.method == method, f"asked {request.method} with {request.params}"
        return request

    def nothing_asked(self) -> bool:
        return self._receive.statistics().current_buffer_used == 0

    async def handle(self, request: WebSocketRequest) -> None:
        self.headers.append({name.decode().lower(): value.decode() for name, value in request.headers})
        if not self.accepts:
            await request.reject(401, body=b"no")
            return
        assert request.proposed_subprotocols == ("greenroom.v1",)
        socket = await request.accept(subprotocol="greenroom.v1")
        self.connections += 1
        with contextlib.suppress(ConnectionClosed):
            while True:
                asked = Asked(socket, json.loads(await socket.get_message()))
                if asked.method == "initialize":
                    await asked.reply(**HELLO)
                else:
                    await self._send.send(asked)

    def announce(self, folder: Path) -> None:
        """Write the files by which clients find a daemon."""
        token_file = folder / "token"
        token_file.write_text(f"{TOKEN}\n")
        found = {"url": f"http://127.0.0.1:{self.port}", "ws_url": self.url, "pid": 1, "token_file": str(token_file)}
        (folder / "daemon.json").write_text(json.dumps(found))


@contextlib.asynccontextmanager
async def serving(daemon: FakeDaemon, ssl_context: Any = None) -> AsyncIterator[Callable[[], None]]:
    """Serve until the block ends, or until what it gives is called; connections are cut without a word."""
    scope = trio.CancelScope()  # of the server alone, not of the block

    async def serve(task_status: trio.TaskStatus[Any]) -> None:
        with scope:
            async with trio.open_nursery() as handlers:
                handler = partial(serve_websocket, daemon.handle, "127.0.0.1", 0, ssl_context, handler_nursery=handlers)
                task_status.started(await handlers.start(handler))

    async with trio.open_nursery() as nursery:
        daemon.port = (await nursery.start(serve)).port
        yield scope.cancel
        scope.cancel()


@contextlib.asynccontextmanager
async def fake_daemon() -> AsyncIterator[FakeDaemon]:
    daemon = FakeDaemon()
    async with serving(daemon):
        yield daemon
