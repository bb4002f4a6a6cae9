"""Markdown to HTML: what each construct looks like, and that it does not matter how a text comes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rendering import html, html_inline, html_leaves
from engine.rendering.markdown import Markdown
from engine.rendering.styles import LIGHT, plain
from tests.engine.rendering.pages import read, render, whole, words
from tests.engine.rendering.test_markdown import DOCUMENT, texts

LINK = "<a href='http://x/y' rel='noopener noreferrer' target='_blank'>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("\n\n", ""),
        ("one\ntwo", "<p>one two</p>"),
        ("one  \ntwo\\\nthree", "<p>one<br>two<br>three</p>"),
        ("one\n\n\n\ntwo\r\n", "<p>one</p><p class='gap'>two</p>"),
        ("# Head #\ntext", "<h1>Head</h1><p class='gap'>text</p>"),
        ("###### h *e*", "<h6>h <em>e</em></h6>"),
        ("Head\n===\nLow\n---", "<h1>Head</h1><h2 class='gap'>Low</h2>"),
        ("a\n***\nb", "<p>a</p><hr class='gap'><p class='gap'>b</p>"),
        ("a\n- b", "<p>a</p><ul><li><p>b</p></li></ul>"),
        (
            "- a\n- b\n  more\n  - c\n- d",
            "<ul><li><p>a</p></li><li><p>b more</p><ul><li><p>c</p></li></ul></li><li><p>d</p></li></ul>",
        ),
        (
            "7. a\n\n   b\n8) c",
            "<ol><li value='7'><p>a</p><p class='gap'>b</p></li><li value='8'><p>c</p></li></ol>",
        ),
        ("- a\n1. b", "<ul><li><p>a</p></li></ul><ol><li value='1'><p>b</p></li></ol>"),
        ("- a\n\ntext\n- b", "<ul><li><p>a</p></li></ul><p class='gap'>text</p><ul><li><p>b</p></li></ul>"),
        ("-\n- a", "<ul><li></li><li><p>a</p></li></ul>"),
        (
            "- [ ] a\n- [x] b",
            "<ul><li class='task'><span class='box'>☐</span> <p>a</p></li>"
            "<li class='task'><span class='box'>☑</span> <p>b</p></li></ul>",
        ),
        ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
        ("> - a\n> - b\n\nc", "<blockquote><ul><li><p>a</p></li><li><p>b</p></li></ul></blockquote>"
         "<p class='gap'>c</p>"),
        ("- > a", "<ul><li><blockquote><p>a</p></blockquote></li></ul>"),
        ("```\na <b>\n\n  c\n```\nd", "<pre><code>a &lt;b&gt;\n\n  c\n</code></pre><p class='gap'>d</p>"),
        ("```\n```", ""),
        ("a\n\n    b\n\n    c", "<p>a</p><pre class='gap'><code>b\n\nc\n</code></pre>"),
        (
            "```py\nreturn 'a' + 1 # c\n```",
            "<pre><code><span class='k'>return</span> <span class='s'>'a'</span> + <span class='n'>1</span> "
            "<span class='c'># c</span>\n</code></pre>",
        ),
        (
            "```diff\n+a\n-b\n```",
            "<pre><code><span class='a'>+a</span>\n<span class='r'>-b</span>\n</code></pre>",
        ),
        (
            "|a|b|c|\n|-|-:|:-:|\n|1|*2*|3|4|\n|5|",
            "<table><thead><tr><th>a</th><th class='right'>b</th><th class='middle'>c</th></tr></thead><tbody>"
            "<tr><td>1</td><td class='right'><em>2</em></td><td class='middle'>3</td></tr>"
            "<tr><td>5</td></tr></tbody></table>",
        ),
        ("*a* **b** ~~c~~ `d`", "<p><em>a</em> <strong>b</strong> <del>c</del> <code>d</code></p>"),
        ("***a***", "<p><strong><em>a</em></strong></p>"),
        ("*a _b* c_", "<p><em>a b c</em></p>"),
        ("*a ~~b* c~~", "<p><em>a </em><del><em>b</em> c</del></p>"),
        ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
        ("[l](http://x/y)", f"<p>{LINK}l</a><span class='url'> (http://x/y)</span></p>"),
        ("[*l*](http://x/y 'title')", f"<p>{LINK}<em>l</em></a><span class='url'> (http://x/y)</span></p>"),
        ("http://x/y.", f"<p>{LINK}http://x/y</a>.</p>"),
        ("<http://x/y>", f"<p>{LINK}http://x/y</a></p>"),
        ("[](http://x/y)", f"<p>{LINK}http://x/y</a></p>"),
        ("![i](http://x/y)", f"<p>image: {LINK}i</a><span class='url'> (http://x/y)</span></p>"),
        ("<a@b.cd>", "<p><a href='mailto:a@b.cd' rel='noopener noreferrer' target='_blank'>a@b.cd</a></p>"),
        ("<a@b>", "<p>a@b</p>"),
        ("[a](/etc/passwd)", "<p>a<span class='url'> (/etc/passwd)</span></p>"),
        ("a & b < c > d \" ' &amp; &lt;b&gt;", "<p>a &amp; b &lt; c &gt; d \" ' &amp; &lt;b&gt;</p>"),
    ],
)  # fmt: skip
def test_constructs(text: str, expected: str) -> None:
    assert whole(text) == expected
    read(expected)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_it_says_what_the_terminal_says(text: str) -> None:
    terminal = Markdown(100_000, LIGHT)
    terminal.feed(text)
    shown = read(whole(text))
    assert words(shown.text) == words("\n".join(map(plain, terminal.lines())))


# ------------------------------------------------------------------ however it comes
@settings(max_examples=200, deadline=None)
@given(texts, st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(0, 3))
def test_any_pieces_give_what_the_whole_gives(text: str, sizes: list[int], small: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:  # so that short texts meet every bound
            patch.setattr(html, "OPEN_MAX", 12 * small)
            patch.setattr(html, "PIECE_MAX", 30 * small)
            patch.setattr(html, "PARAGRAPH_MAX", 20 * small)
            patch.setattr(html, "PIECE_HARD", 40 * small)
            patch.setattr(html, "HTML_MAX", 100)
        rest, state, shown, at, number = "", "", "", 0, 0
        while at < len(text):
            size = sizes[number % len(sizes)]
            rest += text[at : at + size]
            at, number = at + size, number + 1
            answer = render(rest, state)
            assert not answer.more
            read(answer.html)
            read(answer.open_html)
            assert shown + answer.html + answer.open_html == whole(text[:at])
            shown, rest, state = shown + answer.html, rest[answer.taken :], answer.state
            if small:
                assert len(rest) < (40 + 2 * 12) * small


def test_a_document_after_each_character() -> None:
    rest, state, shown = "", "", ""
    for at, character in enumerate(DOCUMENT):
        rest += character
        answer = render(rest, state)
        shown, rest, state = shown + answer.html, rest[answer.taken :], answer.state
        if at % 7 == 0:
            assert shown + answer.open_html == whole(DOCUMENT[: at + 1])
    assert shown.count("<") > 20, "it was shown for good as it came"


def test_pieces_end_where_nothing_is_open() -> None:
    for text, taken in (
        ("a\n\nb", 3),
        ("a\n", 0),
        ("# h\na", 4),
        ("# h", 0),
        ("```\na\n```\nb", 10),
        ("```\na\n", 0),
        ("- a\n\n- b\n\n", 0),
        ("- a\n\nb\n\nc", 8),
        ("|a|\n|-|\n|b|\n\nc", 13),
    ):
        assert render(text).taken == taken, text


@pytest.mark.parametrize(
    ("line", "first", "further"),
    [
        ("code\n", "<pre><code>", "<pre class='on'><code>"),
        ("  a\n", "<ul><li><p>", "<ul><li class='on'><p class='on'>"),
        ("- a\n", "<ul><li><p>", "<ul><li><p>"),
        ("|c|\n", "<table><thead>", "<table class='on'><tbody><tr>"),
        ("word ", "<p>word", "<p class='on'>word"),
    ],
)
def test_what_is_long_goes_on_in_further_pieces(line: str, first: str, further: str) -> None:
    begin = {"c": "```\n", " ": "- b\n", "|": "|h|\n|-|\n"}.get(line[0], "")
    text = begin + line * (3 * html.PIECE_HARD // len(line))
    answer = render(text)
    assert answer.html.startswith(first)
    assert 2 * html.PIECE_HARD - html.OPEN_TEXT_MAX < answer.taken <= len(text)
    again = render(text[answer.taken :] + line * 3000, answer.state)
    assert again.html.startswith(further) or again.open_html.startswith(further)
    assert words(read(answer.html + again.html + again.open_html).text).count(words(line)[0]) >= len(text) // len(line)


def test_code_keeps_its_colours_over_pieces() -> None:
    text = '```py\n"""\n' + "if x\n" * html.PIECE_MAX + '"""\nif y\n```\n'
    shown = whole(text)
    assert shown.count("<pre") > 3
    assert shown.count("<span class='k'>") == 1 and "<span class='k'>if</span> y" in shown


def test_a_line_that_begins_with_many_spaces_keeps_its_text() -> None:
    for text in (" " * 3000 + "a b", "- " + " " * 3000 + "a", "a\n" + " " * 5000 + "b"):
        assert words(read(whole(text)).text) == words(text)


# ------------------------------------------------------------------ what it costs
def test_the_work_is_linear_in_a_text_that_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the characters that are read for marks and coloured."""
    seen = 0

    def counted(function: Any) -> Any:
        def count(what: str) -> Any:
            nonlocal seen
            seen += len(what)
            return function(what)

        return count

    monkeypatch.setattr(html_inline, "pieces", counted(html_inline.pieces))
    monkeypatch.setattr(html_leaves, "inline", counted(html_leaves.inline))
    for unit in ("word ", "a line\n", "- item\n", "> quote\n", "para\n\n", "*a ", "|a|b|\n|-|-|\n"):
        text, rest, state = unit * (4 * html.PIECE_HARD // len(unit)), "", ""
        for at in range(0, len(text), 2000):
            seen = 0
            rest += text[at : at + 2000]
            answer = render(rest, state)
            rest, state = rest[answer.taken :], answer.state
            assert seen <= 2 * (html.OPEN_TEXT_MAX + 2000)
            assert len(rest) < html.OPEN_TEXT_MAX


def test_a_step_is_a_little_of_the_work() -> None:
    rendering = html.Rendering("a line of some words\n\n" * 3000)
    steps = 1
    while rendering.step():
        steps += 1
    assert steps >= 3000 * 22 // (html.STEP + 30)
    with pytest.raises(AssertionError, match="steps left"):
        html.Rendering("a").result()
