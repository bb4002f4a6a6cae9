"""Messages as entries: what is shown of each part, on one line and unfolded, with nothing that a terminal obeys."""

from __future__ import annotations

from typing import Any

import pytest

from actors.terminal import texts
from actors.terminal.cache import Texts
from actors.terminal.places import MARK_STEP, Places
from actors.terminal.texts import Preview, call_text, one_line, piece_of, pieces_of, whole

EVIL = "a\x1b]0;owned\x07\x1b[2Jb\r\nc\x9bd"


def message(role: str, *parts: dict[str, Any], **info: Any) -> dict[str, Any]:
    return {"info": {"id": "msg_1", "role": role, "created_at": 1, **info}, "parts": list(parts)}


def part(kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": fields.pop("id", "prt_1"), "kind": kind, **fields}


def call(state: str, **fields: Any) -> dict[str, Any]:
    return part("tool", call_id="call_1", tool="files.read", state=state, input={"path": "x"}, **fields)


def test_a_users_message_is_one_entry() -> None:
    told = message("user", part("text", text="look"), part("file", mime="image/png", size=1234, name="a\x1b.png"))
    (piece,) = pieces_of(told)
    assert (piece.id, piece.kind) == ("msg_1", "user")
    assert piece.text == "look\n\n[file a␛.png image/png, 1,234 bytes]"


def test_an_answer_has_an_entry_for_each_part_that_is_to_be_seen_and_one_for_its_end() -> None:
    told = message(
        "assistant",
        part("step-start", turn=1),
        part("reasoning", id="prt_r", text="hm"),
        part("text", id="prt_t", text="yes"),
        part("novelty", id="prt_n", text="of a later daemon"),
        part("step-finish", turn=1, finish="error", usage={}),
        finish="error",
        error={"code": "provider_error", "message": EVIL},
        parts_more=3,
    ) | {"parts_more": 3}
    found = [(piece.id, piece.kind, piece.text) for piece in pieces_of(told)]
    assert found[:2] == [("prt_r", "reasoning", "hm"), ("prt_t", "assistant", "yes")]
    assert found[2] == ("msg_1+", "notice", "[3 more parts are not shown]")
    id, kind, text = found[3]
    assert (id, kind) == ("msg_1!", "notice") and text.startswith("[the model call failed] a␛]0;owned␇")
    assert text.isprintable() and len(found) == 4


@pytest.mark.parametrize(
    ("finish", "wanted"), [("stop", None), ("tool_calls", None), ("cancelled", "[stopped]"), ("later", None)]
)
def test_of_an_end_is_told_what_is_not_as_it_should_be(finish: str, wanted: str | None) -> None:
    assert texts.ending_of(finish, None) == wanted


def test_a_call_is_a_line_and_unfolds() -> None:
    told = call("completed", output="one\ntwo", title="x, 2 lines")
    assert call_text(told, False) == "▸ ✓ files.read x, 2 lines (2 lines)"
    assert call_text(told, True) == "▾ ✓ files.read x, 2 lines\npath: x\noutput:\none\ntwo"
    assert call_text(call("error", error=EVIL), False) == '▸ ✗ files.read {"path": "x"}\n  a␛]0;owned␇␛[2Jb c\ufffdd'
    assert call_text(call("running"), False, ["at work"]) == '● files.read {"path": "x"}\n  at work'
    assert call_text(call("completed", output=""), False).endswith("(0 lines)")
    more = call("completed", output="head…tail", output_more={"bytes": 70_000, "handle": "out_1"})
    assert call_text(more, False).endswith("(70,000 bytes)")


def test_what_is_cut_on_the_wire_is_read_by_its_handle_when_it_is_looked_at() -> None:
    told = call("completed", output="head", output_more={"bytes": 70_000, "handle": "out_1"})
    folded, unfolded = piece_of(told), piece_of(told, unfolded=True)
    assert folded is not None and folded.handle is None
    assert unfolded is not None and unfolded.handle == "out_1"
    assert whole(unfolded, "all of it").text.endswith("output:\nall of it")
    text = piece_of(part("text", text="head", text_more={"bytes": 40_000, "handle": "prt_1:text"}))
    assert text is not None and (text.size, text.handle) == (40_000, "prt_1:text")
    assert whole(text, "all").text == "all" and whole(text, "all").handle is None


def test_an_unfolded_call_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "UNFOLDED_BYTES", 100)
    assert call_text(call("completed", output="é" * 50), True).endswith("é" * 50)
    assert call_text(call("completed", output="é" * 51), True).endswith("é" * 50 + "\n[… 2 bytes more]")


