"""The client: one connection to a daemon, made again by itself if wanted.

async with connect() as client:
    session = (await client.request("session.create"))["session"]
    async with client.start_run(session["id"], "count to 3") as run:
        async for push in run.events:
            for event in push.events: ...
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors.client.dial import Address, dial, find
from actors.client.errors import AccessDenied, ClientError, ConnectionLost, NoDaemon, Untrusted
from actors.client.link import Inbox, Link, open_link
from actors.client.watch import RunWatch, SessionWatch, Watch
from actors.places import data_dir as folder_of
from engine.restart import Backoff
from engine.version import VERSION

PROTOCOL: Final = 1
# A daemon that starts again is there within a second; a machine that was asleep needs its network first.
BACKOFF: Final = Backoff(first=0.1, most=5.0)


@attrs.frozen(slots=True, kw_only=True)
class StartedRun:
    """A run that was started, with its events from the first on."""

    run: dict[str, Any]
    message_id: str
    events: RunWatch


class Client:
    """Made by `connect`. Any number of tasks may use it."""

    def __init__(self, find_address: Callable[[], Address], name: str, reconnect: float) -> None:
        self._find = find_address
        self._name = name
        self._reconnect = reconnect
        self._link: Link | None = None
        self._failure: ClientError | None = None
        self._changed = trio.Event()
        self.hello: dict[str, Any] = {}

    def __repr__(self) -> str:
        state = "connected" if self._link else f"lost: {self._failure}" if self._failure else "connecting"
        return f"<Client {state}>"

    @property
    def reconnects(self) -> bool:
        return self._reconnect > 0

    async def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """A method of the protocol and its result. Raises RemoteError, ConnectionLost (it may have been carried out),
        NoDaemon. While the client reconnects this waits."""
        return await (await self.linked()).request(method, params or {})

    @contextlib.asynccontextmanager
    async def start_run(self, session_id: str, text: str, **params: Any) -> AsyncIterator[StartedRun]:
        """Send a message (`params` are further ones of `run.start`) and follow its run. Leaving the block stops
        following, not the run. Sent again after a lost connection, it starts no second run."""
        params = {"idempotency_key": uuid.uuid4().hex, **params, "session_id": session_id, "text": text, "watch": True}
        while True:
            link, inbox = await self.linked(), Inbox()
            try:
                result = await link.request("run.start", params, inbox)
                break
            except ConnectionLost:
                if not self.reconnects:
                    raise
        watch = RunWatch(self, result["run"]["id"], after=0)
        if "watch_id" in result:
            watch.adopt(link, inbox)
        with contextlib.closing(watch):
            yield StartedRun(run=result["run"], message_id=result["message_id"], events=watch)

    @contextlib.asynccontextmanager
    async def watch_run(self, run_id: str, after: int = 0) -> AsyncIterator[RunWatch]:
        """The run's events behind the cursor `after`."""
        watch = RunWatch(self, run_id, after)
        await watch.begin()
        with contextlib.closing(watch):
            yield watch

    @contextlib.asynccontextmanager
    async def watch_session(self, session_id: str, after: dict[str, int] | None = None) -> AsyncIterator[Watch]:
        """The session's runs, those that start later included, and its changes."""
        watch = SessionWatch(self, session_id, after or {})
        await watch.begin()
        with contextlib.closing(watch):
            yield watch

    async def linked(self) -> Link:
        """The present connection; see watch.Links."""
        while self._link is None or self._link.lost is not None:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            await self._changed.wait()
        return self._link

    async def wait_lost(self) -> None:
        """Until the present connection has ended. Raises NoDaemon, ConnectionLost if there is none any more."""
        await (await self.linked()).wait_ended()

    # -------------------------------------------------------------- the connection
    async def hold(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold a connection; started when the first one is there, raises if that fails. Returns when it is lost and
        not to be had again."""
        failure: ClientError = await self._link_once(task_status.started)
        while self.reconnects:
            until = trio.current_time() + self._reconnect
            for attempt in itertools.count(1):
                pause = BACKOFF.delay(attempt, random.random())
                if trio.current_time() + pause > until:
                    return self._set(None, failure)
                await trio.sleep(pause)
                try:
                    failure = await self._link_once(lambda: None)
                    break
                except (NoDaemon, ConnectionLost) as exc:
                    failure = exc
                except (AccessDenied, Untrusted) as exc:
                    return self._set(None, exc)
        return self._set(None, failure)

    async def _link_once(self, linked: Callable[[], None]) -> ConnectionLost:
        """One connection from its begin to its end; why it ended. Raises what prevents it."""
        async with dial(self._find()) as socket, open_link(socket) as link:
            introduction = {"client": {"name": self._name, "version": VERSION}, "protocol": PROTOCOL}
            self.hello = await link.request("initialize", introduction)
            self._set(link, None)
            linked()
            await link.wait_ended()
            assert link.lost is not None
            self._set(None, None)
            return link.lost

    def _set(self, link: Link | None, failure: ClientError | None) -> None:
        self._link, self._failure = link, failure
        self._changed.set()
        self._changed = trio.Event()


@contextlib.asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    data_dir: str | Path | None = None,
    name: str = "greenroom-python",
    reconnect: float = 0.0,
) -> AsyncIterator[Client]:
    """A client of the daemon at `url`, by default the one of the data directory (given, $GREENROOM_DATA, or the
    platform's), whose token is read from its file unless given. Closed when the block ends.

    A lost connection is made again by itself for `reconnect` seconds (0: never), and watches go on where they were.
    Raises NoDaemon, AccessDenied, Untrusted, RemoteError (it does not speak this protocol).
    """
    client = Client(functools.partial(find, url, token, folder_of(data_dir)), name, reconnect)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(client.hold)
            yield client
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
            failure = exc
        nursery.cancel_scope.cancel(reason="the client has left")
    if failure is not None:
        raise failure
