"""The built-in toolset `web`: pages of the web by HTTP GET, from public addresses only.

Each connection is made to an address that was judged (engine.tools.fetch_rules), so the model service's client with
its own resolution is of no use here: this is h11 on a trio socket, one request a connection. Proxies of the
environment are not used. A redirect is followed as long as it stays on its host.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs
import h11
import trio

from actors._spool import ToolsetSpool
from actors._toolset_life import Preview, no_news
from engine import codec
from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools import fetch_rules
from engine.tools.cut import utf8
from engine.tools.fetch import FETCH, Fetch, Response, fetched, moved
from engine.tools.fetch_rules import Network, Target
from engine.tools.spec import ToolContext, ToolResult, ToolSpec
from engine.version import VERSION

_READ: Final = 64 * KIB
_HEAD_MAX: Final = 64 * KIB  # status line and headers of a response; browsers take 256 KiB
# Addresses of one name that are tried, in the order that the system gives them.
_ADDRESSES_MAX: Final = 4
_ACCEPT: Final = "text/html, application/xhtml+xml, text/*;q=0.9, application/json;q=0.9, image/*;q=0.5, */*;q=0.1"


class WebToolset:
    """`tools` are the names of those that it gives; None: all. `spool` is the one that its actor empties. `allowed`
    are networks that may be reached though they are not public."""

    kind = "builtin"

    def __init__(
        self,
        spool: ToolsetSpool,
        tools: Sequence[str] | None = None,
        *,
        allowed: Sequence[Network] = (),
        limits: Limits = DEFAULT,
    ) -> None:
        self._spool = spool
        self._tools = [FETCH] if tools is None or FETCH.name in tools else []
        self._allowed = tuple(allowed)
        self._limits = limits
        self._places = trio.CapacityLimiter(limits.fetches_max)
        self._threads = trio.CapacityLimiter(limits.fetches_max)
        self._context: ssl.SSLContext | None = None  # made with the first https: 30 ms and 1 MiB

    news = staticmethod(no_news)

    async def open(self) -> Sequence[ToolSpec]:
        return self._tools

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        """Raises CallerError invalid_path for what may not be fetched, PeerError tool_error for what answers badly."""
        asked = codec.decode(value, Fetch)
        async with self._places:
            response: Response | Target | None = None
            with trio.move_on_after(self._limits.fetch_timeout):
                response = await self._get(fetch_rules.parse_url(asked.url))
            if response is None:
                raise PeerError(
                    "tool_error", f"there was no answer within {self._limits.fetch_timeout:g} s", retry=True
                )
            if isinstance(response, Target):
                return moved(response)
            return await self._told(response)

    async def close(self) -> None:
        """Nothing is kept between calls."""

    async def _told(self, response: Response) -> ToolResult:
        """The result of a response. Its text is bounded as it comes: beside the response it is nowhere whole."""
        async with self._spool.output() as output:
            waiting = bytearray()

            def flush() -> None:
                trio.from_thread.run(output.feed, bytes(waiting))
                waiting.clear()

            def write(text: str) -> None:
                waiting.extend(utf8(text))
                if len(waiting) >= _READ:
                    flush()

            def work() -> ToolResult:
                result = fetched(response, write, trio.from_thread.check_cancelled, self._limits)
                flush()
                return result

            result = await trio.to_thread.run_sync(work, limiter=self._threads)
            collected = await output.finish()
        return attrs.evolve(result, text=collected.text, whole=collected.whole)

    # ------------------------------------------------------------ one fetch
    async def _get(self, target: Target) -> Response | Target:
        """The response behind redirects; a target if it is elsewhere."""
        for _ in range(fetch_rules.REDIRECTS_MAX + 1):
            response, location = await self._request(target)
            following = fetch_rules.redirected(target, response.status, location)
            if following is None:
                return response
            if not fetch_rules.same_site(target, following):
                return following
            target = following
        raise PeerError(
            "tool_error", f"there are more than {fetch_rules.REDIRECTS_MAX} redirects, the last to {target}"
        )

    async def _request(self, target: Target) -> tuple[Response, str | None]:
        """One response, its body up to the bound, and its Location."""
        stream = await self._connect(target)
        try:
            http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_MAX)
            headers = [
                ("Host", target.authority), ("User-Agent", f"greenroom/{VERSION}"), ("Accept", _ACCEPT),
                ("Accept-Encoding", "identity"), ("Connection", "close"),
            ]  # fmt: skip
            head = http.send(h11.Request(method="GET", target=target.path, headers=headers))
            await stream.send_all((head or b"") + (http.send(h11.EndOfMessage()) or b""))
            return await self._response(stream, http, target)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError) as exc:
            raise PeerError("tool_error", f"{target.authority} did not answer as HTTP does: {exc}", retry=True) from exc
        finally:
            # Without a farewell: the answer is read, or nobody wants it.
            await trio.aclose_forcefully(stream)

    async def _response(
        self, stream: trio.abc.Stream, http: h11.Connection, target: Target
    ) -> tuple[Response, str | None]:
        headers: dict[bytes, bytes] = {}
        status = 0
        body = deque[bytes]()  # one that grows would be moved
        size = 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(_READ)))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = dict(reversed(list(event.headers)))
                if b"location" in headers and 300 <= status < 400:
                    break
                if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                    raise PeerError(
                        "tool_error", f"{target.authority} compresses its answer although it was not asked to"
                    )
            elif isinstance(event, h11.Data):
                most = self._limits.fetch_bytes - size
                body.append(bytes(event.data[:most]) if len(event.data) > most else bytes(event.data))
                size += len(event.data)
                if size > self._limits.fetch_bytes:
                    break
            elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                break
        response = Response(
            target=target,
            status=status,
            content_type=headers.get(b"content-type", b"").decode("latin-1"),
            body=body,
            more=size > self._limits.fetch_bytes,
        )
        location = headers.get(b"location")
        return response, None if location is None else location.decode("utf-8", "replace")

    async def _connect(self, target: Target) -> trio.abc.Stream:
        """A connection to an address of the host that may be reached. Raises CallerError, PeerError."""
        try:
            with trio.fail_after(self._limits.connect_timeout):
                found = await trio.socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
                stream = await self._connect_to(target, list(dict.fromkeys(str(entry[4][0]) for entry in found)))
                if target.scheme == "http":
                    return stream
                return await self._encrypt(target, stream)
        except trio.TooSlowError:
            raise PeerError(
                "tool_error", f"{target.authority} did not accept a connection in time", retry=True
            ) from None
        except (socket.gaierror, UnicodeError):
            raise PeerError("tool_error", f"there is no host of the name {target.host}", retry=True) from None

    async def _connect_to(self, target: Target, addresses: Sequence[str]) -> trio.SocketStream:
        refused = {address: fetch_rules.refusal(address, self._allowed) for address in addresses}
        good = [address for address, why in refused.items() if why is None]
        if not good:
            address, why = next(iter(refused.items()))
            raise CallerError("invalid_path", f"{target} may not be fetched: the address {address} {why}")
        reason = ""
        for address in good[:_ADDRESSES_MAX]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = trio.socket.socket(family, socket.SOCK_STREAM)
            try:
                await connection.connect((address, target.port))
            except OSError as exc:
                connection.close()
                reason = os.strerror(exc.errno) if exc.errno else type(exc).__name__
            except BaseException:
                connection.close()
                raise
            else:
                return trio.SocketStream(connection)
        raise PeerError("tool_error", f"{target.authority} cannot be reached: {reason.lower()}", retry=True)

    async def _encrypt(self, target: Target, stream: trio.SocketStream) -> trio.abc.Stream:
        try:
            if self._context is None:
                self._context = await trio.to_thread.run_sync(ssl.create_default_context, limiter=self._threads)
            secure = trio.SSLStream(stream, self._context, server_hostname=target.host, https_compatible=True)
            await secure.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(stream)
            if isinstance(exc, trio.BrokenResourceError):
                raise PeerError("tool_error", f"{target.authority} is not trusted: {exc.__cause__ or exc}") from None
            raise
        return secure
