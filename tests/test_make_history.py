"""scripts/make_history.py: a seed's history is always the same, has all kinds, and goes on where it was broken off."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import orjson
import pytest

from engine.storage import database, reading
from engine.storage.rows import Rows
from engine.transcript.records import KIND_OF, Message, ToolPart, UserMessage
from engine.transcript.tools import TERMINAL

ROOT = Path(__file__).parents[1]
MESSAGES = 4200  # two transactions and a summary


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_history", ROOT / "scripts" / "make_history.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def messages(folder: Path, name: str) -> list[Message]:
    reader = database.open_reader(folder / database.FILE_NAME)
    try:
        rows = Rows(reader, name, lambda *_: None)
        return [rows.whole(row) for row in rows.newest_first()][::-1]
    finally:
        reader.close()


@pytest.fixture(scope="module")
def made(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Message]]:
    folder = tmp_path_factory.mktemp("made")
    name = script.make(folder, MESSAGES, lambda text: None)
    return folder, messages(folder, name)


def test_it_is_as_long_as_asked_and_has_all_kinds(made: tuple[Path, list[Message]]) -> None:
    folder, found = made
    assert len(found) == MESSAGES and all(len(message.parts) == 5 for message in found)
    assert {type(part) for message in found for part in message.parts} == set(KIND_OF)
    assert [isinstance(message.info, UserMessage) for message in found[:8]] == [True, False, False, False] * 2
    calls = [part for message in found for part in message.parts if isinstance(part, ToolPart)]
    assert all(call.state in TERMINAL for call in calls) and len({call.call_id for call in calls}) == len(calls)
    reader = database.open_reader(folder / database.FILE_NAME)
    try:
        page = reading.messages(reader, f"ses_history_{MESSAGES}", 200, None)
        assert reader.execute("SELECT count(*) FROM runs WHERE open").fetchone() == (0,)
        assert reader.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        reader.close()
    sizes = [len(message) for message in page.messages]
    assert 2000 < sum(sizes) / len(sizes) < 2600
    assert orjson.loads(page.messages[-1])["info"]["id"] == found[-1].info.id


def test_what_was_broken_off_is_gone_on_with(
    script: ModuleType, tmp_path: Path, made: tuple[Path, list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = script._write, 700  # runs: in the third transaction

    def broken(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(script, "_write", broken)
    with pytest.raises(KeyboardInterrupt):
        script.make(tmp_path, MESSAGES, lambda text: None)
    monkeypatch.undo()
    half = messages(tmp_path, f"ses_history_{MESSAGES}")
    assert 0 < len(half) < MESSAGES and half == made[1][: len(half)]
    script.make(tmp_path, MESSAGES, lambda text: None)
    assert messages(tmp_path, f"ses_history_{MESSAGES}") == made[1]
    script.make(tmp_path, MESSAGES, lambda text: pytest.fail("nothing is missing"))


def test_one_that_was_made_otherwise_is_not_touched(script: ModuleType, made: tuple[Path, list[Message]]) -> None:
    with pytest.raises(ValueError, match="otherwise"):
        script.make(made[0], MESSAGES, lambda text: None, seed=7)
    with pytest.raises(ValueError, match="multiple"):
        script.make(made[0], 7, lambda text: None)


def test_histories_of_any_length_end_alike(
    script: ModuleType, tmp_path: Path, made: tuple[Path, list[Message]]
) -> None:
    name = script.make(tmp_path, 100, lambda text: None)
    short = messages(tmp_path, name)

    def texts(found: list[Message]) -> list[list[object]]:
        return [[getattr(part, "text", None) or getattr(part, "output", None) for part in m.parts] for m in found]

    assert texts(short) == texts(made[1][-100:])


def test_clearing_removes_what_was_made_and_nothing_else(script: ModuleType, tmp_path: Path) -> None:
    script.make(tmp_path, 8, lambda text: None)
    (tmp_path / "token").write_text("mine")
    script.clear(tmp_path)
    assert not (tmp_path / database.FILE_NAME).exists() and not list((tmp_path / "blobs").iterdir())
    assert (tmp_path / "token").read_text() == "mine"
    script.clear(tmp_path / "is not there")
