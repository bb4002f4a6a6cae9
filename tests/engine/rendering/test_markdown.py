"""Markdown to lines: what each construct looks like, and that the way in which a text comes makes no difference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rendering import cells, leaves, markdown, tables
from engine.rendering.markdown import Markdown
from engine.rendering.source import BLANKS_MAX, OPEN_MAX
from engine.rendering.styles import (
    ASCII,
    DARK,
    LIGHT,
    MARK,
    TEXT,
    Attr,
    Role,
    Theme,
    ansi,
    attributes_of,
    encode,
    plain,
    role_of,
    segments,
    style,
)


def lines(text: str, width: int = 40, theme: Theme = LIGHT) -> list[str]:
    renderer = Markdown(width, theme)
    renderer.feed(text)
    return renderer.lines()


def shown(text: str, width: int = 40, theme: Theme = LIGHT) -> list[str]:
    return [plain(line).rstrip() for line in lines(text, width, theme)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n\n", []),
        ("one\ntwo", ["one two"]),
        ("one  \ntwo\\\nthree", ["one", "two", "three"]),
        ("one\n\n\n\ntwo", ["one", "", "two"]),
        ("one\r\n\r\ntwo\r\n", ["one", "", "two"]),
        ("# Head #\ntext", ["Head", "", "text"]),
        ("#hash", ["#hash"]),
        ("Head\n===\ntext", ["Head", "", "text"]),
        ("text\n***\ntext", ["text", "", "─" * 40, "", "text"]),
        ("- a\n- b\n  more\n  - c\n    - d\n- e", ["• a", "• b more", "  ◦ c", "    ▪ d", "• e"]),
        ("1. a\n2. b\n   - c\n\n   d", ["1. a", "2. b", "   ◦ c", "", "   d"]),
        ("10) a\n11) b", ["10) a", "11) b"]),
        ("In the year\n2024. was", ["In the year 2024. was"]),
        ("text\n- item", ["text", "• item"]),
        ("- [ ] a\n- [x] b", ["☐ a", "☑ b"]),
        ("-\n- b", ["•", "• b"]),
        ("> a\n> b\n>\n> c\n\nd", ["│ a b", "│", "│ c", "", "d"]),
        ("> a\nlazy\n> > b", ["│ a lazy", "│ │ b"]),
        ("> - a\n>   b\n> - c", ["│ • a b", "│ • c"]),
        ("- > a\n  > b", ["• │ a b"]),
        ("```\na\n\n  b\n```\nc", ["  a", "", "    b", "", "c"]),
        ("~~~~ py\n```\n~~~\n~~~~", ["  ```", "  ~~~"]),
        ("```\nopen", ["  open"]),
        ("- a\n  ```\n  b\n  ```", ["• a", "", "    b"]),
        ("    a\n\n    b", ["  a", "", "  b"]),
        ("a <b>c</b> &amp; &lt; \\* \\q", ["a <b>c</b> & < * \\q"]),
        ("[a](b.c) [a b](<c d> \"t\") ![i](j) [n]", ["a (b.c) a b (c d) image: i (j) [n]"]),
        ("<http://a.b> [http://a.b](http://a.b)", ["http://a.b http://a.b"]),
        ("``a ` b`` `c", ["a ` b `c"]),
        ("*a* **b** ***c*** ~~d~~ a_b_c 2*3*4 * e", ["a b c d a_b_c 234 * e"]),
        ("**open *and", ["**open *and"]),
        ("**a*b*c** *a**b", ["abc *a**b"]),
        ("| a | b |\n|---|--:|\n| ccc | d |\n| `x|y` \\| | *e* | f |\nnext",
         ["a     │   b", "──────┼────", "ccc   │   d", "x|y | │   e", "", "next"]),
        ("text\na|b\n-|-\nc", ["text", "", "a   │ b", "────┼────", "", "c"]),
        ("a | b\n---\n", ["a | b"]),
        ("a | b\n--|--|--\n", ["a | b --|--|--"]),
    ],
)  # fmt: skip
def test_constructs(text: str, expected: list[str]) -> None:
    assert shown(text) == expected


def test_glyphs_are_the_theme_s() -> None:
    assert shown("- a\n\n> b\n\n---", 8, ASCII) == ["* a", "", "| b", "", "--------"]


def test_styles() -> None:
    found = lines("# *H*\n\n**b _bi_** `c` [l](u) ~~s~~")
    assert segments(found[0]) == [("H", style(Role.HEADING, Attr.BOLD | Attr.UNDERLINE | Attr.ITALIC))]
    assert segments(found[2]) == [
        ("b ", style(Role.TEXT, Attr.BOLD)),
        ("bi", style(Role.TEXT, Attr.BOLD | Attr.ITALIC)),
        (" ", TEXT),
        ("c", style(Role.CODE)),
        (" ", TEXT),
        ("l", style(Role.LINK)),
        (" (u)", style(Role.URL)),
        (" ", TEXT),
        ("s", style(Role.TEXT, Attr.STRIKE)),
    ]


def test_a_line_is_a_string_and_back() -> None:
    runs = [("a", TEXT), ("b", style(Role.SPINNER, 15)), ("c", TEXT)]
    assert segments(encode(runs)) == runs and plain(encode(runs)) == "abc"
    assert ansi(encode(runs), LIGHT) == "a\x1b[1;3;4;9;38;5;243mb\x1b[0mc"
    assert ansi(encode(runs), ASCII) == "abc"
    assert (role_of(runs[1][1]), attributes_of(runs[1][1])) == (Role.SPINNER, Attr(15))


def test_code_is_coloured_over_lines_and_languages() -> None:
    found = lines(
        '```py\ndef f(): # no\n    """a\n    if\n    """\n    return 1.5\n```\n```\nif\n```\n```diff\n+a\n-b\n```'
    )
    roles = [[(text, role_of(value)) for text, value in segments(line) if text.strip()] for line in found]
    assert roles[0] == [("def", Role.KEYWORD), (" f(): ", Role.CODE), ("# no", Role.COMMENT)]
    assert roles[1][-1] == ('"""a', Role.STRING) and roles[2][-1] == ("    if", Role.STRING)
    assert roles[4][-2:] == [("return", Role.KEYWORD), ("1.5", Role.NUMBER)]
    assert roles[6] == [("  if", Role.CODE)]
    assert [each[-1][1] for each in roles[8:]] == [Role.ADDED, Role.REMOVED]


