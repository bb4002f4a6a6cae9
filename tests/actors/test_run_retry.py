"""Runs whose model's service fails: what is tried again, when, and what is left of it. Time stands still unless a test
moves it (a MockClock that does not jump by itself: the disk's thread takes real time)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from trio.testing import MockClock

from actors._http import HttpClient
from actors.api import RunHandle, open_engine
from engine.config import Config, ModelConfig
from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.base import AnswerFinished, ToolCallStarted, ToolInputDelta, UsageReported
from engine.runs.events import PartFinished, PartStarted, RetryScheduled, RunStatus, TurnFinished, TurnStarted
from engine.transcript.records import Message, TextPart, Usage
from tests.actors import scripted
from tests.actors.scripted import (
    Call,
    Stage,
    Staged,
    check_seq,
    kinds,
    of,
    shown,
    staged,
    text_of,
    until_kind,
    until_text,
)

__all__ = ["staged"]

WEEK = 604_800.0


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's own deadline is on the clock that the tests move."""
    monkeypatch.setattr(scripted, "LIMIT", 1e6)


def overloaded(**data: object) -> PeerError:
    return PeerError("provider_error", "the service is overloaded", retry=True, **data)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def waiting(run: RunHandle, count: int) -> RetryScheduled:
    """The retry with this number, once it is shown: the run waits."""
    retry: RetryScheduled = of(await until_kind(run, RetryScheduled, count), RetryScheduled)[count - 1]
    return retry


async def next_call(stage: Stage, run: RunHandle, clock: MockClock, count: int) -> Call:
    """Let the wait before attempt `count` + 1 pass."""
    clock.jump((await waiting(run, count)).delay_ms / 1000 + 0.001)
    return await stage.models.call()


async def in_order(stage: Stage, run: RunHandle) -> list[dict[str, Any]]:
    """The run's answers, after it has ended and everything was found in order: no part without its end, no call
    without its one result, nothing shown that is not stored."""
    await run.wait()
    told = shown(run)
    check_seq(told)
    assert kinds(told)[-1] == "run.finished" and kinds(told).count("run.finished") == 1
    assert [p.part_id for p in of(told, PartStarted)] == [p.part_id for p in of(told, PartFinished)]
    messages = await stage.messages(await stage.session_of(run))
    found = [m for m in messages if m["info"]["role"] == "assistant" and m["info"]["run_id"] == run.id]
    for message in found:
        parts = message["parts"]
        assert message["info"]["finish"] == parts[-1]["finish"] and "finished_at" in message["info"]
        assert [part["kind"] for part in parts].count("step-start") == 1
        assert [part["kind"] for part in parts].count("step-finish") == 1
        assert all(part["state"] in ("completed", "error") for part in parts if part["kind"] == "tool")
    ids = [message["info"]["id"] for message in found]
    assert ids == [turn.message_id for turn in of(told, TurnStarted)]
    assert [m["info"]["finish"] for m in found] == [turn.finish for turn in of(told, TurnFinished)]
    retries = [part for message in found for part in message["parts"] if part["kind"] == "retry"]
    assert [(r["attempt"], r["delay_ms"], r["reason"]) for r in retries] == [
        (r.attempt, r.delay_ms, r.reason) for r in of(told, RetryScheduled)
    ]
    assert stage.models.open_now == 0
    return found


def content(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["kind"] not in ("step-start", "step-finish", "retry")]


