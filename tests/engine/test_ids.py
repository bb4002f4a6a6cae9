"""Ids: a prefix for the kind, unguessable, and what may come from outside as one."""

from __future__ import annotations

import re

import pytest

from engine import ids


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (ids.session_id, "ses"),
        (ids.run_id, "run"),
        (ids.message_id, "msg"),
        (ids.part_id, "prt"),
        (ids.call_id, "call"),
    ],
)
def test_an_id_tells_its_kind(make: object, prefix: str) -> None:
    assert callable(make)
    made = {make() for _ in range(2_000)}
    assert len(made) == 2_000
    for one in made:
        assert re.fullmatch(rf"{prefix}_[0-9a-hjkmnp-tv-z]{{20}}", one)
        assert ids.is_well_formed(one)


def test_every_letter_stands_at_every_place() -> None:
    # 100 random bits: with 4,000 ids no place misses one of 32 letters (probability below 1e-50).
    made = [ids.new_id("x")[2:] for _ in range(4_000)]
    for place in zip(*made, strict=True):
        assert len(set(place)) == 32


@pytest.mark.parametrize("text", ["a", "x" * 128, "call_1.2:3-4", "toolu_01A", "0"])
def test_well_formed(text: str) -> None:
    assert ids.is_well_formed(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a\n", "a/b", "é", "a\0", "٣", "a'b", "../x"])
def test_not_well_formed(text: str) -> None:
    assert not ids.is_well_formed(text)
