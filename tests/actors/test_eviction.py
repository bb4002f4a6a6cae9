"""Eviction of ended runs: what stays, what goes, when, and in which order. On clocks that stand still."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._feed import RunFeed
from engine.commands import StartRun
from engine.ids import run_id
from engine.limits import Limits
from engine.runs.log import ReplayLog
from engine.runs.record import Run
from tests.actors.scripted import log_of, staged, text_of, until_text
from tests.actors.still import Still, StillStage, closings, still

__all__ = ["staged", "still"]

RETENTION = Limits().terminal_retention
NO_DEADLINES: dict[str, float] = {"run_timeout": 1e12, "call_timeout": 1e12}
INSTANT = 2.0**-10  # seconds: added to whole seconds without a rounding


# ------------------------------------------------------------------ in time
async def test_the_defaults_are_those_of_the_contract() -> None:
    assert (RETENTION, Limits().terminal_retained_max) == (300, 256)


async def test_kept_just_before_the_retention_and_gone_at_it(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        run = await it.one("said")
        registry = it.stage.registry
        await it.pass_time(RETENTION - INSTANT)
        feed = await registry.watch_run(run.id)
        assert feed is run._feed and not feed.evicted
        assert text_of(log_of(feed)) == "said"
        await it.pass_time(INSTANT)
        assert feed.closed == "evicted" and it.held() == []
        late = await registry.watch_run(run.id)
        assert late.evicted and late is not feed
        assert b'"text":"said"' in (await (await late.snapshot()).next() or b"")
        assert await registry.get_run(run.id) == run.record


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "interrupted"])
async def test_each_kind_of_end_is_evicted_alike(still: Still, mock_clock: MockClock, how: str) -> None:
    async with still() as it:
        run = await it.one("said", how)
        assert it.held() == [run.id]
        await it.pass_time(RETENTION - INSTANT)
        assert it.held() == [run.id]
        await it.pass_time(INSTANT)
        assert it.held() == [] and run._feed.closed == "evicted"
        figures = it.stage.registry.registry_statistics()
        assert (figures.retained_runs, figures.active_runs, figures.log_bytes) == (0, 0, 0)
        assert (await it.stage.registry.get_run(run.id)).status == how


async def test_a_run_that_was_cancelled_while_it_waited_is_evicted_alike(still: Still, mock_clock: MockClock) -> None:
    async with still(**NO_DEADLINES) as it:
        active, _ = await it.stage.begin()
        session = await it.stage.engine.session(await it.stage.session_of(active))
        waiting = await session.start("later", when_busy="queue")
        await it.pass_time(10 * RETENTION)
        assert it.held() == [active.id, waiting.id], "a run that waits is not an ended one"
        await waiting.stop()
        await it.pass_time(RETENTION - INSTANT)
        assert waiting.id in it.held()
        await it.pass_time(INSTANT)
        assert it.held() == [active.id]


async def test_each_goes_at_its_own_time_in_the_order_of_their_ends(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        begun = [await it.stage.begin() for _ in range(3)]
        gone = closings(*(run._feed for run, _ in begun))
        first, second, third = (run.id for run, _ in begun)
        for index in (2, 0, 1):  # ten seconds apart
            await it.end(*begun[index])
            await it.pass_time(10)
        await it.pass_time(RETENTION - 30 - INSTANT)
        assert gone == []
        await it.pass_time(INSTANT)
        assert gone == [third]
        await it.pass_time(10 - INSTANT)
        assert gone == [third]
        await it.pass_time(INSTANT)
        assert gone == [third, first]
        await it.pass_time(10)
        assert gone == [third, first, second] and it.held() == []


async def test_several_that_are_due_at_once_go_in_the_order_of_their_ends(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        begun = [await it.stage.begin() for _ in range(4)]
        gone = closings(*(run._feed for run, _ in begun))
        ends = [begun[index] for index in (1, 3, 0, 2)]
        for number, (run, call) in enumerate(ends):
            await it.end(run, call)
            if number % 2:  # two by two at the same time
                await it.pass_time(INSTANT)
        await it.pass_time(2 * RETENTION)
        assert gone == [run.id for run, _ in ends]


async def test_a_late_stop_does_not_renew_the_time(still: Still, mock_clock: MockClock) -> None:
    """The stamp of an end is set once."""
    async with still() as it:
        run = await it.one()
        await it.pass_time(RETENTION - 1)
        assert (await run.stop("late")).status == "completed"
        await it.pass_time(1 - INSTANT)
        assert it.held() == [run.id]
        await it.pass_time(INSTANT)
        assert it.held() == []


async def test_an_idle_daemon_frees_by_itself(still: Still, mock_clock: MockClock) -> None:
    """Nobody uses anything: the timer alone wakes, for the first end and then for the next."""
    async with still(passivate_after=10 * RETENTION) as it:
        for _ in range(3):
            await it.one("x" * 1000)
            await it.pass_time(100)
        assert len(it.held()) == 2, "the first has had its time while others came"
        held = it.stage.registry.registry_statistics().log_bytes
        assert held > 2 * 1000
        await it.pass_time(100)
        assert it.stage.registry.registry_statistics().log_bytes == held // 2
        await it.pass_time(100)
        assert it.stage.registry.registry_statistics().log_bytes == 0 and it.held() == []


# ------------------------------------------------------------------ active runs
async def test_an_active_run_is_never_evicted_whatever_the_clock(still: Still, mock_clock: MockClock) -> None:
    async with still(**NO_DEADLINES, terminal_retained_max=1) as it:
        run, call = await it.stage.begin()
        call.text("half ")
        await until_text(run, "half ")
        for years in (0.1, 1, 10):
            it.wall.ms += int(years * 365.25 * 86_400_000)
            await it.pass_time(years * 365.25 * 86_400)
            await it.one()  # beyond the cap too it is others that go
            await it.one()
        assert len(it.held()) == 2 and await it.stage.registry.watch_run(run.id) is run._feed
        call.text("whole")
        await it.end(run, call)
        assert text_of(log_of(run._feed)) == "half whole"
        # Its time begins with its end.
        await it.pass_time(RETENTION - INSTANT)
        assert it.held() == [run.id]


async def test_a_run_whose_stop_takes_long_is_active_until_its_end(still: Still, mock_clock: MockClock) -> None:
    async with still(**NO_DEADLINES, cancel_grace=1e12) as it:
        run, _ = await it.stage.begin()
        lock = run._feed._snapshot.__self__._boundary  # type: ignore[union-attr]
        await lock.acquire()  # the run waits for it before it settles
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.stop)
            await wait_all_tasks_blocked()
            assert run.record.status == "stopping"
            await it.pass_time(3 * RETENTION)
            assert it.held() == [run.id] and run._feed.closed is None
            lock.release()
        assert run.record.status == "cancelled"


# ------------------------------------------------------------------ the cap
async def test_beyond_the_cap_the_oldest_end_goes_not_the_oldest_start(still: Still, mock_clock: MockClock) -> None:
    async with still(terminal_retained_max=2) as it:
        begun = [await it.stage.begin() for _ in range(4)]
        ids = [run.id for run, _ in begun]
        gone = closings(*(run._feed for run, _ in begun))
        for index in (3, 0):
            await it.end(*begun[index])
            await it.pass_time(1)
        assert gone == [], "exactly as many as are kept"
        await it.end(*begun[2])
        assert gone == [ids[3]]
        await it.end(*begun[1])
        assert gone == [ids[3], ids[0]]
        assert it.held() == [ids[1], ids[2]]


async def test_the_default_cap(still: Still, mock_clock: MockClock) -> None:
    """One more than are kept, as sessions tell the registry of their runs."""
    async with still() as it:
        feeds = [told_run(it, number) for number in range(257)]
        gone = closings(*feeds)
        assert it.stage.registry.registry_statistics().active_runs == 257
        for feed in feeds[:256]:
            tell_end(it, feed)
        await wait_all_tasks_blocked()
        assert gone == [] and it.stage.registry.registry_statistics().retained_runs == 256
        tell_end(it, feeds[256])
        await wait_all_tasks_blocked()
        assert gone == [feeds[0].run.id] and it.stage.registry.registry_statistics().retained_runs == 256


def told_run(it: StillStage, number: int, text: str = "") -> RunFeed:
    """A run that the registry is told of, in a session of its own."""
    run = Run(
        id=run_id(), session_id=f"ses_{number}", status="running", model="model", created_at=it.wall.ms, started_at=0
    )
    limits = it.actor._limits
    log = ReplayLog(
        max_entries=limits.run_log_entries, max_bytes=limits.run_log_bytes, budget=it.actor._services.budget
    )
    feed = RunFeed(run, log)
    it.actor.run_begun(feed)
    log.append_delta(it.wall.ms, b"prt_1", text.encode())
    return feed


def tell_end(it: StillStage, feed: RunFeed) -> None:
    feed.log.append(it.wall.ms, b'"type":"run.finished","status":"completed"')
    feed.end()
    it.actor.run_ended(feed, more=False)


# ------------------------------------------------------------------ afterwards
async def test_a_session_whose_run_was_evicted_starts_again(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        run = await it.one("the first answer")
        session_id = run.record.session_id
        await it.pass_time(RETENTION)
        assert it.held() == []
        started = await it.stage.registry.start_run(StartRun(session_id=session_id, input=("more",)))
        call = await it.stage.models.call()
        history = [part.text for message in call.request.messages for part in message.parts if hasattr(part, "text")]
        assert history == ["hello", "the first answer", "more"]
        assert started.run.id != run.id and started.feed.log.first_seq == 1
        call.text("the second answer")
        call.end()
        await wait_all_tasks_blocked()
        assert started.feed.ended and it.held() == [started.run.id]
        # The first one's time has no part in the second one's.
        await it.pass_time(RETENTION - INSTANT)
        assert it.held() == [started.run.id]
        await it.pass_time(INSTANT)
        assert it.held() == []
        texts = [part["text"] for message in await it.stage.messages(session_id) for part in message["parts"][:2][-1:]]
        assert texts == ["hello", "the first answer", "more", "the second answer"]


async def test_a_burst_inside_the_window_stays_in_its_bounds_and_goes_after_it(
    still: Still, mock_clock: MockClock
) -> None:
    most, budget, log = 8, 48 * 1024, 4 * 1024
    async with still(terminal_retained_max=most, all_logs_bytes=budget, run_log_bytes=log, run_log_entries=1000) as it:
        figures = it.stage.registry.registry_statistics
        begun = [await it.stage.begin() for _ in range(20)]
        for piece in range(40):
            for number, (_, call) in enumerate(begun):
                call.text(f"<{number}.{piece}>" + "x" * 100)
            await wait_all_tasks_blocked()
            assert figures().log_bytes <= budget
        assert figures().log_bytes > budget - log, "there is more than may be kept"
        for number, (run, call) in enumerate(begun, 1):
            await it.end(run, call)
            assert figures().log_bytes <= budget
            assert (figures().retained_runs, figures().active_runs) == (min(number, most), 20 - number)
        assert it.held() == [run.id for run, _ in begun[-most:]]
        await it.pass_time(RETENTION)
        assert (figures().log_bytes, figures().retained_runs, it.held()) == (0, 0, [])
        whole = "".join(f"<19.{piece}>" + "x" * 100 for piece in range(40))
        [answer] = [m for m in await it.stage.messages(begun[19][0].record.session_id) if m["info"]["role"] != "user"]
        assert answer["parts"][1]["text"] == whole


async def test_the_logs_of_ended_runs_go_before_those_at_work_lose_anything(
    still: Still, mock_clock: MockClock
) -> None:
    async with still(all_logs_bytes=16 * 1024) as it:
        run, call = await it.stage.begin()
        call.text("active " * 100)
        ended = [await it.one("x" * 3000) for _ in range(5)]  # together more than may be kept
        assert it.held() == [run.id, *(one.id for one in ended)], "the runs stay, their events go"
        kept = [one._feed.log.first_seq == 1 for one in ended]
        assert not kept[0] and kept[-1] and kept == sorted(kept), "the oldest end first"
        call.text("and more " * 400)
        await wait_all_tasks_blocked()
        assert run._feed.log.first_seq == 1
        assert text_of(log_of(run._feed)) == "active " * 100 + "and more " * 400


# ------------------------------------------------------------------ a wall clock that jumps
HOUR = 3_600_000
YEAR = 365 * 24 * HOUR


async def test_the_wall_clock_changes_nothing_in_eviction(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        first = await it.one()
        it.wall.ms -= HOUR
        await it.pass_time(1)
        second = await it.one()
        it.wall.ms += 3 * YEAR
        await it.pass_time(1)
        third = await it.one()
        assert third.record.ended_at is not None and second.record.ended_at is not None
        assert third.record.ended_at - second.record.ended_at == 3 * YEAR
        gone = closings(first._feed, second._feed, third._feed)
        await it.pass_time(RETENTION - 2 - INSTANT)
        assert gone == []
        await it.pass_time(INSTANT)
        assert gone == [first.id]
        await it.pass_time(1)
        assert gone == [first.id, second.id]
        await it.pass_time(1)
        assert gone == [first.id, second.id, third.id]


async def test_the_wall_clock_changes_nothing_in_the_order(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        registry = it.stage.registry
        sessions = [await it.stage.engine.create_session(title=name) for name in "ab"]
        runs = []
        for number, jump in enumerate((0, -HOUR, 3 * YEAR, -2 * HOUR, 0)):
            it.wall.ms += jump
            run = await sessions[0].start(f"message {number}")
            await it.end(run, await it.stage.models.call())
            runs.append(run.id)
        said = [m["parts"][0]["text"] for m in await sessions[0].messages() if m["info"]["role"] == "user"]
        assert said == [f"message {number}" for number in range(5)]
        assert [run.id for run in (await registry.list_runs(sessions[0].id, None, 10)).items] == runs[::-1]
        seqs = [run.last_seq for run in (await registry.list_runs(sessions[0].id, None, 10)).items]
        assert len(set(seqs)) == 1, "each is numbered as if nothing had happened"
        it.wall.ms -= HOUR
        run = await sessions[1].start("the latest change")
        await it.end(run, await it.stage.models.call())
        assert [session.title for session in (await registry.list_sessions(10)).items] == ["b", "a"]


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
async def test_the_wall_clock_makes_no_second_run_of_a_repeated_start(
    still: Still, mock_clock: MockClock, jump: int
) -> None:
    async with still() as it:
        session = await it.stage.engine.create_session()
        start = StartRun(session_id=session.id, input=("once",), idempotency_key="k")
        first = await it.stage.registry.start_run(start)
        call = await it.stage.models.call()
        for _ in range(3):
            it.wall.ms += jump
            again = await it.stage.registry.start_run(start)
            assert again.feed is first.feed
        call.end()
        await wait_all_tasks_blocked()
        it.wall.ms += jump
        assert (await it.stage.registry.start_run(start)).feed is first.feed
        await it.pass_time(RETENTION)
        assert (await it.stage.registry.start_run(start)).run.id == first.run.id
        assert len((await it.stage.registry.list_runs(session.id, None, 10)).items) == 1
