"""Messages sent to a busy session with `when_busy: queue`: runs of their own that wait, in order."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._feed import RunFeed
from actors.api import RunHandle
from actors.session import Session
from actors.session_ref import StartedRun
from actors.store_ref import StoreRef
from engine.commands import StartRun
from engine.errors import CallerError, PeerError
from engine.runs.events import RunFinished, RunStarted
from engine.runs.record import Run
from tests.actors.scripted import Call, Stage, Staged, kinds, log_of, of, staged, until

__all__ = ["staged"]


async def queue(stage: Stage, session_id: str, text: str, **fields: object) -> StartedRun:
    start = StartRun(session_id=session_id, input=(text,), when_busy="queue", **fields)  # type: ignore[arg-type]
    return await stage.registry.start_run(start)


async def busy(stage: Stage, *texts: str) -> tuple[str, RunHandle, Call, list[StartedRun]]:
    """A session with an active run, and runs that wait."""
    run, call = await stage.begin()
    session_id = await stage.session_of(run)
    return session_id, run, call, [await queue(stage, session_id, text) for text in texts]


async def waiting(stage: Stage, session_id: str) -> list[tuple[str, int | None]]:
    page = await stage.registry.list_runs(session_id, True, 100)
    return [(run.id, run.position) for run in reversed(page.items) if run.status == "queued"]


async def ended(feed: RunFeed) -> Run:
    await until(feed, lambda found: of(found, RunFinished))
    return feed.record()


def texts(call: Call) -> list[str]:
    return [part.text for message in call.request.messages for part in message.parts if hasattr(part, "text")]


async def test_runs_wait_and_begin_in_order(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, call, (first, second) = await busy(stage, "one", "two")
        assert [(one.run.status, one.run.position) for one in (first, second)] == [("queued", 1), ("queued", 2)]
        assert first.revision < second.revision
        assert await waiting(stage, session_id) == [(first.run.id, 1), (second.run.id, 2)]
        assert (await stage.registry.get_session(session_id)).queued == 2
        call.text("hi")
        call.end()
        assert (await run.wait()).status == "completed"
        call = await stage.models.call()
        assert texts(call) == ["hello", "hi", "one"]
        assert await waiting(stage, session_id) == [(second.run.id, 1)]
        begun = await stage.registry.get_run(first.run.id)
        assert (begun.status, begun.position) == ("running", None)
        assert begun.started_at is not None
        assert stage.runs_in_tree() == [first.run.id]
        call.end()
        await ended(first.feed)
        call = await stage.models.call()
        assert texts(call) == ["hello", "hi", "one", "two"]
        call.end()
        assert (await ended(second.feed)).status == "completed"
        assert (await stage.registry.get_session(session_id)).queued == 0
        await stage.usable(session_id)


async def test_a_message_that_waits_is_no_part_of_the_conversation_yet(staged: Staged) -> None:
    async def tool() -> str:
        """Does its work."""
        return "done"

    async with staged(tools=[tool]) as stage:
        session_id, run, call, (first,) = await busy(stage, "one")
        call.tools(("functions__tool", "{}"))
        call = await stage.models.call()
        assert texts(call) == ["hello"]
        assert first.message_id not in [message["info"]["id"] for message in await stage.messages(session_id)]
        call.end()
        await run.wait()
        (await stage.models.call()).end()
        await ended(first.feed)
        assert [message["info"]["role"] for message in await stage.messages(session_id)] == [
            "user", "assistant", "assistant", "user", "assistant",
        ]  # fmt: skip


async def test_a_watch_of_a_run_that_waits_sees_it_from_its_first_event(staged: Staged) -> None:
    async with staged() as stage:
        _, _, call, (first,) = await busy(stage, "one")
        feed = await stage.registry.watch_run(first.run.id)
        assert feed is first.feed
        assert log_of(feed) == []
        snapshot = await feed.snapshot()
        assert snapshot.seq == 0
        call.end()
        (await stage.models.call()).end()
        await ended(feed)
        found = log_of(feed)
        assert (kinds(found)[0], found[0].seq) == ("run.started", 1)
        assert len(of(found, RunStarted)) == 1


async def test_the_bound_and_one_past_it(staged: Staged) -> None:
    async with staged(queued_messages_max=3) as stage:
        session_id, _, _, _ = await busy(stage, "one", "two")
        assert (await queue(stage, session_id, "three")).run.position == 3
        with pytest.raises(CallerError) as caught:
            await queue(stage, session_id, "four")
        assert caught.value.code == "queue_full"
        assert len(await waiting(stage, session_id)) == 3


async def test_the_length_of_a_message_that_waits_is_bounded(staged: Staged) -> None:
    async with staged(message_characters=10) as stage:
        session_id, _, _, _ = await busy(stage, "é" * 10)
        with pytest.raises(CallerError) as caught:
            await queue(stage, session_id, "é" * 11)
        assert (caught.value.code, caught.value.data) == ("payload_too_large", {"limit": 10})
        assert len(await waiting(stage, session_id)) == 1
        idle = await stage.engine.create_session()
        assert (await queue(stage, idle.id, "x" * 11)).run.status == "running"  # nothing waits here


async def test_stopping_a_run_that_waits(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, call, (first, second, third) = await busy(stage, "one", "two", "three")
        records = [await stage.registry.stop_run(second.run.id, "not needed") for _ in range(2)]
        assert records[0] == records[1] == await stage.registry.get_run(second.run.id)
        assert (records[0].status, records[0].reason, records[0].position) == ("cancelled", "not needed", None)
        assert kinds(log_of(second.feed)) == ["run.finished"]
        assert await waiting(stage, session_id) == [(first.run.id, 1), (third.run.id, 2)]
        assert not run.record.ended_at
        call.end()
        for one, text in ((first, "one"), (third, "three")):
            call = await stage.models.call()
            assert texts(call)[-1] == text
            call.end()
            await ended(one.feed)
        assert "two" not in [
            part.get("text") for message in await stage.messages(session_id) for part in message["parts"]
        ]
        assert (await stage.registry.watch_run(second.run.id)).ended


async def test_stopping_a_run_that_begins_just_now(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, call, (first,) = await busy(stage, "one")
        stage.disk.hold()
        call.end()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.stop_run, first.run.id, "stop")
            await stage.disk.wait_held()
            await wait_all_tasks_blocked()
            stage.disk.release()
        assert (await stage.registry.get_run(first.run.id)).status == "cancelled"
        await run.wait()
        await stage.usable(session_id)


async def test_reject_names_the_run_that_waits_when_none_is_active(staged: Staged) -> None:
    async with staged() as stage:
        sessions = [await busy(stage, "one") for _ in range(2)]
    async with staged(active_runs_max=1) as stage:
        await stage.models.call()  # of the first session: the second has to wait for a place
        session_id, _, _, (first,) = sessions[1]
        with pytest.raises(CallerError) as caught:
            await stage.registry.start_run(StartRun(session_id=session_id, input=("now",)))
        assert (caught.value.code, caught.value.data) == ("session_busy", {"run_id": first.run.id})


async def test_interrupt_goes_before_what_waits(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, _, (first,) = await busy(stage, "one")
        started = await stage.registry.start_run(StartRun(session_id=session_id, input=("now",), when_busy="interrupt"))
        assert run.record.status == "cancelled"
        call = await stage.models.call()
        assert texts(call) == ["hello", "now"]
        assert await waiting(stage, session_id) == [(first.run.id, 1)]
        call.end()
        await ended(started.feed)
        call = await stage.models.call()
        assert texts(call)[-1] == "one"
        call.end()
        await ended(first.feed)


async def test_what_waits_begins_whatever_ended_the_run_before(staged: Staged) -> None:
    async with staged() as stage:
        _, run, call, (first, second) = await busy(stage, "one", "two")
        call.fail(PeerError("provider_error", "broken"))
        assert (await run.wait()).status == "failed"
        await stage.models.call()
        await stage.registry.stop_run(first.run.id, None)
        (await stage.models.call()).end()
        assert (await ended(second.feed)).status == "completed"


async def test_a_repeated_request_gives_the_run_that_waits(staged: Staged) -> None:
    async with staged() as stage:
        session_id, _, _, _ = await busy(stage)
        first = await queue(stage, session_id, "one", idempotency_key="k")
        again = await queue(stage, session_id, "one", idempotency_key="k")
        assert (again.run, again.message_id) == (first.run, first.message_id)
        assert again.feed is first.feed
        assert len(await waiting(stage, session_id)) == 1


async def test_a_stale_revision_does_not_wait(staged: Staged) -> None:
    async with staged() as stage:
        session_id, _, _, (first,) = await busy(stage, "one")
        with pytest.raises(CallerError) as caught:
            await queue(stage, session_id, "two", expected_revision=first.revision - 1)
        assert caught.value.code == "stale_revision"
        assert (await queue(stage, session_id, "two", expected_revision=first.revision)).run.position == 2


async def test_what_waits_survives_a_restart_and_begins_by_itself(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, _, (first, second) = await busy(stage, "one", "two")
    assert run.record.status == "cancelled"
    assert [one.feed.closed for one in (first, second)] == ["draining", "draining"]
    async with staged() as stage:
        call = await stage.models.call()
        assert texts(call) == ["hello", "one"]
        assert await waiting(stage, session_id) == [(second.run.id, 1)]
        call.end()
        call = await stage.models.call()
        assert texts(call) == ["hello", "one", "two"]
        call.end()
        assert (await ended(await stage.registry.watch_run(second.run.id))).status == "completed"
        assert (await stage.registry.get_run(first.run.id)).status == "completed"


async def test_after_a_restart_the_bound_of_active_runs_holds(staged: Staged) -> None:
    async with staged() as stage:
        all_of = [await busy(stage, "one") for _ in range(4)]
    async with staged(active_runs_max=2) as stage:
        calls = [await stage.models.call() for _ in range(2)]
        assert stage.registry.registry_statistics().active_runs == 2
        with pytest.raises(CallerError) as caught:
            session = await stage.engine.create_session()
            await session.start("me first")
        assert caught.value.code == "overloaded"
        # One that waits for a place can be seen and stopped: its session is brought back for it.
        last = all_of[3][3][0]
        assert (await stage.registry.get_run(last.run.id)).position == 1
        assert (await stage.registry.get_session(all_of[3][0])).queued == 1
        assert (await stage.registry.stop_run(last.run.id, None)).status == "cancelled"
        for call in calls:
            call.end()
        (await stage.models.call()).end()
        for _, _, _, (started,) in all_of[:3]:
            assert (await ended(await stage.registry.watch_run(started.run.id))).status == "completed"


async def test_nothing_that_waits_begins_while_the_daemon_drains(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, call, (first,) = await busy(stage, "one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.drain)
            await wait_all_tasks_blocked()
            with pytest.raises(CallerError) as caught:
                await queue(stage, session_id, "two")
            assert caught.value.code == "draining"
            call.end()
        assert run.record.status == "completed"
        assert (await stage.registry.get_run(first.run.id)).status == "queued"
    async with staged() as stage:
        assert texts(await stage.models.call())[-1] == "one"


async def test_a_deleted_session_takes_its_queue_with_it(staged: Staged) -> None:
    async with staged() as stage:
        session_id, _, _, (first,) = await busy(stage, "one")
        await stage.registry.delete_session(session_id)
        assert first.feed.closed == "deleted"
        with pytest.raises(CallerError):
            await stage.registry.get_run(first.run.id)
        await wait_all_tasks_blocked()
        assert stage.registry.registry_statistics().queued_runs == 0
        assert stage.models.open_now == 0


async def test_a_full_disk_keeps_the_queue_and_it_goes_on_later(staged: Staged, mock_clock: MockClock) -> None:
    async with staged() as stage:
        session_id, run, call, (first,) = await busy(stage, "one")
        call.end()
        stage.disk.hold()
        await stage.disk.wait_held()
        stage.disk.full = True
        stage.disk.release()
        await stage.disk.wait_refused()
        await run.wait()
        with pytest.raises(PeerError) as caught:
            await queue(stage, session_id, "two")
        assert caught.value.code == "disk_full"
        stage.disk.full = False
        mock_clock.rate = 8.0  # half a second between two attempts, four until the test is given up
        (await stage.models.call()).end()
        assert (await ended(first.feed)).status == "completed"


async def test_a_deletion_that_the_disk_refuses_leaves_the_session_at_work(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.session.SETTLE_DELAY", 0.01)
    async with staged() as stage:
        session_id, run, _, (first,) = await busy(stage, "one")
        stage.disk.full = True
        for _ in range(2):
            with pytest.raises(PeerError) as caught:
                await stage.registry.delete_session(session_id)
            assert caught.value.code == "disk_full"
        stage.disk.full = False
        call = await stage.models.call()
        assert texts(call)[-1] == "one"
        assert (await stage.registry.watch_run(first.run.id)) is first.feed  # who watched it goes on
        call.end()
        assert (await ended(first.feed)).status == "completed"
        stored = await stage.registry.list_runs(session_id, None, 10)
        assert [one.status for one in stored.items] == ["completed", (await run.wait()).status]
        assert (await stage.registry.list_runs(session_id, True, 10)).items == ()


async def test_a_deletion_that_fails_at_the_last_leaves_the_queue(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged() as stage:
        session_id, run, _, (first,) = await busy(stage, "one")

        async def refuse(self: StoreRef, session_id: str) -> None:
            raise PeerError("disk_full", "it cannot be deleted now")

        with monkeypatch.context() as patch:
            patch.setattr(StoreRef, "delete_session", refuse)
            with pytest.raises(PeerError):
                await stage.registry.delete_session(session_id)
        call = await stage.models.call()
        assert texts(call)[-1] == "one" and (await run.wait()).status == "cancelled"
        assert first.feed.closed == "draining"  # who watched it comes back
        feed = await stage.registry.watch_run(first.run.id)
        call.end()
        assert (await ended(feed)).status == "completed"


async def test_a_session_that_crashes_keeps_its_queue(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged() as stage:
        _, run, _, (first,) = await busy(stage, "one")

        async def crash(self: Session, start: StartRun) -> None:
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(Session, "_start", crash)
            with pytest.raises(BaseException):  # noqa: B017 - ActorDied, by whatever way
                await queue(stage, await stage.session_of(run), "two")
        call = await stage.models.call()
        assert texts(call)[-1] == "one"
        feed = await stage.registry.watch_run(first.run.id)
        call.end()
        assert (await ended(feed)).status == "completed"


async def test_a_store_that_fails_as_a_run_begins_leaves_it_waiting(
    staged: Staged, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged() as stage:
        _, run, call, (first, second) = await busy(stage, "one", "two")
        failed = trio.Event()

        async def fail(self: StoreRef, session_id: str) -> None:
            failed.set()
            raise PeerError("disk_full", "it cannot be read now")

        with monkeypatch.context() as patch:
            patch.setattr(StoreRef, "get_session", fail)
            call.end()
            await run.wait()
            await failed.wait()
            await wait_all_tasks_blocked()
        assert (await stage.registry.get_run(first.run.id)).status == "queued"
        mock_clock.rate = 8.0
        for one in (first, second):
            (await stage.models.call()).end()
            assert (await ended(one.feed)).status == "completed"
