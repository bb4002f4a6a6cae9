from __future__ import annotations

import errno
import gc
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest

from engine.errors import PeerError
from engine.limits import Limits
from engine.storage import spool
from engine.storage.spool import Spool

LIMITS = attrs.evolve(Limits(), spool_file_bytes=100, spool_bytes=250)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def opened(root: Path) -> Spool:
    opened = Spool(root, LIMITS)
    opened.sweep()
    return opened


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_for_their_owner_only(opened: Spool, root: Path) -> None:
    before = os.umask(0)
    try:
        file = opened.directory("git").create()
    finally:
        os.umask(before)
    assert (mode(root), mode(file.path.parent), mode(file.path)) == (0o700, 0o700, 0o600)
    assert file.path.parent.parent == root


def test_a_toolset_has_one_directory_made_with_its_first_file(opened: Spool, root: Path) -> None:
    directory = opened.directory("git")
    assert list(root.iterdir()) == []
    kept = [directory.create() for _ in range(3)]
    assert len(list(root.iterdir())) == 1
    assert len({file.path for file in kept}) == 3
    directory.remove()
    directory.remove()
    assert list(root.iterdir()) == []
    again = directory.create()
    assert again.path.exists()


def test_what_is_written_is_read_and_hashed(opened: Spool) -> None:
    file = opened.directory("a").create()
    for data in (b"one ", b"two"):
        assert file.claim(len(data)) == len(data)
        file.write(data)
    assert (file.size, file.read(2, 3), file.read(5, 99), file.read(99, 1)) == (7, b"e t", b"wo", b"")
    assert file.hash == hashlib.sha256(b"one two").hexdigest()
    file.sync()


def test_a_file_of_exactly_its_bound_and_one_byte_more(opened: Spool) -> None:
    directory = opened.directory("a")
    exact = directory.create()
    assert exact.claim(60) == 60
    assert exact.claim(40) == 40
    assert exact.claim(1) == 0
    assert directory.create().claim(101) == 100


def test_all_files_together_have_a_bound_and_give_back_what_they_had(opened: Spool) -> None:
    one, two = opened.directory("a"), opened.directory("b")
    held = [one.create(), two.create(), two.create()]
    assert [file.claim(100) for file in held] == [100, 100, 50]
    assert opened.used == 250
    assert one.create().claim(1) == 0
    held[1].discard()
    held[1].discard()
    assert opened.used == 150
    held[0].moved()
    held[0].discard()
    assert opened.used == 50
    assert two.create().claim(99) == 99


def test_the_orphans_of_a_dead_daemon_are_swept(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_bytes(b"x")
    (root / "git-1").mkdir(parents=True)
    (root / "git-1" / "7").write_bytes(b"left")
    (root / "link").symlink_to(elsewhere)
    Spool(root, LIMITS).sweep()
    assert list(root.iterdir()) == []
    assert (elsewhere / "mine").exists()
    root.rmdir()
    root.symlink_to(elsewhere)
    Spool(root, LIMITS).sweep()
    assert not root.is_symlink()
    assert (elsewhere / "mine").exists()


def test_no_link_is_followed_and_no_file_taken_over(opened: Spool, tmp_path: Path) -> None:
    directory = opened.directory("a")
    first = directory.create()
    (first.path.parent / "2").symlink_to(tmp_path / "target")
    with pytest.raises(PeerError):
        directory.create()
    assert not (tmp_path / "target").exists()
    (first.path.parent / "3").write_bytes(b"there")
    with pytest.raises(PeerError):
        directory.create()


def test_a_file_that_is_forgotten_is_removed_with_the_next(opened: Spool, root: Path) -> None:
    directory = opened.directory("a")
    file = directory.create()
    assert file.claim(100) == 100
    descriptors = len(os.listdir("/proc/self/fd"))
    del file
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
    following = directory.create()
    assert files(root) == [following.path]
    assert opened.used == 0


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_refuses_any_write(opened: Spool, root: Path, failing: int, monkeypatch: Any) -> None:
    done = 0
    real = os.write

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal done
        done += 1
        if done == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:2])  # a short write is gone on with

    file = opened.directory("a").create()
    monkeypatch.setattr(spool.os, "write", write)
    assert file.claim(6) == 6
    with pytest.raises(PeerError, match="the disk refuses it \\(No space left on device\\)") as raised:
        file.write(b"abcdef")
    assert raised.value.code == "disk_full"
    file.discard()
    assert files(root) == []
    assert opened.used == 0


def test_short_writes_are_gone_on_with(opened: Spool, monkeypatch: Any) -> None:
    real = os.write
    monkeypatch.setattr(spool.os, "write", lambda descriptor, data: real(descriptor, data[:2]))
    file = opened.directory("a").create()
    assert file.claim(7) == 7
    file.write(b"abcdefg")
    assert (file.size, file.read(0, 9)) == (7, b"abcdefg")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(PeerError) as raised:
        Spool(tmp_path / "missing" / "spool", LIMITS).sweep()
    assert raised.value.code == "disk_full"
    with pytest.raises(PeerError):
        Spool(tmp_path / "missing" / "spool", LIMITS).directory("a").create()
