"""Styled lines as plain strings: compact to keep, quick to cut, and nothing in them that a terminal obeys.

A line is a `str` in which MARK and two ASCII characters say the style of what follows: chr(ROLE_BASE + role) and
chr(ATTR_BASE + attributes). A line begins in style 0. MARK is a control character, and none comes out of
`cells.clean`, which all text passes: a mark in a line is always ours.

A client turns a line into what it draws with by `segments` (Textual: one style each), `plain` (copy, dumb terminals)
or `ansi` (a terminal, by the colours of a theme).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final

import attrs

Run = tuple[str, int]  # text and its style

MARK: Final = "\x01"
ROLE_BASE: Final = 0x30
ATTR_BASE: Final = 0x40
_ATTR_BITS: Final = 4
_ATTR_MASK: Final = (1 << _ATTR_BITS) - 1


class Attr(IntFlag):
    BOLD = 1
    ITALIC = 2
    STRIKE = 4
    UNDERLINE = 8


class Role(IntEnum):
    """What a piece of text is; a theme says how that looks."""

    TEXT = 0
    HEADING = 1
    CODE = 2
    LINK = 3
    URL = 4
    MARKER = 5  # of lists
    QUOTE = 6
    RULE = 7  # and the borders of tables
    KEYWORD = 8
    STRING = 9
    COMMENT = 10
    NUMBER = 11
    ADDED = 12
    REMOVED = 13
    USER = 14
    REASONING = 15
    TOOL = 16
    NOTICE = 17
    SPINNER = 18


def style(role: Role, attributes: int = 0) -> int:
    return role << _ATTR_BITS | attributes


TEXT: Final = style(Role.TEXT)


def role_of(value: int) -> Role:
    return Role(value >> _ATTR_BITS)


def attributes_of(value: int) -> Attr:
    return Attr(value & _ATTR_MASK)


# ------------------------------------------------------------------ lines
_MARKS: Final = {
    role << _ATTR_BITS | bits: f"{MARK}{chr(ROLE_BASE + role)}{chr(ATTR_BASE + bits)}"
    for role in Role
    for bits in range(1 << _ATTR_BITS)
}


def encode(runs: Iterable[Run]) -> str:
    """The line of these runs. Their text is clean (see `cells.clean`) and has no newline."""
    pieces: list[str] = []
    current = TEXT
    for text, value in runs:
        if text:
            if value != current:
                pieces.append(_MARKS[value])
                current = value
            pieces.append(text)
    return "".join(pieces)


def segments(line: str) -> list[Run]:
    """The runs of a line, in order; neighbours differ in style."""
    first, *rest = line.split(MARK)
    found = [(first, TEXT)] if first else []
    for piece in rest:
        value = (ord(piece[0]) - ROLE_BASE) << _ATTR_BITS | (ord(piece[1]) - ATTR_BASE)
        found.append((piece[2:], value))
    return found


def plain(line: str) -> str:
    """The text alone."""
    first, *rest = line.split(MARK)
    return first + "".join(piece[2:] for piece in rest)


# ------------------------------------------------------------------ themes
@attrs.frozen(slots=True, kw_only=True)
class Theme:
    """How lines are drawn: the glyphs are in the lines, so that `name` is part of what they are kept under; colours
    are applied by `ansi`. `colours` are SGR parameters by role. Each glyph is one cell wide."""

    name: str
    colours: Mapping[Role, str]
    bullets: str = "•◦▪"
    boxes: str = "☐☑"  # of a task that is open, that is done
    bar: str = "│"
    rule: str = "─"
    cross: str = "┼"
    more: str = "…"


_DARK: Final = {
    Role.HEADING: "38;5;117", Role.CODE: "38;5;180", Role.LINK: "38;5;75", Role.URL: "38;5;244",
    Role.MARKER: "38;5;244", Role.QUOTE: "38;5;244", Role.RULE: "38;5;240", Role.KEYWORD: "38;5;176",
    Role.STRING: "38;5;114", Role.COMMENT: "38;5;244", Role.NUMBER: "38;5;215", Role.ADDED: "38;5;114",
    Role.REMOVED: "38;5;210", Role.USER: "38;5;117", Role.REASONING: "38;5;246", Role.TOOL: "38;5;250",
    Role.NOTICE: "38;5;215", Role.SPINNER: "38;5;244",
}  # fmt: skip
_LIGHT: Final = {
    Role.HEADING: "38;5;25", Role.CODE: "38;5;94", Role.LINK: "38;5;26", Role.URL: "38;5;243",
    Role.MARKER: "38;5;243", Role.QUOTE: "38;5;243", Role.RULE: "38;5;248", Role.KEYWORD: "38;5;90",
    Role.STRING: "38;5;28", Role.COMMENT: "38;5;243", Role.NUMBER: "38;5;130", Role.ADDED: "38;5;28",
    Role.REMOVED: "38;5;124", Role.USER: "38;5;25", Role.REASONING: "38;5;242", Role.TOOL: "38;5;238",
    Role.NOTICE: "38;5;130", Role.SPINNER: "38;5;243",
}  # fmt: skip
DARK: Final = Theme(name="dark", colours=MappingProxyType(_DARK))
LIGHT: Final = Theme(name="light", colours=MappingProxyType(_LIGHT))
# For terminals that know neither colours nor Unicode.
ASCII: Final = Theme(
    name="ascii", colours=MappingProxyType({}), bullets="*-+", boxes=".x", bar="|", rule="-", cross="+", more="~"
)
THEMES: Final = MappingProxyType({theme.name: theme for theme in (DARK, LIGHT, ASCII)})

_SGR: Final = ((Attr.BOLD, "1"), (Attr.ITALIC, "3"), (Attr.UNDERLINE, "4"), (Attr.STRIKE, "9"))


def ansi(line: str, theme: Theme) -> str:
    """The line for a terminal; ends in the terminal's own style. The escape sequences are made here, from the theme
    alone. A theme without colours gives plain text."""
    if MARK not in line or not theme.colours:
        return plain(line)
    pieces = []
    for text, value in segments(line):
        bits = attributes_of(value)
        codes = [code for bit, code in _SGR if bits & bit]
        colour = theme.colours.get(role_of(value))
        if colour:
            codes.append(colour)
        pieces.append(f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes else text)
    return "".join(pieces)
