"""Hostile texts and states: nothing of them becomes HTML of theirs, and no answer is larger than a frame."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import DecodeError
from engine.limits import DEFAULT
from engine.rendering import html
from engine.rendering.cells import clean
from engine.rendering.html_inline import link_of
from tests.attacks import ATTACKS
from tests.engine.rendering.pages import read, render, whole
from tests.engine.rendering.test_markdown import texts

MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "</code></pre><script>x</script>",
    "</p><style>*{}</style>",
    "<!-- --><![CDATA[x]]><?php ?><!doctype x>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=x>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62; &#x3c;b&#x3e; &amp;lt;b&amp;gt;",
    "' onmouseover='alert(1) \" onmouseover=\"alert(1)",
    "\x00<script\x00>",
    "<scr\u200bipt>",
    "＜script＞",
    "<p class=gap id=x style='position:fixed'>",
)
ADDRESSES = (
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    " javascript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript&colon;alert(1)",
    "javascript&#58;alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data:text/html;base64,PHNjcmlwdD4=",
    "vbscript:x",
    "file:///etc/passwd",
    "blob:http://x/y",
    "//evil.example",
    "/?token=x",
    "?x",
    "#x",
    "ws://x",
    "about:blank",
    "http:/x",
    "http:x",
    "http://",
    "https:",
    "mailto:",
    "mailto:x",
    "\\\\evil\\x",
    "http:\\\\evil",
    "http://x\\@y",
    "http://x y",
    "http://x\x7f",
    "x-http://y",
)
GOOD = (
    "http://x",
    "HTTPS://x.y/z?a=1&b=%20#c",
    "http://x/'onclick='alert(1)",
    'http://x/"onclick="alert(1)',
    "http://x/<script>",
    "http://日本.jp/",
    "http://user:pass@x:1/",
    "mailto:a@b.cd?subject=x",
)


@pytest.mark.parametrize("text", [*MARKUP, *ATTACKS.values()])
def test_no_markup_of_the_text_comes_through(text: str) -> None:
    for around in (
        "{}", "a {} b", "# {}", "> - {}", "```\n{}\n```", "```{}\nx\n```", "`{}`", "**{}**", "[{}](http://x)",
        "[a]({})", "[a](<{}>)", "![{}]({})", "<{}>", "|{}|\n|-|\n|{}|", "    {}", "- [x] {}", "http://x/{}",
        "a\\\n{}", "{}\n===",
    ):  # fmt: skip
        shown = read(whole(around.replace("{}", text)))
        assert not shown.open


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_are_not_followed_are_text(address: str) -> None:
    assert link_of(address) is None
    for text in (f"[a]({address})", f"[a](<{address}>)", f"<{address}>", f"![a]({address})", f"[]({address})"):
        for link in read(whole(text)).links:
            # Something in it may be good by itself (`http://x` in `x-http://y`): that is where it leads, then.
            assert link in clean(address) and re.match(r"https?://\w", link)


@pytest.mark.parametrize("address", GOOD)
def test_addresses_that_are_followed_stay_in_their_attribute(address: str) -> None:
    start = link_of(address)
    assert start is not None
    assert read(f"{start}</a>").links == [address]


def test_pictures_are_never_loaded() -> None:
    for text in ("![a](http://x/y.png)", "![](http://x/y.png)", "![a](data:image/png;base64,AAAA)"):
        shown = read(whole(text))
        assert set(shown.tags) <= {"p", "a", "span"} and "image: " in shown.text


def test_a_link_shows_where_it_leads() -> None:
    shown = read(whole("[http://bank.example](http://evil.example)"))
    assert shown.links == ["http://evil.example"]
    assert "(http://evil.example)" in shown.text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from((*MARKUP, *ADDRESSES, *ATTACKS.values())) | texts, max_size=8).map("".join))
def test_whatever_a_text_is_made_of_only_ours_comes_out(text: str) -> None:
    read(whole(text))


# ------------------------------------------------------------------ how much comes out
SIZE = DEFAULT.markdown_bytes
MANY = SIZE // 2
WORST = {
    "signs that are escaped": "<",
    "longest escape": "&",
    "controls": "\x01",
    "escapes of JSON": '"',
    "backslashes": "\\",
    "emphasis": "*a*",
    "emphasis that is not closed": "*a ",
    "marks in each other": "~~**a *b* c~~d**e",
    "changes within": "~~b~~c",
    "code": "`a`b",
    "brackets": "[",
    "links": "[a](http://b)",
    "mail": "<a@b.c>",
    "addresses": "http://a ",
    "pictures": "![a](http://b)",
    "entities": "&amp;",
    "quotes in quotes": ">>>>>>>>>>>>a\n\n",
    "quotes in quotes, lazily": ">>>>>>>>>>>>a\n",
    "items in items": "- - - - - - - - - - - - a\n",
    "empty items": "-\n",
    "numbers": "1.\n",
    "tasks": "- [x] a\n",
    "headings": "# a\n",
    "rules": "---\n",
    "numbers in code": "```py\n" + "1 " * MANY,
    "numbers in lines of code": "```py\n" + "1\n" * MANY,
    "differences": "```diff\n" + "+\n-\n" * MANY,
    "fences": "```\na\n```\n",
    "rows": "a|b\n-|-\n" + "|\n" * MANY,
    "wide rows": "|".join("a" * 64) + "\n" + "|".join([":-:"] * 64) + "\n" + ("|a" * 64 + "\n") * 500,
    "wide characters": "漢",
    "emoji": "\U0001f600",
    "one word": "a",
    "spaces": " ",
    "lines": "a\n",
    "lines far in": " " * 2040 + "a\n",
    "a paragraph behind a piece": "> a\n\n" * 1600 + "&" * MANY,
    "quotes and then a paragraph": ">>>>>>>>>>>>a\n\n" * 90 + "~~b~~c" * MANY,
}


@pytest.mark.parametrize("name", WORST)
def test_an_answer_fits_a_frame_and_every_text_comes_to_its_end(name: str) -> None:
    unit = WORST[name]
    text = (unit * (SIZE // len(unit) + 1)).encode()[:SIZE].decode(errors="ignore")
    state, answers = "", 0
    while True:
        answer = render(text, state)
        reply = {"html": answer.html, "taken": answer.taken, "state": answer.state, "open_html": answer.open_html}
        assert len(orjson.dumps({"result": reply})) <= DEFAULT.frame_bytes - 1024  # of the envelope
        assert len(answer.state) <= html.STATE_MAX // 2
        answers += 1
        assert answers <= 10
        if not answer.more:
            assert len(text) - answer.taken < html.OPEN_TEXT_MAX
            break
        assert answer.taken and not answer.open_html
        text, state = text[answer.taken :], answer.state


def test_a_state_of_the_greatest_size_is_within_its_bound() -> None:
    deep, row = " " * 36, "|a" * 64 + "\n"
    answer = render("9. " * 12 + row + deep + row.replace("a", ":-:") + (deep + row) * 100)
    state = json.loads(answer.state)
    assert len(state["boxes"]) == 12 and len(state["leaf"]["aligns"]) == 64
    assert len(answer.state) <= html.STATE_MAX


# ------------------------------------------------------------------ states that are not ours
BOX = st.fixed_dictionaries(
    {"content": st.integers(0, 32), "marked": st.booleans()},
    optional={"marker": st.sampled_from(["-", "+", "1.", "999999999)", "0."]), "done": st.booleans()},
)
LEAF = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["paragraph", "heading", "code", "indented", "table"]),
        "gap": st.booleans(),
        "shown": st.booleans(),
        "level": st.integers(1, 6),
        "sign": st.sampled_from(["`", "~"]),
        "count": st.integers(3, 8),
        "indent": st.integers(0, 4),
        "language": st.sampled_from(["", "python", "nothing", "html"]),
        "ends": st.sampled_from(["", '"""', "<script>", "-->"]),
        "blanks": st.integers(0, 64),
        "aligns": st.lists(st.sampled_from(["left", "right", "middle"]), max_size=3),
    }
)
STATE = st.fixed_dictionaries(
    {
        "boxes": st.lists(BOX, max_size=12),
        "begun": st.booleans(),
        "spaced": st.booleans(),
        "blank": st.booleans(),
        "within": st.booleans(),
    },
    optional={"leaf": LEAF},
)


