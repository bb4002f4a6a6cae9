"""The window of a model, read from the transcript's tail. Inside the caller's (reading) transaction.

Messages are looked at from the newest one back, by their sizes and without loading them, until the last compaction, the
beginning of the window before, or more than fits: what is behind that costs nothing. Which of them are shown is
decided in engine.transcript.window.
"""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Final

import attrs

from engine.limits import DEFAULT, Limits
from engine.storage.rows import Row, Rows
from engine.transcript import pruning
from engine.transcript.cache import RowCache
from engine.transcript.records import AssistantMessage, CompactionPart, Message, MessageInfo, UserMessage
from engine.transcript.window import (
    BYTES_PER_TOKEN,
    CALL_BYTES,
    FILE_BYTES,
    KEPT_PART,
    NEWEST_PART,
    TEXT_BYTES,
    Entry,
    Window,
    choose,
    weight_of,
)

# As engine.transcript.window.weight_of and pruning.outputs_of count a message that is loaded. Lengths are in a row's
# header: no long string is read for them.
_OUTPUT: Final = "coalesce(length(text), 0) + coalesce(length(error), 0)"
_SIZES: Final = (
    "SELECT total(CASE kind"
    f" WHEN 'text' THEN {TEXT_BYTES} + coalesce(length(text), 0)"
    f" WHEN 'compaction' THEN {TEXT_BYTES} + coalesce(length(text), 0)"
    f" WHEN 'tool' THEN {CALL_BYTES} + coalesce(length(input), 0) + {_OUTPUT}"
    f" WHEN 'file' THEN {FILE_BYTES} ELSE 0 END),"
    f" total(CASE WHEN kind = 'tool' AND {_OUTPUT} > {pruning.SMALL_BYTES} THEN {_OUTPUT} ELSE 0 END),"
    " coalesce(min(kind = 'compaction'), 0) FROM parts WHERE message = ?"
)
# Text that still grows is in chunks; only an answer without an end may have any.
_GROWING: Final = (
    "SELECT total(length(chunks.text)) FROM parts JOIN chunks ON chunks.part = parts.key"
    " WHERE parts.message = ? AND parts.kind = 'text'"
)


@attrs.frozen(slots=True, kw_only=True)
class _Sizes:
    """Of a message: `weight` is what a model sees of it in bytes, `outputs` what of that are results which may be
    cleared; `compaction`: it is a summary and nothing else."""

    weight: int
    outputs: int
    compaction: bool


_Row = Row[_Sizes]
_Rows = Rows[_Sizes]


def _sizes(connection: Connection, message: int, info: MessageInfo) -> _Sizes:
    weight, outputs, summaries = connection.execute(_SIZES, (message,)).fetchone()
    if isinstance(info, AssistantMessage) and info.finish is None:
        weight += connection.execute(_GROWING, (message,)).fetchone()[0]
    return _Sizes(weight=int(weight), outputs=int(outputs), compaction=bool(summaries))


def read(
    connection: Connection,
    session_id: str,
    max_messages: int,
    max_bytes: int,
    cache: RowCache | None = None,
    *,
    start: int | None = None,
    run_id: str | None = None,
    limits: Limits = DEFAULT,
) -> Window:
    """What a model gets of the transcript, oldest first: see engine.transcript.window. `start` is that of the window
    before; this one begins there again if it fits. `run_id` is the run that goes on. Raises CallerError
    unknown_session.

    An attempt that failed and was repeated is left out: an answer that finished with `error` and is followed by
    another one of the same run. A model that saw the beginning which it never finished would go on from there, or say
    it twice. The last answer of a run that has ended stays, even if it failed: it is what the user got.
    """
    rows = Rows(connection, session_id, _sizes, cache)
    found = _collect(connection, rows, max_messages, max_bytes, start, run_id, limits)
    part = KEPT_PART if found.full and start is not None else 1.0
    room = int(max_bytes * part) - found.weight_of_summary
    choice = choose(found.entries, max(1, int(max_messages * part)), room)
    of = {row.position: row for row in found.rows}
    tail = [of[position] for position in choice.tail]
    user = None if choice.user is None else of[choice.user]
    inside = bool(tail) and tail[0].role != "user"  # of a turn. Behind a summary a later question says enough.
    if user is None and inside and (found.summary is None or all(row.role != "user" for row in tail)):
        user = rows.user_before(tail[0].position)
    before = [row for row in (found.summary, user) if row is not None]
    lead = len(before)
    compacted = 0 if found.summary is None else found.summary.position
    fresh = lead + sum(row.position < compacted for row in tail)
    shown = [*before, *tail]
    outputs = [row.sizes.outputs for row in shown]
    through = pruning.cleared_through(
        outputs, limits.protected_tokens * BYTES_PER_TOKEN, limits.prune_tokens * BYTES_PER_TOKEN
    )
    size = sum(row.sizes.weight for row in shown) - sum(outputs[:through])
    messages = tuple(
        pruning.clear(rows.whole(row)) if index < through else rows.whole(row) for index, row in enumerate(shown)
    )
    rows.close()
    if found.summary is not None:
        messages = (_shown(messages[0]), *messages[1:])
    if size > max_bytes:
        messages = pruning.fit(messages, max_bytes)
        size = sum(map(weight_of, messages))
    return Window(
        messages=messages,
        lead=lead,
        start=tail[0].position if tail else None,
        fresh=fresh,
        left_out=found.left_out or choice.cut,
        size=size,
    )