# ------------------------------------------------------------------ attempts and waits
async def test_attempts_are_bounded_and_visible(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(model_attempts=4) as stage:
        run, call = await stage.begin()
        for attempt in (2, 3, 4):
            call.fail(overloaded())
            assert (await waiting(run, attempt - 1)).attempt == attempt
            assert (await stage.registry.get_run(run.id)).status == "running" and call.closed.is_set()
            call = await next_call(stage, run, mock_clock, attempt - 1)
        call.fail(overloaded())
        (message,) = await in_order(stage, run)
        retries = of(shown(run), RetryScheduled)
        assert [(r.attempt, r.max_attempts, r.reason) for r in retries] == [
            (attempt, 4, "the service is overloaded") for attempt in (2, 3, 4)
        ]
        for retry, least in zip(retries, (1000, 2000, 4000), strict=True):
            assert least <= retry.delay_ms <= 2 * least
        assert run.record.status == "failed" and run.record.error is not None
        assert run.record.error.code == "provider_error"
        assert run.record.error.message == "the service is overloaded (given up after 4 attempts)"
        assert message["info"]["finish"] == "error" and message["info"]["error"]["message"] == run.record.error.message
        assert of(shown(run), RunStatus) == []
        await stage.usable(await stage.session_of(run))


async def test_nothing_is_called_before_the_wait_is_over(staged: Staged, mock_clock: MockClock) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.fail(overloaded())
        retry = await waiting(run, 1)
        mock_clock.jump(retry.delay_ms / 1000 - 0.01)
        await stage.session_of(run)  # the disk answers, and others have their turn
        assert stage.models.open_now == 0
        mock_clock.jump(0.02)
        (await stage.models.call()).end()
        await in_order(stage, run)
        assert run.record.status == "completed"


@pytest.mark.parametrize(("asked", "delay_ms"), [(20.0, 20_000), (60.0, 60_000), (WEEK, 60_000)])
async def test_retry_after_is_honoured_up_to_its_bound(
    staged: Staged, mock_clock: MockClock, asked: float, delay_ms: int
) -> None:
    async with staged(model_attempts=2) as stage:
        run, call = await stage.begin()
        call.fail(overloaded(retry_after=asked))
        retry = await waiting(run, 1)
        assert retry.delay_ms == delay_ms
        assert ("7 days" in retry.reason) is (asked == WEEK)
        mock_clock.jump(delay_ms / 1000 - 0.01)
        await stage.session_of(run)
        assert stage.models.open_now == 0
        mock_clock.jump(0.02)
        call = await stage.models.call()
        call.fail(overloaded(retry_after=asked))
        await in_order(stage, run)
        assert run.record.error is not None and run.record.error.message.endswith("(given up after 2 attempts)")
        assert ("7 days" in run.record.error.message) is (asked == WEEK)


async def test_each_call_of_a_run_has_its_own_attempts(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[add], model_attempts=2) as stage:
        run, call = await stage.begin()
        call.fail(overloaded())
        call = await next_call(stage, run, mock_clock, 1)
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        (await stage.models.call()).fail(overloaded())
        call = await next_call(stage, run, mock_clock, 2)
        call.text("3")
        call.end()
        first, second = await in_order(stage, run)
        assert [retry.attempt for retry in of(shown(run), RetryScheduled)] == [2, 2]
        assert content(first)[0]["output"] == "3" and content(second)[0]["text"] == "3"
        assert run.record.status == "completed"


async def test_an_error_that_stays_is_not_tried_again(staged: Staged, mock_clock: MockClock) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.fail(overloaded())
        call = await next_call(stage, run, mock_clock, 1)
        call.fail(PeerError("provider_error", "check the key"))
        await in_order(stage, run)
        assert run.record.error is not None and run.record.error.message == "check the key"
        assert len(of(shown(run), RetryScheduled)) == 1


async def test_the_disk_is_no_service_to_be_called_again(staged: Staged, mock_clock: MockClock) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.fail(PeerError("disk_full", "as if a commit had failed", retry=True))
        await in_order(stage, run)
        assert run.record.error is not None and run.record.error.code == "disk_full"
        assert of(shown(run), RetryScheduled) == []


def test_the_library_below_makes_one_attempt() -> None:
    client = HttpClient(Limits())._make()
    transports = [client._transport, *filter(None, client._mounts.values())]
    assert [transport._pool._retries for transport in transports] == [0] * len(transports)  # type: ignore[attr-defined]


# ------------------------------------------------------------------ time
async def test_the_attempts_of_a_call_are_bounded_in_time_together(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(call_timeout=100.0) as stage:
        run, call = await stage.begin()
        call.text("so far")
        await until_text(run, "so far")
        mock_clock.jump(50.0)
        call.fail(overloaded())
        call = await next_call(stage, run, mock_clock, 1)
        call.text("again")
        await until_text(run, "so faragain")
        mock_clock.jump(49.0)
        first, second = await in_order(stage, run)
        assert call.closed.is_set()
        assert [part["text"] for part in (*content(first), *content(second))] == ["so far", "again"]
        assert run.record.error is not None and run.record.error.code == "provider_timeout"
        assert run.record.error.message == "the model's service did not end its answer in 100 s and 2 attempts"
        await stage.usable(await stage.session_of(run))


async def test_a_wait_beyond_the_end_of_the_call_is_not_begun(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(call_timeout=100.0) as stage:
        run, call = await stage.begin()
        mock_clock.jump(50.0)
        call.fail(overloaded(retry_after=WEEK))
        await in_order(stage, run)
        assert of(shown(run), RetryScheduled) == [] and run.record.error is not None
        assert run.record.error.code == "provider_error" and "7 days" in run.record.error.message


async def test_the_runs_own_deadline_ends_a_wait(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(run_timeout=30.0) as stage:
        run, call = await stage.begin()
        call.fail(overloaded(retry_after=60.0))
        await waiting(run, 1)
        mock_clock.jump(30.0)
        await in_order(stage, run)
        assert run.record.error is not None and run.record.error.code == "deadline"


# ------------------------------------------------------------------ what an attempt leaves
async def test_a_repeated_call_gets_the_same_request(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[add]) as stage:
        run, first = await stage.begin("what is it?", instructions="be brief")
        first.fail(overloaded())
        second = await next_call(stage, run, mock_clock, 1)
        second.text("half an ans")
        second.fail(overloaded())
        third = await next_call(stage, run, mock_clock, 2)
        assert first.request == second.request == third.request
        assert [message.role for message in third.request.messages] == ["user"]
        third.text("an answer")
        third.end()
        await in_order(stage, run)


async def test_a_partial_answer_before_a_retry_leaves_no_orphan(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[add], turns_per_run=2) as stage:
        run, call = await stage.begin()
        call.reasoning("hm")
        call.text("I will add")
        call.send(ToolCallStarted(0, "call_1", "functions__add"), ToolInputDelta(0, '{"a": 1'))
        call.fail(overloaded())
        call = await next_call(stage, run, mock_clock, 1)
        call.text("I add")
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        call = await stage.models.call()
        # What failed and was repeated is not shown to the model.
        assert [message.role for message in call.request.messages] == ["user", "assistant"]
        assert "I will add" not in str(call.request.messages) and "I add" in str(call.request.messages)
        call.text("3")
        call.end()
        failed, tools, last = await in_order(stage, run)
        assert [m["info"]["finish"] for m in (failed, tools, last)] == ["error", "tool_calls", "stop"]
        assert failed["info"]["error"] == {"code": "provider_error", "message": "the service is overloaded"}
        thought, text, tool = content(failed)
        assert (thought["text"], text["text"], tool["state"]) == ("hm", "I will add", "error")
        assert "the service is overloaded" in tool["error"]
        assert [part["kind"] for part in tools["parts"]][:2] == ["step-start", "retry"]
        assert [part.get("output") for part in content(tools)] == [None, "3"]
        # The attempts of a call are one turn: the bound of two was not reached.
        assert [turn.turn for turn in of(shown(run), TurnStarted)] == [1, 1, 2]
        assert run.record.status == "completed"
        session = await stage.engine.session(await stage.session_of(run))
        following = await session.start("and now?")
        call = await stage.models.call()
        assert [m.info.id for m in call.request.messages[1:3]] == [tools["info"]["id"], last["info"]["id"]]
        call.end()
        await following.wait()


async def test_every_attempt_gives_something_and_fails(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(model_attempts=3) as stage:
        run, call = await stage.begin()
        for attempt in (1, 2):
            call.text(f"attempt {attempt}")
            call.fail(overloaded())
            call = await next_call(stage, run, mock_clock, attempt)
        call.text("attempt 3")
        call.fail(overloaded())
        messages = await in_order(stage, run)
        assert [content(m)[0]["text"] for m in messages] == ["attempt 1", "attempt 2", "attempt 3"]
        assert [m["info"]["finish"] for m in messages] == ["error"] * 3
        assert run.record.status == "failed"
        # The last one is what the user got: a later model sees it, and none of the others.
        session = await stage.engine.session(await stage.session_of(run))
        following = await session.start("go on")
        call = await stage.models.call()
        assert [m.role for m in call.request.messages] == ["user", "assistant", "user"]
        assert "attempt 3" in str(call.request.messages[1])
        call.end()
        await following.wait()


async def test_the_usage_of_failed_attempts_counts(staged: Staged, mock_clock: MockClock) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.send(UsageReported(Usage(input_tokens=10)))
        call.fail(overloaded())
        call = await next_call(stage, run, mock_clock, 1)
        call.text("half")
        call.send(UsageReported(Usage(input_tokens=10, output_tokens=1)))
        call.fail(overloaded())
        call = await next_call(stage, run, mock_clock, 2)
        call.text("whole")
        call.send(UsageReported(Usage(input_tokens=10, output_tokens=2)), AnswerFinished("stop"))
        call.end()
        first, second = await in_order(stage, run)
        assert (first["info"]["usage"]["input_tokens"], first["info"]["usage"]["output_tokens"]) == (20, 1)
        assert (second["info"]["usage"]["input_tokens"], second["info"]["usage"]["output_tokens"]) == (10, 2)
        assert run.record.usage == Usage(input_tokens=30, output_tokens=3)
        session = await stage.registry.get_session(await stage.session_of(run))
        assert session.usage == Usage(input_tokens=30, output_tokens=3)


# ------------------------------------------------------------------ stop, late watchers, restart
@pytest.mark.parametrize("partial", [False, True])
async def test_stop_ends_a_wait_at_once(staged: Staged, mock_clock: MockClock, partial: bool) -> None:
    async with staged(tools=[add]) as stage:
        run, call = await stage.begin()
        if partial:
            call.text("half")
            call.send(ToolCallStarted(0, "call_1", "functions__add"))
        call.fail(overloaded(retry_after=WEEK))
        await waiting(run, 1)
        assert (await run.stop("enough")).status == "cancelled"  # and no time has passed
        assert stage.runs_in_tree() == []
        messages = await in_order(stage, run)
        assert [m["info"]["finish"] for m in messages] == (["error"] if partial else []) + ["cancelled"]
        assert content(messages[-1]) == []
        await stage.usable(await stage.session_of(run))


async def test_a_late_watcher_is_told_of_the_attempt_that_is_being_made(staged: Staged, mock_clock: MockClock) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        feed = await stage.registry.watch_run(run.id)
        call.text("half")
        call.fail(overloaded())
        await waiting(run, 1)
        during = await feed.snapshot()
        call = await next_call(stage, run, mock_clock, 1)
        call.text("whole")
        await until_text(run, "halfwhole")
        after = await feed.snapshot()
        (piece,) = [orjson.loads(p) for p in [await during.next()] if p is not None]
        second = of(shown(run), TurnStarted)[1].message_id
        assert (piece["message_id"], piece["status"], piece["more"], "part" in piece) == (
            second,
            "running",
            False,
            False,
        )
        assert await during.next() is None
        (piece,) = [orjson.loads(p) for p in [await after.next()] if p is not None]
        assert (piece["message_id"], piece["text"], piece["more"]) == (second, "whole", False)
        call.end()
        await in_order(stage, run)
        assert text_of(shown(run)) == "halfwhole"


@pytest.mark.parametrize("partial", [False, True])
async def test_a_restart_in_the_middle_of_a_wait(
    staged: Staged, mock_clock: MockClock, tmp_path: Path, partial: bool
) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        if partial:
            call.text("half")
        call.fail(overloaded())
        await waiting(run, 1)
        await (await stage.registry.watch_run(run.id)).snapshot()  # what is under way is committed
        session_id = await stage.session_of(run)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")  # as a power cut leaves it
        await run.stop()
    config = Config(default_model="model", models={"model": ModelConfig(provider="demo")}, toolsets={}, limits=Limits())
    async with open_engine(config, data_dir=tmp_path / "copy") as engine:
        record = await engine.registry.get_run(run.id)
        assert record.status == "interrupted"
        page = await engine.registry.messages(session_id, 10)
        answers = [orjson.loads(message) for message in page.messages][1:]
        assert [m["info"]["finish"] for m in answers] == (["error"] if partial else []) + ["interrupted"]
        assert answers[-1]["parts"][-1]["kind"] == "retry"
        assert "half" in str(answers[0]) or not partial


# ------------------------------------------------------------------ messages that are taken in meanwhile
async def test_a_message_sent_to_a_failing_run_is_answered(staged: Staged, mock_clock: MockClock) -> None:
    """Sent before an attempt failed, the next one has it; sent while that waits, the turn after it."""
    async with staged() as stage:
        run, call = await stage.begin("one")
        session = await stage.engine.session(await stage.session_of(run))
        call.text("half")
        await until_text(run, "half")
        await session.start("two", when_busy="steer")
        call.fail(overloaded())
        await waiting(run, 1)
        await session.start("three", when_busy="steer")
        call = await next_call(stage, run, mock_clock, 1)
        assert [said(message) for message in call.request.messages] == ["one", "two"]
        call.text("first")
        call.end()
        call = await stage.models.call()
        assert [said(message) for message in call.request.messages] == ["one", "two", "first", "three"]
        call.text("second")
        call.end()
        answers = await in_order(stage, run)
        assert [m["info"]["finish"] for m in answers] == ["error", "stop", "stop"]
        assert run.record.status == "completed"


def said(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))
