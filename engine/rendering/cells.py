"""Text as a terminal shows it: what is safe to show, how many cells it takes, and where a line is broken.

Widths are those of Unicode's tables (unicodedata), a character at a time: wide and full-width ones take two cells,
combining and format characters none. Where terminals differ, it is the wider way: a sign that is made an emoji (by
U+FE0F) takes two cells, and so does an emoji that these tables do not know yet; of a joined sequence each is counted.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final

from engine.rendering.styles import Run

TAB: Final = 4  # cells
EMOJI_SIGN: Final = "\ufe0f"
# Marks on one character that take no cell of their own; each beyond it counts as one, so that a line of marks ends.
MARKS_MAX: Final = 8

# What a terminal obeys, what turns the order of text, and halves of characters: shown as what they are, or as U+FFFD.
# What cannot be seen and only hides things goes.
_SHOWN: Final = {
    **{code: 0x2400 + code for code in range(0x20)},  # control pictures
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
    **dict.fromkeys((0x2028, 0x2029), 0x20),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
    **dict.fromkeys((0x00AD, 0x180E, 0x200B, *range(0x2060, 0x2066), *range(0x206A, 0x2070), 0xFEFF), None),
    **dict.fromkeys(range(0xFFF9, 0xFFFC), None),
    **dict.fromkeys(range(0xE0000, 0xE1000), None),  # tags and variation selectors that no terminal shows
}
UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)


def clean(text: str) -> str:
    """One line's text without anything that a terminal obeys. A tab becomes spaces; a newline does not belong here
    and is shown like any control character."""
    if "\t" in text:
        text = text.expandtabs(TAB)
    return text.translate(_SHOWN) if UNSAFE.search(text) else text


@functools.lru_cache(maxsize=4096)  # of the characters of a few languages; a hostile text may bring all of Unicode
def cell(character: str) -> int:
    """Cells of one clean character."""
    if character == EMOJI_SIGN:
        return 1  # beside that of the sign before it
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf") or "\u1160" <= character <= "\u11ff":
        return 0
    if category == "Cn" and "\U0001f000" <= character <= "\U0001faff":
        return 2
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def width(text: str) -> int:
    """Cells of clean text, as `breaks` counts them."""
    if text.isascii():
        return len(text)
    total = marks = 0
    for character in text:
        cells = cell(character)
        marks = 0 if cells else marks + 1
        total += cells if marks <= MARKS_MAX else 1
    return total


def breaks(text: str, cells: int, *, words: bool = True) -> list[tuple[int, int]]:
    """Where lines of at most so many cells (at least 2) begin and end in this text: at newlines, at spaces (which are
    left out there), else where they are full. `words=False` looks for no spaces: code. At least one line."""
    found: list[tuple[int, int]] = []
    begin = 0
    while True:
        end = text.find("\n", begin)
        stop = len(text) if end < 0 else end
        if text.isascii():
            _ascii(text, begin, stop, cells, words, found)
        else:
            _unicode(text, begin, stop, cells, words, found)
        if end < 0:
            return found
        begin = end + 1


def _ascii(text: str, begin: int, end: int, cells: int, words: bool, found: list[tuple[int, int]]) -> None:
    while end - begin > cells:
        cut = text.rfind(" ", begin, begin + cells + 1) if words else -1
        begin = _break(text, begin, cut, begin + cells, end, found)
    found.append((begin, end))


def _unicode(text: str, begin: int, end: int, cells: int, words: bool, found: list[tuple[int, int]]) -> None:
    used = marks = 0
    cut = -1  # the last place where this line may end
    at = begin
    while at < end:
        character = text[at]
        takes = cell(character)
        marks = 0 if takes else marks + 1
        if marks > MARKS_MAX:
            takes = 1
        if words and at > begin and (character == " " or (takes == 2 and text[at - 1] != "\u200d")):
            cut = at  # before a wide character a line may end without a space
        if used + takes > cells:
            begin = at = _break(text, begin, cut if words else -1, at, end, found)
            used, marks, cut = 0, 0, -1
            continue
        used += takes
        at += 1
    found.append((begin, end))


def _break(text: str, begin: int, cut: int, full: int, end: int, found: list[tuple[int, int]]) -> int:
    """One line from `begin` to `cut` (if something is before it), else to `full`. Returns where the next begins."""
    if cut <= begin or not text[begin:cut].strip(" "):
        found.append((begin, full))
        return full
    last = cut
    while text[last - 1] == " ":
        last -= 1
    while cut < end and text[cut] == " ":
        cut += 1
    found.append((begin, last))
    return cut


def wrap(runs: list[Run], cells: int, *, words: bool = True) -> list[list[Run]]:
    """Styled text as lines of at most so many cells: see `breaks`."""
    if len(runs) == 1:
        text, value = runs[0]
        return [[(text[begin:end], value)] for begin, end in breaks(text, cells, words=words)]
    lines: list[list[Run]] = []
    which = start = 0  # the run that is looked at, and where it begins in the whole
    for begin, end in breaks("".join(text for text, _ in runs), cells, words=words):
        line: list[Run] = []
        while which < len(runs):
            text, value = runs[which]
            piece = text[max(begin - start, 0) : end - start] if end > start else ""
            if piece:
                line.append((piece, value))
            if start + len(text) > end:
                break
            start += len(text)
            which += 1
        lines.append(line)
    return lines
