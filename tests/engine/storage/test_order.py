"""Order is the server's: whatever clocks say and ids look like, what was stored first comes first."""

from __future__ import annotations

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runs.record import Run
from engine.storage import applying, catalog, database, ledger, reading, starting, window
from engine.storage.changes import AddMessage, AddPart, FinishMessage, PutRun
from engine.transcript.records import AssistantMessage, Message, TextPart, ToolPart, UserMessage
from engine.transcript.session import Session
from tests.engine.storage.conftest import NOW, Store

HOUR, YEARS = 3_600_000, 3 * 365 * 24 * 3_600_000
# Where the clock jumps to between two things that happen.
JUMPS = st.sampled_from([0, 0, 1, -1, 250, -HOUR, YEARS, -YEARS])
# Ids of one kind are different, and that is all that is promised of them.
IDS = st.lists(
    st.text(alphabet="aZ09_.:-", min_size=1, max_size=12), min_size=12, max_size=12, unique=True
)  # fmt: skip


@settings(max_examples=20)
@given(jumps=st.lists(JUMPS, min_size=6, max_size=6), ids=IDS, call_ids=st.lists(st.text("a0", max_size=2), min_size=6))
def test_a_transcript_is_in_the_order_in_which_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int], ids: list[str], call_ids: list[str]
) -> None:
    path = tmp_path_factory.mktemp("order") / database.FILE_NAME
    store = Store(path, database.open_writer(path, "normal"), database.open_reader(path))
    try:
        store.session()
        now = NOW
        written: list[str] = []
        runs: list[str] = []
        for number, jump in enumerate(jumps):
            now += jump
            user, answer = f"msg_{ids[2 * number]}", f"msg_{ids[2 * number + 1]}"
            run = Run(id=f"run_{ids[number]}", session_id="ses_1", status="running", model="m", created_at=now)
            message = Message(
                UserMessage(id=user, created_at=now, run_id=run.id), (TextPart(id=f"prt_{user}", text=str(number)),)
            )
            starting.start_run(store.writer, run, message, seq_block=1, expected_revision=None, claim=None, now=now)
            info = AssistantMessage(id=answer, created_at=now - jump, run_id=run.id, parent_id=user)
            parts = [
                ToolPart(id=f"prt_{answer}_{index}", call_id=call_id, tool="a.b", state="completed", output="o")
                for index, call_id in reversed(list(enumerate(call_ids)))
            ]
            applying.apply(
                store.writer,
                "ses_1",
                [
                    AddMessage(info),
                    *(AddPart(answer, part) for part in parts),
                    FinishMessage(attrs.evolve(info, finish="stop", finished_at=now - HOUR)),
                    PutRun(attrs.evolve(run, status="completed", ended_at=now - YEARS)),
                ],
                now,
            )
            written += [user, answer]
            runs.append(run.id)
            last = [part.id for part in parts]
        shown = window.read(store.reader, "ses_1", 100, 10**6).messages
        assert [message.info.id for message in shown] == written
        assert [part.id for part in shown[-1].parts] == last
        paged: list[str] = []
        cursor = None
        while True:
            page = reading.messages(store.reader, "ses_1", 3, cursor)
            paged = [orjson.loads(data)["info"]["id"] for data in page.messages] + paged
            cursor = page.next_cursor
            if cursor is None:
                break
        assert paged == written
        assert [run.id for run in ledger.page(store.reader, "ses_1", None, 100, None).items] == runs[::-1]
    finally:
        store.reader.close()
        store.writer.close()


@settings(max_examples=20)
@given(jumps=st.lists(JUMPS, min_size=6, max_size=6), ids=IDS, again=st.lists(st.integers(0, 5), max_size=4))
def test_sessions_are_listed_by_what_changed_last(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int], ids: list[str], again: list[int]
) -> None:
    path = tmp_path_factory.mktemp("order") / database.FILE_NAME
    store = Store(path, database.open_writer(path, "normal"), database.open_reader(path))
    try:
        now = NOW
        order: list[str] = []
        for number, jump in enumerate(jumps):
            now += jump
            session = Session(
                id=f"ses_{ids[number]}", title="t", model="m", cwd="/", created_at=now, updated_at=now - jump
            )
            catalog.create(store.writer, session, None, now)
            order.append(session.id)
        for number in again:
            session_id = f"ses_{ids[number]}"
            now -= HOUR
            catalog.touch(store.writer, catalog.key_of(store.writer, session_id), now)
            order.remove(session_id)
            order.append(session_id)
        listed: list[str] = []
        cursor = None
        while True:
            page = catalog.page(store.reader, 2, cursor, None)
            listed += [session.id for session in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert listed == order[::-1]
    finally:
        store.reader.close()
        store.writer.close()
