"""What a tool writes while it works, for who watches: thinned to a bounded rate, and never history.

Nothing is held for a run that nobody watches. What does not fit a piece is left out at its beginning: the newest is
what a person looks at.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final, NoReturn

import trio

from actors._feed import Bell, RunFeed
from actors._toolset_life import Preview
from actors.progress import Progress
from engine.limits import Limits
from engine.runs.events import ToolOutput
from engine.tools.cut import utf8

# Seconds between two pieces of a call: as smooth as an eye needs it.
PAUSE: Final = 0.125
# A byte of text is at most so many in JSON (a control character).
_ESCAPED: Final = 6


class _Live:
    def __init__(self, feed: RunFeed, progress: Progress, call_id: str, limits: Limits) -> None:
        self._feed = feed
        self._progress = progress
        self._call_id = call_id
        self._most = min(int(limits.preview_bytes * PAUSE), limits.event_bytes // (_ESCAPED + 1))
        self._held = b""
        self._bell = Bell()

    def take(self, text: str) -> None:
        if self._feed.watched:
            self._held = (self._held + utf8(text[-self._most :]))[-self._most :]
            self._bell.ring()

    async def show(self) -> NoReturn:
        while True:
            await self._bell.wait()
            text, self._held = self._held.decode(errors="ignore"), b""
            if text:
                piece = ToolOutput(call_id=self._call_id, text=text)
                await self._progress.reserve([piece])
                self._progress.show([piece])
            await trio.sleep(PAUSE)


@contextlib.asynccontextmanager
async def live_output(feed: RunFeed, progress: Progress, call_id: str, limits: Limits) -> AsyncIterator[Preview]:
    """Takes a call's output in the block; nothing of it is shown after that."""
    live = _Live(feed, progress, call_id, limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.show)
        yield live.take
        nursery.cancel_scope.cancel(reason="the call has ended")
