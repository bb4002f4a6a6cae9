"""The rules of a transcript view one by one, each from its two sides: what is released, and what is left alone."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from engine.rendering.entries import Anchor, Live, Page, Stored
from engine.rendering.kinds import render
from engine.rendering.styles import DARK, LIGHT, plain
from engine.rendering.view import ENTRY_BYTES, OPEN_ENTRIES_MAX, TranscriptView

ANSWER = "# Head\n\nSome *words* of an answer.\n\n- one\n- two\n"


def shown(page: Page) -> list[str]:
    return [plain(line).rstrip() for line in page.lines]


def everything(view: TranscriptView) -> list[str]:
    first = view.place(0)
    return shown(view.page(first, 10_000))


def answered(count: int, **options: object) -> TranscriptView:
    """A view of so many answers, each looked at while it was written."""
    view = TranscriptView(40, **options)  # type: ignore[arg-type]
    for number in range(count):
        view.append(f"a{number}", "assistant")
        view.extend(f"a{number}", f"answer {number}\n\n" + ANSWER)
        view.page(view.end(5), 5)
    return view


# ------------------------------------------------------------------ finalising
def test_a_new_answer_finalises_those_before_it_and_not_itself() -> None:
    view = answered(5)
    assert view.live_holders() == 1 and view.is_live("a4")
    assert not any(view.is_live(f"a{number}") for number in range(4))


def test_other_top_level_entries_leave_the_streaming_answer_live() -> None:
    view = answered(2)
    for kind, id in (("tool", "t"), ("user", "u"), ("notice", "n")):
        view.append(id, kind, "text")  # type: ignore[arg-type]
        assert view.live_holders() == 1 and view.is_live("a1")
    view.extend("a1", "\n\nmore")
    assert "more" in everything(view)
    view.finalise()
    assert view.live_holders() == 0 and "more" in everything(view)


def test_reasoning_between_pieces_of_an_answer_finalises_nothing() -> None:
    view = answered(1)
    view.append("r", "reasoning", "thinking *hard*")
    assert view.is_live("a0") and view.is_live("r")
    view.extend("a0", "\n\nmore")
    view.extend("r", " on")
    view.append("r2", "reasoning", "again")
    assert view.is_live("a0") and view.is_live("r") and view.live_holders() == 3
    assert ": thinking hard on" in everything(view) and "more" in everything(view)


def test_a_top_level_entry_finalises_reasoning_but_not_the_answer_around_it() -> None:
    view = answered(1)
    view.append("r", "reasoning", "thinking")
    view.append("t", "tool", "result")
    assert view.is_live("a0") and not view.is_live("r")
    assert everything(view)[-4:] == [": thinking", "", "  result", ""]


@pytest.mark.parametrize("whole", [False, True])
def test_a_late_update_makes_an_answer_live_again_until_the_next_entry(whole: bool) -> None:
    view = answered(3)
    if whole:
        view.update("a0", "other")
    else:
        view.extend("a0", "\n\nlate")
    assert view.is_live("a0") and view.is_live("a2") and not view.is_live("a1")
    found = everything(view)
    assert ("late" in found) is not whole and ("other" in found) is whole
    view.append("u", "user", "next")
    assert not view.is_live("a0") and view.is_live("a2")
    assert everything(view)[: len(found)] == found


def test_no_number_of_late_updates_keeps_more_than_a_few_live() -> None:
    view = answered(3 * OPEN_ENTRIES_MAX)
    for number in range(3 * OPEN_ENTRIES_MAX - 1):
        view.update(f"a{number}", f"late {number}")
    assert view.live_holders() == OPEN_ENTRIES_MAX + 1
    assert view.is_live(f"a{3 * OPEN_ENTRIES_MAX - 1}")  # the streaming one
    found = everything(view)
    assert all(f"late {number}" in found for number in range(3 * OPEN_ENTRIES_MAX - 1))


def test_finalised_lines_are_those_that_were_live() -> None:
    view = answered(1)
    live = everything(view)
    view.finalise()
    assert everything(view) == live  # from the shelf
    again = TranscriptView(40)
    again.load([Stored(id="a0", kind="assistant", text="answer 0\n\n" + ANSWER), Stored(id="u", kind="user", text="")])
    assert everything(again) == live  # by a transient renderer
    assert again.statistics().rendered == 2


def test_finalising_releases_and_the_view_is_flat_with_a_source() -> None:
    texts = {f"a{number}": f"answer {number}\n\n" + ANSWER for number in range(400)}
    view = TranscriptView(40, source=texts.get, shelf_bytes=20_000)
    sizes = []
    for id, text in texts.items():
        view.append(id, "assistant")
        view.extend(id, text)
        view.page(view.end(5), 5)
        sizes.append(view.retained_bytes())
    assert (sizes[399] - sizes[199]) / 200 < ENTRY_BYTES + 100  # an entry of the index, and its id
    held = TranscriptView(40, shelf_bytes=20_000)
    for id, text in texts.items():
        held.append(id, "assistant", text)
    assert held.retained_bytes() + 20_000 - sizes[-1] > 400 * len(ANSWER)  # without one, the texts are here


# ------------------------------------------------------------------ load
def test_a_loaded_session_is_finalised_but_for_its_last_entry() -> None:
    view = TranscriptView(40)
    view.load(Stored(id=f"a{number}", kind="assistant", text=f"answer {number}") for number in range(50))
    assert view.live_holders() == 1 and view.is_live("a49")
    assert view.statistics().rendered == 0
    view.extend("a49", " goes on")
    assert shown(view.page(view.end(3), 3)) == ["", "answer 49 goes on", ""]
    assert view.statistics().rendered == 1  # the one above, for its last line


def test_a_loaded_session_that_ends_with_a_question_has_nothing_live() -> None:
    view = TranscriptView(40)
    view.load([Stored(id="a", kind="assistant", text="answer"), Stored(id="u", kind="user", text="and now?")])
    assert view.live_holders() == 0
    assert everything(view) == ["answer", "", "> and now?", ""]


def test_loading_again_forgets_what_was() -> None:
    view = answered(3)
    view.set_spinner("…")
    view.select("a1")
    view.load([])
    assert (len(view), view.total(), view.live_holders(), view.retained_bytes()) == (0, 0, 0, 0)
    assert view.page(view.end(5), 5).lines == ()
    view.append("a1", "assistant", "new")
    assert everything(view) == ["new", ""] and view.page(view.end(5), 5).selected is None


# ------------------------------------------------------------------ spinner
def test_the_spinner_is_a_line_at_the_end_and_touches_nothing() -> None:
    view = answered(4)
    before, figures = everything(view), view.statistics()
    view.set_spinner("working")
    page = view.page(view.end(3), 3)
    assert shown(page) == [before[-2], before[-1], "working"] and page.total == len(before) + 1
    view.set_spinner(None)
    after = view.statistics()
    assert (after.rendered, after.shelf.entries, after.shelf.bytes) == (
        figures.rendered, figures.shelf.entries, figures.shelf.bytes,
    )  # fmt: skip
    assert after.live == 1 and view.is_live("a3")
    assert everything(view) == before


def test_an_entry_that_comes_is_before_the_spinner() -> None:
    view = answered(1)
    view.set_spinner("working")
    view.append("t", "tool", "result")
    assert everything(view)[-3:] == ["  result", "", "working"]


# ------------------------------------------------------------------ selection
def test_a_selection_renders_nothing_and_makes_nothing_live() -> None:
    view = answered(3)
    before, figures = everything(view), view.statistics()
    view.select("a1")
    page = view.page(view.place(0), 10_000)
    height = len(before) // 3
    assert page.selected == (height, 2 * height) and shown(page) == before
    view.select("a2")
    page = view.page(view.place(0), 10_000)
    assert page.selected == (2 * height, 3 * height) and view.is_live("a2") and not view.is_live("a1")
    assert view.statistics().rendered == figures.rendered
    view.select(None)
    assert view.page(view.place(0), 10_000).selected is None


def test_what_is_copied() -> None:
    view = answered(2)
    assert view.text("a0") == "answer 0\n\n" + ANSWER and view.text("a1") == "answer 1\n\n" + ANSWER
    assert view.copied(Anchor("a0", 2), Anchor("a0", 4)) == "Head\n\nSome words of an answer."
    with pytest.raises(KeyError):
        view.select("nobody")


# ------------------------------------------------------------------ what is rendered
def many(count: int = 5000, size: int = 400, *, sized: bool = True, **options: object) -> TranscriptView:
    view = TranscriptView(80, source=lambda id: f"message {id}\n\n" + "word " * (size // 5), **options)  # type: ignore[arg-type]
    view.load(Stored(id=str(number), kind="assistant", size=size if sized else 0) for number in range(count))
    return view


@pytest.mark.parametrize("sized", [True, False])
def test_only_what_is_seen_is_rendered_after_a_jump_and_a_resize(sized: bool) -> None:
    view = many(sized=sized)
    page = view.page(view.place(view.total() // 2), 50)
    assert len(page.lines) == 50 and view.statistics().rendered <= 10
    view.resize(60)
    assert view.statistics().rendered <= 10
    page = view.page(page.anchor, 50)
    assert len(page.lines) == 50 and view.statistics().rendered <= 20
    again = view.page(page.anchor, 50)
    assert again.lines == page.lines and view.statistics().rendered <= 20


def test_a_place_stays_when_heights_above_and_width_change() -> None:
    view = many(200, sized=False)
    page = view.page(view.place(view.total() // 2), 30)
    assert page.anchor is not None
    top = shown(page)[0]
    rows = [page]
    anchor = page.anchor
    for _ in range(40):  # up, a line at a time, through entries whose heights are wrong estimates
        anchor = view.move(anchor, -1)
        rows.append(view.page(anchor, 30))
    for above, below in zip(rows[1:], rows, strict=False):
        assert above.lines[1:] == below.lines[:-1]
    assert shown(view.page(page.anchor, 30))[0] == top
    assert view.move(anchor, 40) == page.anchor
    view.resize(40)
    assert view.page(page.anchor, 1).parts[0].id == page.parts[0].id


def test_pages_have_every_line_once_whichever_way() -> None:
    view = many(60, sized=False)
    whole = many(60).page(Anchor("0", 0), 100_000).lines
    found: list[str] = []
    anchor = view.place(0)
    assert anchor is not None
    while len(found) < len(whole):
        page = view.page(anchor, 7)
        found += page.lines
        assert page.first + len(page.lines) == len(found)
        anchor = view.move(anchor, 7)
    assert tuple(found) == whole and view.total() == len(whole)
    end = view.end(7)
    assert view.page(end, 7).lines == whole[-7:]
    assert view.lines(20, 25).lines == whole[20:25]


def test_jumps_beyond_what_is_gone_exactly_go_by_the_estimates() -> None:
    view = many()
    anchor = view.move(Anchor("0", 0), 20_000)
    assert view.statistics().rendered <= 1 and int(anchor.id) > 1000
    assert view.move(anchor, -(10**9)) == Anchor("0", 0)
    end = view.move(anchor, 10**9)
    assert end.id == "4999"


def test_older_entries_come_before_and_leave_the_place() -> None:
    view = answered(2)
    page = view.page(Anchor("a0", 2), 5)
    view.put_older(Stored(id=f"o{number}", kind="user", text=f"older {number}") for number in range(3))
    assert view.page(Anchor("a0", 2), 5).lines == page.lines
    view.put_older([Stored(id="p", kind="user", text="oldest")])
    assert everything(view)[:4] == ["> oldest", "", "> older 0", ""]
    view.append("z", "user", "newest")
    assert everything(view)[-2:] == ["> newest", ""] and view.text("o1") == "older 1"
    with pytest.raises(ValueError, match="already"):
        view.append("p", "user")


def test_an_entry_that_is_removed() -> None:
    view = answered(3)
    found = everything(view)
    view.remove("a1")
    height = len(found) // 3
    assert everything(view) == found[:height] + found[2 * height :] and "a1" not in view
    view.remove("a2")
    assert view.live_holders() == 0 and everything(view) == found[:height]
    view.extend("a0", "\n\nlate")
    assert "late" in everything(view)
    view.remove("a0")
    assert view.retained_bytes() == 0 and view.total() == 0


def test_themes_and_widths_are_kept_beside_each_other() -> None:
    view = answered(3, theme=DARK)
    view.finalise()
    everything(view)
    rendered = view.statistics().rendered
    view.set_theme(LIGHT)
    everything(view)
    assert view.statistics().rendered == rendered + 3
    view.set_theme(DARK)
    before = everything(view)
    assert view.statistics().rendered == rendered + 3
    view.resize(12)
    assert max(map(len, everything(view))) <= 12 < max(map(len, before))
    assert view.statistics().rendered == rendered + 6
    view.resize(40)
    assert everything(view) == before and view.statistics().rendered == rendered + 6


def test_a_resize_of_a_streaming_answer() -> None:
    view = answered(1)
    view.resize(8)
    view.extend("a0", "\n\nlong word wrapped")
    assert everything(view)[-5:] == ["", "long", "word", "wrapped", ""]
    assert view.live_holders() == 1


def test_the_shelf_never_passes_its_bound_and_a_huge_message_is_kept_in_part() -> None:
    texts = {f"a{number}": "line of text\n\n" * (4000 if number == 5 else 40) for number in range(12)}
    view = TranscriptView(40, source=texts.get, shelf_bytes=30_000)
    view.load(Stored(id=id, kind="assistant") for id in texts)
    view.finalise()
    for id in texts:
        view.page(Anchor(id, 0), 20)
        assert 0 < view.statistics().shelf.bytes <= 30_000
    view.page(Anchor("a5", 4000), 20)
    rendered = view.statistics().rendered
    for line in range(4000, 4040):
        assert len(view.page(Anchor("a5", line), 20).lines) == 20
    assert view.statistics().rendered == rendered
    assert shown(view.page(Anchor("a5", 7998), 2)) == ["line of text", ""]


# Each makes far more bytes of lines than it has: by its own bytes nothing would be bounded.
MULTIPLIED = {
    "table rows": "|a|b|\n|-|-|\n" + "|\n" * 6000,
    "rules": "---\n" * 6000,
    "empty items": "-\n" * 12_000,
    "blank lines of code": "```\n" + "\n" * 24_000,
    "blank lines of indented code": "    a\n" + "\n" * 24_000 + "    b\n" * 4000,
    "short lines": "a\n\n" * 8000,
}


@pytest.mark.parametrize("name", MULTIPLIED)
def test_the_lines_of_a_live_answer_are_bounded_whatever_its_text_makes_of_itself(name: str) -> None:
    text, bound = MULTIPLIED[name], 40_000
    whole = render("assistant", text, 100, DARK)
    assert sum(map(len, whole)) > 2 * bound or len(whole) > 4000
    view = TranscriptView(100, shelf_bytes=2 * bound)
    view.append("a", "assistant")
    for at in range(0, len(text), 3000):
        view.extend("a", text[at : at + 3000])
        view.page(view.end(40), 40)
        # The text, the lines, the open end, and what was looked at above.
        assert view.retained_bytes() < 2 * sys.getsizeof(text) + bound + bound // 2 + 20_000
    assert view.page(view.end(40), 40).lines == (*whole[-39:], "")
    assert view.statistics().rendered == 0  # following the end makes nothing again
    for line in (0, 100, 5, len(whole) // 2, len(whole) - 10, 1):
        assert list(view.page(Anchor("a", line), 40).lines) == [*whole, ""][line : line + 40]
        assert view.retained_bytes() < 2 * sys.getsizeof(text) + bound + bound // 2 + 20_000
    assert view.live_holders() == 1 and view.total() == len(whole) + 1
    view.finalise()
    assert view.page(view.end(40), 40).lines == (*whole[-39:], "")
    assert list(view.page(Anchor("a", 7), 40).lines) == whole[7:47]
    assert view.statistics().shelf.bytes <= 2 * bound


def test_a_live_answer_keeps_lines_up_to_its_bound_and_no_more() -> None:
    live, most = Live(b"", 10_000), 0
    for number in range(500):
        live.extend(f"line {number}\n\n")
        made = live.rendered("assistant", 40, DARK)
        assert made.stable_bytes() <= 10_000
        most = max(most, made.stable_bytes())
    assert most > 9_900 and 0 < made.gone < made.height == 999


def test_a_look_above_what_a_live_answer_keeps_is_not_made_for_each_page() -> None:
    view = TranscriptView(100, shelf_bytes=40_000)
    view.append("a", "assistant", "---\n" * 3000)
    view.page(view.end(40), 40)
    made = []
    for line in range(20, 60):  # a person scrolls while it streams
        view.extend("a", "more\n\n")
        assert len(view.page(Anchor("a", line), 20).lines) == 20
        made.append(view.statistics().rendered)
    assert made[0] == 1 and made[-1] <= 6  # once for as many lines as a quarter of the shelf has
    view.resize(60)
    assert len(view.page(Anchor("a", 20), 20).lines) == 20 and view.statistics().rendered == made[-1] + 1


def test_what_is_made_to_look_at_a_huge_entry_is_let_go_as_it_comes() -> None:
    text = "---\n" * 10_000  # 5 MB of lines
    view = TranscriptView(200, source=lambda id: text, shelf_bytes=100_000)
    view.load([Stored(id="a", kind="assistant", size=len(text)), Stored(id="u", kind="user", text="x")])
    tracemalloc.start()
    try:
        assert len(view.page(Anchor("a", 10_000), 40).lines) == 40
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert view.statistics().rendered_lines == 2 * 10_000
    assert most < 2_000_000


# ------------------------------------------------------------------ texts that are elsewhere
def test_a_text_that_is_not_at_hand_is_wanted_and_shown_when_it_is_supplied() -> None:
    view = TranscriptView(40, source=lambda id: None)
    view.load(Stored(id=f"m{number}", kind="assistant", size=100) for number in range(100))
    assert view.live_holders() == 0
    page = view.page(Anchor("m50", 0), 8)
    assert shown(page)[0] == "…" and len(page.lines) == 8
    assert set(view.wanted) == {"m50", "m51"}
    for id in list(view.wanted):
        view.supply(id, f"text of {id}")
    page = view.page(Anchor("m50", 0), 4)
    assert shown(page) == ["text of m50", "", "text of m51", ""] and not view.wanted
    with pytest.raises(LookupError):
        view.extend("m3", "more")
    view.update("m3", "whole")
    assert view.is_live("m3") and view.text("m3") == "whole" and view.text("m4") is None
    view.supply("gone", "text")
    assert "gone" not in view


def test_lines_that_were_made_apart_are_put_if_they_are_still_those() -> None:
    view = TranscriptView(40, source=lambda id: None, shelf_bytes=10_000)
    view.load(Stored(id=f"m{number}", kind="assistant", size=5000) for number in range(10))
    text = "".join(f"line {number}\n\n" for number in range(500))
    for line in (100, 600):  # the second is beyond what is kept around the first
        view.page(Anchor("m3", line), 8)
        make = view.prepare("m3", text)
        figures = view.statistics()
        made = make()
        assert view.statistics() == figures and view.wanted == {"m3": line}  # nothing was touched
        assert (
            view.put(made)
            and not view.wanted
            and shown(view.page(Anchor("m3", line), 3))
            == [
                f"line {line // 2}",
                "",
                f"line {line // 2 + 1}",
            ]
        )
        assert view.statistics().shelf.bytes <= 10_000
    for change in (
        lambda: view.resize(30),
        lambda: view.set_theme(LIGHT),
        lambda: view.update("m3", "new"),
        lambda: view.remove("m3"),
    ):
        made = view.prepare("m3", text)()
        change()
        rendered = view.statistics().rendered
        assert not view.put(made) and view.statistics().rendered == rendered
    assert "m3" not in view


def test_a_supplied_text_is_not_kept() -> None:
    view = TranscriptView(40, source=lambda id: None, shelf_bytes=10_000)
    view.load(Stored(id=f"m{number}", kind="assistant", size=4000) for number in range(100))
    before = view.retained_bytes()
    for number in range(100):
        view.page(Anchor(f"m{number}", 0), 5)
        view.supply(f"m{number}", "word " * 800)
        assert shown(view.page(Anchor(f"m{number}", 0), 1))[0].startswith("word")
        assert view.retained_bytes() <= before + 10_000


def test_tools_that_run_beside_each_other_keep_their_previews() -> None:
    view = TranscriptView(40, source=lambda id: None)
    for number in range(8):
        view.append(f"t{number}", "tool")
    for number in range(8):
        view.update(f"t{number}", f"preview {number}")
    assert everything(view) == [line for number in range(8) for line in (f"  preview {number}", "")]
    assert view.live_holders() == 0
    view.finalise()
    assert "  preview 3" in everything(view)  # from the shelf


def test_halves_of_characters_and_empty_texts() -> None:
    view = TranscriptView(40)
    view.append("a", "assistant", "x\ud83d")
    assert everything(view) == ["x\ufffd", ""]
    view.append("b", "assistant")
    assert everything(view) == ["x\ufffd", ""] and view.text("a") == "x\ud83d"
    view.append("c", "tool", "")
    assert everything(view) == ["x\ufffd", ""] and view.end(10) == Anchor("a", 0)


def test_an_answer_that_is_looked_at_while_it_streams_is_what_it_is_at_once() -> None:
    view, text = TranscriptView(40), ANSWER * 5
    view.append("u", "user", "question")
    view.append("a", "assistant")
    for at in range(0, len(text), 7):
        view.extend("a", text[at : at + 7])
        so_far = TranscriptView(40)
        so_far.load(
            [Stored(id="u", kind="user", text="question"), Stored(id="a", kind="assistant", text=text[: at + 7])]
        )
        so_far.finalise()
        assert view.page(view.end(4), 4).lines == so_far.page(so_far.end(4), 4).lines  # follows the end
    assert everything(view) == everything(so_far) and view.statistics().rendered == 1  # the question
    view.finalise()
    view.page(view.end(4), 4)
    assert view.statistics().rendered == 1  # what was live is on the shelf


def test_texts_of_all_kinds_go_when_they_are_finalised() -> None:
    view = TranscriptView(40, source=lambda id: "from the source", shelf_bytes=1000)
    for kind in ("user", "tool", "notice", "assistant", "reasoning"):
        view.append(kind, kind, "x" * 10_000)  # type: ignore[arg-type]
    assert view.retained_bytes() > 50_000
    view.finalise()
    assert view.retained_bytes() < 3000
    assert everything(view)[:2] == ["> from the source", ""]


def test_what_is_wanted_is_what_the_last_page_lacked() -> None:
    view = TranscriptView(40, source=lambda id: None)
    view.load(Stored(id=f"m{number}", kind="assistant", size=1000) for number in range(100))
    view.page(Anchor("m10", 0), 5)
    view.page(Anchor("m20", 3), 5)
    assert view.wanted == {"m20": 3}
