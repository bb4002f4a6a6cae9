"""Lines of the rendering rules as Textual's strips: a style for each role, and never any markup."""

from __future__ import annotations

import functools
from typing import Final

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.color import Color as TextualColor
from textual.filter import LineFilter
from textual.strip import Strip

from engine.rendering.styles import (
    DARK,
    LIGHT,
    Attr,
    Theme,
    attributes_of,
    plain,
    role_of,
    segments,
)

# Textual's themes, and what the transcript is drawn in with each.
THEMES: Final[dict[str, Theme]] = {"textual-dark": DARK, "textual-light": LIGHT}


@functools.cache  # 19 roles by 16 attributes by two themes
def style_of(value: int, theme_name: str) -> Style:
    theme = LIGHT if theme_name == LIGHT.name else DARK
    sgr = theme.colours.get(role_of(value), "")
    number = sgr.rpartition(";")[2]
    bits = attributes_of(value)
    return Style(
        color=Color.from_ansi(int(number)) if number else None,
        bold=bool(bits & Attr.BOLD) or None,
        italic=bool(bits & Attr.ITALIC) or None,
        strike=bool(bits & Attr.STRIKE) or None,
        underline=bool(bits & Attr.UNDERLINE) or None,
    )


def strip_of(line: str, theme: Theme) -> Strip:
    return Strip([Segment(text, style_of(value, theme.name)) for text, value in segments(line)])


def plain_of(line: str) -> str:
    return plain(line)


class NoColours(LineFilter):
    """For NO_COLOR: what stands out by its background is shown reversed."""

    STANDS_OUT: Final = 0.25  # of brightness, from the background of the screen

    def apply(self, segments: list[Segment], background: TextualColor) -> list[Segment]:
        return [Segment(text, style and self._without(style, background), control) for text, style, control in segments]

    def _without(self, style: Style, background: TextualColor) -> Style:
        reverse = style.reverse
        if style.bgcolor is not None and not style.bgcolor.is_default:
            brightness = TextualColor.from_rich_color(style.bgcolor).brightness
            reverse = reverse or abs(brightness - background.brightness) > self.STANDS_OUT
        # A new style: one to which none is added keeps the colours. Its meta says what is clicked and marked.
        plain = Style(
            bold=style.bold, italic=style.italic, strike=style.strike, underline=style.underline, reverse=reverse
        )
        return plain + Style.from_meta(style.meta) if style.meta else plain
