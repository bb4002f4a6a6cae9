"""Snapshots: the message being written, for a watcher whose cursor is older than the log. Text comes from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from actors.store import StoreRef
from engine import codec
from engine.commands import RunSnapshot
from engine.errors import CallerError
from engine.limits import DEFAULT, KIB
from engine.runs.record import Run
from engine.transcript.records import KIND_OF, ReasoningPart, TextPart, ToolPart
from engine.wire import events, handles

# Text of one piece: the bound of any string of the wire. Escaped at the worst it grows six-fold, so what does not
# fit its push of 64 KiB is halved until it does.
TEXT_BYTES: Final = DEFAULT.string_bytes
ESCAPED_BYTES: Final = 60 * KIB


async def build(
    store: StoreRef, run: Run, message_id: str, seq: int, parts: Sequence[tuple[codec.Json, str | None, int]]
) -> RunSnapshot:
    """`parts` are (the part as shown, the id whose text is to be read or None, bytes of text as of `seq`)."""
    head = {"run_id": run.id, "seq": seq, "status": run.status, "message_id": message_id, "pending_approvals": []}
    pieces: list[bytes] = []
    last: dict[str, codec.Json] | None = None
    for part, text_of, size in parts:
        offset = 0
        while True:
            if last is not None:
                pieces.append(orjson.dumps({**last, "more": True}))  # at once: its text is not held twice
            last = {**head, "part": part, "offset": offset}
            if text_of is not None and offset < size:
                text = await _text(store, text_of, offset, size)
                last["text"] = text
                offset = offset + len(text.encode()) if text else size
            if text_of is None or offset >= size:
                break
    last = last or {**head, "offset": 0}  # nothing was written yet
    return RunSnapshot(seq=seq, pieces=(*pieces, orjson.dumps({**last, "more": False})))


async def _text(store: StoreRef, part_id: str, offset: int, size: int) -> str:
    """The next text of a part from `offset`, not beyond `size`, as much as one piece holds. Empty if there is none:
    the session was deleted meanwhile."""
    room = min(TEXT_BYTES, size - offset)
    while True:
        try:
            piece = await store.read_output(handles.handle_of(part_id, "text"), offset, room)
        except CallerError:
            return ""
        if len(codec.escaped(piece.text)) <= ESCAPED_BYTES:
            return piece.text
        room //= 2


async def final(store: StoreRef, run: Run) -> RunSnapshot:
    """The last message of a run that has left memory."""
    message = await store.final_message(run.id)
    if message is None:
        return await build(store, run, "", run.last_seq, [])
    parts: list[tuple[codec.Json, str | None, int]] = []
    for part, size in message.parts:
        if isinstance(part, TextPart | ReasoningPart):
            parts.append(({"id": part.id, "kind": KIND_OF[type(part)]}, part.id, size))
        elif isinstance(part, ToolPart):
            parts.append((events.shown(part), None, 0))
    return await build(store, run, message.message_id, run.last_seq, parts)