@settings(max_examples=100, deadline=None)
@given(STATE, texts)
def test_a_state_that_somebody_made_up_harms_nothing(state: dict[str, Any], text: str) -> None:
    answer = render(text, json.dumps(state))
    read(answer.html)
    read(answer.open_html)
    if answer.taken:
        render("", answer.state)


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": [{"content": 0, "marked": True}] * 13},
        {"boxes": [{"marker": "<b>"}]},
        {"boxes": [{"marker": "-", "content": 33}]},
        {"boxes": [{"marker": "-", "content": -1}]},
        {"boxes": [{"marker": "1234567890."}]},
        {"boxes": None},
        {"begun": 1},
        {"more": 1},
        {"leaf": {"kind": "script", "gap": True, "shown": True}},
        {"leaf": {"kind": "heading", "gap": True, "shown": True, "level": 7}},
        {"leaf": {"kind": "heading", "gap": True, "shown": True, "level": "1 onclick=x"}},
        {"leaf": {"kind": "code", "gap": True, "shown": True, "sign": "x"}},
        {"leaf": {"kind": "code", "gap": True, "shown": True, "count": 2049}},
        {"leaf": {"kind": "code", "gap": True, "shown": True, "count": 2}},
        {"leaf": {"kind": "code", "gap": True, "shown": True, "language": "x" * 33}},
        {"leaf": {"kind": "indented", "gap": True, "shown": True, "blanks": 65}},
        {"leaf": {"kind": "table", "gap": True, "shown": True, "aligns": ["left"] * 65}},
        {"leaf": {"kind": "table", "gap": True, "shown": True, "aligns": ["' onclick='x"]}},
    ],
)
def test_states_that_are_refused(change: dict[str, Any]) -> None:
    good = {"boxes": [], "begun": True, "spaced": False, "blank": False, "within": False}
    html.Rendering("a", json.dumps(good))
    with pytest.raises(DecodeError):
        html.Rendering("a", json.dumps({**good, **change}))


@pytest.mark.parametrize("state", ["x", "{", "[]", "null", "0", '"x"', "{}", "[" * 1000])
def test_what_is_no_state_is_refused(state: str) -> None:
    with pytest.raises(DecodeError):
        html.Rendering("a", state)
