"""Runs that wait in a session's queue: in the store."""

from __future__ import annotations

import sqlite3

import attrs
import pytest

from engine.commands import StartRun
from engine.errors import CallerError
from engine.runs.record import Run
from engine.storage import catalog, hidden, idempotency, ledger, starting, tables, waiting, window
from engine.storage.changes import PutRun
from engine.transcript.records import FilePart, Message, TextPart, UserMessage
from tests.engine.storage.conftest import NOW, Store

MOST = 3


def message(number: int) -> Message:
    info = UserMessage(id=f"msg_q{number}", created_at=NOW + number, run_id=f"run_q{number}")
    file = FilePart(id=f"prt_f{number}", mime="a/b", size=3, data_base64="aGV5", name="hey")
    return Message(info, (TextPart(id=f"prt_q{number}", text=f"text {number}\nmore"), file))


def run(number: int) -> Run:
    return Run(id=f"run_q{number}", session_id="ses_1", status="queued", model="m", created_at=NOW + number)


def enqueue(store: Store, number: int, claim: idempotency.Claim | None = None) -> starting.StoredRun:
    return waiting.enqueue(
        store.writer, run(number), message(number), most=MOST, expected_revision=None, claim=claim, now=NOW + number
    )


def positions(store: Store) -> list[tuple[str, int | None]]:
    return [(found.id, found.position) for found in waiting.of_session(store.reader, "ses_1")]


def test_runs_wait_in_order_and_are_no_part_of_the_transcript(store: Store) -> None:
    store.session()
    store.start("active", "ses_1")
    before = catalog.get(store.reader, "ses_1")
    assert enqueue(store, 1) == starting.StoredRun(attrs.evolve(run(1), position=1), "msg_q1", before.revision + 1)
    assert enqueue(store, 2).run.position == 2
    assert positions(store) == [("run_q1", 1), ("run_q2", 2)]
    session = catalog.get(store.reader, "ses_1")
    assert (session.queued, session.message_count) == (2, before.message_count)
    assert catalog.page(store.reader, 5, None, None).items == (session,)
    assert message(1) not in window.read(store.reader, "ses_1", 9, 9999).messages
    listed = ledger.page(store.reader, "ses_1", True, 9, None).items
    assert [(found.id, found.status, found.position) for found in listed] == [
        ("run_q2", "queued", 2), ("run_q1", "queued", 1), ("run_active", "running", None),
    ]  # fmt: skip


def test_the_bound_and_one_past_it(store: Store) -> None:
    store.session()
    for number in range(MOST):
        assert enqueue(store, number).run.position == number + 1
    with pytest.raises(CallerError) as raised:
        enqueue(store, MOST)
    assert raised.value.code == "queue_full"
    assert len(positions(store)) == MOST


def test_a_run_that_begins_takes_its_message_to_the_end_of_the_transcript(store: Store) -> None:
    store.session()
    enqueue(store, 1)
    enqueue(store, 2)
    begun = waiting.begin(store.writer, "run_q1", seq_block=50, now=NOW + 9)
    assert begun is not None
    assert begun.message == message(1)
    assert begun.run == attrs.evolve(run(1), status="running", started_at=NOW + 9)
    assert ledger.get(store.reader, "run_q1") == begun.run
    assert [found.seq_reserved for found in ledger.open_runs(store.reader)] == [50]
    assert window.read(store.reader, "ses_1", 9, 9999).messages[-1] == message(1)
    session = catalog.get(store.reader, "ses_1")
    assert (session.queued, session.message_count, session.revision) == (1, 1, begun.revision)
    assert positions(store) == [("run_q2", 1)]
    assert waiting.begin(store.writer, "run_q1", seq_block=50, now=NOW) is None
    assert waiting.begin(store.writer, "run_nothing", seq_block=50, now=NOW) is None
    assert store.count("queued") == 1


def test_a_run_that_is_dropped_leaves_its_end_and_no_message(store: Store) -> None:
    store.session()
    enqueue(store, 1)
    enqueue(store, 2)
    revision = catalog.get(store.reader, "ses_1").revision
    end = attrs.evolve(run(1), status="cancelled", ended_at=NOW + 5, reason="no", last_seq=1)
    assert waiting.drop(store.writer, end, NOW + 5)
    assert ledger.get(store.reader, "run_q1") == end
    assert positions(store) == [("run_q2", 1)]
    assert catalog.get(store.reader, "ses_1").revision == revision + 1
    assert store.count("queued") == 1
    assert not waiting.drop(store.writer, end, NOW + 5)
    store.apply(PutRun(attrs.evolve(end, status="running")))
    assert ledger.get(store.reader, "run_q1") == end


def test_a_restart_settles_what_ran_and_leaves_what_waits(store: Store) -> None:
    store.session("1")
    store.session("2")
    store.start("active", "ses_1")
    enqueue(store, 1)
    assert [found.id for found in starting.settle_open_runs(store.writer, NOW)] == ["run_active"]
    assert positions(store) == [("run_q1", 1)]
    assert waiting.sessions(store.reader) == ["ses_1"]


def test_a_repeated_request_gives_the_run_that_waits(store: Store) -> None:
    store.session()
    request = StartRun(session_id="ses_1", input=("hi",), idempotency_key="k", when_busy="queue")
    claim = idempotency.claim("run.start", request)
    first = enqueue(store, 1, claim)
    again = enqueue(store, 2, claim)
    assert (again.run, again.message_id, again.repeated) == (first.run, "msg_q1", True)
    assert positions(store) == [("run_q1", 1)]


def test_the_queue_goes_with_its_session(store: Store) -> None:
    store.session()
    enqueue(store, 1)
    hidden.delete(store.writer, "ses_1")
    assert store.count("queued") == store.count("runs") == 0
    with pytest.raises(CallerError) as raised:
        enqueue(store, 2)
    assert raised.value.code == "unknown_session"


def test_a_database_of_the_first_schema_gets_a_queue() -> None:
    old = sqlite3.connect(":memory:", isolation_level=None)
    tables.migrate(old, tables.MIGRATIONS[:1])
    old.execute(
        "INSERT INTO sessions VALUES"
        " (1, 'ses_1', 1, '', 'm', '/', NULL, 1, 1, 1, 0, 0, 0, 0, 0, 0, NULL, x'5b5d', x'7b7d', NULL)"
    )
    old.execute(
        "INSERT INTO runs (id, session, message_id, open, seq_reserved, status, model, created_at, first_seq, last_seq,"
        " position, usage) VALUES ('run_1', 1, 'msg_1', 0, 9, 'completed', 'm', 1, 1, 7, 3, x'7b7d')"
    )
    tables.migrate(old)
    assert ledger.get(old, "run_1").last_seq == 7
    assert waiting.enqueue(old, run(1), message(1), most=1, expected_revision=1, claim=None, now=NOW).run.position == 1
