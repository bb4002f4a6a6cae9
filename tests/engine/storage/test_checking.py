"""A check finds what is wrong, names it, and finds nothing in what is right."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from engine.runs.record import Run
from engine.storage import blobs, checking, database, starting
from engine.storage.blobs import Blobs
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage, PutRun
from engine.storage.faults import UnusableStore
from engine.transcript.records import AssistantMessage, Blob, FilePart, Message, TextPart, ToolPart, UserMessage
from tests.engine.storage.conftest import NOW, Store

CONTENT = b"what a tool gave"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ANSWER = AssistantMessage(id="msg_a1", created_at=NOW, run_id="run_1")
DONE = attrs.evolve(ANSWER, finish="stop", finished_at=NOW)
CALL = ToolPart(
    id="prt_c", call_id="call_1", tool="a.b", state="completed", input=b'{"a":1}', output="head",
    whole=Blob(handle="out_1", hash=DIGEST, size=len(CONTENT)), started_at=NOW, finished_at=NOW,
)  # fmt: skip
END = Run(id="run_1", session_id="ses_1", status="completed", model="m", created_at=NOW, ended_at=NOW)


@pytest.fixture
def good(store: Store) -> Store:
    """A session with an answer, a call whose output is a blob, and a text that grew."""
    Blobs(store.path.parent / blobs.FOLDER_NAME).add(DIGEST, CONTENT)
    store.session()
    store.start()
    store.apply(AddMessage(ANSWER), AddPart("msg_a1", CALL), AddPart("msg_a1", TextPart(id="prt_t", text="")))
    for _ in range(3):
        store.apply(AppendText("prt_t", "x" * 3000))
    store.apply(FinishMessage(DONE), PutRun(END))
    return store


def check(store: Store, *, live: bool = False, seen: list[str] | None = None) -> list[tuple[str, str, str]]:
    def progress(what: str, done: int, of: int) -> None:
        assert 0 <= done <= of or not of
        if seen is not None:
            seen.append(what)

    with contextlib.closing(database.open_beside(store.path)) as connection:
        found = checking.check(connection, store.path.parent, live=live, progress=progress)
        return [(one.kind, one.place, one.text) for one in found]


def test_nothing_is_found_in_what_is_right(good: Store) -> None:
    seen: list[str] = []
    assert check(good, seen=seen) == []
    assert set(seen) == {"database", "blobs", "files", "messages"}
    assert check(good, live=True) == []


DAMAGE = [
    ("UPDATE sessions SET message_count = 7", "ses_1", "says that it has 7 messages, and has 2"),
    ("UPDATE blobs SET uses = 5", f"blob {DIGEST}", "counts 5 uses, and has 1"),
    ("DELETE FROM chunks WHERE offset = 3000", "prt_t", "a hole: 3000 bytes, then a piece at 6000"),
    ("UPDATE sessions SET compacted = 1", "ses_1", "newest summary is not there"),
    ("UPDATE runs SET status = 'queued'", "run_1", "its place in a queue"),
    ("DELETE FROM attachments", "ses_1 msg_a1", "do not agree"),
    ("UPDATE messages SET body = '{' WHERE id = 'msg_a1'", "ses_1 msg_a1", "cannot be read"),
    ("UPDATE parts SET body = '{}' WHERE kind = 'tool'", "ses_1 msg_a1", "cannot be read"),
    ("UPDATE parts SET input = CAST('{' AS BLOB) WHERE kind = 'tool'", "ses_1 msg_a1", "cannot be read"),
    ("UPDATE parts SET text = NULL WHERE kind = 'tool'", "ses_1 msg_a1", "is completed and has no output"),
    ("DELETE FROM parts WHERE id = 'prt_u1'", "ses_1 msg_u1", "without parts"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "place", "text"), DAMAGE, ids=[one[0] for one in DAMAGE])
def test_each_damage_is_named(good: Store, statement: str, place: str, text: str) -> None:
    # Triggers keep what is counted right: this is what a defect or a hand would leave.
    for (name,) in good.writer.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        good.writer.execute(f"DROP TRIGGER {name}")
    good.writer.execute("PRAGMA ignore_check_constraints = ON")
    good.writer.execute(statement.replace("'{'", "CAST('{' AS BLOB)").replace("'{}'", "CAST('{}' AS BLOB)"))
    problems = [one for one in check(good) if one[0] == "problem"]
    assert any(place in one[1] and text in one[2] for one in problems), problems


def test_a_reference_to_nothing_is_found(good: Store) -> None:
    good.writer.execute("PRAGMA foreign_keys = OFF")
    good.writer.execute("DELETE FROM messages WHERE id = 'msg_u1'")
    assert any(one[1].startswith("parts ") and "messages" in one[2] for one in check(good))


@pytest.mark.parametrize("damage", ["gone", "shorter", "other"])
def test_a_blob_is_read_and_compared(good: Store, damage: str) -> None:
    path = good.path.parent / blobs.FOLDER_NAME / DIGEST
    wanted = {"gone": "is missing", "shorter": "bytes, not", "other": "another content"}[damage]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(CONTENT[:-1] + (b"X" if damage == "other" else b""))
    ((kind, place, text),) = check(good)
    assert (kind, place) == ("problem", f"blob {DIGEST}") and wanted in text
    good.writer.execute("DELETE FROM sessions")  # nothing needs it any more
    assert check(good) == []


def test_what_will_go_by_itself_is_a_note(good: Store) -> None:
    folder = good.path.parent / blobs.FOLDER_NAME
    (folder / ("0" * 64)).write_bytes(b"")
    good.session("hidden")
    good.writer.execute("UPDATE sessions SET changed = 0 WHERE id = 'ses_hidden'")
    good.start("2")
    found = check(good)
    assert {one[0] for one in found} == {"note"} and len(found) == 3
    assert {one[1] for one in found} == {f"blobs/{'0' * 64}", "ses_hidden", "runs"}


def test_an_answer_may_be_unfinished_while_its_run_is_open(good: Store) -> None:
    good.start("2")
    open_call = attrs.evolve(CALL, id="prt_2", state="running", output=None, whole=None, finished_at=None)
    answer = AssistantMessage(id="msg_a2", created_at=NOW, run_id="run_2")
    good.apply(AddMessage(answer), AddPart("msg_a2", open_call))
    assert check(good, live=True) == []
    good.writer.execute("UPDATE runs SET open = 0 WHERE id = 'run_2'")
    texts = [one[2] for one in check(good)]
    assert len(texts) == 2 and "never finished" in texts[0] and "a.b is running" in texts[1]
    good.writer.execute("UPDATE runs SET open = 1 WHERE id = 'run_2'")
    starting.settle_open_runs(good.writer, NOW)
    assert check(good) == []


def test_a_damaged_page_is_found(good: Store) -> None:
    for number in range(300):
        good.session(str(number + 10), title=f"session {number}")
    good.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (root,) = good.writer.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sessions'").fetchone()
    with open(good.path, "r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    found = check(good)
    assert found and found[0][:2] == ("problem", "database")


def test_a_database_of_another_version_is_not_checked(good: Store) -> None:
    good.writer.execute("PRAGMA user_version = 1")
    with pytest.raises(UnusableStore, match="older greenroom"):
        check(good)
    missing = attrs.evolve(good, path=good.path.parent / "nothing.db")
    with pytest.raises(UnusableStore, match="no store is in"):
        check(missing)
    assert not missing.path.exists()


def test_a_long_transcript_is_looked_at_in_pages(store: Store) -> None:
    store.session()
    answers: Iterator[AssistantMessage] = (
        AssistantMessage(id=f"msg_{n}", created_at=NOW, finish="stop", finished_at=NOW) for n in range(1000)
    )
    with _transaction(store.writer):
        for number, answer in enumerate(answers):
            text = TextPart(id=f"prt_{number}", text="x" * 20_000)
            store.apply(AddMessage(answer), AddPart(answer.id, text))
    tracemalloc.start()
    try:
        assert check(store) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000  # of 20 MB that are stored


def test_files_have_a_handle_and_a_hash_or_neither(store: Store) -> None:
    store.session()
    part = FilePart(id="prt_f", mime="a/b", size=1, handle="out_2")
    message = Message(UserMessage(id="msg_f", created_at=NOW), (part,))
    starting.add_user_message(store.writer, 1, message)
    store.writer.execute("UPDATE sessions SET message_count = 1")
    ((_, _, text),) = check(store)
    assert "and not both" in text


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    yield
    connection.execute("COMMIT")


def test_the_folder_of_blobs_may_be_missing(store: Store, tmp_path: Path) -> None:
    assert not (tmp_path / blobs.FOLDER_NAME).exists() and check(store) == []
