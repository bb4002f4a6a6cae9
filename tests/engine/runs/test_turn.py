"""A turn: what it stores and shows, and that every way of ending it leaves a valid history."""

from __future__ import annotations

import attrs
import pytest

from engine.limits import Limits
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.runs.events import PartDelta, PartFinished, PartStarted, TurnFinished, TurnStarted
from engine.runs.turn import Step, ToolChanged, Turn
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage, FoldText, PutPart
from engine.tools.spec import ToolResult
from engine.transcript.records import AssistantMessage, ReasoningPart, StepFinishPart, TextPart, ToolPart, Usage

NOW = 1_700_000_000_000


def make(**limits: float) -> Turn:
    info = AssistantMessage(id="msg_1", created_at=NOW, run_id="run_1", model="m")
    names = {"files__read_file": "files.read_file"}
    return Turn(1, info, limits=Limits(**limits), full_name=lambda name: names.get(name, name))  # type: ignore[arg-type]


def kinds(step: Step) -> list[type]:
    return [type(fact) for fact in step.facts]


def test_a_plain_answer_is_one_text_part_and_ends_durable() -> None:
    turn = make()
    begin = turn.begin()
    assert [type(change) for change in begin.changes] == [AddMessage, AddPart]
    assert begin.facts == [TurnStarted(turn=1, message_id="msg_1")]
    step = turn.take([TextDelta("Hel"), TextDelta("lo é"), AnswerFinished("stop")])
    assert not step.durable
    assert kinds(step) == [PartStarted, PartDelta, PartDelta]
    assert [c.text for c in step.changes if isinstance(c, AppendText)] == ["Hel", "lo é"]
    end = turn.end_answer()
    assert end.durable and isinstance(end.changes[0], FoldText)
    (finished,) = end.facts
    assert isinstance(finished, PartFinished) and finished.bytes == 8 and finished.kind == "text"
    last = turn.close("stop", NOW + 5)
    assert last.durable and [type(fact) for fact in last.facts] == [TurnFinished]
    message = next(change.info for change in last.changes if isinstance(change, FinishMessage))
    assert (message.finish, message.finished_at) == ("stop", NOW + 5)


def test_reasoning_is_closed_durably_before_text_begins() -> None:
    turn = make()
    step = turn.take([ReasoningDelta("hm"), TextDelta("so")])
    assert step.durable
    assert kinds(step) == [PartStarted, PartDelta, PartFinished, PartStarted, PartDelta]
    added = [change.part for change in step.changes if isinstance(change, AddPart)]
    assert isinstance(added[0], ReasoningPart) and isinstance(added[1], TextPart)


def test_a_signature_is_stored_with_its_reasoning_which_it_closes() -> None:
    turn = make()
    step = turn.take(
        [ReasoningDelta("one"), ReasoningFinished("sig 1"), ReasoningDelta("two"), ReasoningFinished(None)]
    )
    assert step.durable
    first, second = [change.part for change in step.changes if isinstance(change, AddPart)]
    assert [change for change in step.changes if isinstance(change, FoldText)] == [
        FoldText(first.id, "sig 1"), FoldText(second.id),
    ]  # fmt: skip
    assert kinds(step) == [PartStarted, PartDelta, PartFinished] * 2
    assert "sig 1" not in str(step.facts)


def test_reasoning_without_text_is_a_part_if_it_is_signed() -> None:
    turn = make()
    step = turn.take([TextDelta("a"), ReasoningFinished("sig"), ReasoningFinished(None), TextDelta("b")])
    added = [change.part for change in step.changes if isinstance(change, AddPart)]
    assert [type(part) for part in added] == [TextPart, ReasoningPart, TextPart]
    assert FoldText(added[1].id, "sig") in step.changes
    assert [(kind, size) for _, kind, size in turn.texts] == [("text", 1), ("reasoning", 0), ("text", 1)]


def test_signatures_count_as_answer() -> None:
    turn = make(answer_bytes=10)
    assert FoldText in map(type, turn.take([ReasoningDelta("12345"), ReasoningFinished("67890")]).changes)
    assert not turn.full
    turn.take([ReasoningFinished("1")])
    assert turn.full


def test_two_calls_get_their_results_in_any_order() -> None:
    turn = make()
    events: list[ModelEvent] = [
        ToolCallStarted(0, "call_a", "files__read_file"),
        ToolInputDelta(0, '{"path":'),
        ToolCallStarted(1, "call_b", "unheard"),
        ToolInputDelta(0, '"x"}'),
        AnswerFinished("tool_calls"),
    ]
    turn.take(events)
    turn.end_answer()
    first, second = turn.calls
    assert (first.tool, first.call_id, first.state) == ("files.read_file", "call_a", "pending")
    assert second.tool == "unheard"
    first, step = turn.read_call(first, NOW)
    assert (first.state, first.input) == ("pending", b'{"path":"x"}') and not (step.changes or step.facts)
    first, step = turn.start_call(first, NOW)
    assert (first.state, first.input) == ("running", b'{"path":"x"}') and not step.durable
    second, _ = turn.read_call(second, NOW)
    second, _ = turn.start_call(second, NOW)
    assert second.input == b"{}"
    step = turn.end_call(second, ToolResult(text="no such tool", is_error=True), NOW + 1)
    assert step.durable
    step = turn.end_call(first, ToolResult(text="content", title="x"), NOW + 2)
    (put,) = step.changes
    assert isinstance(put, PutPart) and isinstance(put.part, ToolPart)
    assert (put.part.state, put.part.output, put.part.title) == ("completed", "content", "x")
    assert [part.state for part in turn.calls] == ["completed", "error"]
    turn.close("tool_calls", NOW + 3)


