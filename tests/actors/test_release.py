"""What ends is freed at its end: nothing waits in a cycle for a collection, which a quiet daemon makes seldom."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.gateway.connection import Connection
from actors.gateway.watches import RunReader, RunWatch, SessionWatch, Watch
from tests.actors.gateway.fakes import FakeRun, serve
from tests.actors.scripted import Staged, names, staged
from tests.actors.still import Still, still

__all__ = ["staged", "still"]
# Real seconds without anything to do, until what a loopback socket brings has been dealt with.
QUIET = 0.005


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Nobody:
    """A connection that is told of nothing."""

    def ring(self, watch: Watch) -> None:
        pass

    def want(self, reader: RunReader) -> None:
        pass

    def release(self, reader: RunReader) -> None:
        pass


def held(value: Any) -> weakref.ref[Any]:
    return weakref.ref(value)


async def test_an_evicted_run_leaves_nothing_in_a_session_that_lives_on(staged: Staged) -> None:
    async with staged(terminal_retention=0.05) as stage:
        run, call = await stage.begin()
        session_id = await stage.session_of(run)
        log = held(run._feed.log)
        call.text("some")
        call.end()
        await run.wait()
        del run, call
        while stage.registry.registry_statistics().retained_runs:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert session_id in names(stage.engine.tree())
        assert log() is None


async def test_a_retained_run_keeps_its_log_and_not_its_actor(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        actor = held(run._feed._snapshot.__self__)  # type: ignore[union-attr]
        assert type(actor()).__name__ == "Run"
        call.text("some")
        call.end()
        await run.wait()
        del call
        await wait_all_tasks_blocked()
        assert actor() is None
        assert stage.registry.registry_statistics().retained_runs == 1
        snapshot = await run._feed.snapshot()
        assert snapshot.seq == run._feed.run.last_seq
        assert b'"text":"some"' in (await snapshot.next() or b"")


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "interrupted", "a tool"])
async def test_everything_that_a_run_owned_goes_with_it(
    still: Still, mock_clock: MockClock, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Ten runs of one session with a watcher each, ended and evicted: no object of ours is there that was not there
    before them, whatever its type, and no task of trio's."""
    caplog.set_level(logging.CRITICAL + 1, "greenroom")  # pytest would keep records with their frames
    async with still(run_log_entries=16, passivate_after=1e9) as it:
        session = await it.stage.engine.create_session()

        async def once(number: int) -> None:
            run = await session.start(f"message {number}")
            call = await it.stage.models.call()
            feed = await it.stage.registry.watch_run(run.id)
            watch = RunWatch("w1", Nobody(), feed, 0)
            call.text(*("word " for _ in range(100)))
            if how == "a tool":
                call.tools(("functions__nothing", "{}"))
                call = await it.stage.models.call()
            await it.end(run, call, "completed" if how == "a tool" else how)
            while not watch.over and watch.pull(1000) is not None:
                pass
            watch.close()
            await it.pass_time(10)  # an end that the disk refused is stored
            await it.pass_time(300)
            assert it.held() == [] and it.stage.registry.registry_statistics().log_bytes == 0

        for number in range(2):  # what is made once stays
            await once(number)
        await it.pass_time(1e6)  # trio keeps scopes until their deadlines, also those that are left
        await it.actor._services.store.shrink()  # decoded messages are the session's: a bounded cache
        before, tasks = census(), trio.lowlevel.current_statistics().tasks_living
        for number in range(10):
            await once(number)
        await it.pass_time(1e6)
        await it.actor._services.store.shrink()
        assert census() - before == Counter()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        budget = it.actor._services.budget
        assert not budget._active and not budget._ended


def census() -> Counter[str]:
    """What there is of ours and of trio's, by type, after a collection."""
    gc.collect()
    modules = ("actors", "engine", "trio")
    return Counter(
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in gc.get_objects()
        if type(one).__module__.partition(".")[0] in modules
    )


def test_a_closed_watch_keeps_no_run() -> None:
    run = FakeRun()
    run.start()
    watch = RunWatch("w1", Nobody(), run.feed, 0)
    assert watch.pull(1000) is not None
    mark = held(watch.ring)  # of what it and its reader share: a cycle would keep it
    watch.close()
    del watch
    assert mark() is None
    assert not run.feed.watched


async def test_a_closed_watch_of_a_session_keeps_no_run() -> None:
    async with serve() as served:
        run = served.registry.add(FakeRun())
        run.start()
        feed = await served.registry.watch_session("ses_1")
        watch = SessionWatch("w1", Nobody(), feed, None)
        assert watch.pull(1000) is not None
        mark = held(watch.ring)
        watch.close()
        del watch
        assert mark() is None
        assert not run.feed.watched and not feed.watched


def connections() -> list[Connection]:
    return [one for one in gc.get_objects() if type(one) is Connection]


async def test_a_connection_that_has_ended_is_gone(mock_clock: MockClock) -> None:
    async with serve(limit=math.inf) as served:
        others = connections()  # of tests that failed
        run = served.registry.add(FakeRun())
        run.start()
        async with served.connect() as wire:
            await wire.request("run.watch", run_id="run_1")
            [found] = [held(one) for one in connections() if one not in others]
            library = held(found()._socket._connection)  # type: ignore[union-attr]
            mock_clock.jump(10)  # the gateway looks at all that are there
            await wait_all_tasks_blocked(QUIET)
            await wire.request("ping")
        while served.ref.gateway_statistics().sockets:
            await wait_all_tasks_blocked(QUIET)
        await wait_all_tasks_blocked(QUIET)
        assert found() is None
        assert library() is None