def test_wide_and_combining_characters_are_not_torn() -> None:
    assert shown("日本語日本", 8) == ["日本語日", "本"]
    assert shown("abc 日本語", 8) == ["abc 日本", "語"]
    assert shown("e\u0301" * 9, 8) == ["e\u0301" * 8, "e\u0301"]
    assert [cells.width(text) for text in ("❤", "❤\ufe0f", "👩\u200d👧", "\U0001fadf", "한", "\u1112\u1161")] == [
        1,
        2,
        4,
        2,
        2,
        2,
    ]
    marks = shown("a" + "\u0301" * 1000, 8)  # each beyond eight is counted as a cell
    assert len(marks) > 50 and max(map(len, marks)) <= 16


def test_words_wrap_at_spaces_code_where_the_line_is_full() -> None:
    assert shown("aaa bbb ccc ddddddddddd", 8) == ["aaa bbb", "ccc", "dddddddd", "ddd"]
    assert shown("```\naa bb cc dd\n```", 8) == ["  aa bb", "  cc dd"]


def test_a_table_gives_room_to_short_columns_first_and_is_text_if_there_is_none() -> None:
    text = "|k|v|\n|-|-|\n|ab|" + "word " * 8 + "|"
    assert shown(text, 20)[2] == "ab  │ word word word" and len(shown(text, 20)) == 2 + 3
    assert shown("|a|b|c|d|\n|-|-|-|-|\n|1|2|3|4|", 12) == ["a │ b │ c │", "d", "1 │ 2 │ 3 │", "4"]


# ------------------------------------------------------------------ however it comes
SNIPPETS = (
    "# h\n", "text ", "word", "\n", "\n\n", "- a\n", "  - b ", "    ", "1. ", "> ", "```py\n", "```", "~~~\n",
    "|a|b|\n",
    "|-|-|\n", "|", "---\n", "===\n", "**", "*", "_", "`", "[l](http://x/y)", "\\", "  \n", "\t", "\r\n",
    "\r", "日本", "e\u0301",
    "&#27;", "\x1b[31m", "x" * 50, "def f(): # c\n", '"""', "/*", "- [x] ", "<http://a.b>", "\u202e", "\x01AB", "&amp;",
)  # fmt: skip
texts = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=4), max_size=40).map("".join)


