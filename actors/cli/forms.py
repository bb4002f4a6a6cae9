"""The form of a tool's question, filled in on a terminal, one line a field."""

from __future__ import annotations

from typing import Any, Final

from actors.cli.lines import Lines
from actors.cli.output import line, note
from actors.terminal.forms import form_of, prompt, take
from engine.mcp.forms import Form

__all__ = ["fill", "form_of"]

_COLUMNS: Final = 400


async def fill(lines: Lines, form: Form, schema: Any) -> dict[str, Any] | None:
    """What the person gives, which fits the form; None if the input has ended. A line without anything leaves a field
    at its default, or out."""
    content: dict[str, Any] = {}
    for field in form.fields:
        about = schema["properties"][field.name]
        while True:
            note(line(prompt(field, about), _COLUMNS))
            text = await lines.read()
            if text is None:
                return None
            given, mistake = take(field, about, text)
            if mistake is None:
                if given is not None:
                    content[field.name] = given
                break
            note(f"[{mistake}]")
    return content
