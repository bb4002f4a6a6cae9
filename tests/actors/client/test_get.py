"""Asking a daemon by plain HTTP, over every kind of address; and what is no daemon."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from actors.client.dial import Address, get
from actors.client.errors import ConnectionLost, NoDaemon

LIMIT = 60.0  # absolute, for a test that hangs


@contextlib.asynccontextmanager
async def saying(sock: socket.socket, answer: bytes) -> AsyncIterator[list[bytes]]:
    """Somebody at the socket who reads a request, says this and closes."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        while b"\r\n\r\n" not in b"".join(asked):
            asked.append(await stream.receive_some())
        with contextlib.suppress(trio.BrokenResourceError):  # who asked has read enough
            await stream.send_all(answer)
        await stream.aclose()

    sock.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield asked
            nursery.cancel_scope.cancel()


def tcp() -> tuple[socket.socket, Address]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, Address(f"ws://127.0.0.1:{sock.getsockname()[1]}/ws", "a-token")


async def test_over_tcp_without_the_token() -> None:
    sock, address = tcp()
    async with saying(sock, b"HTTP/1.1 503 Not Yet\r\nContent-Length: 9\r\n\r\nstarting\n") as asked:
        assert await get(address, "/readyz") == (503, "starting")
    request = b"".join(asked)
    assert request.startswith(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"a-token" not in request


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    async with saying(sock, b"HTTP/1.1 200 OK\r\n\r\nready") as asked:
        assert await get(Address(f"unix:{tmp_path}/s", ""), "/readyz") == (200, "ready")
    assert b"Host: localhost\r\n" in b"".join(asked)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 soon\r\n\r\n", b"\x00\xff" * 40_000])
async def test_what_is_no_daemon(answer: bytes) -> None:
    sock, address = tcp()
    async with saying(sock, answer):
        with pytest.raises(ConnectionLost, match="no daemon"):
            await get(address, "/readyz")


async def test_nobody() -> None:
    sock, address = tcp()
    sock.close()
    with pytest.raises(NoDaemon):
        await get(address, "/readyz")
