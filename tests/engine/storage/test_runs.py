"""Runs in the store: their start, their end, and what a crash leaves of them."""

from __future__ import annotations

from typing import Any

import attrs
import orjson
import pytest

from engine.codec import DecodeError
from engine.commands import StartRun
from engine.errors import CallerError
from engine.runs.record import Run
from engine.storage import catalog, idempotency, ledger, reading, starting, window
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage, FoldText, PutPart, PutRun, ReserveSeq
from engine.storage.columns import load_json
from engine.transcript.records import (
    AssistantMessage,
    Failure,
    Message,
    StepStartPart,
    TextPart,
    ToolPart,
    Usage,
    UserMessage,
)
from tests.engine.storage.conftest import NOW, Store

RUN = Run(id="run_1", session_id="ses_1", status="running", model="m", created_at=NOW)
MESSAGE = Message(UserMessage(id="msg_u1", created_at=NOW, run_id="run_1"), (TextPart(id="prt_u1", text="hi"),))


def start(store: Store, claim: idempotency.Claim | None = None, expected: int | None = None) -> starting.StoredRun:
    return starting.start_run(
        store.writer, RUN, MESSAGE, seq_block=50, expected_revision=expected, claim=claim, now=NOW
    )


def test_a_run_starts_with_its_message(store: Store) -> None:
    store.session()
    stored = start(store, expected=1)
    assert stored == starting.StoredRun(RUN, "msg_u1", 2)
    assert ledger.get(store.reader, "run_1") == RUN
    assert window.read(store.reader, "ses_1", 9, 999).messages == (MESSAGE,)
    session = catalog.get(store.reader, "ses_1")
    assert (session.revision, session.message_count) == (2, 1)


def test_what_a_start_refuses_stores_nothing(store: Store) -> None:
    with pytest.raises(CallerError) as raised:
        start(store)
    assert raised.value.code == "unknown_session"
    store.session()
    with pytest.raises(CallerError) as raised:
        start(store, expected=7)
    assert (raised.value.code, raised.value.data) == ("stale_revision", {"revision": 1})
    assert store.count("runs") == store.count("messages") == 0


def test_a_start_that_is_sent_again_gives_the_first_run_even_if_the_revision_moved(store: Store) -> None:
    store.session()
    request = StartRun(session_id="ses_1", input=("hi",), idempotency_key="k", expected_revision=1)
    claim = idempotency.claim("run.start", request)
    assert starting.repeated_run(store.reader, claim, NOW) is None
    first = start(store, claim, expected=1)
    again = starting.start_run(
        store.writer, attrs.evolve(RUN, id="run_2"), MESSAGE, seq_block=50, expected_revision=1, claim=claim, now=NOW
    )
    assert again == attrs.evolve(first, repeated=True)
    assert starting.repeated_run(store.reader, claim, NOW) == again
    assert store.count("runs") == 1
    other = idempotency.claim("run.start", attrs.evolve(request, input=("ho",)))
    with pytest.raises(CallerError) as raised:
        starting.repeated_run(store.reader, other, NOW)
    assert raised.value.code == "idempotency_conflict"


def test_a_terminal_state_absorbs(store: Store) -> None:
    store.session()
    start(store)
    failed = attrs.evolve(
        RUN, status="failed", started_at=NOW, ended_at=NOW + 1, reason="r", last_seq=9,
        error=Failure(code="deadline", message="late"), usage=Usage(input_tokens=5),
    )  # fmt: skip
    store.apply(PutRun(failed))
    store.apply(PutRun(attrs.evolve(failed, status="running", error=None)))
    assert ledger.get(store.reader, "run_1") == failed


def test_runs_are_listed_newest_first_by_session_and_state(store: Store) -> None:
    store.session("1")
    store.session("2")
    for number in range(5):
        store.start(str(number), f"ses_{number % 2 + 1}")
    store.apply(PutRun(attrs.evolve(RUN, id="run_2", status="completed")))

    def ids(session: str | None, active: bool | None) -> str:
        return "".join(run.id[-1] for run in ledger.page(store.reader, session, active, 10, None).items)

    assert ids(None, None) == "43210"
    assert ids("ses_1", None) == "420"
    assert ids("ses_1", True) == "40"
    assert ids(None, False) == "2"
    page = ledger.page(store.reader, None, None, 2, None)
    store.start("9")
    following = ledger.page(store.reader, None, None, 2, page.next_cursor)
    assert [run.id for run in following.items] == ["run_2", "run_1"]
    last = ledger.page(store.reader, None, None, 2, following.next_cursor)
    assert [run.id for run in last.items] == ["run_0"] and last.next_cursor is None
    with pytest.raises(DecodeError):
        ledger.page(store.reader, None, None, 2, "m5")
    with pytest.raises(CallerError):
        ledger.page(store.reader, "ses_9", None, 2, None)


def crashed(store: Store) -> None:
    """A finished turn, then one that was lost while text streamed and two of three calls were open."""
    store.session()
    store.start()
    done = AssistantMessage(id="msg_a1", created_at=NOW, run_id="run_1")
    lost = AssistantMessage(id="msg_a2", created_at=NOW, run_id="run_1")
    store.apply(
        AddMessage(done),
        AddPart("msg_a1", TextPart(id="prt_d", text="done")),
        FinishMessage(attrs.evolve(done, finish="tool_calls", finished_at=NOW)),
        AddMessage(lost),
        AddPart("msg_a2", StepStartPart(id="prt_s", turn=2)),
        AddPart("msg_a2", TextPart(id="prt_t", text="")),
        AppendText("prt_t", "half an ans"),
        AddPart("msg_a2", ToolPart(id="prt_1", call_id="c1", tool="a.b", state="pending")),
        AddPart("msg_a2", ToolPart(id="prt_2", call_id="c2", tool="a.b", state="running", input=b'{"x":1}')),
        AddPart("msg_a2", ToolPart(id="prt_3", call_id="c3", tool="a.b", state="completed", output="kept")),
        ReserveSeq("run_1", 500),
    )


