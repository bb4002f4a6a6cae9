"""The codec: strict at the edges, lenient inside, every mistake named by its path, absent never null."""

from __future__ import annotations

import contextlib
import gc
import json
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import codec
from engine.codec import Check, DecodeError
from engine.runs.record import Run
from engine.transcript.records import KINDS, Blob, Failure, Usage
from engine.transcript.session import Session


@attrs.frozen(slots=True, kw_only=True)
class Inner:
    count: int
    name: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class Outer:
    text: str
    number: float = 0.5
    flag: bool = False
    choice: Literal["a", "b"] = "a"
    inner: Inner | None = None
    items: tuple[Inner, ...] = ()
    table: dict[str, int] | None = None
    free: bytes = b"{}"
    short: Annotated[str, Check("1 to 3 characters", lambda text: 1 <= len(text) <= 3)] = "x"


@attrs.frozen(slots=True, kw_only=True)
class Versioned:
    version: Literal[1, 2]


def mistakes(value: Any, kind: type[Any] = Outer) -> dict[str, str]:
    with pytest.raises(DecodeError) as caught:
        codec.decode(value, kind)
    return dict(caught.value.fields)


def test_a_full_record_both_ways() -> None:
    value = {
        "text": "é", "number": 2.0, "flag": True, "choice": "b", "inner": {"count": 1, "name": "n"},
        "items": [{"count": 2}, {"count": 3}], "table": {"k": 4}, "free": {"any": [None, 1.5]}, "short": "abc",
    }  # fmt: skip
    record = codec.decode(value, Outer)
    assert record == Outer(
        text="é", number=2.0, flag=True, choice="b", inner=Inner(count=1, name="n"),
        items=(Inner(count=2), Inner(count=3)), table={"k": 4}, free=b'{"any":[null,1.5]}', short="abc",
    )  # fmt: skip
    assert json.loads(codec.dump(record)) == value


def test_absent_optionals_are_left_out_and_defaults_written() -> None:
    assert json.loads(codec.dump(Outer(text="t"))) == {
        "text": "t", "number": 0.5, "flag": False, "choice": "a", "items": [], "free": {}, "short": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("text", 1, "expected a string, not an integer"),
        ("text", None, "expected a string, not null"),
        ("text", ["x"], "expected a string, not an array"),
        ("number", "1", "expected a number, not a string"),
        ("number", True, "expected a number, not a boolean"),
        ("flag", 1, "expected a boolean, not an integer"),
        ("choice", "c", "expected one of a, b"),
        ("choice", 1, "expected one of a, b"),
        ("choice", [], "expected one of a, b"),
        ("inner", [], "expected an object, not an array"),
        ("items", {}, "expected an array, not an object"),
        ("items", "ab", "expected an array, not a string"),
        ("table", [["k", 1]], "expected an object, not an array"),
        ("short", "", "expected 1 to 3 characters"),
        ("short", "abcd", "expected 1 to 3 characters"),
        ("short", 7, "expected a string, not an integer"),
    ],
)
def test_nothing_is_converted(field: str, wrong: Any, said: str) -> None:
    assert mistakes({"text": "t", field: wrong}) == {field: said}


def test_integers_are_not_floats_or_booleans() -> None:
    for wrong, said in [(1.0, "a number"), (True, "a boolean"), ("1", "a string")]:
        assert mistakes({"count": wrong}, Inner) == {"count": f"expected an integer, not {said}"}
    assert codec.decode({"text": "t", "number": 3}, Outer).number == 3.0


def test_a_choice_of_numbers_is_not_a_boolean() -> None:
    assert codec.decode({"version": 1}, Versioned) == Versioned(version=1)
    assert mistakes({"version": True}, Versioned) == {"version": "expected one of 1, 2"}


