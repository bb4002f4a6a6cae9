"""Peers that take nothing, say nothing, or ask too much: they are let go, and nobody else notices."""

from __future__ import annotations

import json
import math
import socket as sockets

import pytest
import trio
from trio.testing import MockClock

from engine.commands import MessagesPage
from engine.limits import Limits
from tests.actors.gateway.fakes import FakeRun, Served, serve
from tests.actors.gateway.test_http import BEARER, UPGRADE, Browser

# Real seconds without anything to do, until what a loopback socket brings has been dealt with.
QUIET = 0.005


async def raw_connection(served: Served, *, receive_bytes: int | None = None) -> Browser:
    """A WebSocket that does nothing by itself, not even answer pings."""
    sock = trio.socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_bytes)
    await sock.connect(("127.0.0.1", served.port))
    page = Browser(trio.SocketStream(sock), served.host)
    assert (await page.get("/ws", BEARER, *UPGRADE)).status == 101
    return page


def masked(method: str, request_id: int, **params: object) -> bytes:
    text = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()
    assert 126 <= len(text) < 1 << 16 or len(text) < 126
    length = bytes([0x80 | len(text)]) if len(text) < 126 else bytes([0x80 | 126]) + len(text).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + text


async def pass_time(clock: MockClock, seconds: float, step: float = 5.0) -> None:
    """Time passes, and everybody does what they do in it."""
    for _ in range(int(seconds / step)):
        clock.jump(step)
        await trio.testing.wait_all_tasks_blocked(QUIET)


async def test_a_client_that_takes_nothing_is_aborted_and_slows_nobody(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(limit=math.inf) as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        page = await raw_connection(served, receive_bytes=4096)
        await page.stream.send_all(masked("initialize", 1, protocol=1, client={"name": "t", "version": "1"}))
        await page.stream.send_all(masked("run.watch", 2, run_id="run_1"))
        watch_id = (await wire.request("run.watch", run_id="run_1"))["watch_id"]
        # The loop is busy now, and on a clock that stands still deltas would be gathered for ever.
        served.ref._gateway._meter.gathering = lambda: 0.0  # type: ignore[method-assign]
        # More than all buffers between the two hold; the other client has all of it, in no time.
        for _ in range(800):
            run.delta("x" * 8000)
            await wire.push()
        await pass_time(mock_clock, 10)
        assert served.ref.gateway_statistics().aborted_slow == 0
        await pass_time(mock_clock, 10)
        assert served.ref.gateway_statistics().aborted_slow == 1
        assert "took nothing" in caplog.text
        assert served.ref.gateway_statistics().connections == 1
        run.finish()
        await wire.read_run(watch_id)
        # What it gets is a reset, after what was on its way.
        with pytest.raises(trio.BrokenResourceError):
            while await page.stream.receive_some():
                pass
        await page.stream.aclose()


async def test_a_stuck_client_does_not_hold_up_the_stop() -> None:
    async with serve() as served:
        run = served.registry.add(FakeRun())
        run.start()
        page = await raw_connection(served, receive_bytes=4096)
        await page.stream.send_all(masked("initialize", 1, protocol=1, client={"name": "t", "version": "1"}))
        await page.stream.send_all(masked("run.watch", 2, run_id="run_1"))
        while not run.feed.watched:
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(800):
            run.delta("x" * 8000)
            await trio.lowlevel.checkpoint()
        await served.ref.stop()
        assert not run.feed.watched
        await page.stream.aclose()


async def test_a_silent_client_is_pinged_and_dropped(mock_clock: MockClock) -> None:
    async with serve(limit=math.inf) as served:
        page = await raw_connection(served)
        async with page.stream:
            await pass_time(mock_clock, 55)
            assert await page.stream.receive_some() == b"\x89\x00" * 2
            assert served.ref.gateway_statistics().aborted_silent == 0
            await pass_time(mock_clock, 10)
            assert served.ref.gateway_statistics().aborted_silent == 1
            with pytest.raises(trio.BrokenResourceError):
                while await page.stream.receive_some():
                    pass


async def test_a_client_that_answers_pings_stays(mock_clock: MockClock) -> None:
    async with serve(limit=math.inf) as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        await wire.request("run.watch", run_id="run_1")
        await wire.push()
        await pass_time(mock_clock, 300)  # the library answers the pings
        served.ref._gateway._meter.gathering = lambda: 0.0  # type: ignore[method-assign] # as above
        run.delta("still here")
        assert (await wire.push())[1]["events"][0]["text"] == "still here"


async def test_a_client_whose_requests_wait_is_not_taken_for_silent(mock_clock: MockClock) -> None:
    async with serve(Limits(requests_in_flight=1), limit=math.inf) as served, served.connect() as wire:
        gate = served.registry.held["get_run"] = trio.Event()
        keys = [await wire.send("run.get", run_id="run_1") for _ in range(8)]
        await pass_time(mock_clock, 300)
        gate.set()
        assert {(await wire.receive())["id"] for _ in keys} == set(keys)


async def test_no_request_is_begun_while_large_replies_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client costs that asks and never reads: the replies of requests at work together, and a few."""
    at_once = 16
    async with serve(Limits(requests_in_flight=at_once, slow_client_timeout=30)) as served:
        begun = 0
        gate = trio.Event()

        async def messages(*_: object) -> MessagesPage:
            nonlocal begun
            begun += 1
            await gate.wait()
            return MessagesPage(messages=(b'"%b"' % (b"x" * size),), revision=1)

        size = 250_000
        monkeypatch.setattr(served.registry, "messages", messages)
        page = await raw_connection(served, receive_bytes=4096)
        await page.stream.send_all(masked("initialize", 0, protocol=1, client={"name": "t", "version": "1"}))
        for key in range(1, 100):
            await page.stream.send_all(masked("session.messages", key, session_id="ses_1"))
        await trio.testing.wait_all_tasks_blocked(0.05)  # as many are at work, and as many wait
        gate.set()
        await trio.testing.wait_all_tasks_blocked(0.2)
        waiting = begun * size - served.ref.gateway_statistics().bytes_sent
        assert at_once <= begun < 99 and waiting <= at_once * size + (1 << 20) + (256 << 10)
        answers, tail = 0, b""
        while answers < 99:  # and when it reads, all are answered
            data = tail + await page.stream.receive_some()
            answers += data.count(b'"revision":')
            tail = data[-len(b'"revision":') + 1 :]
        await trio.aclose_forcefully(page.stream)


async def test_replies_that_are_not_taken_pause_the_reading() -> None:
    """Requests whose replies nobody reads are not worked on for ever."""
    limits = Limits(requests_in_flight=4, slow_client_timeout=30)
    async with serve(limits) as served:
        page = await raw_connection(served, receive_bytes=4096)
        await page.stream.send_all(masked("initialize", 1, protocol=1, client={"name": "t", "version": "1"}))
        request = masked("session.create", 2, instructions="x" * 20_000)
        with trio.move_on_after(1.0) as scope:
            for _ in range(5000):
                await page.stream.send_all(request)
        assert scope.cancelled_caught, "the daemon took 100 MB of requests without giving a reply"
        await trio.aclose_forcefully(page.stream)
