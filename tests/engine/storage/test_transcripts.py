"""Transcripts: what runs write, and what clients and models read of it."""

from __future__ import annotations

import base64
import tracemalloc
from typing import Any

import attrs
import orjson
import pytest

from engine.codec import DecodeError
from engine.errors import CallerError, OwnError
from engine.limits import DEFAULT
from engine.storage import outputs, reading, texts, window
from engine.storage.changes import (
    AddMessage,
    AddPart,
    AppendText,
    FinishMessage,
    FoldText,
    PutPart,
)
from engine.transcript import records
from engine.transcript.records import (
    AssistantMessage,
    CompactionPart,
    FilePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolPart,
    Usage,
    UserMessage,
)
from engine.wire import objects
from tests.engine.storage.conftest import NOW, Store

BOUND = DEFAULT.string_bytes
ANSWER = AssistantMessage(id="msg_a1", created_at=NOW, run_id="run_1")

EVERY_KIND: list[Part] = [
    TextPart(id="prt_1", text="é\0\u2028"),
    ReasoningPart(id="prt_2", text="hm", signature="sig"),
    FilePart(id="prt_3", mime="a/b", size=2, name="n", data_base64="QUI="),
    ToolPart(
        id="prt_4", call_id="c", tool="files.read_file", state="completed", input=b'{"a":{"b":[1,"\xc3\xa9"]}}',
        output="out", title="t", started_at=1, finished_at=2,
    ),
    records.StepStartPart(id="prt_5", turn=1),
    records.StepFinishPart(id="prt_6", turn=1, finish="stop", usage=Usage(input_tokens=3, cost=0.5)),
    records.SnapshotPart(id="prt_7", snapshot="s"),
    records.PatchPart(id="prt_8", path="p", before="b", size=4),
    records.AgentPart(id="prt_9", name="n"),
    records.SubtaskPart(id="prt_10", agent="a", description="d", prompt="p"),
    records.RetryPart(id="prt_11", attempt=2, reason="r", delay_ms=3),
    CompactionPart(id="prt_12", summary="s", kept_from="msg_1"),
]  # fmt: skip


@pytest.fixture
def running(store: Store) -> Store:
    store.session()
    store.start()
    store.apply(AddMessage(ANSWER))
    return store


def whole(store: Store) -> tuple[Message, ...]:
    return window.read(store.reader, "ses_1", 100, 10**9).messages


def shown(store: Store, limit: int = 50, cursor: str | None = None) -> list[dict[str, Any]]:
    return [orjson.loads(data) for data in reading.messages(store.reader, "ses_1", limit, cursor).messages]


def test_every_kind_comes_back_as_it_was(running: Store) -> None:
    assert {type(part) for part in EVERY_KIND} == set(records.KIND_OF)
    running.apply(*(AddPart("msg_a1", part) for part in EVERY_KIND))
    _, answer = whole(running)
    assert answer == Message(ANSWER, tuple(EVERY_KIND))
    (user, _) = whole(running)
    assert user == Message(
        UserMessage(id="msg_u1", created_at=NOW, run_id="run_1"), (TextPart(id="prt_u1", text="hi"),)
    )


def test_a_page_shows_what_the_wire_shows(running: Store) -> None:
    running.apply(*(AddPart("msg_a1", part) for part in EVERY_KIND))
    assert shown(running) == [orjson.loads(objects.encode_message(message)) for message in whole(running)]


def test_text_that_grows_is_read_and_then_folded(running: Store) -> None:
    running.apply(
        AddPart("msg_a1", TextPart(id="prt_t", text="")), AppendText("prt_t", "Hel"), AppendText("prt_t", "l")
    )
    running.apply(AppendText("prt_t", "o "))
    assert shown(running)[1]["parts"][0]["text"] == "Hello "
    assert running.count("chunks") == 1  # small ones share a row
    running.apply(AppendText("prt_t", "x" * 5000))
    running.apply(AppendText("prt_t", "é"))
    assert running.count("chunks") == 3
    assert whole(running)[1].parts == (TextPart(id="prt_t", text="Hello " + "x" * 5000 + "é"),)
    running.apply(FoldText("prt_t"))
    assert running.count("chunks") == 0
    assert whole(running)[1].parts == (TextPart(id="prt_t", text="Hello " + "x" * 5000 + "é"),)
    running.apply(FoldText("prt_t"))  # nothing is left to fold
    assert whole(running)[1].parts == (TextPart(id="prt_t", text="Hello " + "x" * 5000 + "é"),)


