"""Watches over a real socket: order, resuming at any cursor, gaps, sessions, ends."""

from __future__ import annotations

import functools
import json

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.gateway.watches import RunReader, RunWatch, Watch
from engine.limits import Limits
from tests.actors.gateway.fakes import FakeRun, Served, ToldSnapshot, Wire, serve, session


async def watch(wire: Wire, run_id: str = "run_1", after: int = 0) -> str:
    result = await wire.request("run.watch", run_id=run_id, after=after)
    assert result["run"]["id"] == run_id
    watch_id: str = result["watch_id"]
    return watch_id


async def test_a_run_is_told_to_its_end() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        watch_id = await watch(wire)
        assert wire.pushes == []  # the reply comes before the first push
        method, params = await wire.push()
        assert [event["type"] for event in params["events"]] == ["run.started", "part.started"]
        assert params["run_id"] == "run_1"
        for text in ("a", 'é"\\\n', "😀"):
            run.delta(text)
            method, params = await wire.push()
            assert method == "run.events"
            (event,) = params["events"]
            assert event["text"] == text and "from" not in event
        run.finish()
        assert await wire.read_run(watch_id) == ("", 6, ["run.events", "watch.closed"])
        assert (await wire.error("watch.close", watch_id=watch_id))["data"]["code"] == "unknown_watch"
        assert not run.feed.watched


async def test_the_last_push_of_a_watch_says_how_it_ended() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        watch_id = await watch(wire)
        await wire.push()
        run.finish("cancelled")
        await wire.push()
        assert await wire.push() == (
            "watch.closed",
            {"watch_id": watch_id, "run_id": "run_1", "status": "cancelled", "reason": "finished"},
        )


async def test_a_started_run_is_watched_from_its_first_event() -> None:
    async with serve() as served, served.connect() as wire:
        result = await wire.request("run.start", session_id="ses_1", text="hi", watch=True)
        assert wire.pushes == []
        _, params = await wire.push()
        assert params["watch_id"] == result["watch_id"] and params["events"][0]["seq"] == 1
        assert served.registry.runs[result["run"]["id"]].feed.watched


async def test_a_closed_watch_is_told_nothing_more() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        watch_id = await watch(wire)
        await wire.push()
        assert await wire.request("watch.close", watch_id=watch_id) == {}
        assert not run.feed.watched
        run.delta("x")
        await wire.request("ping")
        assert wire.pushes == []


@pytest.mark.parametrize("length", [1, 700])
async def test_resuming_at_any_cursor_gives_the_same_text(length: int) -> None:
    """Small and large deltas; the cut is at every event, by another connection each."""
    pieces = [chr(0x20AC + n) + "ab"[n % 2] * length for n in range(120)]
    whole = "".join(pieces)
    async with serve() as served:
        run = served.registry.add(FakeRun())
        run.start()
        for piece in pieces[:60]:
            run.delta(piece)
        run.fact_between()
        for piece in pieces[60:]:
            run.delta(piece)
        run.finish()
        last = run.feed.log.last_seq
        texts: dict[int, str] = {}

        async def resume(after: int) -> None:
            async with served.connect() as wire:
                text, seq, kinds = await wire.read_run(await watch(wire, after=after))
                assert seq in (last, 0) and kinds[-1] == "watch.closed" and set(kinds[:-1]) <= {"run.events"}
                texts[after] = text

        for begin in range(0, last + 1, 20):
            async with trio.open_nursery() as nursery:
                for after in range(begin, min(begin + 20, last + 1)):
                    nursery.start_soon(resume, after)
        # Two events come before the text, one between its halves, one behind it.
        for after, text in texts.items():
            had = max(0, after - 2) if after <= 62 else min(after - 3, 120)
            assert "".join(pieces[:had]) + text == whole, after
        assert len(texts) == last + 1


async def test_a_cursor_older_than_the_log_gets_a_gap_and_a_snapshot() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun(entries=4))
        run.start()
        for n in range(20):
            run.delta(f"{n} ")
        watch_id = await watch(wire, after=3)
        method, gap = await wire.push()
        assert (method, gap["from"], gap["to"], gap["reason"]) == ("run.gap", 4, 22, "log_overflow")
        run.delta("live ")
        shown = ""
        for more in (True, False):
            method, piece = await wire.push()
            assert method == "run.snapshot" and piece["watch_id"] == watch_id
            assert (piece["offset"], piece["more"]) == (len(shown), more)
            shown += piece["text"]
        run.finish()
        rest, seq, _ = await wire.read_run(watch_id)
        assert shown + rest == run.text and seq == run.feed.log.last_seq


