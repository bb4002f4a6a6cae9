"""Lines of the log: one record as text for people, or as one JSON object for programs.

Nothing in a record can forge another line or reach a terminal: control characters are written as escapes, and the
lines of a traceback are set in. The parts are bounded, so that a line is; secrets have been taken out before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs
import orjson

Form = Literal["text", "json"]

# Characters. A message says what happened; what is longer is data that has no place in a log.
MESSAGE_MAX: Final = 4 * 1024
# Of an exception's text; its beginning and, more of it, its end are kept: there it says what it is.
ERROR_MAX: Final = 16 * 1024
# Of one value of the context: ids, names.
VALUE_MAX: Final = 256
# Bytes of the largest line: each character at its longest in UTF-8, or escaped in JSON, and the rest of the line.
LINE_MAX: Final = 4 * (MESSAGE_MAX + ERROR_MAX) + 16 * 1024

_SET_IN: Final = "\n    "


@attrs.frozen(slots=True, kw_only=True)
class Line:
    """`at` is a time as ISO 8601, `context` what it is about, `error` the text of an exception."""

    at: str
    level: str
    logger: str
    message: str
    context: Mapping[str, str] = attrs.field(factory=dict)
    error: str | None = None


def encode(line: Line, form: Form) -> bytes:
    """The line with its end, at most LINE_MAX bytes."""
    return _json(line) if form == "json" else _text(line)


def _text(line: Line) -> bytes:
    context = "".join(f" {name}={_bounded(value, VALUE_MAX)}" for name, value in line.context.items())
    text = f"{line.at} {line.level.upper()} {line.logger}: {_bounded(line.message, MESSAGE_MAX)}{context}"
    if line.error is not None:
        shown = _bounded(line.error, ERROR_MAX, lines=True)
        text += _SET_IN + shown.replace("\n", _SET_IN)
    return text.encode() + b"\n"


def _json(line: Line) -> bytes:
    value: dict[str, str] = {
        "ts": line.at,
        "level": line.level.lower(),
        "logger": line.logger,
        "message": _bounded(line.message, MESSAGE_MAX, lines=True),
    }
    value |= {name: _bounded(text, VALUE_MAX) for name, text in line.context.items()}
    if line.error is not None:
        value["exc"] = _bounded(line.error, ERROR_MAX, lines=True)
    return orjson.dumps(value) + b"\n"


def _bounded(text: str, most: int, *, lines: bool = False) -> str:
    """Printable, and at most `most` characters: a fourth of them from the beginning. `lines`: their ends stay."""
    text = _printable(_cut(text, most), lines)
    return _cut(text, most)  # escapes are longer than what they stand for


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    mark = f"…({len(text) - most} characters)…"
    head = most // 4
    return text[:head] + mark + text[len(text) - (most - head - len(mark)) :]


def _printable(text: str, lines: bool) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or (lines and character == "\n") else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