def test_a_part_may_begin_with_text_and_grow(running: Store) -> None:
    running.apply(AddPart("msg_a1", ReasoningPart(id="prt_t", text="a")), AppendText("prt_t", "b"))
    assert whole(running)[1].parts == (ReasoningPart(id="prt_t", text="ab"),)
    running.apply(AppendText("prt_t", "c"), FoldText("prt_t"))
    assert whole(running)[1].parts == (ReasoningPart(id="prt_t", text="abc"),)


def test_reasoning_gets_its_signature_when_it_is_folded(running: Store) -> None:
    running.apply(AddPart("msg_a1", ReasoningPart(id="prt_t", text="")), AppendText("prt_t", "hm"))
    running.apply(FoldText("prt_t", "sig"), AddPart("msg_a1", ReasoningPart(id="prt_u", text="")))
    running.apply(FoldText("prt_u", "without text"))
    assert whole(running)[1].parts == (
        ReasoningPart(id="prt_t", text="hm", signature="sig"),
        ReasoningPart(id="prt_u", text="", signature="without text"),
    )


def test_adjacent_texts_of_one_part_only_are_merged(running: Store) -> None:
    running.apply(
        AddPart("msg_a1", TextPart(id="prt_a", text="")),
        AddPart("msg_a1", TextPart(id="prt_b", text="")),
        *(AppendText("prt_a", character) for character in "abc"),
        AppendText("prt_b", "-"),
        AppendText("prt_a", "d"),
    )
    assert [part.text for part in whole(running)[1].parts] == ["abcd", "-"]  # type: ignore[union-attr]


def test_folding_does_not_keep_the_text_twice_on_disk(running: Store) -> None:
    running.apply(AddPart("msg_a1", TextPart(id="prt_t", text="")))
    running.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = running.path.stat().st_size
    text = "word " * 200_000
    for begin in range(0, len(text), 4096):
        running.apply(AppendText("prt_t", text[begin : begin + 4096]))
    running.apply(FoldText("prt_t"))
    running.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert running.path.stat().st_size - before <= 1.25 * len(text)
    assert whole(running)[1].parts == (TextPart(id="prt_t", text=text),)


def test_revisions_count_changes_of_the_transcript(running: Store) -> None:
    before = reading.messages(running.reader, "ses_1", 1, None).revision
    assert running.apply(AddPart("msg_a1", TextPart(id="prt_t", text=""))) == before + 1
    assert running.apply(AppendText("prt_t", "x")) == before + 1  # counts when it is folded
    assert running.apply(FoldText("prt_t"), FinishMessage(attrs.evolve(ANSWER, finish="stop"))) == before + 2


def test_a_tool_part_is_replaced(running: Store) -> None:
    call = ToolPart(id="prt_c", call_id="c", tool="a.b", state="pending")
    running.apply(AddPart("msg_a1", call))
    done = attrs.evolve(call, state="completed", input=b'{"x":1}', output="y")
    running.apply(PutPart(done))
    assert whole(running)[1].parts == (done,)


def test_a_change_of_what_was_never_added_is_a_defect(running: Store) -> None:
    with pytest.raises(OwnError, match="prt_none"):
        running.apply(AppendText("prt_none", "x"))
    with pytest.raises(OwnError, match="msg_none"):
        running.apply(AddPart("msg_none", TextPart(id="prt_x", text="")))


def test_half_a_surrogate_pair_is_not_stored(running: Store) -> None:
    with pytest.raises(UnicodeEncodeError):
        running.apply(AddPart("msg_a1", TextPart(id="prt_x", text="\ud83d")))


