"""Runs: the order of their events, what is stored of them, and that every end leaves everything in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.api import RunHandle
from actors.toolset import Toolbox
from engine.errors import CallerError, PeerError
from engine.providers.base import AnswerFinished, ReasoningDelta, TextDelta, ToolCallStarted, ToolInputDelta
from engine.runs.events import PartDelta, PartFinished, PartStarted, RunFinished, ToolUpdated, TurnFinished
from tests.actors.scripted import (
    Stage,
    Staged,
    check_seq,
    kinds,
    of,
    shown,
    staged,
    text_of,
    until,
    until_kind,
    until_text,
)

__all__ = ["staged"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def broken() -> None:
    """Fails."""
    raise RuntimeError("it is broken")


async def finished(stage: Stage, run: RunHandle) -> list[dict[str, Any]]:
    """The parts of the run's answers that are not step marks, when it has ended and was told in order."""
    await run.wait()
    told = shown(run)
    check_seq(told)
    assert kinds(told)[0] == "run.started" and kinds(told)[-1] == "run.finished"
    assert kinds(told).count("run.finished") == 1
    record = await stage.registry.get_run(run.id)
    assert record.last_seq == told[-1].seq
    found = [part for message in await answers(stage, run) for part in message["parts"]]
    return [part for part in found if part["kind"] not in ("step-start", "step-finish")]


async def answers(stage: Stage, run: RunHandle) -> list[dict[str, Any]]:
    messages = await stage.messages(await stage.session_of(run))
    return [m for m in messages if m["info"]["role"] == "assistant" and m["info"]["run_id"] == run.id]


# ------------------------------------------------------------------ the order of events
async def test_plain_text(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin("hi")
        call.text("one ", "two ", "three")
        call.end()
        (part,) = await finished(stage, run)
        assert part["text"] == "one two three" == text_of(shown(run))
        assert kinds(shown(run)) == [
            "run.started", "turn.started", "part.started", "part.delta", "part.finished", "turn.finished",
            "run.finished",
        ]  # fmt: skip
        assert run.record.status == "completed" and run.record.error is None
        assert of(shown(run), PartFinished)[0].bytes == 13
        assert of(shown(run), TurnFinished)[0].finish == "stop"
        assert [m["info"]["role"] for m in await stage.messages(await stage.session_of(run))] == ["user", "assistant"]


async def test_reasoning_then_text_in_one_batch(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.send(ReasoningDelta("hm"), ReasoningDelta("m"), TextDelta("Ä"), TextDelta("h"), AnswerFinished("stop"))
        call.end()
        first, second = await finished(stage, run)
        assert (first["kind"], first["text"]) == ("reasoning", "hmm")
        assert (second["kind"], second["text"]) == ("text", "Äh")
        assert [part.bytes for part in of(shown(run), PartFinished)] == [3, 3]
        assert kinds(shown(run))[2:8] == [
            "part.started", "part.delta", "part.finished", "part.started", "part.delta", "part.finished",
        ]  # fmt: skip


async def test_two_tools_at_once_keep_the_order_of_their_calls(staged: Staged) -> None:
    entered, first_may_end = trio.Event(), trio.Event()

    async def slow() -> str:
        """Waits for the other."""
        entered.set()
        await first_may_end.wait()
        return "slow"

    async def fast() -> str:
        """Ends first."""
        await entered.wait()
        return "fast"

    async with staged(tools=[slow, fast]) as stage:
        run, call = await stage.begin()
        call.tools(("functions__slow", "{}"), ("functions__fast", ""))
        told = await until(run, lambda found: [u for u in of(found, ToolUpdated) if u.state == "completed"])
        assert [u.tool for u in of(told, ToolUpdated) if u.state == "completed"] == ["functions.fast"]
        first_may_end.set()
        second = await stage.models.call()
        results = [part for part in second.request.messages[-1].parts if hasattr(part, "call_id")]
        assert [(part.tool, part.output) for part in results] == [
            ("functions.slow", "slow"),
            ("functions.fast", "fast"),
        ]
        second.text("done")
        second.end()
        parts = await finished(stage, run)
        assert [part.get("output") or part.get("text") for part in parts] == ["slow", "fast", "done"]
        assert [turn.finish for turn in of(shown(run), TurnFinished)] == ["tool_calls", "stop"]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("functions__nothing", "{}", "nothing"),
        ("functions__broken", "{}", "it is broken"),
        ("functions__add", '{"a": 1, "b": "two"}', "does not fit its schema"),
        ("functions__add", '{"a": 1, "b"', '\'{"a": 1, "b"\''),
        ("functions__add", "[1, 2]", "has to be a JSON object"),
    ],
)
async def test_a_call_that_goes_wrong_is_a_result(staged: Staged, name: str, given: str, says: str) -> None:
    async with staged(tools=[add, broken]) as stage:
        run, call = await stage.begin()
        call.tools((name, given))
        second = await stage.models.call()
        second.end()
        (part,) = await finished(stage, run)
        assert part["state"] == "error" and says in part["error"]
        updates = of(shown(run), ToolUpdated)
        assert [update.state for update in updates][-1] == "error" and updates[-1].error == part["error"]
        assert [one.kind for one in of(shown(run), PartFinished)] == ["tool"]
        assert run.record.status == "completed"


