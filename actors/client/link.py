"""One connection: requests and their replies, and pushes sorted into the inboxes of watches.

The reader never waits for a consumer, so that replies and pings come through whatever a watch's reader does. An
inbox is bounded: when one is full, the link stops that watch (what is in the inbox stays), and its reader begins it
again from the last event that it took. Nothing is lost by that, because the daemon keeps the events.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import attrs
import trio

from actors.client.dial import Socket
from actors.client.errors import ConnectionLost, RemoteError
from engine import codec

# Pushes of one watch that wait for its reader: eight of at most 256 KiB.
INBOX_PUSHES: Final = 8
# A connection that is cut without a word is noticed after at most the sum of the two.
PING_INTERVAL: Final = 20.0
PONG_SECONDS: Final = 20.0
_PROTOCOL_ERROR: Final = 1002


@attrs.frozen(slots=True)
class Push:
    """A notification of the daemon as in the protocol: `run.events`, `run.gap`, `run.snapshot`, `session.changed`,
    `watch.closed`. Others than these may come with a later daemon and are to be ignored."""

    method: str
    params: dict[str, Any]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of `run.events`; of other pushes none."""
        listed: list[dict[str, Any]] = self.params["events"] if self.method == "run.events" else []
        return listed


class Inbox:
    """Pushes of one watch between the connection's reader and the watch's. Overflow: the rest is not taken."""

    def __init__(self) -> None:
        self.watch_id: str | None = None
        self.lost: ConnectionLost | None = None
        self._send, self._receive = trio.open_memory_channel[Push](INBOX_PUSHES)

    def put(self, push: Push) -> bool:
        """False when it is full: then it is at its end."""
        try:
            self._send.send_nowait(push)
        except trio.WouldBlock:
            self.end(None)
            return False
        return True

    def end(self, lost: ConnectionLost | None) -> None:
        self.lost = lost
        self._send.close()

    async def get(self) -> Push | None:
        """The next push; None when no more come: the connection is `lost`, or else the inbox was full."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return None


class _Pending:
    __slots__ = ("done", "inbox", "reply", "wanted")

    def __init__(self, inbox: Inbox | None) -> None:
        self.done = trio.Event()
        self.reply: dict[str, Any] | None = None
        self.inbox = inbox
        self.wanted = True


class Link:
    """Made by `open_link`."""

    def __init__(self, socket: Socket, nursery: trio.Nursery) -> None:
        self.lost: ConnectionLost | None = None
        self._socket = socket
        self._nursery = nursery
        self._last_id = 0
        self._pending: dict[int, _Pending] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._ended = trio.Event()

    async def request(self, method: str, params: dict[str, Any], inbox: Inbox | None = None) -> dict[str, Any]:
        """The result. Raises RemoteError, ConnectionLost. The watch that the reply begins pushes into `inbox`."""
        if self.lost is not None:
            await trio.lowlevel.checkpoint()  # who asks again and again must not keep all others from their work
            raise self.lost.with_traceback(None)
        self._last_id += 1
        request_id = self._last_id
        frame = codec.dump({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).decode()
        pending = self._pending[request_id] = _Pending(inbox)
        try:
            try:
                await self._socket.send(frame)
            except ConnectionLost:
                # The reader may not know yet. Until it does this link counts as the present one, and who asks again
                # would be refused without waiting, for ever.
                await self._socket.abort()
                await self._ended.wait()
                raise
            await pending.done.wait()
        except BaseException:
            # The reply may still begin a watch, which then has to be closed: see `_take_reply`.
            pending.wanted = False
            raise
        if pending.reply is None:
            assert self.lost is not None
            raise self.lost.with_traceback(None)
        if "error" in pending.reply:
            raise RemoteError(pending.reply["error"])
        result: dict[str, Any] = pending.reply.get("result") or {}
        return result

    def close_watch(self, inbox: Inbox) -> None:
        """Stop the watch of an inbox, without waiting for the daemon."""
        watch_id, inbox.watch_id = inbox.watch_id, None
        if watch_id is not None and self._inboxes.pop(watch_id, None) is not None:
            self._tell_close(watch_id)

    async def wait_ended(self) -> None:
        await self._ended.wait()

    # -------------------------------------------------------------- the reader
    async def read(self) -> None:
        """Until the connection ends; then every reply that is waited for fails, and every inbox ends."""
        lost = ConnectionLost(1000)
        try:
            while True:
                self._take(codec.parse(await self._socket.receive()))
        except ConnectionLost as exc:
            lost = exc
        except (codec.DecodeError, LookupError, TypeError, AttributeError):
            lost = ConnectionLost(_PROTOCOL_ERROR, "what came is not of the greenroom protocol")
            await self._socket.abort()
        finally:
            self.lost = lost
            for pending in self._pending.values():
                pending.done.set()
            for inbox in self._inboxes.values():
                inbox.end(lost)
            self._pending.clear()
            self._inboxes.clear()
            self._ended.set()

    def _take(self, frame: Any) -> None:
        if "method" in frame:
            self._take_push(Push(frame["method"], frame.get("params", {})))
        elif frame["id"] in self._pending:
            self._take_reply(self._pending.pop(frame["id"]), frame)

    def _take_reply(self, pending: _Pending, frame: dict[str, Any]) -> None:
        watch_id = frame["result"].get("watch_id") if "result" in frame else None
        if watch_id is not None and pending.inbox is not None:
            if pending.wanted:
                pending.inbox.watch_id = watch_id
                self._inboxes[watch_id] = pending.inbox
            else:
                self._tell_close(watch_id)
        pending.reply = frame
        pending.done.set()

    def _take_push(self, push: Push) -> None:
        inbox = self._inboxes.get(push.params.get("watch_id", ""))
        if inbox is None:
            return  # of a watch that was closed meanwhile, or a kind of push that this client does not know
        if not inbox.put(push):
            self.close_watch(inbox)
        elif push.method == "watch.closed":
            del self._inboxes[push.params["watch_id"]]

    def _tell_close(self, watch_id: str) -> None:
        self._nursery.start_soon(self._close, watch_id)

    async def _close(self, watch_id: str) -> None:
        with contextlib.suppress(RemoteError, ConnectionLost):  # it has ended by itself
            await self.request("watch.close", {"watch_id": watch_id})

    async def keep_alive(self) -> None:
        """Notice a peer that is gone without a word."""
        with contextlib.suppress(ConnectionLost):
            while True:
                await trio.sleep(PING_INTERVAL)
                with trio.move_on_after(PONG_SECONDS) as patience:
                    await self._socket.ping()
                if patience.cancelled_caught:
                    await self._socket.abort()


@contextlib.asynccontextmanager
async def open_link(socket: Socket) -> AsyncIterator[Link]:
    """Requests over the socket until the block ends. The socket's end does not end the block: see `wait_ended`."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        link = Link(socket, nursery)
        nursery.start_soon(link.read)
        nursery.start_soon(link.keep_alive)
        try:
            yield link
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
            failure = exc
        nursery.cancel_scope.cancel(reason="the connection has ended")
    if failure is not None:
        raise failure
