"""Titles of sessions: one line for a list, without what would do something to a terminal."""

from __future__ import annotations

import unicodedata
from typing import Final

TITLE_MAX: Final = 200  # characters

# Control characters and halves of surrogate pairs, and characters that change the direction of the text behind them.
_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_title(text: str) -> bool:
    """Whether the text may be a title as it is; the empty one is for none."""
    return len(text) <= TITLE_MAX and not any(map(_is_control, text))


def first_line(text: str, most: int = TITLE_MAX) -> str:
    """The first line with something to be seen in it as a title of at most `most` characters, a cut marked; empty if
    there is none."""
    for line in text.splitlines():
        clean = " ".join("".join(" " if _is_control(c) else c for c in line[: 4 * most]).split())
        if any(unicodedata.category(c)[0] not in "CZ" for c in clean):
            return clean if len(clean) <= most else clean[: most - 1].rstrip() + "…"
    return ""


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CATEGORIES or character in _DIRECTIONS
