"""The window: the tail of a transcript that a model gets. Inside the caller's (reading) transaction.

It is chosen by the sizes of its messages before any of them is loaded.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

from engine.storage import catalog, columns, reading
from engine.transcript.records import AssistantMessage, Message, MessageInfo

# A part's own weight in a window, beside its strings: ids, numbers and the keys around them.
_PART_BYTES: Final = 64
# A file's weight: services count an image as about 1,500 tokens, however many bytes it has.
_FILE_BYTES: Final = 4500


def read(connection: Connection, session_id: str, max_messages: int, max_bytes: int) -> tuple[Message, ...]:
    """The tail of the transcript that a model gets, oldest first, beginning at a user's message.

    Whole turns (a user's message with the answers to it), as many as fit `max_messages` and `max_bytes` of stored
    text. The latest user's message is always there; if its answers are too many or too long, the newest of them
    that fit follow it: each answer holds its calls with their results, so that what remains is valid.

    An attempt that failed and was repeated is left out: an answer that finished with `error` and is followed by
    another one of the same run. A model that saw the beginning which it never finished would go on from there, or say
    it twice. A run's last answer stays, even if it failed: it is what the user got.
    """
    session = catalog.key_of(connection, session_id)
    found = connection.execute(f"{reading.MESSAGE} ORDER BY position DESC", (session,))
    chosen: list[tuple[int, MessageInfo]] = []  # newest first
    turn: list[tuple[int, MessageInfo]] = []
    count, size = 0, 0
    full = False
    newer: str | None = None  # the run of the answer that follows
    for _, key, message_id, role, body in found:
        latest = not chosen
        info = columns.info(message_id, role, body)
        if isinstance(info, AssistantMessage):
            repeated = info.finish == "error" and info.run_id is not None and info.run_id == newer
            newer = info.run_id
            if repeated:
                continue
        if not (full and role != "user"):
            weight = _weight(connection, key)
            fits = count + 1 <= max_messages and size + weight <= max_bytes
            if latest and role != "user":
                # One place is kept for the user's message.
                fits = fits and count + 2 <= max_messages
            if fits or (latest and role == "user"):
                count, size = count + 1, size + weight
                turn.append((key, info))
            elif latest:
                full = True  # older answers of this turn are left out, up to its user's message
            else:
                break
        if role == "user":
            chosen += turn
            turn = []
            if full:
                break
    return tuple(Message(info, reading.parts(connection, key)) for key, info in reversed(chosen))


def _weight(connection: Connection, message: int) -> int:
    """Stored bytes of the message's parts; their text is not loaded."""
    (stored,) = connection.execute(
        f"SELECT sum({_PART_BYTES} + length(body) + CASE kind WHEN 'file' THEN {_FILE_BYTES} ELSE"
        " coalesce(length(text), 0) END + coalesce(length(input), 0) + coalesce(length(error), 0))"
        " FROM parts WHERE message = ?",
        (message,),
    ).fetchone()
    (growing,) = connection.execute(
        "SELECT sum(length(chunks.text)) FROM parts JOIN chunks ON chunks.part = parts.key WHERE parts.message = ?",
        (message,),
    ).fetchone()
    return (stored or 0) + (growing or 0)
