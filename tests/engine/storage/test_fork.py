"""Forks: a copy of a transcript that is whole or not there, with ids of its own and the same blobs."""

from __future__ import annotations

import sqlite3

import attrs
import pytest

from engine.commands import ForkSession, SessionChanges
from engine.errors import CallerError
from engine.storage import approvals, attachments, catalog, columns, fork, hidden, idempotency, ledger, outputs
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage
from engine.tools.permissions import NO_GRANTS, Grant
from engine.transcript.records import (
    AssistantMessage,
    Blob,
    CompactionPart,
    FilePart,
    Message,
    Part,
    TextPart,
    ToolPart,
    Usage,
    UserMessage,
)
from engine.transcript.session import Session
from tests.engine.storage.conftest import NOW, Store

SMALL = Usage(input_tokens=3, cost=0.001)
USAGE = Usage(input_tokens=100, output_tokens=7, cost=0.25)


def refused(code: str) -> object:
    return pytest.raises(CallerError, check=lambda exc: exc.code == code)


def answer(store: Store, name: str, *parts: Part, run: str = "1", session: str = "ses_1", done: bool = True) -> None:
    info = AssistantMessage(id=f"msg_a{name}", created_at=NOW, run_id=f"run_{run}", parent_id=f"msg_u{run}")
    store.apply(AddMessage(info), *(AddPart(info.id, part) for part in parts), session=session)
    if done:
        store.apply(FinishMessage(attrs.evolve(info, finish="stop", finished_at=NOW, usage=USAGE)), session=session)


def make(store: Store, message_id: str | None = None, to: str = "ses_2", source: str = "ses_1") -> Session:
    """A fork, each of its steps committed."""
    begun = fork.begin(store.writer, ForkSession(session_id=source, message_id=message_id), to, None, NOW + 5)
    assert isinstance(begun, fork.Fork)
    while fork.copy(store.writer, begun):
        pass
    return fork.publish(store.writer, begun, None, NOW + 6)


def messages(store: Store, session: str) -> tuple[Message, ...]:
    """All of them, from the rows."""
    found = []
    for key, message_id, role, body in store.reader.execute(
        "SELECT messages.key, messages.id, role, body FROM messages JOIN sessions ON sessions.key = messages.session"
        " WHERE sessions.id = ? ORDER BY position",
        (session,),
    ).fetchall():
        parts = store.reader.execute(
            "SELECT id, kind, body, text, input, error FROM parts WHERE message = ? ORDER BY position", (key,)
        )
        records = [columns.part(*row[:3], {"text": row[3], "input": row[4], "error": row[5]}) for row in parts]
        found.append(Message(columns.info(message_id, role, body), tuple(records)))
    return tuple(found)


def texts(store: Store, session: str) -> list[str]:
    return [part.text for message in messages(store, session) for part in message.parts if isinstance(part, TextPart)]


def long(store: Store, count: int) -> None:
    store.session()
    store.writer.execute("BEGIN")
    for number in range(count):
        store.start(str(number), text=f"question {number}")
        answer(store, str(number), TextPart(id=f"prt_a{number}", text=f"answer {number}"), run=str(number))
    store.writer.execute("COMMIT")


def test_a_fork_has_everything_up_to_the_message_and_its_own_life(store: Store) -> None:
    store.session(title="talk", instructions="be kind", metadata=b'{"a":1}', toolsets=("files",))
    store.start("1", text="one")
    answer(store, "1", TextPart(id="prt_a1", text="two"))
    store.start("2", text="three")
    answer(store, "2", TextPart(id="prt_a2", text="four"), run="2")
    made = make(store, "msg_u2")
    source = catalog.get(store.reader, "ses_1")
    assert (made.id, made.parent_id, made.title, made.instructions) == ("ses_2", "ses_1", "talk", "be kind")
    assert (made.metadata, made.toolsets, made.model, made.cwd) == (b'{"a":1}', ("files",), "m", "/")
    assert (made.message_count, made.revision, made.created_at, made.updated_at) == (3, 1, NOW + 5, NOW + 6)
    assert made.usage == Usage() and source.usage.cost == 0.5 and source.message_count == 4
    assert texts(store, "ses_2") == ["one", "two", "three"]
    # Each goes its own way from here.
    store.start("3", session="ses_2", text="five")
    assert texts(store, "ses_1") == ["one", "two", "three", "four"]
    assert texts(store, "ses_2") == ["one", "two", "three", "five"]
    assert [run.id for run in ledger.page(store.reader, "ses_2", None, 10, None).items] == ["run_3"]


