"""A turn whose model call is made again."""

from __future__ import annotations

import pytest

from engine.limits import DEFAULT
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallStarted,
    UsageReported,
)
from engine.runs.events import RetryScheduled
from engine.runs.retry import Retry
from engine.runs.turn import Turn
from engine.storage.changes import AddPart
from engine.transcript.records import AssistantMessage, RetryPart, StepFinishPart, Usage

NOW = 1_700_000_000_000
AGAIN = Retry(attempt=2, max_attempts=4, delay=1.2504, reason="overloaded")


def make() -> Turn:
    return Turn(1, AssistantMessage(id="msg_1", created_at=NOW, run_id="run_1", model="m"), limits=DEFAULT)


def test_a_repetition_is_a_part_and_an_event() -> None:
    turn = make()
    step = turn.retry(AGAIN)
    (added,) = step.changes
    assert isinstance(added, AddPart) and isinstance(added.part, RetryPart) and added.message_id == "msg_1"
    assert (added.part.attempt, added.part.reason, added.part.delay_ms) == (2, "overloaded", 1250)
    assert step.facts == [RetryScheduled(attempt=2, max_attempts=4, delay_ms=1250, reason="overloaded")]
    assert turn.texts == () and turn.calls == ()


def test_the_usage_of_failed_attempts_counts() -> None:
    turn = make()
    turn.take([UsageReported(Usage(input_tokens=5)), UsageReported(Usage(input_tokens=7, output_tokens=1))])
    turn.retry(AGAIN)
    turn.take([UsageReported(Usage(input_tokens=10))])
    turn.retry(AGAIN)
    turn.take([TextDelta("hi"), UsageReported(Usage(input_tokens=20)), UsageReported(Usage(input_tokens=30))])
    turn.end_answer()
    step = turn.close("stop", NOW)
    (finish,) = [c.part for c in step.changes if isinstance(c, AddPart) and isinstance(c.part, StepFinishPart)]
    assert finish.usage == turn.usage == turn.info.usage == Usage(input_tokens=47, output_tokens=1)


def test_how_a_failed_attempt_was_to_end_does_not_stay() -> None:
    turn = make()
    turn.take([AnswerFinished("length")])
    turn.retry(AGAIN)
    assert turn.finish is None


@pytest.mark.parametrize(
    "given",
    [TextDelta("a"), ReasoningDelta("a"), ReasoningFinished("proof"), ToolCallStarted(0, "call_1", "add")],
    ids=lambda event: type(event).__name__,
)
def test_an_attempt_that_gave_something_is_not_repeated_in_its_turn(given: ModelEvent) -> None:
    turn = make()
    turn.take([given])
    assert turn.started_answering
    with pytest.raises(AssertionError):
        turn.retry(AGAIN)
