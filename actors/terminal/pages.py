"""Messages and texts, asked for: pages of a session, the rest of what the wire cuts, what the view wants."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import trio

from actors.client.connect import Client
from actors.client.errors import RemoteError
from actors.client.watch import SessionWatch
from actors.terminal.conversation import Conversation
from actors.terminal.texts import Piece, pieces_of, whole
from engine.limits import DEFAULT

PAGE: Final = 50
# Older messages come in larger pages (which end at 256 KiB): fewer round trips for who goes far back.
OLDER_PAGE: Final = 200
# Of one entry that is looked at: what an answer may have by default. Beyond it the rest is counted.
TEXT_BYTES: Final = DEFAULT.answer_bytes
_READ_BYTES: Final = 64 * 1024
# Characters whose lines are made within 10 ms, and within 200 if they are the worst that there is.
_AT_ONCE: Final = 16 * 1024
# Pages on the way to a message whose own cursor is not known: 10,000 messages.
_PAGES_MOST: Final = 200


async def page_of(
    client: Client, session_id: str, cursor: str | None = None, limit: int | None = None
) -> dict[str, Any]:
    """The messages before the cursor, or the newest. Raises RemoteError, ConnectionLost, as all of these do."""
    params: dict[str, Any] = {"session_id": session_id, "limit": limit or PAGE}
    return await client.request("session.messages", params if cursor is None else {**params, "cursor": cursor})


async def read(client: Client, handle: str | None, most: int) -> str:
    """The text behind a handle, as far as `most` bytes; what was left out is counted."""
    pieces: list[str] = []
    offset: int | None = 0
    total = 0
    while offset is not None and offset < most:
        params = {"handle": handle, "offset": offset, "limit": min(_READ_BYTES, most - offset)}
        piece = await client.request("output.read", params)
        pieces.append(piece.get("text", ""))
        offset, total = piece.get("next_offset"), piece["total"]
    if offset is not None:
        pieces.append(f"\n[… {total - offset:,} bytes more]")
    return "".join(pieces)


async def find(
    client: Client, session_id: str, conversation: Conversation, entry_id: str, *, unfolded: bool, most: int
) -> Piece | None:
    """An entry with all of its text (up to `most` bytes); None if the daemon has it no more."""
    cursor = conversation.cursor(entry_id)
    for _ in range(_PAGES_MOST):
        page = await page_of(client, session_id, cursor)
        for message in page["messages"]:
            for piece in pieces_of(message, {entry_id} if unfolded else frozenset()):
                if piece.id == entry_id:
                    return piece if piece.handle is None else whole(piece, await read(client, piece.handle, most))
        if (cursor := page.get("next_cursor")) is None:
            break
    return None


async def fetch_some(client: Client, session_id: str, conversation: Conversation) -> bool:
    """Texts that the view wants: those on the pages to the last of them. False if it wants none."""
    ids = [id for id in conversation.view.wanted if id in conversation.places]
    if not ids:
        return False
    last = ids[-1]
    cursor = conversation.cursor(last)
    with contextlib.suppress(RemoteError):  # the session or the text is gone
        for _ in range(_PAGES_MOST):
            page = await page_of(client, session_id, cursor)
            for piece in conversation.provide(page):
                await _supply(conversation, whole(piece, await read(client, piece.handle, TEXT_BYTES)))
            cursor = page.get("next_cursor")
            if last not in conversation.view.wanted or cursor is None:
                break
    if last in conversation.view.wanted:
        conversation.give_up(last)
    return True


async def _supply(conversation: Conversation, piece: Piece) -> None:
    """A thread makes the lines of a long text: the keys have to work meanwhile."""
    made = None
    if len(piece.text) > _AT_ONCE and piece.id in conversation.places:
        make = conversation.view.prepare(piece.id, piece.text)
        made = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
    conversation.supply(piece, made)


class FollowedSession(SessionWatch):
    """A session's watch that tells when it was begun (anew, because its inbox was full), and after which cursors."""

    def __init__(self, client: Client, session_id: str, after: dict[str, int]) -> None:
        super().__init__(client, session_id, after)
        self.begun_anew = False
        self.asked_after: dict[str, int] = {}
        self.runs: list[dict[str, Any]] = []

    async def begin(self) -> dict[str, Any]:
        self.asked_after = dict(self.cursors)
        result = await super().begin()
        self.runs = result["runs"]
        self.begun_anew = True
        return result
