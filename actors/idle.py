"""Sessions that nobody uses leave memory: those that were idle for long, and of too many the longest idle.

They come back from the store when they are used, unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from actors.session_ref import SessionRef
from engine.limits import Limits

# Looks for idle sessions in the time that makes one idle: it leaves memory at most a quarter late.
PASSIVATE_LOOKS: Final = 4
# Of too many sessions an eighth leaves, and as many have to come before the next look at all of them.
_SHARE: Final = 8


class Idle:
    """`sessions` are the live ones by id; who ends leaves them."""

    def __init__(self, sessions: Mapping[str, SessionRef], limits: Limits) -> None:
        self._sessions = sessions
        self._after = limits.passivate_after
        self._most = limits.idle_sessions_max
        self._crowded = trio.Event()
        self._look_at = 0  # sessions from which on there may be too many

    def opened(self) -> None:
        """A session has become live."""
        if len(self._sessions) > max(self._most, self._look_at):
            self._crowded.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with trio.move_on_after(self._after / PASSIVATE_LOOKS) as scope:
                while True:
                    await self._crowded.wait()
                    self._crowded = trio.Event()
                    await self._thin()
            assert scope.cancelled_caught
            await self.unload(self._after)
            self._look_at = 0

    async def unload(self, idle: float) -> None:
        """Unload sessions that nobody has used for so long."""
        for session in tuple(self._sessions.values()):
            # Looked at one by one: while another was stopped this one may have been used.
            if session.idle_for(trio.current_time()) >= idle:
                await session.stop("passivated")

    async def _thin(self) -> None:
        """Unload the longest idle, those that are too many; who is in use stays."""
        now = trio.current_time()
        share = max(self._most // _SHARE, 1)
        idle = [(session.idle_for(now), session) for session in tuple(self._sessions.values())]
        idle = sorted((one for one in idle if one[0] > 0), key=lambda one: -one[0])
        for was_idle, session in idle[: max(len(self._sessions) - self._most + share, 0)]:
            if session.idle_for(trio.current_time()) >= was_idle:
                await session.stop("passivated")
        self._look_at = len(self._sessions) + share
