"""A page of the web as text for a model: HTML without its markup, other text as it is.

Headings, lists, links, tables and preformatted text keep what they mean; scripts, styles and forms are left out. The
text comes in pieces, and no more than the parser needs is held beside the page's bytes. Time is bounded by the page's
size: the parser is never given room to look at the same text again and again, which some of its errors would make it
do.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from html import unescape
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

from engine.limits import KIB
from engine.tools.read import SNIFF_BYTES, is_binary

# The parser is fed this much at a time; between two pieces the call can be cancelled.
_PIECE: Final = 8 * KIB
# Of a tag, comment or script that does not end the parser keeps so much; of longer ones the rest is left out.
_HELD_MAX: Final = 64 * KIB
_HELD_TAIL: Final = 64  # enough for an end tag that is cut in two
_LINK_CHARACTERS: Final = 500  # longer ones are no address for people
_META_BYTES: Final = 2 * KIB  # where a page says its encoding, if at all
_DEPTH_MAX: Final = 1000

_HIDDEN: Final = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "select"})
_BLOCKS: Final = """address article aside blockquote br dd div dl dt fieldset figcaption figure footer form header hr li
    main nav ol p pre section summary table title tr ul"""
_LINES: Final = frozenset(_BLOCKS.split())
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}
_CHARSET: Final = re.compile(
    rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE
)
# Encodings of texts; the library knows others that do work when they decode.
_ENCODING: Final = re.compile(
    r"(utf-?(8|16|32)([_-]?[lb]e)?|us-ascii|ascii|latin-?1|(iso[_-]?8859|windows|cp|koi8|euc|big5|gb|shift|mac)[a-z0-9_-]*)",
    re.IGNORECASE,
)
_FEEDS: Final = re.compile(r"\n{3,}")
_BLANKS: Final = re.compile(r"[ \t\r\n\f\u00a0]+")
_TEXT_TYPES: Final = re.compile(
    r"text/.*|application/((.*[+/-])?(json|xml|javascript|ecmascript|yaml|toml|sql|x-sh|rtf|csv|x-ndjson))|",
    re.IGNORECASE,
)
_HTML_TYPES: Final = re.compile(r"text/html|application/xhtml\+xml", re.IGNORECASE)


def page_text(content_type: str, data: deque[bytes], url: str, checkpoint: Callable[[], None]) -> Iterator[str] | None:
    """The text of a response in pieces; None if it is none. `data` is emptied as it is read, `checkpoint` raises when
    the call is cancelled."""
    mime, _, parameters = content_type.partition(";")
    mime = mime.strip()
    head = head_of(data)
    if not _TEXT_TYPES.fullmatch(mime) or (is_binary(head) and "utf-16" not in parameters.lower()):
        return None
    pieces = _decoded(data, _encoding(parameters, head), checkpoint)
    return html_text(pieces, url) if _HTML_TYPES.fullmatch(mime) else pieces


def head_of(data: deque[bytes]) -> bytes:
    """The first bytes, enough to know what it is."""
    head = b""
    for piece in data:
        head += piece[: SNIFF_BYTES - len(head)]
    return head


def _decoded(data: deque[bytes], encoding: str, checkpoint: Callable[[], None]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    while data:
        piece = data.popleft()
        for begin in range(0, len(piece), _PIECE):
            checkpoint()
            yield decoder.decode(piece[begin : begin + _PIECE])
    yield decoder.decode(b"", final=True)


def html_text(html: Iterable[str], url: str) -> Iterator[str]:
    """HTML, in pieces of a few KiB, as text. Links are completed from the page's `url`."""
    page = _Page(url)
    try:
        for piece in html:
            page.read(piece)
            yield page.take()
        page.finish()
    except AssertionError:  # the parser's word for a declaration that it does not know; what was read stays
        page.add("\n[the rest of the page could not be read]")
    yield page.take()


