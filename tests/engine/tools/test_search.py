"""What a search finds, leaves out, and where it stops."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from engine import codec
from engine.errors import CallerError
from engine.limits import KIB, MIB, Limits
from engine.tools.search import SEARCH_FILES, SearchFiles, search_files


def search(folder: Path, pattern: str = "needle", limits: Limits | None = None, **asked: object) -> list[str]:
    question = codec.decode({"pattern": pattern, **asked}, SearchFiles)
    result = search_files(str(folder), question, lambda: None, limits or Limits())
    assert not result.is_error
    return result.text.split("\n")


def make(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_lines_with_path_and_number_in_the_order_of_names(tmp_path: Path) -> None:
    make(tmp_path, b="x\nneedle 2\n\nneedle needle", a__c="a needle\r\n", a__b="none", c="needle", B="NEEDLE")
    assert search(tmp_path) == [
        "a/c:1: a needle",
        "b:2: needle 2",
        "b:4: needle needle",
        "c:1: needle",
        "[4 matches in 3 files; 5 files searched]",
    ]
    assert search(tmp_path, path="a") == ["a/c:1: a needle", "[1 match in 1 file; 2 files searched]"]
    assert search(tmp_path, path="b")[-1] == "[2 matches in 1 file; 1 file searched]"
    assert search(tmp_path, "nothing") == ["[0 matches in 0 files; 5 files searched]"]


def test_the_pattern_is_literal(tmp_path: Path) -> None:
    make(tmp_path, a="aXb\na.b\n(a|b)*\n")
    assert search(tmp_path, "a.b")[:-1] == ["a:2: a.b"]
    assert search(tmp_path, "(a|b)*")[:-1] == ["a:3: (a|b)*"]


def test_ignore_case(tmp_path: Path) -> None:
    make(tmp_path, a="Straße\nSTRASSE\nÉtage", b=b"\xc3\x89TAGE \xff")
    assert search(tmp_path, "strasse", ignore_case=True)[:-1] == ["a:1: Straße", "a:2: STRASSE"]
    assert search(tmp_path, "étage", ignore_case=True)[:-1] == ["a:3: Étage", "b:1: ÉTAGE \ufffd"]
    assert search(tmp_path, "strasse")[:-1] == []


def test_glob(tmp_path: Path) -> None:
    make(tmp_path, **{"a.py": "needle", "d__b.py": "needle", "d__c.js": "needle"})
    assert search(tmp_path, glob="*.py")[:-1] == ["a.py:1: needle", "d/b.py:1: needle"]
    assert search(tmp_path, glob="d/**")[:-1] == ["d/b.py:1: needle", "d/c.js:1: needle"]
    assert search(tmp_path, path="d", glob="/d/*.js")[:-1] == ["d/c.js:1: needle"]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    make(
        tmp_path, a="needle", binary=b"needle\0", late_nul=b"x" * 8192 + b"\0needle", large="needle" + "x" * 200,
        just="needle" + "x" * 194, **{".git__config": "needle", "out__b": "needle"},
    )  # fmt: skip
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "folder").symlink_to("out")
    os.mkfifo(tmp_path / "fifo")
    limits = Limits(file_tool_bytes=200)
    assert search(tmp_path, limits=limits) == [
        "a:1: needle",
        "just:1: needle" + "x" * 194,
        "out/b:1: needle",
        "[3 matches in 3 files; 3 files searched; skipped: 1 binary, 1 ignored, 2 link, 1 special, 2 too large]",
    ]
    assert search(tmp_path, path=".git")[0] == ".git/config:1: needle"


def test_unreadable_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, a="needle", b="needle")
    real_open = os.open

    def refuse(path: str, *arguments: int, **named: int | None) -> int:
        if path == "b":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)  # root, as which tests may run, reads everything
    assert search(tmp_path)[-1] == "[1 match in 1 file; 1 file searched; skipped: 1 unreadable]"


def test_gitignore_files_of_every_level(tmp_path: Path) -> None:
    make(
        tmp_path,
        **{
            ".gitignore": "*.log\n/build/\nsub/only\n", "a.log": "needle", "build__x": "needle",
            "sub__.gitignore": "!keep.log\nown\n", "sub__keep.log": "needle", "sub__b.log": "needle",
            "sub__own": "needle", "sub__only": "needle", "sub__build__x": "needle", "own": "needle",
        },
    )  # fmt: skip
    everywhere = ["own:1: needle", "sub/build/x:1: needle", "sub/keep.log:1: needle"]
    assert search(tmp_path)[:-1] == everywhere
    assert search(tmp_path, path="sub")[:-1] == everywhere[1:]
    # Asked for by name, what is ignored is searched.
    assert search(tmp_path, path="build")[:-1] == ["build/x:1: needle"]
    assert search(tmp_path, path="a.log")[:-1] == ["a.log:1: needle"]


def test_a_hostile_gitignore(tmp_path: Path) -> None:
    make(tmp_path, **{".gitignore": ("*a" * 1000 + "b\n") * 200, "a" * 200: "needle", "sub__x": "needle"})
    (tmp_path / "sub" / ".gitignore").symlink_to("/dev/zero")
    assert len(search(tmp_path)) == 3


def test_names_cannot_forge_lines(tmp_path: Path) -> None:
    (tmp_path / "a\nb:1: forged\x1b").write_text("needle")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/z\xff")).write_text("needle")
    assert search(tmp_path)[:-1] == ["a\ufffdb:1: forged\ufffd:1: needle", "z\ufffd:1: needle"]


def test_matches_at_the_bound_and_one_past(tmp_path: Path) -> None:
    make(tmp_path, a="needle\n" * 3, b="needle\n" * 2, c="needle")
    assert len(search(tmp_path, limits=Limits(search_matches=6))) == 7
    assert search(tmp_path, limits=Limits(search_matches=5))[5:] == [
        "[5 matches in 2 files; 3 files searched]",
        "[Stopped at 5 matches; there are more. Search a narrower path or pattern.]",
    ]


def test_the_result_is_bounded(tmp_path: Path) -> None:
    make(tmp_path, a=("needle " + "é" * 100 + "\n") * 1000)
    lines = search(tmp_path, limits=Limits(tool_result_bytes=10 * KIB))
    assert len("\n".join(lines).encode()) <= 10 * KIB
    assert lines[-1].startswith("[Stopped because the result is full")
    assert lines[-2].startswith(f"[{len(lines) - 2} matches in 1 file")
    lines = search(tmp_path, limits=Limits(tool_result_lines=10))
    assert len(lines) == 10 and lines[-1].startswith("[Stopped at 8 matches")


def test_names_are_bounded(tmp_path: Path) -> None:
    make(tmp_path, **{f"d{number}__{name}": "needle" for number in range(3) for name in "ab"})
    assert search(tmp_path, limits=Limits(search_files_max=9))[-1] == "[6 matches in 6 files; 6 files searched]"
    lines = search(tmp_path, limits=Limits(search_files_max=8))
    assert lines[:-1] == [f"d{number}/{name}:1: needle" for number in range(3) for name in "ab"][:5]
    assert lines[-1].endswith("skipped: 1 folder only in part (the bound is 8 names)]")


def test_a_long_line_shows_the_match_and_its_surroundings(tmp_path: Path) -> None:
    make(tmp_path, a="x" * 1000 + "needle" + "y" * 1000)
    assert search(tmp_path)[0] == "a:1: …" + "x" * 100 + "needle" + "y" * 194 + "…"


@pytest.mark.parametrize("before", [65_000, 65_300, 65_530, 65_533, 98_300, 131_070, 200_000])
def test_a_match_between_two_pieces_of_a_long_line_is_found_once(tmp_path: Path, before: int) -> None:
    make(tmp_path, a="first\n" + "é" * (before // 2) + "x" * (before % 2) + "needle" + "y" * 100_000 + "\nneedle\n")
    lines = search(tmp_path)
    assert lines[0].startswith("a:2: ") and "éneedleyyy" in lines[0].replace("x", "")
    assert lines[1:] == ["a:3: needle", "[2 matches in 1 file; 1 file searched]"]


def test_memory_does_not_depend_on_the_file(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * MIB)
        file.write(b"needle")
    tracemalloc.start()
    try:
        lines = search(tmp_path, limits=Limits(file_tool_bytes=100 * MIB))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB
    assert lines == ["a:1: …" + "x" * 100 + "needle", "[1 match in 1 file; 1 file searched]"]


def test_the_checkpoint_is_called_often(tmp_path: Path) -> None:
    make(tmp_path, big="x" * MIB)
    for number in range(200):
        make(tmp_path, **{f"many__{number}": "x"})
    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        calls += 1

    search_files(str(tmp_path), SearchFiles(pattern="needle"), checkpoint)
    assert calls >= 16 + 200


def test_a_cancelled_search_leaves_nothing_open(tmp_path: Path) -> None:
    make(tmp_path, a__b__c__file="x" * MIB)
    before = os.listdir("/proc/self/fd")
    for nth in range(1, 20):
        left = nth

        def checkpoint() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyError("cancelled")

        with pytest.raises(KeyError, match="cancelled"):
            search_files(str(tmp_path), SearchFiles(pattern="needle"), checkpoint)
        assert os.listdir("/proc/self/fd") == before


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="leads out"):
        search(tmp_path, path="..")
    with pytest.raises(CallerError, match="is a FIFO"):
        os.mkfifo(tmp_path / "fifo")
        search(tmp_path, path="fifo")
    with pytest.raises(codec.DecodeError) as caught:
        search(tmp_path, "a\nb", glob="", regex=True)
    assert sorted(field for field, _ in caught.value.fields) == ["glob", "pattern", "regex"]
    assert "not a regular expression" in SEARCH_FILES.input_schema.decode()
