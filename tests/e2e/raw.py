"""A socket that says what no well-behaved client would: HTTP and WebSocket made by hand, byte by byte."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}",
)


def token_of(folder: Path) -> str:
    daemon = json.loads((folder / "daemon.json").read_text())
    return Path(daemon["token_file"]).read_text().strip()


def address_of(folder: Path) -> tuple[str, int]:
    url = urlsplit(json.loads((folder / "daemon.json").read_text())["url"])
    return url.hostname or "", url.port or 0


def frame(opcode: int, payload: bytes, *, last: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """One frame as a client sends it; a mask of zeros is a mask."""
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((bit | size,))
    elif size < 1 << 16:
        head = struct.pack("!BH", bit | 126, size)
    else:
        head = struct.pack("!BQ", bit | 127, size)
    return bytes(((0x80 if last else 0) | reserved << 4 | opcode,)) + head + (bytes(4) if masked else b"") + payload


class Raw:
    """One connection. What arrives is read in order; nothing is kept, answered or put right."""

    def __init__(self, stream: trio.SocketStream, folder: Path) -> None:
        self.stream = stream
        self.folder = folder
        self._buffer = bytearray()
        self.sent = 0  # the id of the last request

    # ------------------------------------------------------------ HTTP
    async def http(self, path: str, *headers: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
        """Send a request; the status of its answer and its body."""
        name = f"Host: {'127.0.0.1' if host is None else host}"
        await self.stream.send_all("\r\n".join([f"{method} {path} HTTP/1.1", name, *headers, "", ""]).encode())
        return await self.answer()

    async def answer(self) -> tuple[int, str]:
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        sizes = [int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:")]
        size = sizes[0] if sizes else 0
        while len(rest) < size:
            rest += await self._some()
        self._buffer = bytearray(rest[size:])
        return int(status.split()[1]), rest[:size].decode()

    async def upgrade(self, *headers: str) -> None:
        bearer = f"Authorization: Bearer {token_of(self.folder)}"
        status, body = await self.http("/ws", bearer, *UPGRADE, "Sec-WebSocket-Protocol: greenroom.v1", *headers)
        assert status == 101, body

    # ------------------------------------------------------------ WebSocket
    async def send(self, opcode: int, payload: bytes, **bits: Any) -> None:
        await self.stream.send_all(frame(opcode, payload, **bits))

    async def text(self, text: str | bytes) -> None:
        await self.send(TEXT, text if isinstance(text, bytes) else text.encode())

    async def receive(self) -> tuple[int, bytes]:
        """The next frame. Raises EOFError when the daemon has closed."""
        while len(self._buffer) < 2:
            await self._more()
        size, start = self._buffer[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            while len(self._buffer) < start:
                await self._more()
            size = int.from_bytes(self._buffer[2:start], "big")
        while len(self._buffer) < start + size:
            await self._more()
        opcode, payload = self._buffer[0], bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        assert opcode & 0x80, "the daemon sends no fragments"
        return opcode & 0x0F, payload

    async def reply(self) -> dict[str, Any]:
        """The next text frame."""
        while True:
            opcode, payload = await self.receive()
            assert opcode in (TEXT, PING, PONG), (opcode, payload)
            if opcode == TEXT:
                value: dict[str, Any] = json.loads(payload)
                return value

    async def ask(self, method: str, params: Any = None, **members: Any) -> dict[str, Any]:
        """Send a request and give the very next message, which has to be its reply."""
        self.sent += 1
        request = {"jsonrpc": "2.0", "id": self.sent, "method": method, **members}
        if params is not None:
            request["params"] = params
        await self.text(json.dumps(request))
        reply = await self.reply()
        assert reply["id"] == self.sent, reply
        return reply

    async def result(self, method: str, **params: Any) -> dict[str, Any]:
        reply = await self.ask(method, params)
        assert "result" in reply, reply
        value: dict[str, Any] = reply["result"]
        return value

    async def initialize(self) -> None:
        await self.result("initialize", client={"name": "hostile", "version": "1"}, protocol=1)

    async def closed(self) -> int:
        """The code of the close frame that comes, whatever comes before it."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def goodbye(self, code: int) -> None:
        """Our close frame; then the socket's end, by whatever, is waited for."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.send(CLOSE, code.to_bytes(2, "big"))
        await self.ended()

    async def ended(self) -> None:
        """Read until the daemon has closed the socket, by whatever."""
        with contextlib.suppress(EOFError, trio.BrokenResourceError):
            while True:
                self._buffer.clear()
                await self._more()

    async def _more(self) -> None:
        self._buffer += await self._some()

    async def _some(self) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        return bytes(data)


@contextlib.asynccontextmanager
async def dial(folder: Path) -> AsyncIterator[Raw]:
    """A socket to the daemon of a data directory; cut at the end without a word."""
    stream = await trio.open_tcp_stream(*address_of(folder))
    try:
        yield Raw(stream, folder)
    finally:
        await trio.aclose_forcefully(stream)


@contextlib.asynccontextmanager
async def open_socket(folder: Path) -> AsyncIterator[Raw]:
    """The same, upgraded and initialized."""
    async with dial(folder) as raw:
        await raw.upgrade()
        await raw.initialize()
        yield raw


def resident_kib(pid: int) -> int:
    """VmRSS of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1])


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
