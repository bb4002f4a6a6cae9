"""Forms of questions: which schemas are flat, and which contents fit them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.mcp.forms import BadForm, parse_form


def form(required: list[str] | None = None, **properties: Any) -> Any:
    return parse_form({"type": "object", "properties": properties, "required": required or []})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ({"type": "string"}, ["", "é" * 1000], [1, None, True, ["x"], {}]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc", "漢字"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^(a+)+$", "format": "email"}, ["a" * 60 + "!"], [2]),
        ({"type": "string", "enum": ["red", "green"]}, ["red"], ["blue", ["red"], ""]),
        ({"type": "string", "oneOf": [{"const": "r", "title": "Red"}]}, ["r"], ["Red"]),
        ({"type": "integer", "minimum": 1, "maximum": 9}, [1, 9], [0, 10, 1.5, "1", True]),
        ({"type": "number", "minimum": 0.5}, [0.5, 2], [0.4, False, "1"]),
        ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 1}, [[], ["b"]], [["a", "b"], ["c"], "a"]),
        ({"type": "array", "minItems": 1, "items": {"anyOf": [{"const": "a", "title": "A"}]}}, [["a"]], [[], [1]]),
    ],
)  # fmt: skip
def test_what_fits_a_field(field: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    one = form(value=field)
    for value in good:
        assert one.mistakes({"value": value}) == []
    for value in bad:
        ((path, message),) = one.mistakes({"value": value})
        assert path == "value" and message.startswith("expected")


def test_every_mistake_is_named_by_its_field() -> None:
    asked = form(["name", "age"], name={"type": "string"}, age={"type": "integer"}, note={"type": "string"})
    assert asked.mistakes({"age": "old", "colour": "red"}) == [
        ("colour", "is not asked for"),
        ("name", "is needed"),
        ("age", "expected a whole number"),
    ]
    assert asked.mistakes({"name": "x", "age": 3}) == []
    assert asked.mistakes([1]) == [("", "expected an object")]
    assert parse_form({"type": "object"}).mistakes({}) == []


@pytest.mark.parametrize(
    "schema",
    [
        None, [], "object", {}, {"type": "array"}, {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": "a"},
        {"type": "object", "properties": {}, "required": ["a"]},
        {"type": "object", "properties": {}, "required": [{}]},
        {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": "string"}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": []}}},
        {"type": "object", "properties": {"a": {"type": "string", "oneOf": ["x"]}}},
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": "9"}}},
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": True}}},
    ],
)  # fmt: skip
def test_what_is_no_form(schema: Any) -> None:
    with pytest.raises(BadForm):
        parse_form(schema)
