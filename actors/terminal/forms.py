"""The form of a tool's question: what to ask for each field, and what was typed as a value of it."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Final

from engine.codec import Json
from engine.mcp.forms import BadForm, Field, Form, parse_form

_TRUE: Final = frozenset({"y", "yes", "true", "1"})
_FALSE: Final = frozenset({"n", "no", "false", "0"})
_KINDS: Final = {
    "string": "text", "number": "number", "integer": "whole number", "boolean": "yes or no", "list": "a, b, …",
}  # fmt: skip


def form_of(schema: Json) -> Form:
    """Of a question that the daemon has asked; empty for one that this version cannot show."""
    try:
        return parse_form(schema)
    except BadForm:
        return Form(())


def prompt(field: Field, about: dict[str, Any]) -> str:
    """What is asked; `about` is the field's own schema. Text of others: to be cleaned before it is shown."""
    title = about.get("title") or field.name
    said = about.get("description")
    wanted = [_KINDS[field.kind] if field.choices is None else f"one of {', '.join(field.choices)}"]
    if field.kind == "list":
        wanted = [f"any of {', '.join(field.choices or ())}"]
    if not field.required:
        wanted.append("may be left out")
    default = f" [{about['default']}]" if "default" in about else ""
    return f"{title}{f': {said}' if said else ''} ({'; '.join(wanted)}){default}:"


def take(field: Field, about: dict[str, Any], text: str) -> tuple[Json, str | None]:
    """The value of what was typed (None: it is left out), and what is wrong with it. Nothing typed is the default."""
    given: Json = value(field, text) if text else about.get("default")
    if given is None:
        return None, "is needed" if field.required else None
    return given, field.mistake(given)


def value(field: Field, text: str) -> Json:
    """What was typed, as a value of the field's kind; as text if it is none."""
    word = text.strip()
    match field.kind:
        case "boolean" if word.lower() in _TRUE | _FALSE:
            return word.lower() in _TRUE
        case "list":
            return [part.strip() for part in word.split(",") if part.strip()]
        case "integer" | "number":
            for number in (int, float):
                with contextlib.suppress(ValueError):
                    found = number(word)
                    return found if math.isfinite(found) else word
    return text if field.kind == "string" and field.choices is None else word