async def test_a_tool_result_reaches_the_model(staged: Staged) -> None:
    async with staged(tools=[add]) as stage:
        run, call = await stage.begin()
        assert [spec.name for spec in call.request.tools] == ["functions.add"]
        call.text("let me see")
        call.tools(("functions__add", '{"a": 2, "b": 40}'))
        second = await stage.models.call()
        assert second.request.messages[-1].parts[-2].output == "42"  # type: ignore[union-attr]
        second.text("42")
        second.end()
        assert [part["kind"] for part in await finished(stage, run)] == ["text", "tool", "text"]
        assert [update.state for update in of(shown(run), ToolUpdated)] == ["pending", "running", "completed"]


# ------------------------------------------------------------------ other ends
@pytest.mark.parametrize("text", ["", "so far"])
async def test_an_error_of_the_provider(staged: Staged, text: str) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        if text:
            call.text(text)
        call.fail(PeerError("provider_error", "the service broke its answer"))
        parts = await finished(stage, run)
        assert "".join(part["text"] for part in parts) == text
        assert run.record.status == "failed" and run.record.error is not None
        assert run.record.error.code == "provider_error"
        (message,) = await answers(stage, run)
        assert message["info"]["finish"] == "error" and message["info"]["error"]["code"] == "provider_error"
        await stage.usable(await stage.session_of(run))


async def test_an_error_before_the_stream(staged: Staged) -> None:
    async with staged() as stage:
        stage.models.refuses = PeerError("provider_timeout", "no answer")
        session = await stage.engine.create_session()
        run = await session.start("hi")
        await finished(stage, run)
        assert run.record.status == "failed" and run.record.error is not None
        assert run.record.error.code == "provider_timeout"
        stage.models.refuses = None
        await stage.usable(session.id)


async def test_a_defect_is_named_by_a_reference_only(staged: Staged, caplog: pytest.LogCaptureFixture) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.fail(ZeroDivisionError("a secret"))
        await finished(stage, run)
        assert run.record.error is not None and run.record.error.code == "internal"
        assert "secret" not in run.record.error.message
        assert run.record.error.message.split()[-1] in caplog.text
        await stage.usable(await stage.session_of(run))


async def test_an_error_while_a_call_is_open_gives_it_a_result(staged: Staged) -> None:
    async with staged(tools=[add]) as stage:
        run, call = await stage.begin()
        call.send(ToolCallStarted(0, "", "functions__add"), ToolInputDelta(0, '{"a": 1'))
        call.fail(PeerError("provider_error", "the service went away"))
        (part,) = await finished(stage, run)
        assert part["state"] == "error" and "the service went away" in part["error"]
        await stage.usable(await stage.session_of(run))


