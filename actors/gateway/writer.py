"""What a connection sends: replies, watches, pings and the goodbye, by one task.

Each round gathers one batch of whole frames, at most `limits.frame_bytes` in flight, and sends it: replies first (so
that a reply with a watch_id is out before that watch's first push), then the dirty watches in turn, a piece of each.
Watches wait in the dirty list at most once, so that finding work costs nothing per idle watch. Deltas alone may be
gathered for a moment while the loop is busy (actors/gateway/load.py); nothing else waits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from actors._feed import Bell
from actors.gateway import websocket
from actors.gateway.load import LoopMeter
from actors.gateway.watches import RunReader, Watch
from actors.gateway.websocket import WebSocket
from engine.limits import KIB, Limits
from engine.wire.frames import EVENTS_OVERHEAD

_log = logging.getLogger("greenroom.gateway")

# Bytes of events that one watch may have in a batch before the others have their turn: one event of the greatest size.
PIECE_BYTES: Final = 64 * KIB
# A batch takes another piece only if that fits whatever it is: an event of the greatest size in its push.
_PIECE_ROOM: Final = PIECE_BYTES + EVENTS_OVERHEAD + KIB


def _nothing(*_arguments: object) -> None:
    """What a writer asks of a connection that has ended."""


@attrs.define(slots=True)
class Sent:
    """What left, of all connections."""

    frames: int = 0
    gaps: int = 0


class Writer:
    """Owned by its connection. `spawn` starts a task of the connection; `on_sent` is called after each batch."""

    def __init__(
        self,
        socket: WebSocket,
        limits: Limits,
        meter: LoopMeter,
        sent: Sent,
        spawn: Callable[..., Any],
        on_sent: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._limits = limits
        self._meter = meter
        self._sent = sent
        self._spawn = spawn
        self._on_sent = on_sent
        self._replies: deque[bytes] = deque()  # bounded by the connection, which begins nothing while there are many
        self._reply_bytes = 0
        self._watches: dict[str, Watch] = {}
        self._dirty: deque[Watch] = deque()
        self._bell = Bell()
        self._gathering = False
        self._idle = False  # the task waits, and nothing is to be sent
        self._last = -1.0  # when the last batch left
        self._ping = False
        self._left = False
        self._goodbye: tuple[int, str] | None = None
        self._wanting: deque[RunReader] = deque()
        self._telling: RunReader | None = None  # whose snapshot is fetched or told: one a connection

    @property
    def waiting(self) -> int:
        """Replies that have not left."""
        return len(self._replies)

    @property
    def waiting_bytes(self) -> int:
        """Likewise."""
        return self._reply_bytes

    @property
    def watches(self) -> int:
        return len(self._watches)

    # ------------------------------------------------------------ what is to be sent
    def reply(self, text: str) -> None:
        frame = websocket.frame(text)
        self._replies.append(frame)
        self._reply_bytes += len(frame)
        self._bell.ring()

    def open(self, watch: Watch) -> None:
        """Begin to send a watch, behind the replies so far."""
        if self._left or (self._goodbye is not None and self._goodbye[0] != websocket.GOING_AWAY):
            watch.close()
            return
        if self._goodbye is not None:
            watch.closing = "draining"
        self._watches[watch.id] = watch
        self.ring(watch)

    def close_watch(self, watch_id: str) -> bool:
        """False if there is no such watch (any more)."""
        watch = self._watches.pop(watch_id, None)
        if watch is None:
            return False
        watch.over = True
        watch.close()
        return True

    def ping(self) -> None:
        self._ping = True
        self._bell.ring()

    def finish(self, code: int, reason: str) -> None:
        """Send the replies, then close with `code`. Going away, every watch is told to its end before; a peer that is
        thrown out gets nothing more of its watches."""
        if self._goodbye is None:
            self._goodbye = code, reason
            for watch in tuple(self._watches.values()):
                if code == websocket.GOING_AWAY:
                    watch.closing = "draining"
                    self.ring(watch)
                else:
                    self.close_watch(watch.id)
        self._bell.ring()

    def leave(self) -> None:
        """The connection has ended: leave all feeds, and take no more watches."""
        self._left = True
        self._wanting.clear()
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        # No cycle from here on: the connection and all that it holds are freed with its last reference.
        self._spawn = self._on_sent = _nothing

    # ------------------------------------------------------------ for watches (Post)
    def ring(self, watch: Watch) -> None:
        """The watch may have something. Synchronous and cheap: called by feeds for each event."""
        if watch.dirty:
            if self._gathering and watch.urgent:
                self._bell.ring()
        elif self._idle and self._may_send_now(watch):
            self._send_now(watch)
        else:
            watch.dirty = True
            self._dirty.append(watch)
            if self._gathering and not watch.urgent:
                return
            self._bell.ring()

    def _may_send_now(self, watch: Watch) -> bool:
        """Whether it has deltas only, and they need not wait. Of several watches one wake-up may serve many."""
        return (
            not self._replies
            and len(self._watches) == 1
            and not watch.urgent
            and self._meter.gathering() <= 0
            and self._socket.free
        )

    def _send_now(self, watch: Watch) -> None:
        """Send what the one watch has: to wake the task for each of its deltas costs more than all the rest. Called by
        a run, whom a defect here must not end: it ends the connection."""
        try:
            text = watch.pull(PIECE_BYTES)
            if text is not None:
                self._sent.frames += 1
                self._socket.send_now(websocket.frame(text))
                self._last = trio.current_time()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("%r could not be sent", watch)
            self.finish(websocket.INTERNAL, "a defect of the daemon")
            return
        if watch.behind:
            watch.dirty = True
            self._dirty.append(watch)
        if self._dirty or self._socket.unsent:
            self._idle = False
            self._bell.ring()

    def want(self, reader: RunReader) -> None:
        self._sent.gaps += 1
        self._wanting.append(reader)
        self._tell_next()

    def release(self, reader: RunReader) -> None:
        if self._telling is reader:
            self._telling = None
            self._tell_next()
        elif reader in self._wanting:
            self._wanting.remove(reader)

    def _tell_next(self) -> None:
        if self._telling is None and self._wanting:
            self._telling = self._wanting.popleft()
            self._spawn(self._fetch, self._telling)

    async def _fetch(self, reader: RunReader) -> None:
        try:
            await reader.tell(await reader.feed.snapshot())
        except Exception:  # noqa: BLE001 - the store or the run has gone: the watch goes on, its gap stays
            _log.exception("no snapshot for %r", reader)
            reader.give_up()

    # ------------------------------------------------------------ the task
    async def run(self) -> None:
        """Send until the goodbye is said or the connection ends; the socket is closed when this returns."""
        try:
            while True:
                if not await self._wait():
                    await trio.lowlevel.checkpoint()  # sending is none
                batch = self._gather()
                if batch or self._socket.unsent:
                    await self._socket.send(batch[0] if len(batch) == 1 else b"".join(batch))
                    self._last = trio.current_time()
                    self._on_sent()
                elif self._goodbye is not None:
                    break
        except websocket.Closed:
            pass
        await self._socket.close(*(self._goodbye or (websocket.GOING_AWAY, "")))

    async def _wait(self) -> bool:
        """Return when a batch is to be sent: at once for anything but deltas. False if that was not waited for."""
        waited = False
        while not (self._replies or self._ping or self._goodbye is not None or self._socket.unsent):
            if not self._dirty:
                self._idle = True
                await self._bell.wait()
                self._idle = False
                waited = True
                continue
            wait = self._meter.gathering()
            if wait <= 0 or any(watch.urgent for watch in self._dirty):
                return waited
            due = self._last + wait
            if due <= trio.current_time():
                return waited
            self._bell.forget()
            self._gathering = True
            try:
                with trio.move_on_at(due):
                    await self._bell.wait()
            finally:
                self._gathering = False
            return True
        return waited

    def _gather(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        if self._ping:
            self._ping = False
            batch.append(websocket.PING)
        most = self._limits.frame_bytes
        while self._replies and (not size or size + len(self._replies[0]) <= most):
            batch.append(self._replies.popleft())
            size += len(batch[-1])
            self._reply_bytes -= len(batch[-1])
        while self._dirty and not self._replies and size + _PIECE_ROOM <= most:
            watch = self._dirty.popleft()
            text = None if watch.over else watch.pull(PIECE_BYTES)
            if text is not None:
                batch.append(websocket.frame(text))
                size += len(batch[-1])
            if watch.over:
                self.close_watch(watch.id)
            elif text is not None and watch.behind:
                self._dirty.append(watch)
                continue
            watch.dirty = False
        self._sent.frames += len(batch)
        return batch
