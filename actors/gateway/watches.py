"""Watches: what a connection follows. Each is a cursor (or two) and a place in its connection's dirty list.

A watch holds nothing of what it shows: `pull` reads the next frame from the feed when the connection can send it.
The one exception are a few pieces of a snapshot; a connection is told one at a time (actors/gateway/writer.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import trio

from actors._feed import Closed, RunFeed, SessionFeed, Snapshot
from engine.runs.log import Gap
from engine.wire import frames, objects
from engine.wire.frames import GapReason

_log = logging.getLogger("greenroom.gateway")

# The last event before a cursor that is above the run's own: the reader's numbering is of another life.
_RESTART: Final = "restart"
# Pieces of a snapshot that wait for the connection, each ≤ 64 KiB: about what one batch of it takes.
_PIECES_AHEAD: Final = 4


def _silent() -> None:
    """The ring of a watch that is closed."""


class Post(Protocol):
    """The connection's side of a watch: where it says that it has something, and asks for a snapshot."""

    def ring(self, watch: Watch) -> None: ...

    def want(self, reader: RunReader) -> None: ...

    def release(self, reader: RunReader) -> None: ...


class RunReader:
    """One run as one watch sees it: a cursor in its log, or the pieces of a snapshot."""

    __slots__ = (
        "_closed", "_post", "_ring", "_room", "_wanting", "_watch_id", "cursor", "feed", "from_store", "pieces",
    )  # fmt: skip

    def __init__(self, watch: Watch, post: Post, feed: RunFeed, after: int) -> None:
        self._watch_id = watch.id
        self._ring = watch.ring
        self.feed = feed
        # A log may begin above 1: there is nothing before it that could be missed. Of a run that waits there is
        # nothing at all, whatever its reader thinks to have.
        before = feed.run.first_seq - 1
        self.cursor = before if feed.log.last_seq == before and not feed.ended else max(after, before)
        self.pieces: deque[bytes] = deque()
        self.from_store = False  # the events had left memory: the final message was told instead
        self._post = post
        self._wanting = False
        self._closed = False
        self._room = trio.Event()  # rung when a piece is taken
        feed.attach(self._ring)

    def __repr__(self) -> str:
        return f"<RunReader {self.feed.run.id} at {self.cursor}>"

    @property
    def behind(self) -> bool:
        """There is something to send now."""
        return bool(self.pieces) or (not self._wanting and self.cursor != self.feed.log.last_seq)

    @property
    def urgent(self) -> bool:
        """There is something other than deltas to tell, or so much of them that the log may soon drop what is
        missed: it must not wait for more."""
        feed = self.feed
        if feed.log.is_far(self.cursor):
            return True
        return feed.log.last_fact > self.cursor or feed.ended or feed.closed is not None or bool(self.pieces)

    @property
    def over(self) -> bool:
        """The run is told to its end."""
        return self.feed.ended and not self._wanting and not self.behind

    def pull(self, room: int) -> str | None:
        """The next frame, with about `room` bytes of events; None if there is none now."""
        watch_id, run_id = self._watch_id, self.feed.run.id
        if self.pieces:
            text = frames.push_snapshot(watch_id, self.pieces.popleft())
            self._room.set()
            if not self.pieces and not self._wanting:
                self._post.release(self)
            return text
        if self._wanting:
            return None
        piece = self.feed.log.read(self.cursor, room)
        if isinstance(piece, Gap):
            self._wanting = True
            self._post.want(self)
            reason = self._reason()
            self.from_store = self.from_store or self.feed.evicted
            first = piece.first if piece.first <= piece.last else self.feed.run.first_seq
            return frames.push_gap(watch_id, run_id, first, piece.last, reason)
        if not piece.events:
            return None
        self.cursor = piece.cursor
        return frames.push_events(watch_id, run_id, piece.events)

    async def tell(self, snapshot: Snapshot) -> None:
        """Show the snapshot that was wanted; what follows it is read from the log again."""
        while (piece := await snapshot.next()) is not None:
            while len(self.pieces) >= _PIECES_AHEAD and not self._closed:
                self._room = trio.Event()
                await self._room.wait()
            if self._closed:
                return
            self.pieces.append(piece)
            self._ring()
        # Of a run that has left memory the snapshot is all that there is, whatever its number.
        self._go_on(self.feed.log.last_seq if self.feed.evicted else snapshot.seq)

    def give_up(self) -> None:
        """There is no snapshot, or no more of it: go on at the head."""
        self._go_on(self.feed.log.last_seq)

    def _go_on(self, seq: int) -> None:
        if self._closed:
            return
        self._wanting = False
        self.cursor = seq
        if not self.pieces:
            self._post.release(self)
        self._ring()

    def close(self) -> None:
        self._closed = True
        self.feed.detach(self._ring)
        self._ring = _silent  # as of a watch
        self.pieces.clear()
        self._room.set()
        self._post.release(self)

    def _reason(self) -> GapReason:
        run = self.feed.run
        if self.cursor > self.feed.log.last_seq or (self.feed.evicted and run.status == "interrupted"):
            return _RESTART
        return "evicted" if self.feed.evicted else "log_overflow"