# ------------------------------------------------------------------ strings that are cut
@pytest.mark.parametrize("streaming", [False, True])
def test_a_string_at_the_bound_is_whole_and_one_past_is_cut(running: Store, streaming: bool) -> None:
    fitting, longer = "x" * BOUND, "y" * (BOUND + 1)
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text="" if streaming else fitting)))
    running.apply(AddPart("msg_a1", TextPart(id="prt_2", text="" if streaming else longer)))
    if streaming:
        running.apply(AppendText("prt_1", fitting), AppendText("prt_2", longer))
    one, two = shown(running)[1]["parts"]
    assert one == {"id": "prt_1", "kind": "text", "text": fitting}
    assert two["text"] == longer[:-1]
    assert two["text_more"] == {"bytes": BOUND + 1, "handle": "out_prt_2_text"}
    piece = outputs.read(running.reader, two["text_more"]["handle"], BOUND, 100)
    assert (piece.text, piece.total, piece.next_offset) == ("y", BOUND + 1, None)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_character_on_the_edge_is_left_for_the_rest(running: Store, before: int) -> None:
    text = "x" * (BOUND - before) + "😀" * 3
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text=text)))
    (part,) = shown(running)[1]["parts"]
    head = part["text"].encode()
    assert len(head) == BOUND - before  # no emoji fits the 0 to 3 bytes that are left
    assert part["text_more"]["bytes"] == BOUND - before + 12
    rest = outputs.read(running.reader, "out_prt_1_text", len(head), 100)
    assert part["text"] + rest.text == text


def test_long_outputs_errors_files_and_inputs_are_cut(running: Store) -> None:
    data = base64.b64encode(b"\0" * 60_000).decode()
    running.apply(
        AddPart("msg_a1", ToolPart(id="prt_o", call_id="c", tool="a.b", state="completed", output="o" * 40_000)),
        AddPart("msg_a1", ToolPart(id="prt_e", call_id="d", tool="a.b", state="error", error="e" * 40_000)),
        AddPart(
            "msg_a1",
            ToolPart(
                id="prt_i", call_id="e", tool="a.b", state="running", input=orjson.dumps({"p": "/x", "t": "i" * 40_000})
            ),
        ),
        AddPart("msg_a1", FilePart(id="prt_f", mime="a/b", size=60_000, data_base64=data)),
    )
    output, error, given, file = shown(running)[1]["parts"]
    assert (len(output["output"]), output["output_more"]["bytes"]) == (BOUND, 40_000)
    assert (len(error["error"]), error["error_more"]["handle"]) == (BOUND, "out_prt_e_error")
    assert given["input"]["p"] == "/x" and given["input_more"]["bytes"] == 40_000 + len('{"p":"/x","t":""}')
    assert "data_base64" not in file and file["handle"] == "out_prt_f_data"
    assert outputs.read(running.reader, "out_prt_f_data", 0, 65_536).total == len(data)
    assert outputs.read(running.reader, "out_prt_i_input", 0, 17).text.startswith('{"p":"/x","t":"ii')


def test_a_huge_text_is_not_loaded_to_show_its_head(running: Store) -> None:
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text="x" * 8_000_000)))
    tracemalloc.start()
    try:
        shown(running)
        outputs.read(running.reader, "out_prt_1_text", 5_000_000, 65_536)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


# ------------------------------------------------------------------ pages
def test_pages_go_back_in_time_and_stay_right_while_messages_are_added(store: Store) -> None:
    store.session()
    for number in range(5):
        store.start(str(number))
    first = reading.messages(store.reader, "ses_1", 2, None)
    assert [orjson.loads(m)["info"]["id"] for m in first.messages] == ["msg_u3", "msg_u4"]
    store.start("late")
    second = reading.messages(store.reader, "ses_1", 2, first.next_cursor)
    assert [orjson.loads(m)["info"]["id"] for m in second.messages] == ["msg_u1", "msg_u2"]
    last = reading.messages(store.reader, "ses_1", 2, second.next_cursor)
    assert [orjson.loads(m)["info"]["id"] for m in last.messages] == ["msg_u0"]
    assert last.next_cursor is None
    assert last.revision == 7


def test_a_page_ends_early_to_fit_a_frame_and_misses_nothing(store: Store) -> None:
    store.session()
    for number in range(20):
        store.start(str(number), text="z" * 30_000)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = reading.messages(store.reader, "ses_1", 200, cursor)
        assert sum(len(m) + 1 for m in page.messages) <= objects.OBJECT_BYTES
        seen = [orjson.loads(m)["info"]["id"] for m in page.messages] + seen
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"msg_u{number}" for number in range(20)]


