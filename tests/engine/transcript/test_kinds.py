"""Each of the twelve kinds of parts, from the store to clients and to the services that models are behind."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from engine.providers import anthropic_request, openai_request
from engine.storage import database, reading, texts
from engine.storage.changes import AddMessage, AddPart, FinishMessage
from engine.storage.rows import Rows
from engine.transcript.records import (
    KIND_OF,
    KINDS,
    AgentPart,
    AssistantMessage,
    Blob,
    CompactionPart,
    FilePart,
    Message,
    Part,
    PatchPart,
    ReasoningPart,
    RetryPart,
    SnapshotPart,
    StepFinishPart,
    StepStartPart,
    SubtaskPart,
    TextPart,
    ToolPart,
    Usage,
)
from engine.wire import objects
from tests.engine.storage.conftest import NOW, Store

DIGEST = "0" * 64
# Each kind with all of its fields, and what of it a client sees and a model is told (none: nothing).
PARTS: list[tuple[Part, dict[str, Any], str | None]] = [
    (TextPart(id="p", text="hé"), {"text": "hé"}, "hé"),
    (ReasoningPart(id="p", text="thought", signature="sig"), {"text": "thought"}, None),
    (
        FilePart(id="p", mime="text/csv", size=1234, name="a.csv", handle="blob_1", hash=DIGEST),
        {"mime": "text/csv", "size": 1234, "name": "a.csv", "handle": "blob_1"},
        "[attached file a.csv: text/csv, 1,234 bytes, not shown]",
    ),
    (
        ToolPart(
            id="p", call_id="call_1", tool="files.read_file", state="completed", input=b'{"path":"x"}', output="found",
            whole=Blob(handle="out_1", hash=DIGEST, size=99_000), title="x", started_at=1, finished_at=2,
        ),
        {
            "call_id": "call_1", "tool": "files.read_file", "state": "completed", "input": {"path": "x"},
            "output": "found", "output_more": {"bytes": 99_000, "handle": "out_1"}, "title": "x", "started_at": 1,
            "finished_at": 2,
        },
        "found",
    ),
    (StepStartPart(id="p", turn=3), {"turn": 3}, None),
    (
        StepFinishPart(id="p", turn=3, finish="stop", usage=Usage(input_tokens=5, output_tokens=6)),
        {
            "turn": 3, "finish": "stop",
            "usage": {
                "input_tokens": 5, "output_tokens": 6, "reasoning_tokens": 0, "cache_read_tokens": 0,
                "cache_write_tokens": 0,
            },
        },
        None,
    ),
    (SnapshotPart(id="p", snapshot="tree 1"), {"snapshot": "tree 1"}, None),
    (
        PatchPart(id="p", path="a.py", before="b", after="c", size=7),
        {"path": "a.py", "before": "b", "after": "c", "size": 7},
        None,
    ),
    (AgentPart(id="p", name="reviewer"), {"name": "reviewer"}, None),
    (
        SubtaskPart(id="p", agent="reviewer", description="look", prompt="look at it"),
        {"agent": "reviewer", "description": "look", "prompt": "look at it"},
        None,
    ),
    (RetryPart(id="p", attempt=2, reason="busy", delay_ms=9), {"attempt": 2, "reason": "busy", "delay_ms": 9}, None),
    (CompactionPart(id="p", summary="old", kept_from="msg_1"), {"summary": "old", "kept_from": "msg_1"}, "old"),
]  # fmt: skip
IDS = [KIND_OF[type(part)] for part, *_ in PARTS]

INFO = AssistantMessage(id="msg_a", created_at=NOW, finished_at=NOW, finish="stop")


def test_all_kinds_are_here() -> None:
    assert sorted(IDS) == sorted(KINDS) and len(IDS) == 12


@pytest.mark.parametrize(("part", "shown", "told"), PARTS, ids=IDS)
def test_a_kind_from_the_store_to_everybody(
    tmp_path: Path, part: Part, shown: dict[str, Any], told: str | None
) -> None:
    path = tmp_path / database.FILE_NAME
    store = Store(path, database.open_writer(path, "normal"), database.open_reader(path))
    try:
        store.session()
        store.apply(AddMessage(INFO), AddPart("msg_a", part), FinishMessage(INFO))
        rows = Rows(store.reader, "ses_1", lambda *_: None)
        (message,) = [rows.whole(row) for row in rows.newest_first()]
        assert message == Message(INFO, (part,))
        (page,) = reading.messages(store.reader, "ses_1", 10, None).messages
        wanted = {"id": "p", "kind": KIND_OF[type(part)], **shown}
        assert orjson.loads(page)["parts"] == [wanted]
        assert orjson.loads(objects.encode_part(part)) == wanted
        check_long_strings(store.reader, part)
    finally:
        store.reader.close()
        store.writer.close()
    check_encoders(message, told)


def check_long_strings(connection: sqlite3.Connection, part: Part) -> None:
    """Where a kind has a long string, it can be read in pieces."""
    text = getattr(part, {"text": "text", "reasoning": "text", "tool": "output"}.get(KIND_OF[type(part)], ""), None)
    if text is not None:
        (key,) = connection.execute("SELECT key FROM parts").fetchone()
        assert texts.read(connection, key, "text", 0, 100).decode() == text


def check_encoders(message: Message, told: str | None) -> None:
    openai = orjson.loads(b"[" + openai_request.encode_message(message) + b"]")
    anthropic = [orjson.loads(b"[" + content + b"]") for _, content in anthropic_request.encode_message(message)]
    for said in (openai, anthropic):
        text = orjson.dumps(said).decode()
        assert bool(said) is (told is not None)
        assert told is None or orjson.dumps(told).decode()[1:-1] in text
        assert "sig" not in text and "reviewer" not in text and "tree 1" not in text


@pytest.mark.parametrize(("part", "shown", "told"), PARTS, ids=IDS)
def test_a_kind_without_its_optional_fields(
    tmp_path: Path, part: Part, shown: dict[str, Any], told: str | None
) -> None:
    fields = attrs.fields(type(part))
    bare = type(part)(**{field.name: getattr(part, field.name) for field in fields if field.default is attrs.NOTHING})
    path = tmp_path / database.FILE_NAME
    store = Store(path, database.open_writer(path, "normal"), database.open_reader(path))
    try:
        store.session()
        store.apply(AddMessage(INFO), AddPart("msg_a", bare), FinishMessage(INFO))
        rows = Rows(store.reader, "ses_1", lambda *_: None)
        (message,) = [rows.whole(row) for row in rows.newest_first()]
        assert message.parts == (bare,)
        (page,) = reading.messages(store.reader, "ses_1", 10, None).messages
        (found,) = orjson.loads(page)["parts"]
        assert found == orjson.loads(objects.encode_part(bare)) and not any(value is None for value in found.values())
    finally:
        store.reader.close()
        store.writer.close()
    list(openai_request.encode_message(message))
    list(anthropic_request.encode_message(message))
