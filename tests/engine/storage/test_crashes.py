"""A crash at every write of everything that takes more than one: reopened, it happened or it did not.

`OPERATIONS` lists what is done; each is walked through in all states that a crash can leave (tests.engine.storage.
crashes), and so is the checkpoint behind it. An operation whose steps are commits of their own may also be found
between two of them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from engine.commands import ForkSession
from engine.limits import Limits
from engine.runs.record import Run
from engine.storage import (
    attachments,
    blobs,
    catalog,
    columns,
    database,
    fork,
    hidden,
    ledger,
    rows,
    tables,
)
from engine.storage.blobs import Blobs
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage, FoldText, PutPart, PutRun
from engine.storage.importing import Import
from engine.storage.wal import Wal
from engine.transcript.records import AssistantMessage, Blob, CompactionPart, TextPart, ToolPart
from engine.transcript.session import Session
from tests.engine.storage import crashes
from tests.engine.storage.conftest import NOW, Store
from tests.engine.storage.crashes import Files
from tests.engine.storage.test_migrations import SCHEMAS, VERSIONS
from tests.session_files import session_lines

Steps = Callable[[Store], Iterator[None]]
CONTENT = b"a whole output " * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ANSWER = AssistantMessage(id="msg_a1", created_at=NOW, run_id="run_1", parent_id="msg_u1", model="m")
DONE = attrs.evolve(ANSWER, finish="stop", finished_at=NOW)
RUN = Run(id="run_1", session_id="ses_1", status="running", model="m", created_at=NOW)
END = PutRun(attrs.evolve(RUN, status="completed", ended_at=NOW))
CALL = ToolPart(id="prt_c", call_id="c", tool="a.b", state="running", started_at=NOW)


def seen(store: Store) -> Any:
    """All that anybody sees of a store."""
    found: list[Any] = []
    for session in catalog.page(store.reader, 100, None, None).items:
        every = store.reader.execute(
            "SELECT messages.key, messages.id, role, body FROM messages JOIN sessions ON sessions.key = session"
            " WHERE sessions.id = ? ORDER BY position",
            (session.id,),
        ).fetchall()
        messages = [
            (columns.info(message_id, role, body), rows.parts(store.reader, key)[0])
            for key, message_id, role, body in every
        ]
        found.append((session, messages, ledger.page(store.reader, session.id, None, 100, None).items))
    return found, sorted(path.name for path in (store.path.parent / blobs.FOLDER_NAME).iterdir())


# ------------------------------------------------------------------ what there is before, and what is done
def talk(store: Store, answers: int = 3, size: int = 1000) -> None:
    """A session with some ended runs."""
    store.session()
    for number in range(answers):
        name = f"t{number}"
        run = store.start(name, text=f"question {number}").run
        info = AssistantMessage(id=f"msg_{name}", created_at=NOW, run_id=run.id, finish="stop", finished_at=NOW)
        store.apply(AddMessage(info), AddPart(info.id, TextPart(id=f"prt_{name}", text="x" * size)))
        store.apply(FinishMessage(info), PutRun(attrs.evolve(run, status="completed", ended_at=NOW)))


def streaming(store: Store) -> None:
    """An answer that is being written, its text in several chunks."""
    talk(store, 1)
    store.start()
    store.apply(AddMessage(ANSWER), AddPart("msg_a1", TextPart(id="prt_a", text="")))
    for number in range(5):
        store.apply(AppendText("prt_a", f"{number}" * 4000))


def with_blob(store: Store) -> None:
    talk(store, 2)
    Blobs(store.path.parent / blobs.FOLDER_NAME).add(DIGEST, CONTENT)
    info = AssistantMessage(id="msg_b", created_at=NOW, finish="stop", finished_at=NOW)
    whole = Blob(handle="out_b", hash=DIGEST, size=len(CONTENT))
    part = attrs.evolve(CALL, id="prt_b", state="completed", output="head", whole=whole, finished_at=NOW)
    store.apply(AddMessage(info), AddPart("msg_b", part))


def append(store: Store) -> Iterator[None]:
    for number in range(3):
        store.apply(AppendText("prt_a", "é" * 1000 * (number + 1)))
        yield


def fold(store: Store) -> Iterator[None]:
    store.apply(FoldText("prt_a"), FinishMessage(DONE), END)
    yield


def compact(store: Store) -> Iterator[None]:
    summary = CompactionPart(id="prt_s", summary="what was said " * 500, kept_from="msg_ut2")
    info = attrs.evolve(DONE, id="msg_s", usage=None)
    store.apply(AddMessage(info), AddPart("msg_s", summary), FinishMessage(info), END)
    yield


def fork_in_pages(store: Store) -> Iterator[None]:
    begun = fork.begin(store.writer, ForkSession(session_id="ses_1"), "ses_fork", None, NOW)
    assert not isinstance(begun, Session)
    yield
    while fork.copy(store.writer, begun):
        yield
    fork.publish(store.writer, begun, None, NOW)
    yield


def delete_in_pages(store: Store) -> Iterator[None]:
    key = hidden.hide(store.writer, "ses_1")
    yield
    while hidden.purge(store.writer, key):
        yield
    yield
    store_of = Blobs(store.path.parent / blobs.FOLDER_NAME)
    unused = attachments.unused(store.writer, 10)
    store_of.remove(unused)
    yield
    attachments.forget(store.writer, unused)
    yield
    while catalog.reclaim(store.writer, 4):
        yield


def use_blob(store: Store) -> Iterator[None]:
    Blobs(store.path.parent / blobs.FOLDER_NAME).add(DIGEST, CONTENT)
    yield
    done = attrs.evolve(
        CALL, state="completed", output="head", finished_at=NOW,
        whole=Blob(handle="out_c", hash=DIGEST, size=len(CONTENT)),
    )  # fmt: skip
    store.apply(PutPart(done), FinishMessage(attrs.evolve(DONE, finish="stop")), END)
    yield


def calling(store: Store) -> None:
    streaming(store)
    store.apply(FoldText("prt_a"), AddPart("msg_a1", CALL))


def nothing(store: Store) -> None:
    pass


@attrs.frozen
class Operation:
    """`whole`: it has happened or not; else each of its steps is a change of its own."""

    before: Callable[[Store], None]
    steps: Steps
    whole: bool = True


OPERATIONS = {
    "append": Operation(streaming, append, whole=False),
    "fold": Operation(streaming, fold),
    "compaction": Operation(talk, compact),
    "fork": Operation(with_blob, fork_in_pages),
    "delete": Operation(with_blob, delete_in_pages),
    "output": Operation(calling, use_blob),
}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is done in pages takes several of them."""
    monkeypatch.setattr(hidden, "PAGE_MESSAGES", 2)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for the files that are looked at and thrown away: in memory where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


