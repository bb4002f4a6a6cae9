"""WebSocket over trio-websocket. The only module of the gateway that knows that library.

The library does the handshake, reading, pongs and the closing handshake. Outbound messages are framed here: a
server's frame is a header and the payload, and several of them leave in one send, which the library cannot do.
What is worked around, each noted at its place: a handshake that loses what came behind the request, a reader that
raises out of its nursery when something arrives after our close frame and reads once more after its end, a bound on
messages in characters, no bound on the number of fragments, and a peer that breaks the protocol being cut off
without a close frame that says so.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream
from wsproto.connection import ConnectionState

from actors.gateway.transport import RECEIVE_BYTES, Transport

_log = logging.getLogger("greenroom.gateway")

GOING_AWAY: Final = 1001
NOT_TEXT: Final = 1003
# What the library ends a connection with when it could not read a frame (RFC 6455, 7.4.1).
_UNREADABLE: Final = {1002: "not a frame of the WebSocket protocol", 1007: "a text message is UTF-8"}
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011

PING: Final = b"\x89\x00"
_TEXT: Final = 0x81  # the last and only fragment of a text message
_CLOSE: Final = 0x88
_SHORT: Final = 126  # payloads up to here but one have their length in the second byte

# Fragments that one message may come in. A fragment may be empty, so that the bound on bytes says nothing about them.
FRAGMENTS_MAX: Final = 4096
# Seconds for the peer's half of the closing handshake.
CLOSE_SECONDS: Final = 2.0


class Closed(Exception):
    """The connection has ended, by whatever."""


class Refused(Exception):
    """The peer sent what ends the connection: to be closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def frame(text: str) -> bytes:
    """One text message as a server sends it: unmasked, in one fragment."""
    payload = text.encode()
    size = len(payload)
    if size < _SHORT:
        return bytes((_TEXT, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", _TEXT, _SHORT, size) + payload
    return struct.pack("!BBQ", _TEXT, _SHORT + 1, size) + payload


def _close_frame(code: int) -> bytes:
    payload = struct.pack("!H", code) + _UNREADABLE[code].encode()
    assert len(payload) < _SHORT, "a control frame has one byte for its length"
    return bytes((_CLOSE, len(payload))) + payload


class WebSocket:
    """One connection after its handshake; made by `accept`. One task receives, one sends."""

    def __init__(self, connection: Any, stream: _Stream, message_bytes: int) -> None:
        self._connection = connection
        self._stream = stream
        self._message_bytes = message_bytes

    async def receive(self) -> str:
        """The next text message. Raises Closed, or Refused for a binary or too large one."""
        try:
            message: str | bytes = await self._connection.get_message()
        except ConnectionClosed as exc:
            code = exc.reason.code if exc.reason is not None else None
            if code == TOO_BIG and self._stream.alive:
                raise Refused(TOO_BIG, self._too_big) from None
            if code in _UNREADABLE and self._stream.unreadable and self._stream.alive:
                raise Refused(code, _UNREADABLE[code]) from None
            raise Closed(str(exc.reason)) from None
        if isinstance(message, bytes):
            raise Refused(NOT_TEXT, "messages are text")
        # The library counts characters; a character is up to four bytes.
        if not message.isascii() and len(message.encode()) > self._message_bytes:
            raise Refused(TOO_BIG, self._too_big)
        return message

    async def send(self, frames: bytes) -> None:
        """Send whole frames; mostly at once, without a checkpoint. Raises Closed. Cancelled: half a frame may be out,
        so that only `abort` may follow."""
        if self._connection.closed is not None:
            raise Closed(str(self._connection.closed))
        try:
            await self._stream.send_frames(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise Closed(str(exc)) from None

    @property
    def free(self) -> bool:
        """`send_now` may be called."""
        return self._stream.free and self._connection.closed is None

    @property
    def unsent(self) -> bool:
        """The kernel did not take all of a `send_now`: the next `send` sends the rest first."""
        return bool(self._stream.rest)

    def send_now(self, frames: bytes) -> None:
        """Send whole frames without waiting. If the connection has ended, the next `send` or `receive` says so."""
        self._stream.send_now(frames)

    async def close(self, code: int, reason: str) -> None:
        """The closing handshake, bounded in time; the socket is closed when this returns or is cancelled."""
        try:
            if self._connection.closed is None:
                with trio.move_on_after(CLOSE_SECONDS):
                    await self._connection.aclose(code, reason)
            else:
                # The library reads no more: the peer may be in the middle of a message.
                if self._stream.unreadable:
                    with trio.move_on_after(CLOSE_SECONDS):
                        await self._stream.send_all(_close_frame(self._connection.closed.code))
                await self._stream.transport.linger()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._stream.transport.close()

    @property
    def _too_big(self) -> str:
        return f"a message has at most {self._message_bytes} bytes"


async def accept(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    transport: Transport,
    head: bytes,
    behind: bytes,
    *,
    subprotocol: str | None,
    message_bytes: int,
) -> WebSocket:
    """Answer the upgrade whose request is `head`, `behind` being what came behind it. The library's reader runs in
    `nursery`; it never raises there. Raises Closed. A request that the library refuses makes this wait for ever: the
    caller has checked it, and has a deadline."""
    replay = _Stream(stream, transport, head, behind)
    try:
        request = await wrap_server_stream(
            cast(trio.Nursery, _Quiet(nursery)),
            replay,
            message_queue_size=1,
            max_message_size=message_bytes,
            receive_buffer_size=RECEIVE_BYTES,
        )
        connection = await request.accept(subprotocol=subprotocol)
    except ConnectionClosed as exc:
        raise Closed(str(exc.reason)) from None
    replay.begin(connection)
    return WebSocket(connection, replay, message_bytes)


class _Stream(trio.abc.Stream):
    """The stream below the library: gives first what was read already, and lets two senders take turns.

    What came behind the request is given when that is answered: the library's handshake would drop it.
    """

    def __init__(self, stream: trio.abc.Stream, transport: Transport, head: bytes, behind: bytes) -> None:
        self.transport = transport
        self._connection: Any = None
        self._inner = stream
        self._read = head
        self._behind = behind
        self._begun = trio.Event()
        self._turn = trio.StrictFIFOLock()
        self.rest = b""  # of a frame that `send_now` began: nothing else may be sent before it

    @property
    def alive(self) -> bool:
        return not self.transport.closed

    @property
    def unreadable(self) -> bool:
        """The library has given up on what the peer sends, and said nothing: neither side has sent a close frame."""
        ended = self._connection.closed if self._connection is not None else None
        if ended is None or ended.code not in _UNREADABLE:
            return False
        return self._connection._wsproto.state is ConnectionState.OPEN

    def begin(self, connection: Any) -> None:
        self._connection = weakref.proxy(connection)  # which holds this stream, and all who use either hold it
        self._read += self._behind
        self._behind = b""
        self._begun.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._read and self._connection is None:
            await self._begun.wait()
        if self._read:
            await trio.lowlevel.checkpoint()
            size = len(self._read) if max_bytes is None else max_bytes
            data, self._read = self._read[:size], self._read[size:]
            return data
        if not self._connection._reader_running:
            # The library's reader has done its part, yet reads once more. What comes now is read away by `close`.
            await trio.sleep_forever()
        data = bytes(await self._inner.receive_some(max_bytes))
        if len(self._connection._message_parts) > FRAGMENTS_MAX:
            _log.info("a message in more than %d fragments: the connection is aborted", FRAGMENTS_MAX)
            self.transport.abort()
            raise trio.ClosedResourceError
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._turn.acquire_nowait()  # a tenth of the cost of acquire, which always is a checkpoint
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            rest, self.rest = self.rest, b""
            await self._inner.send_all(rest + data if rest else data)
        finally:
            self._turn.release()

    @property
    def free(self) -> bool:
        """Nobody is sending, and no TLS is between us and the socket, which might have to wait."""
        return self._inner is self.transport and not self.rest and not self._turn.locked()

    def send_now(self, frames: bytes) -> None:
        assert self.free, "frames would be mixed"
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            sent = self.transport.send_now(frames)
            if sent < len(frames):
                self.rest = frames[sent:]

    async def send_frames(self, frames: bytes) -> None:
        """As send_all, but without waiting if the kernel takes it all."""
        if self.free:
            sent = self.transport.send_now(frames)
            if sent == len(frames):
                return
            frames = frames[sent:]
        await self.send_all(frames)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        if self.unreadable:
            await trio.lowlevel.checkpoint()  # the peer is still to be told why: see WebSocket.close
        else:
            await self._inner.aclose()


class _Quiet:
    """A nursery for the library's reader. It answers a ping (or a message that is too large) also after our close
    frame, which its own protocol object refuses with an exception: that is an end like any other."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        self._nursery.start_soon(self._run, work, arguments)

    async def _run(self, work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        try:
            await work(*arguments)
        except Exception as exc:  # noqa: BLE001 - whatever a peer can make the library raise
            _log.debug("the reader of a WebSocket ended: %r", exc)
