"""What a model or a tool writes cannot steer the terminal: a table of attacks, each through every kind of entry."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rendering import cells
from engine.rendering.kinds import LOOKS, Kind, render
from engine.rendering.styles import ASCII, DARK, THEMES, ansi, plain
from tests.attacks import ATTACKS

OURS = re.compile(r"\x1b\[[0-9;]+m")


def safe(kind: Kind, text: str) -> list[str]:
    found = []
    for line in render(kind, text, 20, DARK):
        assert not cells.UNSAFE.search(plain(line)), (kind, line)
        assert cells.width(plain(line)) <= 20
        for theme in THEMES.values():
            drawn = ansi(line, theme)
            assert not cells.UNSAFE.search(OURS.sub("", drawn)), drawn
            drawn.encode()
        assert "\x1b" not in ansi(line, ASCII)
        found.append(plain(line))
    return found


@pytest.mark.parametrize("kind", LOOKS)
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_comes_through(name: str, kind: Kind) -> None:
    safe(kind, ATTACKS[name])
    safe(kind, f"before {ATTACKS[name]} after\n\n> - {ATTACKS[name]}")


def test_what_is_neutralised_can_be_seen() -> None:
    assert safe("assistant", "a\x1b[31mb\x07\x9b\u202e\x7f\x00") == ["a␛[31mb␇\ufffd\ufffd␡␀"]
    assert safe("assistant", "safe\revil") == ["safe␍evil"]
    assert safe("tool", "safe\revil") == ["  safe", "  evil"]
    assert safe("assistant", "a\u200b\u2060\ufeff\u00adb") == ["ab"]
    assert safe("assistant", "&#27;&#x202e;[0m") == ["\ufffd[0m"]


def test_the_colours_of_a_tool_go_unseen_and_its_text_stays() -> None:
    assert safe("tool", "\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain\n\x1b(Bend") == ["  red plain", "  end"]
    assert safe("tool", "\x1b\x1b[31m[31mred") == ["  ␛[31mred"]


def test_the_address_of_a_link_is_shown() -> None:
    assert safe("assistant", "[bank](e.vil)") == ["bank (e.vil)"]
    assert safe("assistant", "[b](javascript:x)") == ["b (javascript:x)"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(LOOKS)), st.lists(st.sampled_from(sorted(ATTACKS.values())) | st.text(max_size=6)))
def test_no_mixture_comes_through(kind: Kind, pieces: list[str]) -> None:
    safe(kind, "".join(pieces))


def test_the_table_of_what_is_unsafe_is_complete() -> None:
    """Every control character, half of a character, and whatever turns the order of text."""
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in (*range(0x3000), *range(0xD700, 0xE100), *range(0xFE00, 0x10000), *range(0xE0000, 0xE1000)):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in turns:
            assert cells.UNSAFE.match(character), hex(code)
        if cells.UNSAFE.match(character) and character != "\t":
            assert not cells.UNSAFE.search(cells.clean(character)), hex(code)
