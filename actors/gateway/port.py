"""The gateway: the one port of the daemon, and the parent of its connections.

Every socket that is accepted is a task here until its HTTP requests end or one becomes a WebSocket; that is then
a connection actor, a child of the gateway, while the task waits for its end to close the socket. One task looks at
all connections now and then: it pings, and aborts peers that are stuck or silent.
"""

from __future__ import annotations

import functools
import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import h11
import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._descriptors import shares
from actors._statistics import Outcome
from actors.gateway import http, requests, routes
from actors.gateway.access import Access
from actors.gateway.connection import Connection, Counters, Shared
from actors.gateway.listeners import Address, Opened, open_listeners, tls_context
from actors.gateway.load import LoopMeter
from actors.gateway.markup import Markup
from actors.gateway.requests import Services
from actors.gateway.routes import Answer, Later, Readiness, Site, Upgrade
from actors.gateway.transport import Traffic, Transport
from actors.gateway.websocket import Closed
from actors.metrics import Exposition, Figures
from engine.codec import Json

_log = logging.getLogger("greenroom.gateway")

# Sockets over `limits.connections_max` that are told so (503) at the same time; more are closed without a word.
TOLD_FULL_MAX: Final = 64
# How often the connections are looked at in the shortest of the periods that are kept for them: every half second of
# the default 15, so that a stalled socket ends at most a second late. A look costs a connection about 2 µs.
LOOKS: Final = 30
# The grace of a connection: its goodbye takes a second less (actors/gateway/connection.py).
CONNECTION_GRACE: Final = 5.0


@attrs.frozen(slots=True, kw_only=True)
class GatewayStatistics:
    """`sockets` and `connections` (WebSocket) are open now; all others count since the start."""

    sockets: int
    connections: int
    accepted: int
    http_requests: int
    requests: int
    notifications: int
    malformed: int
    defects: int
    aborted_slow: int
    aborted_silent: int
    refused_full: int
    frames_sent: int
    gaps: int
    bytes_sent: int
    bytes_received: int


class GatewayRef(Ref):
    __slots__ = ()

    @property
    def _gateway(self) -> Gateway:
        actor = self._cell.actor
        assert isinstance(actor, Gateway)
        return actor

    @property
    def url(self) -> str:
        """Where it listens, as clients on this machine reach it; `unix:PATH` for a Unix-domain socket."""
        return self._gateway.address.url

    @property
    def ws_url(self) -> str:
        return self._gateway.address.ws_url

    def ready(self) -> None:
        """`/readyz` says ready from now on."""
        self._gateway.readiness = "ready"

    def drain(self) -> None:
        """`/readyz` says draining from now on. Refusing new runs is the registry's part."""
        self._gateway.readiness = "draining"

    def gateway_statistics(self) -> GatewayStatistics:
        return self._gateway.figures()

    def with_gateway(self, stats: Mapping[str, Json]) -> dict[str, Json]:
        """The whole result of `daemon.stats`, of what the daemon has of it."""
        return requests.with_gateway(stats, *self._gateway.stats())


