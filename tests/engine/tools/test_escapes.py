"""No tool that works with files reads, lists or writes anything outside the session's folder, whatever the path.

One table of tricks over all of the tools, with things outside that must be as they were. Then the same against
somebody who swaps a folder for a link to outside while the tools are at work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
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


ROUNDS = 500  # of each tool with each way of swapping; more until it met both sides of a swap
# Swaps two names for each other as fast as it can, without a moment in which one is missing (renameat2(2)), until it
# is told to stop. A process of its own: a thread would wait for the interpreter's lock with each call of the tools.
SWAPPER = """
import ctypes, os, sys
exchange = ctypes.CDLL(None).renameat2
os.set_blocking(0, False)
one, two = map(os.fsencode, sys.argv[1:])
print("swapping", flush=True)
while True:
    for _ in range(100):
        if exchange(-100, one, -100, two, 2):
            sys.exit("no exchange")
    try:
        os.read(0, 1)
        break
    except BlockingIOError:
        pass
"""


@contextlib.contextmanager
def swapping(folder: Path, name: str, other: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPER, folder / name, folder / other], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"swapping\n"
            yield
            process.stdin.close()
            assert process.wait(30) == 0
        finally:
            process.kill()


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
    # A list of a folder is right whatever stands at a name in it.
    expected = {"done"} if tool == "list_directory" and swapped == "file" else {"done", "refused"}
    restoring = swapped == "file" and tool in ("write_file", "edit_file")
    outcomes: set[str] = set()
    rounds = ROUNDS // 2 if restoring else 0  # it is slow beside the swapper
    with swapping(where, name, "trap"):
        while rounds < ROUNDS or (not outcomes >= expected and rounds < 100 * ROUNDS):
            rounds += 1
            if restoring:  # the tool may have put its file in place of the link
                (inside / "spare").write_text("canary, a tame one")
                (inside / "spare").rename(where / name)
                (inside / "spare").symlink_to(target)
                (inside / "spare").rename(where / "trap")
            try:
                result = TOOLS[tool](str(inside), path)
            except CallerError as exc:
                assert SECRET not in exc.message
                outcomes.add("refused")
            else:
                assert SECRET not in result.text
                outcomes.add("error" if result.is_error else "done")
    assert tree(outside) == before
    assert outcomes - {"error"} == expected
