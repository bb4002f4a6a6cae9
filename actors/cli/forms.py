"""The form of a tool's question, filled in on a terminal, one line a field."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Final

from actors.cli.lines import Lines
from actors.cli.output import line, note
from engine.codec import Json
from engine.mcp.forms import BadForm, Field, Form, parse_form

_COLUMNS: Final = 400
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


async def fill(lines: Lines, form: Form, schema: Any) -> dict[str, Any] | None:
    """What the person gives, which fits the form; None if the input has ended. A line without anything leaves a field
    at its default, or out."""
    content: dict[str, Any] = {}
    for field in form.fields:
        about = schema["properties"][field.name]
        while True:
            note(_prompt(field, about))
            text = await lines.read()
            if text is None:
                return None
            value = _value(field, text) if text else about.get("default")
            if value is None and not field.required:
                break
            mistake = "is needed" if value is None else field.mistake(value)
            if mistake is None:
                content[field.name] = value
                break
            note(f"[{mistake}]")
    return content


def _prompt(field: Field, about: dict[str, Any]) -> str:
    title = about.get("title") or field.name
    said = about.get("description")
    wanted = [_KINDS[field.kind] if field.choices is None else f"one of {', '.join(field.choices)}"]
    if field.kind == "list":
        wanted = [f"any of {', '.join(field.choices or ())}"]
    if not field.required:
        wanted.append("may be left out")
    default = f" [{about['default']}]" if "default" in about else ""
    return line(f"{title}{f': {said}' if said else ''} ({'; '.join(wanted)}){default}:", _COLUMNS)


def _value(field: Field, text: str) -> Json:
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
                    value = number(word)
                    return value if math.isfinite(value) else word
    return text if field.kind == "string" and field.choices is None else word
