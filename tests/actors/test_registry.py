"""The registry: admission, idempotent requests, eviction, deletion, passivation and drain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors._ask import ActorDied
from actors._feed import RunFeed
from actors.registry_ref import RegistryRef
from actors.run import Run
from actors.session_ref import StartedRun
from actors.store_ref import StoreRef
from engine.codec import DecodeError
from engine.commands import NewSession, SessionChanges, StartRun
from engine.errors import CallerError, PeerError
from engine.runs.events import RunFinished
from tests.actors.scripted import Call, Stage, Staged, names, of, staged, until, until_text

__all__ = ["staged"]


async def ended(stage: Stage, started: StartedRun, call: Call) -> None:
    call.end()
    await until(started.feed, lambda found: of(found, RunFinished))


async def refused(stage: Stage, start: StartRun) -> CallerError:
    with pytest.raises(CallerError) as caught:
        await stage.registry.start_run(start)
    return caught.value


async def evicted(stage: Stage, run_id: str) -> RunFeed:
    """The feed of the run, when it has left memory."""
    while not (feed := await stage.registry.watch_run(run_id)).evicted:
        await trio.lowlevel.checkpoint()
    return feed


# ------------------------------------------------------------------ ids
async def test_ids_that_nothing_has(staged: Staged) -> None:
    async with staged() as stage:
        registry = stage.registry
        for ask in (
            registry.get_session("ses_nothing"),
            registry.update_session("ses_nothing", SessionChanges(title="x")),
            registry.delete_session("ses_nothing"),
            registry.messages("ses_nothing", 10),
            registry.watch_session("ses_nothing"),
            registry.start_run(StartRun(session_id="ses_nothing", input=("hi",))),
            registry.list_runs("ses_nothing", None, 10),
        ):
            with pytest.raises(CallerError) as caught:
                await ask
            assert caught.value.code == "unknown_session"
        for of_run in (registry.get_run("run_no"), registry.watch_run("run_no"), registry.stop_run("run_no")):
            with pytest.raises(CallerError) as caught:
                await of_run
            assert caught.value.code == "unknown_run"
        with pytest.raises(CallerError) as caught:
            await registry.read_output("out_prt_no_text", 0, 10)
        assert caught.value.code == "unknown_output"
        assert not [name for name in names(stage.engine.tree()) if name.startswith("ses_")]
        assert registry.registry_statistics().active_runs == 0
        await registry.drain()


async def test_names_that_nothing_has(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        for ask, code in (
            (stage.registry.create_session(NewSession(toolsets=("no",))), "unknown_toolset"),
            (stage.registry.create_session(NewSession(model="no")), "unknown_model"),
            (stage.registry.update_session(session.id, SessionChanges(toolsets=("no",))), "unknown_toolset"),
            (stage.registry.update_session(session.id, SessionChanges(model="no")), "unknown_model"),
        ):
            with pytest.raises(CallerError) as caught:
                await ask  # type: ignore[misc]
            assert caught.value.code == code
        with pytest.raises(DecodeError):
            await stage.registry.update_session(session.id, SessionChanges(title="\ud83d"))
        assert await stage.registry.get_session(session.id) == session


async def test_a_change_of_a_stale_session_is_refused(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession(title="a"))
        changes = SessionChanges(title="b", expected_revision=session.revision)
        assert (await stage.registry.update_session(session.id, changes)).title == "b"
        with pytest.raises(CallerError) as caught:
            await stage.registry.update_session(session.id, changes)
        assert caught.value.code == "stale_revision"


# ------------------------------------------------------------------ the same again
async def test_a_repeated_start_gives_the_first_run(staged: Staged) -> None:
    async with staged(active_runs_max=1) as stage:
        session = await stage.registry.create_session(NewSession())
        start = StartRun(session_id=session.id, input=("hi",), idempotency_key="k")
        first = await stage.registry.start_run(start)
        call = await stage.models.call()
        again = await stage.registry.start_run(start)  # while it is active, and at the bound of active runs
        assert (again.run.id, again.message_id) == (first.run.id, first.message_id)
        assert again.feed is first.feed and again.run.status == "running"
        other = await refused(stage, attrs.evolve(start, input=("something else",)))
        assert other.code == "idempotency_conflict"
        await ended(stage, first, call)
        again = await stage.registry.start_run(start)
        assert (again.run.id, again.run.status) == (first.run.id, "completed")
        assert (await stage.registry.get_session(session.id)).message_count == 2
        await stage.usable(session.id)


async def test_a_repeated_start_over_a_restart(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        start = StartRun(session_id=session.id, input=("hi",), idempotency_key="k")
        first = await stage.registry.start_run(start)
        await ended(stage, first, await stage.models.call())
    async with staged() as stage:
        again = await stage.registry.start_run(start)
        assert again.run.id == first.run.id and again.feed.evicted and again.run.status == "completed"


async def test_ten_repetitions_at_once_give_one_run(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        start = StartRun(session_id=session.id, input=("hi",), idempotency_key="k")
        found: list[StartedRun] = []

        async def send() -> None:
            found.append(await stage.registry.start_run(start))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(send)
        assert len({started.run.id for started in found}) == 1
        await ended(stage, found[0], await stage.models.call())


async def test_a_repeated_create_gives_the_first_session(staged: Staged) -> None:
    async with staged() as stage:
        new = NewSession(title="a", idempotency_key="k")
        first = await stage.registry.create_session(new)
        assert (await stage.registry.create_session(new)).id == first.id
        with pytest.raises(CallerError) as caught:
            await stage.registry.create_session(attrs.evolve(new, title="b"))
        assert caught.value.code == "idempotency_conflict"
        assert len((await stage.registry.list_sessions(10)).items) == 1


# ------------------------------------------------------------------ how many at a time
async def test_the_bound_of_active_runs(staged: Staged) -> None:
    async with staged(active_runs_max=2) as stage:
        (first, call), (second, _) = await stage.begin(), await stage.begin()
        session = await stage.engine.create_session()
        error = await refused(stage, StartRun(session_id=session.id, input=("one too many",)))
        assert error.code == "overloaded" and error.data == {"retry_after_ms": 1000}
        assert await session.messages() == []
        busy = StartRun(session_id=await stage.session_of(second), input=("me",))
        assert (await refused(stage, busy)).code == "session_busy"
        call.end()
        await first.wait()
        await stage.usable(session.id)


async def test_starts_at_once_are_admitted_up_to_the_bound(staged: Staged) -> None:
    async with staged(active_runs_max=20) as stage:
        results: list[str] = []

        async def start(session_id: str) -> None:
            try:
                await stage.registry.start_run(StartRun(session_id=session_id, input=("hi",)))
                results.append("started")
            except CallerError as exc:
                results.append(exc.code)

        sessions = [await stage.registry.create_session(NewSession()) for _ in range(25)]
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(start, session.id)
        assert sorted(results) == ["overloaded"] * 5 + ["started"] * 20
        assert stage.registry.registry_statistics().active_runs == 20
        await stage.registry.end_runs()
        assert stage.registry.registry_statistics().active_runs == 0


async def test_fifty_sessions_at_once(staged: Staged) -> None:
    async with staged() as stage:
        texts: dict[str, str] = {}

        async def converse(number: int) -> None:
            session = await stage.engine.create_session()
            run = await session.start(f"number {number}")
            assert (await run.wait()).status == "completed"
            texts[session.id] = (await session.messages())[1]["parts"][1]["text"]
            assert texts[session.id] == f"number {number} it is"

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(converse, number)
            for _ in range(50):
                call = await stage.models.call()
                asked = call.request.messages[-1].parts[0].text  # type: ignore[union-attr]
                call.text(asked, " it is")
                call.end()
        assert len(texts) == 50 and stage.runs_in_tree() == []


async def test_concurrent_revival_shares_one_actor(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        feeds: list[Any] = []

        async def watch() -> None:
            feeds.append(await stage.registry.watch_session(session.id))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(watch)
        assert len({id(feed) for feed in feeds}) == 1
        assert names(stage.engine.tree()).count(session.id) == 1


# ------------------------------------------------------------------ stop by others
async def test_a_run_that_is_just_starting_is_stopped(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id is known from the store before its session has begun it."""
    stored, go_on = trio.Event(), trio.Event()
    start_run = StoreRef.start_run

    async def slow(self: StoreRef, *arguments: Any) -> Any:
        made = await start_run(self, *arguments)
        stored.set()
        await go_on.wait()
        return made

    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        monkeypatch.setattr(StoreRef, "start_run", slow)
        found: list[Any] = []

        async def ask(method: Any, *arguments: Any) -> None:
            found.append(await method(*arguments))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.start_run, StartRun(session_id=session.id, input=("hi",)))
            await stored.wait()
            ((run,), _) = attrs.astuple(await stage.store.list_runs(session.id, True, 10), recurse=False)
            nursery.start_soon(ask, stage.registry.watch_run, run.id)
            nursery.start_soon(ask, stage.registry.stop_run, run.id, "at once")
            await wait_all_tasks_blocked()
            await stage.store.get_run(run.id)  # reads are answered in order: theirs were before this one
            await wait_all_tasks_blocked()
            assert found == []
            go_on.set()
        feed, ended_run = sorted(found, key=lambda one: not isinstance(one, RunFeed))
        assert not feed.evicted and ended_run.status == "cancelled" and feed.run == ended_run
        await stage.usable(session.id)


