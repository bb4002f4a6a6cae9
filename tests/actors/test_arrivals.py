"""Sockets that are waited for by one task: at once while it is calm, together while it is not."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._arrivals import BUSY, CALM, GATHER, GATHER_MAX, HEAVY, Arrival, Arrivals, Pace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each socket is waited for on its own")


SILENCE = 60.0


class Peer:
    """A socket that is watched, its other end, and how often bytes have arrived."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.arrival: Arrival = arrivals.watch(self.ours.fileno())
        self.woken = 0
        self.ended = False

    async def read(self) -> None:
        while not self.ended:
            await self.arrival.wait()
            self.woken += 1
            self.ended = not os.read(self.ours.fileno(), 16)

    def close(self) -> None:
        self.arrival.close()
        self.ours.close()
        self.theirs.close()


@asynccontextmanager
async def watching(count: int) -> AsyncIterator[tuple[Arrivals, list[Peer]]]:
    arrivals = Arrivals(SILENCE)
    peers = [Peer(arrivals) for _ in range(count)]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrivals.run)
            for peer in peers:
                nursery.start_soon(peer.read)
            await settled()
            yield arrivals, peers
            nursery.cancel_scope.cancel()
    finally:
        for peer in peers:
            peer.close()
        arrivals.close()


async def settled() -> None:
    """What sockets bring has been taken, as far as it is without the clock."""
    await wait_all_tasks_blocked(0.01)


async def test_the_bytes_of_a_calm_stream_are_taken_at_once(mock_clock: MockClock) -> None:
    async with watching(1) as (_, [peer]):
        for number in range(1, 4):
            peer.theirs.send(b"x")
            await settled()  # the clock stands still
            assert peer.woken == number


async def test_busy_streams_are_woken_together(mock_clock: MockClock) -> None:
    async with watching(2) as (arrivals, [one, other]):
        arrivals.pace.gather(0.0)
        arrivals.pace.took(BUSY)
        mock_clock.jump(1.0)
        one.theirs.send(b"x")
        await settled()
        assert (one.woken, other.woken) == (1, 0)
        one.theirs.send(b"x")
        other.theirs.send(b"x")
        mock_clock.jump(GATHER * 0.9)
        await settled()
        assert (one.woken, other.woken) == (1, 0)
        mock_clock.jump(GATHER * 0.1)
        await settled()
        assert (one.woken, other.woken) == (2, 1)
        # When nothing has come for a while it is calm again.
        mock_clock.jump(1.0)
        await settled()
        mock_clock.jump(1.0)
        other.theirs.send(b"x")
        await settled()
        mock_clock.jump(1.0)
        other.theirs.send(b"x")
        await settled()
        assert (one.woken, other.woken) == (2, 3)


async def test_what_arrives_while_nobody_waits_is_told_to_the_next_who_does(mock_clock: MockClock) -> None:
    arrivals = Arrivals(SILENCE)
    peer = Peer(arrivals)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.run)
        peer.theirs.send(b"x")
        await settled()
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.arrival.wait()  # no checkpoint
        assert not scope.cancelled_caught
        # Only once: nothing has arrived since.
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.arrival.wait()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    peer.close()
    arrivals.close()


@pytest.mark.parametrize("last", [b"", b"x"])
async def test_the_end_of_the_peer_is_told_until_it_was_read(mock_clock: MockClock, last: bytes) -> None:
    async with watching(1) as (_, [peer]):
        # In one edge, and read one by one.
        peer.theirs.send(last)
        peer.theirs.close()
        await settled()
        assert peer.ended


async def test_closing_wakes_who_waits() -> None:
    arrivals = Arrivals(SILENCE)
    peer = Peer(arrivals)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await peer.arrival.wait()

        nursery.start_soon(wait)
        await settled()
        peer.close()
    with pytest.raises(trio.ClosedResourceError):
        await peer.arrival.wait()
    arrivals.close()


async def test_a_silent_socket_is_given_up(mock_clock: MockClock) -> None:
    async with watching(1) as (arrivals, [talker]):
        quiet = Peer(arrivals)
        ended = trio.Event()

        async def wait() -> None:
            with pytest.raises(trio.TooSlowError):
                await quiet.arrival.wait()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settled()
            for seconds, given_up in ((SILENCE * 0.9, False), (SILENCE * 0.09, False), (SILENCE * 0.2, True)):
                talker.theirs.send(b"x")
                mock_clock.jump(seconds)
                await settled()
                assert ended.is_set() is given_up
        assert not talker.ended
        quiet.close()


def test_the_pace() -> None:
    def gather(streams: int, deltas_per_second: int) -> float:
        pace = Pace()
        pace.streams = streams
        pace.gather(0.0)
        pace.took(deltas_per_second)
        return pace.gather(1.0)

    assert gather(1, CALM) == gather(300, CALM) == 0
    assert 0 < gather(300, (CALM + BUSY) // 2) < GATHER
    assert gather(50, BUSY) == gather(50, HEAVY) == GATHER
    assert gather(1, 100_000) == GATHER
    assert gather(50, 10_000) == pytest.approx(0.02)
    assert GATHER < gather(300, 2 * HEAVY - 100) < GATHER_MAX
    assert gather(300, 2 * HEAVY) == gather(10_000, 100_000) == pytest.approx(GATHER_MAX)
