"""Patterns as git reads them, and hostile ones in bounded time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tools.glob import Glob, IgnoreRules


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.py", ["a.py", "x/y/a.py", ".py"], ["a.pyc", "a.py/b"]),
        ("/a", ["a"], ["x/a", "ab"]),
        ("x/a", ["x/a"], ["y/x/a", "a"]),
        ("a?c", ["abc"], ["ac", "abbc"]),
        ("x/*", ["x/a"], ["x/a/b", "x"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["a/b", "c"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b/a/c"]),
        ("**/a", ["a", "x/a", "x/y/a"], ["a/x"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "[a-c]x"]),
        ("[!a]x", ["bx"], ["ax"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("[]]x", ["]x"], ["x"]),
        ("[ab", ["[ab"], ["a"]),
        (r"\*", ["*"], ["a"]),
        (r"\a\[b", ["a[b"], ["ab"]),
        ("a+(b).c", ["a+(b).c"], ["aab.c"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = Glob(pattern)
    assert [path for path in matching + others if glob.matches(path.split("/"))] == matching


def test_hostile_patterns_end() -> None:
    assert not Glob("*a" * 1000 + "b").matches(["a" * 255])
    assert not Glob("/".join(["**", "*a*a*a"] * 300)).matches(["a" * 200] * 60)


@given(st.text(alphabet="ab*?[]!^-/\\~&|é\n", min_size=1, max_size=12), st.text(alphabet="ab/[]é\\", max_size=8))
def test_any_pattern_is_taken(pattern: str, path: str) -> None:
    assert Glob(pattern).matches(path.split("/")) in (True, False)
    assert IgnoreRules(pattern, 5).ignores(path.split("/"), False) in (True, False, None)


def test_the_last_rule_that_matches_decides() -> None:
    rules = IgnoreRules("# a comment\n\n*.log\n!keep.log\nbuild/\n\\#x\n\\!y\nz \\ \n", 100)
    assert rules.ignores(["a.log"], False) is True
    assert rules.ignores(["x", "keep.log"], False) is False
    assert rules.ignores(["build"], True) is True
    assert rules.ignores(["build"], False) is None
    assert rules.ignores(["#x"], False) is True
    assert rules.ignores(["!y"], False) is True
    assert rules.ignores(["# a comment"], False) is None
    assert len(rules) == 6
    assert len(IgnoreRules("a\nb\nc", 2)) == 2


GITIGNORE = """\
*.o
!important.o
/top
docs/*.txt
**/cache
logs/**/old
temp/
a[0-9]?.dat
\\!bang
 spaced\\ 
trailing   
foo/**
"""  # noqa: W291 - spaces at the end are part of the format
PATHS = [
    "x.o", "important.o", "d/x.o", "d/important.o", "top", "d/top", "docs/a.txt", "docs/d/a.txt", "cache", "d/e/cache",
    "logs/old", "logs/a/b/old", "logs/olds", "temp", "d/temp", "a1b.dat", "a1.dat", "ab1.dat", "!bang", "bang",
    " spaced ", "spaced", "trailing", "foo", "bar/foo/x",
]  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the reference")
def test_as_git_decides(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(GITIGNORE)
    asked = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(PATHS).encode(),
        capture_output=True,
        check=False,
    )
    rules = IgnoreRules(GITIGNORE, 100)
    ours = [path for path in PATHS if rules.ignores(path.split("/"), False)]
    assert ours == asked.stdout.decode().split("\0")[:-1]
    assert ours