async def test_a_run_that_is_being_begun_is_stopped_when_it_is(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged() as stage:
        first, call = await stage.begin()
        call.end()
        session_id = (await first.wait()).session_id
        starting, go_on = trio.Event(), trio.Event()
        on_start = Run.on_start

        async def slow(self: Run) -> None:
            starting.set()
            await go_on.wait()
            await on_start(self)

        stopped: list[str] = []

        async def stop(run_id: str) -> None:
            stopped.append((await stage.registry.stop_run(run_id, "at once")).status)

        with monkeypatch.context() as patched:
            patched.setattr(Run, "on_start", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.registry.start_run, StartRun(session_id=session_id, input=("hi",)))
                await starting.wait()
                feed = (await stage.registry.watch_session(session_id)).runs_after(1)[0][1]
                nursery.start_soon(stop, feed.run.id)
                await wait_all_tasks_blocked()
                assert stopped == []
                go_on.set()
        assert stopped == ["cancelled"] and stage.runs_in_tree() == []
        await stage.usable(session_id)


async def test_a_start_whose_asker_leaves_is_finished(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        stage.disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.start_run, StartRun(session_id=session.id, input=("hi",)))
            await stage.disk.wait_held()
            nursery.cancel_scope.cancel()
        drained = trio.Event()

        async def drain() -> None:
            await stage.registry.drain()
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            assert not drained.is_set(), "the start is under way"
            stage.disk.release()
            call = await stage.models.call()
            assert not drained.is_set()
            call.text("nobody asked any more")
            call.end()
        (run,) = (await stage.store.list_runs(session.id, None, 10)).items
        assert run.status == "completed"


async def release_when_blocked(stage: Stage) -> None:
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()
    stage.disk.release()


# ------------------------------------------------------------------ eviction
async def test_ended_runs_leave_memory_in_time(staged: Staged) -> None:
    async with staged(terminal_retention=0.05) as stage:
        run, call = await stage.begin()
        live = await stage.registry.watch_run(run.id)
        gone = trio.Event()
        live.attach(lambda: gone.set() if live.closed else None)
        call.text("text")
        call.end()
        await gone.wait()
        assert live.closed == "evicted"
        assert stage.registry.registry_statistics().retained_runs == 0
        assert await stage.registry.get_run(run.id) == run.record
        assert (await stage.registry.watch_session(run.record.session_id)).runs_after(0) == []


async def test_beyond_the_cap_the_oldest_end_goes_first(staged: Staged) -> None:
    async with staged(terminal_retained_max=2) as stage:
        active, _ = await stage.begin()
        runs = []
        for _ in range(3):
            run, call = await stage.begin()
            call.end()
            await run.wait()
            runs.append(run)
        await evicted(stage, runs[0].id)
        assert not (await stage.registry.watch_run(runs[1].id)).evicted
        assert not (await stage.registry.watch_run(runs[2].id)).evicted
        assert not (await stage.registry.watch_run(active.id)).evicted  # never an active one
        assert stage.registry.registry_statistics().retained_runs == 2


async def test_an_idle_session_leaves_memory_and_comes_back(staged: Staged) -> None:
    async with staged(passivate_after=0.05) as stage:
        run, call = await stage.begin()
        call.text("half ")
        session_id = await stage.session_of(run)
        other = await stage.registry.create_session(NewSession())
        feed = await stage.registry.watch_session(other.id)
        while other.id in names(stage.engine.tree()):
            await trio.lowlevel.checkpoint()
        assert feed.closed is not None
        assert session_id in names(stage.engine.tree()), "it has an active run"
        call.text("whole")
        call.end()
        assert (await run.wait()).status == "completed"
        while session_id in names(stage.engine.tree()):
            await trio.lowlevel.checkpoint()
        await stage.usable(session_id)
        assert (await stage.registry.update_session(session_id, SessionChanges(title="new"))).title == "new"


async def test_of_too_many_idle_sessions_the_longest_idle_leave(staged: Staged) -> None:
    async with staged(idle_sessions_max=8) as stage:
        run, call = await stage.begin()
        kept = {await stage.session_of(run)}
        watched = await stage.registry.create_session(NewSession())
        (await stage.registry.watch_session(watched.id)).attach(lambda: None)
        kept.add(watched.id)

        def live() -> set[str]:
            return {name for name in names(stage.engine.tree()) if name.startswith("ses_")}

        made: list[str] = []
        for _ in range(20):
            made.append((await stage.registry.create_session(NewSession())).id)
            await stage.registry.watch_session(made[-1])  # a use of it
            await wait_all_tasks_blocked()
            assert len(live()) <= 10 and kept <= live()
            assert made[-1] in live()
        assert made[0] not in live() and made[10] not in live()
        await stage.registry.watch_session(made[0])  # comes back, and is the latest used
        for session_id in made[1:3]:
            await stage.registry.watch_session(session_id)
        await wait_all_tasks_blocked()
        assert {made[0], *made[1:3]} <= live()
        call.end()
        assert (await run.wait()).status == "completed"


async def test_a_session_of_a_crowd_is_not_unloaded_while_it_is_asked(staged: Staged) -> None:
    async with staged(idle_sessions_max=1) as stage, trio.open_nursery() as nursery:

        async def answer() -> None:
            while True:
                call = await stage.models.call()
                call.text("fine")
                call.end()

        async def talk() -> None:
            for _ in range(5):
                session = await stage.engine.create_session()
                for _ in range(2):
                    run = await session.start("hello")
                    assert (await run.wait()).status == "completed"

        nursery.start_soon(answer)
        async with trio.open_nursery() as talks:
            for _ in range(30):
                talks.start_soon(talk)
        nursery.cancel_scope.cancel()


async def test_a_watched_session_stays(staged: Staged) -> None:
    async with staged(passivate_after=0.02) as stage:
        session, other = [await stage.registry.create_session(NewSession()) for _ in range(2)]
        feed = await stage.registry.watch_session(session.id)
        feed.attach(lambda: None)
        for _ in range(3):  # others come and go meanwhile
            await stage.registry.watch_session(other.id)
            while other.id in names(stage.engine.tree()):
                await trio.lowlevel.checkpoint()
        assert session.id in names(stage.engine.tree()) and feed.closed is None


async def test_idle_sessions_leave_memory_when_it_is_asked_for(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        busy = await stage.session_of(run)
        idle, watched = [await stage.registry.create_session(NewSession()) for _ in range(2)]
        for session in (idle, watched):
            feed = await stage.registry.watch_session(session.id)
        feed.attach(lambda: None)
        await stage.registry.passivate(3600)
        assert idle.id in names(stage.engine.tree()), "it was used a moment ago"
        await stage.registry.passivate(1e-9)
        live = names(stage.engine.tree())
        assert (idle.id in live, watched.id in live, busy in live) == (False, True, True)
        call.end()
        assert (await run.wait()).status == "completed"
        await stage.usable(idle.id)


# ------------------------------------------------------------------ deletion
async def test_delete_while_a_run_is_active(staged: Staged, tmp_path: Path) -> None:
    async with staged() as stage:
        run, call = await stage.begin("a secret question")
        call.text("a secret answer")
        await until_text(run, "a secret answer")
        session_id = await stage.session_of(run)
        feed = await stage.registry.watch_run(run.id)
        of_session = await stage.registry.watch_session(session_id)
        await stage.registry.delete_session(session_id)
        assert call.closed.is_set() and run.record.status == "cancelled"
        assert session_id in stage.models.forgotten  # what is kept of its requests
        assert feed.closed == "deleted" and of_session.closed == "deleted"
        assert session_id not in names(stage.engine.tree())
        for ask in (stage.registry.get_session(session_id), stage.registry.messages(session_id, 10)):
            with pytest.raises(CallerError) as caught:
                await ask  # type: ignore[misc]
            assert caught.value.code == "unknown_session"
        with pytest.raises(CallerError) as caught:
            await stage.registry.get_run(run.id)
        assert caught.value.code == "unknown_run"
        assert stage.registry.registry_statistics() == attrs.evolve(
            stage.registry.registry_statistics(), sessions=0, active_runs=0, retained_runs=0, log_bytes=0
        )
        assert await (await feed.snapshot()).next()  # of nothing, but no error
        await stage.registry.drain()
    for path in (tmp_path / "data").iterdir():
        assert b"a secret" not in path.read_bytes(), path


async def test_delete_against_starts_and_watches(staged: Staged) -> None:
    async with staged() as stage:
        for _ in range(10):
            session = await stage.registry.create_session(NewSession())
            codes: list[str] = []

            async def one(ask: Any, *arguments: Any, codes: list[str] = codes) -> None:
                try:
                    await ask(*arguments)
                    codes.append("done")
                except CallerError as exc:
                    codes.append(exc.code)

            start = StartRun(session_id=session.id, input=("hi",))
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one, stage.registry.start_run, start)
                    nursery.start_soon(one, stage.registry.watch_session, session.id)
                    nursery.start_soon(one, stage.registry.delete_session, session.id)
                    nursery.start_soon(one, stage.registry.update_session, session.id, SessionChanges(title="x"))
            assert set(codes) <= {"done", "unknown_session", "session_busy"}
            assert session.id not in names(stage.engine.tree())
        assert (await stage.registry.list_sessions(10)).items == ()
        assert (await stage.registry.list_runs(None, None, 10)).items == ()
        assert stage.registry.registry_statistics().active_runs == 0


async def test_a_deletion_whose_asker_leaves_is_carried_out(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        session_id = await stage.session_of(run)
        call.text("x")
        await until_text(run, "x")
        stage.disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.delete_session, session_id)
            await stage.disk.wait_held()  # the run settles
            nursery.cancel_scope.cancel()
            nursery.start_soon(release_when_blocked, stage)
        with pytest.raises(CallerError):
            # Waits for the deletion, and is told what came of it.
            await stage.registry.start_run(StartRun(session_id=session_id, input=("hi",)))
        assert run.record.status == "cancelled"
        assert session_id not in names(stage.engine.tree())


# ------------------------------------------------------------------ drain
async def test_drain_refuses_new_runs_and_returns_when_the_last_has_ended(staged: Staged) -> None:
    async with staged() as stage:
        (first, one), (second, two) = await stage.begin(), await stage.begin()
        idle = await stage.registry.create_session(NewSession())
        drained = trio.Event()

        async def drain() -> None:
            await stage.registry.drain()
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            assert (await refused(stage, StartRun(session_id=idle.id, input=("hi",)))).code == "draining"
            one.text("still going")
            one.end()
            await first.wait()
            assert not drained.is_set()
            two.end()
            await second.wait()
        assert drained.is_set()
        await stage.registry.drain()


async def test_drain_waits_for_a_start_under_way(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, go_on = trio.Event(), trio.Event()
    start_run = StoreRef.start_run

    async def slow(self: StoreRef, *arguments: Any) -> Any:
        made = await start_run(self, *arguments)
        stored.set()
        await go_on.wait()
        return made

    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        active, _ = await stage.begin()
        monkeypatch.setattr(StoreRef, "start_run", slow)
        drained = trio.Event()

        async def drain() -> None:
            await stage.registry.drain()
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.start_run, StartRun(session_id=session.id, input=("hi",)))
            await stored.wait()
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            await active.stop()  # the last one that is active
            await wait_all_tasks_blocked()
            assert not drained.is_set()
            go_on.set()
            call = await stage.models.call()
            await wait_all_tasks_blocked()
            assert not drained.is_set()
            call.end()
        assert stage.registry.registry_statistics().active_runs == 0


async def test_drain_waits_for_a_start_that_fails(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.registry.create_session(NewSession())
        stage.disk.hold()
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                assert (await refused_by_disk(stage, StartRun(session_id=session.id, input=("hi",)))) == "disk_full"

            nursery.start_soon(start)
            await stage.disk.wait_held()
            nursery.start_soon(stage.registry.drain)
            await wait_all_tasks_blocked()
            stage.disk.full = True
            stage.disk.release()


async def refused_by_disk(stage: Stage, start: StartRun) -> str:
    with pytest.raises(PeerError) as caught:
        await stage.registry.start_run(start)
    return caught.value.code


async def test_the_end_of_all_runs_is_joined(staged: Staged) -> None:
    async with staged() as stage:
        runs = [await stage.begin() for _ in range(3)]
        await stage.registry.end_runs()
        assert [run.record.status for run, _ in runs] == ["cancelled"] * 3
        assert [run.record.reason for run, _ in runs] == ["shutdown"] * 3
        assert stage.runs_in_tree() == []


# ------------------------------------------------------------------ the store below
async def test_a_store_that_crashes_interrupts_its_runs_and_is_started_again(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(cancel_grace=0.2) as stage:
        run, call = await stage.begin()
        call.text("shown")
        await until_text(run, "shown")
        session_id = await stage.session_of(run)
        feed = await stage.registry.watch_run(run.id)
        old = stage.registry
        store = stage.engine._composition.store
        store._cell.nursery.cancel_scope.cancel()  # type: ignore[union-attr] # as a crash of one of its tasks does
        await old.wait_ended()
        assert feed.ended and feed.run.status in ("interrupted", "failed")
        stage.registry = await present_registry(stage)
        record = await stage.registry.get_run(run.id)
        assert record.status == "interrupted"
        await stage.usable(session_id)


async def present_registry(stage: Stage) -> RegistryRef:
    while True:
        try:
            return stage.engine.registry
        except ActorDied:
            await trio.lowlevel.checkpoint()