async def test_a_cursor_above_the_run_is_of_another_life() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        run.delta("text")
        run.finish()
        watch_id = await watch(wire, after=99)
        method, gap = await wire.push()
        assert (method, gap["reason"], gap["from"], gap["to"]) == ("run.gap", "restart", 1, 4)
        assert await wire.read_run(watch_id) == ("text", 4, ["run.snapshot", "run.snapshot", "watch.closed"])


async def test_an_evicted_run_is_told_from_the_store() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        run.delta("final")
        run.finish()
        run.feed.log.clear()
        run.feed.close("evicted")
        watch_id = await watch(wire)
        assert (await wire.push())[1]["reason"] == "evicted"
        for _ in range(2):
            assert (await wire.push())[0] == "run.snapshot"
        assert (await wire.push())[1] == {
            "watch_id": watch_id, "run_id": "run_1", "status": "completed", "reason": "evicted",
        }  # fmt: skip
        # Who has everything needs no snapshot.
        watch_id = await watch(wire, after=run.feed.log.last_seq)
        assert (await wire.push())[1]["reason"] == "finished"


async def test_a_snapshot_that_fails_leaves_the_watch_alive(caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun(entries=4))
        run.start()
        for n in range(20):
            run.delta(str(n))

        async def fail() -> None:
            raise OSError("the disk is gone")

        run.feed.snapshots_from(fail)  # type: ignore[arg-type]
        watch_id = await watch(wire)
        assert (await wire.push())[0] == "run.gap"
        await trio.testing.wait_all_tasks_blocked()
        run.finish()
        assert (await wire.read_run(watch_id))[2] == ["run.events", "watch.closed"]
        assert "the disk is gone" in caplog.text


async def test_many_snapshots_of_one_connection_come_one_at_a_time() -> None:
    async with serve() as served, served.connect() as wire:
        at_once: list[int] = []
        running = 0
        for n in range(6):
            run = served.registry.add(FakeRun(f"run_{n}", entries=4))
            run.start()
            for _ in range(20):
                run.delta("x")

            async def counted(tell: object = run._snapshot) -> object:
                nonlocal running
                running += 1
                at_once.append(running)
                try:
                    return await tell()  # type: ignore[operator]
                finally:
                    running -= 1

            run.feed.snapshots_from(counted)  # type: ignore[arg-type]
            run.finish()
        for n in range(6):
            await wire.send("run.watch", run_id=f"run_{n}")
        closed = 0
        while closed < 6:
            closed += (await wire.receive()).get("method") == "watch.closed"
        assert at_once == [1] * 6


async def test_watches_of_one_connection_are_bounded() -> None:
    async with serve(Limits(watches_per_connection=3)) as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        ids = [await watch(wire) for _ in range(3)]
        error = await wire.error("run.watch", run_id="run_1")
        assert error["data"]["code"] == "overloaded" and error["data"]["retry_after_ms"] > 0
        # A run is not started if it could not be told.
        error = await wire.error("run.start", session_id="ses_1", text="hi", watch=True)
        assert error["data"]["code"] == "overloaded" and list(served.registry.runs) == ["run_1"]
        assert (await wire.error("session.watch", session_id="ses_1"))["data"]["code"] == "overloaded"
        await wire.request("watch.close", watch_id=ids[0])
        for unknown in ("run_9", "run_9"):  # a failed watch gives its place back
            assert (await wire.error("run.watch", run_id=unknown))["data"]["code"] == "unknown_run"
        assert await watch(wire) not in ids
        assert run.feed.watched


async def test_a_busy_watch_does_not_starve_the_others() -> None:
    async with serve() as served, served.connect() as wire:
        for name in ("run_1", "run_2"):
            run = served.registry.add(FakeRun(name))
            run.start()
            for _ in range(700):
                run.delta("x" * 1000)
        await wire.send("run.watch", run_id="run_1")
        await wire.send("run.watch", run_id="run_2")
        order: list[str] = []
        while len(order) < 8:
            frame = await wire.receive()
            if "method" in frame:
                order.append(frame["params"]["run_id"])
        assert 3 <= order.count("run_2") <= 5 or order.index("run_2") <= 4


async def test_frames_stay_below_their_bound() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        for _ in range(900):
            run.delta("é" * 500)
        run.finish()
        await wire.send("run.watch", run_id="run_1")
        sizes = []
        while True:
            text = await wire.socket.get_message()
            sizes.append(len(text.encode() if isinstance(text, str) else text))
            if '"watch.closed"' in str(text):
                break
        assert max(sizes) <= 256 * 1024 and sum(sizes) >= 900_000


