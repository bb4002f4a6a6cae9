"""One connection whose end its reader has not noticed yet."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from actors.client.dial import Socket
from actors.client.errors import ConnectionLost
from actors.client.link import open_link

LIMIT = 20.0  # absolute, for a test that hangs


class Ended(Socket):
    """A socket that takes nothing any more; its reader is told when it is aborted."""

    def __init__(self) -> None:
        self.sent = 0
        self.aborted = trio.Event()

    async def send(self, text: str) -> None:
        self.sent += 1
        raise ConnectionLost(1001)  # without waiting, as the library does

    async def receive(self) -> Any:
        await self.aborted.wait()
        raise ConnectionLost(1001)

    async def abort(self) -> None:
        self.aborted.set()


async def test_a_request_that_cannot_be_sent_ends_the_link_before_it_fails() -> None:
    socket = Ended()
    with trio.fail_after(LIMIT):
        async with open_link(socket) as link:
            with pytest.raises(ConnectionLost):
                await link.request("ping", {})
            # Whoever asks again is not let through to the socket, so that `Client.linked` waits for the next one.
            assert link.lost is not None and socket.sent == 1


async def test_who_asks_a_lost_link_again_and_again_lets_others_work() -> None:
    with trio.fail_after(LIMIT):
        async with open_link(Ended()) as link, trio.open_nursery() as nursery:
            others = trio.Event()

            async def other() -> None:
                others.set()

            nursery.start_soon(other)
            tries = 0
            while not others.is_set() and tries < 1000:
                with pytest.raises(ConnectionLost):
                    await link.request("ping", {})
                tries += 1
            assert others.is_set()