class Watch:
    """Base of both kinds. `over` is true when nothing follows its last push; `dirty` is the connection's mark."""

    __slots__ = ("_post", "closing", "dirty", "id", "over", "ring")

    def __init__(self, watch_id: str, post: Post) -> None:
        self.id = watch_id
        self.dirty = False
        self.over = False
        self.closing: Closed | None = None  # the connection ends: nothing is waited for any more
        self._post = post
        self.ring: Callable[[], None] = lambda: post.ring(self)  # one object, so that feeds know it again

    @property
    def behind(self) -> bool:
        """Another `pull` would give something."""
        raise NotImplementedError

    @property
    def urgent(self) -> bool:
        raise NotImplementedError

    def pull(self, room: int) -> str | None:
        raise NotImplementedError

    def close(self) -> None:
        """Leave the feeds. Idempotent; nothing is pulled afterwards."""
        self.ring = _silent  # no cycle from here on: what was watched is not kept until a collection


class RunWatch(Watch):
    __slots__ = ("_reader",)

    def __init__(self, watch_id: str, post: Post, feed: RunFeed, after: int) -> None:
        super().__init__(watch_id, post)
        self._reader = RunReader(self, post, feed, after)

    @property
    def behind(self) -> bool:
        return self._reader.behind or self._ending() is not None

    @property
    def urgent(self) -> bool:
        return self._reader.urgent or self.closing is not None

    def pull(self, room: int) -> str | None:
        text = self._reader.pull(room)
        if text is not None:
            return text
        reason = self._ending()
        if reason is None:
            return None
        self.over = True
        run = self._reader.feed.run
        return frames.push_watch_closed(self.id, reason, run_id=run.id, status=run.status)

    def close(self) -> None:
        self._reader.close()
        super().close()

    def _ending(self) -> Closed | None:
        """Why the watch ends now, if it does; asked when there is nothing to send."""
        reader, feed = self._reader, self._reader.feed
        if reader.behind:
            return None
        if reader.over:
            if feed.closed == "deleted":
                return "deleted"
            return "evicted" if reader.from_store else "finished"
        if feed.closed in ("deleted", "draining"):
            return feed.closed
        return self.closing


class SessionWatch(Watch):
    """The session's runs one after another, and its record when it has changed."""

    __slots__ = ("_after", "_backlog", "_changes", "_feed", "_index", "_reader")

    def __init__(
        self,
        watch_id: str,
        post: Post,
        feed: SessionFeed,
        after: Mapping[str, int] | None,
        gone: Sequence[RunFeed] = (),
    ) -> None:
        """`after` has cursors by run; without one of a run that has begun the watch begins at the active run. `gone`
        are runs named there that have left memory."""
        super().__init__(watch_id, post)
        self._feed = feed
        self._backlog = deque(gone)
        self._changes = feed.changes
        self._reader: RunReader | None = None
        known = feed.runs_after(0)
        # Of a run that has not begun there is nothing that a reader could have.
        begun = {run.run.id for run in (*gone, *(run for _, run in known))}
        self._after = {run_id: seq for run_id, seq in (after or {}).items() if run_id in begun}
        # With cursors, everything since the oldest run that is named; a run that ended before it was seen is told too.
        wanted = [index for index, run in known if run.run.id in self._after] or ([1] if gone else [])
        wanted = wanted or [index for index, run in known if not run.ended]
        self._index = wanted[0] - 1 if wanted else feed.last_index
        feed.attach(self.ring)

    @property
    def runs(self) -> list[RunFeed]:
        """The runs that are to be shown, as far as they have started."""
        return [*self._backlog, *(run for _, run in self._feed.runs_after(self._index))]

    @property
    def behind(self) -> bool:
        reader = self._reader
        if reader is not None and (reader.behind or reader.over):
            return True
        return (
            (reader is None and self._has_next()) or self._feed.changes != self._changes or self._ending() is not None
        )

    @property
    def urgent(self) -> bool:
        return (
            self._reader is None
            or self._reader.urgent
            or self._feed.changes != self._changes
            or self._feed.closed is not None
            or self.closing is not None
        )

    def pull(self, room: int) -> str | None:
        while True:
            if self._reader is None:
                self._reader = self._next()
            if self._reader is None:
                break
            text = self._reader.pull(room)
            if text is not None:
                return text
            if not self._reader.over:
                break
            self._reader.close()
            self._reader = None
        if self._feed.changes != self._changes:
            self._changes = self._feed.changes
            return frames.push_session_changed(self.id, objects.encode_session(self._feed.session))
        reason = self._ending()
        if reason is None:
            return None
        self.over = True
        return frames.push_watch_closed(self.id, reason)

    def close(self) -> None:
        self._feed.detach(self.ring)
        if self._reader is not None:
            self._reader.close()
        super().close()

    def _has_next(self) -> bool:
        return bool(self._backlog) or bool(self._feed.runs_after(self._index))

    def _next(self) -> RunReader | None:
        if self._backlog:
            feed = self._backlog.popleft()
        else:
            following = self._feed.runs_after(self._index)
            if not following:
                return None
            self._index, feed = following[0]
        return RunReader(self, self._post, feed, self._after.pop(feed.run.id, 0))

    def _ending(self) -> Closed | None:
        if self._has_next() and self.closing is None:
            return None
        if self._reader is not None and self._reader.behind:
            return None
        return self._feed.closed or self.closing