# ------------------------------------------------------------------ sessions
async def test_a_session_watch_shows_its_runs_one_after_another() -> None:
    async with serve() as served, served.connect() as wire:
        old = served.registry.add(FakeRun("run_old"))
        old.start()
        old.finish()
        result = await wire.request("session.watch", session_id="ses_1")
        assert result["runs"] == []
        for name in ("run_2", "run_3"):
            run = served.registry.add(FakeRun(name))
            run.start()
            run.delta(name)
            run.finish()
        seen = await collect(wire, "run_3")
        assert seen == {"run_2": "run_2", "run_3": "run_3"}
        assert not run.feed.watched


async def collect(wire: Wire, last: str) -> dict[str, str]:
    seen: dict[str, str] = {}
    while True:
        method, params = await wire.push()
        if method == "run.events":
            text = "".join(event.get("text", "") for event in params["events"])
            seen[params["run_id"]] = seen.get(params["run_id"], "") + text
            if params["run_id"] == last and params["events"][-1]["type"] == "run.finished":
                return seen


async def test_a_session_watch_begins_with_the_active_run() -> None:
    async with serve() as served, served.connect() as wire:
        for name in ("run_1", "run_2"):
            run = served.registry.add(FakeRun(name))
            run.start()
            run.delta(name)
            if name == "run_1":
                run.finish()
        result = await wire.request("session.watch", session_id="ses_1")
        assert result["runs"] == [{"run_id": "run_2", "status": "running", "first_seq": 1, "last_seq": 3}]
        run.finish()
        assert await collect(wire, "run_2") == {"run_2": "run_2"}


async def test_a_session_watch_resumes_where_it_was() -> None:
    async with serve() as served, served.connect() as wire:
        runs = {}
        for name in ("run_1", "run_2", "run_3"):
            run = runs[name] = served.registry.add(FakeRun(name))
            run.start()
            run.delta("head ")
            run.delta("tail")
            if name != "run_3":
                run.finish()
        # Read to seq 3 of the second; the first was read before and is not told again.
        result = await wire.request("session.watch", session_id="ses_1", after={"run_2": 3})
        assert [run["run_id"] for run in result["runs"]] == ["run_2", "run_3"]
        runs["run_3"].finish()
        assert await collect(wire, "run_3") == {"run_2": "tail", "run_3": "head tail"}


async def test_a_run_that_has_left_memory_is_told_before_the_others() -> None:
    async with serve() as served, served.connect() as wire:
        gone = served.registry.add(FakeRun("run_1"))
        gone.start()
        gone.delta("final")
        gone.finish()
        gone.feed.log.clear()
        gone.feed.close("evicted")
        served.registry.sessions["ses_1"].remove(gone.feed)
        run = served.registry.add(FakeRun("run_2"))
        run.start()
        run.delta("live")
        run.finish()
        await wire.request("session.watch", session_id="ses_1", after={"run_1": 2})
        kinds = [await wire.push() for _ in range(3)]
        assert [kind for kind, _ in kinds] == ["run.gap", "run.snapshot", "run.snapshot"]
        assert "".join(params.get("text", "") for _, params in kinds) == "final"
        assert await collect(wire, "run_2") == {"run_2": "live"}
        stranger = served.registry
        stranger.runs["run_x"] = FakeRun("run_x", session_id="ses_other")
        error = await wire.error("session.watch", session_id="ses_1", after={"run_x": 1})
        assert error["data"]["code"] == "unknown_run"


async def test_a_run_that_waits_is_told_when_its_turn_comes_and_once() -> None:
    async with serve() as served, served.connect() as wire:
        active = served.registry.add(FakeRun("run_1"))
        active.start()
        waiting = served.registry.runs["run_2"] = FakeRun("run_2")  # not among the session's runs yet
        waiting.feed.run = attrs.evolve(waiting.feed.run, status="queued")
        # Whoever comes back names all runs that it knows, with what it has of each: of this one nothing.
        for after in ({"run_2": 0}, {"run_2": 7, "run_1": 2}):
            result = await wire.request("session.watch", session_id="ses_1", after=after)
            assert [run["run_id"] for run in result["runs"]] == ["run_1"]
        active.delta("first")
        active.finish()
        served.registry.sessions["ses_1"].add(waiting.feed)
        waiting.start()
        waiting.delta("second")
        waiting.finish()
        pushes = []
        ends = 0
        while ends < 4:  # two runs, two watches
            pushes.append(await wire.push())
            ends += sum(event["type"] == "run.finished" for event in pushes[-1][1]["events"])
        assert {method for method, _ in pushes} == {"run.events"}
        for watch_id, begin in (("w1", 1), ("w2", 3)):
            seqs = [
                (params["run_id"], event["seq"])
                for _, params in pushes
                if params["watch_id"] == watch_id
                for event in params["events"]
            ]
            assert seqs == [("run_1", n) for n in range(begin, 5)] + [("run_2", n) for n in range(1, 5)]


