"""The index of heights against plain sums, and the shelf against its bound."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rendering.heights import Heights
from engine.rendering.shelf import ENTRY_BYTES, Shelf

heights = st.lists(st.integers(0, 9), max_size=30)


@settings(max_examples=150, deadline=None)
@given(heights, st.lists(st.tuples(st.sampled_from(["append", "set", "remove", "first", "fill"]), st.integers(0, 99))))
def test_the_index_says_what_sums_say(start: list[int], steps: list[tuple[str, int]]) -> None:
    index, plain = Heights(), list(start)
    index.fill(start)
    for step, number in steps:
        at = number % len(plain) if plain else 0
        if step == "append":
            index.append(number, known=True)
            plain.append(number)
        elif step == "first":
            index.put_first([number, 1])
            plain[:0] = [number, 1]
        elif step == "fill":
            index.fill(plain)
        elif plain and step == "set":
            index.set(at, number)
            plain[at] = number
            assert index.known(at)
        elif plain:
            index.remove(at)
            del plain[at]
    assert [index[number] for number in range(len(index))] == plain
    assert [index.before(number) for number in range(len(plain) + 1)] == [
        sum(plain[:number]) for number in range(len(plain) + 1)
    ]
    owners = [(number, line) for number, height in enumerate(plain) for line in range(height)]
    assert [index.find(line) for line in range(index.total())] == owners


def test_known_and_estimated() -> None:
    index = Heights()
    index.append(3, known=False)
    index.append(4, known=True)
    assert (index.known(0), index.known(1)) == (False, True)
    index.unknow(1, 7)
    assert index[1] == 4
    index.append(0, known=True)
    index.unknow(2, 7)
    assert index[2] == 7
    index.remove(2)
    index.put_first([9])
    assert not any(index.known(number) for number in range(3)) and index[0] == 9
    assert index.retained_bytes() == 3 * 13


def key(number: int) -> tuple[str, int, int, str]:
    return (f"m{number}", 1, 80, "dark")


def test_the_shelf_holds_as_much_as_fits_and_the_latest_used() -> None:
    lines = ["x" * 100, "y" * 100]
    size = ENTRY_BYTES + 16 + sum(map(sys.getsizeof, lines))
    shelf = Shelf(4 * size)
    for number in range(4):
        shelf.put(key(number), lines, 0)
    assert shelf.statistics().bytes == 4 * size and shelf.statistics().evictions == 0
    assert shelf.get(key(0), 0, 2) is not None
    shelf.put(key(4), lines, 0)
    assert shelf.get(key(1), 0, 2) is None and shelf.get(key(0), 0, 2) is not None
    assert shelf.statistics().evictions == 1 and shelf.statistics().bytes == 4 * size
    shelf.put(key(4), [], 0)  # instead of what was
    assert shelf.statistics().bytes == 3 * size + ENTRY_BYTES
    shelf.drop(key(4))
    shelf.drop(key(4))
    assert shelf.statistics().bytes == 3 * size and shelf.statistics().entries == 3
    shelf.clear()
    assert shelf.statistics().bytes == 0


def test_another_revision_width_or_theme_is_another_entry() -> None:
    shelf = Shelf(10_000)
    shelf.put(("m", 1, 80, "dark"), ["a"], 0)
    for other in (("m", 2, 80, "dark"), ("m", 1, 81, "dark"), ("m", 1, 80, "light"), ("n", 1, 80, "dark")):
        assert shelf.get(other, 0, 1) is None
    found = shelf.get(("m", 1, 80, "dark"), 0, 99)
    assert found is not None and found.lines == ("a",)


def test_a_long_rendering_is_kept_around_what_was_asked_for() -> None:
    lines = [f"{number:04}" for number in range(1000)]
    shelf = Shelf(10_000)
    shelf.put(key(0), lines, 500)
    assert 4000 < shelf.statistics().bytes <= 5000
    found = shelf.get(key(0), 495, 520)
    assert found is not None and found.total == 1000 and found.first < 495
    assert found.lines[500 - found.first] == "0500"
    assert shelf.get(key(0), 0, 10) is None and shelf.get(key(0), 1000, 2000) is not None
    shelf.put(key(0), lines, 999)
    assert shelf.get(key(0), 990, 2000) is not None
