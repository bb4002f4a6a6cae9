"""A reader's place in the events of a run, or of a session: a channel of pushes that begins again by itself.

It begins again from the last event that was taken when its reader fell behind (see link), and after a connection
was lost if the client reconnects. What has left the daemon's memory meanwhile comes as `run.gap` and `run.snapshot`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import trio

from actors.client.link import Inbox, Link, Push


class Links(Protocol):
    """What a watch needs of the client."""

    @property
    def reconnects(self) -> bool: ...

    async def linked(self) -> Link:
        """The present connection; waits for one while the client reconnects. Raises NoDaemon, ConnectionLost."""
        ...


class Watch(trio.abc.ReceiveChannel[Push]):
    """Pushes in order, ending behind `watch.closed`. Used by one task.

    `receive` raises trio.EndOfChannel at the end, ConnectionLost or NoDaemon when the connection is gone for good,
    RemoteError when the daemon refuses to begin the watch again (the session was deleted).
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self._link: Link | None = None
        self._inbox: Inbox | None = None
        self._ended = False
        self._closed = False

    @abstractmethod
    def _request(self) -> tuple[str, dict[str, Any]]:
        """How to ask for the watch from where it is: (method, params)."""

    @abstractmethod
    def _note(self, push: Push) -> None:
        """Move the place behind this push."""

    async def begin(self) -> dict[str, Any]:
        """Ask for the watch; the daemon's result."""
        method, params = self._request()
        link = await self._links.linked()
        inbox = Inbox()
        result = await link.request(method, params, inbox)
        self.adopt(link, inbox)
        return result

    def adopt(self, link: Link, inbox: Inbox) -> None:
        """Read from an inbox whose watch has begun."""
        self._link, self._inbox = link, inbox

    async def receive(self) -> Push:
        if self._closed:
            raise trio.ClosedResourceError
        while True:
            if self._ended:
                raise trio.EndOfChannel
            if self._inbox is None:
                await self.begin()
                assert self._inbox is not None
            push = await self._inbox.get()
            if push is not None:
                self._note(push)
                self._ended = push.method == "watch.closed"
                return push
            lost, self._inbox = self._inbox.lost, None
            if lost is not None and not self._links.reconnects:
                raise lost.with_traceback(None)

    def close(self) -> None:
        """Stop watching, not the run."""
        self._closed = True
        if self._link is not None and self._inbox is not None:
            self._link.close_watch(self._inbox)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class RunWatch(Watch):
    """The events of one run."""

    def __init__(self, links: Links, run_id: str, after: int) -> None:
        super().__init__(links)
        self.run_id = run_id
        self.cursor = after  # the last event that was taken

    def _request(self) -> tuple[str, dict[str, Any]]:
        return "run.watch", {"run_id": self.run_id, "after": self.cursor}

    def _note(self, push: Push) -> None:
        if push.method == "run.events":
            self.cursor = push.events[-1]["seq"]
        elif push.method == "run.snapshot" and not push.params["more"]:
            self.cursor = push.params["seq"]


class SessionWatch(Watch):
    """A session's active run, its later runs, and changes of the session itself."""

    def __init__(self, links: Links, session_id: str, after: dict[str, int]) -> None:
        super().__init__(links)
        self.session_id = session_id
        self.cursors = dict(after)  # of runs that have not ended

    def _request(self) -> tuple[str, dict[str, Any]]:
        return "session.watch", {"session_id": self.session_id, "after": self.cursors}

    def _note(self, push: Push) -> None:
        run_id = push.params.get("run_id")
        if run_id is None:
            return
        if push.method == "run.events":
            self.cursors[run_id] = push.events[-1]["seq"]
            if push.events[-1]["type"] == "run.finished":
                del self.cursors[run_id]
        elif push.method == "run.snapshot" and not push.params["more"]:
            self.cursors[run_id] = push.params["seq"]