class _Page(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self._url = url
        self._skipping = ""  # what ends the tag or comment that is left out
        self._pieces: list[str] = []  # written and not taken
        self._last = "\n"  # of all that was written
        self._begun = False
        self._shown = False  # something else than line ends was taken
        self._feeds = ""  # line ends that wait for what follows
        self._hidden: list[str] = []  # open elements that are not shown
        self._preformatted = 0
        self._links: list[str | None] = []
        self._line_is_empty = True
        self._blank = False  # one waits to be written before the next word

    def take(self) -> str:
        """What was written since the last time: no more than one empty line at a time, none at either end."""
        text = self._feeds + "".join(self._pieces)
        self._pieces.clear()
        if not self._shown:
            text = text.lstrip("\n")
        shown = text.rstrip("\n")
        self._feeds = text[len(shown) :][:2]
        self._shown = self._shown or bool(shown)
        return _FEEDS.sub("\n\n", shown)

    def read(self, piece: str) -> None:
        """Feed the parser, which never holds much more than _HELD_MAX."""
        if self._skipping:
            self.rawdata, held = "", self.rawdata + piece
            end = held.find(self._skipping)
            if end < 0:
                self.rawdata = held[-_HELD_TAIL:]
                return
            piece, self._skipping = held[end + len(self._skipping) :], ""
        self.feed(piece)
        if len(self.rawdata) <= _HELD_MAX:
            return
        if self.cdata_elem is None and not self.rawdata.startswith("<"):  # text with an & that may go on
            self.handle_data(unescape(self.rawdata))
            self.rawdata = ""
            return
        if self.cdata_elem is None:
            self._skipping = "-->" if self.rawdata.startswith("<!--") else ">"
        self.rawdata = self.rawdata[-_HELD_TAIL:]

    def finish(self) -> None:
        # An open tag is left out; looking for its end would take long.
        if not self._skipping and "<" not in self.rawdata:
            self.close()

    # ------------------------------------------------------------ what the parser finds
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN and len(self._hidden) < _DEPTH_MAX:
            self._hidden.append(tag)
        if self._hidden:
            return
        if tag in _HEADINGS:
            self._break(2)
            self.add(f"{_HEADINGS[tag]} ")
        elif tag in _LINES:
            self._break(2 if tag == "p" else 1)
            if tag == "li":
                self.add("- ")
            self._preformatted += tag == "pre"
        elif tag in ("td", "th"):
            if not self._line_is_empty:
                self.add(" | ")
        elif tag == "a" and len(self._links) < _DEPTH_MAX:
            link = self._link(dict(attrs).get("href"))
            self._links.append(link)
            if link is not None:
                self._write("[")
        elif tag == "img" and (alternative := dict(attrs).get("alt")):
            self._write(f"[image: {_BLANKS.sub(' ', alternative)}]")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            if tag in self._hidden:
                del self._hidden[self._hidden.index(tag) :]
            return
        if self._hidden:
            return
        if tag in _HEADINGS or tag == "p":
            self._break(2)
        elif tag in _LINES:
            self._break(1)
            self._preformatted -= tag == "pre" and self._preformatted > 0
        elif tag == "a" and self._links:
            link = self._links.pop()
            if link is not None:
                self.add(f"]({link})")

    def handle_data(self, data: str) -> None:
        if self._hidden or self.cdata_elem is not None:
            return
        if self._preformatted:
            self._write(data)
            return
        for index, word in enumerate(_BLANKS.split(data)):
            self._blank = self._blank or index > 0
            if word:
                self._write(word)

    # ------------------------------------------------------------ what is written
    def add(self, text: str) -> None:
        """Write as it is."""
        self._pieces.append(text)
        self._last, self._begun = text, True
        self._line_is_empty = text.endswith("\n")
        self._blank = False

    def _write(self, text: str) -> None:
        self.add(f" {text}" if self._blank and not self._last.endswith((" ", "\n", "[")) else text)

    def _break(self, ends: int) -> None:
        """Go to a new line, or over an empty one."""
        self._blank = False
        if self._begun:
            self.add("\n" * (ends - self._line_is_empty) if ends > self._line_is_empty else "")
            self._line_is_empty = True

    def _link(self, href: str | None) -> str | None:
        if not href or len(href) > _LINK_CHARACTERS or href.startswith("#"):
            return None
        try:
            link = urljoin(self._url, href.strip())
        except ValueError:
            return None
        return link if link.startswith(("http://", "https://")) else None


def _encoding(parameters: str, data: bytes) -> str:
    """What the response or the page says, if it is known and an encoding of texts; else UTF-8."""
    said = re.search(r"charset\s{0,9}=\s{0,9}[\"']?([A-Za-z0-9_.:-]{1,40})", parameters, re.IGNORECASE)
    found = _CHARSET.search(data[:_META_BYTES])
    name = said[1] if said else found[1].decode() if found else "utf-8"
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    try:
        codecs.lookup(name)
    except LookupError:
        return "utf-8"
    return name if _ENCODING.fullmatch(name) else "utf-8"