def test_a_message_larger_than_a_frame_is_shown_with_shorter_strings(running: Store) -> None:
    running.apply(*(AddPart("msg_a1", TextPart(id=f"prt_{i}", text="\1" * 20_000)) for i in range(60)))
    page = reading.messages(running.reader, "ses_1", 10, None)
    value = orjson.loads(page.messages[-1])
    assert sum(len(message) + 1 for message in page.messages) <= objects.OBJECT_BYTES and len(value["parts"]) == 60
    assert all(part["text_more"]["bytes"] == 20_000 for part in value["parts"])


def test_a_message_of_far_too_many_parts_says_how_many_are_left_out(running: Store) -> None:
    running.apply(*(AddPart("msg_a1", TextPart(id=f"prt_{i}", text="x")) for i in range(9000)))
    (message,) = reading.messages(running.reader, "ses_1", 1, None).messages
    value = orjson.loads(message)
    assert len(message) <= objects.OBJECT_BYTES
    assert len(value["parts"]) + value["parts_more"] == 9000


@pytest.mark.parametrize("cursor", ["s1", "m", "m-1", "🙂", "m" + "1" * 40])
def test_a_hostile_cursor_is_the_callers_mistake(store: Store, cursor: str) -> None:
    store.session()
    with pytest.raises(DecodeError):
        reading.messages(store.reader, "ses_1", 10, cursor)


# ------------------------------------------------------------------ the window
def turns(store: Store, answers: list[list[int]]) -> None:
    """A run for each list, with an answer of so many bytes for each of its numbers."""
    store.session()
    for number, sizes in enumerate(answers):
        store.start(str(number), text="q")
        for index, size in enumerate(sizes):
            info = AssistantMessage(id=f"msg_a{number}_{index}", created_at=NOW, run_id=f"run_{number}")
            store.apply(AddMessage(info), AddPart(info.id, TextPart(id=f"prt_{number}_{index}", text="x" * size)))


def chosen(store: Store, max_messages: int, max_bytes: int) -> list[str]:
    found = window.read(store.reader, "ses_1", max_messages, max_bytes).messages
    return [message.info.id.removeprefix("msg_") for message in found]


def test_a_window_has_whole_turns_from_the_tail(store: Store) -> None:
    turns(store, [[10], [10, 10], [10]])
    assert chosen(store, 100, 10**6) == ["u0", "a0_0", "u1", "a1_0", "a1_1", "u2", "a2_0"]
    assert chosen(store, 5, 10**6) == ["u1", "a1_0", "a1_1", "u2", "a2_0"]
    assert chosen(store, 4, 10**6) == ["u2", "a2_0"]


def test_a_window_is_bounded_in_bytes(store: Store) -> None:
    turns(store, [[10], [50_000], [10]])
    assert chosen(store, 100, 20_000) == ["u2", "a2_0"]
    assert chosen(store, 100, 60_000) == ["u0", "a0_0", "u1", "a1_0", "u2", "a2_0"]


def test_the_latest_user_message_is_always_there(store: Store) -> None:
    turns(store, [[10], [100, 50_000, 100, 100]])
    # The newest answer is there too: it has the results that the model waits for.
    assert chosen(store, 100, 1) == ["u1", "a1_3"]
    assert chosen(store, 1, 10**6) == ["u1", "a1_3"]
    assert chosen(store, 3, 10**6) == ["u1", "a1_2", "a1_3"]
    assert chosen(store, 100, 10_000) == ["u1", "a1_2", "a1_3"]  # nothing from before the answer that does not fit


def test_messages_without_answers_are_turns_too(store: Store) -> None:
    turns(store, [[], [], [10]])
    assert chosen(store, 3, 10**6) == ["u1", "u2", "a2_0"]
    assert chosen(store, 100, 10**6) == ["u0", "u1", "u2", "a2_0"]


def test_an_empty_session_has_an_empty_window(store: Store) -> None:
    store.session()
    assert chosen(store, 10, 10) == []


