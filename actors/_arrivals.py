"""Waiting for the bytes of many sockets, by one task.

A wake-up of the loop for one socket costs about as much as all that is done with the bytes: the system call, a pass
of the scheduler, cold caches. So sockets that stream are watched by a selector of their own, which is one descriptor
to the loop, and one task looks at it: at once while there is little to read, and under load only every few
milliseconds, so that those who have something are woken together. Their silence is found by looking now and then, so
that no wait needs a deadline of its own. Where the system has no epoll each socket is waited for on its own.
"""

from __future__ import annotations

import math
import select
import sys
from typing import Any, Final, NoReturn

import outcome
import trio

# --- how long arrivals are gathered, by the deltas a second of all streams together
# Below this each is taken at once: its own wake-ups are then a fiftieth of a core.
CALM: Final = 250
# From here on they are gathered for GATHER seconds, in between for less: eight or more at a time pay one wake-up,
# and nobody sees it.
BUSY: Final = 1000
GATHER: Final = 0.008
# From here on each stream is read less often, so that one read and one frame carry several deltas; twice as many are
# a load at which all streams together are read this often. That takes a third of a core.
HEAVY: Final = 1500
READS_PER_SECOND: Final = 2500
# The longest time, reached with 250 streams: below what a person takes for a pause.
GATHER_MAX: Final = 0.1
# The rate is measured over windows of this many seconds.
_WINDOW: Final = 0.1
# Silence is found so much too late at the most, as a part of it.
_SILENCE_PART: Final = 1 / 8


class Pace:
    """Decides for how long arrivals are gathered. `streams` counts those that are being read."""

    def __init__(self) -> None:
        self.streams = 0
        self._deltas = 0
        self._since = -math.inf
        self._rate = 0.0

    def took(self, deltas: int) -> None:
        self._deltas += deltas

    def gather(self, now: float) -> float:
        """Seconds until the next look, after one at `now`."""
        elapsed = now - self._since
        if elapsed >= _WINDOW:
            self._rate = self._deltas / elapsed
            self._deltas = 0
            self._since = now
        short = GATHER * _share(self._rate, CALM, BUSY)
        long = min(self.streams / READS_PER_SECOND, GATHER_MAX)
        return short + max(long - short, 0) * _share(self._rate, HEAVY, 2 * HEAVY)


def _share(value: float, low: float, high: float) -> float:
    """How far the value is on the way from low to high, 0 to 1."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


class Arrivals:
    """See the module. A socket is silent that brings nothing for `silence` seconds while it is waited for. Made
    without I/O; `run` is the task, `close` frees the descriptor when it has ended."""

    def __init__(self, silence: float) -> None:
        self.pace = Pace()
        self.silence = silence
        self._epoll = select.epoll() if sys.platform == "linux" else None
        self._watched: dict[int, Arrival] = {}
        self._next_look = -math.inf

    def watch(self, descriptor: int) -> Arrival:
        """Begin to watch a socket. To be closed before the socket is. Raises trio.ClosedResourceError."""
        if descriptor < 0:
            raise trio.ClosedResourceError("the socket is closed")
        arrival = self._watched[descriptor] = Arrival(self, descriptor)
        if self._epoll is not None:
            # Edges: a socket is told once for what has arrived, whether anybody waits for it or not.
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return arrival

    def close(self) -> None:
        assert not self._watched, "a socket is watched longer than there is who watches"
        if self._epoll is not None:
            self._epoll.close()

    async def run(self) -> NoReturn:
        epoll = self._epoll
        if epoll is None:
            await trio.sleep_forever()
        gather = 0.0
        while True:
            if gather > 0:
                await trio.sleep(gather)
            else:
                with trio.move_on_after(self.silence * _SILENCE_PART):
                    await trio.lowlevel.wait_readable(epoll.fileno())
            ready = epoll.poll(0)
            for descriptor, events in ready:
                self._watched[descriptor].ring(ended=events != select.EPOLLIN)
            now = trio.current_time()
            self._look(now)
            gather = self.pace.gather(now) if ready else 0.0

    def _look(self, now: float) -> None:
        """Wake those whose socket is silent."""
        if now >= self._next_look:
            self._next_look = now + self.silence * _SILENCE_PART
            for arrival in self._watched.values():
                arrival.look(now - self.silence)

    def _forget(self, arrival: Arrival) -> None:
        del self._watched[arrival.descriptor]
        if self._epoll is not None:
            self._epoll.unregister(arrival.descriptor)


class Arrival:
    """One socket that is watched. One task may wait."""

    __slots__ = ("_arrivals", "_arrived", "_ended", "_since", "_task", "descriptor")

    def __init__(self, arrivals: Arrivals, descriptor: int) -> None:
        self.descriptor = descriptor
        self._arrivals: Arrivals | None = arrivals
        self._arrived = False
        self._ended = False  # the peer sends no more: there is something to read until the end was read
        self._task: trio.lowlevel.Task | None = None
        self._since = 0.0  # when the wait began

    async def wait(self) -> None:
        """Return when something may have arrived since the last wait returned: the socket is to be read until it has
        nothing more. No checkpoint if that has happened already. Raises trio.TooSlowError for a silent socket,
        trio.ClosedResourceError."""
        if self._arrivals is None:
            raise trio.ClosedResourceError("the socket is closed")
        if self._arrivals._epoll is None:
            with trio.fail_after(self._arrivals.silence):
                await trio.lowlevel.wait_readable(self.descriptor)
            return
        if not self._arrived:
            assert self._task is None, "two tasks wait for one socket"
            self._since = trio.current_time()
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._arrived = self._ended

    def ring(self, *, ended: bool) -> None:
        self._arrived = True
        self._ended = self._ended or ended
        self._wake(outcome.Value(None))

    def look(self, before: float) -> None:
        """Wake who waits since then or longer."""
        if self._since <= before:
            self._wake(outcome.Error(trio.TooSlowError()))

    def close(self) -> None:
        """Stop watching; who waits gets trio.ClosedResourceError. Idempotent."""
        if self._arrivals is not None:
            self._arrivals._forget(self)
            self._arrivals = None
            self.descriptor = -1
            self._wake(outcome.Error(trio.ClosedResourceError("the socket was closed")))

    def _wake(self, result: outcome.Outcome[None]) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task, result)

    def _abort(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