class Seen:
    """Looks at states, and holds them against what may be seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[Any] = []  # what was seen, without repetition, in order
        self.states = 0

    def look(self, files: Files) -> None:
        self.states += 1
        with crashes.reopened(files, self.folder) as store:
            now = seen(store)
        if not self.found or self.found[-1] != now:
            self.found.append(now)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_crash_at_every_write(store: Store, scratch: Path, name: str) -> None:
    operation = OPERATIONS[name]
    operation.before(store)
    looking = Seen(scratch)
    moments = 1

    def counted() -> Iterator[None]:
        nonlocal moments
        for _ in operation.steps(store):
            moments += 1
            yield

    first, last = crashes.walk(store, counted(), looking.look)
    before, after = (alone(files, looking.folder) for files in (first, last))
    assert looking.states > 15 and before != after
    if operation.whole:
        assert looking.found == [before, after]  # and never back again
    else:
        assert looking.found[0] == before and looking.found[-1] == after and len(looking.found) == moments

    folding = Seen(looking.folder)
    for files in crashes.checkpoint_states(last):
        folding.look(files)
    assert folding.states > 10 and folding.found == [after]


def alone(files: Files, folder: Path) -> Any:
    with crashes.reopened(files, folder) as store:
        return seen(store)


def test_a_log_that_was_begun_anew_is_written_over_the_old_one(store: Store, scratch: Path) -> None:
    """Behind the frames of a commit stand those of earlier ones: they are not taken for new ones."""
    streaming(store)
    crashes.without_checkpoints(store.writer)
    for number in range(10):
        store.apply(AppendText("prt_a", f"{number}" * 4000))
    store.writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    store.writer.execute("PRAGMA journal_size_limit = -1").fetchall()
    before = Files.of(store.path.parent)
    store.writer.execute("BEGIN")
    store.apply(FoldText("prt_a"), FinishMessage(DONE), END)
    store.writer.execute("COMMIT")
    after = Files.of(store.path.parent)
    assert len(after.log) == len(before.log) and after.log != before.log
    looking = Seen(scratch)
    for files in crashes.states(before, after):
        looking.look(files)
    assert looking.found == [alone(before, looking.folder), alone(after, looking.folder)]


# ------------------------------------------------------------------ what is written by its own transactions
def test_a_crash_at_every_write_of_an_import(store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.importing._PAGE_BYTES", 8000)
    talk(store, 1)
    crashes.without_checkpoints(store.writer)
    folder = store.path.parent
    moments = [Files.of(folder)]

    class Watched(Wal):
        def bound(self, connection: sqlite3.Connection) -> None:
            moments.append(Files.of(folder))

    importing = Import(store.writer, Blobs(folder / blobs.FOLDER_NAME), Watched(store.path), Limits())
    lines = io.BytesIO(b"".join(session_lines(messages=6, text=3000, blob=20_000)))
    made = importing.run(lines, NOW, lambda *_: None)
    looking = Seen(scratch)
    # The blob came within the first transaction.
    moments[0] = attrs.evolve(moments[0], blobs=moments[1].blobs)
    for before, after in itertools.pairwise(moments):
        for files in crashes.states(before, after):
            looking.look(files)
    assert len(moments) > 3 and looking.states > 30
    assert [[one[0].id for one in found[0]] for found in looking.found] == [["ses_1"], [made.id, "ses_1"]]
    assert [len(found[1]) for found in looking.found] == [0, 1]  # blobs


@pytest.mark.parametrize("version", VERSIONS)
def test_a_crash_at_every_write_of_a_migration(tmp_path: Path, scratch: Path, version: int) -> None:
    path = tmp_path / database.FILE_NAME
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.executescript((SCHEMAS / f"{version}.sql").read_text())
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    if version >= 3:
        Blobs(tmp_path / blobs.FOLDER_NAME).add(digest, b"hello")
    crashes.without_checkpoints(connection)
    before = Files.of(tmp_path)
    tables.migrate(connection)
    after = Files.of(tmp_path)
    connection.close()
    looking = Seen(scratch)
    for files in crashes.states(before, after):
        looking.look(files)
    if after != before:
        for files in crashes.checkpoint_states(after):
            looking.look(files)
    assert len(looking.found) == 1
    with crashes.reopened(before, looking.folder) as store:
        assert store.reader.execute("PRAGMA user_version").fetchone() == (len(tables.MIGRATIONS),)


def test_a_crash_at_every_write_of_a_new_database(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / database.FILE_NAME
    connection = database.open_writer(path)
    made = Files.of(path.parent)
    connection.close()
    looking = Seen(scratch)
    for files in (Files(b"", b"", {}), *crashes.states(attrs.evolve(made, log=b""), made)):
        looking.look(files)
    assert looking.found == [([], [])] and looking.states > 20


def test_what_is_looked_at_is_what_the_files_say(store: Store, scratch: Path) -> None:
    """The harness itself: a change that is not atomic is found."""
    talk(store, 2)

    def careless() -> Iterator[None]:
        store.writer.execute("DELETE FROM messages WHERE id = 'msg_t0'")
        yield
        store.writer.execute("UPDATE sessions SET message_count = message_count - 1")
        yield

    looking = Seen(scratch)
    with pytest.raises(AssertionError, match="it says that it has 4 messages, and has 3"):
        crashes.walk(store, careless(), looking.look)
