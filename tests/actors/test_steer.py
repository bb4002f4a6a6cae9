"""Messages sent to a busy session with `when_busy: steer`: the run at work takes them in."""

from __future__ import annotations

import orjson
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.api import RunHandle
from actors.session_ref import StartedRun
from engine.commands import StartRun
from engine.errors import CallerError, PeerError
from engine.runs.events import MessageSteered
from tests.actors.scripted import Call, Stage, Staged, check_seq, kinds, of, shown, staged, until, until_text

__all__ = ["staged"]


async def work() -> str:
    """Does its work."""
    return "done"


async def steer(stage: Stage, session_id: str, text: str, **fields: object) -> StartedRun:
    start = StartRun(session_id=session_id, input=(text,), when_busy="steer", **fields)  # type: ignore[arg-type]
    return await stage.registry.start_run(start)


async def begun(stage: Stage) -> tuple[str, RunHandle, Call]:
    run, call = await stage.begin()
    return await stage.session_of(run), run, call


def said(call: Call) -> list[tuple[str, str]]:
    """What the model is shown: role and text, or the tool that was called."""
    return [
        (message.role, getattr(part, "text", None) or part.tool)
        for message in call.request.messages
        for part in message.parts
        if hasattr(part, "text") or hasattr(part, "tool")
    ]


async def told(stage: Stage, session_id: str) -> list[str]:
    """The roles of the transcript's messages."""
    return [message["info"]["role"] for message in await stage.messages(session_id)]


async def test_the_message_is_seen_after_the_tool_calls_of_the_turn(staged: Staged) -> None:
    async with staged(tools=[work]) as stage:
        session_id, run, call = await begun(stage)
        call.text("let me see")
        await until_text(run, "let me see")
        taken = await steer(stage, session_id, "but hurry")
        assert taken.run.id == run.id and taken.feed is run._feed
        assert (await stage.registry.get_session(session_id)).revision == taken.revision
        (event,) = of(shown(run), MessageSteered)
        message = (await stage.messages(session_id))[-1]
        assert orjson.loads(event.message) == message
        assert (message["info"]["id"], message["info"]["run_id"]) == (taken.message_id, run.id)
        call.tools(("functions__work", "{}"))
        call = await stage.models.call()
        assert said(call) == [
            ("user", "hello"), ("assistant", "let me see"), ("assistant", "functions.work"), ("user", "but hurry"),
        ]  # fmt: skip
        call.end()
        assert (await run.wait()).status == "completed"
        assert await told(stage, session_id) == ["user", "assistant", "user", "assistant"]
        check_seq(shown(run))
        await stage.usable(session_id)


