"""Sessions, runs and messages as clients see them.

Absent is not null: optional fields without a value are left out. Two bounds hold here:

- A string over `limits.string_bytes` (UTF-8) is cut on a character boundary: its field holds the head, and beside
  it `<field>_more {bytes, handle}` says how long the whole is and where `output.read` finds it. A tool call's
  `input` counts as one string, its JSON text; what is shown of it are its fields, each cut.
- An object has to fit its frame. If it would not (many long strings, or text that grows when it is escaped), all
  its strings are cut shorter, by the same rule, until it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
import orjson

from engine import codec
from engine.commands import OutputPiece
from engine.limits import DEFAULT, KIB, Limits
from engine.runs.record import Run
from engine.transcript.records import KIND_OF, Failure, Message, MessageInfo, Part, ToolPart, UserMessage
from engine.transcript.session import Session
from engine.wire import bounds, handles

HandleOf = Callable[[str, str], str]  # (id of a part or session, field) -> handle
Object = dict[str, Any]  # for orjson: JSON values, and orjson.Fragment for what is encoded already

# The JSON-RPC envelope and a result's other keys around the largest object of a frame.
FRAME_OVERHEAD: Final = 2 * KIB
OBJECT_BYTES: Final = DEFAULT.frame_bytes - FRAME_OVERHEAD
# No string is cut shorter: 64 calls of one turn fit a frame at this length, escaped at the worst (six-fold).
STRING_BYTES_MIN: Final = 128
# Strings that nobody reads to their end (titles, names, an error's sentence) have no handle and end here.
LABEL_BYTES: Final = KIB
# Levels and values of a call's input that are shown when the input has to be cut.
_CUT_DEPTH: Final = 8
_CUT_VALUES: Final = 64
# A line of a session's todos is cut with its instructions, to this part of their bound: at first not at all.
_TODO_SHARE: Final = 32

# The limits that `initialize` tells: what a client can run into, or plan with.
SHOWN_LIMITS: Final = (
    "message_bytes", "frame_bytes", "event_bytes", "string_bytes", "requests_in_flight", "watches_per_connection",
    "malformed_in_a_row", "slow_client_timeout", "ping_interval", "silence_timeout", "run_log_entries",
    "run_log_bytes", "terminal_retention", "terminal_retained_max", "active_runs_max", "drain_timeout",
    "markdown_bytes",
)  # fmt: skip

_NO_SIZES: Final[Mapping[str, int]] = MappingProxyType({})


def cut_string(text: str, bound: int = DEFAULT.string_bytes) -> tuple[str, int | None]:
    """(text, None) if it has at most `bound` bytes in UTF-8, else (its head of at most that, bytes of the whole).

    The head ends on a character boundary. Half a surrogate pair becomes U+FFFD: no frame can carry it.
    """
    if text.isascii():
        return (text, None) if len(text) <= bound else (text[:bound], len(text))
    data = _utf8(text)
    if len(data) <= bound:
        return data.decode(), None
    end = bound
    while data[end] & 0xC0 == 0x80:  # a continuation byte: at most three follow a character's first
        end -= 1
    return data[:end].decode(), len(data)


def clean(text: str, bound: int = LABEL_BYTES) -> str:
    """`text` as a label: cut without a handle, the cut marked."""
    head, more = cut_string(text, bound)
    return head if more is None else head + "…"


def message_object(
    message: Message, handle_of: HandleOf = handles.handle_of, *, string_bytes: int = DEFAULT.string_bytes
) -> Object:
    """`message {info, parts[]}`, its strings cut; not yet held to the size of a frame (see encode_message)."""
    parts = [part_object(part, handle_of, string_bytes=string_bytes) for part in message.parts]
    return {"info": info_object(message.info), "parts": parts}


def encode_message(message: Message, handle_of: HandleOf = handles.handle_of, *, room: int = OBJECT_BYTES) -> bytes:
    """The message as JSON of at most `room` bytes. Parts that do not fit even with short strings (no turn within
    its bounds makes as many) are left out at the end, and `parts_more` counts them."""
    data = _within(room, lambda bound: message_object(message, handle_of, string_bytes=bound))
    if len(data) <= room:
        return data
    value = message_object(message, handle_of, string_bytes=STRING_BYTES_MIN)
    room -= len(orjson.dumps(value["info"])) + FRAME_OVERHEAD
    kept: list[orjson.Fragment] = []
    for part in value["parts"]:
        encoded = orjson.dumps(part)
        room -= len(encoded) + 1
        if room < 0:
            break
        kept.append(orjson.Fragment(encoded))
    return orjson.dumps({"info": value["info"], "parts": kept, "parts_more": len(value["parts"]) - len(kept)})


def encode_part(part: Part, handle_of: HandleOf = handles.handle_of, *, room: int = DEFAULT.event_bytes) -> bytes:
    """The part as JSON of at most `room` bytes."""
    return _within(room, lambda bound: part_object(part, handle_of, string_bytes=bound))


def info_object(info: MessageInfo) -> Object:
    """`info {id, role, …}`."""
    value: Object = {"id": info.id, "role": "user" if isinstance(info, UserMessage) else "assistant"}
    value.update(codec.plain(info))
    if not isinstance(info, UserMessage) and info.error is not None:
        value["error"] = error_object(info.error)
    return value


def part_object(
    part: Part,
    handle_of: HandleOf = handles.handle_of,
    *,
    string_bytes: int = DEFAULT.string_bytes,
    sizes: Mapping[str, int] = _NO_SIZES,
) -> Object:
    """`part {id, kind, …}`.

    `sizes` has the whole length in bytes of each field of which `part` holds the head only (the store reads no
    more of a long text than is shown). A provider's signature is not for clients and left out.
    """
    value: Object = {"id": part.id, "kind": KIND_OF[type(part)]}
    for name in _FIELDS_OF[type(part)]:
        field = getattr(part, name)
        more: int | None = None
        if field is None:
            continue
        if name == "data_base64":
            # Bytes are not shown by their head: a file that is too long for a frame has a handle instead.
            if len(field) > string_bytes:
                value["handle"] = handle_of(part.id, "data")
                continue
        elif name == "input":
            field, more = cut_json(field, string_bytes, sizes.get(name))
        elif name in handles.FIELDS:
            field, more = cut_string(field, string_bytes)
            if more is None and len(field) < sizes.get(name, 0) and len(field.encode()) < sizes[name]:
                more = sizes[name]
        elif isinstance(field, str):
            field = clean(field)
        elif attrs.has(type(field)):
            field = codec.plain(field)
        value[name] = field
        if more is not None:
            value[f"{name}_more"] = {"bytes": more, "handle": handle_of(part.id, name)}
    if isinstance(part, ToolPart) and part.whole is not None:
        shown = "output" if part.error is None else "error"
        value[f"{shown}_more"] = {"bytes": part.whole.size, "handle": part.whole.handle}
    return value


def cut_json(data: bytes, bound: int, size: int | None = None) -> tuple[object, int | None]:
    """(value, None) for encoded JSON of at most `bound` bytes, else (the value with its strings cut, all bytes).

    What remains is at most `bound` bytes again, or an empty object if not even short strings fit.
    """
    if len(data) <= bound:
        return orjson.Fragment(data), None if size is None or size <= len(data) else size
    try:
        value = codec.parse(data)
    except codec.DecodeError:  # the head of a longer input, as the store may give it
        return {}, size or len(data)
    for length in (bound // 4, bound // 16, STRING_BYTES_MIN):
        shown = orjson.dumps(_shorten(value, length, _CUT_DEPTH))
        if len(shown) <= bound:
            return orjson.Fragment(shown), size or len(data)
    return {}, size or len(data)


def encode_session(session: Session, *, room: int = OBJECT_BYTES, size: int | None = None) -> bytes:
    """`session {…}` as JSON of at most `room` bytes (in lists less than a frame, but 64 KiB at least).
    `size` is the whole length of the instructions in bytes if `session` holds their head only."""

    def build(bound: int) -> Object:
        value: Object = codec.plain(session)
        value["title"] = clean(session.title)
        value["todos"] = [{**todo, "text": clean(todo["text"], bound // _TODO_SHARE)} for todo in value["todos"]]
        if session.instructions is not None:
            head, more = cut_string(session.instructions, bound)
            value["instructions"] = head
            more = size if more is None and size is not None and size > len(_utf8(head)) else more
            if more is not None:
                handle = handles.handle_of(session.id, "instructions")
                value["instructions_more"] = {"bytes": size or more, "handle": handle}
        return value

    return _within(room, build)


def encode_run(run: Run) -> bytes:
    """`run {…}`."""
    value = codec.plain(run)
    if run.error is not None:
        value["error"] = error_object(run.error)
    if run.reason is not None:
        value["reason"] = clean(run.reason)
    return orjson.dumps(value)


def encode_output(piece: OutputPiece, offset: int, *, room: int = OBJECT_BYTES) -> bytes:
    """The result of `output.read` from `offset`: cut earlier if its text grows beyond the frame when escaped."""

    def build(bound: int) -> Object:
        head, more = cut_string(piece.text, bound)
        following = piece.next_offset if more is None else offset + len(head.encode())
        value: Object = {"text": head, "total": piece.total}
        return value if following is None else value | {"next_offset": following}

    return _within(room, build, bounds.OUTPUT_READ_MAX)


def limits_object(limits: Limits) -> Object:
    """`limits {…}` of `initialize`: bytes and counts as integers, times in seconds."""
    return {name: getattr(limits, name) for name in SHOWN_LIMITS}


def error_object(failure: Failure) -> Object:
    """`error {code, message}`."""
    return {"code": failure.code, "message": clean(failure.message)}


def _within(room: int, build: Callable[[int], Object], bound: int = DEFAULT.string_bytes) -> bytes:
    while True:
        data = orjson.dumps(build(bound))
        if len(data) <= room or bound <= STRING_BYTES_MIN:
            return data
        bound //= 2


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _shorten(value: Any, length: int, depth: int) -> Any:
    """The JSON value with long strings, arrays and objects cut, `depth` levels of it."""
    match value:
        case str():
            return cut_string(value, length)[0]
        case dict():
            if not depth:
                return {}
            items = list(value.items())[:_CUT_VALUES]
            return {cut_string(key, length)[0]: _shorten(inner, length, depth - 1) for key, inner in items}
        case list():
            return [_shorten(inner, length, depth - 1) for inner in value[:_CUT_VALUES]] if depth else []
        case _:
            return value


_FIELDS_OF: Final = {
    kind: [field.name for field in attrs.fields(kind) if field.name not in ("id", "signature", "hash", "whole")]
    for kind in KIND_OF
}
