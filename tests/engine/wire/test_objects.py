"""Objects of the wire: long strings cut on character boundaries with a handle, every object within its frame."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.commands import OutputPiece
from engine.runs.record import Run
from engine.transcript.records import (
    KIND_OF,
    KINDS,
    AssistantMessage,
    Blob,
    CompactionPart,
    Failure,
    FilePart,
    Message,
    ReasoningPart,
    RetryPart,
    StepFinishPart,
    TextPart,
    ToolPart,
    Usage,
    UserMessage,
)
from engine.transcript.session import Session
from engine.transcript.todo import TODO_CHARACTERS, TODOS_MAX, Todo
from engine.wire import handles, objects
from engine.wire.objects import cut_json, cut_string, encode_message, encode_output, encode_part, encode_run

FRAME = 262_144
SESSION = Session(id="ses_1", title="T", model="demo", cwd="/w", created_at=1, updated_at=2)
RUN = Run(id="run_1", session_id="ses_1", status="running", model="demo", created_at=1)


def part(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_part(record, room=FRAME))
    return found


# ------------------------------------------------------------------ cutting
@pytest.mark.parametrize(
    ("text", "bound", "cut"),
    [
        ("", 4, ("", None)),
        ("abcd", 4, ("abcd", None)),
        ("abcde", 4, ("abcd", 5)),
        ("éé", 4, ("éé", None)),
        ("ééx", 4, ("éé", 5)),
        ("aéé", 4, ("aé", 5)),
        ("€€", 5, ("€", 6)),
        ("😀😀", 7, ("😀", 8)),
        ("😀", 3, ("", 4)),
        ("a\ud83d", 9, ("a�", None)),
        ("\ud83d\ude00", 4, ("😀", None)),
    ],
)
def test_a_cut_is_between_characters(text: str, bound: int, cut: tuple[str, int | None]) -> None:
    assert cut_string(text, bound) == cut


@given(st.text(), st.integers(4, 40))
def test_a_cut_is_the_longest_head_that_fits(text: str, bound: int) -> None:
    head, more = cut_string(text, bound)
    whole = text.encode()
    assert text.startswith(head) and len(head.encode()) <= bound
    if len(whole) <= bound:
        assert (head, more) == (text, None)
    else:
        assert more == len(whole)
        assert len(text[: len(head) + 1].encode()) > bound


def test_exactly_32_kib_is_whole_and_one_byte_more_is_cut() -> None:
    whole = part(TextPart(id="prt_1", text="x" * 32_768))
    assert whole == {"id": "prt_1", "kind": "text", "text": "x" * 32_768}
    assert part(TextPart(id="prt_1", text="x" * 32_769)) == {
        "id": "prt_1",
        "kind": "text",
        "text": "x" * 32_768,
        "text_more": {"bytes": 32_769, "handle": "out_prt_1_text"},
    }


# ------------------------------------------------------------------ parts
def test_absent_is_not_null() -> None:
    assert part(ToolPart(id="prt_1", call_id="call_1", tool="files.read_file", state="pending")) == {
        "id": "prt_1", "kind": "tool", "call_id": "call_1", "tool": "files.read_file", "state": "pending", "input": {},
    }  # fmt: skip


def test_a_finished_tool_call() -> None:
    record = ToolPart(
        id="prt_1", call_id="call_1", tool="a.b", state="completed", input=b'{"path":"x","n":[1]}', output="o" * 40_000,
        title="t" * 5_000, started_at=3, finished_at=4,
    )  # fmt: skip
    found = part(record)
    assert found["input"] == {"path": "x", "n": [1]} and "input_more" not in found
    assert found["output"] == "o" * 32_768
    assert found["output_more"] == {"bytes": 40_000, "handle": "out_prt_1_output"}
    assert found["title"] == "t" * 1024 + "…"
    assert (found["started_at"], found["finished_at"]) == (3, 4)
    assert "error" not in found


def test_a_long_input_shows_its_fields_cut() -> None:
    value = {"path": "notes.txt", "content": "x" * 50_000, "flags": {"deep": ["y" * 20_000]}}
    encoded = json.dumps(value).encode()
    found = part(ToolPart(id="prt_1", call_id="c", tool="a.b", state="running", input=encoded))
    assert found["input_more"] == {"bytes": len(encoded), "handle": "out_prt_1_input"}
    assert found["input"]["path"] == "notes.txt"
    assert value["content"].startswith(found["input"]["content"]) and len(found["input"]["content"]) >= 1024
    assert len(json.dumps(found["input"])) <= 32_768


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 900 + b"]" * 900,
        json.dumps({"k" * 40_000: 1}).encode(),
        json.dumps(["x" * 200] * 5_000).encode(),
        json.dumps({str(i): {"a": "\0" * 500} for i in range(3_000)}).encode(),
        b'{"cut in the mid' + b"d" * 40_000,
    ],
)
def test_inputs_that_are_long_in_other_ways_stay_bounded(hostile: bytes) -> None:
    shown, more = cut_json(hostile + b" " * 40_000, 32_768)
    assert more == len(hostile) + 40_000
    assert len(objects.orjson.dumps(shown)) <= 32_768


def test_a_file_too_long_to_show_has_a_handle_instead() -> None:
    small = FilePart(id="prt_1", mime="image/png", size=3, name="a.png", data_base64="AAAA")
    assert part(small) == {
        "id": "prt_1", "kind": "file", "mime": "image/png", "size": 3, "name": "a.png", "data_base64": "AAAA",
    }  # fmt: skip
    large = part(attrs.evolve(small, data_base64="A" * 32_772))
    assert "data_base64" not in large and large["handle"] == "out_prt_1_data"


def test_a_signature_is_not_for_clients() -> None:
    assert part(ReasoningPart(id="prt_1", text="hm", signature="s" * 9)) == {
        "id": "prt_1", "kind": "reasoning", "text": "hm",
    }  # fmt: skip


def test_the_store_may_give_the_head_only() -> None:
    record = TextPart(id="prt_1", text="é" * 20_000)
    found = objects.part_object(record, sizes={"text": 9_000_000})
    assert len(found["text"].encode()) == 32_768
    short = objects.part_object(TextPart(id="prt_1", text="abc"), sizes={"text": 9})
    assert short["text_more"] == {"bytes": 9, "handle": "out_prt_1_text"}
    assert "text_more" not in objects.part_object(TextPart(id="prt_1", text="abc"), sizes={"text": 3})


def test_every_kind_has_a_shape() -> None:
    filled: dict[type, Any] = {int: 1, str: "x", bytes: b"{}"}
    for kind, cls in KINDS.items():
        fields = {f.name: filled.get(f.type, "x") for f in attrs.fields(cls)}  # type: ignore[arg-type]
        fields |= {"usage": Usage(cost=0.5)} if "usage" in fields else {}
        fields.pop("whole", None)
        record = cls(
            **{name: 1 if name in ("turn", "size", "attempt", "delay_ms") else v for name, v in fields.items()}
        )
        if "input" in fields:
            record = attrs.evolve(record, input=b"{}")
        found = part(record)
        assert found["kind"] == kind == KIND_OF[cls]
        assert set(found) == set(fields) - {"signature", "hash"} | {"kind"}


def test_the_whole_output_of_a_call_is_found_by_its_handle() -> None:
    call = ToolPart(
        id="prt_1", call_id="c", tool="a.b", state="completed", output="x" * 40_000,
        whole=Blob(handle="out_1", hash="0" * 64, size=10**9),
    )  # fmt: skip
    found = part(call)
    assert (len(found["output"]), found["output_more"]) == (32 * 1024, {"bytes": 10**9, "handle": "out_1"})
    failed = part(attrs.evolve(call, state="error", output=None, error="short"))
    assert (failed["error"], failed["error_more"]) == ("short", {"bytes": 10**9, "handle": "out_1"})
    assert "0" * 64 not in json.dumps(found)


def test_nested_records_are_plain() -> None:
    found = part(StepFinishPart(id="prt_1", turn=1, finish="stop", usage=Usage(input_tokens=3)))
    assert found["usage"] == {
        "input_tokens": 3, "output_tokens": 0, "reasoning_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0,
    }  # fmt: skip
    assert part(RetryPart(id="prt_1", attempt=2, reason="r" * 2_000, delay_ms=5))["reason"] == "r" * 1024 + "…"
    assert part(CompactionPart(id="prt_1", summary="s" * 33_000))["summary_more"]["handle"] == "out_prt_1_summary"


# ------------------------------------------------------------------ messages, sessions, runs
def test_a_message() -> None:
    message = Message(UserMessage(id="msg_1", created_at=5, run_id="run_1"), (TextPart(id="prt_1", text="hi"),))
    assert json.loads(encode_message(message)) == {
        "info": {"id": "msg_1", "role": "user", "created_at": 5, "run_id": "run_1"},
        "parts": [{"id": "prt_1", "kind": "text", "text": "hi"}],
    }


def test_an_assistants_message() -> None:
    info = AssistantMessage(
        id="msg_1",
        created_at=5,
        finished_at=6,
        finish="error",
        error=Failure(code="provider_error", message="m" * 2_000),
    )
    found = json.loads(encode_message(Message(info, ())))["info"]
    assert found["role"] == "assistant" and found["finish"] == "error"
    assert found["error"] == {"code": "provider_error", "message": "m" * 1024 + "…"}
    assert "usage" not in found and "model" not in found


@pytest.mark.parametrize("character", ["x", "\0", "é", "😀", '"'])
def test_a_message_that_is_too_large_is_cut_until_it_fits(character: str) -> None:
    calls = tuple(
        ToolPart(
            id=f"prt_{i}", call_id=f"call_{i}", tool="files.read_file", state="completed", output=character * 51_200,
            input=json.dumps({"a": character * 50_000}).encode(),
        )
        for i in range(64)
    )  # fmt: skip
    text = TextPart(id="prt_text", text=character * 8_000_000)
    encoded = encode_message(Message(AssistantMessage(id="msg_1", created_at=1), (text, *calls)))
    assert len(encoded) <= objects.OBJECT_BYTES < FRAME
    found = json.loads(encoded)
    assert len(found["parts"]) == 65 and "parts_more" not in found
    for shown in found["parts"][1:]:
        assert shown["output_more"]["bytes"] == len(character.encode()) * 51_200
        assert (character * 51_200).startswith(shown["output"]) and shown["output"]
    assert found["parts"][0]["text_more"]["handle"] == "out_prt_text_text"


def test_a_message_of_too_many_parts_says_how_many_are_left_out() -> None:
    parts = tuple(TextPart(id=f"prt_{i}", text="\0" * 400) for i in range(7_000))
    encoded = encode_message(Message(AssistantMessage(id="msg_1", created_at=1), parts))
    found = json.loads(encoded)
    assert len(encoded) <= objects.OBJECT_BYTES
    assert len(found["parts"]) + found["parts_more"] == 7_000 and found["parts"]


def test_a_session() -> None:
    found = json.loads(objects.encode_session(attrs.evolve(SESSION, metadata=b'{"a":[1]}', toolsets=("files",))))
    assert found == {
        "id": "ses_1", "title": "T", "model": "demo", "cwd": "/w", "created_at": 1, "updated_at": 2,
        "toolsets": ["files"], "metadata": {"a": [1]}, "revision": 0, "queued": 0, "message_count": 0,
        "usage": {"input_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0, "cache_read_tokens": 0,
                  "cache_write_tokens": 0},
        "todos": [],
    }  # fmt: skip


@pytest.mark.parametrize("character", ["x", '"', "語", "😀"])
def test_the_longest_todos_fit_with_all_else_that_a_session_has(character: str) -> None:
    todos = tuple(Todo(text=character * TODO_CHARACTERS, status="in_progress") for _ in range(TODOS_MAX))
    metadata = b'{"a":"' + b"x" * 16_000 + b'"}'
    session = attrs.evolve(SESSION, todos=todos, instructions="\0" * 65_536, metadata=metadata, cwd="/" + "x" * 4095)
    assert json.loads(objects.encode_session(attrs.evolve(SESSION, todos=todos)))["todos"] == [
        {"text": todo.text, "status": "in_progress"} for todo in todos
    ]
    for room in (objects.OBJECT_BYTES, 65_536):
        encoded = objects.encode_session(session, room=room)
        assert len(encoded) <= room
        found = json.loads(encoded)["todos"]
        assert len(found) == TODOS_MAX and all(todo["text"] for todo in found)


def test_long_instructions_are_cut_and_a_list_may_cut_them_shorter() -> None:
    session = attrs.evolve(SESSION, instructions="\0" * 65_536)
    for room in (objects.OBJECT_BYTES, 65_536):
        encoded = objects.encode_session(session, room=room)
        assert len(encoded) <= room
        assert json.loads(encoded)["instructions_more"] == {"bytes": 65_536, "handle": "out_ses_1_instructions"}
    head = json.loads(objects.encode_session(attrs.evolve(SESSION, instructions="abc"), size=70_000))
    assert head["instructions_more"]["bytes"] == 70_000


def test_a_run() -> None:
    assert json.loads(encode_run(RUN)) == {
        "id": "run_1", "session_id": "ses_1", "status": "running", "model": "demo", "created_at": 1,
        "usage": {"input_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0, "cache_read_tokens": 0,
                  "cache_write_tokens": 0},
        "first_seq": 1, "last_seq": 0,
    }  # fmt: skip
    failed = attrs.evolve(
        RUN, status="failed", error=Failure(code="provider_error", message="\ud83d" * 9_000), reason="x"
    )
    found = json.loads(encode_run(failed))
    assert found["error"]["message"].startswith("�") and len(found["error"]["message"].encode()) <= 1_027
    assert found["reason"] == "x"


# ------------------------------------------------------------------ outputs
def test_a_piece_of_an_output() -> None:
    assert json.loads(encode_output(OutputPiece(text="abc", total=10, next_offset=7), 4)) == {
        "text": "abc", "total": 10, "next_offset": 7,
    }  # fmt: skip
    assert json.loads(encode_output(OutputPiece(text="abc", total=7), 4)) == {"text": "abc", "total": 7}


@pytest.mark.parametrize("character", ["\0", "é", "\0\0\0\0\0é", "x"])
def test_pieces_within_frames_give_the_whole(character: str) -> None:
    whole = (character * 65_536).encode()[:65_536].decode("utf-8", "ignore")
    offset, read = 0, ""
    while True:
        rest = whole.encode()[offset:].decode()
        encoded = encode_output(OutputPiece(text=rest, total=len(whole.encode())), offset)
        assert len(encoded) <= objects.OBJECT_BYTES
        piece = json.loads(encoded)
        read += piece["text"]
        if "next_offset" not in piece:
            break
        assert piece["next_offset"] > offset
        offset = piece["next_offset"]
    assert read == whole


# ------------------------------------------------------------------ handles
def test_a_handle_names_its_owner_and_field() -> None:
    assert handles.handle_of("prt_0abc", "output") == "out_prt_0abc_output"
    assert handles.parse("out_prt_0abc_output") == ("prt_0abc", "output")
    for field in handles.FIELDS:
        assert handles.parse(handles.handle_of("ses_1", field)) == ("ses_1", field)


@pytest.mark.parametrize(
    "text",
    [
        "", "out", "out_", "out__text", "out_prt_1", "out_prt_1_", "out_prt_1_nix", "prt_1_text", "out_prt 1_text",
        "out_../x_text", "out_" + "x" * 129 + "_text", "OUT_prt_1_text",
    ],
)  # fmt: skip
def test_what_is_no_handle(text: str) -> None:
    assert handles.parse(text) is None