async def test_too_many_turns(staged: Staged) -> None:
    async with staged(tools=[add], turns_per_run=2) as stage:
        run, call = await stage.begin()
        call.tools(("functions__add", '{"a": 1, "b": 1}'))
        (await stage.models.call()).tools(("functions__add", '{"a": 2, "b": 2}'))
        parts = await finished(stage, run)
        assert [part["output"] for part in parts] == ["2", "4"]
        assert run.record.status == "failed" and run.record.error is not None
        assert run.record.error.code == "max_turns"
        assert [m["info"]["finish"] for m in await answers(stage, run)] == ["tool_calls", "max_turns"]
        await stage.usable(await stage.session_of(run))


async def test_an_answer_at_its_bound_is_whole_and_one_over_it_is_cut(staged: Staged) -> None:
    async with staged(answer_bytes=10) as stage:
        run, call = await stage.begin()
        call.text("0123456789")
        call.end()
        (part,) = await finished(stage, run)
        assert part["text"] == "0123456789" and of(shown(run), TurnFinished)[0].finish == "stop"

        run, call = await stage.begin()
        call.text("01234", "56789", "x")  # and the model would go on
        (part,) = await finished(stage, run)
        assert part["text"] == "0123456789" == text_of(shown(run))
        assert of(shown(run), TurnFinished)[0].finish == "length" and run.record.status == "completed"
        assert call.closed.is_set()


async def test_too_many_calls_are_not_made(staged: Staged) -> None:
    made: list[int] = []

    def note() -> None:
        """Counts."""
        made.append(1)

    async with staged(tools=[note], tool_calls_per_turn=2) as stage:
        run, call = await stage.begin()
        call.tools(*[("functions__note", "{}")] * 3)
        parts = await finished(stage, run)
        assert [part["state"] for part in parts] == ["error", "error"] and made == []
        assert of(shown(run), TurnFinished)[0].finish == "length"
        await stage.usable(await stage.session_of(run))


async def test_the_runs_deadline(staged: Staged) -> None:
    ended = trio.Event()

    async def forever() -> None:
        """Never ends by itself."""
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with staged(tools=[forever], run_timeout=0.2) as stage:
        run, call = await stage.begin()
        call.text("well")
        call.tools(("functions__forever", "{}"))
        text, tool = await finished(stage, run)
        assert text["text"] == "well" and tool["state"] == "error" and ended.is_set()
        assert run.record.status == "failed" and run.record.error is not None
        assert run.record.error.code == "deadline"


async def test_an_unknown_model_stores_nothing(staged: Staged) -> None:
    async with staged() as stage:
        with pytest.raises(CallerError, match="nobody") as caught:
            await stage.engine.create_session(model="nobody")
        assert caught.value.code == "unknown_model"
        session = await stage.engine.create_session()
        with pytest.raises(CallerError, match="nobody"):
            await session.start("hi", model="nobody")
        assert await session.messages() == []
        run = await session.start("hi", model="other")
        call = await stage.models.call()
        assert call.request.model == "other" and run.record.model == "other"
        call.end()
        await run.wait()


# ------------------------------------------------------------------ stop
Stop = Callable[[Stage, RunHandle], Awaitable[None]]


async def once(stage: Stage, run: RunHandle) -> None:
    assert (await run.stop("enough")).status == "cancelled"


async def twice(stage: Stage, run: RunHandle) -> None:
    await once(stage, run)
    await once(stage, run)


async def by_twenty(stage: Stage, run: RunHandle) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(once, stage, run)


