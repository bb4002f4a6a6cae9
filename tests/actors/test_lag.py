"""A watcher that falls behind what the log keeps: a gap, a snapshot from the store, then live again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.gateway.watches import RunReader, RunWatch, Watch
from tests.actors.scripted import staged
from tests.actors.still import Still, still

__all__ = ["staged", "still"]


class Reader:
    """A connection with one watch, whose frames the test pulls when it wants."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.frames: list[tuple[str, dict[str, Any]]] = []

    def ring(self, watch: Watch) -> None:
        pass

    def want(self, reader: RunReader) -> None:
        async def tell() -> None:
            await reader.tell(await reader.feed.snapshot())

        self._nursery.start_soon(tell)

    def release(self, reader: RunReader) -> None:
        pass

    async def pull_all(self, watch: RunWatch) -> list[str]:
        """All frames that there are now; returns their methods."""
        methods = []
        while not watch.over:
            await wait_all_tasks_blocked()
            text = watch.pull(4096)
            if text is None:
                break
            frame = json.loads(text)
            methods.append(frame["method"])
            self.frames.append((frame["method"], frame["params"]))
        return methods

    def text(self) -> str:
        """What a client has: deltas, and snapshots in the place of what was before."""
        text, seq = "", 0
        for method, params in self.frames:
            if method == "run.events":
                for event in params["events"]:
                    assert event.get("from", event["seq"]) == seq + 1, "a hole"
                    seq = event["seq"]
                    text += event.get("text", "") if event["type"] == "part.delta" else ""
            elif method == "run.gap":
                assert params["from"] == seq + 1 and params["to"] > seq
            elif method == "run.snapshot":
                text = params.get("text", "") if not params["offset"] else text + params["text"]
                assert params["seq"] > seq or params["offset"]
                seq = params["seq"]
        return text


@pytest.mark.parametrize("bound", [{"run_log_entries": 32}, {"run_log_bytes": 2048}, {"all_logs_bytes": 4096}])
async def test_gap_then_snapshot_then_live(still: Still, mock_clock: MockClock, bound: dict[str, float]) -> None:
    async with still(**bound) as it, trio.open_nursery() as nursery:
        run, call = await it.stage.begin()
        slow, quick = Reader(nursery), Reader(nursery)
        slow_watch = RunWatch("w1", slow, run._feed, 0)
        quick_watch = RunWatch("w2", quick, run._feed, 0)
        whole = ""

        async def say(count: int) -> None:
            nonlocal whole
            for _ in range(count):
                piece = f'<{len(whole)}>"é\n' + "x" * 50
                whole += piece
                call.text(piece)
                await wait_all_tasks_blocked()
                await quick.pull_all(quick_watch)

        await say(3)
        assert await slow.pull_all(slow_watch) == ["run.events"]
        await say(150)
        assert run._feed.log.first_seq > 4, "the log has lost what the slow one has not read"
        assert (await slow.pull_all(slow_watch))[:2] == ["run.gap", "run.snapshot"]
        assert slow.frames[1][1]["reason"] == "log_overflow" and not slow.frames[-1][1].get("more")
        assert slow.text() == whole
        await say(3)
        assert await slow.pull_all(slow_watch) == ["run.events"], "live again"
        await say(150)  # and behind again, up to the end
        await it.end(run, call)
        methods = await slow.pull_all(slow_watch)
        assert methods[:2] == ["run.gap", "run.snapshot"] and methods[-1] == "watch.closed"
        await quick.pull_all(quick_watch)
        assert slow.text() == quick.text() == whole
        assert "run.gap" not in [method for method, _ in quick.frames], "it has kept up"
        assert slow.frames[-1][1]["reason"] == quick.frames[-1][1]["reason"] == "finished"
        for watch in (slow_watch, quick_watch):
            watch.close()
        assert not run._feed.watched


async def test_a_watcher_that_lags_until_after_the_eviction(still: Still, mock_clock: MockClock) -> None:
    """What it follows leaves memory under it; it is told from the log it still holds, or from the store."""
    async with still(run_log_entries=16) as it, trio.open_nursery() as nursery:
        run, call = await it.stage.begin()
        reader = Reader(nursery)
        watch = RunWatch("w1", reader, run._feed, 0)
        pieces = [f"<{number}>" for number in range(100)]
        for piece in pieces:
            call.text(piece)
            await wait_all_tasks_blocked()
        await it.end(run, call)
        await it.pass_time(300)
        assert it.held() == []
        methods = await reader.pull_all(watch)
        assert methods[0] == "run.gap" and methods[-1] == "watch.closed"
        assert reader.text() == "".join(pieces)
        assert reader.frames[-1][1]["status"] == "completed"
        watch.close()