def test_copies_have_ids_of_their_own_and_refer_to_each_other(store: Store) -> None:
    long(store, 2)
    answer(store, "c", CompactionPart(id="prt_c", summary="what was said", kept_from="msg_u1"), run="1")
    make(store)
    old, new = messages(store, "ses_1"), messages(store, "ses_2")
    assert len(old) == len(new) == 5
    olds = {message.info.id for message in old} | {part.id for message in old for part in message.parts}
    news = {message.info.id for message in new} | {part.id for message in new for part in message.parts}
    assert not olds & news and len(olds) == len(news) == 10
    assert [message.info.run_id for message in new] == [message.info.run_id for message in old]
    copies = dict(zip((message.info.id for message in old), (message.info.id for message in new), strict=True))
    for before, after in zip(old, new, strict=True):
        assert after.info.parent_id == copies.get(before.info.parent_id or "")
    compaction = new[-1].parts[0]
    assert isinstance(compaction, CompactionPart)
    assert (compaction.kept_from, compaction.summary) == (copies["msg_u1"], "what was said")
    # Two forks of the same have nothing in common either.
    make(store, to="ses_3")
    assert not news & {message.info.id for message in messages(store, "ses_3")}


@pytest.mark.parametrize(
    ("at", "newest"), [("msg_a0", None), ("msg_ac1", "msg_ac1"), ("msg_a2", "msg_ac1"), (None, "msg_ac2")]
)
def test_the_window_of_a_fork_begins_at_the_newest_summary_that_was_copied(
    store: Store, monkeypatch: pytest.MonkeyPatch, at: str | None, newest: str | None
) -> None:
    monkeypatch.setattr(hidden, "PAGE_MESSAGES", 3)
    long(store, 2)
    answer(store, "c1", CompactionPart(id="prt_c1", summary="one", kept_from="msg_u1"), run="1")
    store.start("2", text="more")
    answer(store, "2", TextPart(id="prt_a2", text="and more"), run="2")
    answer(store, "c2", CompactionPart(id="prt_c2", summary="two"), run="2")
    make(store, at)
    positions = store.reader.execute(
        "SELECT messages.position FROM sessions JOIN messages ON messages.key = sessions.compacted"
        " AND messages.session = sessions.key WHERE sessions.id = 'ses_2'"
    ).fetchall()
    wanted = store.reader.execute("SELECT position FROM messages WHERE id = ?", (newest,)).fetchall()
    assert positions == wanted


def test_every_kind_of_part_is_copied_as_it_is(store: Store) -> None:
    store.session()
    store.start()
    parts: tuple[Part, ...] = (
        ToolPart(id="prt_t", call_id="call_1", tool="t.t", state="completed", input=b'{"a":1}', output="out"),
        ToolPart(id="prt_e", call_id="call_2", tool="files.read_file", state="error", error="bad\0"),
        FilePart(id="prt_f", mime="image/png", size=3, data_base64="AAAA", call_id="call_1"),
    )
    answer(store, "1", *parts)
    make(store)
    new = messages(store, "ses_2")[-1]
    assert tuple(attrs.evolve(part, id=old.id) for part, old in zip(new.parts, parts, strict=True)) == parts


def test_handles_of_the_copy_work_and_outlive_the_original(store: Store, tmp_path: object) -> None:
    store.session()
    store.start()
    whole = Blob(handle="out_blob", hash="a" * 64, size=9)
    answer(store, "1", ToolPart(id="prt_t", call_id="c", tool="t.t", state="completed", output="head", whole=whole))
    make(store)
    assert isinstance(messages(store, "ses_2")[1].parts[0], ToolPart)
    assert attachments.find(store.reader, "out_blob", "ses_2") == attachments.Attachment("a" * 64, 9, True)
    part_id = messages(store, "ses_2")[0].parts[0].id
    assert hidden.delete(store.writer, "ses_1") is None
    assert attachments.find(store.reader, "out_blob", "ses_2") is not None
    assert attachments.unused(store.reader, 10) == []
    assert outputs.read(store.reader, f"out_{part_id}_text", 0, 100).text == "hi"
    with refused("unknown_output"):  # type: ignore[attr-defined]
        outputs.read(store.reader, "out_prt_u1_text", 0, 100)
    hidden.delete(store.writer, "ses_2")
    assert attachments.unused(store.reader, 10) == ["a" * 64]