@attrs.define(slots=True)
class _Collected:
    """The tail, newest first, with old outputs weighing nothing. `full`: the last row does not fit any more."""

    rows: list[_Row] = attrs.field(factory=list)
    entries: list[Entry] = attrs.field(factory=list)
    summary: _Row | None = None
    full: bool = False
    left_out: bool = False

    @property
    def weight_of_summary(self) -> int:
        return 0 if self.summary is None else self.summary.sizes.weight


def _collect(
    connection: Connection,
    rows: _Rows,
    max_messages: int,
    max_bytes: int,
    start: int | None,
    run_id: str | None,
    limits: Limits,
) -> _Collected:
    old = (limits.protected_tokens + limits.prune_tokens) * BYTES_PER_TOKEN
    found = _Collected()
    floor = outputs = answers = 0
    summary = rows.last_summary()
    if summary is not None and _is_compaction(summary):
        found.summary = summary
        floor = _kept_from(connection, rows, summary)
    size = found.weight_of_summary
    for row in _newest_first(rows, run_id):
        if row.position < floor:
            break
        if _is_compaction(row):
            continue  # the last one is shown anyway, and has in it what those before it said
        if start is not None and row.position < start:
            found.left_out = True
            break
        weight = row.sizes.weight
        if outputs > old:
            weight -= row.sizes.outputs
        outputs += row.sizes.outputs
        if not answers and row.role != "user":
            weight = min(weight, int(max_bytes * NEWEST_PART))
        answers += row.role != "user"
        size += weight
        found.rows.append(row)
        found.entries.append(Entry(position=row.position, role=row.role, weight=weight))
        if size > max_bytes or len(found.rows) > max_messages:
            found.full = found.left_out = True
            break
    return found


def _newest_first(rows: _Rows, newer: str | None) -> Iterator[_Row]:
    """The messages that a model may see. `newer` is the run of the answer that follows."""
    for row in rows.newest_first():
        info = row.info
        if isinstance(info, AssistantMessage):
            repeated = info.finish == "error" and info.run_id is not None and info.run_id == newer
            newer = info.run_id
            if repeated:
                continue
        yield row


def _is_compaction(row: _Row) -> bool:
    """Whether the message is nothing but a compaction that is finished."""
    return row.sizes.compaction and isinstance(row.info, AssistantMessage) and row.info.finish == "stop"


def _kept_from(connection: Connection, rows: _Rows, row: _Row) -> int:
    """The position from which on messages are shown beside the summary; the compaction's own if none is kept."""
    kept = _compaction(rows.whole(row)).kept_from
    found = connection.execute(
        "SELECT position FROM messages WHERE id = ? AND session = ?", (kept, rows.session)
    ).fetchone()
    return row.position if found is None else int(found[0])


def _shown(message: Message) -> Message:
    """The summary as what the user says first."""
    info = UserMessage(id=message.info.id, created_at=message.info.created_at)
    return Message(info, (_compaction(message),), revision=message.revision)


def _compaction(message: Message) -> CompactionPart:
    return next(part for part in message.parts if isinstance(part, CompactionPart))
