"""Databases of every earlier version, as those versions made them, opened by this one.

`schemas/N.sql` is the schema of version N with a conversation in it: an ended run, an open one whose text grows, one
that waits (from 2 on), a blob (3), approvals (4), a list of what is to be done (6). The files are text and stay as they
are; whoever adds a migration adds the file of the version that it makes.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.storage import approvals, attachments, catalog, database, ledger, reading, starting, tables, waiting
from engine.storage.faults import UnusableStore
from engine.transcript.records import Usage

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = sorted(int(path.stem) for path in SCHEMAS.glob("*.sql"))
NEWEST = len(tables.MIGRATIONS)
HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def old(folder: Path, version: int) -> Path:
    path = folder / database.FILE_NAME
    connection = sqlite3.connect(path)
    connection.executescript((SCHEMAS / f"{version}.sql").read_text())
    connection.close()
    return path


def shape(connection: sqlite3.Connection) -> dict[str, Any]:
    """Tables with their columns and foreign keys, indexes, triggers: however their SQL was written."""
    found: dict[str, Any] = {}
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table":
            columns = [row[1:] for row in connection.execute(f"PRAGMA table_info({name})")]
            keys = sorted(row[2:] for row in connection.execute(f"PRAGMA foreign_key_list({name})"))
            found[name] = (sorted(columns), keys)
        elif sql is not None:
            found[name] = re.sub(r"\s+", " ", sql)
    return found


def test_there_is_a_database_of_every_earlier_version() -> None:
    assert set(range(1, NEWEST)) <= set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_database_becomes_a_new_one(tmp_path: Path, version: int) -> None:
    fresh = database.open_writer(tmp_path / "fresh.db")
    writer = database.open_writer(old(tmp_path, version))
    assert writer.execute("PRAGMA user_version").fetchone() == (NEWEST,)
    assert shape(writer) == shape(fresh)
    assert writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert writer.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close_writer(fresh)
    database.close_writer(writer)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_stored_is_there_and_goes_on(tmp_path: Path, version: int) -> None:
    path = old(tmp_path, version)
    writer, reader = database.open_writer(path), database.open_reader(path)
    listed = catalog.page(reader, 10, None, "OLD ONE").items
    assert [session.id for session in catalog.page(reader, 10, None, None).items] == ["ses_old", "ses_empty"]
    assert listed == (catalog.get(reader, "ses_old"),)
    session = listed[0]
    assert (session.title, session.cwd, session.revision, session.message_count) == ("An old one", "/home/x", 7, 4)
    assert (session.toolsets, session.metadata, session.instructions) == (("files",), b'{"a":[1]}', "be short")
    spent = Usage(
        input_tokens=30, output_tokens=20, reasoning_tokens=5, cache_read_tokens=2, cache_write_tokens=1, cost=0.25
    )
    assert session.usage == spent
    assert ledger.get(reader, "run_done").usage == spent
    assert catalog.get(reader, "ses_empty").parent_id == "ses_old"

    messages = [orjson.loads(one) for one in reading.messages(reader, "ses_old", 50, None).messages]
    assert [message["info"]["id"] for message in messages] == ["msg_u1", "msg_a1", "msg_u2", "msg_a2"]
    assert messages[0]["parts"] == [{"kind": "text", "id": "prt_1", "text": "é hello"}]
    call = messages[1]["parts"][2]
    assert (call["tool"], call["input"], call["output"]) == ("files.read_file", {"path": "a b"}, "head")
    assert messages[1]["parts"][1]["text"] == "hm"
    assert messages[3]["parts"][1]["text"] == "so far"  # still in its chunks

    assert [run.id for run in starting.settle_open_runs(writer, 1_700_000_009_000)] == ["run_open"]
    (answer,) = (orjson.loads(one) for one in reading.messages(reader, "ses_old", 1, None).messages)
    assert answer["info"]["finish"] == "interrupted" and answer["parts"][1]["text"] == "so far"
    assert answer["parts"][2]["state"] == "error"
    assert starting.repeated_run(reader, None, 0) is None

    if version >= 2:
        assert [run.id for run in waiting.of_session(reader, "ses_old")] == ["run_waits"]
        begun = waiting.begin(writer, "run_waits", seq_block=10, now=1_700_000_009_000)
        assert begun is not None and begun.message.info.id == "msg_q1"
    if version >= 3:
        found = attachments.find(reader, "out_old")
        assert found is not None and (found.hash, found.size, found.text) == (HELLO, 5, True)
    if version >= 4:
        settled = approvals.find(reader, "run_open", "call_2")
        assert settled is not None and (settled.decision, settled.by) == ("deny", "restart")

    assert [todo.text for todo in session.todos] == (["one"] if version >= 6 else [])
    assert catalog.is_named(reader, "ses_old") and not catalog.is_named(reader, "ses_empty")  # nobody renames it

    writer.execute("DELETE FROM sessions WHERE id = 'ses_old'")  # the references were kept, and cascade
    for table in ("messages", "parts", "chunks", "runs", "queued", "attachments", "approvals"):
        assert reader.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert attachments.unused(reader, 10) == ([HELLO] if version >= 3 else [])
    reader.close()
    database.close_writer(writer)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_program_of_an_old_version_refuses_a_newer_database(tmp_path: Path, version: int) -> None:
    connection = sqlite3.connect(old(tmp_path, version))
    if version > 1:
        with pytest.raises(UnusableStore, match=f"schema {version}, this one knows {version - 1}"):
            tables.check(connection, version - 1)
    assert tables.check(connection, version) == version
    connection.close()
