"""Sessions: created, changed, listed, deleted; and the keys that make a resend harmless."""

from __future__ import annotations

import attrs
import pytest

from engine.codec import DecodeError
from engine.commands import InputFile, NewSession, SessionChanges, StartRun
from engine.errors import CallerError
from engine.storage import catalog, cursors, hidden, idempotency, ledger
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage
from engine.transcript.records import AssistantMessage, TextPart, Usage
from tests.engine.storage.conftest import NOW, Store

DAY = 24 * 3600 * 1000


def refused(code: str) -> object:
    return pytest.raises(CallerError, check=lambda exc: exc.code == code)


def test_every_field_comes_back(store: Store) -> None:
    made = store.session(
        title="a\0b ✓", instructions="é" * 9, toolsets=("files", "web"), metadata=b'{"a":[1]}', parent_id="ses_0",
        usage=Usage(input_tokens=1, cost=0.5),
    )  # fmt: skip
    assert made.revision == 1
    assert catalog.get(store.reader, "ses_1") == made


@pytest.mark.parametrize("hostile", ["", "x" * 10_000, "ses_1' OR 1=1 --", "\0", "ses_1\0", "SES_1", "日本"])
def test_an_id_that_no_session_has(store: Store, hostile: str) -> None:
    store.session()
    with refused("unknown_session") as raised:  # type: ignore[attr-defined]
        catalog.get(store.reader, hostile)
    assert len(raised.value.message) < 600
    with refused("unknown_session"):  # type: ignore[attr-defined]
        hidden.delete(store.writer, hostile)


def test_an_update_changes_what_is_given_and_counts(store: Store) -> None:
    store.session(instructions="old")
    changed = catalog.update(store.writer, "ses_1", SessionChanges(title="new", toolsets=()), NOW + 5)
    assert (changed.title, changed.toolsets, changed.instructions) == ("new", (), "old")
    assert (changed.revision, changed.updated_at) == (2, NOW + 5)
    with refused("stale_revision") as raised:  # type: ignore[attr-defined]
        catalog.update(store.writer, "ses_1", SessionChanges(title="x", expected_revision=1), NOW)
    assert raised.value.data == {"revision": 2}
    assert catalog.update(store.writer, "ses_1", SessionChanges(model="n", expected_revision=2), NOW).revision == 3


def test_a_list_has_the_latest_change_first_whatever_clocks_say(store: Store) -> None:
    for name in "abc":
        store.session(name, updated_at=NOW - ord(name))
    catalog.update(store.writer, "ses_a", SessionChanges(title="x"), 5)
    assert [session.id for session in catalog.page(store.reader, 10, None, None).items] == ["ses_a", "ses_c", "ses_b"]


def test_pages_show_each_session_once_while_others_are_added(store: Store) -> None:
    for number in range(7):
        store.session(str(number))
    seen: list[str] = []
    cursor: str | None = None
    for step in range(4):
        page = catalog.page(store.reader, 2, cursor, None)
        seen += [session.id for session in page.items]
        cursor = page.next_cursor
        assert (cursor is None) == (step == 3)
        store.session(f"new{step}")
    assert seen == [f"ses_{number}" for number in reversed(range(7))]


def test_a_page_ends_early_to_fit_a_frame(store: Store) -> None:
    for number in range(6):
        store.session(str(number), instructions="x" * 60_000)
    page = catalog.page(store.reader, 100, None, None)
    assert 1 <= len(page.items) <= 4 and page.next_cursor is not None
    rest = catalog.page(store.reader, 100, page.next_cursor, None)
    assert [s.id for s in (*page.items, *rest.items)][:4] == ["ses_5", "ses_4", "ses_3", "ses_2"]


@pytest.mark.parametrize(
    ("query", "found"),
    [("100%", ["p"]), ("_", ["u"]), ("ÉTÉ", ["e"]), ("straSSE", ["s"]), ("\\", ["b"]), ("zz", []), ("", list("bseup"))],
)
def test_a_query_is_a_part_of_the_title_and_no_pattern(store: Store, query: str, found: list[str]) -> None:
    for name, title in [("p", "at 100% now"), ("u", "snake_case"), ("e", "un été"), ("s", "Straße"), ("b", "a\\b")]:
        store.session(name, title=title)
    page = catalog.page(store.reader, 10, None, query)
    assert [session.id.removeprefix("ses_") for session in page.items] == found


