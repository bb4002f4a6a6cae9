"""Messages for a model are decoded once for as long as they stay as they are, and never shown as they were."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import CallerError
from engine.storage import applying, columns, database, starting
from engine.storage.changes import AddMessage, AddPart, AppendText, Change, FinishMessage, FoldText, PutPart
from engine.storage.rows import Rows
from engine.transcript.cache import RowCache
from engine.transcript.records import (
    AssistantMessage,
    Message,
    ReasoningPart,
    RetryPart,
    TextPart,
    ToolPart,
)
from tests.engine.storage.conftest import NOW, Store

ANSWER = AssistantMessage(id="msg_a1", created_at=NOW, run_id="run_1")
CALL = ToolPart(id="prt_c", call_id="c", tool="a.b", state="pending")


@pytest.fixture
def cache() -> RowCache:
    return RowCache(1 << 20)


@pytest.fixture
def running(store: Store) -> Store:
    store.session()
    store.start()
    store.apply(AddMessage(ANSWER), AddPart("msg_a1", CALL))
    return store


def read(store: Store, cache: RowCache | None, session: str = "ses_1", most: int = 100) -> tuple[Message, ...]:
    """The newest messages, oldest first, as a window reads them."""
    rows = Rows(store.reader, session, lambda connection, key, info: key, cache)
    found = [rows.whole(row) for row in itertools.islice(rows.newest_first(), most)]
    rows.close()
    return tuple(reversed(found))


def test_what_did_not_change_is_the_same_object_and_is_not_decoded(
    running: Store, cache: RowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(running, cache)
    decoded: list[str] = []
    part = columns.part

    def counted(part_id: str, *rest: object) -> object:
        decoded.append(part_id)
        return part(part_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(columns, "part", counted)
    second = read(running, cache)
    assert decoded == [] and second == first and all(a is b for a, b in zip(first, second, strict=True))
    running.apply(PutPart(attrs.evolve(CALL, state="running")))
    third = read(running, cache)
    assert decoded == ["prt_c"] and third[0] is first[0] and third[1] is not first[1]
    assert cache.statistics().hits == 3


CHANGES: dict[str, tuple[Change, ...]] = {
    "a part more": (AddPart("msg_a1", RetryPart(id="prt_r", attempt=1, reason="r", delay_ms=1)),),
    "a part replaced": (PutPart(attrs.evolve(CALL, state="completed", output="x")),),
    "the message finished": (FinishMessage(attrs.evolve(ANSWER, finish="stop")),),
    "the first piece of a text": (AppendText("prt_t", "x"),),
    "the next piece of a text": (AppendText("prt_g", "y"),),
    "a text folded": (FoldText("prt_g"),),
    "a text folded and signed": (FoldText("prt_g", "sig"),),
    "a text without chunks signed": (FoldText("prt_t", "sig"),),
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_no_change_is_missed(running: Store, cache: RowCache, changes: tuple[Change, ...]) -> None:
    running.apply(
        AddPart("msg_a1", ReasoningPart(id="prt_t", text="")),
        AddPart("msg_a1", ReasoningPart(id="prt_g", text="")),
        AppendText("prt_g", "x" * 5000),
    )
    before = read(running, cache)
    assert before == read(running, None)
    running.apply(*changes)
    after = read(running, cache)
    assert after == read(running, None)
    assert after != before or changes == (FoldText("prt_g"),)  # where a text is kept is not seen


def test_no_change_is_missed_when_a_lost_run_is_settled(running: Store, cache: RowCache) -> None:
    read(running, cache)
    starting.settle_open_runs(running.writer, NOW + 1)
    (_, answer) = read(running, cache)
    assert isinstance(answer.info, AssistantMessage) and answer.info.finish == "interrupted"
    assert isinstance(answer.parts[0], ToolPart) and answer.parts[0].state == "error"


def test_a_message_whose_text_grows_is_not_kept(running: Store, cache: RowCache) -> None:
    running.apply(AddPart("msg_a1", TextPart(id="prt_t", text="")), AppendText("prt_t", "a"))
    read(running, cache)
    assert cache.statistics().entries == 1  # the user's
    running.apply(FoldText("prt_t"))
    read(running, cache)
    assert cache.statistics().entries == 2


def test_a_change_that_was_undone_leaves_nothing_behind(running: Store, cache: RowCache) -> None:
    running.writer.execute("BEGIN")
    running.apply(PutPart(attrs.evolve(CALL, state="running")))
    own = read(attrs.evolve(running, reader=running.writer), None)  # within the transaction it is there
    assert own[1].parts != (CALL,)
    running.writer.execute("ROLLBACK")
    assert read(running, cache)[1].parts == (CALL,)
    running.apply(PutPart(attrs.evolve(CALL, state="completed", output="o")))
    assert read(running, cache) == read(running, None)


def test_what_slid_out_of_the_window_is_not_kept(store: Store, cache: RowCache) -> None:
    store.session()
    for number in range(30):
        store.start(str(number))
        read(store, cache, most=4)
    assert cache.statistics().entries == 4 and cache.statistics().evictions == 0


def test_a_session_that_came_in_the_place_of_a_deleted_one_is_its_own(store: Store, cache: RowCache) -> None:
    """Rows are numbered anew after the last one went; ids are not."""
    store.session("1")
    store.start("1", text="the first")
    read(store, cache)
    store.writer.execute("DELETE FROM sessions")
    store.session("2")
    store.start("2", "ses_2", text="the second")
    (key,) = store.reader.execute("SELECT key FROM messages").fetchone()
    assert key == 1
    (message,) = read(store, cache, "ses_2")
    assert message.parts == (TextPart(id="prt_u2", text="the second"),)
    with pytest.raises(CallerError):
        read(store, cache, "ses_1")


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["message", "part", "grow", "fold", "put", "finish", "read", "shed"]), st.integers(0, 7)
        ),
        max_size=25,
    )
)
def test_whatever_is_written_between_reads_is_seen(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / database.FILE_NAME
    writer, reader = database.open_writer(path, "normal"), database.open_reader(path)
    try:
        store, cache = Store(path, writer, reader), RowCache(20_000)
        store.session()
        store.start()
        messages, texts, calls = ["msg_u1"], ["prt_u1"], list[str]()
        for number, (action, which) in enumerate(steps):

            def pick(names: list[str], index: int = which) -> str:
                return names[index % len(names)]

            changes: dict[str, Callable[[], Change]] = {
                "message": lambda n=number: AddMessage(attrs.evolve(ANSWER, id=f"msg_{n}")),  # type: ignore[misc]
                "part": lambda n=number: AddPart(pick(messages), TextPart(id=f"prt_{n}", text="")),  # type: ignore[misc]
                "grow": lambda n=number: AppendText(pick(texts), f"{n} " * 900),  # type: ignore[misc]
                "fold": lambda: FoldText(pick(texts)),
                "put": lambda n=number: PutPart(attrs.evolve(CALL, id=pick(calls), output=str(n))),  # type: ignore[misc]
                "finish": lambda n=number: FinishMessage(  # type: ignore[misc]
                    attrs.evolve(ANSWER, id=pick(messages[1:]), finished_at=n, finish="stop")
                ),
            }
            if action == "shed":
                cache.clear()
            elif action == "read":
                assert read(store, cache) == read(store, None)
            elif not (action == "put" and not calls) and not (action == "finish" and len(messages) == 1):
                store.apply(changes[action]())
                if action == "message":
                    messages.append(f"msg_{number}")
                    calls.append(f"prt_call_{number}")
                    store.apply(AddPart(messages[-1], attrs.evolve(CALL, id=calls[-1])))
                elif action == "part":
                    texts.append(f"prt_{number}")
            assert read(store, cache, most=3) == read(store, None, most=3)
    finally:
        reader.close()
        writer.close()


def test_the_revision_of_a_stream_does_not_rise_with_each_piece(running: Store) -> None:
    """It would write the message's page with each commit of a stream."""
    running.apply(AddPart("msg_a1", TextPart(id="prt_t", text="")))
    revisions: list[int] = []
    for _ in range(5):
        running.apply(AppendText("prt_t", "x" * 4096))
        (revision,) = running.reader.execute("SELECT revision FROM messages WHERE id = 'msg_a1'").fetchone()
        revisions.append(revision)
    assert len(set(revisions)) == 1


