"""Whatever is done to a view, in whatever order: it shows what rendering everything at once would show."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rendering.entries import Stored
from engine.rendering.kinds import LOOKS, render
from engine.rendering.styles import DARK, LIGHT
from engine.rendering.view import OPEN_ENTRIES_MAX, TranscriptView

TEXTS = (
    "", "word ", "# head\n\n", "- item\n", "```py\nx = 1\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "a\n\nb\n\nc\n\n",
    "word " * 60, "line\n\n" * 40,
)  # fmt: skip
KINDS = sorted(LOOKS)
SHELF = 3000

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("append", "append", "extend", "extend", "update", "remove", "resize", "theme", "older", "load",
             "look", "move", "select", "spinner", "end", "finalise")
        ),
        st.integers(0, 99),
        st.sampled_from(TEXTS),
    ),
    min_size=20,  # few steps on few entries find little
    max_size=60,
)  # fmt: skip


class Model:
    """What was given, and nothing else."""

    def __init__(self, with_source: bool) -> None:
        self.texts: dict[str, str] = {}
        self.order: list[tuple[str, Any]] = []
        self.width, self.theme, self.made, self.spinner = 30, DARK, 0, False
        self.streaming: str | None = None
        self.view = TranscriptView(30, source=self.texts.get if with_source else None, shelf_bytes=SHELF)

    def new(self, text: str, number: int) -> tuple[str, Any]:
        self.made += 1
        id, kind = f"e{self.made}", KINDS[number % len(KINDS)]
        self.texts[id] = text
        return id, kind

    def step(self, name: str, number: int, text: str) -> None:
        view = self.view
        id, kind = self.order[number % len(self.order)] if self.order else ("", "user")
        if name == "append":
            id, kind = self.new(text, number)
            self.order.append((id, kind))
            view.append(id, kind, text)
            if kind == "assistant":
                self.streaming = id
            if LOOKS[kind].top:
                expected = {self.streaming} - {None} | ({id} if LOOKS[kind].markdown else set())
                assert {each for each, _ in self.order if view.is_live(each)} <= expected
        elif name == "older":
            entries = [self.new(text, number), self.new(text, number + 1)]
            view.put_older(Stored(id=id, kind=kind, text=text) for id, kind in entries)
            self.order[:0] = entries
        elif name == "load":
            entries = [self.new(text, number + each) for each in range(number % 5)]
            view.load(Stored(id=id, kind=kind, text=text, size=number) for id, kind in entries)
            self.order, self.spinner = entries, False
            self.streaming = id if entries and (id := entries[-1][0]) and entries[-1][1] == "assistant" else None
        elif name == "resize":
            self.width = 8 + number % 40
            view.resize(self.width)
        elif name == "theme":
            self.theme = LIGHT if number % 2 else DARK
            view.set_theme(self.theme)
        elif name == "spinner":
            self.spinner = bool(number % 2)
            view.set_spinner("working" if self.spinner else None)
        elif name == "end":
            whole = self.lines()
            assert list(view.page(view.end(5), 5).lines) == whole[-5:]
        elif name == "finalise":
            view.finalise()
            self.streaming = None
            assert view.live_holders() == 0
        elif not self.order:
            return
        elif name == "extend":
            self.texts[id] += text
            # The source has what was stored before.
            if view.is_live(id):
                view.extend(id, text)
            else:
                view.update(id, self.texts[id])
        elif name == "update":
            self.texts[id] = text
            view.update(id, text)
        elif name == "remove":
            view.remove(id)
            self.order.remove((id, kind))
            self.streaming = None if self.streaming == id else self.streaming
        elif name == "select":
            view.select(id)
        else:
            anchor = view.place(number)
            assert anchor is not None
            if name == "move":
                anchor = view.move(anchor, number - 50)
            page = view.page(anchor, 6)
            assert page.first == (view.line_of(page.anchor) if page.anchor else 0) and len(page.lines) <= 6
            kinds, row = dict(self.order), 0
            for part in page.parts:
                whole = [*render(kinds[part.id], self.texts[part.id], self.width, self.theme), ""]
                assert list(page.lines[row : row + part.rows]) == whole[part.line : part.line + part.rows]
                row += part.rows

    def lines(self) -> list[str]:
        found: list[str] = []
        for id, kind in self.order:
            lines = render(kind, self.texts[id], self.width, self.theme)
            found += [*lines, ""] if lines else []
        return found + (render("notice", "working", self.width, self.theme) if self.spinner else [])


@settings(max_examples=120, deadline=None)
@given(st.booleans(), steps)
def test_a_view_shows_what_rendering_everything_shows(with_source: bool, steps: list[tuple[str, int, str]]) -> None:
    model = Model(with_source)
    view = model.view
    for step in steps:
        model.step(*step)
        assert view.statistics().shelf.bytes <= SHELF
        assert view.live_holders() <= OPEN_ENTRIES_MAX + 1
    whole = model.lines()
    assert list(view.page(view.place(0), 100_000).lines) == whole
    assert view.total() == len(whole)
    for id, _ in model.order:
        view.remove(id)
    view.set_spinner(None)
    assert view.total() == 0 and view.live_holders() == 0
    view.load([])
    assert view.retained_bytes() == 0
