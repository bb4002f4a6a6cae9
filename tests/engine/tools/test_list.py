"""A folder's entries: every kind, in order, bounded."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from engine.errors import CallerError
from engine.limits import Limits
from engine.tools.list import ListDirectory, list_directory


def lines(folder: Path, path: str = ".", limits: Limits | None = None) -> list[str]:
    return list_directory(str(folder), ListDirectory(path=path), lambda: None, limits or Limits()).text.splitlines()


def test_every_kind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x" * 1234)
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "link").symlink_to("../else where")
    (tmp_path / "line\nend").write_bytes(b"")
    (tmp_path / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert lines(tmp_path) == [
            ".hidden (0)",
            "caf\ufffd (0)",
            "fifo (a FIFO)",
            "file (1,234)",
            "folder/",
            "line\ufffdend (0)",
            "link -> ../else where",
            "socket (a socket)",
            "[8 entries]",
        ]
    assert lines(tmp_path, "folder") == ["[0 entries]"]


def test_titles(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert list_directory(str(tmp_path), ListDirectory(), lambda: None).title == "."
    assert list_directory(str(tmp_path), ListDirectory(path="a/./b"), lambda: None).title == "a/b"


@pytest.mark.parametrize(("path", "why"), [("file", "is a file"), ("..", "leads out"), ("gone", "no such file")])
def test_what_is_no_folder_inside(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").write_text("x")
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(CallerError, match=why):
        lines(tmp_path, path)
    assert os.listdir("/proc/self/fd") == descriptors


def test_bounds_at_the_bound_and_one_past(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}").write_text("")
    assert lines(tmp_path, limits=Limits(tool_result_lines=11))[-1] == "[10 entries]"
    cut = lines(tmp_path, limits=Limits(tool_result_lines=10))
    assert cut == [f"{number} (0)" for number in range(9)] + ["[10 entries; the first 9 by name are shown]"]
    assert lines(tmp_path, limits=Limits(search_files_max=10))[-1] == "[10 entries]"
    partly = lines(tmp_path, limits=Limits(search_files_max=9))
    assert len(partly) == 10
    assert partly[-1] == "[more than 9 entries; the first 9 by name are shown]"
    assert (
        lines(tmp_path, limits=Limits(tool_result_bytes=1024 + 6 * 3))[-1]
        == "[10 entries; the first 3 by name are shown]"
    )


def test_it_ends_within_some_names_of_its_cancellation(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def checkpoint() -> None:
        raise Cancelled

    (tmp_path / "a").write_text("")
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(Cancelled):
        list_directory(str(tmp_path), ListDirectory(), checkpoint)
    assert os.listdir("/proc/self/fd") == descriptors


def test_an_entry_that_goes_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("")
    real = os.stat

    def gone(path: str, **options: object) -> os.stat_result:
        if path == "a":
            (tmp_path / "a").unlink()
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", gone)
    assert lines(tmp_path) == ["a (no such file or directory)", "[1 entry]"]