def test_all_mistakes_at_once_by_their_paths() -> None:
    found = mistakes(
        {"items": [{"count": 1}, {"count": "x", "nmae": 1}, 3], "table": {"good": 1, "bad": "x"}, "inner": {}, "nix": 1}
    )
    assert found == {
        "text": "is missing",
        "inner.count": "is missing",
        "items[1].count": "expected an integer, not a string",
        "items[1].nmae": "is not a known field",
        "items[2]": "expected an object, not an integer",
        "table.bad": "expected an integer, not a string",
        "nix": "is not a known field",
    }


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_a_record_is_an_object(value: Any) -> None:
    assert list(mistakes(value)) == [""]


def test_mistakes_are_bounded() -> None:
    hostile = {"text": "t", **{f"unknown{i}": 1 for i in range(1000)}}
    assert len(mistakes(hostile)) == codec.FIELDS_MAX
    with pytest.raises(DecodeError) as caught:
        codec.decode(hostile, Outer, most=100)
    assert len(caught.value.fields) == 100


def test_what_a_greenroom_wrote_is_read_leniently() -> None:
    later = b'{"text":"t","of_a_later_version":1,"inner":{"count":1,"new":{}}}'
    assert codec.load(later, Outer) == Outer(text="t", inner=Inner(count=1))
    for damaged in (b'{"text":1}', b"{}", b"[]", b"", b"{", b"\xff"):
        with pytest.raises(DecodeError):
            codec.load(damaged, Outer)


@pytest.mark.parametrize("text", ['"\\ud83d"', '"\ud83d"', "NaN", "[1,]", "", "{'a':1}", "[" * 5_000, b"\xff"])
def test_what_is_not_json_is_a_decode_error(text: str | bytes) -> None:
    with pytest.raises(DecodeError, match="is not JSON"):
        codec.parse(text)


def test_free_json_that_is_nested_too_deeply_is_a_decode_error() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    assert list(mistakes({"text": "t", "free": value})) == ["free"]


@given(st.text())
def test_escaped_text_stands_between_quotes(text: str) -> None:
    assert json.loads(b'"' + codec.escaped(text) + b'"') == text


def test_half_a_pair_cannot_be_escaped() -> None:
    with pytest.raises(DecodeError):
        codec.escaped("a\ud83d")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([Outer, Inner, Session, Run, Usage, Failure, *KINDS.values()]))
def test_any_value_is_a_record_or_a_decode_error(value: Any, kind: type[Any]) -> None:
    for read in (codec.decode, codec.lean):
        try:
            assert isinstance(read(value, kind), kind)
        except DecodeError as exc:
            assert exc.fields


@pytest.mark.parametrize("kind", [*KINDS.values()], ids=[*KINDS])
def test_every_part_comes_back_as_it_was(kind: type[Any]) -> None:
    values: dict[str, Any] = {
        "usage": Usage(input_tokens=1, cost=0.25),
        "input": b'{"a":[1]}',
        "state": "running",
        "finish": "stop",
        "whole": Blob(handle="out_1", hash="0" * 64, size=10**12),
    }
    numbers = {"turn", "size", "attempt", "delay_ms", "started_at", "finished_at"}
    full = {f.name: values.get(f.name, 3 if f.name in numbers else "x") for f in attrs.fields(kind)}
    least = {f.name: full[f.name] for f in attrs.fields(kind) if f.default is attrs.NOTHING}
    for record in (kind(**full), kind(**least)):
        assert codec.load(codec.dump(record), kind) == record
        assert codec.decode(codec.parse(codec.dump(record)), kind) == record


def test_a_refused_value_leaves_no_garbage_for_the_collector() -> None:
    """A refused message of a megabyte must be gone when it has been answered, not at some collection."""
    gc.collect()
    gc.disable()
    try:
        for wrong in ({"text": 1, "inner": {"count": "x"}}, {"inner": [{}]}, [], {"nope": [1.5] * 1000}):
            with contextlib.suppress(DecodeError):
                codec.decode(wrong, Outer)
                raise AssertionError("it was taken")
        assert gc.collect() == 0
    finally:
        gc.enable()
