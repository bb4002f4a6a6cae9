"""Input schemas of a tool server: what a model's service would refuse."""

from __future__ import annotations

from typing import Any

import pytest

from engine.mcp.schemas import schema_fault


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False, "$schema": "draft"},
        {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "where", "minLength": 1, "default": None},
                "mode": {"enum": ["a", 1, None]},
                "many": {"type": "array", "items": {"type": ["number", "null"]}, "maxItems": 3},
                "pair": {"type": "array", "items": [{"type": "string"}, True]},
                "either": {"anyOf": [{"$ref": "#/$defs/x"}, {"not": {}}]},
                "type": {"type": "string"},
            },
            "$defs": {"x": {"type": "object", "properties": {"required": {"type": "boolean"}}}},
            "x-of-theirs": {"type": 7},
        },
    ],
)
def test_what_can_be_shown(schema: Any) -> None:
    assert schema_fault(schema) is None


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (None, "not an object"),
        (True, "not an object"),
        ([], "not an object"),
        ("object", "not an object"),
        ({"type": "array"}, "not one of an object"),
        ({"type": ["object"]}, "not one of an object"),
        ({"properties": []}, "'properties'"),
        ({"required": "path"}, "'required'"),
        ({"required": [1]}, "'required'"),
        ({"properties": {"a": "string"}}, "no schema"),
        ({"properties": {"a": {"type": "text"}}}, "'type'"),
        ({"properties": {"a": {"type": []}}}, "'type'"),
        ({"properties": {"a": {"type": [{}]}}}, "'type'"),
        ({"properties": {"a": {"enum": "x"}}}, "'enum'"),
        ({"properties": {"a": {"items": 3}}}, "no schema"),
        ({"properties": {"a": {"items": [3]}}}, "no schema"),
        ({"properties": {"a": {"anyOf": []}}}, "'anyOf'"),
        ({"properties": {"a": {"anyOf": [{"minimum": "1"}]}}}, "'minimum'"),
        ({"properties": {"a": {"maxLength": -1}}}, "'maxLength'"),
        ({"properties": {"a": {"description": {}}}}, "'description'"),
        ({"$defs": {"a": {"allOf": {}}}}, "'allOf'"),
    ],
)
def test_what_cannot(schema: Any, says: str) -> None:
    fault = schema_fault(schema)
    assert fault is not None and says in fault
