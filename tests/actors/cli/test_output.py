"""What is printed cannot take over a terminal, and stays what it was in a pipe."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.cli import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("\x9b31mred", "\ufffd31mred"),  # the escape and its bracket in one character
        ("safe\rEVIL", "safeEVIL"),
        ("a\b\bb\x00\x7f", "a␈␈b␀␡"),
        ("\u202egpj.exe", "\ufffdgpj.exe"),
        ("tabs\tand\nlines\r\n", "tabs\tand\nlines\n"),
        ("Grüße 👋 日本", "Grüße 👋 日本"),
    ],
)
def test_a_terminal_is_shown_what_it_must_not_obey(hostile: str, shown: str) -> None:
    assert output.shown(hostile, Terminal()) == shown


def test_a_pipe_gets_the_text_as_it_is() -> None:
    assert output.shown("\x1b[2J\r\n", io.StringIO()) == "\x1b[2J\r\n"


@given(st.text(), st.integers(0, 50))
def test_pieces_are_neutral_as_the_whole(text: str, cut: int) -> None:
    neutral = output.neutral(text)
    assert output.neutral(text[:cut]) + output.neutral(text[cut:]) == neutral
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in neutral)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("short", 10, "short"), ("two\nlines", 20, "two lines"), ("0123456789", 5, "0123…"), ("\x1b[1m", 9, "␛[1m")],
)
def test_a_line_is_one_line_of_bounded_length(text: str, width: int, shown: str) -> None:
    assert output.line(text, width) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (40 * 1024**2, "40.0 MiB")]
)
def test_sizes(count: int, shown: str) -> None:
    assert output.size(count) == shown


def test_columns_are_as_wide_as_they_have_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("ID", "N", "TITLE"), [("a", "100", "日本"), ("日本", "2", "")])
    assert capsys.readouterr().out == "ID    N    TITLE\na     100  日本\n日本  2\n"
