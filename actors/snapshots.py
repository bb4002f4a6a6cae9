"""Snapshots: the message being written, for a watcher whose cursor is older than the log. Text comes from the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import orjson

from actors.store_ref import StoreRef
from engine import codec
from engine.errors import CallerError
from engine.limits import DEFAULT, KIB
from engine.runs.record import Run
from engine.transcript.records import KIND_OF, CompactionPart, ReasoningPart, TextPart, ToolPart
from engine.wire import events, handles

# Text of one piece: the bound of any string of the wire. Escaped at the worst it grows six-fold, so what does not
# fit its push of 64 KiB is halved until it does.
TEXT_BYTES: Final = DEFAULT.string_bytes
ESCAPED_BYTES: Final = 60 * KIB


# (the part as shown, the id whose text is to be read or None, bytes of text)
ShownPart = tuple[codec.Json, str | None, int]


class StoredSnapshot:
    """A message as of `seq`. Only the piece that is asked for is in memory: a watcher may take long to be told."""

    def __init__(
        self,
        store: StoreRef,
        run: Run,
        message_id: str,
        seq: int,
        parts: Sequence[ShownPart],
        approvals: Sequence[orjson.Fragment] = (),
    ) -> None:
        self.seq = seq
        self._store = store
        self._head: dict[str, codec.Json] = {
            "run_id": run.id, "seq": seq, "status": run.status, "message_id": message_id,
        }  # fmt: skip
        self._parts = deque(parts)
        self._approvals = deque(approvals)  # told once each, behind the parts
        self._offset = 0  # in the first of them
        self._over = False

    async def next(self) -> bytes | None:
        """The next piece as it is pushed, without `watch_id`; None after the last."""
        if self._over:
            return None
        piece: dict[str, codec.Json] = {**self._head, "offset": self._offset}
        if self._parts:
            part, text_of, size = self._parts[0]
            piece["part"] = part
            text = await self._text(text_of, size) if text_of is not None and self._offset < size else ""
            if text:
                piece["text"] = text
            self._offset += len(text.encode())
            if not text or self._offset >= size:
                self._parts.popleft()
                self._offset = 0
        asked = [] if self._parts else self._next_approvals(len(orjson.dumps(piece)), alone="part" not in piece)
        self._over = not self._parts and not self._approvals
        return orjson.dumps({**piece, "pending_approvals": asked, "more": not self._over})

    def _next_approvals(self, size: int, *, alone: bool) -> list[orjson.Fragment]:
        """The next of them that fit a piece of so many bytes; one at least if nothing else is in it."""
        batch: list[orjson.Fragment] = []
        while self._approvals:
            size += len(orjson.dumps(self._approvals[0])) + 1
            if size > ESCAPED_BYTES and not (alone and not batch):
                break
            batch.append(self._approvals.popleft())
        return batch

    async def _text(self, part_id: str, size: int) -> str:
        """The next text of a part, not beyond `size`, as much as one piece holds. Empty if there is none (any more):
        the session was deleted meanwhile, or the part given up for another attempt."""
        room = min(TEXT_BYTES, size - self._offset)
        while True:
            try:
                piece = await self._store.read_output(handles.handle_of(part_id, "text"), self._offset, room)
            except CallerError:
                return ""
            if len(codec.escaped(piece.text)) <= ESCAPED_BYTES:
                return piece.text
            room //= 2


async def final(store: StoreRef, run: Run) -> StoredSnapshot:
    """The last message of a run that has left memory."""
    message = await store.final_message(run.id)
    if message is None:
        return StoredSnapshot(store, run, "", run.last_seq, [])
    parts: list[ShownPart] = []
    for part, size in message.parts:
        if isinstance(part, TextPart | ReasoningPart):
            parts.append(({"id": part.id, "kind": KIND_OF[type(part)]}, part.id, size))
        elif isinstance(part, ToolPart | CompactionPart):
            parts.append((events.shown(part), None, 0))
    return StoredSnapshot(store, run, message.message_id, run.last_seq, parts)
