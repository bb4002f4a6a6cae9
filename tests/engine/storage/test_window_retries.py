"""What a model is shown of answers that failed: nothing of an attempt that was repeated."""

from __future__ import annotations

import pytest

from engine.storage import window
from engine.storage.changes import AddMessage, AddPart, FinishMessage
from engine.transcript.records import AssistantMessage, Finish, RetryPart, StepStartPart, TextPart, UserMessage
from tests.engine.storage.conftest import NOW, Store


def answer(store: Store, run: str, name: str, finish: Finish | None, size: int = 10) -> None:
    info = AssistantMessage(id=f"msg_{name}", created_at=NOW, run_id=f"run_{run}", finish=finish)
    store.apply(
        AddMessage(info),
        AddPart(info.id, StepStartPart(id=f"prt_s{name}", turn=1)),
        AddPart(info.id, RetryPart(id=f"prt_r{name}", attempt=2, reason="overloaded", delay_ms=1000)),
        AddPart(info.id, TextPart(id=f"prt_{name}", text="x" * size)),
        FinishMessage(info),
    )


def chosen(store: Store, max_messages: int = 100, max_bytes: int = 10**6) -> list[str]:
    found = window.read(store.reader, "ses_1", max_messages, max_bytes).messages
    return [message.info.id.removeprefix("msg_") for message in found]


@pytest.fixture
def talking(store: Store) -> Store:
    """A session whose first run has begun."""
    store.session()
    store.start("1")
    return store


def test_an_attempt_that_was_repeated_is_left_out(talking: Store) -> None:
    answer(talking, "1", "a", "error")
    answer(talking, "1", "b", "error")
    answer(talking, "1", "c", "tool_calls")
    answer(talking, "1", "d", "error")
    answer(talking, "1", "e", "stop")
    assert chosen(talking) == ["u1", "c", "e"]
    talking.start("2")
    assert chosen(talking) == ["u1", "c", "e", "u2"]


@pytest.mark.parametrize("now", [None, "stop", "cancelled", "interrupted", "error"])
def test_however_the_next_attempt_stands(talking: Store, now: Finish | None) -> None:
    answer(talking, "1", "a", "error")
    answer(talking, "1", "b", now)
    assert chosen(talking) == ["u1", "b"]


def test_the_last_attempt_of_a_run_that_failed_stays(talking: Store) -> None:
    answer(talking, "1", "a", "error")
    answer(talking, "1", "b", "error")
    assert chosen(talking) == ["u1", "b"]
    talking.start("2")
    answer(talking, "2", "c", "stop")
    assert chosen(talking) == ["u1", "b", "u2", "c"]


def test_a_message_that_was_taken_in_between_is_no_border(talking: Store) -> None:
    answer(talking, "1", "a", "error")
    talking.apply(AddMessage(UserMessage(id="msg_steered", created_at=NOW, run_id="run_1")))
    answer(talking, "1", "b", "stop")
    assert chosen(talking) == ["u1", "steered", "b"]


def test_answers_without_a_run_are_not_attempts_of_each_other(talking: Store) -> None:
    for name, finish in (("a", "error"), ("b", "stop")):
        talking.apply(AddMessage(AssistantMessage(id=f"msg_{name}", created_at=NOW, finish=finish)))  # type: ignore[arg-type]
    assert chosen(talking) == ["u1", "a", "b"]


def test_what_is_left_out_takes_no_room(talking: Store) -> None:
    answer(talking, "1", "a", "error", size=50_000)
    answer(talking, "1", "b", "error", size=50_000)
    answer(talking, "1", "c", "stop")
    assert chosen(talking, max_messages=2) == ["u1", "c"]
    assert chosen(talking, max_bytes=10_000) == ["u1", "c"]
    talking.start("2")
    answer(talking, "2", "d", "stop")
    assert chosen(talking, max_messages=4, max_bytes=10_000) == ["u1", "c", "u2", "d"]