@pytest.mark.parametrize("cursor", ["", "s", "1", "m1", "s-1", "s1 ", "s" + "9" * 19, "s١", "s1\n", "s1.0", "é"])
def test_a_cursor_of_another_kind_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(DecodeError) as raised:
        catalog.page(store.reader, 10, cursor, None)
    assert raised.value.fields[0][0] == "cursor"


def test_cursors_keep_their_list_and_number() -> None:
    assert cursors.decode("r", cursors.encode("r", 12)) == 12
    with pytest.raises(DecodeError):
        cursors.decode("m", cursors.encode("r", 12))


def test_deleting_takes_everything_of_the_session_and_nothing_else(store: Store) -> None:
    for name in "12":
        store.session(name)
        store.start(name, f"ses_{name}")
        store.apply(
            AddMessage(AssistantMessage(id=f"msg_a{name}", created_at=NOW, run_id=f"run_{name}")),
            AddPart(f"msg_a{name}", TextPart(id=f"prt_a{name}", text="")),
            AppendText(f"prt_a{name}", "x"),
            session=f"ses_{name}",
        )
    hidden.delete(store.writer, "ses_1")
    assert [store.count(table) for table in ("sessions", "messages", "parts", "chunks", "runs")] == [1, 2, 2, 1, 1]
    assert ledger.get(store.reader, "run_2").session_id == "ses_2"
    with refused("unknown_run"):  # type: ignore[attr-defined]
        ledger.get(store.reader, "run_1")
    with refused("unknown_session"):  # type: ignore[attr-defined]
        store.apply(AppendText("prt_a1", "late"))


def test_space_of_a_deleted_session_is_given_back(store: Store) -> None:
    store.session()
    store.start(text="x" * 3_000_000)
    before = store.writer.execute("PRAGMA page_count").fetchone()[0]
    hidden.delete(store.writer, "ses_1")
    slices = 1
    while catalog.reclaim(store.writer, 100):
        slices += 1
    after = store.writer.execute("PRAGMA page_count").fetchone()[0]
    assert slices > 3 and after * 4096 < before * 4096 - 2_900_000


def test_a_key_gives_the_first_result_for_a_day(store: Store) -> None:
    session = store.session("0")
    claim = idempotency.claim("session.create", NewSession(title="t", idempotency_key="k"))
    first = catalog.create(store.writer, attrs.evolve(session, id="ses_a"), claim, NOW)
    assert catalog.create(store.writer, attrs.evolve(session, id="ses_b"), claim, NOW + DAY - 1) == first
    other = idempotency.claim("session.create", NewSession(title="u", idempotency_key="k"))
    with refused("idempotency_conflict"):  # type: ignore[attr-defined]
        catalog.create(store.writer, attrs.evolve(session, id="ses_b"), other, NOW)
    assert catalog.create(store.writer, attrs.evolve(session, id="ses_c"), other, NOW + DAY).id == "ses_c"
    assert store.count("idempotency") == 1  # the old one is purged


def test_a_key_is_of_its_method_and_its_payload_alone() -> None:
    start = StartRun(session_id="ses_1", input=("a", InputFile(path="b")), idempotency_key="k")
    assert idempotency.claim("run.start", attrs.evolve(start, idempotency_key=None)) is None
    one = idempotency.claim("run.start", start)
    two = idempotency.claim("run.start", attrs.evolve(start, idempotency_key="l"))
    three = idempotency.claim("run.start", attrs.evolve(start, input=("a", InputFile(path="c"))))
    assert one is not None and two is not None and three is not None
    assert one.digest == two.digest != three.digest


def test_usage_of_finished_messages_adds_up(store: Store) -> None:
    store.session()
    store.start()
    for number, cost in enumerate((None, 0.25, 0.5)):
        info = AssistantMessage(id=f"msg_{number}", created_at=NOW, run_id="run_1")
        usage = Usage(input_tokens=10, output_tokens=number, cost=cost)
        store.apply(AddMessage(info), FinishMessage(attrs.evolve(info, finish="stop", usage=usage)))
    found = catalog.get(store.reader, "ses_1")
    assert found.usage == Usage(input_tokens=30, output_tokens=3, cost=0.75)
    assert found.message_count == 4