async def test_a_run_that_begins_while_a_watch_is_made_is_told_once() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.runs["run_2"] = FakeRun("run_2")
        held = served.registry.held["watch_run"] = trio.Event()
        await wire.send("session.watch", session_id="ses_1", after={"run_2": 0})
        await trio.testing.wait_all_tasks_blocked()
        served.registry.sessions["ses_1"].add(run.feed)
        run.start()
        run.delta("once")
        held.set()
        assert (await wire.receive())["result"]["runs"][0]["run_id"] == "run_2"
        run.finish()
        assert await collect(wire, "run_2") == {"run_2": "once"}
        await wire.request("ping")
        assert wire.pushes == []


async def test_nothing_is_missed_of_a_run_that_has_no_events_yet() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        await wire.request("run.watch", run_id="run_1", after=5)
        run.start()
        method, params = await wire.push()
        assert (method, params["events"][0]["seq"]) == ("run.events", 1)


async def test_changes_of_a_session_are_told_once_for_many() -> None:
    async with serve() as served, served.connect() as wire:
        await wire.request("session.watch", session_id="ses_1")
        await wire.request("session.update", session_id="ses_1", title="one")
        assert (await wire.push())[1]["session"]["title"] == "one"
        feed = served.registry.sessions["ses_1"]
        for n in range(50):
            feed.change(session(revision=n))
        method, params = await wire.push()
        assert method == "session.changed" and params["session"]["revision"] == 49
        await wire.request("ping")
        assert wire.pushes == []


async def test_a_deleted_session_ends_its_watches() -> None:
    async with serve() as served, served.connect() as wire:
        result = await wire.request("session.watch", session_id="ses_1")
        await wire.send("session.delete", session_id="ses_1")
        frames = [await wire.receive(), await wire.receive()]
        (closed,) = [frame["params"] for frame in frames if "method" in frame]
        assert closed == {"watch_id": result["watch_id"], "reason": "deleted"}


async def test_nothing_stays_attached_when_a_connection_breaks() -> None:
    async with serve() as served:
        run = served.registry.add(FakeRun())
        run.start()
        feed = served.registry.sessions["ses_1"]

        async def come_and_go(served: Served) -> None:
            async with served.connect() as wire:
                await watch(wire)
                await wire.request("session.watch", session_id="ses_1")
                await trio.aclose_forcefully(wire.socket._stream)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(functools.partial(come_and_go, served))
        while served.ref.gateway_statistics().sockets:
            run.delta("x")
            await trio.testing.wait_all_tasks_blocked()
        assert not run.feed.watched and not feed.watched


class Silent:
    """A connection that sends nothing by itself."""

    def __init__(self) -> None:
        self.wanted: list[RunReader] = []

    def ring(self, watch: Watch) -> None:
        pass

    def want(self, reader: RunReader) -> None:
        self.wanted.append(reader)

    def release(self, reader: RunReader) -> None:
        if reader in self.wanted:
            self.wanted.remove(reader)


async def test_a_snapshot_is_read_no_faster_than_it_is_sent() -> None:
    run = FakeRun(entries=4)
    run.start()
    for _ in range(20):
        run.delta("x")
    post = Silent()
    watch = RunWatch("w1", post, run.feed, 1)
    assert "run.gap" in (watch.pull(1000) or "")
    (reader,) = post.wanted
    pieces = [b'{"n":%d}' % n for n in range(100)]
    snapshot = ToldSnapshot(run.feed.log.last_seq, pieces[::-1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.tell, snapshot)
        await wait_all_tasks_blocked()
        assert len(snapshot.pieces) >= 95  # a connection that is stuck holds no more than a few
        told = []
        while len(told) < 100:
            told.append(json.loads(watch.pull(1000) or "")["params"]["n"])
            await wait_all_tasks_blocked()
    assert told == list(range(100)) and not post.wanted
    run.delta("y")
    assert '"text":"y"' in (watch.pull(1000) or "")


async def test_a_watch_that_is_closed_reads_no_more_of_its_snapshot() -> None:
    run = FakeRun(entries=4)
    run.start()
    for _ in range(20):
        run.delta("x")
    post = Silent()
    watch = RunWatch("w1", post, run.feed, 1)
    watch.pull(1000)
    (reader,) = post.wanted
    snapshot = ToldSnapshot(run.feed.log.last_seq, [b'{"n":0}'] * 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.tell, snapshot)
        await wait_all_tasks_blocked()
        watch.close()
    assert len(snapshot.pieces) >= 95 and not reader.pieces and not post.wanted