async def stopped(stage: Stage, run: RunHandle, stop: Stop) -> list[dict[str, Any]]:
    """Stop the run; the parts that it leaves, after everything was found in order."""
    await stop(stage, run)
    assert stage.runs_in_tree() == [] and stage.models.open_now == 0
    parts = await finished(stage, run)
    assert "".join(part["text"] for part in parts if part["kind"] == "text") == text_of(shown(run))
    for part in parts:
        assert part["kind"] != "tool" or part["state"] in ("completed", "error")
    terminal = [u.call_id for u in of(shown(run), ToolUpdated) if u.state in ("completed", "error")]
    assert sorted(terminal) == sorted(part["call_id"] for part in parts if part["kind"] == "tool")
    assert run.record.status == "cancelled" and run.record.reason == "enough"
    assert of(shown(run), RunFinished)[0].status == "cancelled"
    assert len(of(shown(run), PartStarted)) == len(of(shown(run), PartFinished)) == len(parts)
    await stage.usable(await stage.session_of(run))
    return parts


each_way = pytest.mark.parametrize("stop", [once, twice, by_twenty])


@each_way
async def test_stop_before_the_first_delta(staged: Staged, stop: Stop) -> None:
    async with staged() as stage:
        run, _ = await stage.begin()
        assert await stopped(stage, run, stop) == []
        (message,) = await answers(stage, run)
        assert message["info"]["finish"] == "cancelled"


