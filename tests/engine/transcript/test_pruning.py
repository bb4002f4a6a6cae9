from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.transcript import pruning
from engine.transcript.pruning import CLEARED, SMALL_BYTES, cleared_through, cut, fit, prune
from engine.transcript.records import CompactionPart, Message, TextPart, ToolPart
from engine.transcript.window import FILE_BYTES, weight_of
from tests.engine.transcript.histories import answer, histories, image, user


def outputs(messages: tuple[Message, ...]) -> list[str | None]:
    return [part.output for message in messages for part in message.parts if isinstance(part, ToolPart)]


def test_nothing_is_cleared_until_a_step_has_grown_old() -> None:
    assert cleared_through([100, 100, 100], protect=200, step=100) == 1
    assert cleared_through([100, 100, 99], protect=200, step=100) == 0
    assert cleared_through([100, 100, 100], protect=201, step=100) == 0
    assert cleared_through([50] * 9, protect=100, step=100) == 6  # of 350 that are old, 300
    assert cleared_through([], protect=0, step=1) == 0
    assert cleared_through([500, 10], protect=100, step=100) == 0  # what is larger than what is due stays whole


def test_messages_without_results_between_cleared_ones_count_nothing() -> None:
    assert cleared_through([300, 0, 300, 0, 300], protect=300, step=300) == 4


def test_a_cleared_call_says_so_and_keeps_what_it_was() -> None:
    old = answer("a", "run_1", results=(1000, SMALL_BYTES))
    messages = prune([old, answer("b", "run_1", results=(1000,))], protect=1000, step=500)
    first, second = outputs(messages)[:2]
    assert first == CLEARED and second == "o" * SMALL_BYTES
    assert messages[0].form == "cleared" and messages[1].form == "whole"
    part = messages[0].parts[1]
    assert isinstance(part, ToolPart) and part.input == b'{"path":"p"}' and part.state == "completed"
    assert old.parts[1].output == "o" * 1000  # type: ignore[union-attr]


def test_errors_and_images_of_calls_are_results_too() -> None:
    failed = answer("a", "run_1", results=(1000,), errors=True)
    shown = Message(failed.info, (*failed.parts, image("i", call_id="call_a_0"), image("own")))
    cleared = pruning.clear(shown)
    call, of_call, own = cleared.parts[1:]
    assert isinstance(call, ToolPart) and (call.error, call.output, call.state) == (CLEARED, None, "error")
    assert of_call.data_base64 is None and own.data_base64 == "aaaa"  # type: ignore[union-attr]
    assert weight_of(shown) - weight_of(cleared) == 1000 - len(CLEARED)
    assert weight_of(shown) > 2 * FILE_BYTES


def test_a_message_without_much_is_itself() -> None:
    small = answer("a", "run_1", results=(10, 20))
    assert pruning.clear(small) is small


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(0, 1000), st.integers(1, 500))
def test_what_is_cleared_only_grows_and_in_steps(sizes: list[int], protect: int, step: int) -> None:
    cleared = [cleared_through(sizes[:count], protect, step) for count in range(len(sizes) + 1)]
    for count, (before, after) in enumerate(itertools.pairwise(cleared)):
        assert after >= before, "a cleared output does not come back"
        assert sum(sizes[after : count + 1]) >= min(protect, sum(sizes[: count + 1])), "the newest are protected"
    # Each step clears a good part: the number of times that the beginning changes is bounded by what was said.
    changes = sum(before != after for before, after in itertools.pairwise(cleared))
    assert changes <= sum(sizes) // step


# ------------------------------------------------------------------ what does not fit
@given(histories(), st.integers(2_000, 60_000))
def test_whatever_does_not_fit_is_cut_until_it_does(messages: list[Message], room: int) -> None:
    found = fit(messages, room)
    assert [message.info for message in found] == [message.info for message in messages]
    strings = sum(1 + 3 * isinstance(part, ToolPart) for message in messages for part in message.parts)
    least = sum(weight_of(pruning.clear(message)) for message in messages if not message.parts) + 400 * strings
    assert sum(map(weight_of, found)) <= max(room, least)
    for before, after in zip(messages, found, strict=True):
        for old, new in zip(before.parts, after.parts, strict=True):
            assert type(old) is type(new)
            if isinstance(old, ToolPart) and isinstance(new, ToolPart):
                assert (old.state, old.call_id, old.tool) == (new.state, new.call_id, new.tool)
                assert (new.output is None) == (old.output is None) and (new.error is None) == (old.error is None)
                assert isinstance(orjson.loads(new.input), dict)
    if sum(map(weight_of, messages)) <= room:
        assert list(found) == messages


def test_old_results_go_before_anything_is_cut() -> None:
    messages = [user("u"), answer("a", "run_u", results=(5000,)), answer("b", "run_u", results=(5000,))]
    found = fit(messages, 6000)
    assert outputs(found) == [CLEARED, "o" * 5000]
    assert [message.form for message in found] == ["whole", "cleared", "whole"]


def test_the_newest_result_is_cut_to_head_and_tail() -> None:
    result = "begin " + "x" * 100_000 + " end"
    newest = answer("a", "run_u", results=(1,))
    part = newest.parts[1]
    assert isinstance(part, ToolPart)
    newest = Message(
        newest.info, (newest.parts[0], ToolPart(id="p", call_id="c", tool="t.t", state="completed", output=result))
    )
    (_, shown) = fit([user("u"), newest], 4000)
    text = outputs((shown,))[0]
    assert text is not None and text.startswith("begin ") and text.endswith(" end") and "bytes were cut here" in text
    assert shown.form == "cut" and weight_of(shown) < 4000


@pytest.mark.parametrize("bound", [0, 1, 50, 100, 300, 1000])
def test_a_cut_keeps_characters_whole(bound: int) -> None:
    text = "ä😀" * 1000
    found = cut(text, bound)
    assert "\ufffd" not in found and len(found.encode()) <= max(bound, 110)
    assert cut("short", 5) == "short"


def test_a_summary_that_was_written_for_a_larger_window_is_cut() -> None:
    info = user("s").info
    messages = [Message(info, (CompactionPart(id="p", summary="first " + "s" * 30_000),)), user("u", 100)]
    summary, question = fit(messages, 3000)
    part = summary.parts[0]
    assert isinstance(part, CompactionPart) and part.summary.startswith("first s") and len(part.summary) < 3000
    assert question is messages[1]


def test_a_long_input_stays_an_object() -> None:
    call = ToolPart(
        id="p", call_id="c", tool="t.t", state="completed", input=orjson.dumps({"content": "x" * 9000}), output=""
    )
    newest = answer("a", "run_u")
    (shown,) = fit([Message(newest.info, (TextPart(id="t", text="a"), call))], 2000)
    part = shown.parts[1]
    assert isinstance(part, ToolPart) and orjson.loads(part.input)["cut"].startswith('{"content":"xxx')
