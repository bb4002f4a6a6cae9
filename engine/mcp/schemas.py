"""Whether a tool server's input schema can be shown to a model's service, which refuses a whole request for one that
is no JSON Schema: the shape of its words is looked at, not what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from engine.codec import Json

_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_SHOWN: Final = 40


def schema_fault(schema: Json) -> str | None:
    """What is wrong with it as the schema of a tool's input, as the end of "its schema …"; None if nothing is."""
    if not isinstance(schema, dict):
        return "is not an object"
    if schema.get("type", "object") != "object":
        return "is not one of an object"
    return _fault(schema)


def _fault(schema: Json) -> str | None:
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        return "has something that is no schema where one belongs"
    for word, value in schema.items():
        fits = _WORDS.get(word)
        if fits is not None and not fits(value):
            return f"has a {word[:_SHOWN]!r} that cannot be"
        inner: list[Any] = []
        if word in _MAPS:
            inner = list(value.values())
        elif word in _LISTS:
            inner = value
        elif word in _ONES:
            inner = value if isinstance(value, list) else [value]
        for one in inner:
            fault = _fault(one)
            if fault is not None:
                return fault
    return None


def _is_type(value: Json) -> bool:
    types = value if isinstance(value, list) else [value]
    return bool(types) and all(isinstance(one, str) and one in _TYPES for one in types)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Json) -> bool:
    return _is_number(value) and value >= 0


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


# Words whose values hold schemas: by name, in a list, or as one (`items` may be a list too).
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES: Final = (
    "items", "additionalProperties", "additionalItems", "not", "contains", "propertyNames", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_WORDS: Final[Mapping[str, Callable[[Json], bool]]] = {
    "type": _is_type,
    "required": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "enum": lambda value: isinstance(value, list) and bool(value),
    **dict.fromkeys(_MAPS, lambda value: isinstance(value, dict)),
    **dict.fromkeys(_LISTS, lambda value: isinstance(value, list) and bool(value)),
    **dict.fromkeys(("description", "title", "format", "pattern", "$ref", "$schema", "$id"), _is_text),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_size),
}
