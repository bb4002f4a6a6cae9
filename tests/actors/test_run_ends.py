"""A run ends once: stops by many, what comes after the end, and ids that nothing has. On clocks that stand still."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.commands import StartRun
from engine.errors import CallerError, EngineError
from engine.limits import Limits
from engine.runs.events import RunFinished, RunStatus
from engine.runs.record import Run
from tests.actors.scripted import Call, check_seq, names, of, shown, staged, until_text
from tests.actors.still import Still, StillStage, still

__all__ = ["staged", "still"]

RETENTION = Limits().terminal_retention
ENDS = ("completed", "failed", "cancelled", "interrupted")


# ------------------------------------------------------------------ stops by many
async def test_all_who_stop_a_run_get_the_same_record_after_its_end(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        run, call = await it.stage.begin()
        call.text("half")
        await until_text(run, "half")
        settles = run._feed._snapshot.__self__._boundary  # type: ignore[union-attr]
        await settles.acquire()
        records: list[Run] = []

        async def stop(reason: str) -> None:
            record = await it.stage.registry.stop_run(run.id, reason)
            assert it.stage.runs_in_tree() == [], "everything of the run is joined"
            assert run._feed.ended and it.stage.registry.registry_statistics().active_runs == 0
            records.append(record)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, "the first")
            await wait_all_tasks_blocked()
            for number in range(20):
                nursery.start_soon(stop, f"number {number}")
            await wait_all_tasks_blocked()
            assert records == [] and not run._feed.ended
            settles.release()
        assert records == [run.record] * 21
        assert (run.record.status, run.record.reason) == ("cancelled", "the first")
        assert [one.status for one in of(shown(run), RunFinished)] == ["cancelled"]
        assert [one.status for one in of(shown(run), RunStatus)] == ["stopping"]
        assert (await it.stage.store.get_run(run.id)) == run.record


async def test_one_of_many_who_stop_leaves_and_the_others_are_answered(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        run, _ = await it.stage.begin()
        settles = run._feed._snapshot.__self__._boundary  # type: ignore[union-attr]
        await settles.acquire()
        found: list[Run] = []

        async def stop() -> None:
            found.append(await run.stop())

        async with trio.open_nursery() as others:
            async with trio.open_nursery() as impatient:
                impatient.start_soon(stop)
                others.start_soon(stop)
                await wait_all_tasks_blocked()
                impatient.cancel_scope.cancel()
            assert found == []
            settles.release()
        assert [one.status for one in found] == ["cancelled"]


async def test_a_run_that_takes_longer_to_stop_than_it_has_is_cancelled_all_the_same(
    still: Still, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with still() as it:
        run, call = await it.stage.begin()

        async def held_up() -> None:  # as on a machine that has no time for it
            with trio.CancelScope(shield=True):
                await trio.sleep(2 * Limits().cancel_grace)
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(call, "receive", held_up)
        call.text("half")
        await until_text(run, "half")
        mock_clock.autojump_threshold = 0
        record = await it.stage.registry.stop_run(run.id, "enough")
        assert (record.status, record.reason) == ("cancelled", "enough")
        assert (await it.stage.store.get_run(run.id)) == record


# ------------------------------------------------------------------ after the end
@pytest.mark.parametrize("how", ENDS)
async def test_a_model_that_goes_on_after_the_end_adds_nothing(still: Still, mock_clock: MockClock, how: str) -> None:
    async with still() as it:
        run, call = await it.stage.begin()
        call.text("said")
        await until_text(run, "said")
        await it.end(run, call, how)
        assert call.closed.is_set() and it.stage.models.open_now == 0
        await it.pass_time(10)  # an end that the disk refused is stored
        before = await everything_of(it, run.record)
        call.text(" and more")
        call.tools(("functions__none", "{}"))
        call.end()
        await it.pass_time(10)
        assert await everything_of(it, run.record) == before
        assert it.held() == [run.id]
        check_seq(shown(run))
        await it.stage.usable(run.record.session_id)


@pytest.mark.parametrize("how", ENDS)
async def test_whatever_is_asked_of_an_ended_run_changes_nothing(still: Still, mock_clock: MockClock, how: str) -> None:
    async with still() as it:
        run = await it.one(how=how)
        record = run.record
        for when in ("retained", "evicted"):
            it.wall.ms += 1000
            assert await it.stage.registry.stop_run(run.id, "late") == record
            assert await it.stage.registry.get_run(run.id) == record
            assert (await it.stage.registry.watch_run(run.id)).run == record
            (listed,) = (await it.stage.registry.list_runs(record.session_id, None, 10)).items
            assert listed == record
            assert (await it.stage.registry.list_runs(record.session_id, True, 10)).items == ()
            assert len(of(shown(run), RunFinished)) == 1
            assert it.held() == ([run.id] if when == "retained" else [])
            await it.pass_time(RETENTION)


async def test_a_late_call_of_another_run_is_not_mixed_up(still: Still, mock_clock: MockClock) -> None:
    """The model of a stopped run goes on while the session's next run is answered."""
    async with still() as it:
        run, old = await it.stage.begin()
        old.text("old")
        await until_text(run, "old")
        await run.stop()
        session = await it.stage.engine.session(run.record.session_id)
        again = await session.start("again")
        call: Call = await it.stage.models.call()
        call.text("new ")
        old.text(" late")
        old.end()
        await until_text(again, "new ")
        call.text("answer")
        await it.end(again, call)
        texts = [part["text"] for message in await session.messages() for part in message["parts"] if "text" in part]
        assert texts == ["hello", "old", "again", "new answer"]