# ------------------------------------------------------------------ pieces of strings
TEXT = "aé€😀" * 50


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, 64])
def test_pieces_put_together_are_the_text(running: Store, limit: int, chunked: bool) -> None:
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text="" if chunked else TEXT)))
    if chunked:
        for begin in range(0, len(TEXT), 30):
            # Rows that are never merged, so that pieces cross their edges.
            running.writer.execute(
                "INSERT INTO chunks SELECT key, ?, ? FROM parts WHERE id = 'prt_1'",
                (len(TEXT[:begin].encode()), TEXT[begin : begin + 30].encode()),
            )
    text, offset = "", 0
    while True:
        piece = outputs.read(running.reader, "out_prt_1_text", offset, limit)
        assert piece.total == 500 and piece.text
        assert len(piece.text.encode()) <= max(limit, 4)
        text += piece.text
        if piece.next_offset is None:
            break
        assert piece.next_offset > offset
        offset = piece.next_offset
    assert text == TEXT


def test_any_range_of_a_text_that_grows(running: Store) -> None:
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text="ab")))
    (key,) = running.reader.execute("SELECT key FROM parts WHERE id = 'prt_1'").fetchone()
    for begin, text in [(2, b"cde"), (5, b"f"), (6, b"ghi")]:
        running.writer.execute("INSERT INTO chunks VALUES (?, ?, ?)", (key, begin, text))
    whole_text = b"abcdefghi"
    assert texts.size(running.reader, key, "text") == 9
    for start in range(11):
        for end in range(11):
            assert texts.read(running.reader, key, "text", start, end) == whole_text[start:end], (start, end)


def test_an_offset_inside_a_character_begins_at_the_next(running: Store) -> None:
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text="😀b")))
    piece = outputs.read(running.reader, "out_prt_1_text", 2, 100)
    assert (piece.text, piece.next_offset) == ("b", None)
    beyond = outputs.read(running.reader, "out_prt_1_text", 10**15, 100)
    assert (beyond.text, beyond.next_offset, beyond.total) == ("", None, 5)


@pytest.mark.parametrize("limit", range(1, 9))
def test_a_piece_from_any_byte_has_whole_characters(running: Store, limit: int) -> None:
    text = "aé😀z日😀"
    begins = [len(text[:at].encode()) for at in range(len(text) + 1)]
    running.apply(AddPart("msg_a1", TextPart(id="prt_1", text=text)))
    for offset in range(begins[-1]):
        piece = outputs.read(running.reader, "out_prt_1_text", offset, limit)
        rest = text[next(at for at, begin in enumerate(begins) if begin >= offset) :]
        assert rest.startswith(piece.text) and bool(piece.text) is bool(rest), offset
        following = len(text.encode()) - len(rest.encode()) + len(piece.text.encode())
        assert piece.next_offset == (following if piece.text != rest else None), offset


def test_instructions_have_a_handle(store: Store) -> None:
    store.session(instructions="é" * 10)
    piece = outputs.read(store.reader, "out_ses_1_instructions", 3, 5)
    assert (piece.text, piece.next_offset, piece.total) == ("éé", 8, 20)


@pytest.mark.parametrize(
    "handle",
    ["", "out_", "out_prt_9_text", "out_ses_9_instructions", "out_ses_1_instructions", "out_prt_u1_output",
     "out_prt_u1_input", "prt_u1", "out_prt_u1_id", "out_' OR 1_text", "out_prt_u1\0_text", "x" * 500],
)  # fmt: skip
def test_a_handle_of_nothing(store: Store, handle: str) -> None:
    store.session()
    store.start()
    with pytest.raises(CallerError) as raised:
        outputs.read(store.reader, handle, 0, 10)
    assert raised.value.code == "unknown_output"


def test_whole_characters_of_a_piece() -> None:
    data = "é€😀".encode()
    assert [texts.whole_characters(data[:end], at_end=False) for end in range(len(data) + 1)] == [
        (0, 0), (0, 0), (0, 2), (0, 2), (0, 2), (0, 5), (0, 5), (0, 5), (0, 5), (0, 9),
    ]  # fmt: skip
    assert texts.whole_characters(data[3:], at_end=True) == (2, 6)
