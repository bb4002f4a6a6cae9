"""The Ref of a session, and what its mailbox takes."""

from __future__ import annotations

from typing import Any, Protocol, cast

import attrs

from actors._actor import Ref
from actors._feed import RunFeed, SessionFeed
from actors.queue import Queue
from engine.codec import DecodeError
from engine.commands import SessionChanges, StartRun
from engine.runs.approvals import Resolution
from engine.runs.record import Run as RunRecord
from engine.storage.starting import StoredRun
from engine.transcript.session import Session as SessionRecord


@attrs.frozen(slots=True)
class StartedRun:
    """The answer to a started run. `feed` begins at its first event."""

    run: RunRecord
    message_id: str
    revision: int
    feed: RunFeed


@attrs.frozen(slots=True)
class Start:
    start: StartRun


@attrs.frozen(slots=True)
class Compact:
    pass


@attrs.frozen(slots=True)
class Update:
    changes: SessionChanges


@attrs.frozen(slots=True)
class Settle:
    pass


@attrs.frozen(slots=True)
class Begun:
    pass


@attrs.frozen(slots=True)
class BeginNext:
    pass


@attrs.frozen(slots=True)
class Drop:
    run_id: str
    reason: str


class Insides(Protocol):
    """What is asked of a session without its mailbox. See SessionRef, and actors.session."""

    active: RunFeed | None
    feed: SessionFeed
    queue: Queue

    def use(self) -> None: ...
    def changed(self) -> None: ...
    @property
    def lost(self) -> bool: ...
    def idle_for(self, now: float) -> float: ...
    async def reply(self, run_id: str, call_id: str, resolution: Resolution) -> Resolution | None: ...
    async def cancel_run(self, run_id: str, reason: str) -> None: ...


class SessionRef(Ref):
    __slots__ = ()

    async def start_run(self, start: StartRun) -> StartedRun | StoredRun:
        """Store the message and start its run; for a repeated request what the first one stored, whose run may
        have ended and left memory. Raises CallerError (session_busy, stale_revision, …). Cancelled: a start that was
        begun goes on."""
        started: StartedRun | StoredRun = await self._do(Start(start))
        return started

    async def compact(self) -> StartedRun:
        """Start a run that puts a summary in place of the transcript's beginning. Raises CallerError session_busy,
        unknown_model. Cancelled: a start that was begun goes on."""
        started: StartedRun = await self._do(Compact())
        return started

    async def update(self, changes: SessionChanges) -> SessionRecord:
        record: SessionRecord = await self._do(Update(changes))
        return record

    async def begun(self) -> None:
        """Return when starts that were asked for before are over."""
        await self._do(Begun())

    async def settle(self) -> None:
        """Return when the ends of all runs before are stored. Raises PeerError disk_full."""
        if self._session.lost:  # else it is no matter what the mailbox has
            await self._do(Settle())

    async def begin_next(self) -> None:
        """Begin the run at the head of the queue, unless a run is active or none waits. Raises PeerError disk_full:
        then the queue is as before."""
        await self._do(BeginNext())

    async def _do(self, message: object) -> Any:
        self._session.use()  # from now on, not from when it comes to be handled: it must not be unloaded in between
        # No deadline here: a start may first join an old run, whose tools have their time to end.
        answer = await self._ask(message, timeout=None)
        if isinstance(answer, DecodeError):
            raise answer
        return answer

    @property
    def feed(self) -> SessionFeed:
        """What watchers of the session share. Looking at it is a use of the session."""
        self._session.use()
        return self._session.feed

    def changed(self) -> None:
        """The session's row has changed: its watchers are to be told. No use of the session."""
        self._session.changed()

    def forget(self, run: RunFeed) -> None:
        """The run has left memory. No use of the session."""
        self._session.feed.remove(run)

    @property
    def active(self) -> RunFeed | None:
        """The run that is writing now."""
        return self._session.active

    def idle_for(self, now: float) -> float:
        """Seconds since the session was last used, at `now` on trio's clock; 0 while it has a run or a watcher."""
        return self._session.idle_for(now)

    async def reply(self, run_id: str, call_id: str, resolution: Resolution) -> Resolution | None:
        """Decide an approval of the run; see Run.reply. None if the run is not at work."""
        return await self._session.reply(run_id, call_id, resolution)

    async def cancel_run(self, run_id: str, reason: str) -> None:
        """Cancel the run, active or waiting, and wait for its end; nothing if it is neither. Raises PeerError
        disk_full for a waiting run whose end cannot be stored: it goes on waiting."""
        if run_id in self._session.queue:
            await self._do(Drop(run_id, reason))  # it may begin before this is looked at
        await self._session.cancel_run(run_id, reason)

    @property
    def _session(self) -> Insides:
        return cast(Insides, self._cell.actor)
