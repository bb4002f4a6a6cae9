"""What is kept of requests: bytes that are the same as without, and no more of them than allowed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers import anthropic_request, openai_request
from engine.providers.base import ModelRequest
from engine.providers.pieces import ENTRY_BYTES, Encoded, Pieces
from engine.transcript import pruning
from engine.transcript.records import Form, Message
from tests.engine.transcript.histories import answer, histories, image, user

Encode = Callable[[ModelRequest, Pieces | None], Iterator[bytes]]


def openai(request: ModelRequest, kept: Pieces | None) -> Iterator[bytes]:
    return openai_request.encode_request(request, kept)


def anthropic(request: ModelRequest, kept: Pieces | None) -> Iterator[bytes]:
    return anthropic_request.encode_request(request, 1000, kept)


BOTH = pytest.mark.parametrize("encode", [openai, anthropic])


def asked(messages: list[Message]) -> ModelRequest:
    return ModelRequest(model="m", instructions="Be short.", messages=tuple(messages), tools=())


def stored(message: Message, revision: int = 1, form: Form = "whole") -> Message:
    return attrs.evolve(message, revision=revision, form=form)


@BOTH
@given(messages=histories(), rounds=st.integers(1, 3), most=st.sampled_from([0, 2_000, 50_000, 10**9]))
def test_the_body_is_the_same_with_and_without(encode: Encode, messages: list[Message], rounds: int, most: int) -> None:
    kept = Pieces(most)
    found = [stored(message) for message in messages]
    for count in [*range(1, rounds + 1), len(found)]:
        request = asked(found[:count])
        body = b"".join(encode(request, kept))
        assert body == b"".join(encode(request, None))
        orjson.loads(body)
        assert kept.bytes <= most


@BOTH
def test_what_did_not_change_is_the_same_bytes_object(encode: Encode) -> None:
    kept = Pieces(10**6)
    messages = [stored(user("u", 500)), stored(answer("a", "run_u", 500, results=(500,)))]
    first = list(encode(asked(messages), kept))
    again = list(encode(asked([*messages, stored(user("v", 500, "run_u"))]), kept))
    large = [piece for piece in first if len(piece) > 400]
    assert len(large) >= 2 and all(any(piece is other for other in again) for piece in large)
    assert len(kept) == 3


@BOTH
def test_another_revision_or_form_is_encoded_anew(encode: Encode) -> None:
    kept = Pieces(10**6)
    whole = stored(answer("a", "run_u", results=(5000,)))
    changed = stored(answer("a", "run_u", results=(300,)), revision=2)
    cleared = pruning.clear(whole)
    for message in (whole, changed, cleared, whole):
        request = asked([stored(user("u")), message])
        assert b"".join(encode(request, kept)) == b"".join(encode(request, None))
    assert len(kept) == 4


def test_thinking_depends_on_whether_its_run_goes_on() -> None:
    kept = Pieces(10**6)
    one = stored(user("u"))
    list(anthropic(asked([one]), kept))
    list(anthropic(asked([one, stored(user("v"))]), kept))
    assert len(kept) == 3  # `u` of the run that goes on, `u` of one that has ended, `v`


@BOTH
def test_what_may_look_otherwise_the_next_time_is_not_kept(encode: Encode) -> None:
    kept = Pieces(10**6)
    shown = user("u")
    for message in (
        user("growing"),
        stored(user("cut"), form="cut"),
        stored(Message(shown.info, (*shown.parts, image("i")))),
    ):
        list(encode(asked([message]), kept))
    assert len(kept) == 0 and kept.bytes == 0
    list(encode(asked([stored(Message(shown.info, (*shown.parts, pruning.unseen(image("i")))))]), kept))
    assert len(kept) == 1


@BOTH
def test_what_is_kept_takes_what_it_counts(encode: Encode) -> None:
    """orjson's buffers are larger than what is in them, and stay so."""
    messages = [stored(user(str(number), 4000)) for number in range(200)]
    kept = Pieces(10**7)
    tracemalloc.start()
    try:
        for _ in encode(asked(messages), kept):
            pass
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 200 * 4000 < held < kept.bytes * 1.1


@BOTH
def test_a_body_is_no_second_copy(encode: Encode) -> None:
    """8 MB of messages that are kept: what a request adds are the brackets between them."""
    messages = [stored(user(str(number), 8000)) for number in range(1000)]
    kept = Pieces(10**8)
    request = asked(messages)
    for _ in encode(request, kept):
        pass
    tracemalloc.start()
    try:
        pieces = list(encode(request, kept))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, pieces)) > 8_000_000 and peak < 400_000


def one(size: int) -> Encoded:
    return (("user", b"x" * size),)


def test_the_bound_holds_and_what_was_used_longest_ago_goes() -> None:
    kept = Pieces(3 * (ENTRY_BYTES + 100))
    messages = [stored(user(str(number))) for number in range(4)]
    for message in messages[:3]:
        kept.get(message, "f", lambda: one(100))
    assert len(kept) == 3 and kept.bytes == 3 * (ENTRY_BYTES + 100)
    kept.get(messages[0], "f", lambda: one(1))  # is there
    kept.get(messages[3], "f", lambda: one(100))
    for number in (0, 2, 3):
        assert kept.get(messages[number], "f", lambda: one(1)) == one(100), number
    assert kept.get(messages[1], "f", lambda: one(1)) == one(1), "the second was used longest ago"
    assert kept.bytes <= 3 * (ENTRY_BYTES + 100)
    kept.clear()
    assert (len(kept), kept.bytes) == (0, 0)


@pytest.mark.parametrize(("size", "count"), [(100, 1), (101, 0)])
def test_what_is_larger_than_the_bound_is_not_kept(size: int, count: int) -> None:
    kept = Pieces(ENTRY_BYTES + 100)
    assert kept.get(stored(user("u")), "f", lambda: one(size)) == one(size)
    assert len(kept) == count


@BOTH
def test_of_a_session_the_messages_of_its_last_request_are_kept(encode: Encode) -> None:
    kept = Pieces(10**6)
    messages = [stored(user(f"u{number}", 300)) for number in range(30)]
    for begin in range(20):
        list(encode(attrs.evolve(asked(messages[begin : begin + 5]), session_id="ses_1"), kept))
    list(encode(attrs.evolve(asked([stored(user("other"))]), session_id="ses_2"), kept))
    list(encode(asked([stored(user("asked beside"))]), kept))  # for a title, say
    assert len(kept) == 7
    alone = Pieces(10**6)
    list(encode(asked(messages[19:24]), alone))
    list(encode(asked([stored(user("other"))]), alone))
    list(encode(asked([stored(user("asked beside"))]), alone))
    assert kept.bytes == alone.bytes
    kept.forget("ses_1")
    kept.forget("never seen")
    assert len(kept) == 2


def test_a_request_whose_sending_was_broken_off_takes_nothing_from_the_next() -> None:
    kept = Pieces(10**6)
    messages = [stored(user(f"u{number}", 300)) for number in range(5)]
    request = attrs.evolve(asked(messages), session_id="ses_1")
    list(openai(request, kept))
    broken = openai(request, kept)
    for _ in range(3):
        next(broken)
    broken.close()  # type: ignore[attr-defined]
    assert len(kept) == 5 and b"".join(openai(request, kept)) == b"".join(openai(request, None))