class Gateway(Actor):
    """Listens when it is started, at duplicates of the `inherited` sockets if there are any. `token` is what clients
    have to show; `services` answer their requests."""

    def __init__(
        self,
        services: Services,
        token: str,
        *,
        readiness: Readiness = "starting",
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        self._services = services
        self._inherited = inherited
        self._config = services.config
        self._limits = services.config.limits
        self._sockets_max, self._told_max = shares(self._limits.connections_max, TOLD_FULL_MAX)
        self._token = token
        self._traffic = Traffic()
        self._counters = Counters()
        self._meter = LoopMeter()
        self._exposition = Exposition()
        self._live: dict[str, Connection] = {}
        self._sockets = 0
        self._tls: ssl.SSLContext | None = None
        self._accepting = trio.CancelScope()
        self._opened: Opened | None = None
        self.readiness: Readiness = readiness
        self._shared = Shared(
            services=services,
            meter=self._meter,
            counters=self._counters,
            markup=Markup(services.config.limits.markdown_bytes),
            draining=lambda: self.readiness == "draining",
            stats=self.stats,
        )

    def make_ref(self, cell: Cell) -> GatewayRef:
        return GatewayRef(cell)

    @property
    def address(self) -> Address:
        assert self._opened is not None, "the gateway has not started"
        return self._opened.address

    # ------------------------------------------------------------ life
    async def on_start(self) -> None:
        """Raises OSError when the address or the certificate cannot be had."""
        config = self._config
        if config.tls is not None:
            self._tls = tls_context(config.tls)
        opened = self._opened = await open_listeners(
            config.listen, secure=self._tls is not None, inherited=self._inherited
        )
        access = Access(
            token=self._token,
            secure=self._tls is not None,
            # Browsers keep cookies by host, not by port: two daemons on one host need two names.
            cookie="greenroom" if opened.port is None else f"greenroom_{opened.port}",
            hosts=frozenset(config.allowed_hosts) | opened.hosts,
            origins=frozenset(config.allowed_origins),
        )
        self._site = Site(access=access, readiness=lambda: self.readiness, metrics=self._metrics)
        trio.lowlevel.add_instrument(self._meter)
        self.cell.start_soon(self._accept, opened)
        self.cell.start_soon(self._look)

    async def on_stopping(self, reason: str) -> None:
        self.readiness = "draining"
        self._accepting.cancel(reason=reason)

    def on_child_end(self, child: Cell, outcome: Outcome) -> None:
        self._live.pop(child.name, None)

    # ------------------------------------------------------------ sockets
    async def _accept(self, opened: Opened) -> None:
        try:
            with self._accepting:
                await trio.serve_listeners(self._serve, opened.listeners, handler_nursery=self.cell.nursery)
        finally:
            opened.remove()
            trio.lowlevel.remove_instrument(self._meter)

    async def _serve(self, accepted: trio.SocketStream) -> None:
        """One socket, from its first byte to its end. Raises nothing but Cancelled."""
        transport = Transport(accepted.socket, self._traffic)
        if self._sockets >= self._sockets_max + self._told_max:
            self._counters.refused_full += 1
            transport.abort()
            return
        full = self._sockets >= self._sockets_max
        self._counters.refused_full += full
        self._sockets += 1
        try:
            await self._converse(transport, full)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the peer's, or the network's
        except Exception:  # noqa: BLE001 - a defect with one socket must not end the port
            self._counters.defects += 1
            _log.exception("a socket at the port failed")
        finally:
            self._sockets -= 1
            transport.close()

    async def _converse(self, transport: Transport, full: bool) -> None:
        stream: trio.abc.Stream = transport
        if self._tls is not None:
            # https_compatible: browsers hang up without a word of TLS, and none is waited for.
            stream = trio.SSLStream(transport, self._tls, server_side=True, https_compatible=True)
            with trio.fail_after(self._limits.handshake_timeout):
                await stream.do_handshake()
        upgraded = await http.serve(
            stream,
            functools.partial(self._decide, full),
            head_bytes=self._limits.http_head_bytes,
            timeout=self._limits.handshake_timeout,
            count=self._count_request,
        )
        if upgraded is None:
            await transport.linger()
        else:
            await self._connect(stream, transport, upgraded)

    async def _connect(self, stream: trio.abc.Stream, transport: Transport, upgraded: http.Upgraded) -> None:
        self._counters.connections += 1
        name = f"conn-{self._counters.connections}"
        connection = Connection(self._shared, stream, transport, upgraded)
        try:
            ref = await self.cell.start_child(
                connection, name, grace=CONNECTION_GRACE, timeout=self._limits.handshake_timeout
            )
        except (ActorDied, Closed):
            return
        if ref.state == "running":
            self._live[name] = connection
        await ref.wait_ended()

    def _decide(self, full: bool, request: h11.Request) -> Answer | Later | Upgrade:
        if full:
            return routes.refuse(503, "the daemon has as many connections as it may", close=True)
        return routes.decide(request, self._site)

    def _count_request(self) -> None:
        self._counters.http_requests += 1

    async def _look(self) -> None:
        limits = self._limits
        period = min(limits.ping_interval, limits.silence_timeout, limits.slow_client_timeout) / LOOKS
        while True:
            await trio.sleep(period)
            self._look_once()

    def _look_once(self) -> None:
        """Apart from the waiting, whose locals would keep the last connection until the next one is there."""
        now = trio.current_time()
        for connection in tuple(self._live.values()):
            connection.look(now)

    # ------------------------------------------------------------ figures
    def figures(self) -> GatewayStatistics:
        counters = self._counters
        return GatewayStatistics(
            sockets=self._sockets,
            connections=len(self._live),
            accepted=counters.connections,
            http_requests=counters.http_requests,
            requests=counters.requests,
            notifications=counters.notifications,
            malformed=counters.malformed,
            defects=counters.defects,
            aborted_slow=counters.aborted_slow,
            aborted_silent=counters.aborted_silent,
            refused_full=counters.refused_full,
            frames_sent=counters.sent.frames,
            gaps=counters.sent.gaps,
            bytes_sent=self._traffic.sent,
            bytes_received=self._traffic.received,
        )

    def stats(self) -> tuple[Mapping[str, int], Mapping[str, float]]:
        """The gateway's share of `daemon.stats`: `counts` and `loop`."""
        return attrs.asdict(self.figures()), {"lag_p99_ms": round(self._meter.lag_p99() * 1000, 3)}

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        return await self._exposition.text(self._all_figures, accept)

    def _all_figures(self) -> Figures:
        counters = self._counters
        return {
            **self._services.figures(),
            "greenroom_ready": self.readiness == "ready",
            "greenroom_draining": self.readiness == "draining",
            "greenroom_defects_total": counters.defects,
            "greenroom_loop_tick_duration_seconds": self._meter.ticks(),
            "greenroom_sockets": self._sockets,
            "greenroom_connections": len(self._live),
            "greenroom_watches": sum(connection.watches for connection in self._live.values()),
            "greenroom_connections_accepted_total": counters.connections,
            "greenroom_connections_refused_total": counters.refused_full,
            "greenroom_clients_aborted_total": {
                ("slow",): counters.aborted_slow,
                ("silent",): counters.aborted_silent,
            },
            "greenroom_http_requests_total": counters.http_requests,
            "greenroom_requests_total": dict(counters.answers),
            "greenroom_notifications_total": counters.notifications,
            "greenroom_malformed_messages_total": counters.malformed,
            "greenroom_frames_sent_total": counters.sent.frames,
            "greenroom_gaps_sent_total": counters.sent.gaps,
            "greenroom_sent_bytes_total": self._traffic.sent,
            "greenroom_received_bytes_total": self._traffic.received,
        }
