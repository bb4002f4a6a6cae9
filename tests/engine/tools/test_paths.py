"""Nothing outside the session's folder is opened, whatever the path says."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from engine.errors import CallerError
from engine.tools.paths import DEPTH_MAX, PATH_BYTES_MAX, check_folder, open_entry, open_file, open_path, read_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A session's folder with traps in it, beside a secret."""
    inside = tmp_path / "inside"
    (inside / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "inside-too").mkdir()
    (tmp_path / "inside-too" / "file").write_text("secret")
    (inside / "file").write_text("inside")
    (inside / "sub" / "file").write_text("below")
    links = {
        "to_file": "file", "sub/to_parent_file": "../file", "absolute": str(inside / "sub" / "file"), "to_sub": "sub",
        "out": "../secret", "out_absolute": str(tmp_path / "secret"), "out_folder": "..", "sub/out": "../../secret",
        "chain": "chain2", "chain2": "out", "loop": "loop2", "loop2": "loop", "dangling": "nothing",
        "root": "/", "proc": "/proc/self/cwd", "sub/up": "..",
    }  # fmt: skip
    for name, target in links.items():
        (inside / name).symlink_to(target)
    os.mkfifo(inside / "fifo")
    return inside


def read(folder: Path, path: str) -> str:
    descriptor = open_file(str(folder), path)
    try:
        return os.read(descriptor, 100).decode()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("file", "inside"),
        ("./file", "inside"),
        ("sub//file", "below"),
        ("sub/../file", "inside"),
        ("sub/deep/../../file", "inside"),
        ("to_file", "inside"),
        ("sub/to_parent_file", "inside"),
        ("absolute", "below"),
        ("to_sub/file", "below"),
        ("to_sub/../file", "inside"),  # of the real parent of what the link names
        ("sub/up/sub/up/file", "inside"),
        ("{folder}/sub/file", "below"),
        ("{folder}//./file", "inside"),
    ],
)
def test_inside(folder: Path, path: str, content: str) -> None:
    assert read(folder, path.format(folder=folder)) == content


TRICKS = [
    ("", "is empty"),
    ("../secret", "leads out"),
    ("..", "leads out"),
    ("sub/../../secret", "leads out"),
    ("sub/deep/../../../inside/file", "leads out"),
    ("{folder}/../secret", "leads out"),
    ("{folder}-too/file", "leads out"),
    ("/etc/passwd", "leads out"),
    ("//etc/passwd", "leads out"),
    ("/", "leads out"),
    ("/proc/self/root/etc/passwd", "leads out"),
    ("out", "leads out"),
    ("out_absolute", "leads out"),
    ("out_folder/secret", "leads out"),
    ("sub/out", "leads out"),
    ("sub/up/../secret", "leads out"),
    ("chain", "leads out"),
    ("root/etc/passwd", "leads out"),
    ("proc/file", "leads out"),
    ("loop", "too many levels"),
    ("dangling", "no such file"),
    ("missing", "no such file"),
    ("missing/../file", "no such file"),
    ("file/more", "not a directory"),
    ("file/../file", "not a directory"),
    ("sub", "is a directory"),
    (".", "is a directory"),
    ("fifo", "is a FIFO"),
    ("fi\0le", "NUL"),
    ("\ud83d", "no file name"),
    ("a" * 300, "too long"),
    ("a/" * (PATH_BYTES_MAX // 2) + "a", "longer than"),
    ("C:\\Windows", "no such file"),
    ("~/secret", "no such file"),
    ("..\\secret", "no such file"),
]


@pytest.mark.parametrize(("path", "why"), TRICKS)
def test_tricks(folder: Path, path: str, why: str) -> None:
    open_before = os.listdir("/proc/self/fd")
    with pytest.raises(CallerError, match=why) as caught:
        open_file(str(folder), path.format(folder=folder))
    assert caught.value.code == "invalid_path"
    assert os.listdir("/proc/self/fd") == open_before


def test_devices_and_sockets_are_refused_without_being_opened(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        with pytest.raises(CallerError, match="is a socket"):
            open_file(str(folder), "socket")
    with pytest.raises(CallerError, match="is a device"):
        open_file("/dev", "null")
    with pytest.raises(CallerError, match="is a device"):
        open_file("/dev", "tty")


def test_depth_is_bounded(folder: Path) -> None:
    names = ["d"] * DEPTH_MAX
    (folder / "/".join(names)).mkdir(parents=True)
    os.close(open_path(str(folder), "/".join(names[1:]))[0])
    with pytest.raises(CallerError, match="folders deep"):
        open_path(str(folder), "/".join(names))


def test_where_it_really_is(folder: Path) -> None:
    for path, names in (("to_sub/file", ("sub", "file")), (".", ()), ("sub/up", ()), ("absolute", ("sub", "file"))):
        descriptor, found = open_path(str(folder), path)
        os.close(descriptor)
        assert found == names


def test_a_folder_reached_through_a_link(tmp_path: Path, folder: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(folder)
    assert read(alias, f"{alias}/file") == "inside"
    assert read(alias, f"{folder}/file") == "inside"
    assert read(alias, "absolute") == "below"


def test_a_directory_swapped_for_a_link_while_walking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a component and its opening somebody replaces it."""
    real_open = os.open

    def swap(path: str, flags: int, *arguments: int, dir_fd: int | None = None) -> int:
        if path == "deep":
            (folder / "sub" / "deep").rmdir()
            (folder / "sub" / "deep").symlink_to("/etc")
        return real_open(path, flags, *arguments, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(CallerError) as caught:
        open_file(str(folder), "sub/deep/passwd")
    assert caught.value.code == "invalid_path"


def test_a_file_swapped_for_a_link_or_a_fifo_before_it_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_stat = os.stat
    regular = real_stat(folder / "file")
    directory = os.open(folder, os.O_RDONLY)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    try:
        with pytest.raises(OSError, match="symbolic links"):
            open_entry(directory, "out")
        with pytest.raises(OSError, match="is a FIFO"):
            open_entry(directory, "fifo")
    finally:
        os.close(directory)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="cannot be opened as the session's folder"):
        open_file(str(tmp_path / "gone"), "file")


def test_a_whole_file_up_to_a_bound_and_one_past(folder: Path) -> None:
    assert read_whole(str(folder), "file", 6) == b"inside"
    assert read_whole(str(folder), "file", 5) == b"inside"
    assert read_whole(str(folder), "file", 4) == b"insid"
    with pytest.raises(CallerError, match="leads out"):
        read_whole(str(folder), "../secret", 100)


def test_what_can_be_the_folder_of_a_session(folder: Path) -> None:
    check_folder(str(folder))
    check_folder(str(folder / "to_sub"))
    for wrong in (folder / "gone", folder / "file", folder / "file" / "below", folder / "fifo", folder / "loop"):
        with pytest.raises(CallerError, match="cannot be the session's folder") as caught:
            check_folder(str(wrong))
        assert caught.value.code == "invalid_path"
    for no_path in ("/a\0b", "/\ud800"):
        with pytest.raises(CallerError, match="it is no path"):
            check_folder(no_path)
