"""Watches against a server that the test plays: order, bounds, beginning again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.client import (
    Client,
    ConnectionLost,
    Watch,
    connect,
)
from actors.client.link import INBOX_PUSHES
from tests.actors.client.fake import TOKEN, FakeDaemon, fake_daemon, serving

LIMIT = 60.0


async def deltas(watch: Watch, last: int) -> str:
    """The text of all deltas up to the seq `last`."""
    text = ""
    async for push in watch:
        text += "".join(event["text"] for event in push.events)
        if push.events and push.events[-1]["seq"] >= last:
            break
    return text


def numbers(first: int, last: int) -> str:
    return "".join(f"{n} " for n in range(first, last + 1))


async def test_a_watch_gives_pushes_in_order_until_it_is_closed() -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client:
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    asked = await daemon.asked("run.watch")
                    assert asked.params == {"run_id": "run_1", "after": 4}
                    await asked.reply(watch_id="w1", run={"id": "run_1"})
                    await asked.push("something.new", watch_id="w9", what=1)
                    await asked.push("server.notice", text="hello")
                    await asked.push_deltas("w1", 5, 8)
                    await asked.push(
                        "watch.closed", watch_id="w1", run_id="run_1", status="completed", reason="finished"
                    )

                nursery.start_soon(serve)
                async with client.watch_run("run_1", after=4) as watch:
                    pushes = [push async for push in watch]
            assert [push.method for push in pushes] == ["run.events"] * 4 + ["watch.closed"]
            assert "".join(event["text"] for push in pushes for event in push.events) == "5 6 7 8 "
            assert daemon.nothing_asked()  # a watch that has ended is not closed again


async def test_leaving_a_watch_closes_it_at_the_daemon() -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client:
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    asked = await daemon.asked("run.watch")
                    await asked.reply(watch_id="w1", run={})
                    await asked.push_deltas("w1", 1, 1)

                nursery.start_soon(serve)
                async with client.watch_run("run_1") as watch:
                    assert (await watch.receive()).events[0]["seq"] == 1
            closing = await daemon.asked("watch.close")
            assert closing.params == {"watch_id": "w1"}
            with pytest.raises(trio.ClosedResourceError):
                await watch.receive()


async def test_a_watch_whose_request_was_cancelled_is_closed_when_its_reply_comes() -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async with client.watch_run("run_1"):
                        raise AssertionError("it was cancelled")

                nursery.start_soon(watch)
                asked = await daemon.asked("run.watch")
                nursery.cancel_scope.cancel()
            await asked.reply(watch_id="w5", run={})
            assert (await daemon.asked("watch.close")).params == {"watch_id": "w5"}


async def test_a_reader_that_falls_behind_holds_little_and_misses_nothing() -> None:
    behind = trio.Event()

    async def serve(daemon: FakeDaemon) -> None:
        asked = await daemon.asked("run.watch")
        await asked.reply(watch_id="w1", run={})
        await asked.push_deltas("w1", 1, 200)
        closing = await daemon.asked("watch.close")
        assert closing.params == {"watch_id": "w1"}
        await closing.reply()
        behind.set()
        # A request of another task is answered while the reader of the watch does nothing.
        await (await daemon.asked("ping")).reply()
        again = await daemon.asked("run.watch")
        assert again.params == {"run_id": "run_1", "after": INBOX_PUSHES}
        await again.reply(watch_id="w2", run={})
        await again.push_deltas("w2", INBOX_PUSHES + 1, 2 * INBOX_PUSHES)

    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client, trio.open_nursery() as nursery:
            nursery.start_soon(serve, daemon)
            async with client.watch_run("run_1") as watch:
                await behind.wait()
                await client.request("ping")
                assert await deltas(watch, 2 * INBOX_PUSHES) == numbers(1, 2 * INBOX_PUSHES)


async def test_a_cut_connection_fails_what_waits_and_ends_watches() -> None:
    daemon = FakeDaemon()
    failed: list[str] = []

    async def wait_for_a_reply(client: Client) -> None:
        with pytest.raises(ConnectionLost):
            await client.request("run.get", {"run_id": "run_1"})
        failed.append("the reply")

    async def serve(cut: Callable[[], None]) -> None:
        asked = await daemon.asked("run.watch")
        await asked.reply(watch_id="w1", run={})
        await asked.push_deltas("w1", 1, 2)
        await daemon.asked("run.get")
        cut()

    with trio.fail_after(LIMIT):
        async with serving(daemon) as cut, connect(daemon.url, token=TOKEN) as client, trio.open_nursery() as nursery:
            nursery.start_soon(serve, cut)
            async with client.watch_run("run_1") as watch:
                assert await deltas(watch, 2) == "1 2 "
                nursery.start_soon(wait_for_a_reply, client)
                with pytest.raises(ConnectionLost):
                    await watch.receive()
                failed.append("the watch")
            with pytest.raises(ConnectionLost):
                await client.request("ping")
    assert sorted(failed) == ["the reply", "the watch"]


async def test_it_connects_again_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """The daemon is another one behind the same files, with another port."""
    first, second = FakeDaemon(), FakeDaemon()
    with trio.fail_after(LIMIT):
        async with serving(second), serving(first) as cut:
            first.announce(tmp_path)
            async with connect(data_dir=tmp_path, reconnect=LIMIT) as client, trio.open_nursery() as nursery:

                async def serve() -> None:
                    asked = await first.asked("run.start")
                    key = asked.params.pop("idempotency_key")
                    assert asked.params == {"session_id": "ses_1", "text": "count", "watch": True}
                    assert len(key) == 32
                    await asked.reply(run={"id": "run_1"}, message_id="msg_1", revision=1, watch_id="w1")
                    await asked.push_deltas("w1", 1, 3)
                    second.announce(tmp_path)
                    cut()
                    again = await second.asked("run.watch")
                    assert again.params["after"] <= 3
                    await again.reply(watch_id="w1", run={})
                    await again.push_deltas("w1", again.params["after"] + 1, 6)
                    await (await second.asked("ping")).reply()

                nursery.start_soon(serve)
                async with client.start_run("ses_1", "count") as started:
                    assert (started.run, started.message_id) == ({"id": "run_1"}, "msg_1")
                    assert await deltas(started.events, 6) == "1 2 3 4 5 6 "
                    await client.request("ping")


async def test_a_start_whose_reply_was_lost_is_sent_again_with_the_same_key(tmp_path: Path) -> None:
    first, second = FakeDaemon(), FakeDaemon()
    with trio.fail_after(LIMIT):
        async with serving(second), serving(first) as cut:
            first.announce(tmp_path)
            async with connect(data_dir=tmp_path, reconnect=LIMIT) as client, trio.open_nursery() as nursery:

                async def serve() -> None:
                    lost = await first.asked("run.start")
                    second.announce(tmp_path)
                    cut()
                    asked = await second.asked("run.start")
                    assert asked.params == lost.params
                    await asked.reply(run={"id": "run_1"}, message_id="msg_1", revision=1)
                    # A repeated start need not begin a watch: then the client asks for one.
                    watch = await second.asked("run.watch")
                    assert watch.params == {"run_id": "run_1", "after": 0}
                    await watch.reply(watch_id="w1", run={})
                    await watch.push_deltas("w1", 1, 1)

                nursery.start_soon(serve)
                async with client.start_run("ses_1", "count") as started:
                    assert await deltas(started.events, 1) == "1 "


async def test_a_gap_moves_the_cursor_behind_its_last_snapshot(tmp_path: Path) -> None:
    first, second = FakeDaemon(), FakeDaemon()
    with trio.fail_after(LIMIT):
        async with serving(second), serving(first) as cut:
            first.announce(tmp_path)
            async with connect(data_dir=tmp_path, reconnect=LIMIT) as client, trio.open_nursery() as nursery:

                async def serve() -> None:
                    asked = await first.asked("run.watch")
                    await asked.reply(watch_id="w1", run={})
                    snapshot = {"watch_id": "w1", "run_id": "run_1", "seq": 90, "status": "running"}
                    await asked.push(
                        "run.gap", watch_id="w1", run_id="run_1", reason="log_overflow", **{"from": 1, "to": 90}
                    )
                    await asked.push("run.snapshot", **snapshot, text="a", more=True)
                    await asked.push("run.snapshot", **snapshot, text="b", more=False)

                nursery.start_soon(serve)
                async with client.watch_run("run_1") as watch:
                    assert (await watch.receive()).method == "run.gap"
                    assert (await watch.receive()).params["text"] == "a"
                    assert watch.cursor == 0  # half a snapshot is none
                    assert (await watch.receive()).params["text"] == "b"
                    second.announce(tmp_path)
                    cut()
                    nursery.start_soon(watch.receive)
                    assert (await second.asked("run.watch")).params == {"run_id": "run_1", "after": 90}
                    nursery.cancel_scope.cancel()


async def test_a_session_watch_remembers_a_cursor_for_each_open_run() -> None:
    behind = trio.Event()

    async def serve(daemon: FakeDaemon) -> None:
        asked = await daemon.asked("session.watch")
        assert asked.params == {"session_id": "ses_1", "after": {"run_0": 5}}
        await asked.reply(watch_id="w1", runs=[])
        await asked.push("session.changed", watch_id="w1", session={"id": "ses_1"})
        for run_id in ("run_1", "run_2"):
            event = {"seq": 3, "at": 1, "type": "turn.started", "turn": 1, "message_id": "msg_1"}
            await asked.push("run.events", watch_id="w1", run_id=run_id, events=[event])
        event = {"seq": 4, "at": 1, "type": "run.finished", "status": "completed", "usage": {}}
        await asked.push("run.events", watch_id="w1", run_id="run_1", events=[event])
        # Enough for the inbox to overflow: the client asks again, from where it is.
        await asked.push_deltas("w1", 5, 100, run_id="run_2")
        closing = await daemon.asked("watch.close")
        await closing.reply()
        behind.set()
        again = await daemon.asked("session.watch")
        assert again.params["after"]["run_0"] == 5 and again.params["after"].keys() == {"run_0", "run_2"}
        await again.reply(watch_id="w2", runs=[])
        await again.push("watch.closed", watch_id="w2", reason="deleted")

    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client, trio.open_nursery() as nursery:
            nursery.start_soon(serve, daemon)
            async with client.watch_session("ses_1", after={"run_0": 5}) as watch:
                assert (await watch.receive()).method == "session.changed"
                await behind.wait()
                assert [push async for push in watch][-1].params["reason"] == "deleted"
