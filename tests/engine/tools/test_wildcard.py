"""Patterns of permission rules against their meaning spelled out, and hostile ones in bounded time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tools.wildcard import ANY, Wildcard, escape


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("", [""], ["a"]),
        ("ab", ["ab"], ["a", "abc", "xab", "AB"]),
        ("a*", ["a", "ab", "a/b c\n"], ["ba"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("a?c", ["abc", "a/c"], ["ac", "abbc"]),
        ("*a*b*", ["ab", "xaxbx"], ["ba"]),
        ("a*a", ["aa", "aba"], ["a"]),
        (r"a\*", ["a*"], ["ab"]),
        (r"\?", ["?"], ["a"]),
        (r"a\\", ["a\\"], ["a"]),
        ("a\\", ["a\\"], ["a"]),
        ("[a-c]", ["[a-c]"], ["a"]),
        ("?*?", ["ab", "abc"], ["a", ""]),
    ],
)
def test_meaning(pattern: str, matching: list[str], others: list[str]) -> None:
    wildcard = Wildcard(pattern)
    for value in matching:
        assert wildcard.may_match(value), value
        assert wildcard.must_match(value), value
    for value in others:
        assert not wildcard.may_match(value), value
        assert not wildcard.must_match(value), value


@pytest.mark.parametrize(
    ("pattern", "value", "may", "must"),
    [
        ("rm *", "rm {}", True, True),
        ("rm *", "{} x", True, False),
        ("rm x", "{}", True, False),
        ("rm *", "ls {}", False, False),
        ("*", "{}", True, True),
        ("?", "{}", True, False),
        ("a*c", "a{}c", True, True),
        ("a*c", "a{}d", False, False),
        ("a*c", "a{}", True, False),
        ("a?*", "a{}", True, False),
        ("reboot", "{} rm x", False, False),
    ],
)
def test_unknown_text(pattern: str, value: str, may: bool, must: bool) -> None:
    value = value.format(ANY)
    assert Wildcard(pattern).may_match(value) is may
    assert Wildcard(pattern).must_match(value) is must


def test_where_a_value_may_begin() -> None:
    assert Wildcard("rm *").may_match("sudo rm x", {0, 5, 8})
    assert not Wildcard("rm *").may_match("sudo rm x", {0, 8})
    assert Wildcard("*").may_match("x", {1})


def test_an_optional_tail() -> None:
    assert Wildcard("ls *", optional_tail=True).must_match("ls")
    assert Wildcard("ls *", optional_tail=True).may_match("ls -l")
    assert not Wildcard("ls *", optional_tail=True).must_match("lsof")
    assert not Wildcard("ls *").must_match("ls")
    assert not Wildcard(r"ls \*", optional_tail=True).must_match("ls")


def test_patterns_without_wildcards_say_their_text() -> None:
    assert Wildcard(r"a\*b").exact == "a*b"
    assert Wildcard("a*").exact is None
    assert Wildcard("a?").exact is None


def _means(pattern: list[str], value: str) -> bool:
    """The definition, for small values: `pattern` is single characters, "*" and "?" of them special."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(_means(pattern[1:], value[cut:]) for cut in range(len(value) + 1))
    return bool(value) and pattern[0] in ("?", value[0]) and _means(pattern[1:], value[1:])


@given(st.lists(st.sampled_from("ab*?"), max_size=7), st.text("ab?*", max_size=7))
def test_against_the_definition(pattern: list[str], value: str) -> None:
    wildcard = Wildcard("".join(pattern))
    assert wildcard.may_match(value) == wildcard.must_match(value) == _means(pattern, value)
    # The other way of matching gives the same.
    assert wildcard.may_match(value, {0}) == _means(pattern, value)


@given(st.lists(st.sampled_from("ab*?"), max_size=5), st.text("ab" + ANY, max_size=5), st.text("ab", max_size=3))
def test_unknown_text_against_a_text_in_its_place(pattern: list[str], value: str, text: str) -> None:
    wildcard = Wildcard("".join(pattern))
    matches = _means(pattern, value.replace(ANY, text))
    assert wildcard.may_match(value) or not matches
    assert matches or not wildcard.must_match(value)


@given(st.text(max_size=50))
def test_an_escaped_text_matches_itself_only(text: str) -> None:
    pattern = Wildcard(escape(text))
    assert pattern.exact == text
    assert pattern.must_match(text)
    assert not pattern.must_match(text + "x")


def test_no_pattern_goes_back_over_a_value() -> None:
    value = "a" * 100_000
    assert not Wildcard("*a" * 400 + "b").may_match(value)
    assert not Wildcard("*a?" * 300 + "b").may_match(value)
    assert not Wildcard("*a" * 400 + "b").may_match(value + ANY + "c")
