"""Sessions as lines of JSON: everything comes back, into the same store or another; what is wrong leaves nothing."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import io
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT, Limits
from engine.storage import blobs, catalog, checking, columns, database, hidden, importing, outputs, reading, starting
from engine.storage.blobs import Blobs
from engine.storage.changes import AddMessage, AddPart, AppendText, FinishMessage, FoldText, PutRun
from engine.storage.exporting import Export
from engine.storage.importing import BadLine, Import
from engine.storage.portable import LINE_BYTES, PIECE_CHARACTERS
from engine.storage.rows import parts as read_parts
from engine.storage.wal import Wal
from engine.transcript import records
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
from engine.transcript.todo import Todo
from tests.engine.storage.conftest import NOW, Store
from tests.engine.storage.test_transcripts import EVERY_KIND
from tests.session_files import session_lines

LATER = NOW + 1000
CONTENT = os.urandom(100_001)
HASH = hashlib.sha256(CONTENT).hexdigest()
USAGE = Usage(input_tokens=3, output_tokens=4, reasoning_tokens=1, cache_read_tokens=2, cache_write_tokens=5, cost=0.5)
INFO = AssistantMessage(
    id="msg_a1", created_at=NOW, run_id="run_1", parent_id="msg_u1", finished_at=NOW + 5, model="m", finish="stop",
    usage=USAGE,
)  # fmt: skip
LONG = "é\u2028\0\x1b\ud7ff😀" * 9000  # several pieces; what has to be escaped, and what is not of one byte
TOOL = ToolPart(
    id="prt_20", call_id="c9", tool="shell.run", state="completed", input=b'{ "a":1.0,\n"big":123456789012345678901 }',
    output=LONG, whole=Blob(handle="out_whole", hash=HASH, size=len(CONTENT)),
)  # fmt: skip
MEDIA = FilePart(id="prt_21", mime="image/png", size=len(CONTENT), handle="out_media", hash=HASH)
PARTS: list[Part] = [
    *EVERY_KIND,
    TOOL,
    MEDIA,
    FilePart(id="prt_22", mime="a/b", size=60_000, data_base64=base64.b64encode(CONTENT[:60_000]).decode()),
    ToolPart(
        id="prt_23", call_id="c10", tool="a.b", state="error", input=b'{"x":"' + b"y" * 50_000 + b'"}', error="no"
    ),
    CompactionPart(id="prt_24", summary=LONG, kept_from="msg_u1"),
]


@pytest.fixture
def full(store: Store) -> Store:
    """A session with every kind of part, long strings and a blob that two parts refer to."""
    Blobs(store.path.parent / blobs.FOLDER_NAME).add(HASH, CONTENT)
    store.session(
        title="A title", model="demo", cwd="/home/x", instructions="be\n" * 1000, toolsets=("files", "shell"),
        metadata=b'{"a":[1,2.5]}', todos=(Todo(text="one", status="completed"), Todo(text="two")),
    )  # fmt: skip
    store.start(text="hi there")
    store.apply(AddMessage(attrs.evolve(INFO, finish=None, finished_at=None, usage=None)))
    store.apply(*(AddPart("msg_a1", part) for part in PARTS))
    store.apply(AddPart("msg_a1", TextPart(id="prt_grown", text="")))
    store.apply(AppendText("prt_grown", "first, "), AppendText("prt_grown", "second"))
    store.apply(FoldText("prt_grown"), FinishMessage(INFO))
    end_run(store, "run_1")
    return store


def end_run(store: Store, run_id: str) -> None:
    run = attrs.evolve(store.start("x", text="gone").run, id=run_id, status="completed", ended_at=NOW)
    store.writer.execute("DELETE FROM runs WHERE id = 'run_x'")
    store.writer.execute("DELETE FROM messages WHERE id = 'msg_ux'")
    store.writer.execute("UPDATE sessions SET message_count = message_count - 1")
    store.apply(PutRun(run))


def exported(store: Store, session_id: str = "ses_1") -> bytes:
    with contextlib.closing(database.open_beside(store.path)) as connection:
        return b"".join(Export(connection, session_id, Blobs(store.path.parent / blobs.FOLDER_NAME)).lines())


def taken(store: Store, data: bytes, limits: Limits = DEFAULT) -> Session:
    bringing = Import(store.writer, Blobs(store.path.parent / blobs.FOLDER_NAME), Wal(store.path), limits)
    return bringing.run(io.BytesIO(data), LATER, lambda *_: None)


def transcript(store: Store, session_id: str) -> list[Message]:
    rows = store.reader.execute(
        "SELECT messages.key, messages.id, messages.role, messages.body FROM messages JOIN sessions"
        " ON sessions.key = messages.session WHERE sessions.id = ? ORDER BY messages.position",
        (session_id,),
    ).fetchall()
    return [
        Message(columns.info(message_id, role, body), read_parts(store.reader, key)[0])
        for key, message_id, role, body in rows
    ]


def problems(store: Store) -> list[checking.Finding]:
    with contextlib.closing(database.open_beside(store.path)) as connection:
        return list(checking.check(connection, store.path.parent, live=False, progress=lambda *_: None))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """Another data directory."""
    folder = tmp_path / "other"
    folder.mkdir()
    writer = database.open_writer(folder / database.FILE_NAME)
    reader = database.open_reader(folder / database.FILE_NAME)
    yield Store(folder / database.FILE_NAME, writer, reader)
    reader.close()
    database.close_writer(writer)


# ------------------------------------------------------------------ there and back
def same_but_ids(old: list[Message], new: list[Message]) -> None:
    """Everything but ids is equal, and ids that refer to others still refer to the same."""
    names = {a.info.id: b.info.id for a, b in zip(old, new, strict=True)}
    runs: dict[str | None, str | None] = {None: None}
    for a, b in zip(old, new, strict=True):
        runs.setdefault(a.info.run_id, b.info.run_id)
        parent = None if a.info.parent_id is None else names[a.info.parent_id]
        assert b.info == attrs.evolve(a.info, id=names[a.info.id], run_id=runs[a.info.run_id], parent_id=parent)
        for one, two in zip(a.parts, b.parts, strict=True):
            wanted: Any = attrs.evolve(one, id=two.id)
            if isinstance(one, CompactionPart) and one.kept_from in names:
                wanted = attrs.evolve(wanted, kept_from=names[one.kept_from])
            if isinstance(one, CompactionPart) and one.kept_from not in names:
                wanted = attrs.evolve(wanted, kept_from=two.kept_from)  # type: ignore[union-attr]
            assert two == wanted
    assert len(set(runs.values())) == len(runs)
    every = [message.info.id for message in (*old, *new)] + [part.id for m in (*old, *new) for part in m.parts]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("where", ["same", "other"])
def test_everything_comes_back(full: Store, other: Store, where: str) -> None:
    assert {type(part) for part in PARTS} == set(records.KIND_OF)
    target = full if where == "same" else other
    data = exported(full)
    assert max(map(len, data.splitlines(keepends=True))) <= LINE_BYTES
    made = taken(target, data)
    old = catalog.get(full.reader, "ses_1")
    assert made == attrs.evolve(
        old, id=made.id, updated_at=LATER, revision=1, message_count=2, parent_id=None, created_at=old.created_at
    )
    assert made == catalog.get(target.reader, made.id) and made.id != "ses_1"
    assert made.usage == USAGE and len(made.todos) == 2
    same_but_ids(transcript(full, "ses_1"), transcript(target, made.id))
    (call,) = (p for p in transcript(target, made.id)[1].parts if isinstance(p, ToolPart) and p.call_id == "c9")
    assert call.input == TOOL.input  # to the byte: numbers that no program keeps, spaces
    assert call.whole == TOOL.whole
    piece = outputs.read_own(
        target.reader, made.id, "out_media", 0, 1000, Blobs(target.path.parent / blobs.FOLDER_NAME)
    )
    assert piece.text == base64.b64encode(CONTENT)[:1000].decode()
    assert problems(target) == []
    assert target.count("runs") == (1 if where == "same" else 0)


def test_what_is_exported_again_is_the_same_but_for_ids(full: Store, other: Store) -> None:
    first = exported(full)
    made = taken(other, first)
    again = exported(other, made.id)
    assert len(again) == pytest.approx(len(first), abs=100 * (len(PARTS) + 5))
    kinds = [[*orjson.loads(line)][:1] for line in first.splitlines()]
    assert kinds == [[*orjson.loads(line)][:1] for line in again.splitlines()]
    same_but_ids(transcript(other, made.id), transcript(other, taken(other, again).id))


def test_an_imported_session_is_the_latest_and_goes_on(full: Store) -> None:
    made = taken(full, exported(full))
    assert [session.id for session in catalog.page(full.reader, 10, None, None).items] == [made.id, "ses_1"]
    full.start("2", session=made.id, text="and now")
    assert catalog.get(full.reader, made.id).message_count == 3
    hidden.delete(full.writer, "ses_1")
    assert transcript(full, made.id)[1].parts[12] == attrs.evolve(TOOL, id=transcript(full, made.id)[1].parts[12].id)
    assert [one.place for one in problems(full)] == ["runs"]  # a note; the blob is still used


def test_a_handle_that_names_something_else_here_is_replaced(full: Store, other: Store) -> None:
    other.session("mine")
    mine = b"mine"
    digest = hashlib.sha256(mine).hexdigest()
    store = Blobs(other.path.parent / blobs.FOLDER_NAME)
    store.add(digest, mine)
    part = FilePart(id="prt_m", mime="a/b", size=4, handle="out_media", hash=digest)
    info = UserMessage(id="msg_m", created_at=NOW)
    starting.add_user_message(other.writer, 1, Message(info, (part,)))
    other.writer.execute("UPDATE sessions SET message_count = 1")
    made = taken(other, exported(full))
    assert outputs.read(other.reader, "out_media", 0, 100, store).text == base64.b64encode(mine).decode()
    (media,) = (p for p in transcript(other, made.id)[1].parts if isinstance(p, FilePart) and p.hash == HASH)
    assert media.handle not in (None, "out_media")
    assert outputs.read(other.reader, media.handle or "", 0, 4, store).text == base64.b64encode(CONTENT)[:4].decode()
    assert problems(other) == []


def test_an_answer_that_is_being_written_is_left_out(full: Store) -> None:
    before = exported(full)
    full.start("2", text="more")
    (question,) = (m for m in transcript(full, "ses_1") if m.info.id == "msg_u2")
    full.apply(AddMessage(AssistantMessage(id="msg_a2", created_at=NOW, run_id="run_2", parent_id="msg_u2")))
    full.apply(AddPart("msg_a2", TextPart(id="prt_w", text="")), AppendText("prt_w", "so far"))
    ends = [orjson.loads(data.splitlines()[-1])["end"]["messages"] for data in (before, exported(full))]
    assert ends == [2, 3] and question.parts and b"so far" not in exported(full)


def test_a_session_that_is_deleted_meanwhile(full: Store) -> None:
    with contextlib.closing(database.open_beside(full.path)) as connection:
        lines = Export(connection, "ses_1", Blobs(full.path.parent / blobs.FOLDER_NAME)).lines()
        for line in lines:
            if line.startswith(b'{"message"'):
                break
        hidden.delete(full.writer, "ses_1")
        with pytest.raises(CallerError, match="was deleted while"):
            list(lines)
        with pytest.raises(CallerError, match="no session has the id"):
            Export(connection, "ses_1", Blobs(full.path.parent / blobs.FOLDER_NAME))


def test_no_transaction_is_open_between_two_lines(full: Store) -> None:
    with contextlib.closing(database.open_beside(full.path)) as connection:
        for _ in Export(connection, "ses_1", Blobs(full.path.parent / blobs.FOLDER_NAME)).lines():
            assert Wal(full.path).shorten(full.writer)


def test_a_blob_that_cannot_be_read_fails_the_export(full: Store) -> None:
    (full.path.parent / blobs.FOLDER_NAME / HASH).unlink()
    with pytest.raises(PeerError, match="No such file"):
        exported(full)


# ------------------------------------------------------------------ what is wrong
def lines_of(data: bytes) -> list[Any]:
    return [orjson.loads(line) for line in data.splitlines()]


def joined(lines: list[Any]) -> bytes:
    return b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines)


HEAD = {"greenroom": "session", "version": 1, "session": {"id": "ses_x", "title": "t", "model": "m", "cwd": "/", "created_at": 1}}  # fmt: skip # noqa: E501
USER = {"message": {"role": "user", "id": "msg_1", "created_at": 1}}
TEXT = {"part": {"kind": "text", "id": "prt_1", "text": "hi"}}
SMALL = hashlib.sha256(b"abc").hexdigest()
BLOB = [{"blob": {"hash": SMALL, "size": 3}}, {"data": "YWJj"}]
CALL = {"part": {"kind": "tool", "id": "prt_c", "call_id": "c", "tool": "a.b", "state": "completed", "input": "{}", "output": ""}}  # fmt: skip # noqa: E501
TURN = {"message": {"role": "assistant", "id": "msg_2", "created_at": 1, "finished_at": 2, "finish": "stop"}}
END = {"end": {"messages": 1, "parts": 1, "blobs": 0}}


def part(**fields: Any) -> dict[str, Any]:
    return {"part": {"kind": "text", "id": "prt_2", **fields}}


def call(**fields: Any) -> dict[str, Any]:
    return {"part": {**CALL["part"], **fields}}


WRONG: dict[str, tuple[list[Any], int, str]] = {
    "empty": ([], 1, "ends too early"),
    "no json": ([b"hello\n"], 1, "not JSON"),
    "no object": ([[1]], 1, "not an object"),
    "another file": ([{"a": 1}], 1, "not the beginning"),
    "newer": ([{**HEAD, "version": 2}], 1, "of version 2"),
    "title": ([{**HEAD, "session": {**HEAD["session"], "title": "x" * 201}}], 1, "title"),  # type: ignore[dict-item]
    "unknown field": ([{**HEAD, "session": {**HEAD["session"], "x": 1}}], 1, "x"),  # type: ignore[dict-item]
    "cwd": ([{**HEAD, "session": {**HEAD["session"], "cwd": "a"}}], 1, "absolute path"),  # type: ignore[dict-item]
    "usage": (
        [{**HEAD, "session": {**HEAD["session"], "usage": {"input_tokens": 2**63}}}], 1, "counts of tokens",  # type: ignore[dict-item]
    ),
    "cut": ([HEAD, USER, TEXT], 4, "ends too early"),
    "cut in a line": ([HEAD, USER, b'{"part":{"kind":"te'], 3, "not JSON"),
    "long line": ([HEAD, b'{"message":"' + b"x" * LINE_BYTES + b'"}\n'], 2, "longer than"),
    "long line without end": ([HEAD, b"x" * (LINE_BYTES + 1)], 2, "longer than"),
    "part first": ([HEAD, TEXT], 2, "without a message"),
    "no line": ([HEAD, {}], 2, "nothing is not what"),
    "two heads": ([HEAD, HEAD], 2, "not what can be here"),
    "role": ([HEAD, {"message": {"role": "system"}}], 2, "with a role"),
    "message": ([HEAD, {"message": {"role": "user", "id": "m"}}], 2, "created_at"),
    "user with finish": ([HEAD, {"message": {**USER["message"], "finish": "stop"}}], 2, "finish"),
    "message twice": ([HEAD, USER, TEXT, USER], 4, "two messages with the id 'msg_1'"),
    "part twice": ([HEAD, USER, TEXT, TEXT], 4, "two parts with the id 'prt_1'"),
    "kind": ([HEAD, USER, part(kind="nothing")], 3, "of one of the kinds"),
    "kind is a list": ([HEAD, USER, part(kind=[])], 3, "of one of the kinds"),
    "part is text": ([HEAD, USER, {"part": "x"}], 3, "of one of the kinds"),
    "field": ([HEAD, USER, part(text=3)], 3, "text: expected a string"),
    "input of a text": ([HEAD, USER, part(text="", input="{}")], 3, "unknown field"),
    "surrogate": ([HEAD, USER, b'{"part":{"kind":"text","id":"p","text":"\\ud800"}}\n'], 3, "not JSON"),
    "unfinished": ([HEAD, {"message": {"role": "assistant", "id": "m", "created_at": 1}}, TEXT, END], 4, "never finished"),  # noqa: E501
    "running call": ([HEAD, TURN, call(state="running"), END], 4, "is running"),
    "call without output": ([HEAD, TURN, {"part": {k: v for k, v in CALL["part"].items() if k != "output"}}, END], 4, "has no output"),  # noqa: E501
    "no id": ([HEAD, {"message": {**USER["message"], "id": "a b"}}], 2, "id: expected an id"),
    "no call id": ([HEAD, TURN, call(call_id="x" * 129)], 3, "call_id: expected an id"),
    "long name": ([HEAD, TURN, call(tool="x" * 201)], 3, "tool: expected 1 to 200"),
    "long model": ([HEAD, {"message": {**TURN["message"], "model": "x" * 201}}], 2, "model: expected 1 to 200"),
    "long code": (
        [HEAD, {"message": {**TURN["message"], "error": {"code": "x" * 201, "message": ""}}}], 2, "error.code",
    ),
    "time": ([HEAD, {"message": {**USER["message"], "created_at": -1}}], 2, "created_at: expected 0 to"),
    "a cost that is none": (
        [HEAD, {"message": {**TURN["message"], "usage": {"cost": -5.0}}}], 2, "usage: expected counts"
    ),
    "a cost without end": (
        [HEAD, {"message": {**TURN["message"], "usage": {"cost": 1e308}}}], 2, "usage: expected counts"
    ),
    "tokens": ([HEAD, {"message": {**TURN["message"], "usage": {"input_tokens": 2**60}}}], 2, "usage: expected counts"),
    "two calls": ([HEAD, TURN, CALL, call(id="prt_d"), {"end": {"messages": 1, "parts": 2}}], 5, "two calls have"),
    "silent user": ([HEAD, USER, TURN], 3, "without parts"),
    "input no object": ([HEAD, TURN, call(input="[]")], 3, "JSON of an object"),
    "input no json": ([HEAD, TURN, call(input="{")], 3, "JSON of an object"),
    "input as object": ([HEAD, TURN, call(input={})], 3, "the text of its JSON"),
    "long unknown": ([HEAD, USER, {**part(), "long": 3}], 3, "long has fields"),
    "long twice": ([HEAD, USER, {**part(text=""), "long": {"text": 3}}], 3, "long has fields"),
    "long count": ([HEAD, USER, {**part(), "long": {"text": -1}}], 3, "expected 1 to"),
    "long too long": ([HEAD, USER, {**part(), "long": {"text": 10**12}}], 3, "answer_bytes"),
    "long text": ([HEAD, USER, {**part(), "long": {"text": "3"}}], 3, "expected 1 to"),
    "piece missing": ([HEAD, USER, {**part(), "long": {"text": 3}}, {"piece": "ab"}, END], 5, "1 characters of text"),
    "piece too much": ([HEAD, USER, {**part(), "long": {"text": 3}}, {"piece": "abcd"}], 4, "of 4 characters where 3"),
    "piece empty": ([HEAD, USER, {**part(), "long": {"text": 3}}, {"piece": ""}], 4, "of 0 characters"),
    "long field": ([HEAD, USER, {**part(text=""), "long": {"x": 2}}, {"piece": "ab"}], 4, "x"),
    "piece alone": ([HEAD, USER, TEXT, {"piece": "x"}], 4, "piece is not what"),
    "blob hash": ([HEAD, {"blob": {"hash": "../../x", "size": 3}}], 2, "SHA-256"),
    "blob size": ([HEAD, {"blob": {"hash": SMALL, "size": 2**40}}], 2, "the size of a blob"),
    "blob cut": ([HEAD, BLOB[0], END], 3, "3 bytes of a blob are missing"),
    "blob other": ([HEAD, BLOB[0], {"data": "YWJk"}], 3, "not that of the blob"),
    "blob too much": ([HEAD, BLOB[0], {"data": "YWJjZA=="}], 3, "a piece of 4 bytes"),
    "blob no base64": ([HEAD, BLOB[0], {"data": "Y W"}], 3, "not base64"),
    "blob twice": ([HEAD, *BLOB, BLOB[0]], 4, "comes once"),
    "blob late": ([HEAD, USER, TEXT, BLOB[0]], 4, "blob is not what"),
    "blob unknown": ([HEAD, TURN, call(whole={"handle": "out_1", "hash": SMALL, "size": 3})], 3, "has not come before"),
    "blob of another size": ([HEAD, *BLOB, TURN, call(whole={"handle": "o", "hash": SMALL, "size": 4})], 5, "not come"),
    "handle of a part": (
        [HEAD, *BLOB, TURN, call(whole={"handle": "out_prt_1_text", "hash": SMALL, "size": 3})], 5, "no handle",
    ),
    "counts": ([HEAD, USER, TEXT, {"end": {"messages": 2, "parts": 1}}], 4, "were written"),
    "end and more": ([HEAD, USER, TEXT, {**END, "x": 1}], 4, "were written"),
    "behind the end": ([HEAD, USER, TEXT, END, USER], 5, "behind the last line"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_line_and_leaves_nothing(store: Store, case: str) -> None:
    lines, number, text = WRONG[case]
    store.session()
    changed = store.reader.execute("SELECT * FROM sessions").fetchall()
    with pytest.raises(BadLine) as raised:
        taken(store, joined(lines))
    assert raised.value.number == number and text in str(raised.value)
    assert len(str(raised.value)) < 600
    assert store.reader.execute("SELECT * FROM sessions").fetchall() == changed
    for table in ("messages", "parts", "attachments", "blobs"):
        assert store.count(table) == 0
    folder = store.path.parent / blobs.FOLDER_NAME
    assert not folder.exists() or os.listdir(folder) == []


def test_the_smallest_that_is_right(store: Store) -> None:
    made = taken(store, joined([HEAD, USER, TEXT, END]))
    assert made.message_count == 1 and transcript(store, made.id)[0].parts[0] == attrs.evolve(
        TextPart(id="", text="hi"), id=transcript(store, made.id)[0].parts[0].id
    )
    assert taken(store, joined([HEAD, {"end": {}}])).message_count == 0


def test_bounds_of_long_strings(store: Store) -> None:
    limits = Limits(answer_bytes=PIECE_CHARACTERS + 1)
    for count, good in ((PIECE_CHARACTERS + 1, True), (PIECE_CHARACTERS + 2, False)):
        pieces = [{"piece": "x" * PIECE_CHARACTERS}, {"piece": "x" * (count - PIECE_CHARACTERS)}]
        data = joined([HEAD, USER, {**part(), "long": {"text": count}}, *pieces, END])
        if good:
            assert taken(store, data, limits).message_count == 1
        else:
            with pytest.raises(BadLine, match="answer_bytes"):
                taken(store, data, limits)


@pytest.mark.parametrize("more", [0, 1])
def test_bounds_of_the_input_of_a_call(store: Store, more: int) -> None:
    limits = Limits(tool_input_bytes=100)
    data = joined([HEAD, TURN, call(input='{"a":"' + "x" * (92 + more) + '"}'), END])
    if more:
        with pytest.raises(BadLine, match="tool_input_bytes"):
            taken(store, data, limits)
    else:
        assert taken(store, data, limits).message_count == 1


def test_bounds_of_what_is_kept_while_it_comes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_PARTS_MAX", 2)
    monkeypatch.setattr(importing, "_BLOBS_MAX", 1)
    three = [HEAD, USER, *(part(text="", id=f"prt_{number}") for number in range(3))]
    with pytest.raises(BadLine, match="line 5: a message has at most 2 parts"):
        taken(store, joined(three))
    assert taken(store, joined([*three[:-1], {"end": {"messages": 1, "parts": 2}}])).message_count == 1
    with pytest.raises(BadLine, match="line 4: a session has at most 1 blobs"):
        taken(store, joined([HEAD, *BLOB, {"blob": {"hash": "0" * 64, "size": 0}}]))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "kind", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from places(inner, (*path, name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_is_refused_or_right(store: Store, data: st.DataObject) -> None:
    """Values of other types, anywhere: never anything but a BadLine."""
    long = {**part(), "long": {"text": 3}}
    end = {"end": {"messages": 2, "parts": 3, "blobs": 1}}
    whole = {"handle": "out_1", "hash": SMALL, "size": 3}
    lines = copy.deepcopy([HEAD, *BLOB, USER, long, {"piece": "abc"}, TEXT, TURN, call(whole=whole), end])
    number = data.draw(st.integers(0, len(lines) - 1))
    *path, last = data.draw(st.sampled_from(list(places(lines[number]))))
    target: Any = lines[number]
    for name in path:
        target = target[name]
    target[last] = data.draw(ANYTHING)
    try:
        made = taken(store, joined(lines))
    except BadLine:
        assert store.count("sessions") == store.count("messages") == store.count("blobs") == 0
    else:
        shown = reading.messages(store.reader, made.id, 50, None)
        assert len(shown.messages) == 2
        hidden.delete(store.writer, made.id)
        store.writer.execute("DELETE FROM blobs")


def test_any_byte_that_is_changed_imports_whole_or_not_at_all(full: Store, other: Store) -> None:
    """Lines are cut, doubled, left out and damaged: what is imported passes the check, what is not leaves nothing."""
    lines = exported(full).splitlines(keepends=True)
    refused = 0
    for number in range(0, len(lines), 3):
        line = lines[number]
        for changed in (b"", line + line, line[: len(line) // 2], line.replace(b"e", b"f", 1), b"\xff" + line):
            try:
                made = taken(other, b"".join([*lines[:number], changed, *lines[number + 1 :]]))
            except BadLine:
                refused += 1
                assert other.count("sessions") == other.count("messages") == other.count("blobs") == 0
            else:
                hidden.delete(other.writer, made.id)
    assert refused > 40
    assert problems(other) == []


def test_what_was_there_stays_when_an_import_fails(full: Store) -> None:
    before = transcript(full, "ses_1")
    with pytest.raises(BadLine):
        taken(full, exported(full)[:-10])
    assert transcript(full, "ses_1") == before and full.count("sessions") == 1
    assert problems(full) == []


def test_a_full_disk_leaves_nothing(store: Store) -> None:
    store.session()
    lines = b"".join(session_lines(messages=200, text=10_000, blob=100_000))
    (pages,) = store.writer.execute("PRAGMA page_count").fetchone()
    store.writer.execute(f"PRAGMA max_page_count = {pages + 300}")  # several transactions fit
    with pytest.raises(PeerError) as raised, database.translated(store.path):
        taken(store, lines)
    assert raised.value.code == "disk_full"
    store.writer.execute("PRAGMA max_page_count = 4294967294")
    tables = ("sessions", "messages", "parts", "blobs", "attachments")
    assert [store.count(table) for table in tables] == [1, 0, 0, 0, 0]
    assert os.listdir(store.path.parent / blobs.FOLDER_NAME) == []
    assert taken(store, lines).message_count == 200
    assert problems(store) == []


# ------------------------------------------------------------------ size
class Counting(io.RawIOBase):
    """A file of lines that are made when they are read."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._lines, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def test_memory_and_log_do_not_depend_on_the_size(store: Store, tmp_path: Path) -> None:
    """Thousands of messages and a blob of many times what may be in memory: in, and out again."""
    size, count = 24_000_000, 2000
    content = bytes(range(256)) * 187 + b"x" * 128  # of one line, 48,000 bytes
    digest = hashlib.sha256(content * (size // len(content))).hexdigest()

    def lines() -> Iterator[bytes]:
        yield joined([HEAD, {"blob": {"hash": digest, "size": size}}])
        for _ in range(size // len(content)):
            yield joined([{"data": base64.b64encode(content).decode()}])
        for number in range(count):
            yield joined([{"message": {"role": "user", "id": f"msg_{number}", "created_at": 1}}])
            yield joined([{"part": {"kind": "text", "id": f"prt_{number}", "text": "x" * 5000}}])
        file = {"kind": "file", "id": "f", "mime": "a/b", "size": size, "handle": "out_1", "hash": digest}
        yield joined([{"part": file}, {"end": {"messages": count, "parts": count + 1, "blobs": 1}}])

    wal = Wal(store.path)
    largest = 0

    def progress(what: str, done: int, of: int) -> None:
        nonlocal largest
        largest = max(largest, wal.size())

    tracemalloc.start()
    try:
        bringing = Import(store.writer, Blobs(tmp_path / blobs.FOLDER_NAME), wal, Limits(log_soft_bytes=1024 * 1024))
        made = bringing.run(io.BufferedReader(Counting(lines())), NOW, progress)
        with contextlib.closing(database.open_beside(store.path)) as connection:
            out = Export(connection, made.id, Blobs(tmp_path / blobs.FOLDER_NAME))
            written = sum(len(line) for line in out.lines())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.message_count == count == out.counts.messages
    assert written > size and peak < 4_000_000
    assert 0 < largest < 8_000_000
