"""The one HTTP client of the process, for the streams of model services.

It is made at the first call: the library and the TLS context cost 40 ms and 7 MB that an idle daemon does not
need, and both are loaded in a worker thread so that the loop keeps turning. Below the library stands our own
network stream. It takes a chunked body past the library (engine.providers.chunks), and waits for it together with
the others (actors/_arrivals.py).
"""

from __future__ import annotations

import binascii
import contextlib
import itertools
import math
import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from actors._arrivals import Arrival, Arrivals
from engine.errors import PeerError
from engine.limits import KIB, Limits
from engine.providers.base import ReadMedia
from engine.providers.chunks import ChunkedBody
from engine.providers.faults import printable
from engine.transcript.media import BLOCK_BYTES, Shown, split

if TYPE_CHECKING:
    import httpx2

# --- connections
# Idle ones that are kept for the next turn, and for how many seconds: a turn with tools takes this long.
_IDLE_MAX: Final = 16
_IDLE_SECONDS: Final = 30.0
# Pieces of a request's body are sent in blocks of about this size.
_BLOCK: Final = 64 * KIB
# The largest read of a body.
_READ: Final = 64 * KIB


class HttpAnswer:
    """A response whose head has arrived. Closed by the `post` that gave it. Silent without a byte for `silence`
    seconds."""

    def __init__(self, response: httpx2.Response, silence: float) -> None:
        self.status: int = response.status_code
        self.headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._stream: _Stream = response.extensions["network_stream"]
        self._chunks = response.aiter_raw()
        self._silence = silence

    async def receive(self) -> bytes:
        """The next bytes of the body as they arrive, empty at its end. Raises PeerError if the connection breaks or is
        silent. After an error or a cancellation the connection is closed and this may not be called again."""
        try:
            if self._stream.body_taken and (data := await self._stream.receive_body()):
                return data
            with _translated():
                # Of a body that was taken the library sees the end, which frees the connection for the next request.
                return await anext(self._chunks, b"")  # it gives no empty chunks
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _cut() from None
        except trio.TooSlowError:
            raise silent(self._silence) from None

    async def close(self) -> None:
        """Close the connection. The library's generators are made to meet that, so that none of them is left half
        way for the collector of garbage to find."""
        await self._stream.aclose()
        with contextlib.suppress(PeerError), _translated():
            while await anext(self._chunks, b""):
                pass

    async def head(self, most: int) -> bytes:
        """Up to `most` bytes of the body."""
        data = b""
        while len(data) < most and (chunk := await self.receive()):
            data += chunk
        return data[:most]


