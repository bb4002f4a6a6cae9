"""A socket that counts its bytes, knows when it last made progress, and can be aborted by a plain call.

It stands under everything at the port: HTTP, WebSocket, and TLS (as the stream that TLS encrypts to). That a peer
takes nothing, or says nothing, is found by looking at `stuck_since` and `heard_at` now and then, so that no send
needs a deadline of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from typing import Final

import attrs
import trio

RECEIVE_BYTES: Final = 16 * 1024
# Closing a socket with unread data makes the kernel reset it, and a reset takes what was sent with it. So what
# still comes is read away for a moment: long enough for a peer that was in the middle of something large.
LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 16 * 1024 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@attrs.define(slots=True)
class Traffic:
    """Bytes of all sockets at the port, as they went over the network."""

    received: int = 0
    sent: int = 0


class Transport(trio.abc.HalfCloseableStream):
    """Owns the socket. One task may send and one may receive at a time."""

    __slots__ = ("_socket", "_traffic", "heard_at", "stuck_since")

    def __init__(self, sock: trio.socket.SocketType, traffic: Traffic) -> None:
        self._socket = sock
        self._traffic = traffic
        self.heard_at = trio.current_time()
        self.stuck_since = math.inf  # when the send under way made its last progress; inf: none is

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.stuck_since = trio.current_time()
        sent = 0
        try:
            with memoryview(data) as view:
                while True:
                    # Not `view[sent:]` at once for all: the first send mostly takes everything.
                    count = await self._socket.send(view[sent:] if sent else view)
                    sent += count
                    self._traffic.sent += count
                    if sent >= len(view):
                        return
                    self.stuck_since = trio.current_time()
        except OSError as exc:
            raise self._translated(exc) from exc
        finally:
            self.stuck_since = math.inf

    def send_now(self, data: bytes) -> int:
        """Send what the kernel takes at once; returns how many bytes that was. Not a checkpoint: half the cost of
        `send_all`, for who waits soon anyway. Not while a `send_all` is under way."""
        try:
            count = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._translated(exc) from exc
        self._traffic.sent += count
        return count

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await self._socket.wait_writable()
        except OSError as exc:
            raise self._translated(exc) from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data: bytes = await self._socket.recv(RECEIVE_BYTES if max_bytes is None else max_bytes)
        except OSError as exc:
            raise self._translated(exc) from exc
        self._traffic.received += len(data)
        self.heard_at = trio.current_time()
        return data

    async def send_eof(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, whatever is on its way; tasks that wait on the socket get ClosedResourceError. Idempotent."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._socket.close()

    def close(self) -> None:
        """Close; what was sent still goes out. Idempotent."""
        self._socket.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    async def linger(self) -> None:
        """End our side and read away what the peer still sends, for a bounded time; then close."""
        try:
            with trio.move_on_after(LINGER_SECONDS):
                await self.send_eof()
                left = LINGER_BYTES
                while left > 0 and (data := await self.receive_some()):
                    left -= len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.close()

    def _translated(self, exc: OSError) -> Exception:
        if self.closed:
            return trio.ClosedResourceError("the socket was closed")
        return trio.BrokenResourceError(f"the socket is broken: {exc}")