@pytest.mark.parametrize("text", ["[1]", "{", "nonsense", '"a"', "1e999"])
def test_an_input_that_is_no_object_ends_the_call_with_an_error(text: str) -> None:
    turn = make()
    turn.take([ToolCallStarted(0, "c", "t"), ToolInputDelta(0, text)])
    turn.end_answer()
    part, step = turn.read_call(turn.calls[0], NOW)
    assert part.state == "error" and part.error and step.durable
    assert part.input == b"{}" or text in ("[1]", '"a"', "1e999")


@pytest.mark.parametrize(
    "text", ['{"a":' * 128 + "[]" + "}" * 128, '{"a":' + "[" * 1000 + "]" * 1000 + "}", '{"a":' * 100_000]
)
def test_an_input_that_is_nested_too_deep_ends_the_call_with_an_error(text: str) -> None:
    turn = make()
    turn.take([ToolCallStarted(0, "c", "t"), ToolInputDelta(0, text)])
    turn.end_answer()
    part, _ = turn.read_call(turn.calls[0], NOW)
    assert (part.state, part.input) == ("error", b"{}")


def test_an_input_as_deep_as_may_be_is_taken() -> None:
    text = '{"a":' * 127 + "[]" + "}" * 127
    turn = make()
    turn.take([ToolCallStarted(0, "c", "t"), ToolInputDelta(0, text)])
    turn.end_answer()
    part, _ = turn.read_call(turn.calls[0], NOW)
    assert (part.state, part.input) == ("pending", text.encode())


def test_call_ids_of_providers_are_made_unique_and_well_formed() -> None:
    turn = make()
    turn.take([ToolCallStarted(0, "", "t"), ToolCallStarted(1, "same", "t"), ToolCallStarted(2, "same", "t")])
    turn.take([ToolCallStarted(3, "x y\x00", "t"), ToolCallStarted(3, "again", "t")])
    call_ids = [part.call_id for part in turn.calls]
    assert len(set(call_ids)) == 4
    assert "same" in call_ids and "x y\x00" not in call_ids and "again" not in call_ids


@pytest.mark.parametrize("running", [0, 1, 2])
def test_interrupting_at_any_point_gives_every_call_exactly_one_result(running: int) -> None:
    turn = make()
    turn.begin()
    turn.take([TextDelta("I look"), ToolCallStarted(0, "a", "t"), ToolCallStarted(1, "b", "t"), TextDelta("more")])
    for part in turn.calls[:running]:
        turn.start_call(part, NOW)
    if running == 2:
        turn.end_call(turn.calls[0], ToolResult(text="kept"), NOW)
    step = turn.interrupt("cancelled", "the run was cancelled", NOW + 9)
    assert step.durable
    ended = [fact.part for fact in step.facts if isinstance(fact, ToolChanged)]
    assert len(ended) == (1 if running == 2 else 2)
    assert all(part.state == "error" and "the run was cancelled" in (part.error or "") for part in ended)
    assert isinstance(step.facts[-1], TurnFinished) and step.facts[-1].finish == "cancelled"
    assert any(isinstance(change, FoldText) for change in step.changes)
    assert {part.state for part in turn.calls} == ({"completed", "error"} if running == 2 else {"error"})
    with pytest.raises(AssertionError):
        turn.close("stop", NOW)


def test_the_answer_is_full_one_byte_past_its_bound() -> None:
    turn = make(answer_bytes=8)
    turn.take([TextDelta("1234"), ReasoningDelta("5678")])
    assert not turn.full
    step = turn.take([TextDelta("9"), TextDelta("0")])
    assert turn.full and not step.changes and not step.facts


def test_a_calls_input_is_full_one_past_its_bound() -> None:
    turn = make(tool_input_bytes=4)
    turn.take([ToolCallStarted(0, "a", "t"), ToolInputDelta(0, "1234")])
    assert not turn.full
    turn.take([ToolInputDelta(0, "5")])
    assert turn.full


def test_calls_are_full_one_past_their_bound() -> None:
    turn = make(tool_calls_per_turn=2)
    turn.take([ToolCallStarted(0, "a", "t"), ToolCallStarted(1, "b", "t")])
    assert not turn.full
    turn.take([ToolCallStarted(2, "c", "t")])
    assert turn.full and len(turn.calls) == 2


def test_the_last_usage_report_counts() -> None:
    turn = make()
    turn.take([UsageReported(Usage(input_tokens=1)), UsageReported(Usage(input_tokens=3, output_tokens=2))])
    step = turn.close("stop", NOW)
    (finish,) = [c.part for c in step.changes if isinstance(c, AddPart) and isinstance(c.part, StepFinishPart)]
    assert finish.usage == Usage(input_tokens=3, output_tokens=2)
    assert attrs.asdict(turn.info)["usage"]["input_tokens"] == 3
