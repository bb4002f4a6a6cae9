"""Trio as a guest on asyncio: the one place in the project where the two meet.

The screens need asyncio, the client needs trio. `run` starts asyncio's loop, trio's run on it as a guest, and the
screens when the client can be used; both are on one thread, so that they may read each other's state. To *change*
something on trio's side (set an event, start a task) a screen goes through `Bridge.post`: trio waits in a thread and
has to be woken up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import outcome
import trio

Status = trio.TaskStatus[None]
Work = Callable[[Status], Awaitable[None]]


class Bridge:
    """From the screens to trio. Usable once `run` shows the screens."""

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self.ended = False  # trio's side has

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call it soon, on trio's side. What it raises ends trio's run."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function, *arguments)

    async def _hold(self, work: Work, begun: Callable[[], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(_started, work)
                begun()

    def _leave(self) -> None:
        self.post(lambda: self._scope.cancel(reason="the screens are gone"))


async def _started(work: Work, *, task_status: Status) -> None:
    await work(task_status)


def run(work: Work, bridge: Bridge, show: Callable[[], Awaitable[None]], close: Callable[[], None]) -> None:
    """`work` on trio until `show` returns, which is called when `work` has started. If `work` ends first, `close` has
    to make `show` return. Raises what `work` raises (in an ExceptionGroup), or else what `show` does."""
    asyncio.run(_run(work, bridge, show, close))


async def _run(work: Work, bridge: Bridge, show: Callable[[], Awaitable[None]], close: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    begun, ended = asyncio.Event(), asyncio.Event()
    result: list[outcome.Outcome[None]] = []

    def over(of_run: outcome.Outcome[None]) -> None:
        result.append(of_run)
        bridge.ended = True
        ended.set()
        begun.set()

    trio.lowlevel.start_guest_run(
        bridge._hold,
        work,
        begun.set,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        done_callback=over,
        host_uses_signal_set_wakeup_fd=True,
    )
    try:
        await begun.wait()
        if not ended.is_set():
            watching = asyncio.create_task(_close_when(ended, close))
            try:
                await show()
            finally:
                watching.cancel()
    finally:
        # Also when this task is cancelled by Ctrl-C before the screens are there: a guest's run has to end by itself.
        bridge._leave()
        await ended.wait()
    result[0].unwrap()


async def _close_when(ended: asyncio.Event, close: Callable[[], None]) -> None:
    await ended.wait()
    close()
