"""Titles: one line, nothing in it that a terminal obeys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.transcript.titles import TITLE_MAX, first_line, is_title


@pytest.mark.parametrize("title", ["", "x" * TITLE_MAX, "Über 日本語 👩‍👩‍👧", "a\u200db", "שלום"])
def test_what_may_be_a_title(title: str) -> None:
    assert is_title(title)


@pytest.mark.parametrize(
    "title",
    ["x" * (TITLE_MAX + 1),
     "a\nb", "a\n", "\r", "\0", "\x1b[31mred", "\x7f", "\x9b31m", "a\u2028b", "a\u202eb", "\u2066", "\ud83d"],
)  # fmt: skip
def test_what_may_not(title: str) -> None:
    assert not is_title(title)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("\n \t\n", ""),
        ("  one   two \nthree", "one two"),
        ("\0\x1b\n\x1b[31mred\x07 alert", "[31mred alert"),
        ("\u202e\nreal", "real"),
        ("x" * 300, "x" * (TITLE_MAX - 1) + "…"),
        ("x" * TITLE_MAX, "x" * TITLE_MAX),
        ("\0" * 10**6, ""),
    ],
)
def test_the_first_line(text: str, expected: str) -> None:
    assert first_line(text) == expected


def test_a_bound_of_ones_own() -> None:
    assert first_line("hello world", 7) == "hello…"


@given(st.text(), st.integers(2, TITLE_MAX))
def test_whatever_it_is_given_it_makes_a_title(text: str, most: int) -> None:
    made = first_line(text, most)
    assert is_title(made) and len(made) <= most
