"""An exact text replaced, the rest of the file byte for byte as it was, and a diff that says what changed."""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import codec
from engine.errors import CallerError
from engine.limits import Limits
from engine.tools.edit import EditFile, _diff, _Edited, _places, edit_file
from engine.tools.spec import FileChange, ToolResult


def nothing() -> None:
    pass


def edit(folder: Path, old: str, new: str, *, everywhere: bool = False, limits: Limits | None = None) -> ToolResult:
    asked = EditFile(path="file", old_text=old, new_text=new, replace_all=everywhere)
    return edit_file(str(folder), asked, nothing, limits or Limits())


def edited(folder: Path, content: bytes, old: str, new: str, *, everywhere: bool = False) -> bytes:
    (folder / "file").write_bytes(content)
    result = edit(folder, old, new, everywhere=everywhere)
    assert not result.is_error, result.text
    after = (folder / "file").read_bytes()
    assert result.change == FileChange(
        path="file",
        before=hashlib.sha256(content).hexdigest(),
        after=hashlib.sha256(after).hexdigest(),
        size=len(after),
    )
    return after


@pytest.mark.parametrize(
    ("content", "old", "new", "after"),
    [
        (b"one two\n", "two", "2", b"one 2\n"),
        (b"one\ntwo\nthree", "two\n", "", b"one\nthree"),
        (b"a\nb\n", "a\nb", "c\nd\ne", b"c\nd\ne\n"),
        (b"a\r\nb\r\nc\r\n", "a\nb", "x\ny", b"x\r\ny\r\nc\r\n"),
        (b"a\r\nb\r\n", "a", "x\ny", b"x\r\ny\r\nb\r\n"),
        (b"a\r\nb\r\n", "a\r\nb", "x\r\ny", b"x\r\ny\r\n"),
        (b"a\r\nb\nc\r\n", "a\nb", "x\ny", b"x\r\ny\nc\r\n"),  # mixed: found only as CR LF
        (b"a\r\nb\nc\n", "b\nc", "x\ny", b"a\r\nx\ny\n"),  # mixed: found as it was given
        (b"\xef\xbb\xbfone\n", "one", "two", b"\xef\xbb\xbftwo\n"),
        (b"caf\xe9 one\n", "one", "\xe9", b"caf\xe9 \xc3\xa9\n"),
        (b"one", "one", "", b""),
    ],
)
def test_what_is_not_replaced_stays_as_it_is(tmp_path: Path, content: bytes, old: str, new: str, after: bytes) -> None:
    assert edited(tmp_path, content, old, new) == after


def test_every_place(tmp_path: Path) -> None:
    assert edited(tmp_path, b"aXbXc\nX", "X", "--", everywhere=True) == b"a--b--c\n--"
    assert edited(tmp_path, b"aaa", "aa", "b", everywhere=True) == b"ba"


@pytest.mark.parametrize(
    ("content", "old", "new", "says"),
    [
        (b"one\ntwo\n", "three", "x", "does not stand in 'file', which has 2 lines"),
        (b"x\ny\nx x\n", "x", "z", "stands 3 times in 'file', in the lines 1, 3, 3; nothing was changed"),
        (b"x\n" * 12, "x", "z", "stands 12 times in 'file', in the lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …; nothing"),
        (b"x", "x", "x", "are the same"),
        (b"a\r\nb\r\n", "a\nb", "a\r\nb", "are the same"),
        (b"a\0b", "a", "b", "is a binary file"),
        (b"a", "\ud83d", "b", "half a character"),
    ],
)
def test_what_cannot_be_done_changes_nothing(tmp_path: Path, content: bytes, old: str, new: str, says: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    before = file.stat()
    result = edit(tmp_path, old, new)
    assert result.is_error and says in result.text and result.change is None
    assert (file.read_bytes(), file.stat().st_ino) == (content, before.st_ino)
    assert os.listdir(tmp_path) == ["file"]


def test_sizes_at_the_bound_and_one_past(tmp_path: Path) -> None:
    limits = Limits(file_tool_bytes=100)
    file = tmp_path / "file"
    file.write_bytes(b"x" + b"y" * 99)
    assert not edit(tmp_path, "x", "z", limits=limits).is_error
    assert "would be over 100 bytes" in edit(tmp_path, "z", "zz", limits=limits).text
    file.write_bytes(b"x" + b"y" * 100)
    assert "too large to edit" in edit(tmp_path, "x", "", limits=limits).text
    file.write_bytes(b"x" * 50)
    assert "would be over" in edit(tmp_path, "x", "y" * 1000, everywhere=True, limits=limits).text


def test_the_mode_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    (tmp_path / "file").chmod(0o700)
    edit(tmp_path, "a", "b")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o700


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="no such file"):
        edit(tmp_path, "a", "b")
    with pytest.raises(CallerError, match="no such file"):
        edit_file(str(tmp_path), EditFile(path="x/file", old_text="a", new_text="b"), nothing)
    assert os.listdir(tmp_path) == []


