"""Feeds and bells: what wakes a watcher, and what it finds."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors._feed import Bell, RunFeed, SessionFeed
from engine.runs.log import ReplayLog
from engine.runs.record import Run
from engine.transcript.session import Session

RUN = Run(id="run_1", session_id="ses_1", status="running", model="m", created_at=1)
SESSION = Session(id="ses_1", title="t", model="m", cwd="/", created_at=1, updated_at=1)


def feed_of(run: Run = RUN) -> RunFeed:
    return RunFeed(run, ReplayLog(max_entries=10, max_bytes=1000))


async def test_a_bell_remembers_one_ring() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    with trio.fail_after(60):
        await bell.wait()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_cancelled_wait_leaves_the_ring() -> None:
    bell = Bell()
    bell.ring()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait()
    assert scope.cancelled_caught
    with trio.fail_after(60):
        await bell.wait()


async def test_a_bell_wakes_who_waits() -> None:
    bell = Bell()
    woken: list[int] = []

    async def wait() -> None:
        await bell.wait()
        woken.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert woken == []
        bell.ring()
    assert woken == [1]


def test_rings_reach_all_that_are_attached_in_order() -> None:
    feed = feed_of()
    heard: list[str] = []
    rings = {name: (lambda name=name: heard.append(name)) for name in "abc"}
    feed.ring()
    for ring in rings.values():
        feed.attach(ring)
        feed.attach(ring)  # once is enough
    assert feed.watched
    feed.ring()
    assert heard == ["a", "b", "c"]
    feed.detach(rings["b"])
    feed.detach(rings["b"])
    feed.ring()
    assert heard[3:] == ["a", "c"]
    feed.detach(rings["a"])
    feed.detach(rings["c"])
    feed.ring()
    assert len(heard) == 5 and not feed.watched


def test_a_watcher_may_leave_while_the_bells_ring() -> None:
    feed = feed_of()
    heard: list[str] = []

    def leaves() -> None:
        heard.append("leaves")
        feed.detach(leaves)

    def stays() -> None:
        heard.append("stays")

    feed.attach(leaves)
    feed.attach(stays)
    feed.ring()
    feed.ring()
    assert heard == ["leaves", "stays", "stays"]
    feed.detach(stays)
    feed.attach(leaves)
    feed.ring()  # the only one
    assert heard[3:] == ["leaves"] and not feed.watched


def test_closed_once_and_told_once() -> None:
    feed = feed_of()
    rung: list[str | None] = []
    feed.attach(lambda: rung.append(feed.closed))
    feed.close("evicted")
    feed.close("draining")
    assert rung == ["evicted"] and feed.closed == "evicted" and feed.evicted


@pytest.mark.parametrize(("why", "evicted"), [("finished", False), ("draining", False), ("deleted", True)])
def test_which_ends_mean_that_the_events_are_gone(why: str, evicted: bool) -> None:
    feed = feed_of()
    assert not feed.evicted
    feed.close(why)  # type: ignore[arg-type]
    assert feed.evicted is evicted


def test_the_record_counts_events_until_the_end() -> None:
    feed = feed_of()
    feed.log.append(1, b'"type":"x"')
    assert feed.record().last_seq == 1 and not feed.ended
    feed.run = attrs.evolve(RUN, status="completed", last_seq=7)
    feed.end()
    assert feed.record() == feed.run and feed.ended


def test_the_feed_of_an_ended_run_has_ended() -> None:
    assert feed_of(attrs.evolve(RUN, status="interrupted")).ended


def test_a_sessions_runs_are_numbered_in_order() -> None:
    session = SessionFeed(SESSION)
    rung: list[int] = []
    session.attach(lambda: rung.append(session.last_index))
    assert session.last_index == 0 and session.runs_after(0) == []
    feeds = [feed_of(attrs.evolve(RUN, id=f"run_{number}")) for number in range(3)]
    for feed in feeds:
        session.add(feed)
    assert rung == [1, 2, 3]
    assert session.runs_after(0) == [(1, feeds[0]), (2, feeds[1]), (3, feeds[2])]
    assert session.runs_after(2) == [(3, feeds[2])]
    session.remove(feeds[1])
    session.remove(feeds[1])
    assert session.runs_after(0) == [(1, feeds[0]), (3, feeds[2])]
    session.remove(feeds[2])
    added = feed_of(attrs.evolve(RUN, id="run_4"))
    session.add(added)
    assert session.runs_after(3) == [(4, added)]  # numbers are not used again


def test_a_changed_record_is_the_newest() -> None:
    session = SessionFeed(SESSION)
    rung: list[str] = []
    session.attach(lambda: rung.append(session.session.title))
    session.change(attrs.evolve(SESSION, title="new"))
    assert rung == ["new"] and session.changes == 1


async def test_any_number_of_tasks_wait_for_a_watcher_one_after_another_and_together() -> None:
    feed, came = feed_of(), []

    def ring() -> None:
        pass

    async def wait(name: str) -> None:
        await feed.wait_watched()
        came.append(name)

    with trio.fail_after(60):
        with trio.CancelScope() as scope:
            scope.cancel()
            await feed.wait_watched()  # given up
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "one")
            nursery.start_soon(wait, "two")
            await wait_all_tasks_blocked()
            feed.attach(ring)
            feed.detach(ring)  # too short: they go on waiting
            await wait_all_tasks_blocked()
            assert came == []
            feed.attach(ring)
        assert sorted(came) == ["one", "two"]
        await wait("three")
