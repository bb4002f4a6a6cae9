"""From an address to an open WebSocket. The only module of the client that knows trio-websocket.

What is worked around, each noted at its place: a reader that raises out of the nursery it was given, a handshake
that never ends when the socket does, half frames after a cancelled send, and a close that waits for a stuck peer.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from actors.client.errors import AccessDenied, ConnectionLost, NoDaemon, Untrusted
from actors.places import read_daemon_file, read_token, token_file
from engine.limits import DEFAULT
from engine.wire.methods import SUBPROTOCOL

CONNECT_SECONDS: Final = 10.0  # a daemon on this machine answers in milliseconds
SEND_SECONDS: Final = 15.0  # the daemon's own patience with a socket that takes nothing
CLOSE_SECONDS: Final = 2.0
# Twice the largest frame that the contract allows, counted in characters by the library.
_FRAME_MAX: Final = 2 * DEFAULT.frame_bytes
_RECEIVE_BYTES: Final = 64 * 1024
_UNIX: Final = "unix:"
_NO_SERVICE: Final = 503  # not ready yet, or no more: the same as nobody there
_ABNORMAL: Final = 1006


@attrs.frozen(slots=True)
class Address:
    """Where a daemon serves: `url` is ws://…, wss://… or unix:PATH. The token does not belong into a log."""

    url: str
    token: str = attrs.field(repr=False)


def find(url: str | None, token: str | None, data_dir: Path) -> Address:
    """The address: given, or from the data directory's files. Raises NoDaemon."""
    if url is not None and token is not None:
        return Address(_websocket_url(url), token)
    daemon = read_daemon_file(data_dir)
    token_path = token_file(data_dir)
    if daemon is None:
        if url is None:
            raise NoDaemon(f"no daemon runs on {data_dir} (start one with: greenroom serve)")
    else:
        url = url or daemon.ws_url
        token_path = Path(daemon.token_file)
    try:
        found = token if token is not None else read_token(token_path)
    except OSError as exc:
        raise NoDaemon(f"the token of the daemon cannot be read from {token_path}: {exc.strerror or exc}") from None
    return Address(_websocket_url(url), found)


def _websocket_url(url: str) -> str:
    """`ws://host/ws` for any way to write the address (`http://host`, as `greenroom serve` prints it)."""
    if url.startswith(_UNIX):
        return url
    try:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        # Reading `port` raises for one that is out of range.
        good = scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise NoDaemon(f"{url} is no address of a daemon: expected http(s)://host:port, ws(s)://… or unix:PATH")
    return f"{scheme}://{parts.netloc}{parts.path if parts.path not in ('', '/') else '/ws'}"