def test_an_empty_text_fits_nowhere() -> None:
    with pytest.raises(codec.DecodeError, match="not empty"):
        codec.decode({"path": "a", "old_text": "", "new_text": "b"}, EditFile)


# ------------------------------------------------------------------ the diff
def test_a_diff(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("".join(f"line {number}\n" for number in range(1, 21)))
    result = edit(tmp_path, "line 10\nline 11\n", "ten\neleven\nmore\n")
    assert result.text.splitlines() == [
        "--- file", "+++ file", "@@ -7,8 +7,9 @@", " line 7", " line 8", " line 9", "-line 10", "-line 11", "+ten",
        "+eleven", "+more", " line 12", " line 13", " line 14",
    ]  # fmt: skip
    result = edit(tmp_path, "line 1", "LINE 1", everywhere=True)
    assert result.text.splitlines()[:5] == ["--- file", "+++ file", "@@ -1,4 +1,4 @@", "-line 1", "+LINE 1"]
    assert "[" not in result.text


def test_a_diff_is_short(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x\n\n\n\n\n\n\n\n" * 500)
    result = edit(tmp_path, "x", "y", everywhere=True)
    assert result.text.endswith("[480 more places were changed]")
    assert len(result.text) < 9000 and len(result.text.splitlines()) <= 122
    (tmp_path / "file").write_text("x" * 1_000_000)
    assert len(edit(tmp_path, "x" * 1_000_000, "y" * 1_000_000).text) < 9000


LINES = st.lists(st.sampled_from(["x\n", "y\n", "z\n", "xx\n", "\n", "zxz\n"]), max_size=12).map("".join)


@settings(deadline=None)
@given(LINES, st.text("xyz\n", min_size=1, max_size=3), st.text("xyz\n", max_size=3))
def test_a_diff_leads_from_the_old_to_the_new(content: str, old: str, new: str) -> None:
    data = content.encode()
    places = _places(data, old.encode(), 21)
    if not places or old == new or len(places) > 20:
        return
    after = content.replace(old, new)
    text = _diff("f", data, _Edited(after.encode(), places, old.encode(), new.encode()))
    assert _patched(content.splitlines(), text.splitlines()[2:]) == after.splitlines()
    # And it is about as short as one that was found by comparing.
    best = list(difflib.unified_diff(content.splitlines(), after.splitlines(), n=3))
    assert len(text.splitlines()) <= 3 * len(best) + 10


def _patched(lines: list[str], diff: list[str]) -> list[str]:
    """What a program that applies patches does."""
    result: list[str] = []
    position = 0
    for line in diff:
        if line.startswith("@@"):
            begin, count = (int(number) for number in line.split()[1][1:].split(","))
            begin = begin - 1 if count else begin
            assert begin >= position
            result += lines[position:begin]
            position = begin
            new_begin = int(line.split()[2][1:].split(",")[0])
            assert new_begin - 1 in (len(result), len(result) - 1)
        elif line[0] in " -":
            assert lines[position] == line[1:]
            position += 1
        if line[0] in " +":
            result.append(line[1:])
    return result + lines[position:]
