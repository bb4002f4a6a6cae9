"""HTTP/1.1 to one server: requests whose answers are read as they arrive, and whose end is the end of their socket.

h11 on a trio socket, as in the toolset `web`: a response that nobody wants any more is left by closing its socket,
which no library's pool or generator has to learn first. A connection whose answer was read to its end is kept for the
next request for a little while. Proxies of the environment are not used, and redirects are answers like others.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import trio

from engine.limits import DEFAULT, KIB, Limits
from engine.version import VERSION

# Kept for the next call of a run. Common servers close a connection that was idle for 5 s; a request that meets its
# end in that moment would fail.
IDLE_MOST: Final = 8
IDLE_SECONDS: Final = 4.0
# A server that takes none of a request for this long is stuck.
WRITE_SECONDS: Final = 60.0
_READ: Final = 64 * KIB
# A body in as many pieces at once is one in tiny pieces, each of which costs 20 µs: others have their turn.
_PIECES: Final = 64
_PIECES_PAUSE: Final = 0.01
_HEAD_BYTES: Final = 64 * KIB  # status line and headers of an answer


class Broken(Exception):
    """There is no connection (any more), or what comes is no HTTP. The text is for a person, and holds nothing of what
    was sent."""


class Answer:
    """A response whose head has come. Closed by the `request` that gave it."""

    def __init__(self, stream: trio.abc.Stream, http: h11.Connection, head: h11.Response) -> None:
        self._stream = stream
        self._http = http
        self.status = head.status_code
        self.headers = dict(reversed(list(head.headers)))  # of those that are there twice the first
        self.size = 0  # bytes of the body so far
        self._ended = False

    async def receive(self) -> bytes:
        """The next bytes of the body, as many as have come; none at its end. Raises Broken."""
        data = bytearray()
        pieces = 0
        while not self._ended and len(data) < _READ:
            event = await _next(self._stream, self._http, wait=not data)
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Data):
                data += event.data
                pieces += 1
                if pieces % _PIECES == 0:
                    await trio.sleep(_PIECES_PAUSE)
            else:
                self._ended = True
        self.size += len(data)
        return bytes(data)


class Peer:
    """The server at `url`, http or https. `headers` go with every request. Closed by `aclose`."""

    def __init__(
        self, url: str, headers: Mapping[str, str], limits: Limits = DEFAULT, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "checked with the configuration"
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "host": parts.netloc,
            "user-agent": f"greenroom/{VERSION}",
            "accept-encoding": "identity",  # what is packed cannot be bounded as it comes
            **{name.lower(): value for name, value in headers.items()},
        }
        self._limits = limits
        self._context = ssl_context
        self._thread = trio.CapacityLimiter(1)
        self._idle: list[tuple[float, trio.abc.Stream, h11.Connection]] = []

    @contextlib.asynccontextmanager
    async def request(self, method: str, headers: Mapping[str, str], body: bytes = b"") -> AsyncIterator[Answer]:
        """The answer once its head has come, for which there is no deadline. Raises Broken, also for what `receive`
        raises inside the block."""
        stream, http = await self._take()
        try:
            await self._send(stream, http, method, headers, body)
            while not isinstance(event := await _next(stream, http), h11.Response):
                if not isinstance(event, h11.InformationalResponse):
                    raise Broken("the answer is not HTTP")
            yield Answer(stream, http, event)
        finally:
            done = http.our_state is h11.DONE and http.their_state is h11.DONE
            if done and len(self._idle) < IDLE_MOST and http.trailing_data == (b"", False):
                http.start_next_cycle()
                self._idle.append((trio.current_time() + IDLE_SECONDS, stream, http))
            else:
                await trio.aclose_forcefully(stream)  # without a farewell, and at once even if cancelled

    async def aclose(self) -> None:
        """Requests have ended."""
        while self._idle:
            _, stream, _ = self._idle.pop()
            await trio.aclose_forcefully(stream)

    # ------------------------------------------------------------ parts
    async def _send(
        self, stream: trio.abc.Stream, http: h11.Connection, method: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        given = {**self._headers, **headers}
        if method == "POST":
            given["content-length"] = str(len(body))
        try:
            request = h11.Request(method=method, target=self._target, headers=list(given.items()))
            data = http.send(request) or b""
        except (h11.LocalProtocolError, UnicodeError):  # whose texts have the header
            raise Broken("a header or the URL has a character that HTTP does not allow") from None
        if body:
            data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        try:
            with trio.fail_after(WRITE_SECONDS):
                await stream.send_all(data)
        except trio.TooSlowError:
            raise Broken(f"the server took nothing of a request for {WRITE_SECONDS:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it may have answered before it closed

    async def _take(self) -> tuple[trio.abc.Stream, h11.Connection]:
        while self._idle:
            until, stream, http = self._idle.pop()
            # Readable means that it has ended: nothing is asked of it.
            if trio.current_time() < until and not _socket(stream).is_readable():
                return stream, http
            await trio.aclose_forcefully(stream)
        return await self._connect(), h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)

    async def _connect(self) -> trio.abc.Stream:
        try:
            with trio.fail_after(self._limits.connect_timeout):
                stream = await trio.open_tcp_stream(self._host, self._port)
                return await self._encrypt(stream) if self._tls else stream
        except trio.TooSlowError:
            raise Broken(f"the server cannot be reached: no connection in {self._limits.connect_timeout:g} s") from None
        except (OSError, UnicodeError) as exc:
            raise Broken(f"the server cannot be reached: {_reason(exc)}") from None

    async def _encrypt(self, stream: trio.SocketStream) -> trio.abc.Stream:
        try:
            if self._context is None:
                # 30 ms of reading certificates.
                self._context = await trio.to_thread.run_sync(ssl.create_default_context, limiter=self._thread)
            secure = trio.SSLStream(stream, self._context, server_hostname=self._host, https_compatible=True)
            await secure.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(stream)
            if isinstance(exc, trio.BrokenResourceError):
                raise Broken(f"the server is not trusted: {exc.__cause__ or exc}") from None
            raise
        return secure


async def _next(stream: trio.abc.Stream, http: h11.Connection, *, wait: bool = True) -> Any:
    """The next event, or h11.PAUSED; h11.NEED_DATA if there is none yet and it is not waited for. Raises Broken."""
    ended = False
    while True:
        try:
            event = http.next_event()
            if event is not h11.NEED_DATA or not wait:
                return event
            data = await stream.receive_some(_READ)
            ended = not data
            if ended and http.their_state is h11.SEND_RESPONSE:
                raise Broken("the server closed the connection without an answer")
            http.receive_data(bytes(data))
        except h11.RemoteProtocolError as exc:
            # A body that says its length has not come to it; any other is whole when the connection is closed.
            raise Broken("the answer broke off" if ended else f"the answer is not HTTP: {exc}") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise Broken(f"the connection broke: {exc.__cause__ or exc}") from None


def _reason(exc: BaseException) -> str:
    """What the system says; of several addresses that were tried, of the last."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    return (cause is not None and _reason(cause)) or getattr(exc, "strerror", None) or str(exc)


def _socket(stream: trio.abc.Stream) -> trio.socket.SocketType:
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(inner, trio.SocketStream)
    return inner.socket
