"""No tool that works with files reads, lists or writes anything outside the session's folder, whatever the path.

One table of tricks over all of the tools, with things outside that must be as they were. Then the same against
somebody who swaps a folder for a link to outside while the tools are at work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import CallerError
from engine.tools.edit import EditFile, edit_file
from engine.tools.list import ListDirectory, list_directory
from engine.tools.paths import DEPTH_MAX, PATH_BYTES_MAX
from engine.tools.read import ReadFile, read_file
from engine.tools.search import SearchFiles, search_files
from engine.tools.spec import ToolResult
from engine.tools.write import WriteFile, write_file

SECRET = "the canary sings"
WRITTEN = "written by a tool"


def nothing() -> None:
    pass


TOOLS: dict[str, Callable[[str, str], ToolResult]] = {
    "read_file": lambda folder, path: read_file(folder, ReadFile(path=path), nothing),
    "search_files": lambda folder, path: search_files(folder, SearchFiles(pattern="canary", path=path), nothing),
    "list_directory": lambda folder, path: list_directory(folder, ListDirectory(path=path), nothing),
    "write_file": lambda folder, path: write_file(folder, WriteFile(path=path, content=WRITTEN), nothing),
    "edit_file": lambda folder, path: edit_file(
        folder, EditFile(path=path, old_text="canary", new_text=WRITTEN), nothing
    ),
}


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes | str]]:
    """All below a folder: kind and mode, inode, time of the last change, and content or target."""
    found: dict[str, tuple[int, int, int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: bytes | str = b""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        # Of a folder the size says if something came or went.
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A session's folder with traps, beside what nobody may touch."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "canary").write_text(SECRET)
    (outside / "folder" / "canary").write_text(SECRET)
    twin = tmp_path / "inside-too"
    twin.mkdir()
    (twin / "canary").write_text(SECRET)
    inside = tmp_path / "inside"
    (inside / "sub" / "deep").mkdir(parents=True)
    links = {
        "up": "..",
        "sub/up2": "../..",
        "root": "/",
        "out": "../outside",
        "out_file": "../outside/canary",
        "out_absolute": str(outside),
        "out_file_absolute": str(outside / "canary"),
        "sub/deep/out": "../../../outside",
        "chain1": "chain2",
        "chain2": "sub/chain3",
        "sub/chain3": "../out",
        "loop1": "loop2",
        "loop2": "loop1",
        "self": "self",
        "new_outside": "../outside/new",
        "new_absolute": str(outside / "new"),
        "new_up": "../new",
        "proc": "/proc/self/cwd",
        "proc_root": "/proc/self/root",
        "fd": "/proc/self/fd/0",
        "dev": "/dev",
        "null": "/dev/null",
        "stdin": "/dev/stdin",
        "etc": "/etc",
        "tmp": "/tmp",
        "twin": "../inside-too",
        "sub/folder_out": "../../outside/folder",
        "dots": "./././../outside",
        "env": "/proc/self/environ",
    }
    for name, target in links.items():
        (inside / name).symlink_to(target)
    os.mkfifo(inside / "fifo")
    os.mkfifo(outside / "fifo")
    (inside / "link_fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inside / "socket"))
        yield inside


TRICKS = [
    "",
    "..",
    "../",
    "../outside",
    "../outside/canary",
    "../outside/new",
    "../new",
    "../../etc/passwd",
    "../inside-too/canary",
    "sub/../../outside/canary",
    "sub/../../new",
    "sub/deep/../../../outside/canary",
    "./../outside/canary",
    "..//outside/canary",
    ".././outside/canary",
    "sub/./../../outside/new",
    "x/../../outside/new",
    "../inside/../outside/canary",
    "sub/../..",
    "/",
    "//",
    "/etc/passwd",
    "//etc/passwd",
    "///etc/passwd",
    "/etc",
    "/new",
    "/tmp/../etc/passwd",
    "{outside}",
    "{outside}/canary",
    "{outside}/new",
    "{folder}/..",
    "{folder}/../outside/canary",
    "{folder}/../outside/new",
    "{folder}-too/canary",
    "{folder}-too",
    "{folder}-too/new",
    "{folder}/sub/../../outside/canary",
    "{folder}//../outside/canary",
    "{outside}/../outside/canary",
    "up",
    "up/",
    "up/outside/canary",
    "up/new",
    "up/inside/../outside/new",
    "sub/up2",
    "sub/up2/outside/canary",
    "sub/up2/outside/new",
    "root",
    "root/etc/passwd",
    "root{outside}/canary",
    "root{outside}/new",
    "out",
    "out/canary",
    "out/new",
    "out/folder/canary",
    "out/folder/new",
    "out_file",
    "out_absolute",
    "out_absolute/canary",
    "out_absolute/new",
    "out_file_absolute",
    "sub/deep/out/canary",
    "sub/deep/out/new",
    "chain1",
    "chain1/canary",
    "chain1/new",
    "sub/chain3/canary",
    "loop1",
    "loop1/new",
    "self",
    "self/self",
    "new_outside",
    "new_absolute",
    "new_up",
    "proc",
    "proc/new",
    "proc_root/etc/passwd",
    "proc_root{outside}/canary",
    "proc_root{outside}/new",
    "fd",
    "dev",
    "dev/null",
    "dev/shm/new",
    "dev/fd/0",
    "null",
    "stdin",
    "etc/passwd",
    "etc/new",
    "env",
    "tmp/new",
    "twin/canary",
    "twin/new",
    "sub/folder_out/canary",
    "sub/folder_out/new",
    "dots/canary",
    "dots/new",
    "out/../outside/canary",
    "out/../canary",
    "sub/deep/out/../inside-too/canary",
    "/proc/self/environ",
    "/proc/self/cwd/canary",
    "/proc/self/root{outside}/canary",
    "/proc/1/root{outside}/new",
    "/dev/null",
    "/dev/stdin",
    "/dev/fd/0",
    "/dev/tty",
    "fifo",
    "link_fifo",
    "socket",
    "fifo/new",
    "socket/new",
    "nul\0",
    "out/canary\0.txt",
    "\0",
    "\ud83d",
    "a" * 256,
    "out/" + "a" * 256,
    "a/" * (PATH_BYTES_MAX // 2 + 1),
    "d/" * DEPTH_MAX + "new",
    "../" * 500 + "etc/passwd",
    "sub/" + "../" * 3 + "outside/new",
    "up/" * 50 + "outside/canary",
    "loop1/../../outside/canary",
    "missing/../../outside/canary",
    "missing/../../outside/new",
]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: ascii(trick[:40]))
def test_tricks(folder: Path, tool: str, trick: str) -> None:
    outside = folder.parent / "outside"
    before = tree(folder.parent)
    descriptors = os.listdir("/proc/self/fd")
    path = trick.format(folder=folder, outside=outside)
    with pytest.raises(CallerError) as caught:
        result = TOOLS[tool](str(folder), path)
        assert SECRET not in result.text
    assert caught.value.code == "invalid_path"
    assert len(caught.value.message) < 500
    assert SECRET not in caught.value.message
    assert os.listdir("/proc/self/fd") == descriptors
    assert tree(folder.parent) == before


def test_the_table_is_of_tricks_only(folder: Path) -> None:
    """The same tools do their work when the path is no trick."""
    assert len(set(TRICKS)) == len(TRICKS) > 100
    (folder / "sub" / "file").write_text("a canary inside\n")
    for path in ("sub/file", "./sub/../sub/file", f"{folder}/sub/file", "up/inside/sub/file"):
        if path.startswith("up/"):
            continue
        assert TOOLS["read_file"](str(folder), path).text == "a canary inside"
        assert "1 match" in TOOLS["search_files"](str(folder), path).text
        assert "file (16)" in TOOLS["list_directory"](str(folder), os.path.dirname(path)).text
    assert not TOOLS["edit_file"](str(folder), "sub/file").is_error
    assert TOOLS["write_file"](str(folder), "sub/new/file").change is not None


def test_a_walk_of_the_whole_folder_does_not_leave_it(folder: Path) -> None:
    found = search_files(str(folder), SearchFiles(pattern="canary"), nothing)
    assert found.text.startswith("[0 matches in 0 files")


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # renameat2(2)
ROUNDS = 1000  # of each tool with each way of swapping; more until it met both sides of a swap


class Swapper(threading.Thread):
    """Swaps two names for each other as fast as it can, without a moment in which one is missing."""

    def __init__(self, folder: Path, name: str, other: str) -> None:
        super().__init__()
        self._paths = [os.fsencode(folder / name), os.fsencode(folder / other)]
        self._done = threading.Event()
        self.swaps = 0

    def run(self) -> None:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
        while not self._done.is_set():
            failed = exchange(AT_FDCWD, self._paths[0], AT_FDCWD, self._paths[1], RENAME_EXCHANGE)
            assert not failed, os.strerror(ctypes.get_errno())
            self.swaps += 1

    def stop(self) -> None:
        self._done.set()
        self.join()


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("swapped", "path"),
    [
        ("folder", "folder/canary"),  # a folder on the way, for a link to one outside
        ("folder", "folder/deeper/canary"),
        ("deeper", "folder/deeper/canary"),
        ("file", "folder/canary"),  # the file itself, for a link to one outside
    ],
)
def test_a_race(tmp_path: Path, tool: str, swapped: str, path: str) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for base, text in ((outside, SECRET), (inside / "folder", "canary, a tame one")):
        (base / "deeper").mkdir(parents=True)
        (base / "canary").write_text(text)
        (base / "deeper" / "canary").write_text(text)
    where, name, target = {
        "folder": (inside, "folder", outside),
        "deeper": (inside / "folder", "deeper", outside / "deeper"),
        "file": (inside / "folder", "canary", outside / "canary"),
    }[swapped]
    (where / "trap").symlink_to(target)
    before = tree(outside)
    if tool == "list_directory":
        path = os.path.dirname(path)
    swapper = Swapper(where, name, "trap")
    swapper.start()
    # A list of a folder is right whatever stands at a name in it.
    expected = {"done"} if tool == "list_directory" and swapped == "file" else {"done", "refused"}
    outcomes: set[str] = set()
    rounds = 0
    try:
        while rounds < ROUNDS or (outcomes < expected and rounds < 100 * ROUNDS):
            rounds += 1
            with contextlib.suppress(CallerError):
                result = TOOLS[tool](str(inside), path)
                assert SECRET not in result.text
                outcomes.add("done" if not result.is_error else "error")
                continue
            outcomes.add("refused")
    finally:
        swapper.stop()
    assert tree(outside) == before
    assert swapper.swaps
    assert outcomes - {"error"} == expected
