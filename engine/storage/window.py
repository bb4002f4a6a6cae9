"""The window: the tail of a transcript that a model gets. Inside the caller's (reading) transaction.

It is chosen by the sizes of its messages before any of them is loaded.
"""

from __future__ import annotations

from sqlite3 import Connection

from engine.storage.rows import Row, Rows
from engine.transcript.cache import RowCache
from engine.transcript.records import AssistantMessage, Message


def read(
    connection: Connection, session_id: str, max_messages: int, max_bytes: int, cache: RowCache | None = None
) -> tuple[Message, ...]:
    """The tail of the transcript that a model gets, oldest first, beginning at a user's message.

    Whole turns (a user's message with the answers to it), as many as fit `max_messages` and `max_bytes` of stored
    text. The latest user's message is always there; if its answers are too many or too long, the newest of them
    that fit follow it: each answer holds its calls with their results, so that what remains is valid.

    An attempt that failed and was repeated is left out: an answer that finished with `error` and is followed by
    another one of the same run. A model that saw the beginning which it never finished would go on from there, or say
    it twice. A run's last answer stays, even if it failed: it is what the user got.
    """
    rows = Rows(connection, session_id, cache)
    chosen: list[Row] = []  # newest first
    turn: list[Row] = []
    count, size = 0, 0
    full = False
    newer: str | None = None  # the run of the answer that follows
    for row in rows.newest_first():
        latest = not chosen
        info, role = row.info, row.role
        if isinstance(info, AssistantMessage):
            repeated = info.finish == "error" and info.run_id is not None and info.run_id == newer
            newer = info.run_id
            if repeated:
                continue
        if not (full and role != "user"):
            fits = count + 1 <= max_messages and size + row.weight <= max_bytes
            if latest and role != "user":
                # One place is kept for the user's message.
                fits = fits and count + 2 <= max_messages
            if fits or (latest and role == "user"):
                count, size = count + 1, size + row.weight
                turn.append(row)
            elif latest:
                full = True  # older answers of this turn are left out, up to its user's message
            else:
                break
        if role == "user":
            chosen += turn
            turn = []
            if full:
                break
    window = tuple(rows.whole(row) for row in reversed(chosen))
    rows.close()
    return window
