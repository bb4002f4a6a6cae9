"""The cache of decoded messages: bounded in bytes that are true, by use, and a session's as a whole."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors._memory import untrack
from engine.transcript.cache import RowCache, size_of
from engine.transcript.records import AssistantMessage, Blob, Message, Part, TextPart, ToolPart, Usage, UserMessage


def message(name: str, text: str = "x" * 1000) -> Message:
    return Message(UserMessage(id=name, created_at=1), (TextPart(id=f"prt_{name}", text=text),))


def put(cache: RowCache, session: str, name: str, revision: int = 1, text: str = "x" * 1000) -> Message:
    record = message(name, text)
    cache.put(session, name, revision, record, len(text))
    return record


@pytest.fixture(autouse=True)
def cost() -> int:
    """Of one message of these tests, with its entry."""
    cache = RowCache(1 << 30)
    put(cache, "s", "m0")
    return cache.statistics().bytes


def test_a_message_is_found_at_its_revision_only() -> None:
    cache = RowCache(1 << 20)
    record = put(cache, "s", "m1", 3)
    found = cache.get("m1", 3)
    assert found is not None and found.message is record and found.sizes == 1000
    assert cache.get("m1", 2) is None and cache.get("m1", 4) is None and cache.get("m2", 3) is None
    figures = cache.statistics()
    assert (figures.entries, figures.hits, figures.misses, figures.evictions) == (1, 1, 3, 0)


def test_at_its_bound_everything_stays_and_one_past_it_the_one_used_longest_ago_goes(cost: int) -> None:
    cache = RowCache(3 * cost)
    for name in ("m1", "m2", "m3"):
        put(cache, "s", name)
    assert (cache.statistics().bytes, cache.statistics().evictions) == (3 * cost, 0)
    assert cache.get("m1", 1) is not None  # used: m2 is the oldest now
    put(cache, "s", "m4")
    assert cache.get("m2", 1) is None
    assert all(cache.get(name, 1) is not None for name in ("m1", "m3", "m4"))
    assert (cache.statistics().bytes, cache.statistics().evictions) == (3 * cost, 1)


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out(cost: int) -> None:
    cache = RowCache(2 * cost)
    put(cache, "s", "m1")
    put(cache, "s", "huge", text="x" * 2 * cost)
    assert cache.get("m1", 1) is not None and cache.get("huge", 1) is None
    assert cache.statistics().evictions == 0


def test_the_same_message_again_takes_its_place_once(cost: int) -> None:
    cache = RowCache(1 << 20)
    put(cache, "s", "m1")
    put(cache, "s", "m1")
    assert (cache.statistics().entries, cache.statistics().bytes) == (1, cost)


def test_of_a_session_that_moved_on_the_rest_is_dropped() -> None:
    cache = RowCache(1 << 20)
    for name in ("m1", "m2"):
        put(cache, "s", name)
    put(cache, "other", "m3")
    put(cache, "s", "m2", 2)
    cache.retain("s", {("m2", 2), ("not here", 1)})
    assert cache.get("m2", 2) is not None and cache.get("m3", 1) is not None
    assert cache.get("m1", 1) is None and cache.get("m2", 1) is None
    assert cache.statistics().evictions == 0


def test_a_session_that_is_forgotten_leaves_nothing(cost: int) -> None:
    cache = RowCache(1 << 20)
    put(cache, "s", "m1")
    put(cache, "other", "m2")
    assert cache.holds("s")
    cache.forget("s")
    cache.forget("s")
    cache.forget("never seen")
    assert not cache.holds("s") and cache.holds("other")
    assert (cache.statistics().entries, cache.statistics().bytes) == (1, cost)
    cache.clear()
    assert (cache.statistics().entries, cache.statistics().bytes) == (0, 0) and not cache.holds("other")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "retain", "forget", "clear"]),
            st.sampled_from("ab"),
            st.integers(0, 5),
            st.integers(1, 2),
            st.integers(0, 3000),
        ),
        max_size=60,
    )
)
def test_its_books_are_right_whatever_is_done(steps: list[tuple[str, str, int, int, int]]) -> None:
    most = 6000
    cache = RowCache(most)
    for action, session, number, revision, size in steps:
        name = f"{session}{number}"  # a message is of one session
        match action:
            case "put":
                put(cache, session, name, revision, "x" * size)
            case "get":
                found = cache.get(name, revision)
                assert found is None or (found.message.info.id == name and found.session == session)
            case "retain":
                cache.retain(session, {(name, revision)})
            case "forget":
                cache.forget(session)
                assert not cache.holds(session)
            case "clear":
                cache.clear()
        figures = cache.statistics()
        entries = cache._entries
        assert figures.bytes == sum(entry.bytes for entry in entries.values()) <= most
        by_session: dict[str, set[tuple[str, int]]] = {}
        for key, entry in entries.items():
            by_session.setdefault(entry.session, set()).add(key)
        assert cache._of_session == by_session


def realistic(number: int) -> Message:
    """What a turn leaves, with strings of its own throughout."""
    info = AssistantMessage(
        id=f"msg_{number:026d}", created_at=1_700_000_000_000 + number, run_id=f"run_{number:026d}",
        parent_id=f"msg_u{number:025d}", finished_at=1_700_000_001_000 + number, model=f"model-{number}",
        finish="tool_calls", usage=Usage(input_tokens=10_000 + number, output_tokens=500 + number, cost=number / 7),
    )  # fmt: skip
    parts: list[Part] = [
        ToolPart(
            id=f"prt_{number:020d}_{part}", call_id=f"call_{number}_{part}", tool=f"files.read_{number}",
            state="completed", input=b'{"path": "src/%d.py"}' % number, output=f"{number} " + "line\n" * 80,
            whole=Blob(handle=f"out_{number}", hash=f"{number:064x}", size=300_000 + number), title=f"read {number}",
            started_at=1_700_000_000_000 + number, finished_at=1_700_000_000_500 + number,
        )
        for part in range(5)
    ]  # fmt: skip
    return Message(info, tuple(parts))


def test_the_bytes_that_are_counted_are_those_that_are_taken() -> None:
    cache = RowCache(1 << 30)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1000):
            record = realistic(number)
            cache.put("s", record.info.id, number, record, 0)
        del record
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The tracer sees what is asked of the allocator, which takes some bytes more for each piece: counted here.
    assert after - before <= cache.statistics().bytes <= 1.3 * (after - before)


def test_a_record_counts_with_all_that_it_refers_to() -> None:
    small, large = message("m", "x"), message("m", "x" * 10_001)
    assert 10_000 <= size_of(large) - size_of(small) <= 10_032
    nested = ToolPart(id="p", call_id="c", tool="t", state="completed", whole=Blob(handle="h", hash="0" * 64, size=1))
    plain = ToolPart(id="p", call_id="c", tool="t", state="completed")
    assert size_of(nested) - size_of(plain) >= size_of("0" * 64) + size_of("h")


def test_the_collector_does_not_look_at_what_is_kept() -> None:
    cache = RowCache(1 << 30, untrack)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(300):
        record = realistic(number)
        cache.put("s", record.info.id, number, record, Usage(input_tokens=number))
    del record
    gc.collect()  # it untracks tuples of strings itself
    assert len(gc.get_objects()) - before < 300
    found = cache.get(realistic(7).info.id, 7)
    assert found is not None
    records = [found, found.sizes, found.message, found.message.info, found.message.parts, *found.message.parts]
    assert not any(gc.is_tracked(record) for record in records)
    changed = attrs.evolve(found.message)  # what is made of it is an object like any other
    assert changed == found.message and gc.is_tracked(changed)


def test_what_the_collector_does_not_look_at_is_freed_with_its_last_reference() -> None:
    cache = RowCache(1 << 30, untrack)
    record = realistic(1)
    gone = [weakref.ref(one) for one in (record, record.info, record.parts[0])]
    cache.put("s", record.info.id, 1, record, None)
    del record
    gc.collect()
    assert all(one() is not None for one in gone)
    cache.clear()
    assert all(one() is None for one in gone)
