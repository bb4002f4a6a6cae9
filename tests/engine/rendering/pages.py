"""HTML as a browser reads it, for tests: elements, and that nothing but ours is in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from engine.rendering import cells
from engine.rendering.html import CLASSES, TAGS, Rendered, Rendering

VOID = {"br", "hr"}
HREF = re.compile(r"(https?://|mailto:)\S+", re.IGNORECASE)


class Reader(HTMLParser):
    """Holds every element against what is allowed; `text` is what is shown, `links` where it leads."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), self.get_starttag_text()
        assert tag in TAGS, tag
        assert given.keys() <= TAGS[tag], self.get_starttag_text()
        assert given.get("class", "on") in CLASSES
        assert tag != "li" or (given.get("value") or "1").isdecimal()
        if tag == "a":
            href = given["href"]
            assert given == {"href": href, "rel": "noopener noreferrer", "target": "_blank"}
            assert href is not None and HREF.fullmatch(href), href
            assert "a" not in self.open, "a link within a link"
            self.links.append(href)
        if tag == "li" and "value" in given:
            self.text += f" {given['value']} "
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag not in {"em", "strong", "del", "a", "span", "code"}:
            self.text += "\n"

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, "not balanced"

    def handle_data(self, data: str) -> None:
        assert not cells.UNSAFE.search(data.replace("\n", "")), ascii(data)
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl!r}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")


def read(html: str) -> Reader:
    """The HTML, which is whole and ours. Raises AssertionError."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open, "not balanced"
    # What is a sign for a reader of HTML is one of ours.
    assert html.count("<") == len(reader.tags) + sum(tag not in VOID for tag in reader.tags)
    return reader


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def render(text: str, state: str = "") -> Rendered:
    """The answer to one request."""
    rendering = Rendering(text, state)
    while rendering.step():
        pass
    return rendering.result()


def whole(text: str) -> str:
    """All of a text's HTML, asked for until there is no more."""
    html, state = "", ""
    while True:
        answer = render(text, state)
        html, text, state = html + answer.html, text[answer.taken :], answer.state
        if not answer.more:
            return html + answer.open_html
        assert answer.taken
