"""What is within a block, as HTML: emphasis, code, links. Text in, balanced HTML out; every character of text passes
`escape`, every address `link_of`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from engine.rendering.inline import pieces
from engine.rendering.styles import Attr, Role, Run, attributes_of, role_of

# What a browser opens in a new page, or in a mail program. All else (`javascript:`, `data:`, `file:`, addresses within
# the daemon) stays text. Visible ASCII or letters beyond it: no space and no control, which a browser would drop.
_SAFE: Final = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x20\x7f\\]+", re.IGNORECASE)
# A mail address that is worth a link: one of a letter on each side is none, and its link would be 17 times as long.
_MAIL: Final = re.compile(r"[^@]+@[^@]+\.[^@.]+", re.ASCII)
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "<br>"})
_ATTRIBUTE: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&quot;"})
_ELEMENTS: Final = ((Attr.STRIKE, "del"), (Attr.BOLD, "strong"), (Attr.ITALIC, "em"))
CODE_CLASSES: Final = MappingProxyType(
    {Role.KEYWORD: "k", Role.STRING: "s", Role.COMMENT: "c", Role.NUMBER: "n", Role.ADDED: "a", Role.REMOVED: "r"}
)


def escape(text: str) -> str:
    """Clean text as HTML; a newline in it is a break."""
    return text.translate(_ESCAPES)


def link_of(address: str) -> str | None:
    """The start tag of a link to this address, which may be any text; None if it is not one to be followed."""
    if not _SAFE.fullmatch(address):
        return None
    if address[:7].lower() == "mailto:" and not _MAIL.fullmatch(address[7:]):
        return None
    # Attributes stand in single quotes: double ones would be escaped again in JSON.
    return f"<a href='{address.translate(_ATTRIBUTE)}' rel='noopener noreferrer' target='_blank'>"


def inline(text: str) -> str:
    """Clean Markdown as HTML; `\\n` is a hard break."""
    out: list[str] = []
    opened: list[str] = []  # start tags, outermost first
    before: tuple[int, str | None] = (0, None)
    for piece, value, address in pieces(text):
        if before != (value, address):
            before = value, address
            _change(opened, _tags(value, address), out)
        out.append(escape(piece))
    _change(opened, (), out)
    return "".join(out)


def code(runs: Iterable[Run]) -> str:
    """A coloured line of code (see `highlight`)."""
    out: list[str] = []
    for text, value in runs:
        name = CODE_CLASSES.get(role_of(value))
        out.append(escape(text) if name is None else f"<span class='{name}'>{escape(text)}</span>")
    return "".join(out)


def _tags(value: int, address: str | None) -> tuple[str, ...]:
    """The start tags around a piece, outermost first."""
    link = None if address is None else link_of(address)
    return _styled(value, False) if link is None else (link, *_styled(value, True))


@functools.cache  # of each style, of which there are 300
def _styled(value: int, linked: bool) -> tuple[str, ...]:
    role, bits = role_of(value), attributes_of(value)
    tags = [f"<{name}>" for bit, name in _ELEMENTS if bits & bit]
    if role is Role.CODE:
        tags.append("<code>")
    elif role is Role.URL and not linked:
        tags.append("<span class='url'>")
    return tuple(tags)


def _change(opened: list[str], wanted: tuple[str, ...], out: list[str]) -> None:
    """End and begin elements so that the wanted ones are open."""
    same = 0
    while same < min(len(opened), len(wanted)) and opened[same] == wanted[same]:
        same += 1
    while len(opened) > same:
        name = opened.pop()[1:-1].partition(" ")[0]
        out.append(f"</{name}>")
    out += wanted[same:]
    opened += wanted[same:]
