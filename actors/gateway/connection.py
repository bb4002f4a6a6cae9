"""A WebSocket connection: an actor with a reader, a writer, and a task for each request at work.

The reader always takes what the library has read, so that pings and pongs behind it are seen. Requests wait in a
bounded inbox for one of `limits.requests_in_flight` places; when the inbox is full, or as many replies have not
left, reading pauses until there is room, and the peer's silence is not counted meanwhile. `initialize` and `ping`
are answered in the reader: they never wait behind another request.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import trio

from actors._actor import Actor
from actors._ask import ActorDied
from actors.gateway import requests, websocket
from actors.gateway.http import Upgraded
from actors.gateway.load import LoopMeter
from actors.gateway.markup import Markup
from actors.gateway.requests import HANDLERS, RETRY_AFTER_MS, Begun, Services
from actors.gateway.transport import Transport
from actors.gateway.watches import Watch
from actors.gateway.websocket import GOING_AWAY, POLICY, Closed, Refused
from actors.gateway.writer import Sent, Writer
from engine import ids
from engine.errors import OWN_CODES, CallerError, EngineError
from engine.limits import MIB
from engine.wire import frames, methods
from engine.wire.frames import Malformed, Notification, Request
from engine.wire.methods import InvalidParams, UnknownMethod

_log = logging.getLogger("greenroom.gateway")

# Seconds for the goodbye of a stop: what is left to send, and the closing handshake. Within the actor's grace.
GOODBYE_SECONDS: Final = 4.0
# Requests of the greatest size that one connection may hold, at work and waiting.
HELD_MESSAGES: Final = 4
# Bytes of replies that may wait before none of a connection's requests is begun: a few of the greatest size.
REPLIES_AHEAD: Final = MIB


@attrs.define(slots=True)
class Counters:
    """Since the start of the gateway."""

    connections: int = 0
    http_requests: int = 0
    requests: int = 0
    notifications: int = 0
    malformed: int = 0
    defects: int = 0
    aborted_slow: int = 0
    aborted_silent: int = 0
    refused_full: int = 0
    sent: Sent = attrs.field(factory=Sent)
    answers: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # method, "ok" or the error's code


@attrs.frozen(slots=True, kw_only=True)
class Shared:
    """What all connections of a gateway share."""

    services: Services
    meter: LoopMeter
    counters: Counters
    markup: Markup
    draining: Callable[[], bool]
    stats: Callable[[], tuple[Mapping[str, int], Mapping[str, float]]]


class Connection(Actor):
    """See the module. The socket is the caller's to close when the actor has ended."""

    mailbox_messages = 1  # takes no messages

    def __init__(
        self,
        shared: Shared,
        stream: trio.abc.Stream,
        transport: Transport,
        upgraded: Upgraded,
    ) -> None:
        self._shared = shared
        self._limits = shared.services.config.limits
        self._stream = stream
        self._transport = transport
        self._upgraded: Upgraded | None = upgraded
        self._initialized = False
        self._waiting: deque[tuple[Request, int]] = deque()  # with the characters of its message
        self._held = 0  # characters of the requests that are not answered
        self._claimed = 0  # tasks that have started and will take from `_waiting`
        self._at_work = 0
        self._room: trio.Event | None = None  # while reading pauses
        self._last_watch = 0
        self._new_watches = 0  # made, their replies not queued yet
        self._next_ping = trio.current_time() + self._limits.ping_interval
        self._written = trio.Event()
        self._ended = False

    async def on_start(self) -> None:
        assert self.cell.nursery is not None
        upgraded, self._upgraded = self._upgraded, None  # its bytes are not kept for the connection's life
        assert upgraded is not None, "an actor starts once"
        self._socket = await websocket.accept(
            self.cell.nursery,
            self._stream,
            self._transport,
            upgraded.head,
            upgraded.behind,
            subprotocol=upgraded.upgrade.subprotocol,
            message_bytes=self._limits.message_bytes,
        )
        self._writer = Writer(
            self._socket,
            self._limits,
            self._shared.meter,
            self._shared.counters.sent,
            self.cell.start_soon,
            self._make_room,
        )
        self.cell.start_soon(self._write)
        self.cell.start_soon(self._read)

    async def on_stopping(self, reason: str) -> None:
        if not self._ended:
            self._writer.finish(GOING_AWAY, reason)
            with trio.move_on_after(GOODBYE_SECONDS):
                await self._written.wait()

    @property
    def services(self) -> Services:
        return self._shared.services

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return self._writer.watches

    # ------------------------------------------------------------ the gateway's look at it
    def look(self, now: float) -> None:
        """Ping, or abort a peer that is stuck or silent. Called a few times in each of those periods."""
        limits, counters = self._limits, self._shared.counters
        if now - self._transport.stuck_since > limits.slow_client_timeout:
            counters.aborted_slow += 1
            self._abort(f"it took nothing for {limits.slow_client_timeout:g} s")
            return
        if self._room is not None:
            self._transport.heard_at = now  # it is we who do not listen
        if now - self._transport.heard_at > limits.silence_timeout:
            counters.aborted_silent += 1
            self._abort(f"it was silent for {limits.silence_timeout:g} s")
        elif now >= self._next_ping:
            self._next_ping = now + limits.ping_interval
            self._writer.ping()

    def _abort(self, why: str) -> None:
        _log.warning("%s is aborted: %s", self.cell.name, why)
        self._transport.abort()

    # ------------------------------------------------------------ reading
    async def _read(self) -> None:
        malformed = 0
        try:
            while True:
                text = await self._socket.receive()
                message = frames.decode(text)
                if isinstance(message, Malformed):
                    self._shared.counters.malformed += 1
                    malformed += 1
                    self._writer.reply(message.reply)
                    if malformed >= self._limits.malformed_in_a_row:
                        raise Refused(POLICY, f"{malformed} malformed messages in a row")
                else:
                    malformed = 0
                    if isinstance(message, Notification):
                        self._shared.counters.notifications += 1
                    else:
                        self._take(message, len(text))
                while self._full():
                    self._room = trio.Event()
                    await self._room.wait()
        except Refused as exc:
            self._writer.finish(exc.code, exc.reason)
        except Closed:
            self._end("the connection was closed")

    def _full(self) -> bool:
        most = self._limits.requests_in_flight
        return (
            len(self._waiting) >= most
            or self._writer.waiting >= most
            or self._held > HELD_MESSAGES * self._limits.message_bytes
        )

    def _make_room(self) -> None:
        self._start_more()
        if self._room is not None and not self._full():
            self._room.set()
            self._room = None

    def _take(self, request: Request, size: int) -> None:
        self._shared.counters.requests += 1
        if request.method in requests.INLINE or not self._initialized:  # told by what came before it, not by its task
            self._writer.reply(self._answer_inline(request))
        else:
            self._waiting.append((request, size))
            self._held += size
            self._start_more()

    def _start_more(self) -> None:
        most = self._limits.requests_in_flight
        while (
            len(self._waiting) > self._claimed and self._at_work < most and self._writer.waiting_bytes < REPLIES_AHEAD
        ):
            self._claimed += 1
            self._at_work += 1
            self.cell.start_soon(self._work)

    # ------------------------------------------------------------ requests
    async def _work(self) -> None:
        # Tasks begin in any order; each takes the oldest request, so that those begin in order.
        request, size = self._waiting.popleft()
        self._claimed -= 1
        reply, watch = await self._answer(request)
        self._at_work -= 1
        self._held -= size
        self._writer.reply(reply)
        if watch is not None:
            self._new_watches -= 1
            self._writer.open(watch)
        self._make_room()

    async def _answer(self, request: Request) -> tuple[str, Watch | None]:
        try:
            params = self._params(request)
            result = await HANDLERS[request.method](self, params)
            self._count(request, "ok")
            if isinstance(result, Begun):
                return frames.encode_reply(request.id, result.result), result.watch
            return frames.encode_reply(request.id, result), None
        except Exception as exc:  # noqa: BLE001 - every request gets its one reply
            return self._error(request, exc), None

    def _answer_inline(self, request: Request) -> str:
        try:
            if request.method == "initialize":
                params = methods.decode(request.method, request.params)
                assert isinstance(params, methods.Initialize)
                reply = frames.encode_reply(request.id, requests.initialize(self.services, params))
                self._initialized = True
            else:
                self._params(request)
                reply = frames.encode_reply(request.id, {})
            self._count(request, "ok")
            return reply
        except Exception as exc:  # noqa: BLE001 - every request gets its one reply
            return self._error(request, exc)

    def _params(self, request: Request) -> Any:
        if not self._initialized:
            raise CallerError("not_initialized", "`initialize` comes first")
        return methods.decode(request.method, request.params)

    def _error(self, request: Request, exc: Exception) -> str:
        if isinstance(exc, ActorDied) and self._shared.draining():
            exc = CallerError("draining", "the daemon is shutting down")
        code = _code(exc)
        self._count(request, code)
        if code in OWN_CODES:
            ref = ids.new_id("err")
            self._shared.counters.defects += 1
            _log.error("%s failed, ref %s", request.method, ref, exc_info=exc, extra={"ref": ref})
            return frames.encode_error(request.id, exc, ref)
        return frames.encode_error(request.id, exc)

    def _count(self, request: Request, code: str) -> None:
        known = request.method in HANDLERS or request.method in requests.INLINE
        self._shared.counters.answers[request.method if known else "unknown", code] += 1

    # ------------------------------------------------------------ watches, for the handlers
    @contextlib.contextmanager
    def watch_place(self) -> Iterator[str]:
        """A place for one more watch, with its id; given back if the block raises, else when its reply is queued.
        Raises CallerError when the connection has as many as it may."""
        most = self._limits.watches_per_connection
        if self._writer.watches + self._new_watches >= most:
            raise CallerError(
                "overloaded", f"a connection has at most {most} watches: close one", retry_after_ms=RETRY_AFTER_MS
            )
        self._new_watches += 1
        self._last_watch += 1
        try:
            yield f"w{self._last_watch}"
        except BaseException:
            self._new_watches -= 1
            raise

    @property
    def post(self) -> Writer:
        return self._writer

    @property
    def markup(self) -> Markup:
        return self._shared.markup

    def close_watch(self, watch_id: str) -> bool:
        return self._writer.close_watch(watch_id)

    def gateway_stats(self) -> tuple[Mapping[str, int], Mapping[str, float]]:
        return self._shared.stats()

    # ------------------------------------------------------------ writing
    async def _write(self) -> None:
        try:
            await self._writer.run()
        finally:
            # Here and not in a hook of the kernel: this runs also when the actor is killed or crashes.
            self._writer.leave()
            self._written.set()
        self._end("the connection was closed")

    def _end(self, why: str) -> None:
        self._ended = True
        self.cell.finish(why)


def _code(exc: Exception) -> str:
    match exc:
        case EngineError():
            return exc.code
        case InvalidParams():
            return "invalid_params"
        case UnknownMethod():
            return "unknown_method"
        case _:
            return "internal"
