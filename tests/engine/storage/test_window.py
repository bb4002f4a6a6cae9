"""Windows read from a real database: valid for a provider, within their room, the same beginning from step to step, and
as cheap behind a long history as behind a short one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.limits import Limits
from engine.providers import anthropic_request, openai_request
from engine.providers.base import ModelRequest
from engine.storage import database, window
from engine.storage.changes import AddMessage, AddPart, Change
from engine.storage.rows import Rows
from engine.transcript.cache import RowCache
from engine.transcript.pruning import CLEARED
from engine.transcript.records import AssistantMessage, CompactionPart, Message, TextPart, ToolPart
from engine.transcript.window import BYTES_PER_TOKEN, Window, weight_of
from tests.engine.storage.conftest import NOW, Store
from tests.engine.transcript.histories import answer, histories, user

# Small, so that short histories meet them.
SMALL = Limits(protected_tokens=2000, prune_tokens=1000)


def changes_of(message: Message) -> list[Change]:
    return [AddMessage(message.info), *(AddPart(message.info.id, part) for part in message.parts)]


def put(store: Store, *messages: Message) -> None:
    store.writer.execute("BEGIN")
    for message in messages:
        store.apply(*changes_of(message))
    store.writer.execute("COMMIT")


def compaction(name: str, kept_from: str | None, summary: str = "what was before") -> Message:
    info = AssistantMessage(id=f"msg_{name}", created_at=NOW, finished_at=NOW, run_id="run_c", model="m", finish="stop")
    return Message(info, (CompactionPart(id=f"prt_{name}", summary=summary, kept_from=kept_from),))


def names(found: Window) -> list[str]:
    return [message.info.id.removeprefix("msg_") for message in found.messages]


def read(store: Store, size: int = 10**6, most: int = 1000, start: int | None = None, **more: object) -> Window:
    return window.read(store.reader, "ses_1", most, size, start=start, **more)  # type: ignore[arg-type]


@pytest.fixture
def talking(store: Store) -> Store:
    store.session()
    put(store, user("u0"), answer("a0", "run_0"), user("u1"), answer("a1", "run_1"), answer("b1", "run_1"))
    return store


# ------------------------------------------------------------------ compaction
def test_a_summary_stands_for_what_it_replaced(talking: Store) -> None:
    put(talking, compaction("c", kept_from="msg_u1"))
    found = read(talking)
    assert names(found) == ["c", "u1", "a1", "b1"]
    assert found.messages[0].role == "user" and (found.lead, found.fresh, found.left_out) == (1, 4, False)
    put(talking, user("u2"))
    assert names(read(talking)) == ["c", "u1", "a1", "b1", "u2"] and read(talking).fresh == 4


def test_the_question_is_shown_though_only_answers_to_it_were_kept(talking: Store) -> None:
    put(talking, compaction("c", kept_from="msg_b1"))
    found = read(talking)
    assert names(found) == ["c", "u1", "b1"] and found.lead == 2
    put(talking, answer("c1", "run_1"))
    assert names(read(talking)) == ["c", "u1", "b1", "c1"]


def test_nothing_kept_is_the_summary_and_what_comes(talking: Store) -> None:
    put(talking, compaction("c", kept_from=None))
    assert names(read(talking)) == ["c"]
    put(talking, user("u2"))
    found = read(talking)
    assert names(found) == ["c", "u2"] and (found.lead, found.fresh) == (1, 1)


def test_the_newest_summary_counts_and_reaches_into_what_the_one_before_kept(talking: Store) -> None:
    put(talking, compaction("c", kept_from="msg_u1"), user("u2"), answer("a2", "run_2"))
    put(talking, compaction("d", kept_from="msg_b1"), user("u3"))
    assert names(read(talking)) == ["d", "b1", "u2", "a2", "u3"]


def test_what_is_kept_from_has_to_be_of_the_session(talking: Store) -> None:
    put(talking, compaction("c", kept_from="msg_elsewhere"), user("u2"))
    assert names(read(talking)) == ["c", "u2"]


def test_a_compaction_without_an_end_is_none(talking: Store) -> None:
    """Nothing makes one: a compaction is stored whole. A transcript may also come from elsewhere."""
    open_one = compaction("c", kept_from=None)
    assert isinstance(open_one.info, AssistantMessage)
    put(talking, Message(attrs.evolve(open_one.info, finish=None, finished_at=None), open_one.parts), user("u2"))
    assert names(read(talking))[0] == "u0"


def test_a_summary_among_other_parts_is_none(talking: Store) -> None:
    mixed = compaction("c", kept_from=None)
    put(talking, Message(mixed.info, (*mixed.parts, TextPart(id="prt_t", text="and more"))), user("u2"))
    assert names(read(talking)) == ["u0", "a0", "u1", "a1", "b1", "c", "u2"]


def test_a_summary_is_shown_however_much_has_come_since(talking: Store) -> None:
    put(talking, compaction("c", kept_from=None))
    for number in range(20):
        put(talking, user(f"v{number}", 1000), answer(f"w{number}", f"run_v{number}", 1000))
    found = read(talking, 8000)
    assert names(found)[0] == "c" and names(found)[-1] == "w19" and found.left_out
    assert found.size <= 8000


# ------------------------------------------------------------------ room
def test_a_result_larger_than_the_window_is_cut(store: Store) -> None:
    store.session()
    put(store, user("u"), answer("a", "run_u", results=(50_000,)), answer("b", "run_u", results=(50_000, 10)))
    found = read(store, 5000)
    assert names(found)[0] == "u" and names(found)[-1] == "b" and found.size <= 5000
    part = found.messages[-1].parts[1]
    assert isinstance(part, ToolPart) and part.output is not None and "were cut here" in part.output
    stored = window.read(store.reader, "ses_1", 100, 10**9).messages[-1].parts[1]
    assert isinstance(stored, ToolPart) and stored.output == "o" * 50_000, "the transcript keeps it"


def test_old_outputs_are_cleared_at_the_bound_and_not_before(store: Store) -> None:
    step, protect = SMALL.prune_tokens * BYTES_PER_TOKEN, SMALL.protected_tokens * BYTES_PER_TOKEN
    store.session()
    put(store, user("u"), answer("a", "run_u", results=(step,)), answer("b", "run_u", results=(protect - 300,)))
    put(store, answer("c", "run_u", results=(299,)))

    def cleared() -> list[str]:
        shown = read(store, limits=SMALL).messages
        return [m.info.id for m in shown for part in m.parts if isinstance(part, ToolPart) and part.output == CLEARED]

    assert cleared() == []
    put(store, answer("d", "run_u", results=(257,)))
    assert cleared() == ["msg_a"]


def test_what_is_cleared_takes_no_room(store: Store) -> None:
    """60 KB of results, of which a model is shown 9 at the most: no message has to go for the others."""
    store.session()
    put(store, user("u"), *(answer(f"a{number}", "run_u", results=(3000,)) for number in range(20)))
    found = read(store, 20_000, limits=SMALL)
    assert len(found.messages) == 21 and not found.left_out and found.size < 20_000
    assert len(read(store, 20_000).messages) < 10, "with larger bounds all of it counts"


def test_the_weight_that_is_counted_in_the_database_is_that_of_what_is_loaded(store: Store) -> None:
    store.session()
    put(store, user("u", 777), answer("a", "run_u", 333, results=(10, 300, 5000)))
    put(store, answer("b", "run_u", 5, results=(700, 5), errors=True), compaction("c", None, "ä" * 40))
    for row in Rows(store.reader, "ses_1", window._sizes).newest_first():
        rows = Rows(store.reader, "ses_1", window._sizes)
        assert row.sizes.weight == weight_of(rows.whole(row)), row.info.id


# ------------------------------------------------------------------ from step to step
def growing(store: Store, messages: list[Message], size: int, limits: Limits) -> Iterator[Window]:
    """The window of each step, as a run reads them: the store grows by a message between two."""
    start: int | None = None
    for message in messages:
        put(store, message)
        found = read(store, size, 40, start, limits=limits, cache=None)
        start = found.start
        yield found


def bodies(found: Window) -> list[bytes]:
    """The request in both formats, up to the end of its messages."""
    request = ModelRequest(model="m", instructions="Be short.", messages=found.messages, tools=())
    ends = (b'],"tools"', b"]}]}")
    whole = b"".join(openai_request.encode_request(request)), b"".join(anthropic_request.encode_request(request, 9))
    return [
        body[: body.rindex(end)] if end in body else body.rstrip(b"]}") for body, end in zip(whole, ends, strict=True)
    ]


@settings(max_examples=10, deadline=None)
@given(histories(turns=5), st.integers(6_000, 120_000))
def test_every_window_is_valid_and_fits(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Message], size: int
) -> None:
    with opened(tmp_path_factory) as store:
        for count, found in enumerate(growing(store, messages, size, SMALL), 1):
            assert found.messages[0].role == "user", "it begins with the user, or a summary"
            newest = next(m for m in reversed(messages[:count]) if not _failed(m) or m is messages[count - 1])
            assert found.messages[-1].info.id == newest.info.id
            calls = [part for message in found.messages for part in message.parts if isinstance(part, ToolPart)]
            assert all((part.output is None) != (part.error is None) for part in calls), "each call has its result"
            assert len({part.call_id for part in calls}) == len(calls)
            order = [message.info.id for message in messages]
            positions = [order.index(message.info.id) for message in found.messages]
            assert positions == sorted(positions), "in the order of the transcript"
            strings = sum(1 + 2 * isinstance(part, ToolPart) for m in found.messages for part in m.parts)
            assert found.size <= max(size, 450 * strings)
            assert len(found.messages) <= 41


def _failed(message: Message) -> bool:
    return isinstance(message.info, AssistantMessage) and message.info.finish == "error"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 9000), min_size=20, max_size=40), st.sampled_from([40_000, 90_000, 10**6]))
def test_a_request_begins_as_the_one_before_it(
    tmp_path_factory: pytest.TempPathFactory, results: list[int], size: int
) -> None:
    """Except when old outputs are cleared, or the window is cut: rare moments, each of which makes much room."""
    messages: list[Message] = []
    for index, result in enumerate(results):
        run = f"run_{index // 8}"
        if index % 8 == 0:
            messages.append(user(f"u{index}", 50, run))
        messages.append(answer(f"a{index}", run, 50, (result,)))
    with opened(tmp_path_factory) as store:
        changes = 0
        for before, after in itertools.pairwise(growing(store, messages, size, SMALL)):
            moved = before.start != after.start
            cleared = [m.form for m in before.messages] != [m.form for m in after.messages][: len(before.messages)]
            changes += moved or cleared
            for old, new in zip(bodies(before), bodies(after), strict=True):
                assert moved or cleared or new.startswith(old)
        shown = sum(map(weight_of, messages))
        most = shown // (SMALL.prune_tokens * BYTES_PER_TOKEN) + shown // int(0.3 * size)
        assert changes <= most + 1


def test_the_beginning_moves_rarely_where_nothing_can_be_cleared(store: Store) -> None:
    store.session()
    messages = [one for n in range(60) for one in (user(f"u{n}", 400), answer(f"a{n}", f"run_u{n}", 400))]
    starts = [found.start for found in growing(store, messages, 10_000, SMALL)]
    moves = [(before, after) for before, after in itertools.pairwise(starts) if before != after]
    assert len(moves) <= 60 * 1000 // int(0.35 * 10_000)
    assert all(found is not None and found % 2 == 1 for found in starts), "whole turns"


# ------------------------------------------------------------------ what is read
def test_what_is_behind_the_window_is_not_read(store: Store) -> None:
    store.session()
    put(store, *(one for n in range(200) for one in (user(f"u{n}", 10), answer(f"a{n}", f"run_u{n}", 10))))
    put(store, compaction("c", kept_from="msg_u199"), user("last"))
    statements: list[str] = []
    store.reader.set_trace_callback(statements.append)
    assert names(read(store)) == ["c", "u199", "a199", "last"]
    behind_summary = len(statements)
    statements.clear()
    assert len(read(store, 1000).messages) < 12
    store.reader.set_trace_callback(None)
    assert behind_summary < 30 and len(statements) < 40


def test_a_step_reads_what_is_new(store: Store) -> None:
    store.session()
    cache = RowCache(1 << 22)
    put(store, *(one for n in range(50) for one in (user(f"u{n}", 10), answer(f"a{n}", f"run_u{n}", 10))))
    first = read(store, cache=cache)
    put(store, user("last"))
    statements: list[str] = []
    store.reader.set_trace_callback(statements.append)
    second = read(store, cache=cache)
    store.reader.set_trace_callback(None)
    assert len(statements) < 10
    assert all(old is new for old, new in zip(first.messages, second.messages, strict=False))


@contextlib.contextmanager
def opened(factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = factory.mktemp("window") / database.FILE_NAME
    writer, reader = database.open_writer(path, "normal"), database.open_reader(path)
    try:
        store = Store(path, writer, reader)
        store.session()
        yield store
    finally:
        reader.close()
        writer.close()
