from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.transcript.records import AssistantMessage, Message, Usage
from engine.transcript.window import (
    BYTES_PER_TOKEN,
    LEAST_TOKENS,
    Entry,
    Marks,
    Room,
    Window,
    bytes_for_messages,
    choose,
    used,
    weight_of,
    weight_of_results,
)
from tests.engine.transcript.histories import answer, user


def entries(*weights: tuple[str, int]) -> list[Entry]:
    """Newest first, of (role, weight) oldest first."""
    found = [
        Entry(position=index + 1, role="user" if role == "u" else "assistant", weight=weight)
        for index, (role, weight) in enumerate(weights)
    ]
    return found[::-1]


TWO_TURNS = entries(("u", 10), ("a", 10), ("u", 10), ("a", 10), ("a", 10))


@pytest.mark.parametrize(
    ("messages", "size", "tail", "user_position", "cut"),
    [
        (9, 50, (1, 2, 3, 4, 5), None, False),
        (5, 50, (1, 2, 3, 4, 5), None, False),
        (4, 50, (3, 4, 5), None, True),  # whole turns
        (9, 49, (3, 4, 5), None, True),
        (9, 30, (3, 4, 5), None, True),
        (9, 29, (5,), 3, True),  # not even the latest turn: its question and the newest answers
        (9, 20, (5,), 3, True),
        (9, 1, (5,), 3, True),
        (1, 50, (5,), 3, True),
        (2, 50, (5,), 3, True),
    ],
)
def test_what_fits_is_chosen_from_the_tail(
    messages: int, size: int, tail: tuple[int, ...], user_position: int | None, cut: bool
) -> None:
    choice = choose(TWO_TURNS, messages, size)
    assert (choice.tail, choice.user, choice.cut) == (tail, user_position, cut)


def test_answers_without_a_question_are_chosen_too() -> None:
    """Of what a compaction has kept."""
    kept = entries(("a", 10), ("a", 10), ("a", 10))
    assert choose(kept, 9, 30).tail == (1, 2, 3)
    assert choose(kept, 9, 29).tail == (2, 3)
    assert choose([], 9, 30).tail == ()


@given(
    st.lists(st.tuples(st.sampled_from("ua"), st.integers(0, 100)), max_size=30),
    st.integers(1, 30),
    st.integers(0, 600),
)
def test_a_choice_is_a_tail_within_its_bounds(shape: list[tuple[str, int]], messages: int, size: int) -> None:
    offered = entries(*shape)
    choice = choose(offered, messages, size)
    of = {entry.position: entry for entry in offered}
    assert choice.tail == tuple(range(len(shape) + 1 - len(choice.tail), len(shape) + 1)), "a tail without holes"
    assert bool(choice.tail) == bool(shape), "the newest message is always there"
    weight = sum(of[position].weight for position in choice.tail)
    if choice.user is not None:
        assert choice.user not in choice.tail and of[choice.user].role == "user"
        assert all(of[position].role != "user" for position in choice.tail)
        weight += of[choice.user].weight
    count = len(choice.tail) + (choice.user is not None)
    least = 1 + (choice.user is not None)
    assert (weight <= size and count <= messages) or count == least
    assert choice.cut or len(choice.tail) == len(shape)
    starts = [of[position].role for position in choice.tail[:1]]
    if choice.cut and choice.user is None and any(role == "u" for role, _ in shape):
        assert starts == ["user"], "whole turns"


# ------------------------------------------------------------------ tokens
def told(message: Message, usage: Usage, model: str = "m") -> Message:
    assert isinstance(message.info, AssistantMessage)
    info = AssistantMessage(id=message.info.id, created_at=1, model=model, usage=usage)
    return Message(info, message.parts)


def test_tokens_are_what_the_service_counted_and_an_estimate_of_what_came_after() -> None:
    counted = told(answer("a", "r", 3000, results=(600,)), Usage(input_tokens=1000, output_tokens=50))
    messages = (user("u", 90_000), counted, user("v", 300))
    window = Window(messages=messages, size=sum(map(weight_of, messages)))
    after = weight_of_results(counted) + weight_of(messages[2])
    assert used(window, "m", 5000) == 1050 + after // BYTES_PER_TOKEN
    # Another model counts otherwise; what is older than the compaction was counted in another request.
    whole = (window.size + 5000) // BYTES_PER_TOKEN
    assert used(window, "other", 5000) == whole
    assert used(Window(messages=messages, size=window.size, fresh=2), "m", 5000) == whole
    assert used(Window(messages=(user("u"),), size=30), "m", 0) == 10
    silent = told(counted, Usage())
    assert used(Window(messages=(silent,), size=300), "m", 0) == 100


def test_room_is_left_for_the_answer() -> None:
    assert Room(window=200_000, answer=32_000, compact_at=0.8).prompt == 168_000
    assert Room(window=200_000, answer=32_000, compact_at=0.8).threshold == 160_000
    assert Room(window=200_000, answer=32_000, compact_at=1.0).threshold == 168_000
    assert Room(window=200_000, answer=32_000, compact_at=0.0).threshold is None
    assert Room(window=4096, answer=32_000, compact_at=0.8).prompt == 3072  # a quarter at the most
    assert bytes_for_messages(1000, 600) == 2400
    assert bytes_for_messages(1000, 10**6) == LEAST_TOKENS * BYTES_PER_TOKEN


def test_what_a_service_counted_is_believed_within_bounds() -> None:
    marks = Marks()
    marks.counted("m", 3500, 999)  # too little to tell
    assert marks.per_token == {}
    for tokens, per_token in ((1000, 3.5), (500_000, 2.0)):
        marks.counted("m", 3500, tokens)
        assert marks.per_token == {"m": per_token}
    marks.counted("m", 10**6, 1000)
    assert marks.per_token == {"m": 4.5}
    assert bytes_for_messages(1000, 600, 4.5) == 3900


def test_what_a_service_took_is_remembered_for_its_model() -> None:
    marks = Marks()
    marks.learn("m", 8000)
    marks.learn("m", 9000)
    assert marks.tokens == {"m": 8000}
    marks.learn("m", 3)
    assert marks.tokens == {"m": 2 * LEAST_TOKENS}