@pytest.mark.parametrize("at", [None, "msg_u2", "msg_a2", "msg_steered"])
def test_an_answer_that_is_being_written_is_left_out_with_all_behind_it(store: Store, at: str | None) -> None:
    long(store, 2)
    store.start("2", text="next")
    answer(store, "2", TextPart(id="prt_a2", text=""), run="2", done=False)
    store.apply(AppendText("prt_a2", "half a sent"))
    info = UserMessage(id="msg_steered", created_at=NOW, run_id="run_2")
    store.apply(AddMessage(info), AddPart(info.id, TextPart(id="prt_s", text="steered")))
    assert make(store, at).message_count == 5
    assert texts(store, "ses_2")[-1] == "next"
    assert store.count("chunks") == 1


def test_a_message_that_the_session_does_not_have(store: Store) -> None:
    long(store, 1)
    store.session("9")
    store.start("9", session="ses_9")
    for other in ("msg_u9", "msg_nothing", "", "prt_a0", "x" * 10_000):
        with refused("unknown_message") as raised:  # type: ignore[attr-defined]
            fork.begin(store.writer, ForkSession(session_id="ses_1", message_id=other), "ses_2", None, NOW)
        assert len(raised.value.message) < 300
    with refused("unknown_session"):  # type: ignore[attr-defined]
        fork.begin(store.writer, ForkSession(session_id="ses_no"), "ses_2", None, NOW)
    assert hidden.every(store.reader) == []


def test_of_an_empty_session(store: Store) -> None:
    store.session()
    assert make(store).message_count == 0
    assert make(store, source="ses_2", to="ses_3").parent_id == "ses_2"


def test_a_long_one_is_copied_in_pages_and_nobody_sees_it_before_it_is_whole(store: Store) -> None:
    count = hidden.PAGE_MESSAGES + 10
    long(store, count)
    begun = fork.begin(store.writer, ForkSession(session_id="ses_1"), "ses_2", None, NOW)
    assert isinstance(begun, fork.Fork)
    pages = 1
    while fork.copy(store.writer, begun):
        pages += 1
        with refused("unknown_session"):  # type: ignore[attr-defined]
            catalog.get(store.reader, "ses_2")
        assert [session.id for session in catalog.page(store.reader, 10, None, None).items] == ["ses_1"]
        part_id = store.reader.execute("SELECT max(key), id FROM parts").fetchone()[1]
        with refused("unknown_output"):  # type: ignore[attr-defined]
            outputs.read(store.reader, f"out_{part_id}_text", 0, 10)
    assert pages == 3
    # What was added meanwhile is not of the fork.
    store.start("late", text="late")
    assert fork.publish(store.writer, begun, None, NOW).message_count == 2 * count
    assert texts(store, "ses_2") == texts(store, "ses_1")[:-1]


def test_pages_are_bounded_by_what_their_messages_hold(store: Store) -> None:
    store.session()
    size = hidden.PAGE_BYTES // 2
    for number in range(4):
        store.start(str(number), text="x" * size)
    assert hidden.page_end(store.reader, 1, 0) == 1
    store.start("4", text="x" * 4 * size)
    assert hidden.page_end(store.reader, 1, 4) == 5  # never divided
    assert hidden.page_end(store.reader, 1, 5) is None
    assert hidden.page_end(store.reader, 1, 0, 0) is None


def test_what_a_crash_left_is_found_and_purged_in_pages(store: Store) -> None:
    long(store, 2 * hidden.PAGE_MESSAGES)
    begun = fork.begin(store.writer, ForkSession(session_id="ses_1"), "ses_2", None, NOW)
    assert isinstance(begun, fork.Fork)
    fork.copy(store.writer, begun)
    before = store.count("messages") - hidden.PAGE_MESSAGES
    assert hidden.every(store.reader) == [begun.key]
    while hidden.purge(store.writer, begun.key):
        pass
    assert hidden.every(store.reader) == []
    assert (store.count("sessions"), store.count("messages")) == (1, before)
    # A session is deleted the same way: hidden at once, gone in pages.
    key = hidden.delete(store.writer, "ses_1")
    assert key is not None and store.count("messages") > 0
    with refused("unknown_session"):  # type: ignore[attr-defined]
        catalog.get(store.reader, "ses_1")
    with refused("unknown_run"):  # type: ignore[attr-defined]
        ledger.get(store.reader, "run_0")
    assert ledger.page(store.reader, None, None, 10, None).items == ()
    # Its place in the list is not taken by a new one, nor the other way.
    assert store.session("5").revision == 1
    while hidden.purge(store.writer, key):
        pass
    for table in ("messages", "parts", "runs"):
        assert store.count(table) == 0
    assert [session.id for session in catalog.page(store.reader, 10, None, None).items] == ["ses_5"]


