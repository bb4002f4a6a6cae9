"""`greenroom store` on real data directories: beside a daemon at work, and without one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.test_cli import answer, greenroom
from tests.e2e.wire import daemon


def test_backup_and_check_beside_a_daemon_and_vacuum_without(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with daemon(folder) as process:
        answer(greenroom(folder, "run", "count to 5"))
        made = json.loads(answer(greenroom(folder, "store", "backup", str(tmp_path / "copy"), "--json")))
        assert made["target"] == str(tmp_path / "copy") and made["database_bytes"] > 4096 and made["blobs"] == 0
        again = greenroom(folder, "store", "backup", str(tmp_path / "copy"))
        assert again.returncode == 2 and "is there already" in again.stderr
        assert json.loads(answer(greenroom(folder, "store", "check", "--json"))) == {
            "good": True, "problems": 0, "notes": 0, "findings": [],
        }  # fmt: skip
        refused = greenroom(folder, "store", "vacuum")
        assert refused.returncode == 4 and str(process.pid) in refused.stderr
    assert "before" in answer(greenroom(folder, "store", "vacuum"))
    assert set(json.loads(answer(greenroom(folder, "store", "vacuum", "--json")))) == {"bytes_before", "bytes_after"}
    assert answer(greenroom(folder, "store", "check")) == "good\n"
    # The copy is a data directory: a daemon starts on it, with what was there.
    with daemon(tmp_path / "copy"):
        listed = json.loads(answer(greenroom(tmp_path / "copy", "sessions", "--json")))["sessions"]
        assert [session["title"] for session in listed] == ["count to 5"]
        shown = json.loads(answer(greenroom(tmp_path / "copy", "sessions", "show", listed[0]["id"], "--json")))
        assert "1 2 3 4 5" in json.dumps(shown)


def test_what_is_wrong_is_listed_and_fails(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with daemon(folder):
        pass
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "blobs" / ("0" * 64)).touch()
    assert (
        answer(greenroom(folder, "store", "check")) == f"(note) blobs/{'0' * 64}: nothing refers to this file\ngood\n"
    )
    with open(folder / "greenroom.db", "r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096))
    told = answer(greenroom(folder, "store", "check"), 1)
    assert told.startswith("database: ") and told.endswith(" problems\n")
    found = json.loads(answer(greenroom(folder, "store", "check", "--json"), 1))
    assert not found["good"] and found["problems"] == len(found["findings"]) > 0


@pytest.mark.parametrize("words", [("check",), ("vacuum",), ("backup", "copy")])
def test_without_a_store_there_is_nothing_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = greenroom(tmp_path, "store", *words)
    assert ended.returncode == 2 and f"no store is in {tmp_path}" in ended.stderr
    assert os.listdir(tmp_path) == []
