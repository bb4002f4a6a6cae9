"""Compaction in runs: in time, after a refused request, and by hand; what it costs, and that it is all or nothing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import attrs
import pytest
import trio

from actors.api import RunHandle, SessionHandle
from engine import codec
from engine.errors import CallerError, PeerError
from engine.providers.base import UsageReported
from engine.runs.events import CompactionFinished, RunStarted
from engine.runs.log import Gap
from engine.transcript.compaction import ATTEMPTS, INSTRUCTIONS
from engine.transcript.records import CompactionPart, Message, TextPart, ToolPart, Usage
from engine.transcript.window import Room
from tests.actors.scripted import Call, ScriptedModels, Stage, Staged, kinds, of, shown, staged
from tests.stress.transcript_rules import event_problems, transcript_problems

__all__ = ["staged"]

ROOM = Room(window=8192, answer=1024, compact_at=0.5)
LONG = "The quick brown fox jumps over the lazy dog. " * 60  # 2,700 bytes, some 900 tokens as they are estimated


def overflow(**data: Any) -> PeerError:
    return PeerError("context_overflow", "the conversation does not fit the model's window: says the test", **data)


def texts(call: Call) -> list[str]:
    """What the model is shown, as text."""
    return [text for message in call.request.messages for text in _texts(message)]


def _texts(message: Message) -> list[str]:
    return [
        part.text if isinstance(part, TextPart) else part.summary
        for part in message.parts
        if isinstance(part, TextPart | CompactionPart)
    ]


def is_summary(call: Call) -> bool:
    return call.request.instructions == INSTRUCTIONS


async def talk(stage: Stage, session: SessionHandle, *questions: str, usage: Usage | None = None) -> None:
    """Questions, each with a long answer."""
    for question in questions:
        run = await session.start(question)
        call = await stage.models.call()
        assert not is_summary(call)
        call.text(f"{question}? {LONG}")
        if usage is not None:
            call.send(UsageReported(usage))
        call.end()
        assert (await run.wait()).status == "completed"


def say(call: Call, text: str) -> None:
    call.text(text)
    call.end()


async def end_of(run: RunHandle) -> tuple[str, str | None]:
    record = await run.wait()
    return record.status, None if record.error is None else record.error.code


async def check(stage: Stage, run: RunHandle) -> None:
    """The history is valid, and what was shown of the run agrees with it."""
    messages = await stage.messages(await stage.session_of(run))
    assert transcript_problems(messages) == []
    own = [message for message in messages if message["info"].get("run_id") == run.id]
    piece = run._feed.log.read(0, 1 << 30)
    assert not isinstance(piece, Gap)
    assert event_problems([codec.parse(body) for body in piece.events], own) == []


async def next_call(stage: Stage, run: RunHandle) -> Call | None:
    """The next call of the model; None if the run ends without one."""
    found: list[Call] = []

    async def take(scope: trio.CancelScope) -> None:
        found.append(await stage.models.call())
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, nursery.cancel_scope)
        await run.wait()
        nursery.cancel_scope.cancel()
    return found[0] if found else None


# ------------------------------------------------------------------ by hand
async def test_by_hand_a_summary_takes_the_place_of_the_beginning(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third")
        before = await stage.messages(session.id)
        run = await session.compact()
        call = await stage.models.call()
        assert is_summary(call) and call.request.tools == ()
        (asked,) = texts(call)
        assert "first" in asked and "second" in asked and "third" not in asked
        say(call, "they spoke of foxes")
        assert await end_of(run) == ("completed", None)
        events = shown(run)
        assert kinds(events) == [
            "run.started", "compaction.started", "part.started", "part.finished", "compaction.finished", "run.finished",
        ]  # fmt: skip
        third = before[4]["info"]["id"]
        assert of(events, CompactionFinished) == [CompactionFinished(kept_from=third)]
        assert b"Compact the conversation" in bytes(str(of(events, RunStarted)[0].message), "utf-8")
        after = await stage.messages(session.id)
        assert after[:-1] == before
        (part,) = after[-1]["parts"]
        assert (part["kind"], part["summary"], part["kept_from"]) == ("compaction", "they spoke of foxes", third)
        await check(stage, run)
        # The next run sees the summary, what was kept, and what is new.
        again = await session.start("fourth")
        call = await stage.models.call()
        assert [text[:5] for text in texts(call)] == ["they ", "third", "third", "fourt"]
        say(call, "fine")
        assert await end_of(again) == ("completed", None)
        await check(stage, again)


async def test_a_second_compaction_goes_on_from_the_first(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        run = await session.compact()
        say(await stage.models.call(), "summary of the first")
        assert await end_of(run) == ("completed", None)
        await talk(stage, session, "third")
        run = await session.compact()
        call = await stage.models.call()
        (asked,) = texts(call)
        assert "summary of the first" in asked and "second" in asked and "third" not in asked
        assert LONG[:40] in asked and asked.count("first") == 1
        say(call, "summary of both")
        assert await end_of(run) == ("completed", None)
        await session.start("fourth")
        assert [text[:15] for text in texts(await stage.models.call())] == [
            "summary of both", "third", f"third? {LONG}"[:15], "fourth",
        ]  # fmt: skip


async def test_what_is_too_little_is_left_as_it_is(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        run = await session.compact()
        assert (await run.wait()).status == "completed" and "too little" in str(run.record.reason)
        assert kinds(shown(run)) == ["run.started", "run.finished"]
        await talk(stage, session, "only")
        run = await session.compact()
        say(await stage.models.call(), LONG * 3)  # longer than what it summarises
        assert (await run.wait()).status == "completed" and "too little" in str(run.record.reason)
        assert len(await stage.messages(session.id)) == 2
        assert CompactionFinished not in {type(one.event) for one in shown(run)}
        await stage.usable(session.id)


@pytest.mark.parametrize("said", ["", "   \n\t "])
async def test_an_empty_summary_is_refused(staged: Staged, said: str) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        before = await stage.messages(session.id)
        run = await session.compact()
        for _ in range(ATTEMPTS):
            call = await stage.models.call()
            if said:
                call.text(said)
            call.end()
        assert await end_of(run) == ("failed", "provider_error")
        assert "no summary" in str(run.record.error)
        assert await stage.messages(session.id) == before
        await stage.usable(session.id)


async def test_a_stopped_one_leaves_the_history_as_before(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        before = await stage.messages(session.id)
        revision = (await session.record()).revision
        run = await session.compact()
        call = await stage.models.call()
        call.text("half a summ")
        assert (await run.stop()).status == "cancelled"
        assert call.closed.is_set() and stage.runs_in_tree() == []
        assert await stage.messages(session.id) == before and (await session.record()).revision == revision
        await stage.usable(session.id)


async def test_one_run_at_a_time(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        run = await session.compact()
        call = await stage.models.call()
        with pytest.raises(CallerError, match="session_busy"):
            await session.compact()
        with pytest.raises(CallerError, match="session_busy"):
            await session.start("too early")
        waits = await session.start("steered", when_busy="steer")
        assert waits.id != run.id and waits.record.status == "queued"
        say(call, "short")
        assert await end_of(run) == ("completed", None)
        call = await stage.models.call()
        assert texts(call)[0] == "short" and texts(call)[-1] == "steered"
        with pytest.raises(CallerError, match="session_busy"):
            await session.compact()
        say(call, "done")
        assert await end_of(waits) == ("completed", None)


async def test_another_model_may_write_it(staged: Staged) -> None:
    async with staged() as stage:
        stage.models.rooms["model"] = Room(window=8192, answer=1024, compact_at=0, compact_model="other")
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        run = await session.compact()
        call = await stage.models.call()
        assert call.request.model == "other"
        call.send(UsageReported(Usage(input_tokens=70, output_tokens=5)))
        say(call, "by the other")
        assert await end_of(run) == ("completed", None)
        assert run.record.usage.input_tokens == 70
        assert (await session.record()).usage.input_tokens == 70
        info = (await stage.messages(session.id))[-1]["info"]
        assert (info["model"], info["finish"], info["usage"]["output_tokens"]) == ("other", "stop", 5)


@pytest.mark.parametrize(("said", "kept"), [("ä" * 150, 300), ("ä" * 151, 300), ("x" * 299 + "ä", 299)])
async def test_a_summary_has_a_bound(staged: Staged, said: str, kept: int) -> None:
    async with staged(summary_bytes=300) as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        run = await session.compact()
        call = await stage.models.call()
        call.text(said)
        call.text("and more, which nobody reads")
        call.end()
        assert await end_of(run) == ("completed", None)
        (part,) = (await stage.messages(session.id))[-1]["parts"]
        assert len(part["summary"].encode()) == kept and said.startswith(part["summary"])


async def test_a_service_that_is_busy_is_asked_again(staged: Staged) -> None:
    async with staged(retry_delay_first=0.001) as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        run = await session.compact()
        (await stage.models.call()).fail(PeerError("provider_error", "busy", retry=True))
        say(await stage.models.call(), "in the end")
        assert await end_of(run) == ("completed", None)
        assert "retry.scheduled" in kinds(shown(run))


async def test_a_disk_that_refuses_leaves_nothing_half_done(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        before = await stage.messages(session.id)
        run = await session.compact()
        call = await stage.models.call()
        stage.disk.full = True
        say(call, "short")
        assert (await run.wait()).status == "interrupted"
        stage.disk.full = False
        assert await stage.messages(session.id) == before
        await stage.usable(session.id)


# ------------------------------------------------------------------ in time
async def test_a_window_that_is_due_is_summarised_before_the_turn(staged: Staged) -> None:
    async with staged() as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third", "fourth")  # 4 x 900 tokens: under 4,096
        run = await session.start("fifth " + LONG)
        call = await stage.models.call()
        assert is_summary(call)
        say(call, "all of that")
        call = await stage.models.call()
        assert texts(call)[0] == "all of that" and texts(call)[-1].startswith("fifth")
        say(call, "answered")
        assert await end_of(run) == ("completed", None)
        assert kinds(shown(run))[:6] == [
            "run.started", "compaction.started", "part.started", "part.finished", "compaction.finished", "turn.started",
        ]  # fmt: skip
        await check(stage, run)


@pytest.mark.parametrize(("before", "calls"), [((), 1), ((), 3), (("first", "second", "third"), 2)])
async def test_results_are_seen_before_they_are_summarised(staged: Staged, before: tuple[str, ...], calls: int) -> None:
    """Else the model asks for them again, and never gets further."""

    async def read() -> str:
        """Gives a lot."""
        return LONG * 10

    async with staged(tools=[read]) as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session()
        await talk(stage, session, *before)
        run = await session.start("go")
        call = await stage.models.call()
        call.tools(*[("functions__read", "{}")] * calls)
        call = await stage.models.call()
        if before:
            assert is_summary(call) and "User: first" in texts(call)[0]
            say(call, "they spoke of foxes")
            call = await stage.models.call()
        assert not is_summary(call) and texts(call) == ["they spoke of foxes"] * bool(before) + ["go"]
        results = [part.output or "" for part in call.request.messages[-1].parts if isinstance(part, ToolPart)]
        assert len(results) == calls and all(result.startswith("The quick brown fox") for result in results)
        say(call, "done")
        assert await end_of(run) == ("completed", None)
        await check(stage, run)


async def test_what_large_results_leave_out_is_summarised(staged: Staged) -> None:
    def read() -> str:
        """Gives a lot."""
        return LONG * 10

    async with staged(tools=[read]) as stage:
        stage.models.rooms["model"] = Room(window=8192, answer=1024, compact_at=0.9)
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third", "fourth", "fifth")  # more than half of the room
        run = await session.start("go")
        (await stage.models.call()).tools(("functions__read", "{}"))
        call = await stage.models.call()
        assert is_summary(call) and "first" in texts(call)[0] and "User: go" in texts(call)[0]
        say(call, "they spoke of foxes")
        call = await stage.models.call()
        assert texts(call) == ["they spoke of foxes", "go"]
        (result,) = [part.output or "" for part in call.request.messages[-1].parts if isinstance(part, ToolPart)]
        assert result.startswith("The quick brown fox") and "bytes were cut here" in result
        say(call, "done")
        assert await end_of(run) == ("completed", None)
        await check(stage, run)


async def test_what_is_said_while_a_summary_is_written_is_not_lost(staged: Staged) -> None:
    async with staged() as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third", "fourth")
        run = await session.start("fifth " + LONG)
        summary = await stage.models.call()
        assert is_summary(summary)
        for text in ("sixth", "seventh"):
            assert (await session.start(text, when_busy="steer")).id == run.id
        say(summary, "all of that")
        call = await stage.models.call()
        assert texts(call)[0] == "all of that" and texts(call)[-3:] == ["fifth " + LONG, "sixth", "seventh"]
        say(call, "answered")
        assert await end_of(run) == ("completed", None)
        await session.start("eighth")
        assert texts(await stage.models.call())[-4:] == ["sixth", "seventh", "answered", "eighth"]


async def test_what_the_service_counted_is_believed(staged: Staged) -> None:
    """Estimated it is far from due."""
    async with staged() as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session()
        await talk(stage, session, "first")
        await talk(stage, session, "second", usage=Usage(input_tokens=4000, output_tokens=100))
        run = await session.start("third")
        call = await stage.models.call()
        assert is_summary(call)
        say(call, "short")
        call = await stage.models.call()
        assert texts(call)[0] == "short"
        call.send(UsageReported(Usage(input_tokens=300, output_tokens=100)))
        say(call, "fine")
        assert await end_of(run) == ("completed", None)
        # The counts of what was summarised, or kept beside the summary, are of another request.
        await talk(stage, session, "fourth")


@pytest.mark.parametrize(("part", "due"), [(0.9, True), (0.0, False)])
async def test_what_would_be_left_out_is_summarised_first(staged: Staged, part: float, due: bool) -> None:
    """By the number of messages too; unless it is to be done only where a service refuses."""
    async with staged(window_messages=6) as stage:
        session = await stage.engine.create_session()
        stage.models.rooms["model"] = Room(window=100_000, answer=1024, compact_at=part)
        await talk(stage, session, "first", "second")
        await talk(stage, session, "third")  # the sixth message is its answer
        run = await session.start("fourth")
        call = await stage.models.call()
        assert is_summary(call) is due
        if due:
            assert "first" in texts(call)[0] and "second" in texts(call)[0]
            say(call, "of the first")
            call = await stage.models.call()
        assert texts(call)[0] == ("of the first" if due else "third")
        say(call, "fine")
        assert await end_of(run) == ("completed", None)


@pytest.mark.parametrize(("per_token", "first"), [(None, "fourth"), (4.4, "first")])
async def test_how_long_a_token_is_is_learned(staged: Staged, per_token: float | None, first: str) -> None:
    """Seven turns of 2.8 KB each: at 3 bytes a token one more than fits, so that the window is cut; at 4.4 all do."""
    async with staged() as stage:
        stage.models.rooms["model"] = Room(window=8192, answer=1750, compact_at=0)
        session = await stage.engine.create_session()
        names = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
        for number, name in enumerate(names):
            tokens = 0 if per_token is None else int((2800 * number + 1) / per_token)
            await talk(stage, session, name, usage=Usage(input_tokens=tokens, output_tokens=1))
        session = await stage.engine.session(session.id)
        await session.start("now")
        assert texts(await stage.models.call())[0] == first


async def test_a_run_goes_on_without_a_summary(staged: Staged) -> None:
    """It is not needed yet: the service may still take all."""
    async with staged() as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third", "fourth")
        run = await session.start("fifth " + LONG)
        (await stage.models.call()).fail(PeerError("provider_error", "no such deployment"))
        call = await stage.models.call()
        assert not is_summary(call) and texts(call)[0] == "first"
        say(call, "answered")
        assert await end_of(run) == ("completed", None)
        await check(stage, run)


async def test_a_message_that_comes_while_it_is_summarised_is_seen_by_the_turn(staged: Staged) -> None:
    async with staged() as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third", "fourth")
        run = await session.start("fifth " + LONG)
        call = await stage.models.call()
        assert is_summary(call)
        steered = await session.start("and this", when_busy="steer")
        assert steered.id == run.id
        say(call, "all of that")
        call = await stage.models.call()
        assert texts(call)[-1] == "and this"
        say(call, "answered")
        assert await end_of(run) == ("completed", None)
        await stage.usable(session.id)


async def test_between_the_turns_of_a_run_the_question_stays(staged: Staged) -> None:
    def read() -> str:
        """Read."""
        return LONG

    async with staged(tools=[read]) as stage:
        stage.models.rooms["model"] = ROOM
        session = await stage.engine.create_session(toolsets=("functions",))
        run = await session.start("please read")
        turns = 0
        while not is_summary(call := await stage.models.call()):
            assert texts(call)[0] == "please read"
            call.tools(("functions__read", "{}"))
            turns += 1
            assert turns < 10
        assert "please read" in texts(call)[0] and "functions.read" in texts(call)[0]
        say(call, "it was read")
        call = await stage.models.call()
        assert texts(call)[:2] == ["it was read", "please read"]
        assert len(call.request.messages) > 2  # the newest calls are kept
        say(call, "answered")
        assert await end_of(run) == ("completed", None)
        await check(stage, run)


# ------------------------------------------------------------------ what a service refuses
async def test_a_refused_request_is_made_smaller_and_sent_again(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third")
        run = await session.start("fourth")
        call = await stage.models.call()
        large = sum(map(len, texts(call)))
        call.fail(overflow())
        call = await stage.models.call()
        assert is_summary(call)
        say(call, "short")
        call = await stage.models.call()
        assert texts(call)[0] == "short" and texts(call)[-1] == "fourth"
        assert sum(map(len, texts(call))) < 0.8 * large
        say(call, "fine")
        assert await end_of(run) == ("completed", None)
        assert kinds(shown(run)).count("turn.started") == 2
        await check(stage, run)
        await stage.usable(session.id)


async def test_a_service_that_always_refuses_is_asked_three_times(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third")
        before = await stage.messages(session.id)
        run = await session.start("fourth")
        for _ in range(ATTEMPTS):
            (await stage.models.call()).fail(overflow())
        assert await end_of(run) == ("failed", "context_overflow")
        assert "3 attempts" in str(run.record.error)
        assert (await stage.messages(session.id))[: len(before)] == before
        await check(stage, run)
        await stage.usable(session.id)


async def test_nor_is_it_asked_more_often_where_a_summary_was_due(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third", "fourth")
        stage.models.rooms["model"] = ROOM
        run = await session.start("fifth " + LONG)
        asked: list[bool] = []
        while (call := await next_call(stage, run)) is not None:
            asked.append(is_summary(call))
            call.fail(overflow())
        assert asked == [True, True, False]
        assert await end_of(run) == ("failed", "context_overflow") and "3 attempts" in str(run.record.error)
        stage.models.rooms.clear()
        await stage.usable(session.id)


async def test_what_empty_summaries_cost_is_counted(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        run = await session.compact()
        for text in ("", "in the end"):
            call = await stage.models.call()
            call.send(UsageReported(Usage(input_tokens=70, output_tokens=5)))
            if text:
                call.text(text)
            call.end()
        assert await end_of(run) == ("completed", None)
        assert run.record.usage.input_tokens == 140 == (await session.record()).usage.input_tokens


@pytest.mark.parametrize(("answer", "calls"), [("", ATTEMPTS), (LONG * 3, 1)], ids=["none", "too long"])
async def test_what_useless_summaries_cost_is_counted(staged: Staged, answer: str, calls: int) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second")
        before = await stage.messages(session.id)
        run = await session.compact()
        for _ in range(calls):
            call = await stage.models.call()
            call.send(UsageReported(Usage(input_tokens=70, output_tokens=5)))
            if answer:
                call.text(answer)
            call.end()
        await end_of(run)
        assert run.record.usage.input_tokens == 70 * calls == (await session.record()).usage.input_tokens
        assert await stage.messages(session.id) == before


async def test_a_service_that_refuses_all_but_summaries(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third")
        run = await session.start("fourth " + LONG)
        asked, sizes = 0, list[int]()
        while (call := await next_call(stage, run)) is not None:
            if is_summary(call):
                say(call, "short")
            else:
                asked += 1
                sizes.append(sum(map(len, texts(call))))
                call.fail(overflow())
        assert await end_of(run) == ("failed", "context_overflow")
        assert 2 <= asked <= ATTEMPTS
        assert all(after <= 0.8 * before for before, after in itertools.pairwise(sizes))
        await check(stage, run)
        await stage.usable(session.id)


async def test_what_a_service_says_of_its_window_is_used(staged: Staged) -> None:
    async with staged() as stage:
        stage.models.rooms["model"] = Room(window=100_000, answer=1024, compact_at=0)
        session = await stage.engine.create_session()
        await talk(stage, session, *(f"question {number}" for number in range(12)))
        run = await session.start("and now")
        (await stage.models.call()).fail(overflow(overflow="tokens", window_tokens=4096))
        call = await stage.models.call()
        assert is_summary(call) and len(texts(call)[0]) < 3 * 4096
        say(call, "short")
        call = await stage.models.call()
        assert sum(map(len, texts(call))) < 3 * 4096
        say(call, "fine")
        assert await end_of(run) == ("completed", None)
        # It is remembered: the next run does not have to be told.
        await talk(stage, session, "once more")


async def test_each_model_has_a_window_of_its_own(staged: Staged) -> None:
    """A smaller one sees less of the conversation, and nothing is lost for the other."""
    async with staged() as stage:
        stage.models.rooms["model"] = Room(window=100_000, answer=1024, compact_at=0.9)
        stage.models.rooms["other"] = Room(window=2048, answer=256, compact_at=0.0)
        session = await stage.engine.create_session()
        await talk(stage, session, "first", "second", "third")
        run = await session.start("fourth", model="other")
        call = await stage.models.call()
        assert "first" not in texts(call) and texts(call)[-1] == "fourth"
        say(call, "seen less")
        assert await end_of(run) == ("completed", None)
        run = await session.start("fifth")
        call = await stage.models.call()
        assert not is_summary(call) and texts(call)[0] == "first"
        say(call, "seen all")
        assert await end_of(run) == ("completed", None)


async def test_a_result_larger_than_the_window_does_not_end_the_session(staged: Staged) -> None:
    def read() -> str:
        """Read."""
        return LONG * 15  # 40 KB; the window takes 20

    async with staged(tools=[read]) as stage:
        session = await stage.engine.create_session(toolsets=("functions",))
        run = await session.start("please read")
        (await stage.models.call()).tools(("functions__read", "{}"))
        call = await stage.models.call()
        (result,) = [
            part.output or ""
            for message in call.request.messages
            for part in message.parts
            if isinstance(part, ToolPart)
        ]
        assert LONG[:40] in result and "were cut here" in result
        assert len(result) < 3 * 8192
        say(call, "it is long")
        assert await end_of(run) == ("completed", None)
        assert (await stage.messages(session.id))[1]["parts"][1]["output_more"]["bytes"] > 40_000
        await check(stage, run)
        await stage.usable(session.id)


async def test_a_question_larger_than_the_window_is_cut(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        run = await session.start("Look: " + "x" * 100_000 + " what is this?")
        call = await stage.models.call()
        (text,) = texts(call)
        assert len(text) < 3 * 8192 and text.startswith("Look:") and text.endswith("what is this?")
        say(call, "many")
        assert await end_of(run) == ("completed", None)


# ------------------------------------------------------------------ all or nothing
async def answer_all(models: ScriptedModels) -> None:
    """Answers with a summary, or in a word, each time the loop has nothing else to do."""
    while True:
        call = await models.call()
        await trio.lowlevel.checkpoint()
        say(call, "a summary" if is_summary(call) else "fine")


@pytest.mark.parametrize("by_hand", [True, False])
async def test_stopped_at_any_step_it_has_happened_or_not(staged: Staged, by_hand: bool) -> None:
    """The disk's thread does its part when it does: how far a run is at a step differs. The last one is not stopped."""
    async with staged() as stage:
        room = Room(window=8192, answer=1024, compact_at=0.0)
        seen: set[tuple[bool, str]] = set()
        for step in (*range(0, 60, 2), *range(60, 300, 24), None):
            session = await stage.engine.create_session()
            await talk(stage, session, "first", "second")
            before = await stage.messages(session.id)
            stage.models.rooms["model"] = room if by_hand else attrs.evolve(room, compact_at=0.3)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_all, stage.models)
                run = await (session.compact() if by_hand else session.start("third " + LONG))
                for _ in range(step or 0):
                    await trio.lowlevel.checkpoint()
                record = await (run.wait() if step is None else run.stop())
                nursery.cancel_scope.cancel()
            stage.models.rooms["model"] = room
            after = await stage.messages(session.id)
            compacted = any(part["kind"] == "compaction" for message in after for part in message["parts"])
            shown_end = CompactionFinished in {type(one.event) for one in shown(run)}
            assert compacted == shown_end and after[: len(before)] == before
            assert by_hand is False or compacted or after == before
            await check(stage, run)
            seen.add((compacted, record.status))
            await stage.usable(session.id)
        assert {(False, "cancelled"), (True, "completed")} <= seen


async def test_a_call_without_a_result_gets_it_where_it_is_stored(staged: Staged) -> None:
    """When its run ends, not when the next request is made."""
    started = trio.Event()

    async def wait() -> str:
        """Wait."""
        started.set()
        await trio.sleep(math.inf)
        return ""

    async with staged(tools=[wait]) as stage:
        session = await stage.engine.create_session(toolsets=("functions",))
        run = await session.start("go")
        (await stage.models.call()).tools(("functions__wait", "{}"))
        await started.wait()
        await run.stop()
        (call,) = [part for part in (await stage.messages(session.id))[1]["parts"] if part["kind"] == "tool"]
        assert call["state"] == "error" and "did not finish" in call["error"]
        await session.start("and now")
        request = (await stage.models.call()).request
        (shown_call,) = [part for message in request.messages for part in message.parts if isinstance(part, ToolPart)]
        assert shown_call.error == call["error"]