@settings(max_examples=200, deadline=None)
@given(texts, st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(8, 50), st.booleans(), st.booleans())
def test_any_chunking_gives_what_the_whole_gives(
    text: str, sizes: list[int], width: int, look: bool, small: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:  # so that short texts meet the bounds of what stays open
            patch.setattr(leaves, "OPEN_MAX", 16)
            patch.setattr(markdown, "OPEN_MAX", 16)
            patch.setattr(leaves, "ROWS_MAX", 2)
        renderer = Markdown(width)
        at = number = 0
        while at < len(text):
            kept = list(renderer.stable)
            piece = text[at : at + sizes[number % len(sizes)]]
            renderer.feed(piece)
            at, number = at + len(piece), number + 1
            assert renderer.stable[: len(kept)] == kept
            if look:
                assert renderer.lines() == lines(text[:at], width, DARK)
        found = renderer.lines()
        assert found == lines(text, width, DARK)
    for line in found:
        assert cells.width(plain(line)) <= width
        assert not cells.UNSAFE.search(plain(line)) and "\n" not in line
        assert encode(segments(line)) == line
        assert renderer.slice(1, 3) == found[1:3]


LONG = {
    "words": "word " * 3000,
    "one word": "x" * 9000,
    "marks": "**a " * 2000,
    "brackets": "[" * 9000,
    "ticks": "".join("`" * n + " " for n in range(1, 130)),
    "quotes": ">" * 9000,
    "nested lists": "- " * 4000,
    "short lines": "a\n" * 5000,
    "code line": "```js\n" + "let x = 'a'; " * 900,
    "code": "```js\n" + "let x = 1 // c\n" * 900,
    "table": "|a|b|\n|-|-|\n" + "|cell|other cell|\n" * 900,
    "heading": "# " + "head " * 2000,
    "items": "- item\n" * 2000,
    "wide": "日本" * 3000,
    "links": "[a](b) " * 1500,
    "rule": "-" * 9000,
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_keeps_a_short_end_open(name: str) -> None:
    text, renderer = LONG[name], Markdown(40)
    half = Markdown(40)
    for at in range(0, len(text), 777):
        renderer.feed(text[at : at + 777])
    half.feed(text[: len(text) // 2])
    assert renderer.lines() == lines(text, 40, DARK)
    # What is made again at each picture is bounded by what stays open, whatever the text.
    assert len(renderer.tail()) <= 2 * OPEN_MAX // 20 + 80
    assert len(renderer.stable) >= len(half.stable)
    if name not in ("quotes", "rule"):
        assert len(renderer.stable) > 10


def test_the_tail_is_made_once_for_what_is_not_new() -> None:
    renderer = Markdown(40)
    renderer.feed("# a\n\nopen *text")
    first = renderer.tail()
    assert renderer.tail() is first and [plain(line) for line in first] == ["", "open *text"]
    renderer.feed("")
    assert renderer.tail() is first
    renderer.feed("*")
    assert [plain(line) for line in renderer.tail()] == ["", "open text"]


def test_retained_bytes_are_those_of_the_lines() -> None:
    renderer = Markdown(40)
    empty = renderer.retained_bytes()
    renderer.feed("a line of text\n\n" * 100)
    assert 100 * 60 < renderer.retained_bytes() - empty < 100 * 200


def test_lines_that_are_forgotten_leave_the_others_their_numbers() -> None:
    text = "".join(f"line {number}\n\n" for number in range(100))
    renderer, whole = Markdown(40), lines(text, 40, DARK)
    renderer.feed(text[: len(text) // 2])
    before = renderer.retained_bytes()
    renderer.forget(30)
    renderer.feed(text[len(text) // 2 :])
    renderer.forget(20)
    assert renderer.gone == 50 and renderer.height == len(whole) == 199
    assert renderer.slice(50, 60) == whole[50:60] and renderer.slice(190, 300) == whole[190:]
    assert renderer.lines() == whole[50:]
    renderer.forget(1000)
    assert renderer.gone + len(renderer.tail()) == 199 and renderer.stable == []
    assert renderer.retained_bytes() < before - 2000


def test_blank_lines_in_indented_code_are_shown_up_to_a_bound() -> None:
    for blanks in (1, BLANKS_MAX, BLANKS_MAX + 1, 10 * BLANKS_MAX):
        expected = ["  a", *[""] * min(blanks, BLANKS_MAX), "  b"]
        assert shown("    a\n" + "\n" * blanks + "    b") == expected


def test_a_mark_in_the_text_is_no_style() -> None:
    assert MARK not in lines("\x01AB")[0] and shown("\x01AB") == ["␁AB"]


DOCUMENT = """# Title *it*
A **bold** paragraph with `code`,
over lines.

- one
- two
  - nested

    more
1. > quoted
   > - deep

```py
def f():
    '''a
    b'''
```
| a | b |
|---|--:|
| one | 2 |
| two | 3 |

- [x] done

    code

    more
Setext
---
end"""


def test_a_look_after_each_character_changes_nothing() -> None:
    renderer = Markdown(30)
    for at, character in enumerate(DOCUMENT):
        renderer.feed(character)
        assert renderer.tail() is renderer.tail()
        if at % 5 == 0:
            assert renderer.lines() == lines(DOCUMENT[: at + 1], 30, DARK)
    assert renderer.lines() == lines(DOCUMENT, 30, DARK)
    assert len(renderer.stable) > 20


@pytest.mark.parametrize("name", LONG)
def test_the_work_is_linear_in_the_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the characters that are looked at for marks and for line breaks."""
    seen = 0

    def counted(function: Any) -> Any:
        def count(what: Any, *rest: Any, **options: Any) -> Any:
            nonlocal seen
            seen += len(what) if isinstance(what, str) else sum(len(text) for text, _ in what)
            return function(what, *rest, **options)

        return count

    for module, function in ((leaves, "inline"), (leaves, "wrap"), (tables, "inline"), (tables, "wrap")):
        monkeypatch.setattr(module, function, counted(getattr(module, function)))
    text, renderer = LONG[name], Markdown(40)
    for at in range(0, len(text), 3):  # however small the pieces are
        renderer.feed(text[at : at + 3])
    assert seen <= 6 * len(text)
    for _ in range(3):
        seen = 0
        renderer.feed("x")
        renderer.tail()
        renderer.tail()
        assert seen <= 8 * OPEN_MAX  # of the open end, not of the text
