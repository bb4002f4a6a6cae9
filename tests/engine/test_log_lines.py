"""Lines of the log: one record is one line, bounded, that forges nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.log_lines import ERROR_MAX, LINE_MAX, MESSAGE_MAX, VALUE_MAX, Form, Line, encode


def line(**fields: Any) -> Line:
    return Line(
        **{"at": "2026-01-02T03:04:05.678Z", "level": "WARNING", "logger": "greenroom.x", "message": "m", **fields}
    )


def test_text_is_for_people() -> None:
    shown = encode(line(message="it ends", context={"session_id": "ses_1", "run_id": "run_1"}), "text")
    assert shown == b"2026-01-02T03:04:05.678Z WARNING greenroom.x: it ends session_id=ses_1 run_id=run_1\n"


def test_json_is_one_object() -> None:
    shown = encode(line(message="a\nb", context={"run_id": "run_1"}, error="E: x\n  y"), "json")
    assert shown.count(b"\n") == 1 and shown.endswith(b"\n")
    assert json.loads(shown) == {
        "ts": "2026-01-02T03:04:05.678Z",
        "level": "warning",
        "logger": "greenroom.x",
        "message": "a\nb",
        "run_id": "run_1",
        "exc": "E: x\n  y",
    }


def test_nothing_forges_a_line_of_text() -> None:
    forged = "x\n2026-01-02T03:04:05.678Z ERROR greenroom: forged\r\x1b[2J\u2028\x85"
    shown = encode(line(message=forged, context={"run_id": forged}, error=forged), "text").decode()
    first, second, third, end = shown.split("\n")
    assert first.startswith("2026-") and r"x\n2026-" in first and r"\r\x1b[2J\u2028\x85" in first
    assert second == "    x" and third.startswith("    2026-") and not end
    assert not any(ord(character) < 32 for character in first + second + third)


@given(st.text(), st.text(), st.none() | st.text(), st.sampled_from(["text", "json"]))
def test_every_line_is_printable_and_valid(message: str, value: str, error: str | None, form: Form) -> None:
    shown = encode(line(message=message, context={"run_id": value}, error=error), form).decode()
    assert shown.endswith("\n")
    if form == "json":
        assert shown.count("\n") == 1 and set(json.loads(shown)) >= {"ts", "level", "logger", "message", "run_id"}
    else:
        first, *more = shown[:-1].split("\n")
        assert first.isprintable() and all(each.startswith("    ") and each.isprintable() for each in more)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("character", ["a", "ü", "\U0001f600", "\\", '"', "\n", "\x00", "\ud83d", "\U000e0001"])
def test_a_line_is_bounded(form: Form, character: str) -> None:
    big = character * 10 * (ERROR_MAX + MESSAGE_MAX)
    context = {"session_id": big, "run_id": big, "toolset": big, "ref": big}
    assert len(encode(line(message=big, context=context, error=big), form)) <= LINE_MAX


def test_of_a_long_text_its_end_is_kept_too() -> None:
    shown = json.loads(encode(line(error="begin" + "x" * 2 * ERROR_MAX + "end"), "json"))["exc"]
    assert len(shown) == ERROR_MAX and shown.startswith("begin") and shown.endswith("end") and "…" in shown


def test_what_fits_is_not_cut() -> None:
    full = line(message="x" * MESSAGE_MAX, context={"run_id": "y" * VALUE_MAX}, error="z" * ERROR_MAX)
    shown = json.loads(encode(full, "json"))
    assert (shown["message"], shown["run_id"], shown["exc"]) == (full.message, full.context["run_id"], full.error)