class HttpClient:
    """Made without I/O, closed by `aclose` when no response is open any more; `run` is its task."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(1)
        self._client: httpx2.AsyncClient | None = None
        self._closed = False
        self.arrivals = Arrivals(limits.progress_timeout)

    async def run(self) -> NoReturn:
        await self.arrivals.run()

    @contextlib.asynccontextmanager
    async def post(
        self, url: str, headers: dict[str, str], body: Iterable[bytes], media: ReadMedia | None = None
    ) -> AsyncIterator[HttpAnswer]:
        """POST `body`, whose pieces are let go as they are sent; the media that it shows are read by `media` meanwhile.
        Leaving the block closes the connection at once, unless the response was read to its end. Raises PeerError;
        redirects are answers like others."""
        pieces = deque(itertools.chain.from_iterable(map(split, body)))
        size = sum(map(len, pieces))
        # The body is never compressed: it is read as it arrives, and a bound on it means its bytes.
        own = {"content-length": str(size), "content-type": "application/json"}
        async with self._sent("POST", url, {**headers, **own}, _blocks(pieces, media)) as answer:
            yield answer

    @contextlib.asynccontextmanager
    async def get(self, url: str, headers: dict[str, str]) -> AsyncIterator[HttpAnswer]:
        """GET. As `post`."""
        async with self._sent("GET", url, headers, None) as answer:
            yield answer

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, url: str, headers: dict[str, str], content: AsyncIterator[bytes] | None
    ) -> AsyncIterator[HttpAnswer]:
        client = await self._opened()
        headers = {**headers, "accept-encoding": "identity"}
        with _translated():
            request = client.build_request(method, url, headers=headers, content=content)
        self.arrivals.pace.streams += 1
        try:
            with _translated():
                response = await client.send(request, stream=True)
            answer = HttpAnswer(response, self._limits.progress_timeout)
            try:
                yield answer
            finally:
                # Does not wait for the peer: our stream closes its socket without a farewell.
                with trio.CancelScope(shield=True):
                    if not response.is_closed:
                        await answer.close()
                    await response.aclose()
        finally:
            self.arrivals.pace.streams -= 1

    async def aclose(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            with trio.CancelScope(shield=True):
                await client.aclose()
        self.arrivals.close()

    async def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            async with self._lock:
                assert not self._closed, "the client is used after it was closed"
                if self._client is None:
                    self._client = await trio.to_thread.run_sync(self._make, limiter=self._threads)
        return self._client

    def _make(self) -> httpx2.AsyncClient:
        """In a worker thread."""
        import httpx2

        bounds = httpx2.Limits(
            max_connections=None,  # bounded by the active runs
            max_keepalive_connections=_IDLE_MAX,
            keepalive_expiry=_IDLE_SECONDS,
        )
        # Silence and the length of a call are the caller's deadlines: one scope a read instead of two.
        timeout = httpx2.Timeout(None, connect=self._limits.connect_timeout)
        client = httpx2.AsyncClient(
            verify=httpx2.create_ssl_context(), limits=bounds, timeout=timeout, follow_redirects=False
        )
        backend = _Backend(self.arrivals)
        # The library hands no backend through, and a transport of our own would lose its proxies.
        for transport in (client._transport, *client._mounts.values()):
            if isinstance(transport, httpx2.AsyncHTTPTransport):
                transport._pool._network_backend = backend  # type: ignore[assignment]
        return client


async def _blocks(pieces: deque[bytes | Shown], media: ReadMedia | None) -> AsyncIterator[bytes]:
    while pieces:
        block: list[bytes] = []
        size = 0
        while pieces and isinstance(piece := pieces[0], bytes) and (not block or size + len(piece) <= _BLOCK):
            size += len(piece)
            block.append(piece)
            pieces.popleft()
        if block:
            yield b"".join(block)
        if pieces and isinstance(shown := pieces[0], Shown):
            pieces.popleft()
            assert media is not None, "a request that shows media says how to read them"
            for offset in range(0, shown.size, BLOCK_BYTES):
                most = min(BLOCK_BYTES, shown.size - offset)
                data = await media(shown.digest, offset, most)
                if len(data) < most:
                    raise PeerError("disk_full", "a file of the conversation is not what it was")
                yield binascii.b2a_base64(data, newline=False)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The library's errors as PeerError. Their texts are not trusted to be free of headers, except for reasons of
    the system and of TLS."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException:
        raise PeerError(
            "provider_timeout", "the model's service did not accept a connection in time", retry=True
        ) from None
    except httpx2.ConnectError as exc:
        bad_certificate = "certificate" in str(exc).lower()
        reason = printable(str(exc)) or "no reason is known"
        raise PeerError(
            "provider_error", f"no connection to the model's service: {reason}", retry=not bad_certificate
        ) from None
    except httpx2.ProxyError as exc:
        raise PeerError("provider_error", f"the proxy refused: {printable(str(exc))}", retry=True) from None
    except (httpx2.NetworkError, httpx2.RemoteProtocolError):
        raise _cut() from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        raise PeerError("provider_error", f"the model's service cannot be called: {type(exc).__name__}") from None


def silent(seconds: float) -> PeerError:
    """The error of a service that sends nothing."""
    return PeerError("provider_timeout", f"the model's service made no progress for {seconds:g} s", retry=True)


def _cut() -> PeerError:
    return PeerError("provider_error", "the connection to the model's service was cut", retry=True)


# ------------------------------------------------------------ below the library
class _Socket(trio.abc.Stream):
    """The socket itself, below TLS. `stream` tells whether what comes is a stream: then it is waited for together
    with the other streams."""

    def __init__(self, socket: trio.SocketStream, arrivals: Arrivals) -> None:
        self.plain = socket
        self.stream = False
        self.arrivals = arrivals
        self._arrival: Arrival | None = None
        self._more = False  # the last read was full

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.stream:
            return await self.plain.receive_some(max_bytes)
        if self._arrival is None:
            self._arrival = self.arrivals.watch(self.plain.socket.fileno())
        if self._more:
            await trio.lowlevel.checkpoint()
        size = _READ if max_bytes is None else max_bytes
        while True:
            if not self._more:
                await self._arrival.wait()
            try:
                data = os.read(self._arrival.descriptor, size)
            except BlockingIOError:
                self._more = False
            except OSError as exc:
                raise trio.BrokenResourceError(f"the connection broke: {exc}") from exc
            else:
                self._more = len(data) == size
                return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.plain.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.plain.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        if self._arrival is not None:
            self._arrival.close()
        await self.plain.aclose()


class _Stream:
    """A connection as the library wants it (httpcore2.AsyncNetworkStream), and the bodies that pass it by."""

    def __init__(self, stream: _Socket | trio.SSLStream[_Socket], socket: _Socket) -> None:
        self._stream = stream
        self._socket = socket
        self._body = ChunkedBody()
        self._ready = b""  # of the body, which came with the head

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore2

        try:
            if self.body_taken:
                # The library asks when the body has ended, or when we closed the connection.
                data = await self.receive_body()
                return b"%x\r\n%b\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            head, self._ready = self._body.feed(bytes(await self._stream.receive_some(max_bytes)))
            self._socket.stream = self._body.begun
            return head
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore2.ReadError(str(exc)) from None

    @property
    def body_taken(self) -> bool:
        return self._body.taken

    async def receive_body(self) -> bytes:
        """What the next read brings of a body that is taken, empty at its end. Raises trio.BrokenResourceError for
        a connection that ends before it, or whose chunks are not understood."""
        data, self._ready = self._ready, b""
        while not data and not self._body.done:
            received = b"" if self._body.broken else bytes(await self._stream.receive_some(_READ))
            if not received:
                raise trio.BrokenResourceError("the body did not end")
            _, data = self._body.feed(received)
            self._socket.arrivals.pace.took(self._body.chunks)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        import httpcore2

        self._body.request_sent()
        self._socket.stream = False
        if not buffer:
            return
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore2.WriteError(str(exc)) from None

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        import httpcore2

        assert self._stream is self._socket, "TLS inside TLS: a proxy of https is not spoken to"
        secure = trio.SSLStream(
            self._socket, ssl_context, server_hostname=server_hostname, https_compatible=True, server_side=False
        )
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                await secure.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(self._stream)
            if isinstance(exc, trio.TooSlowError):
                raise httpcore2.ConnectTimeout("TLS handshake") from None
            if isinstance(exc, trio.BrokenResourceError):
                raise httpcore2.ConnectError(str(exc.__cause__ or exc)) from None
            raise
        return _Stream(secure, self._socket)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return getattr(self._stream, "_ssl_object", None)
        socket = self._socket.plain.socket
        match info:
            case "socket":
                return socket
            case "is_readable":
                # Asked of an idle connection: readable means that it has ended. One that we closed has too.
                return socket.fileno() < 0 or socket.is_readable()
            case "client_addr":
                return socket.getsockname()
            case "server_addr":
                return socket.getpeername()
        return None


class _Backend:
    """How the library opens connections (httpcore2.AsyncNetworkBackend)."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        import httpcore2

        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                stream = await trio.open_tcp_stream(host, port, local_address=local_address)
        except trio.TooSlowError:
            raise httpcore2.ConnectTimeout(f"{host}:{port}") from None
        except OSError as exc:
            reason = "; ".join(_reasons(exc))
            raise httpcore2.ConnectError(f"{host}:{port}: {reason}") from None
        socket = _Socket(stream, self._arrivals)
        return _Stream(socket, socket)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> _Stream:
        raise AssertionError("services are reached by TCP")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def _reasons(exc: BaseException) -> list[str]:
    """What the system says of each address that was tried, without repetition."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return list(dict.fromkeys(reason for inner in cause.exceptions for reason in _reasons(inner)))
    if isinstance(cause, OSError):
        return _reasons(cause)
    if isinstance(exc, socket.gaierror):  # whose numbers are not the system's
        return [exc.strerror or str(exc)]
    return [os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else str(exc)]
