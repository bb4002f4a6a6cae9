"""What is sent to a tool server that takes nothing: bounded in bytes, and given back with the call that it is of."""

from __future__ import annotations

import functools
import gc
import math
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import orjson
import pytest
import trio
from mcp.shared._context_streams import create_context_streams

from actors.toolsets.mcp_client import Client, Refused
from actors.toolsets.mcp_inbox import Inbox
from engine.limits import KIB
from engine.tools.spec import Answer, Question
from tests.actors.processes import until
from tests.actors.toolsets.hosting import LIMIT, LIMITS, World, hosted

# More than a pipe holds.
MUCH = "m" * (200 * KIB)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end by itself is not waited for."""
    monkeypatch.setattr("actors.toolsets.mcp.CLOSE_GRACE", 0.1)


class Run:
    """What a call's `ask` belongs to. The set has those that are in memory."""

    present: ClassVar[weakref.WeakSet[Run]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.present.add(self)

    async def ask(self, question: Question) -> Answer:
        raise AssertionError("nothing is asked")


async def call(world: World, **given: Any) -> str:
    return (await world.do(asks=Run().ask, **given)).text


async def asleep(world: World, nursery: trio.Nursery) -> Client:
    """From now on the server reads nothing."""
    nursery.start_soon(functools.partial(world.do, sleep=True))
    await until(lambda: len(world.received("tools/call")) == 1)
    link = world.toolset._link
    assert link is not None and link._client is not None
    return link._client


async def test_calls_that_were_cancelled_leave_nothing_while_their_notices_wait(tmp_path: Path) -> None:
    async with hosted(tmp_path, roots=()) as world:
        async with trio.open_nursery() as nursery:
            client = await asleep(world, nursery)
            link = world.toolset._link
            assert link is not None
            for number in range(8):  # which fit into the pipe
                nursery.start_soon(functools.partial(call, world))
                await until(lambda: len(client._open) == number + 2 and not client._waiting)  # noqa: B023 - used at once
            for _ in range(4):
                nursery.start_soon(functools.partial(call, world, much=MUCH))
            await until(lambda: len(client._waiting) == 3 and link._intake.since < math.inf)
            assert len(Run.present) == 12
            nursery.cancel_scope.cancel()
        gc.collect()
        assert not Run.present
        assert client._notices == 10, "of what was never sent the server is told nothing"
        assert not client._waiting and not client._open


async def test_a_server_that_takes_nothing_for_all_the_time_of_a_call_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosted(tmp_path, roots=(), call_timeout=0.5) as world:
        await world.bad.specs()
        assert "did not finish" in await call(world, sleep=True)
        # Something of this one was taken in its time, so the next one decides.
        assert "did not finish" in await call(world, much=MUCH)
        assert (await world.bad.status()).restarts == 0
        assert "did not finish" in await call(world, much=MUCH)
        status = await world.status(lambda status: status.state == "ready" and status.restarts)
        assert status.restarts == 1
        assert "bad: it has broken: it took nothing of its input in all the time of a call" in caplog.text
        gc.collect()
        assert not Run.present


async def test_a_server_that_takes_its_input_may_take_long_for_calls(tmp_path: Path) -> None:
    async with hosted(tmp_path, roots=(), call_timeout=0.5) as world:
        await world.bad.specs()
        for _ in range(2):
            assert "did not finish" in await call(world, much=MUCH, answer=None)
        assert (await world.bad.status()).restarts == 0
        link = world.toolset._link
        assert link is not None
        await until(lambda: link._intake.since == math.inf)


# ------------------------------------------------------------------ bytes that wait
@asynccontextmanager
async def untaken(most: int) -> AsyncIterator[Client]:
    """On a transport that takes nothing."""
    arrived, reading = create_context_streams[Any](0)
    writing, leaving = create_context_streams[Any](0)
    limits = attrs.evolve(LIMITS, mcp_waiting_bytes=most)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            inbox = Inbox(None, print)  # type: ignore[arg-type]
            client = Client((reading, writing), nursery, {}, lambda: None, print, inbox, limits)
            await nursery.start(client.run)
            yield client
            nursery.cancel_scope.cancel()
    for stream in (arrived, leaving):
        stream.close()


async def request(client: Client, size: int) -> None:
    async with client.request("x", sized(size)):
        raise AssertionError("nothing is answered")


def sized(size: int) -> dict[str, Any]:
    """Of as many bytes as JSON."""
    found = {"a": "x" * (size - len('{"a":""}'))}
    assert len(orjson.dumps(found)) == size
    return found


async def test_requests_wait_up_to_the_bound_and_not_a_byte_more() -> None:
    async with untaken(100) as client, trio.open_nursery() as nursery:
        nursery.start_soon(request, client, 60)
        await until(lambda: len(client._waiting) == 1)
        with pytest.raises(Refused, match="60 bytes of other requests wait"):
            await request(client, 41)
        nursery.start_soon(request, client, 40)
        await until(lambda: len(client._waiting) == 2)
        with pytest.raises(Refused, match="100 bytes of other requests wait"):
            await request(client, len('{"a":""}'))
        nursery.cancel_scope.cancel()


async def test_a_request_that_is_cancelled_makes_room() -> None:
    async with untaken(100) as client:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request, client, 100)
                await until(lambda: len(client._waiting) == 1)
                nursery.cancel_scope.cancel()
            assert not client._waiting and client._notices == 0