async def everything_of(it: StillStage, run: Run) -> tuple[Any, ...]:
    """What is held and kept of a run's session."""
    feed = it.actor._runs[run.id]
    return (
        feed.log.last_seq,
        feed.log.size,
        feed.run,
        await it.stage.store.get_run(run.id),
        await it.stage.messages(run.session_id),
        it.held(),
        names(it.stage.engine.tree()),
        it.stage.registry.registry_statistics(),
    )


# ------------------------------------------------------------------ no phantoms
async def test_asking_for_a_run_that_nothing_has_makes_none(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        session = await it.stage.engine.create_session()
        before = (it.stage.registry.registry_statistics(), names(it.stage.engine.tree()))
        registry = it.stage.registry
        for ask in (registry.get_run, registry.watch_run, registry.stop_run):
            for run_id in ("run_none", session.id, ""):
                with pytest.raises(CallerError) as caught:
                    await ask(run_id)
                assert caught.value.code == "unknown_run"
        await it.pass_time(1)
        assert (registry.registry_statistics(), names(it.stage.engine.tree())) == before
        check_empty(it)
        await it.stage.usable(session.id)


async def test_asking_for_an_evicted_run_brings_nothing_back(still: Still, mock_clock: MockClock) -> None:
    async with still() as it:
        run = await it.one("said")
        await it.pass_time(RETENTION)
        await it.pass_time(2 * Limits().passivate_after)
        assert not [name for name in names(it.stage.engine.tree()) if name.startswith("ses_")]
        for _ in range(20):
            feed = await it.stage.registry.watch_run(run.id)
            feed.attach(lambda: None)
            assert feed.evicted and feed.ended and feed.log.size == 0
            await it.stage.registry.stop_run(run.id)
            await it.stage.registry.get_run(run.id)
        await it.pass_time(1)
        check_empty(it)
        assert not [name for name in names(it.stage.engine.tree()) if name.startswith("ses_")]
        await it.stage.usable(run.record.session_id)


@pytest.mark.parametrize("when", ["the disk refuses", "the session is deleted"])
async def test_a_start_that_fails_leaves_no_run(still: Still, mock_clock: MockClock, when: str) -> None:
    async with still() as it:
        session = await it.stage.engine.create_session()
        start = StartRun(session_id=session.id, input=("hi",))
        if when == "the disk refuses":
            it.stage.disk.full = True
        else:
            await session.delete()
        with pytest.raises(EngineError):
            await it.stage.registry.start_run(start)
        it.stage.disk.full = False
        await wait_all_tasks_blocked()
        check_empty(it)
        if when == "the disk refuses":
            await it.stage.usable(session.id)


def check_empty(it: StillStage) -> None:
    """No run is in memory, and no place is taken."""
    figures = it.stage.registry.registry_statistics()
    assert (figures.active_runs, figures.retained_runs, figures.queued_runs, figures.log_bytes) == (0, 0, 0, 0)
    assert it.held() == [] and not it.actor._opening
    admission, budget = it.actor._admission, it.actor._services.budget
    assert not admission._starting and not admission._waiting and not budget._active and not budget._ended
