"""Patterns of permission rules: globs over a whole value, matched in one pass whatever the pattern and the value.

`*` stands for any text, also for none and across `/` and spaces; `?` for one character; a backslash takes the
meaning of the next character. Unlike engine.tools.glob nothing is a path here. All states of the pattern are kept
in one integer, a bit each, so a character of the value costs a few operations on it and nothing is gone back over.

A value may hold ANY: a place where text will stand that nobody knows yet. `may_match` asks if any text there would
make the value match, `must_match` if every text would.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

# A noncharacter of Unicode, which no text for people has. Who writes it into a value gets what it means here.
ANY: Final = "\U0010ffff"
_SPECIAL: Final = "*?\\"


class Wildcard:
    """One pattern. With `optional_tail` a pattern that ends in ` *` also matches without that blank: `ls *` is `ls`."""

    __slots__ = ("_accepting", "_any_character", "_full", "_loops", "_of", "_pieces", "exact")

    def __init__(self, pattern: str, *, optional_tail: bool = False) -> None:
        """`pattern` is of any text; a backslash at its end stands for itself."""
        self._of: dict[str, int] = {}  # character -> the states that it takes one further
        self._any_character = 0  # the states with `?`
        self._loops = 0  # the states at which a `*` stands
        state = 0
        pieces = [""]  # the texts between the `*`
        position = 0
        while position < len(pattern):
            character = pattern[position]
            position += 1
            if character == "*":
                self._loops |= 1 << state
                pieces.append("")
                continue
            if character == "?":
                self._any_character |= 1 << state
            else:
                if character == "\\" and position < len(pattern):
                    character = pattern[position]
                    position += 1
                self._of[character] = self._of.get(character, 0) | 1 << state
                pieces[-1] += character
            state += 1
        self._full = (1 << state + 1) - 1
        self._accepting = 1 << state
        if optional_tail and pattern.endswith(" *") and self._loops & 1 << state:
            self._accepting |= 1 << state - 1
        # What the pattern says if it is one text without wildcards.
        self.exact: str | None = None if self._loops or self._any_character else pieces[0]
        self._pieces = None if self._any_character or self._accepting & self._accepting - 1 else tuple(pieces)

    def may_match(self, value: str, starts: Collection[int] = (0,)) -> bool:
        """Whether the value, read from one of `starts` to its end, matches for some text in the place of each ANY."""
        return self._run(value, starts, possible=True)

    def must_match(self, value: str) -> bool:
        """Whether the value matches whatever stands in the place of each ANY. (No for a few that would: each ANY has
        to fall to one `*`.)"""
        return self._run(value, (0,), possible=False)

    def _run(self, value: str, starts: Collection[int], *, possible: bool) -> bool:
        if self._pieces is not None and starts == (0,) and ANY not in value:
            return _in_order(self._pieces, value)
        of, any_character, loops = self._of, self._any_character, self._loops
        last_start = max(starts)
        states = 0
        for position, character in enumerate(value):
            if position in starts:
                states |= 1
            if character != ANY:
                states = (states & (of.get(character, 0) | any_character)) << 1 | states & loops
            elif possible:
                states = states and self._full & -(states & -states)  # from the lowest on, all can be reached
            else:
                states &= loops
            if not states and position >= last_start:
                return False
        if len(value) in starts:
            states |= 1
        return bool(states & self._accepting)


def _in_order(pieces: tuple[str, ...], value: str) -> bool:
    """Whether the value is these texts with any text between them: the usual pattern at the speed of str.find, for
    values of a megabyte."""
    if len(pieces) == 1:
        return value == pieces[0]
    first, *middle, last = pieces
    if not value.startswith(first) or not value.endswith(last) or len(value) < len(first) + len(last):
        return False
    at = len(first)
    for piece in middle:
        found = value.find(piece, at, len(value) - len(last))
        if found < 0:
            return False
        at = found + len(piece)
    return True


def escape(text: str) -> str:
    """The pattern that matches this text and nothing else."""
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in text)
