"""What leaves at once, what waits for more, and that frames are never mixed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.gateway.load import LoopMeter
from actors.gateway.transport import Transport
from tests.actors.gateway.fakes import FakeRun, Served, Wire, serve

# Real seconds without anything to do, until what a loopback socket brings has been dealt with.
QUIET = 0.005


async def watched(served: Served, wire: Wire, run_id: str) -> FakeRun:
    """A run that this client watches and has seen all of."""
    run = served.registry.add(FakeRun(run_id))
    run.start()
    await wire.request("run.watch", run_id=run_id)
    await wire.push()
    await wait_all_tasks_blocked(QUIET)
    return run


def frames_of(served: Served) -> int:
    return served.ref._gateway._counters.sent.frames


async def test_the_delta_of_a_lone_watch_leaves_before_anything_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopMeter, "gathering", lambda self: 0.0)  # as on a loop with little to do
    async with serve() as served, served.connect() as wire:
        run = await watched(served, wire, "run_1")
        for text in ("a", "b"):
            before = frames_of(served)
            run.delta(text)
            assert frames_of(served) == before + 1
        for text in ("a", "b"):
            _, params = await wire.push()
            assert [event["text"] for event in params["events"]] == [text]


async def test_the_deltas_of_several_watches_leave_together() -> None:
    async with serve() as served, served.connect() as wire:
        runs = [await watched(served, wire, run_id) for run_id in ("run_1", "run_2")]
        sent: list[bytes] = []
        whole = Transport.send_now

        def noted(self: Transport, data: bytes) -> int:
            sent.append(data)
            return whole(self, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Transport, "send_now", noted)
            for run in runs:
                run.delta("x")
            assert not sent
            told = {(await wire.push())[1]["run_id"] for _ in runs}
        assert told == {"run_1", "run_2"}
        assert len(sent) == 1


async def test_deltas_wait_while_the_loop_is_busy_and_facts_take_them_along() -> None:
    async with serve() as served, served.connect() as wire:
        run = await watched(served, wire, "run_1")
        served.ref._gateway._meter.gathering = lambda: 3600.0  # type: ignore[method-assign]
        before = frames_of(served)
        run.delta("a")
        run.delta("b")
        await wait_all_tasks_blocked(QUIET)
        assert frames_of(served) == before
        run.fact_between()
        _, params = await wire.push()
        assert [event["type"] for event in params["events"]] == ["part.delta", "run.status"]


async def test_a_frame_that_the_kernel_took_in_part_is_finished_before_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Transport.send_now
    async with serve() as served, served.connect() as wire:
        run = await watched(served, wire, "run_1")
        monkeypatch.setattr(Transport, "send_now", lambda self, data: whole(self, data[: len(data) // 2]))
        text = ""

        async def read() -> None:
            nonlocal text
            while (message := await wire.receive()).get("method") != "watch.closed":
                for event in message.get("params", {}).get("events", ()):
                    text += event.get("text", "") if event["type"] == "part.delta" else ""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for number in range(10):
                async with trio.open_nursery() as both:
                    both.start_soon(wire.socket.ping)  # the library's pong goes its own way to the socket
                    both.start_soon(wire.send, "ping")
                    run.delta(f"{number} ")
                    run.delta("x" * 3000)
            run.finish()
        assert text == "".join(f"{number} {'x' * 3000}" for number in range(10))


async def test_a_defect_while_a_delta_is_sent_ends_the_connection_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LoopMeter, "gathering", lambda self: 0.0)  # as on a loop with little to do
    async with serve() as served, served.connect() as wire:
        run = await watched(served, wire, "run_1")

        def defect(self: Transport, data: bytes) -> int:
            raise KeyError

        with monkeypatch.context() as patch:
            patch.setattr(Transport, "send_now", defect)
            run.delta("x")
        assert not run.feed.watched
        assert await wire.close_code() == 1011
    assert "could not be sent" in caplog.text
