"""What is too long for one transaction: a session is copied or removed page by page, and other writes come in between.

Nobody sees a copy before it is whole, nor anything of a session that is being removed (engine.storage.hidden).
Whatever an error or the end of the daemon leaves half done is removed in the background, now or at the next start.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import trio

from actors._disk import Disk
from engine.commands import ForkSession
from engine.errors import EngineError
from engine.storage import fork, hidden, idempotency
from engine.transcript.session import Session

_log = logging.getLogger("greenroom.store")


class Paged:
    """Of one disk. `freed` is called when there is something for `remove_left` to do."""

    def __init__(self, disk: Disk, freed: Callable[[], None]) -> None:
        self._disk = disk
        self._freed = freed
        self._turn = trio.Lock()  # two long copies at once would each take twice as long, and the log twice the space
        self._left: list[int] = []  # keys of hidden sessions that nobody works on

    async def open(self) -> None:
        """Find what an earlier daemon left. Before anything else is hidden."""
        self._left = await self._disk.read(hidden.every)

    async def fork(self, asked: ForkSession, session_id: str, now: int) -> Session:
        """See engine.storage.fork. Raises unknown_session, unknown_message, idempotency_conflict; then, and if it is
        cancelled, there is no copy."""
        claim = idempotency.claim("session.fork", asked)
        begun = await self._disk.write(
            functools.partial(fork.make, asked=asked, session_id=session_id, claim=claim, now=now)
        )
        if isinstance(begun, Session):
            return begun
        made: Session | None = None
        try:
            async with self._turn:
                while await self._disk.write(functools.partial(fork.copy, fork=begun)):
                    pass
            made = await self._disk.write(functools.partial(fork.publish, fork=begun, claim=claim, now=now))
        finally:
            if made is None or made.id != session_id:
                self._leave(begun.key)
        return made

    async def delete(self, session_id: str) -> None:
        """Remove a session with all that is stored of it. Raises unknown_session; any other error comes before it has
        begun. What a disk that refuses leaves of it is seen by nobody."""
        key = await self._disk.write(functools.partial(hidden.delete, session_id=session_id))
        if key is not None:
            try:
                await self._remove(key)
            except EngineError as exc:
                _log.warning("%s is deleted, and removed later: %s", session_id, exc)
                self._leave(key)
            except BaseException:
                self._leave(key)
                raise

    async def remove_left(self) -> None:
        """Remove what was left. Raises PeerError disk_full: the rest is left for another time."""
        while self._left:
            await self._remove(self._left[-1])
            self._left.pop()

    async def _remove(self, key: int) -> None:
        while await self._disk.write(functools.partial(hidden.purge, key=key)):
            pass

    def _leave(self, key: int) -> None:
        self._left.insert(0, key)
        self._freed()
