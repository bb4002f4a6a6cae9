"""Markdown within a block: emphasis, code, links, entities. Text in, styled pieces out; linear in the text.

Emphasis follows CommonMark's flanking rules; what is not closed stays as it was written. Marks may overlap
(`*a _b* c_`): each stretches over its own range. An address is always shown beside the text of its link, so that
none leads where it does not say; nothing is made clickable here.
"""

from __future__ import annotations

import html
import re
import string
from collections.abc import Iterator
from typing import Final

from engine.rendering.cells import clean
from engine.rendering.styles import Attr, Role, Run, attributes_of, style

_SPECIAL: Final = re.compile(r"[\\`*_~\[\]!<&]|https?://")
_PUNCTUATION: Final = frozenset(string.punctuation)
# The address in <> or with balanced brackets one deep, and an optional title. What is taken is not given back (`*+`):
# a thousand spaces are read once.
_TARGET: Final = re.compile(
    r"""\(\s*+(?:<([^<>]*+)>|([^\s()<]*+(?:\([^\s()]*+\)[^\s()]*+)*+))(?:\s++(?:(?:"[^"]*+"|'[^']*+')\s*+)?+)?+\)"""
)
_AUTOLINK: Final = re.compile(r"<([a-zA-Z][a-zA-Z0-9+.-]{1,31}:[^\s<>]*|[^\s<>@]+@[^\s<>@]+)>")
_BARE: Final = re.compile(r"https?://[^\s<>\"'`\[\]]+")
_ENTITY: Final = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});")
_TICKS: Final = re.compile(r"`+")
_BITS: Final = {("*", 1): Attr.ITALIC, ("*", 2): Attr.BOLD, ("_", 1): Attr.ITALIC, ("_", 2): Attr.BOLD,
                ("~", 2): Attr.STRIKE}  # fmt: skip
OPENERS_SEEN: Final = 4
Piece = tuple[str, int, str | None]  # text, its style, where it leads
_BARE_END: Final = ".,;:!?*_~"


class _Mark:
    """A run of `*`, `_` or `~` at a place of the output: as many as are left are text. `both`: it opens and closes."""

    __slots__ = ("at", "both", "count", "left", "sign")

    def __init__(self, sign: str, count: int, at: int, both: bool) -> None:
        self.sign, self.count, self.at, self.both = sign, count, at, both
        self.left = count

    def fits(self, closer: _Mark) -> bool:
        """CommonMark's rule of three, by which `**a*b*c**` is what is meant."""
        if not (self.both or closer.both) or (self.count + closer.count) % 3:
            return True
        return not self.count % 3 and not closer.count % 3


