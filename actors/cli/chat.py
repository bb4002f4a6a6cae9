"""`greenroom chat`: full-screen where there is a terminal for it, else line by line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator

from actors.cli import line_chat
from actors.cli.arguments import Arguments
from actors.cli.exits import CANCELLED, FAILED, GOOD, Exit
from actors.cli.output import line, note
from actors.cli.start import open_client
from actors.client import Client, NoDaemon
from actors.terminal import chat

_WORDS = 200


def main(arguments: Arguments) -> int:
    if arguments.plain or not _has_screen():
        return line_chat.main(arguments)
    if not chat.is_installed():
        note("[line by line: the full-screen chat needs pip install 'greenroom[chat]']")
        return line_chat.main(arguments)
    try:
        left = chat.run(
            _Opener(arguments).open,
            session_id=arguments.session,
            model=arguments.model,
            approve=arguments.approve or "ask",
            start=arguments.start,
        )
    except KeyboardInterrupt:
        return CANCELLED  # before there was a screen
    _tell(left)
    if left.crashed:
        return FAILED
    return CANCELLED if left.signalled else GOOD


class _Opener:
    """Opens one client after the other."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._first = True

    @contextlib.asynccontextmanager
    async def open(self, start: bool) -> AsyncIterator[Client]:
        first, self._first = self._first, False
        async with contextlib.AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(open_client(self._arguments, start=start))
            except Exit as exc:
                if first:
                    raise
                # A daemon that does not start is none; what the person has written must not go with the screen.
                raise NoDaemon("; ".join(exc.lines)) from exc
            yield client


def _has_screen() -> bool:
    """All three streams: the picture goes to standard error, and what is piped is not to be drawn on. Its frames are
    no letters of other encodings than UTF-8."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        return False
    return chat.fits(os.environ) and (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"


def _tell(left: chat.Left) -> None:
    """What goes on, and how to come back to it."""
    if left.unsent is not None:
        note(f"[not acknowledged by the daemon: {line(left.unsent, _WORDS)}]")
    if left.run_id is not None:
        note(f"[the run goes on: greenroom runs stop {left.run_id} ends it]")
    if left.session_id is not None:
        note(f"[greenroom chat --session {left.session_id} goes on with this session]")