def test_adding_a_part_to_a_stored_message_counts(running: Store) -> None:
    (key, before) = running.reader.execute("SELECT key, revision FROM messages WHERE id = 'msg_u1'").fetchone()
    applying.add_part(running.writer, key, TextPart(id="prt_x", text="x"))
    (after,) = running.reader.execute("SELECT revision FROM messages WHERE id = 'msg_u1'").fetchone()
    assert after == before + 1


def test_what_is_found_out_without_loading_is_found_out_once(running: Store, cache: RowCache) -> None:
    asked: list[int] = []

    def sizes(_: object, key: int, info: object) -> str:
        asked.append(key)
        return f"of {key}"

    for _ in range(3):
        rows = Rows(running.reader, "ses_1", sizes, cache)
        found = list(rows.newest_first())
        assert [row.sizes for row in found] == ["of 2", "of 1"]
        for row in found:
            rows.whole(row)
        rows.close()
    assert asked == [2, 1]


def test_the_user_that_is_answered_is_found_before(running: Store, cache: RowCache) -> None:
    rows = Rows(running.reader, "ses_1", lambda connection, key, info: key, cache)
    found = rows.user_before(2)
    assert found is not None and (found.info.id, found.role, found.position) == ("msg_u1", "user", 1)
    assert rows.user_before(1) is None
