"""What runs write to a transcript: changes (engine.storage.changes) applied in order, inside the caller's transaction.

Errors: CallerError unknown_session when the session is gone (with all that belonged to it); OwnError when a change
names a message or part that was never added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from sqlite3 import Connection
from typing import Final

from engine.errors import OwnError
from engine.limits import KIB
from engine.storage import approvals, attachments, catalog, columns, texts
from engine.storage.changes import (
    AddMessage,
    AddPart,
    AddUsage,
    AppendText,
    AskApproval,
    Change,
    FinishMessage,
    FoldText,
    PutPart,
    PutRun,
    ReserveSeq,
    SettleApproval,
)
from engine.storage.ledger import put_run, reserve_seq
from engine.transcript.records import NO_USAGE, MessageInfo, Part, ReasoningPart, UserMessage

# Small chunks are put together in one row up to this size: the page they are on is written at each commit anyway,
# and a row of a few bytes would cost several times its text.
_CHUNK_ROW_BYTES: Final = 4 * KIB


def apply(connection: Connection, session_id: str, changes: Sequence[Change], now: int) -> int:
    """Apply the changes; returns the session's revision, one more if its transcript changed.

    Text that grows is no change of its own: it counts when its part is folded or its message finished.
    """
    key = catalog.key_of(connection, session_id)
    messages, usage, changed = 0, NO_USAGE, False
    for change in _merged(changes):
        match change:
            case AppendText(part_id, text):
                _append(connection, _part_key(connection, part_id), text.encode())
                continue
            case PutRun(run):
                put_run(connection, run)
                continue
            case ReserveSeq(run_id, through):
                reserve_seq(connection, run_id, through)
                continue
            case AskApproval(run_id, call_id):
                approvals.ask(connection, run_id, call_id)
                continue
            case SettleApproval(run_id, call_id, resolution):
                approvals.settle(connection, run_id, call_id, resolution)
                continue
            case AddMessage(info):
                add_message(connection, key, info)
                messages += 1
            case AddPart(message_id, part):
                add_part(connection, _message_key(connection, message_id), part)
            case FoldText(part_id, signature):
                key_of_part = _part_key(connection, part_id)
                fold(connection, key_of_part)
                if signature is not None:
                    _sign(connection, key_of_part, part_id, signature)
            case PutPart(part):
                put_part(connection, _part_key(connection, part.id), part)
            case FinishMessage(info):
                put_info(connection, _message_key(connection, info.id), info)
                usage += info.usage or NO_USAGE
            case AddUsage(spent):
                usage += spent
        changed = True
    if not changed:
        return catalog.revision_of(connection, key)
    return catalog.touch(connection, key, now, messages=messages, usage=None if usage == NO_USAGE else usage)


def add_message(connection: Connection, session: int, info: MessageInfo) -> int:
    """Put a message at the session's end; returns its key. The run that it belongs to remembers its newest answer."""
    role, body = columns.of_info(info)
    key = connection.execute(
        "INSERT INTO messages (session, position, id, role, body) VALUES"
        " (?1, 1 + coalesce((SELECT max(position) FROM messages WHERE session = ?1), 0), ?2, ?3, ?4)",
        (session, info.id, role, body),
    ).lastrowid
    assert key is not None
    if info.run_id is not None and not isinstance(info, UserMessage):
        connection.execute("UPDATE runs SET answer = ? WHERE id = ?", (key, info.run_id))
    return key


def add_part(connection: Connection, message: int, part: Part) -> None:
    row = columns.of_part(part)
    key = connection.execute(
        "INSERT INTO parts (message, position, id, kind, body, text, input, error) VALUES"
        " (?1, 1 + coalesce((SELECT max(position) FROM parts WHERE message = ?1), 0), ?2, ?3, ?4, ?5, ?6, ?7)",
        (message, part.id, row.kind, row.body, row.text, row.input, row.error),
    ).lastrowid
    assert key is not None
    attachments.refer(connection, part, key)


def put_part(connection: Connection, key: int, part: Part) -> None:
    row = columns.of_part(part)
    connection.execute(
        "UPDATE parts SET body = ?, text = ?, input = ?, error = ? WHERE key = ?",
        (row.body, row.text, row.input, row.error, key),
    )
    attachments.refer(connection, part, key)


def put_info(connection: Connection, key: int, info: MessageInfo) -> None:
    connection.execute("UPDATE messages SET body = ? WHERE key = ?", (columns.of_info(info)[1], key))


def fold(connection: Connection, part: int) -> None:
    """The part's chunks become its text. Nothing happens to a part without chunks.

    Builds the text once in memory (`limits.answer_bytes` at most). The chunks go first: the pages that they leave
    take the text, so that the file does not grow by it a second time.
    """
    size = texts.end_of_chunks(connection, part)
    if size is None:
        return
    text = texts.read(connection, part, "text", 0, size)
    connection.execute("DELETE FROM chunks WHERE part = ?", (part,))
    connection.execute("UPDATE parts SET text = ? WHERE key = ?", (text, part))


def _sign(connection: Connection, key: int, part_id: str, signature: str) -> None:
    """Store the signature of a reasoning part, whose text stays as it is."""
    body = columns.of_part(ReasoningPart(id=part_id, text="", signature=signature)).body
    connection.execute("UPDATE parts SET body = ? WHERE key = ? AND kind = 'reasoning'", (body, key))


def _append(connection: Connection, part: int, text: bytes) -> None:
    last = connection.execute(
        f"SELECT offset, length(text), CASE WHEN length(text) < {_CHUNK_ROW_BYTES} THEN text END FROM chunks"
        " WHERE part = ? ORDER BY offset DESC LIMIT 1",
        (part,),
    ).fetchone()
    if last is None:
        (begin,) = connection.execute("SELECT coalesce(length(text), 0) FROM parts WHERE key = ?", (part,)).fetchone()
    elif last[2] is not None and last[1] + len(text) <= _CHUNK_ROW_BYTES:
        connection.execute("UPDATE chunks SET text = ? WHERE part = ? AND offset = ?", (last[2] + text, part, last[0]))
        return
    else:
        begin = last[0] + last[1]
    connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (part, begin, text))


def _merged(changes: Sequence[Change]) -> Iterator[Change]:
    """The changes with adjacent texts of one part put together."""
    part_id, pieces = "", list[str]()
    for change in changes:
        if isinstance(change, AppendText):
            if pieces and change.part_id != part_id:
                yield AppendText(part_id, "".join(pieces))
                pieces.clear()
            part_id = change.part_id
            pieces.append(change.text)
            continue
        if pieces:
            yield AppendText(part_id, "".join(pieces))
            pieces.clear()
        yield change
    if pieces:
        yield AppendText(part_id, "".join(pieces))


def _message_key(connection: Connection, message_id: str) -> int:
    row = connection.execute("SELECT key FROM messages WHERE id = ?", (message_id,)).fetchone()
    if row is None:
        raise OwnError("internal", f"a change names the message {message_id}, which was never added")
    return int(row[0])


def _part_key(connection: Connection, part_id: str) -> int:
    row = connection.execute("SELECT key FROM parts WHERE id = ?", (part_id,)).fetchone()
    if row is None:
        raise OwnError("internal", f"a change names the part {part_id}, which was never added")
    return int(row[0])