def test_purging_never_removes_a_session_that_is_seen(store: Store) -> None:
    store.session()
    assert not hidden.purge(store.writer, 1)
    assert catalog.get(store.reader, "ses_1").id == "ses_1"


def test_the_session_is_deleted_while_it_is_copied(store: Store) -> None:
    long(store, 2 * hidden.PAGE_MESSAGES)
    begun = fork.begin(store.writer, ForkSession(session_id="ses_1"), "ses_2", None, NOW)
    assert isinstance(begun, fork.Fork) and fork.copy(store.writer, begun)
    hidden.hide(store.writer, "ses_1")
    with refused("unknown_session"):  # type: ignore[attr-defined]
        fork.copy(store.writer, begun)


def test_a_repeated_request_gets_the_first_fork(store: Store) -> None:
    long(store, 1)
    asked = ForkSession(session_id="ses_1", idempotency_key="k")
    claim = idempotency.claim("session.fork", asked)
    first = fork.begin(store.writer, asked, "ses_2", claim, NOW)
    second = fork.begin(store.writer, asked, "ses_3", claim, NOW)  # before the first was made
    assert isinstance(first, fork.Fork) and isinstance(second, fork.Fork)
    fork.copy(store.writer, first)
    fork.copy(store.writer, second)
    assert fork.publish(store.writer, first, claim, NOW).id == "ses_2"
    assert fork.publish(store.writer, second, claim, NOW).id == "ses_2"
    assert hidden.every(store.reader) == [second.key]
    again = fork.begin(store.writer, asked, "ses_4", claim, NOW)
    assert isinstance(again, Session) and again.id == "ses_2"
    other = idempotency.claim("session.fork", attrs.evolve(asked, message_id="msg_u0"))
    with refused("idempotency_conflict"):  # type: ignore[attr-defined]
        fork.begin(store.writer, asked, "ses_5", other, NOW)


def test_grants_stay_with_the_session_that_they_were_given_to(store: Store) -> None:
    store.session()
    approvals.add_grant(store.writer, "ses_1", Grant(tool="shell.run", at=NOW))
    make(store)
    assert approvals.grants(store.reader, "ses_2") == NO_GRANTS


def test_a_column_that_a_later_schema_adds_is_copied(store: Store) -> None:
    long(store, 1)
    store.writer.execute("ALTER TABLE parts ADD COLUMN later TEXT")
    store.writer.execute("ALTER TABLE messages ADD COLUMN later TEXT")
    store.writer.execute("UPDATE parts SET later = id")
    store.writer.execute("UPDATE messages SET later = id")
    make(store)
    found = sqlite3.connect(store.path)
    later = found.execute(
        "SELECT messages.later, parts.later FROM messages JOIN parts ON parts.message = messages.key"
        " WHERE messages.session = 2 ORDER BY messages.position"
    ).fetchall()
    found.close()
    assert later == [("msg_u0", "prt_u0"), ("msg_a0", "prt_a0")]


def test_a_title_that_a_person_gave_stays(store: Store) -> None:
    store.session(title="")
    store.start(text="fix the bug\nplease")
    assert catalog.get(store.reader, "ses_1").title == "fix the bug"
    assert not catalog.is_named(store.reader, "ses_1")
    assert catalog.name(store.writer, "ses_1", "A bug is fixed", SMALL, NOW)
    assert catalog.get(store.reader, "ses_1").title == "A bug is fixed"
    assert catalog.get(store.reader, "ses_1").usage == SMALL
    assert not catalog.name(store.writer, "ses_1", "Another", SMALL, NOW)
    catalog.update(store.writer, "ses_1", SessionChanges(title=""), NOW)
    assert catalog.name(store.writer, "ses_1", "Again", SMALL, NOW)
    store.session("2", title="mine")
    assert catalog.is_named(store.reader, "ses_2")
    assert not catalog.name(store.writer, "ses_2", "Not yours", SMALL, NOW)
    assert catalog.get(store.reader, "ses_2").title == "mine"
