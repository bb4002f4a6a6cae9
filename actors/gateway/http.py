"""HTTP/1.1 at the port: requests one after another on a socket, until one is an upgrade or the socket ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import h11
import trio

from actors.gateway.routes import Answer, Later, Upgrade, has_body, refuse
from actors.gateway.transport import RECEIVE_BYTES

Decide = Callable[[h11.Request], Answer | Later | Upgrade]

# h11 looks at the size of a head only while that is incomplete; `_Reader` counts the bytes of each.
_HEAD_TOO_LARGE: Final = 431
_NOT_MODIFIED: Final = 304  # has no body, and the length that it may tell would be that of the file
_TOO_LARGE: Final = "the request's head is too large"


@attrs.frozen(slots=True)
class Upgraded:
    """`head` is the upgrade request as it came, `behind` what came behind it already."""

    upgrade: Upgrade
    head: bytes
    behind: bytes


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


async def serve(
    stream: trio.abc.Stream,
    decide: Decide,
    *,
    head_bytes: int,
    timeout: float,
    count: Callable[[], None] = lambda: None,
) -> Upgraded | None:
    """Answer requests until one is an upgrade (returned) or the connection is to be closed (None), which is left to
    the caller. A request has `timeout` seconds to arrive, counted from the answer before it, and its answer the same
    to leave; `count` is called for each. Raises trio's Broken- and ClosedResourceError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=head_bytes)
    while True:
        with trio.move_on_after(timeout) as scope:
            try:
                received = await _read(connection, stream, head_bytes)
            except _Refused as exc:
                await _send(connection, stream, refuse(exc.status, exc.why, close=True), b"GET")
                return None
        if scope.cancelled_caught or received is None:
            return None
        request, raw = received
        count()
        decided = decide(request)
        if isinstance(decided, Upgrade):
            behind = bytes(connection.trailing_data[0])
            return Upgraded(decided, raw[: len(raw) - len(behind)], behind)
        with trio.move_on_after(timeout) as scope:
            answer = await decided.make() if isinstance(decided, Later) else decided
            await _send(connection, stream, answer, request.method)
        if scope.cancelled_caught or connection.our_state is not h11.DONE or answer.close:
            return None
        if connection.their_state is not h11.DONE:
            return None
        connection.start_next_cycle()


async def _read(
    connection: h11.Connection, stream: trio.abc.Stream, head_bytes: int
) -> tuple[h11.Request, bytes] | None:
    """The next request, and all bytes read since its first. None at the end of the stream."""
    raw = bytearray(connection.trailing_data[0])
    request: h11.Request | None = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as exc:
            if not raw:
                return None
            status = exc.error_status_hint
            raise _Refused(status, _TOO_LARGE if status == _HEAD_TOO_LARGE else f"not a request: {exc}") from None
        if event is h11.NEED_DATA:
            room = head_bytes - len(raw)
            if room <= 0:
                raise _Refused(_HEAD_TOO_LARGE, _TOO_LARGE)
            data = await stream.receive_some(min(room, RECEIVE_BYTES))
            raw += data
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.Request):
            request = event
            if connection.their_state is h11.SEND_BODY and has_body(request):
                return request, bytes(raw)  # its body is not read
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, bytes(raw)
        else:
            return None  # the peer has closed


async def _send(connection: h11.Connection, stream: trio.abc.Stream, answer: Answer, method: bytes) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [(b"content-type", answer.kind), *answer.headers]
    if answer.status != _NOT_MODIFIED:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    if answer.close:
        headers.append((b"connection", b"close"))
    out = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if method != b"HEAD":
        out += connection.send(h11.Data(data=answer.body)) or b""
    out += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(out)