class _Scan:
    def __init__(self, text: str, base: int) -> None:
        self.text, self.base = text, base
        self.nodes: list[str | _Mark] = []
        self.styles: list[int] = []
        self.openers: dict[str, list[_Mark]] = {"*": [], "_": [], "~": []}
        self.ranges: list[tuple[int, int, int]] = []  # nodes from, to, and the attribute over them
        self.brackets: list[tuple[int, bool]] = []  # node of a `[`, and whether it is an image's
        self.unclosed: set[int] = set()  # lengths of backtick runs that nothing closes
        self.addresses: dict[int, str] = {}  # where nodes lead

    def add(self, text: str, value: int | None = None) -> None:
        if text:
            self.nodes.append(text)
            self.styles.append(self.base if value is None else value)

    def lead(self, text: str, address: str, role: Role) -> None:
        if text:
            self.addresses[len(self.nodes)] = address
            self.add(text, self.role(role))

    def role(self, role: Role) -> int:
        return style(role, attributes_of(self.base))

    def scan(self) -> Iterator[Piece]:
        at = 0
        while found := _SPECIAL.search(self.text, at):
            self.add(self.text[at : found.start()])
            at = self.special(found.start())
        self.add(self.text[at:])
        return self.result()

    def special(self, at: int) -> int:
        """What begins here, and where it ends."""
        text = self.text
        sign = text[at]
        if sign in "*_~":
            return self.mark(at, sign)
        if sign == "`":
            return self.code(at)
        if sign == "\\":
            if text[at + 1 : at + 2] in _PUNCTUATION:
                self.add(text[at + 1])
                return at + 2
        elif sign == "[" or text.startswith("![", at):
            self.brackets.append((len(self.nodes), sign == "!"))
            self.add("[" if sign == "[" else "![")
            return at + (1 if sign == "[" else 2)
        elif sign == "]":
            return self.link(at)
        elif sign == "<" and (found := _AUTOLINK.match(text, at)):
            self.lead(found[1], found[1] if ":" in found[1] else f"mailto:{found[1]}", Role.LINK)
            return found.end()
        elif sign == "&" and (found := _ENTITY.match(text, at)):
            self.add(clean(html.unescape(found[0])))  # a control character may be written so
            return found.end()
        elif sign == "h" and (found := _BARE.match(text, at)):
            address = found[0].rstrip(_BARE_END)
            if address.endswith(")") and "(" not in address:
                address = address.rstrip(")").rstrip(_BARE_END)
            self.lead(address, address, Role.LINK)
            return at + len(address)
        self.add(sign)
        return at + 1

    def code(self, at: int) -> int:
        found = _TICKS.match(self.text, at)
        assert found is not None  # it begins with one
        count, begin = len(found[0]), found.end()
        if count not in self.unclosed:
            for closing in _TICKS.finditer(self.text, begin):
                if len(closing[0]) == count:
                    inner = self.text[begin : closing.start()].replace("\n", " ")
                    if inner.strip(" ") and inner[0] == inner[-1] == " ":
                        inner = inner[1:-1]
                    self.add(inner, self.role(Role.CODE))
                    return closing.end()
            self.unclosed.add(count)
        self.add(found[0])
        return begin

    def link(self, at: int) -> int:
        if not self.brackets:
            self.add("]")
            return at + 1
        node, image = self.brackets.pop()
        found = _TARGET.match(self.text, at + 1)
        if found is None:
            self.add("]")
            return at + 1
        address = found[1] if found[1] is not None else found[2]
        label = "".join(part for part in self.nodes[node + 1 :] if isinstance(part, str))
        self.nodes[node] = "image: " if image else ""
        for number in range(node + 1, len(self.nodes)):
            self.styles[number] = style(Role.LINK, attributes_of(self.styles[number]))
            self.addresses[number] = address
        if not label:
            self.lead(clean(address), address, Role.URL)
        elif address and address != label:
            self.add(f" ({clean(address)})", self.role(Role.URL))
        self.brackets.clear()  # no links in links
        return found.end()

    def mark(self, at: int, sign: str) -> int:
        text, end = self.text, at
        while end < len(text) and text[end] == sign:
            end += 1
        before, after = text[at - 1 : at] or " ", text[end : end + 1] or " "
        left = not after.isspace() and (not _is_punctuation(after) or before.isspace() or _is_punctuation(before))
        right = not before.isspace() and (not _is_punctuation(before) or after.isspace() or _is_punctuation(after))
        opens, closes = left, right
        if sign == "_":  # not within words
            opens = left and (not right or _is_punctuation(before))
            closes = right and (not left or _is_punctuation(after))
        made = _Mark(sign, end - at, len(self.nodes), opens and closes)
        if closes:
            self.close(made)
        self.nodes.append(made)
        self.styles.append(self.base)
        if opens and made.left:
            self.openers[sign].append(made)
        return end

    def close(self, closer: _Mark) -> None:
        stack = self.openers[closer.sign]
        while closer.left and stack:
            # Not far down: what is deeper is rare, and a search through all is not linear.
            opener = next((mark for mark in stack[: -1 - OPENERS_SEEN : -1] if mark.fits(closer)), None)
            if opener is None:
                return
            while stack[-1] is not opener:
                stack.pop()
            used = 2 if opener.left >= 2 and closer.left >= 2 else 1
            bit = _BITS.get((closer.sign, used))
            if bit is None:  # one ~ is no mark
                return
            self.ranges.append((opener.at, closer.at, bit))
            opener.left -= used
            closer.left -= used
            if not opener.left or (closer.sign == "~" and opener.left < 2):
                stack.pop()

    def result(self) -> Iterator[Piece]:
        changes: dict[int, list[int]] = {}
        for begin, end, bit in self.ranges:
            changes.setdefault(begin, []).append(bit)
            changes.setdefault(end, []).append(-bit)
        depth = dict.fromkeys((1, 2, 4, 8), 0)
        bits = 0
        for number, (node, value) in enumerate(zip(self.nodes, self.styles, strict=True)):
            if number in changes:
                for bit in changes[number]:
                    depth[abs(bit)] += 1 if bit > 0 else -1
                bits = sum(bit for bit, count in depth.items() if count)
            text = node if isinstance(node, str) else node.sign * node.left
            if text:
                yield text, value | bits, self.addresses.get(number)


def _is_punctuation(character: str) -> bool:
    return character in _PUNCTUATION or (
        not character.isascii() and not character.isalnum() and not character.isspace()
    )


def inline(text: str, base: int) -> list[Run]:
    """The runs of clean text, in the style `base` where nothing else is said. `\\n` stays: a hard break."""
    if not _SPECIAL.search(text):
        return [(text, base)] if text else []
    runs: list[Run] = []
    for piece, value, _ in _Scan(text, base).scan():
        if runs and runs[-1][1] == value:
            runs[-1] = (runs[-1][0] + piece, value)
        else:
            runs.append((piece, value))
    return runs


def pieces(text: str) -> Iterator[Piece]:
    """Likewise, with the address to which each piece of a link leads (as it was written: it may be any text)."""
    return _Scan(text, 0).scan() if _SPECIAL.search(text) else iter([(text, 0, None)] if text else [])
