"""Text on the way to a terminal or a pipe.

What models, tools and titles say is hostile to a terminal: escape sequences could change what was printed before, or
type. On a terminal they are shown, not obeyed; a pipe gets the text as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TextIO

_KEPT: Final = "\n\t"


def _table() -> dict[int, str | None]:
    table: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20)}  # pictures such as ␛
    table |= {0x7F: "␡", 0x0D: None}  # a return could overwrite its line; before a line feed it says nothing
    table |= dict.fromkeys(range(0x80, 0xA0), "\ufffd")  # the same controls once more, in one character
    # Marks that turn the direction of what follows make text look like other text.
    table |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x061C, 0x200E, 0x200F), "\ufffd")
    for kept in _KEPT:
        del table[ord(kept)]
    return table


_NEUTRAL: Final = _table()


def neutral(text: str) -> str:
    """The text without anything that a terminal obeys; lines and tabs stay. Piece by piece or whole is the same."""
    return text.translate(_NEUTRAL)


def shown(text: str, stream: TextIO) -> str:
    """The text as it may be written to this stream."""
    return neutral(text) if stream.isatty() else text


def line(text: str, width: int) -> str:
    """One line of at most `width` columns, the cut marked."""
    text = " ".join(neutral(text).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def say(text: str) -> None:
    """A line on standard output."""
    print(shown(text, sys.stdout))


def note(text: str) -> None:
    """A line for people, on standard error; nobody has to read it."""
    with contextlib.suppress(OSError):
        print(shown(text, sys.stderr), file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=not _is_unicode(sys.stdout)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they have to be; the last one takes what is left."""
    lines = [heads, *rows]
    widths = [max(_width(row[column]) for row in lines) for column in range(len(heads) - 1)]
    for row in lines:
        cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=False)]
        say("  ".join([*cells, row[-1]]).rstrip())


def when(milliseconds: int) -> str:
    """A time of the wire in local time."""
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def columns() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 120


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _is_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")
