"""The form of a tool server's question: the flat JSON Schema that the protocol allows there, and what fits it.

An object of strings, numbers, booleans, choices, and lists of choices, none inside another. What a server says of a
string's pattern or format is not judged: a pattern may take for ever, and the server looks at the answer itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs

from engine.codec import Json

Kind = Literal["string", "number", "integer", "boolean", "list"]

_KINDS: Final[Mapping[str, Kind]] = {
    "string": "string", "number": "number", "integer": "integer", "boolean": "boolean", "array": "list",
}  # fmt: skip
# What bounds a value of a kind: the words of the schema for the least and the most.
_BOUNDS: Final[Mapping[Kind, tuple[str, str]]] = {
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum"),
    "integer": ("minimum", "maximum"),
    "list": ("minItems", "maxItems"),
}
_SAYS: Final[Mapping[Kind, str]] = {
    "string": "a text", "number": "a number", "integer": "a whole number", "boolean": "true or false",
    "list": "a list of texts",
}  # fmt: skip
_CHOICES_SHOWN: Final = 10
_NAME_SHOWN: Final = 100


class BadForm(ValueError):
    """The schema is not one that a question may have; the text says why, for the server."""


@attrs.frozen(slots=True, kw_only=True)
class Field:
    """`least` and `most` bound the number, the characters of the text or the length of the list. `choices` are what a
    text, or each of a list, may be."""

    name: str
    kind: Kind
    required: bool
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] | None = None

    def mistake(self, value: Json) -> str | None:
        """What is wrong with the value."""
        if not self._is_of_kind(value):
            return f"expected {_SAYS[self.kind]}"
        if self.choices is not None:
            for one in value if isinstance(value, list) else [value]:
                if one not in self.choices:
                    more = ", …" if len(self.choices) > _CHOICES_SHOWN else ""
                    return f"expected one of {', '.join(self.choices[:_CHOICES_SHOWN])}{more}"
        size = value if self.kind in ("number", "integer") else len(value) if self.kind != "boolean" else None
        if size is None:
            return None
        unit = {"string": " characters", "list": " of them"}.get(self.kind, "")
        if self.least is not None and size < self.least:
            return f"expected at least {self.least:g}{unit}"
        if self.most is not None and size > self.most:
            return f"expected at most {self.most:g}{unit}"
        return None

    def _is_of_kind(self, value: Json) -> bool:
        match self.kind:
            case "string":
                return isinstance(value, str)
            case "boolean":
                return isinstance(value, bool)
            case "integer":
                return isinstance(value, int) and not isinstance(value, bool)
            case "number":
                return isinstance(value, int | float) and not isinstance(value, bool)
            case "list":
                return isinstance(value, list) and all(isinstance(one, str) for one in value)


@attrs.frozen(slots=True)
class Form:
    fields: tuple[Field, ...]

    def mistakes(self, content: Json) -> list[tuple[str, str]]:
        """What is wrong with the content, as (field, message)."""
        if not isinstance(content, dict):
            return [("", "expected an object")]
        known = {field.name for field in self.fields}
        found = [(name[:_NAME_SHOWN], "is not asked for") for name in content if name not in known]
        for field in self.fields:
            if field.name in content:
                mistake = field.mistake(content[field.name])
                if mistake is not None:
                    found.append((field.name[:_NAME_SHOWN], mistake))
            elif field.required:
                found.append((field.name[:_NAME_SHOWN], "is needed"))
        return found


def parse_form(schema: Json) -> Form:
    """Raises BadForm."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise BadForm("the schema is not one of an object")
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise BadForm("its properties are not an object, or what is required is not a list")
    for name in required:
        if not isinstance(name, str) or name not in properties:
            raise BadForm("something is required that is not among its properties")
    return Form(tuple(_field(name, given, name in required) for name, given in properties.items()))


def _field(name: str, given: Any, required: bool) -> Field:
    kind = _KINDS.get(str(given.get("type"))) if isinstance(given, dict) else None
    shown = name[:_NAME_SHOWN]
    if kind is None:
        raise BadForm(f"{shown!r} is none of a string, number, integer, boolean or a list of choices")
    choices: tuple[str, ...] | None = None
    if kind == "string":
        choices = _choices(shown, given, "oneOf")
    elif kind == "list":
        items = given.get("items")
        choices = _choices(shown, items, "anyOf") if isinstance(items, dict) else None
        if choices is None:
            raise BadForm(f"{shown!r} is a list of something else than choices")
    least, most = (_bound(shown, given, word) for word in _BOUNDS.get(kind, ("", "")))
    return Field(name=name, kind=kind, required=required, least=least, most=most, choices=choices)


def _choices(name: str, given: Mapping[str, Any], titled: str) -> tuple[str, ...] | None:
    """As `enum`, or with titles as `titled` [{const, title}]."""
    choices = given.get("enum")
    if choices is None and titled in given:
        choices = given[titled]
        if isinstance(choices, list):
            choices = [one.get("const") if isinstance(one, dict) else None for one in choices]
    if choices is None:
        return None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) for one in choices):
        raise BadForm(f"the choices of {name!r} are not texts")
    return tuple(choices)


def _bound(name: str, given: Mapping[str, Any], word: str) -> float | None:
    bound = given.get(word) if word else None
    if bound is None:
        return None
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise BadForm(f"{word} of {name!r} is not a number")
    return bound