def test_one_line_is_cut_at_its_cells() -> None:
    assert one_line("x" * 10, 10) == "x" * 10
    assert one_line("x" * 11, 10) == "x" * 9 + "…"
    assert one_line("日本語日本", 10) == "日本語日本"
    assert one_line("日本語日本語", 10) == "日本語日…"
    assert one_line("a\n  b\tc", 10) == "a b c"
    assert one_line("", 10) == ""
    assert one_line(EVIL, 80).isprintable()


def test_a_preview_keeps_the_last_lines() -> None:
    preview = Preview()
    preview.take("0%\r50%\r")
    preview.take("".join(f"line {number}\n" for number in range(20)) + "and th")
    preview.take("en")
    assert preview.shown() == ["line 16", "line 17", "line 18", "line 19", "and then"]
    for _ in range(1000):
        preview.take("y" * 1000)
    assert sum(map(len, [*preview.lines, preview._rest])) < 10_000
    assert all(len(line) <= texts.PREVIEW_CELLS for line in preview.shown())


# ------------------------------------------------------------------ what is at hand
def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago() -> None:
    cache = Texts(4 * 1500)
    for name in "abcd":
        cache.put(name, name * 1000)
    assert [name for name in "abcd" if cache.get(name)] == list("abcd")
    assert cache.get("a") == "a" * 1000
    cache.put("e", "e" * 1000)
    cache.put("f", "f" * 1000)
    assert cache.retained_bytes() <= 4 * 1500
    assert cache.get("a") and cache.get("f") and not cache.get("b")
    cache.put("large", "x" * 1500)  # with what it costs beside, more than a quarter
    assert cache.get("large") is None and cache.get("a")
    cache.put("a", "\ud83d half")
    assert cache.get("a") == "\ud83d half"
    for name in "abcdef":
        cache.drop(name)
    assert cache.retained_bytes() == 0


def filled(count: int, first: int = 0) -> Places:
    places = Places()
    for number in range(first, first + count):
        places.add(places.end, f"e{number}")
    return places


def test_places_number_messages_both_ways() -> None:
    places = filled(3)
    places.add(2, "e2b")
    places.put_older([["o1"], ["o2", "o2b"]])
    assert [places.number(id) for id in ("o1", "o2", "o2b", "e0", "e2", "e2b")] == [-2, -1, -1, 0, 2, 2]
    assert (len(places), places.end) == (5, 3)
    assert places.cut(1) == ["e2b", "e2", "e1"]
    assert (places.end, "e2" in places, "e0" in places) == (1, False, True)


def test_a_message_is_asked_for_by_the_nearest_mark_behind_it() -> None:
    places = filled(100)
    places.mark([f"e{number}" for number in range(50, 100)], "before 50")
    places.mark([f"e{number}" for number in range(20, 50)], "before 20")
    assert places.cursor_of("e99") is None and places.cursor_of("e50") is None
    assert places.cursor_of("e49") == "before 50" and places.cursor_of("e20") == "before 50"
    assert places.cursor_of("e19") == "before 20"
    assert places.before() is None  # what is before e0 is not known
    places.mark(["e0", "e1"], "before 0")
    assert places.before() == "before 0"
    places.cut(30)
    assert places.cursor_of("e25") is None


def test_marks_are_not_closer_than_a_step() -> None:
    places = filled(10 * MARK_STEP)
    for number in range(1, 10 * MARK_STEP):
        places.mark([f"e{number}"], f"before {number}")
    assert len(places._marks) == 10
