"""Pages as text: what they mean is kept, what hides in them costs no time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.limits import DEFAULT, KIB, Limits
from engine.tools import fetch
from engine.tools import page_text as pages
from engine.tools.fetch import Response, moved
from engine.tools.fetch_rules import parse_url
from engine.tools.spec import Media, ToolResult

URL = "https://a.org/docs/page"


def nothing() -> None:
    pass


PIECE = 1000


def html_text(html: str, url: str, checkpoint: Callable[[], None] = nothing, size: int = PIECE) -> str:
    def pieces() -> Iterator[str]:
        for begin in range(0, len(html), size):
            checkpoint()
            yield html[begin : begin + size]

    return "".join(pages.html_text(pieces(), url))


def page_text(content_type: str, data: bytes, url: str, checkpoint: Callable[[], None]) -> str | None:
    found = pages.page_text(content_type, deque([data[:1], data[1:]]), url, checkpoint)
    return None if found is None else "".join(found)


def fetched(response: Response, checkpoint: Callable[[], None], limits: Limits = DEFAULT) -> ToolResult:
    """The result with its text."""
    told: list[str] = []
    result = fetch.fetched(response, told.append, checkpoint, limits)
    return attrs.evolve(result, text="".join(told))


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("plain   text\n here", "plain text here"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<h1>A  title</h1>text<h2>More</h2>", "# A title\n\ntext\n\n## More"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul><li>one<li>two</ul>after", "- one\n- two\nafter"),
        ("<a href='/x'>link</a>, <a href='y?z'>two</a>", "[link](https://a.org/x), [two](https://a.org/docs/y?z)"),
        ("<a href='#top'>top</a> <a>none</a> <a href='javascript:x()'>js</a>", "top none js"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a | b\n1 | 2"),
        ("<pre>a\n  b\n</pre>c", "a\n  b\nc"),
        ("a<script>if (a < b) alert('x')</script><style>p {}</style>b", "ab"),
        ("a<!-- hidden <p> -->b", "ab"),
        ("<svg><text>x</text></svg><noscript>y</noscript>z", "z"),
        ("&lt;b&gt; &amp; &eacute; &#8364; &nbsp;x", "<b> & é € x"),
        ("<b>bo</b>ld and <i>it</i>", "bold and it"),
        ("<b>a</b> <i>b</i>", "a b"),
        ("<img alt='a  cat' src=x><img src=y>", "[image: a cat]"),
        ("<head><title>T</title></head><body>x", "T\nx"),
        ("<p>never <b>closed", "never closed"),
        ("</p></a></pre>x", "x"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_what_a_page_says(html: str, text: str) -> None:
    assert html_text(html, URL, nothing) == text
    assert html_text(html, URL, nothing, size=3) == text


def test_empty_lines_are_as_few_where_pieces_meet() -> None:
    html = "<p>a</p>" + "<p> </p>" * 5 + "<pre>\n\n\nb\n\n\n\n\nc\n\n\n</pre>"
    assert {html_text(html, URL, nothing, size=size) for size in (1, 2, 7, 50, 1000)} == {"a\n\nb\n\nc"}


@pytest.mark.parametrize(
    ("content_type", "data", "text"),
    [
        ("text/plain", b"<b>x</b>", "<b>x</b>"),
        ("text/html", b"<b>x</b>", "x"),
        ("TEXT/HTML; Charset=utf-8", b"<b>x</b>", "x"),
        ("application/xhtml+xml", b"<b>x</b>", "x"),
        ("application/json", b'{"a": 1}', '{"a": 1}'),
        ("application/ld+json", b"{}", "{}"),
        ("", b"x", "x"),
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "café"),
        ("text/plain; charset=windows-1251", b"\xcf", "П"),
        ("text/plain; charset=utf-16le", "hé".encode("utf-16-le"), "hé"),
        ("text/html", b'<meta charset="latin-1">caf\xe9', "café"),
        ("text/plain", b"\xef\xbb\xbfx\xff", "x\ufffd"),
        ("text/plain; charset=rot13", b"x", "x"),
        ("text/plain; charset=zlib", b"x", "x"),
        ("text/plain; charset=nothing", b"x", "x"),
        ("text/plain; charset=unicode_escape", b"\\x41", "\\x41"),
        ("image/png", b"x", None),
        ("application/octet-stream", b"x", None),
        ("text/plain", b"a\0b", None),
    ],
)
def test_types_and_encodings(content_type: str, data: bytes, text: str | None) -> None:
    assert page_text(content_type, data, URL, nothing) == text


MIB_OF = 1024 * KIB


@pytest.mark.parametrize(
    "piece",
    ["<", "<a", "<a ", "<a b", "<!", "<!--", "<![", "<![if ", "<?", "</", "</a", "&", "&#", "&amp", "<a b='", "<div>",
     "<a href=x>",
     "<script>", "<svg>", "]]>", "<p", "a ", "<!a", "<td>", "<pre>\n"],
)  # fmt: skip
def test_no_page_takes_long(piece: str) -> None:
    """A megabyte of each takes a second or two; what looks again and again would take hours."""
    pieces = 0

    def checkpoint() -> None:
        nonlocal pieces
        pieces += 1

    html_text(piece * (MIB_OF // len(piece)), URL, checkpoint)
    assert pieces > 100 or piece == "<!["


def test_what_does_not_end_is_left_out_and_the_rest_stays() -> None:
    long = "x" * 200_000
    assert html_text(f"before<script>{long}</script>after", URL, nothing) == "beforeafter"
    assert html_text(f"before<!--{long}", URL, nothing) == "before"
    assert html_text(f"before<!-- > {long} -->after", URL, nothing) == "beforeafter"
    assert html_text(f"before<a b='{long}'>after", URL, nothing) == "beforeafter"
    assert html_text(f"&amp;{long}&amp;", URL, nothing) == f"&{long}&"
    assert html_text(f"<p>before</p><![weird {long}", URL, nothing).startswith("before")


def test_it_can_be_cancelled() -> None:
    class Cancelled(Exception):
        pass

    def checkpoint() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        html_text("x", URL, checkpoint)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "<a href='",
                "'>",
                "</a>",
                "<pre>",
                "</pre>",
                "<li>",
                "x",
                " ",
                "\n",
                "<td>",
                "<script>",
                "</script>",
                "<svg>",
                "</svg>",
                "&",
                "<!",
                "--",
                ">",
                "<p>",
                "<![x",
                "\ud83d",
                "//[",
            ]
        ),
        max_size=30,
    )
)
def test_any_page_gives_a_text(pieces: list[str]) -> None:
    html = "".join(pieces)
    text = html_text(html, URL, nothing)
    assert len(text) <= 20 * len(html) + 100
    assert "\n\n\n" not in text or "<pre>" in html


# ------------------------------------------------------------------ results
def response(body: bytes, *, status: int = 200, kind: str = "text/html", more: bool = False) -> Response:
    return Response(
        target=parse_url(URL), status=status, content_type=kind, body=deque([body[:3], body[3:]]), more=more
    )


def test_results() -> None:
    result = fetched(response(b"<p>hello</p>"), nothing)
    assert (result.text, result.title, result.is_error) == ("hello", URL, False)
    assert fetched(response(b""), nothing).text == "The page is empty."
    cut = fetched(response(b"hello", more=True), nothing)
    assert cut.text == "hello\n[The first 5 bytes are read; there are more.]"
    missing = fetched(response(b"<h1>No</h1>", status=404), nothing)
    assert (missing.text, missing.is_error) == ("[HTTP status 404]\n# No", True)
    binary = fetched(response(b"\0" * 5, kind="application/zip; x=y"), nothing)
    assert (binary.text, binary.is_error) == ("What is there is no text: application/zip, 5 bytes.", True)
    assert "fetch https://a.org/docs/page to get it" in moved(parse_url(URL)).text


def test_an_image_at_the_bound_and_one_byte_past() -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"\0" * (64 * KIB - 8)
    result = fetched(response(png, kind="image/png"), nothing, Limits())
    assert result.media == (Media(mime="image/png", name="page", data=png),)
    beyond = fetched(response(png + b"\0", kind="image/png"), nothing, Limits())
    assert beyond.media == () and beyond.is_error