class Socket:
    """An open WebSocket; made by `dial`. One task receives; any number send."""

    def __init__(self, connection: Any, stream: trio.abc.Stream) -> None:
        self._connection = connection
        self._stream = stream

    async def receive(self) -> str | bytes:
        """The next message. Raises ConnectionLost."""
        try:
            message: str | bytes = await self._connection.get_message()
        except ConnectionClosed as exc:
            raise _lost(exc) from None
        return message

    async def send(self, text: str) -> None:
        """Send one message, whole also when cancelled meanwhile: half of one would end the connection. Raises
        ConnectionLost; a peer that takes nothing for SEND_SECONDS is one that is lost."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            with trio.move_on_after(SEND_SECONDS, shield=True) as patience:
                await self._connection.send_message(text)
        except ConnectionClosed as exc:
            raise _lost(exc) from None
        if patience.cancelled_caught:
            await self.abort()
            raise ConnectionLost(_ABNORMAL, "the daemon takes nothing")

    async def ping(self) -> None:
        """Returns when the peer has answered. Raises ConnectionLost."""
        try:
            await self._connection.ping()
        except ConnectionClosed as exc:
            raise _lost(exc) from None

    async def abort(self) -> None:
        """Close at once, without a handshake."""
        await trio.aclose_forcefully(self._stream)

    async def close(self) -> None:
        """The closing handshake, bounded in time. Returns with the socket closed."""
        try:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._connection.aclose()
        finally:
            with trio.CancelScope(shield=True):  # does not wait
                await self.abort()


@contextlib.asynccontextmanager
async def dial(address: Address) -> AsyncIterator[Socket]:
    """A WebSocket to the daemon until the block ends. Raises NoDaemon, AccessDenied, Untrusted,
    ConnectionLost."""
    stream, host, path = await _open(address)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            reader = _Reader(nursery)
            try:
                socket = await _shake_hands(reader, stream, host, path, address.token)
                try:
                    yield socket
                finally:
                    await socket.close()
            except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                failure = exc
            finally:
                reader.scope.cancel(reason="the connection has ended")
    finally:
        with trio.CancelScope(shield=True):  # does not wait
            await trio.aclose_forcefully(stream)
    if failure is not None:
        raise failure


async def get(address: Address, path: str) -> tuple[int, str]:
    """Status and text of what the daemon answers to GET at a path that needs no token. Raises NoDaemon, Untrusted,
    ConnectionLost; has no deadline of its own but for the connection."""
    stream, host, _ = await _open(address)
    data = b""
    try:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while len(data) < _RECEIVE_BYTES and (more := await stream.receive_some(_RECEIVE_BYTES)):
            data += more
    except trio.BrokenResourceError:
        pass  # what came before says what there is to say
    finally:
        with trio.CancelScope(shield=True):  # does not wait
            await trio.aclose_forcefully(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    version, _, rest = head.decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ConnectionLost(_ABNORMAL, "what answered is no daemon")
    return int(rest[:3]), body.decode(errors="replace").strip()


async def _open(address: Address) -> tuple[trio.abc.Stream, str, str]:
    """The stream, and what to ask for on it: (stream, Host header, path)."""
    if address.url.startswith(_UNIX):
        path = address.url.removeprefix(_UNIX)
        try:
            return await trio.open_unix_socket(path), "localhost", "/ws"
        except OSError as exc:
            raise NoDaemon(f"nobody serves at {address.url}: {exc.strerror or exc}") from None
    parts = urlsplit(address.url)
    host = parts.hostname
    assert host is not None, "`find` has looked"
    secure = parts.scheme == "wss"
    try:
        with trio.fail_after(CONNECT_SECONDS):
            plain = await trio.open_tcp_stream(host, parts.port or (443 if secure else 80))
    except (OSError, trio.TooSlowError) as exc:
        raise NoDaemon(f"nobody serves at {address.url}: {getattr(exc, 'strerror', None) or exc}") from None
    if not secure:
        return plain, parts.netloc, parts.path
    # Who uses a certificate of their own names it in SSL_CERT_FILE.
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    stream = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        await trio.aclose_forcefully(plain)
        if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
            raise Untrusted(address.url, exc.__cause__.verify_message) from None
        raise NoDaemon(f"no TLS with {address.url}: {exc.__cause__ or exc}") from None
    except BaseException:
        with trio.CancelScope(shield=True):  # does not wait
            await trio.aclose_forcefully(plain)
        raise
    return stream, parts.netloc, parts.path


async def _shake_hands(reader: _Reader, stream: trio.abc.Stream, host: str, path: str, token: str) -> Socket:
    connection: Any = None
    with trio.move_on_after(CONNECT_SECONDS) as reader.handshake:
        connection = await wrap_client_stream(
            reader,  # type: ignore[arg-type] # all that it uses of a nursery
            stream,  # type: ignore[arg-type] # any stream does
            host,
            path,
            subprotocols=[SUBPROTOCOL],
            extra_headers=[(b"Authorization", b"Bearer " + token.encode())],
            max_message_size=_FRAME_MAX,
            receive_buffer_size=_RECEIVE_BYTES,
        )
    reader.handshake = None
    if isinstance(reader.failure, ConnectionRejected):
        if reader.failure.status_code == _NO_SERVICE:
            raise NoDaemon("the daemon is not ready, or shuts down")
        raise AccessDenied(reader.failure.status_code)
    if connection is None or reader.failure is not None:
        raise NoDaemon("what serves there does not answer as a greenroom daemon does")
    if connection.subprotocol != SUBPROTOCOL:
        raise NoDaemon(f"what serves there does not speak {SUBPROTOCOL}")
    return Socket(connection, stream)


class _Reader:
    """The nursery that the library starts its reader in. What the reader raises, and its end before the handshake's,
    would otherwise crash the caller or leave it waiting. It outlives a cancelled caller until the close is done,
    because it is what reads the peer's half of that."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.scope = trio.CancelScope(shield=True)
        self.failure: Exception | None = None
        self.handshake: trio.CancelScope | None = None
        self._nursery = nursery

    def start_soon(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        self._nursery.start_soon(self._run, work, arguments)

    async def _run(self, work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        try:
            with self.scope:
                await work(*arguments)
        except Exception as exc:  # noqa: BLE001 - whatever a peer can make the library raise
            self.failure = exc
        if self.handshake is not None:
            self.handshake.cancel(reason="the socket ended in the handshake")


def _lost(exc: ConnectionClosed) -> ConnectionLost:
    if exc.reason is None:
        return ConnectionLost(_ABNORMAL)
    return ConnectionLost(exc.reason.code, exc.reason.reason or "")
