"""Files written whole or not at all, inside the session's folder."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import CallerError
from engine.limits import Limits
from engine.tools.paths import DEPTH_MAX
from engine.tools.read import BLOCK_BYTES
from engine.tools.spec import FileChange, ToolResult
from engine.tools.write import WriteFile, write_file


class Cancelled(Exception):
    pass


def nothing() -> None:
    pass


def write(folder: Path, path: str, content: str, checkpoint: Callable[[], None] = nothing) -> ToolResult:
    return write_file(str(folder), WriteFile(path=path, content=content), checkpoint)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_new_file(tmp_path: Path) -> None:
    result = write(tmp_path, "a.txt", "één\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\xc3\xa9n\n"
    assert result == ToolResult(
        text="'a.txt' is new: 6 bytes.",
        title="a.txt",
        change=FileChange(path="a.txt", before=None, after=sha(b"\xc3\xa9\xc3\xa9n\n"), size=6),
    )
    assert sha(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_in_place_of_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old and longer")
    result = write(tmp_path, "./a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert result.change == FileChange(path="a", before=sha(b"old and longer"), after=sha(b"new"), size=3)
    assert result.text == "'./a' was replaced: 3 bytes."
    assert "had this content already" in write(tmp_path, "a", "new").text
    assert os.listdir(tmp_path) == ["a"]


def test_folders_are_made_inside(tmp_path: Path) -> None:
    write(tmp_path, "a/b/c/file", "x")
    assert (tmp_path / "a/b/c/file").read_text() == "x"
    (tmp_path / "link").symlink_to("made/later")
    write(tmp_path, "link/file", "y")
    assert (tmp_path / "made/later/file").read_text() == "y"
    (tmp_path / "dangling").symlink_to("a/new")
    write(tmp_path, "dangling", "z")
    assert (tmp_path / "a/new").read_text() == "z"
    assert (tmp_path / "dangling").is_symlink()


def test_the_mode_is_kept_and_of_a_new_file_the_umask_decides(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("old")
    script.chmod(0o4751)
    write(tmp_path, "script", "new")
    assert stat.S_IMODE(script.stat().st_mode) == 0o751  # as when anything else writes to it
    before = os.umask(0o027)
    try:
        write(tmp_path, "fresh", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with (tmp_path / "a").open() as reader:
        write(tmp_path, "a", "new")
        assert reader.read() == "old"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        (".", "is a directory"),
        ("sub", "is a directory"),
        ("sub/", "names a folder"),
        ("sub/.", "names a folder"),
        ("sub/..", "is a directory"),
        ("new/", "names a folder"),
        ("file/below", "is not a directory"),
        ("missing/../file", "no such file"),
        ("fifo", "is a FIFO"),
        ("fifo/x", "not a directory"),
        ("../new", "leads out"),
        ("out/new", "leads out"),
        ("new/../../x", "no such file"),
        ("x" * 300, "too long"),
        ("new/" + "x" * 300, "too long"),
        ("d/" * DEPTH_MAX + "x", "folders deep"),
        ("a\0b", "NUL"),
    ],
)
def test_what_is_refused(tmp_path: Path, path: str, why: str) -> None:
    folder = tmp_path / "inside"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("x")
    (folder / "out").symlink_to("..")
    os.mkfifo(folder / "fifo")
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(CallerError, match=why) as caught:
        write(folder, path, "content")
    assert caught.value.code == "invalid_path"
    assert os.listdir("/proc/self/fd") == descriptors
    assert os.listdir(tmp_path) == ["inside"]
    assert (folder / "file").read_text() == "x"
    assert not [name for name in os.listdir(folder) if name.startswith(".greenroom")]


def test_content_that_is_too_large_or_no_text(tmp_path: Path) -> None:
    limits = Limits(tool_input_bytes=10)
    assert not write_file(str(tmp_path), WriteFile(path="a", content="é" * 5), nothing, limits).is_error
    assert write_file(str(tmp_path), WriteFile(path="b", content="é" * 5 + "x"), nothing, limits).is_error
    assert write(tmp_path, "b", "\ud83d").is_error
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["write", "fsync", "link", "replace", "fchmod"])
def test_a_disk_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tmp_path / "a").write_text("old")

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CallerError, match="'a' cannot be written: No space left on device"):
        write(tmp_path, "a", "new")
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


@pytest.mark.parametrize("refused", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_whose_files_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    real = os.open

    def opened(path: str, flags: int, *rest: object, **given: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(refused, os.strerror(refused))
        return real(path, flags, *rest, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
    test_in_place_of_what_is_there(tmp_path)
    (tmp_path / "a").unlink()
    test_cancelled_at_every_checkpoint(tmp_path)
    test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch, "write")


KILLED = """
import os, signal, sys
from engine.tools.write import WriteFile, write_file
left = int(sys.argv[2])
def checkpoint():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
write_file(sys.argv[1], WriteFile(path="a", content="new" * int(sys.argv[3])), checkpoint)
"""


@pytest.mark.parametrize("at", range(4))
def test_killed_at_any_checkpoint_it_leaves_the_old_file_and_nothing_else(tmp_path: Path, at: int) -> None:
    """One checkpoint each for the old content, two blocks of the new one, and before it gets the name."""
    (tmp_path / "a").write_text("old")
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(at), str(BLOCK_BYTES // 2)]
    done = subprocess.run(command, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGKILL
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_write_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1000]))
    content = "x" * (BLOCK_BYTES + 5)
    write(tmp_path, "a", content)
    assert (tmp_path / "a").read_text() == content


def test_cancelled_at_every_checkpoint(tmp_path: Path) -> None:
    """The old file stays, and nothing else is left, until the call is done."""
    cancelled = 0
    while True:
        (tmp_path / "a").write_text("old" * BLOCK_BYTES)
        left = cancelled

        def checkpoint() -> None:
            nonlocal left
            if not left:
                raise Cancelled
            left -= 1

        try:
            write(tmp_path, "a", "new" * BLOCK_BYTES, checkpoint)
        except Cancelled:
            cancelled += 1
            assert (tmp_path / "a").read_text() == "old" * BLOCK_BYTES
            assert os.listdir(tmp_path) == ["a"]
        else:
            break
    assert cancelled > 6  # blocks to hash and to write
    assert (tmp_path / "a").read_text() == "new" * BLOCK_BYTES
