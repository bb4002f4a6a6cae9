"""Records to columns and back: the one place that knows which field of a record stands where.

Long strings have columns of their own, as UTF-8; all other fields are in `body` as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
import orjson

from engine import codec
from engine.errors import OwnError
from engine.transcript.records import (
    KIND_OF,
    KINDS,
    AssistantMessage,
    MessageInfo,
    Part,
    PartKind,
    UserMessage,
)

# Kind -> its fields that have a column. `parts.text` is most of what a part is.
LONG: Final[Mapping[PartKind, Mapping[str, str]]] = MappingProxyType(
    {
        "text": {"text": "text"},
        "reasoning": {"text": "text"},
        "tool": {"output": "text", "input": "input", "error": "error"},
        "file": {"data_base64": "text"},
        "compaction": {"summary": "text"},
        "subtask": {"prompt": "text"},
        "snapshot": {"snapshot": "text"},
    }
)
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.frozen(slots=True, kw_only=True)
class PartColumns:
    kind: PartKind
    body: bytes
    text: bytes | None = None
    input: bytes | None = None
    error: bytes | None = None


def of_part(part: Part) -> PartColumns:
    """Raises UnicodeEncodeError for half a surrogate pair, which no column can hold."""
    kind = KIND_OF[type(part)]
    value = codec.plain(part)
    del value["id"]
    long: dict[str, bytes] = {}
    for field, column in LONG.get(kind, _NONE).items():
        value.pop(field, None)
        content = getattr(part, field)
        if content is not None:
            long[column] = content if isinstance(content, bytes) else content.encode()
    return PartColumns(kind=kind, body=dump(value), **long)


def part(part_id: str, kind: PartKind, body: bytes, long: Mapping[str, bytes | None]) -> Part:
    """The record. `long` has the columns `text`, `input` and `error`, or their heads."""
    value: dict[str, Any] = orjson.loads(body)
    value["id"] = part_id
    for field, column in LONG.get(kind, _NONE).items():
        content = long[column]
        if content is not None:
            value[field] = orjson.Fragment(content) if field == "input" else content.decode("utf-8", "replace")
    try:
        record: Part = codec.lean(value, KINDS[kind])
    except (KeyError, codec.DecodeError) as exc:
        raise OwnError("internal", f"the store is damaged: part {part_id} cannot be read: {exc}") from exc
    return record


def of_info(info: MessageInfo) -> tuple[str, bytes]:
    """(role, body) of a message."""
    value = codec.plain(info)
    del value["id"]
    return "user" if isinstance(info, UserMessage) else "assistant", dump(value)


def info(message_id: str, role: str, body: bytes) -> MessageInfo:
    kind: type[UserMessage] | type[AssistantMessage] = UserMessage if role == "user" else AssistantMessage
    try:
        record: MessageInfo = codec.lean({**orjson.loads(body), "id": message_id}, kind)
    except codec.DecodeError as exc:
        raise OwnError("internal", f"the store is damaged: message {message_id} cannot be read: {exc}") from exc
    return record


def dump(value: object) -> bytes:
    """JSON of a record or value. Raises UnicodeEncodeError as `str.encode` does (orjson's error names no place)."""
    try:
        return codec.dump(value)
    except orjson.JSONEncodeError as exc:
        raise UnicodeEncodeError("utf-8", "", 0, 1, "surrogates not allowed") from exc


def load_json(data: bytes, kind: type[Any]) -> Any:
    """A record from a column that this program wrote."""
    try:
        return codec.load(data, kind)
    except codec.DecodeError as exc:
        raise OwnError("internal", f"the store is damaged: {exc}") from exc
