from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.transcript import compaction, pruning
from engine.transcript.compaction import is_progress, kept_from, question, size_after, split
from engine.transcript.records import CompactionPart, Message, ToolPart, UserMessage
from engine.transcript.window import Window, weight_of
from tests.engine.transcript.histories import NOW, answer, histories, image, user


def summary(text: str = "what was before") -> Message:
    return Message(UserMessage(id="msg_s", created_at=NOW), (CompactionPart(id="prt_s", summary=text),))


def window(*messages: Message, lead: int = 0) -> Window:
    return Window(messages=messages, lead=lead, size=sum(map(weight_of, messages)))


TURNS = (user("u0", 1000), answer("a0", "r0", 1000), user("u1", 1000), answer("a1", "r1", 1000))


@pytest.mark.parametrize(
    ("keep", "count", "by_hand"),
    [
        (0, 4, 4),
        (1_100, 3, 3),  # a part of a turn, if no question is near
        (2_200, 2, 2),
        (3_300, 2, 2),  # from a question on
        (99_000, 2, 2),  # never all
    ],
)
def test_the_newest_are_kept_from_a_question_on(keep: int, count: int, by_hand: int) -> None:
    assert split(window(*TURNS), keep) == count
    assert split(window(*TURNS), keep, by_hand=True) == by_hand


def test_one_turn_alone_is_summarised_by_hand_only() -> None:
    alone = window(*TURNS[:2])
    assert split(alone, 99_000) == 0
    assert split(alone, 99_000, by_hand=True) == 2
    assert split(window(), 10, by_hand=True) == 0


def test_what_stands_before_the_tail_is_not_kept() -> None:
    """The summary, and a question that the tail answers: they are at other places of the transcript."""
    found = window(summary(), user("u"), answer("a0", "r", 100), answer("a1", "r", 100), lead=2)
    assert split(found, 99_000) == 0
    assert split(found, 150) == 3
    assert split(found, 0) == 4
    assert split(window(summary()), 0) == 0  # nothing but a summary


def test_the_first_that_is_kept_is_named() -> None:
    found = window(*TURNS)
    assert kept_from(found, 2) == "msg_u1"
    assert kept_from(found, 4) is None


def test_the_size_after_counts_the_question_that_is_shown_again() -> None:
    found = window(*TURNS)
    assert size_after(found, 2, "x" * 100) == 100 + weight_of(TURNS[2]) + weight_of(TURNS[3])
    assert size_after(found, 3, "x" * 100) == 100 + weight_of(TURNS[2]) + weight_of(TURNS[3])
    assert size_after(found, 4, "ä" * 50) == 100


@given(histories(), st.integers(0, 60_000), st.booleans())
def test_a_split_leaves_a_valid_tail(messages: list[Message], keep: int, by_hand: bool) -> None:
    found = window(*messages)
    count = split(found, keep, by_hand=by_hand)
    assert 0 <= count <= len(messages)
    if by_hand and count == 0:
        assert not any(part for message in messages for part in message.parts)
    kept = messages[count:]
    if not by_hand:
        newest = [message for message in messages if message.role != "user"][-1:]
        pending = any(isinstance(part, ToolPart) for message in newest for part in message.parts)
        if pending:
            assert newest[0] in kept, "a model sees what its calls gave before that is summarised"
        if pending and newest[0] is kept[0]:
            return  # whatever its size
    if count and kept and kept[0].role != "user":
        assert all(message.role != "user" for message in kept), "from a question on, if there is one"
        assert sum(map(weight_of, kept)) <= keep


def test_what_the_model_has_yet_to_see_is_kept_whatever_its_size() -> None:
    asked, results = user("u2", 100), answer("a2", "r2", 10, results=(50_000, 50_000))
    assert split(window(*TURNS, asked, results), 10) == 5
    assert split(window(*TURNS, asked, results, user("steered", 5)), 10) == 5
    assert split(window(*TURNS, user("long", 50_000)), 10) == 4
    assert split(window(asked, results), 10) == 1  # which is no progress: the question is shown again
    assert not is_progress(*(size_after(window(asked, results), count, "") for count in (0, 1)))
    assert split(window(summary(), results, lead=1), 10) == 0
    assert split(window(*TURNS, asked, results, answer("a3", "r2", 100)), 150) == 6  # it has answered


def test_results_that_the_model_has_seen_are_cleared_others_cut() -> None:
    old, new = answer("a0", "r0", 10, results=(9_000,)), answer("a1", "r1", 10, results=(9_000, 9_000))
    for last in ([], [user("steered", 5)]):
        found = pruning.fit([user("u"), old, new, *last], 5_000)
        texts = [part.output or "" for message in found for part in message.parts if isinstance(part, ToolPart)]
        assert texts[0] == pruning.CLEARED
        assert all(len(text) > 1_000 and "bytes were cut here" in text for text in texts[1:])


def test_a_fifth_is_progress() -> None:
    assert is_progress(1000, 800) and not is_progress(1000, 801)


# ------------------------------------------------------------------ what the model is asked
def test_the_conversation_is_told_as_text() -> None:
    calls = answer("a", "r", 5, results=(9000,))
    attached = Message(user("f").info, (image("i"),))
    text = question([summary(), user("u", 3), calls, attached], 100_000)
    assert text.startswith("Summarise this conversation:")
    assert "Summary of what was before: what was before" in text
    assert "User: uuu" in text and "Assistant: aaaaa" in text
    assert 'called files.read_file {"path":"p"}' in text and "bytes were cut here" in text
    assert "i.png (image/png, 1,000 bytes)" in text and "left out" not in text


def test_the_beginning_is_left_out_before_the_summary_is() -> None:
    messages = [summary("the old summary"), *(user(f"u{number}", 2000) for number in range(20)), user("last", 3)]
    text = question(messages, 5000)
    assert len(text) <= 5200 and "the old summary" in text and text.endswith("User: uuu") and "is left out" in text


@given(histories(), st.integers(2000, 50_000), st.booleans())
def test_a_question_is_within_its_bytes(messages: list[Message], most: int, summarised: bool) -> None:
    before = [summary("s" * 40_000)] if summarised else []
    assert len(question([*before, *messages], most).encode()) <= most + 400


def test_what_started_a_run_that_compacts_says_so() -> None:
    message = compaction.request_message("msg_1", "prt_1", "run_1", NOW)
    assert message.info.run_id == "run_1" and message.role == "user"
    assert message.parts[0].text == compaction.REQUEST  # type: ignore[union-attr]
