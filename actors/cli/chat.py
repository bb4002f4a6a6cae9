"""`greenroom chat`: full-screen where there is a terminal for it, else line by line."""

from __future__ import annotations

import os
import sys

from actors.cli import line_chat
from actors.cli.arguments import Arguments
from actors.cli.exits import CANCELLED, GOOD
from actors.cli.output import line, note
from actors.cli.start import open_client
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
            lambda start: open_client(arguments, start=start),
            session_id=arguments.session,
            model=arguments.model,
            approve=arguments.approve or "ask",
            start=arguments.start,
        )
    except KeyboardInterrupt:
        return CANCELLED  # before there was a screen
    _tell(left)
    return GOOD


def _has_screen() -> bool:
    """All three streams: the picture goes to standard error, and what is piped is not to be drawn on."""
    return sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty() and chat.fits(os.environ)


def _tell(left: chat.Left) -> None:
    """What goes on, and how to come back to it."""
    if left.unsent is not None:
        note(f"[not acknowledged by the daemon: {line(left.unsent, _WORDS)}]")
    if left.run_id is not None:
        note(f"[the run goes on: greenroom runs stop {left.run_id} ends it]")
    if left.session_id is not None:
        note(f"[greenroom chat --session {left.session_id} goes on with this session]")