async def test_a_run_that_would_have_ended_makes_one_more_turn(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, call = await begun(stage)
        call.text("fine")
        await until_text(run, "fine")
        for text in ("and", "then"):
            await steer(stage, session_id, text)
        call.end()
        call = await stage.models.call()
        assert said(call) == [("user", "hello"), ("assistant", "fine"), ("user", "and"), ("user", "then")]
        finishes = [message["info"].get("finish") for message in await stage.messages(session_id)]
        assert finishes[:4] == [None, "stop", None, None]
        call.end()
        assert (await run.wait()).status == "completed"
        assert kinds(shown(run)).count("turn.finished") == 2


async def test_steering_an_idle_session_is_a_start(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        started = await steer(stage, session.id, "hi")
        call = await stage.models.call()
        assert said(call) == [("user", "hi")]
        call.end()
        await until(started.feed, lambda found: "run.finished" in kinds(found))


async def test_a_run_that_is_ending_takes_nothing_in_and_the_message_begins_another(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, call = await begun(stage)
        await until(run, lambda found: "turn.started" in kinds(found))
        stage.disk.hold()
        call.end()
        await stage.disk.wait_held()  # the run's last commit
        results: list[StartedRun] = []

        async def send() -> None:
            results.append(await steer(stage, session_id, "too late"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            assert not results
            stage.disk.release()
        assert run.record.status == "completed"
        assert results[0].run.id != run.id
        assert of(shown(run), MessageSteered) == []
        assert ("user", "too late") in said(await stage.models.call())


async def test_the_bound_and_one_past_it(staged: Staged) -> None:
    async with staged(queued_messages_max=2, message_characters=5) as stage:
        session_id, run, call = await begun(stage)
        await steer(stage, session_id, "x" * 5)
        with pytest.raises(CallerError) as caught:
            await steer(stage, session_id, "x" * 6)
        assert (caught.value.code, caught.value.data) == ("payload_too_large", {"limit": 5})
        await steer(stage, session_id, "two")
        with pytest.raises(CallerError) as caught:
            await steer(stage, session_id, "three")
        assert caught.value.code == "queue_full"
        assert await told(stage, session_id) == ["user", "assistant", "user", "user"]
        call.end()
        call = await stage.models.call()  # the next turn has seen both: there is room again
        await steer(stage, session_id, "three")
        call.end()
        (await stage.models.call()).end()
        assert (await run.wait()).status == "completed"


async def test_a_stopped_run_leaves_what_it_was_sent_in_the_transcript(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, _ = await begun(stage)
        await steer(stage, session_id, "never mind")
        assert (await run.stop()).status == "cancelled"
        assert await told(stage, session_id) == ["user", "assistant", "user"]
        await stage.usable(session_id)


async def test_what_was_taken_in_survives_a_restart(staged: Staged) -> None:
    async with staged() as stage:
        session_id, _, _ = await begun(stage)
        taken = await steer(stage, session_id, "remember")
    async with staged() as stage:
        assert (await stage.messages(session_id))[-1]["info"]["id"] == taken.message_id
        await stage.usable(session_id)


async def test_a_repeated_request_gives_the_first_message(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, _ = await begun(stage)
        first = await steer(stage, session_id, "once", idempotency_key="k")
        again = await steer(stage, session_id, "once", idempotency_key="k")
        assert (again.run.id, again.message_id) == (run.id, first.message_id)
        assert len(of(shown(run), MessageSteered)) == 1
        with pytest.raises(CallerError) as caught:
            await steer(stage, session_id, "twice", idempotency_key="k")
        assert caught.value.code == "idempotency_conflict"


async def test_a_stale_revision_is_not_taken_in(staged: Staged) -> None:
    async with staged() as stage:
        session_id, _, _ = await begun(stage)
        taken = await steer(stage, session_id, "one")
        with pytest.raises(CallerError) as caught:
            await steer(stage, session_id, "two", expected_revision=taken.revision - 1)
        assert caught.value.code == "stale_revision"


async def test_a_message_between_two_attempts_is_seen_by_the_next_turn_or_the_retry(
    staged: Staged, mock_clock: MockClock
) -> None:
    async with staged() as stage:
        session_id, run, call = await begun(stage)
        call.text("half")
        await until_text(run, "half")
        call.fail(PeerError("provider_error", "dropped", retry=True))
        await until(run, lambda found: "retry.scheduled" in kinds(found))
        await steer(stage, session_id, "still there?")
        mock_clock.rate = 8.0
        call = await stage.models.call()
        assert said(call) == [("user", "hello")]  # the turn of the second attempt began before the message
        call.text("whole")
        call.end()
        call = await stage.models.call()
        assert said(call) == [("user", "hello"), ("assistant", "whole"), ("user", "still there?")]
        call.end()
        assert (await run.wait()).status == "completed"


async def test_a_full_disk_takes_nothing_in(staged: Staged) -> None:
    async with staged() as stage:
        session_id, run, _ = await begun(stage)
        await until(run, lambda found: "turn.started" in kinds(found))
        stage.disk.full = True
        with pytest.raises(PeerError) as caught:
            await steer(stage, session_id, "hi")
        assert caught.value.code == "disk_full"
        assert of(shown(run), MessageSteered) == []
        stage.disk.full = False
        assert (await told(stage, session_id)).count("user") == 1


async def test_in_the_last_turn_that_a_run_may_make_the_message_waits_for_its_end(staged: Staged) -> None:
    async with staged(turns_per_run=1) as stage:
        session_id, run, call = await begun(stage)
        sent = await steer(stage, session_id, "and then")
        assert (sent.run.status, sent.run.position) == ("queued", 1)
        call.end()
        assert (await run.wait()).status == "completed"
        assert said(await stage.models.call())[-1] == ("user", "and then")


async def test_nothing_is_shown_behind_the_end_when_the_disk_was_too_slow(staged: Staged) -> None:
    async with staged(cancel_grace=0.1) as stage:
        session_id, run, _ = await begun(stage)
        await until(run, lambda found: "turn.started" in kinds(found))
        stage.disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(steer, stage, session_id, "late")
            await stage.disk.wait_held()
            await run.stop()
            assert run.record.status == "interrupted" and kinds(shown(run))[-1] == "run.finished"
            stage.disk.release()
        assert kinds(shown(run))[-1] == "run.finished"