async def test_stop_at_once(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        run = await session.start("hi")
        assert await stopped(stage, run, once) == []


@each_way
async def test_stop_in_the_middle_of_text(staged: Staged, stop: Stop) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.reasoning("thinking")
        call.text("half ", "an ans")
        await until(run, lambda found: text_of(found) == "thinkinghalf an ans")
        await stop(stage, run)
        parts = await finished(stage, run)
        assert [part["text"] for part in parts] == ["thinking", "half an ans"]
        assert of(shown(run), TurnFinished)[0].finish == "cancelled"
        await stage.usable(await stage.session_of(run))


@each_way
async def test_stop_while_tools_run(staged: Staged, stop: Stop) -> None:
    running, ended = trio.Event(), trio.Event()

    async def waits() -> str:
        """Waits until it is cancelled, and takes a while to end."""
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(10):
                    await trio.lowlevel.checkpoint()
            ended.set()
        raise AssertionError

    async with staged(tools=[waits, add]) as stage:
        run, call = await stage.begin()
        call.text("now")
        call.tools(("functions__add", '{"a": 1, "b": 2}'), ("functions__waits", "{}"))
        await running.wait()
        await until(run, lambda found: [u for u in of(found, ToolUpdated) if u.state == "completed"])
        _, first, second = await stopped(stage, run, stop)
        assert ended.is_set()
        assert (first["state"], first["output"]) == ("completed", "3")
        assert second["state"] == "error" and "enough" in second["error"]


async def test_stop_while_an_answer_is_committed(staged: Staged) -> None:
    """What was taken from the model and not shown yet is shown before the end: text and events never differ."""
    async with staged(chunk_bytes=1) as stage:
        run, call = await stage.begin()
        stage.disk.hold()
        call.text("first ")
        await until_text(run, "first ")
        await stage.disk.wait_held()  # the flusher's commit, behind which the next one waits
        call.send(TextDelta("second "), ReasoningDelta("third "), TextDelta("fourth"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.stop, "enough")
            await until(run, lambda found: "run.status" in kinds(found))
            stage.disk.release()
        parts = await finished(stage, run)
        assert [part["text"] for part in parts] == ["first second ", "third ", "fourth"]
        by_part: dict[str, str] = {}
        for delta in of(shown(run), PartDelta):
            by_part[delta.part_id] = by_part.get(delta.part_id, "") + delta.text
        assert list(by_part.values()) == ["first second ", "third ", "fourth"]
        assert [part.bytes for part in of(shown(run), PartFinished)] == [13, 6, 6]
        assert run.record.status == "cancelled"


async def test_stop_while_a_result_is_committed(staged: Staged) -> None:
    ended = trio.Event()

    async def tool() -> str:
        """Ends when the disk is busy."""
        await stage_.disk.wait_held()
        ended.set()
        return "3"

    async with staged(tools=[tool], chunk_bytes=1) as stage:
        stage_ = stage
        run, call = await stage.begin()
        call.text("now")
        call.tools(("functions__tool", "{}"))
        # From here on: the flusher commits that the call is running, and the commit of its end waits behind that.
        await until_kind(run, PartFinished)
        stage.disk.hold()
        await ended.wait()
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.stop, "enough")
            await until(run, lambda found: "run.status" in kinds(found))
            stage.disk.release()
        _, part = await finished(stage, run)
        assert (part["state"], part["output"]) == ("completed", "3")
        assert [u.state for u in of(shown(run), ToolUpdated)] == ["pending", "running", "completed"]
        assert len(of(shown(run), PartFinished)) == 2
        await stage.usable(await stage.session_of(run))


async def test_stop_between_turns(staged: Staged) -> None:
    async with staged(tools=[add]) as stage:
        run, call = await stage.begin()
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        await until_kind(run, TurnFinished)
        (part,) = await stopped(stage, run, once)
        assert part["output"] == "3"


async def test_stop_while_the_run_settles_leaves_its_end(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("all")
        await until_text(run, "all")
        stage.disk.hold()
        call.end()
        await stage.disk.wait_held()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.stop, "too late")
            await wait_all_tasks_blocked()
            stage.disk.release()
        assert (await run.wait()).status in ("completed", "cancelled")
        check_seq(shown(run))
        assert stage.runs_in_tree() == []
        await stage.usable(await stage.session_of(run))


@pytest.mark.parametrize("alone", [True, False])
async def test_what_breaks_while_a_run_is_stopped_does_not_change_its_end(
    staged: Staged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, alone: bool
) -> None:
    """An error out of a cancellation comes alone, or in a group with the cancellation of other calls."""
    calls = ["functions__broken"] if alone else ["functions__broken", "functions__add"]
    waiting: list[str] = []

    async def call(self: Toolbox, tool: str, *_: Any, **__: Any) -> Any:
        waiting.append(tool)
        try:
            await trio.sleep_forever()
        finally:
            if tool == "functions.broken":
                raise RuntimeError("on the way out")

    async with staged(tools=[broken, add]) as stage:
        run, asked = await stage.begin()
        with monkeypatch.context() as patched:
            patched.setattr(Toolbox, "call", call)
            asked.tools(*[(name, "{}") for name in calls])
            await until(
                run, lambda found: len([u for u in of(found, ToolUpdated) if u.state == "running"]) == len(calls)
            )
            await wait_all_tasks_blocked()
            assert len(waiting) == len(calls)
            parts = await stopped(stage, run, once)
        assert [part["state"] for part in parts] == ["error"] * len(calls)
        assert "on the way out" in caplog.text


async def test_an_ended_run_is_not_stopped_again(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.end()
        ended = await run.wait()
        assert await run.stop("late") == ended
        assert ended.status == "completed" and ended.reason is None


async def test_the_end_of_the_engine_cancels_its_runs(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("so far")
        await until_text(run, "so far")
    assert call.closed.is_set()
    assert (run.record.status, run.record.reason) == ("cancelled", "shutdown")
    assert of(shown(run), RunFinished)[0].status == "cancelled"
    async with staged() as stage:
        record = await stage.registry.get_run(run.id)
        assert record == run.record
        assert [m["parts"][1]["text"] for m in await answers(stage, run)] == ["so far"]


# ------------------------------------------------------------------ durable before shown
async def test_what_acknowledges_is_shown_when_it_is_durable(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("a")
        await until_text(run, "a")
        stage.disk.hold()
        call.text("b")
        await until_text(run, "ab")  # shown at once
        call.end()
        await stage.disk.wait_held()
        assert kinds(shown(run))[-1] == "part.delta" and run.record.status == "running"
        stage.disk.release()
        await run.wait()
        assert kinds(shown(run))[-3:] == ["part.finished", "turn.finished", "run.finished"]


async def test_a_result_is_shown_when_it_is_durable(staged: Staged) -> None:
    called = trio.Event()

    async def tool() -> str:
        """Tells that it was called."""
        stage_.disk.hold()
        called.set()
        return "done"

    async with staged(tools=[tool]) as stage:
        stage_ = stage
        run, call = await stage.begin()
        call.tools(("functions__tool", "{}"))
        await called.wait()
        await stage.disk.wait_held()
        assert [update.state for update in of(shown(run), ToolUpdated)] == ["pending", "running"]
        stage.disk.release()
        told = await until_kind(run, TurnFinished)
        assert [update.state for update in of(told, ToolUpdated)] == ["pending", "running", "completed"]
        (await stage.models.call()).end()
        await run.wait()


async def test_a_start_is_answered_when_it_is_durable(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        stage.disk.hold()
        answered: list[RunHandle] = []

        async def start() -> None:
            answered.append(await session.start("hi"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await stage.disk.wait_held()
            assert answered == [] and stage.runs_in_tree() == []
            stage.disk.release()
        call = await stage.models.call()
        call.end()
        await answered[0].wait()


async def test_numbers_are_reserved_in_blocks(staged: Staged) -> None:
    async with staged(seq_block=8) as stage:
        run, call = await stage.begin()
        for number in range(100):
            call.text(f"{number} ")
        call.end()
        (part,) = await finished(stage, run)
        assert part["text"] == "".join(f"{number} " for number in range(100)) == text_of(shown(run))
        assert shown(run)[-1].seq == 106


# ------------------------------------------------------------------ the disk refuses
async def test_a_full_disk_ends_the_run_and_not_the_session(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("kept ")
        await until_text(run, "kept ")
        stage.disk.full = True
        call.text("lost")
        call.end()
        record = await run.wait()
        assert record.status in ("interrupted", "failed") and record.error is not None
        assert record.error.code == "disk_full"
        check_seq(shown(run))
        assert of(shown(run), RunFinished)[-1].error.code == "disk_full"
        session_id = record.session_id
        with pytest.raises(PeerError) as caught:
            await (await stage.engine.session(session_id)).start("again")
        assert caught.value.code == "disk_full"
        stage.disk.full = False
        await stage.usable(session_id)
        # What is stored of the run says what its watchers were told.
        stored = (await stage.registry.list_runs(session_id, None, 100)).items[-1]
        assert stored == record
        assert await stage.engine.registry.get_run(run.id) == record


async def test_a_full_disk_leaves_calls_with_results(staged: Staged) -> None:
    async def fills() -> str:
        """Fills the disk when it has the call."""
        while "functions.fills" not in str(
            await stage_.messages((await stage_.registry.list_runs(None, True, 1)).items[0].session_id)
        ):
            await trio.lowlevel.checkpoint()
        stage_.disk.full = True
        return "done"

    async with staged(tools=[fills], chunk_bytes=1) as stage:
        stage_ = stage
        run, call = await stage.begin()
        call.tools(("functions__fills", "{}"))
        record = await run.wait()
        assert record.error is not None and record.error.code == "disk_full"
        stage.disk.full = False
        await stage.usable(record.session_id)


async def test_a_disk_that_has_recovered_takes_the_end(staged: Staged) -> None:
    """A commit in the background has failed before; nobody has asked since."""
    async with staged(chunk_bytes=1) as stage:
        run, call = await stage.begin()
        stage.disk.full = True
        call.text("kept")
        await until_text(run, "kept")
        await stage.disk.wait_refused()
        stage.disk.full = False
        record = await run.stop("enough")
        assert (record.status, record.reason, record.error) == ("cancelled", "enough", None)
        (part,) = await finished(stage, run)
        assert part["text"] == "kept"
        assert await stage.store.get_run(run.id) == record