def test_a_lost_run_is_settled_once_and_its_history_is_valid(store: Store) -> None:
    crashed(store)
    before = catalog.get(store.reader, "ses_1").revision
    (run,) = starting.settle_open_runs(store.writer, NOW + 9)
    assert (run.status, run.ended_at, run.last_seq) == ("interrupted", NOW + 9, 501)
    assert ledger.get(store.reader, "run_1") == run and run.reason is not None
    _, done, lost = window.read(store.reader, "ses_1", 9, 10**6).messages
    assert isinstance(done.info, AssistantMessage) and done.info.finish == "tool_calls"
    assert isinstance(lost.info, AssistantMessage)
    assert (lost.info.finish, lost.info.finished_at) == ("interrupted", NOW + 9)
    _, text, one, two, three = lost.parts
    assert text == TextPart(id="prt_t", text="half an ans")
    for call in (one, two):
        assert isinstance(call, ToolPart)
        assert (call.state, call.finished_at) == ("error", NOW + 9) and "interrupted" in (call.error or "")
    assert isinstance(two, ToolPart) and two.input == b'{"x":1}'
    assert isinstance(three, ToolPart) and (three.state, three.output) == ("completed", "kept")
    assert store.count("chunks") == 0
    assert catalog.get(store.reader, "ses_1").revision == before + 1

    assert starting.settle_open_runs(store.writer, NOW + 99) == []
    assert ledger.get(store.reader, "run_1") == run
    assert window.read(store.reader, "ses_1", 9, 10**6).messages[2] == lost


def test_a_lost_compaction_leaves_the_transcript_as_it_was(store: Store) -> None:
    store.session()
    store.start()
    answer = AssistantMessage(id="msg_a1", created_at=NOW, run_id="run_1", finish="stop", finished_at=NOW)
    store.apply(AddMessage(answer), AddPart("msg_a1", TextPart(id="prt_d", text="done")))
    store.apply(PutRun(attrs.evolve(ledger.get(store.reader, "run_1"), status="completed", ended_at=NOW)))
    before, revision = window.read(store.reader, "ses_1", 9, 10**6), catalog.get(store.reader, "ses_1").revision
    run = attrs.evolve(RUN, id="run_c")
    stored = starting.start_compaction(store.writer, run, "msg_nowhere", seq_block=100)
    assert (stored.run, stored.revision) == (run, revision)
    assert [found.run for found in ledger.open_runs(store.reader)] == [run]
    (settled,) = starting.settle_open_runs(store.writer, NOW + 9)
    assert (settled.id, settled.status, settled.last_seq) == ("run_c", "interrupted", 101)
    assert window.read(store.reader, "ses_1", 9, 10**6) == before
    assert ledger.message_of(store.reader, "run_c") == "msg_nowhere"


def test_settling_leaves_ended_runs_alone(store: Store) -> None:
    crashed(store)
    ended = attrs.evolve(RUN, status="completed", ended_at=NOW, last_seq=7)
    store.apply(PutRun(ended))
    assert starting.settle_open_runs(store.writer, NOW + 9) == []
    assert ledger.get(store.reader, "run_1") == ended
    assert store.count("chunks") == 1


def test_a_run_that_was_lost_before_its_first_turn(store: Store) -> None:
    store.session()
    store.start(block=100)
    (run,) = starting.settle_open_runs(store.writer, NOW)
    assert run.last_seq == 101
    assert reading.final_message(store.reader, "run_1") is None


def test_numbers_that_were_reserved_are_never_less(store: Store) -> None:
    store.session()
    store.start(block=100)
    store.apply(ReserveSeq("run_1", 300))
    store.apply(ReserveSeq("run_1", 200))
    assert starting.settle_open_runs(store.writer, NOW)[0].last_seq == 301


def test_the_final_message_of_a_run_has_sizes_in_place_of_texts(store: Store) -> None:
    crashed(store)
    found = reading.final_message(store.reader, "run_1")
    assert found is not None and found.message_id == "msg_a2"
    parts = {part.id: (part, size) for part, size in found.parts}
    assert parts["prt_t"] == (TextPart(id="prt_t", text=""), 11)
    tool, size = parts["prt_3"]
    assert isinstance(tool, ToolPart) and (tool.output, size) == ("kept", 4)
    store.apply(FoldText("prt_t"), PutPart(ToolPart(id="prt_1", call_id="c1", tool="a.b", state="error", error="e")))
    again = reading.final_message(store.reader, "run_1")
    assert again is not None and again.parts[1] == (TextPart(id="prt_t", text=""), 11)
    assert reading.final_message(store.reader, "run_9") is None


def test_settling_reads_the_open_runs_only(store: Store) -> None:
    store.session()
    for number in range(300):
        store.start(f"old{number}")
        store.apply(PutRun(attrs.evolve(RUN, id=f"run_old{number}", status="completed")))
    store.start("1")
    rows: list[Any] = []
    store.writer.set_trace_callback(rows.append)
    assert len(starting.settle_open_runs(store.writer, NOW)) == 1
    store.writer.set_trace_callback(None)
    assert len(rows) < 12  # statements, whatever has ended


def test_a_damaged_column_is_told_as_damage() -> None:
    with pytest.raises(Exception, match="damaged"):
        load_json(b"{", Usage)
    assert load_json(orjson.dumps({"input_tokens": 1}), Usage) == Usage(input_tokens=1)
