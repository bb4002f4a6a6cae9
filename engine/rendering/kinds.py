"""The kinds of entries that a transcript is shown as, and how each becomes lines when it is finished."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import attrs

from engine.rendering.cells import clean, width, wrap
from engine.rendering.markdown import FEED, WIDTH_MIN, Markdown
from engine.rendering.styles import TEXT, Attr, Role, Run, Theme, encode, style

Kind = Literal["user", "assistant", "reasoning", "tool", "notice"]


@attrs.frozen(slots=True, kw_only=True)
class Look:
    """`markdown`: the text is Markdown, and may stream. `top`: an entry of its own, not a part of a stream."""

    lead: Run = ("", TEXT)
    base: int = TEXT
    markdown: bool = False
    top: bool = True


LOOKS: Final[dict[Kind, Look]] = {
    "user": Look(lead=("> ", style(Role.USER)), base=style(Role.USER)),
    "assistant": Look(markdown=True),
    "reasoning": Look(
        lead=(": ", style(Role.REASONING)), base=style(Role.REASONING, Attr.ITALIC), markdown=True, top=False
    ),
    "tool": Look(lead=("  ", style(Role.TOOL)), base=style(Role.TOOL)),
    "notice": Look(base=style(Role.NOTICE)),
}

# Colours and titles that programs print: what is well-formed goes unseen, the rest is made visible by `clean`.
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)|\x1b[()][0-9A-Za-z]|\x1b[=>78cM]"
)


def renderer(kind: Kind, cells: int, theme: Theme) -> Markdown:
    """For a text that streams."""
    look = LOOKS[kind]
    return Markdown(cells, theme, lead=look.lead, base=look.base)


def render(kind: Kind, text: str, cells: int, theme: Theme) -> list[str]:
    """All lines of a text, by means that are gone afterwards."""
    return list(rendered(kind, text, cells, theme))


def rendered(kind: Kind, text: str, cells: int, theme: Theme) -> Iterator[str]:
    """The same, a line at a time: those that are not kept are in memory no more than FEED characters' worth at once."""
    look = LOOKS[kind]
    if not look.markdown:
        yield from _plain_lines(text, cells, look.lead, look.base)
        return
    transient = renderer(kind, cells, theme)
    for at in range(0, len(text), FEED):
        transient.feed(text[at : at + FEED])
        yield from transient.stable
        transient.forget(len(transient.stable))
    yield from transient.tail()


def plain_lines(text: str, cells: int, lead: Run = ("", TEXT), base: int = TEXT) -> list[str]:
    """A text that is no Markdown (what a person wrote, what a tool printed), at most `cells` wide (at least WIDTH_MIN).
    A carriage return begins a line: nothing is written over."""
    return list(_plain_lines(text, cells, lead, base))


def _plain_lines(text: str, cells: int, lead: Run, base: int) -> Iterator[str]:
    room = max(cells, WIDTH_MIN) - width(lead[0])
    text = _SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    if text:
        for row in text.split("\n"):
            for line in wrap([(clean(row), base)], room):
                yield encode([lead, *line])
