"""A real database file, its writing and its reading connection, and short ways to fill it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from engine.runs.record import Run
from engine.storage import applying, catalog, database, starting
from engine.storage.changes import Change
from engine.transcript.records import Message, TextPart, UserMessage
from engine.transcript.session import Session

NOW = 1_700_000_000_000


@attrs.define
class Store:
    path: Path
    writer: sqlite3.Connection
    reader: sqlite3.Connection

    def session(self, name: str = "1", **fields: object) -> Session:
        session = Session(id=f"ses_{name}", title="t", model="m", cwd="/", created_at=NOW, updated_at=NOW)
        return catalog.create(self.writer, attrs.evolve(session, **fields), None, NOW)  # type: ignore[arg-type]

    def start(self, name: str = "1", session: str = "ses_1", text: str = "hi", block: int = 100) -> starting.StoredRun:
        run = Run(id=f"run_{name}", session_id=session, status="running", model="m", created_at=NOW)
        info = UserMessage(id=f"msg_u{name}", created_at=NOW, run_id=run.id)
        message = Message(info, (TextPart(id=f"prt_u{name}", text=text),))
        return starting.start_run(
            self.writer, run, message, seq_block=block, expected_revision=None, claim=None, now=NOW
        )

    def apply(self, *changes: Change, session: str = "ses_1") -> int:
        return applying.apply(self.writer, session, changes, NOW)

    def count(self, table: str) -> int:
        (count,) = self.reader.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / database.FILE_NAME
    writer = database.open_writer(path)
    reader = database.open_reader(path)
    yield Store(path, writer, reader)
    reader.close()
    database.close_writer(writer)
