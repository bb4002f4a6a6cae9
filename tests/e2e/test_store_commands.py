"""`greenroom store`, `sessions export` and `sessions import`: beside a daemon at work, and without one."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.cli import main
from tests.e2e.test_cli import answer, greenroom
from tests.e2e.wire import daemon

Command = Callable[..., str]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command on a data directory in this process: its output, or its errors if it ends with another code than 0."""

    def run(folder: Path, *words: str, code: int = 0, text: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        capfd.readouterr()
        ended = main([*words, "--data", str(folder)])
        printed = capfd.readouterr()
        assert ended == code, printed.err
        return printed.out + printed.err

    return run


def test_beside_a_daemon_and_without_one(tmp_path: Path, command: Command) -> None:
    folder, copy, other, file = (tmp_path / name for name in ("data", "copy", "other", "talk.jsonl"))
    with daemon(folder) as process:
        answer(greenroom(folder, "run", "count to 5"))
        (session,) = json.loads(command(folder, "sessions", "--json"))["sessions"]
        made = json.loads(command(folder, "store", "backup", str(copy), "--json"))
        assert made["target"] == str(copy) and made["database_bytes"] > 4096 and made["blobs"] == 0
        assert "is there already" in command(folder, "store", "backup", str(copy), code=2)
        assert json.loads(command(folder, "store", "check", "--json")) == {
            "good": True, "problems": 0, "notes": 0, "findings": [],
        }  # fmt: skip
        assert command(folder, "sessions", "export", session["id"], "--output", str(file)) == ""
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "is there already" in command(folder, "sessions", "export", session["id"], "--output", str(file), code=2)
        assert "no session has the id" in command(folder, "sessions", "export", "ses_unknown", code=1)
        for words in (("store", "vacuum"), ("sessions", "import", str(file))):
            assert f"pid {process.pid}" in command(folder, *words, code=4)

    assert "before" in command(folder, "store", "vacuum")
    assert set(json.loads(command(folder, "store", "vacuum", "--json"))) == {"bytes_before", "bytes_after"}
    assert command(folder, "store", "check") == command(copy, "store", "check") == "good\n"
    text = file.read_text()
    of_copy = answer(greenroom(copy, "sessions", "export", session["id"]))
    assert "1 2 3 4 5" in text and text.splitlines()[1:] == of_copy.splitlines()[1:]  # a title may come late

    cut = command(other, "sessions", "import", text=text[:-20], code=1)
    assert "nothing was imported" in cut and f"line {text.count(chr(10))}: " in cut
    assert "No such file" in command(other, "sessions", "import", str(tmp_path / "nothing"), code=2)
    assert command(other, "sessions", "import", text=text).startswith("ses_")
    brought = json.loads(command(other, "sessions", "import", str(file), "--json"))
    assert command(other, "store", "check") == "good\n"
    with daemon(other):  # what was imported goes on
        assert len(json.loads(command(other, "sessions", "--json"))["sessions"]) == 2
        answer(greenroom(other, "run", "--session", brought["session_id"], "count to 2"))
        shown = json.loads(command(other, "sessions", "show", brought["session_id"], "--json"))
        assert shown["session"]["title"] == brought["title"] and len(shown["messages"]) == 4


def test_what_is_wrong_is_listed_and_fails(tmp_path: Path, command: Command) -> None:
    with daemon(tmp_path / "data"):
        pass
    folder = tmp_path / "data"
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "blobs" / ("0" * 64)).touch()
    assert command(folder, "store", "check") == f"(note) blobs/{'0' * 64}: nothing refers to this file\ngood\n"
    with open(folder / "greenroom.db", "r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    told = command(folder, "store", "check", code=1)
    assert told.startswith("database: ") and told.endswith(" problems\n")
    found = json.loads(command(folder, "store", "check", "--json", code=1))
    assert not found["good"] and found["problems"] == len(found["findings"]) > 0


@pytest.mark.parametrize("words", ["store check", "store vacuum", "store backup copy", "sessions export ses_1"])
def test_without_a_store_there_is_nothing_to_do(tmp_path: Path, command: Command, words: str) -> None:
    assert f"no store is in {tmp_path}" in command(tmp_path, *words.split(), code=2)
    assert os.listdir(tmp_path) == []
