"""The full-screen chat, put together: client's side, screens, and what is said on leaving."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from actors.terminal import guest
from actors.terminal.talk import How, Opener, Talk

# Terminals that know no cursor movements, or say nothing of themselves.
_DUMB: Final = frozenset({"", "dumb", "unknown"})
# The background that a terminal tells by COLORFGBG, as the last of its numbers: 7 and 15 are white.
_LIGHT: Final = frozenset({"7", "15"})
# Where these are exported the library takes them for the size of the terminal, which then never changes.
_FIXED_SIZE: Final = ("COLUMNS", "LINES")


@attrs.frozen(slots=True, kw_only=True)
class Left:
    """What the person left: the session, and the run that goes on."""

    session_id: str | None
    run_id: str | None
    unsent: str | None
    crashed: bool  # by a defect of the screens, whose traceback was printed
    signalled: bool = False  # by SIGTERM or the like, not by a key


def is_installed() -> bool:
    """Whether there is the library that it needs."""
    from importlib.util import find_spec

    return find_spec("textual") is not None


def fits(environ: Mapping[str, str]) -> bool:
    """Whether the terminal can show it: what it says of itself."""
    return environ.get("TERM", "") not in _DUMB


def run(
    opener: Opener,
    *,
    session_id: str | None = None,
    model: str | None = None,
    approve: How = "ask",
    start: bool = False,
) -> Left:
    """Until the person leaves. Raises what prevents the first connection, alone or in an ExceptionGroup."""
    from actors.terminal.ui.app import ChatApp

    bridge = guest.Bridge()
    for name in _FIXED_SIZE:
        os.environ.pop(name, None)
    light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in _LIGHT
    app = ChatApp(bridge, light=light)
    talk = Talk(opener, app, cwd=os.getcwd(), session_id=session_id, model=model, approve=approve, start=start)
    app.talk = talk

    async def show() -> None:
        app.catch_signals()
        await app.run_async()

    async def work(task_status: guest.Status) -> None:
        await talk.run(task_status)

    guest.run(work, bridge, show, app.exit)
    active = talk.conversation.run
    return Left(
        session_id=talk.session_id,
        run_id=None if active is None else active.id,
        unsent=None if talk.outgoing is None else talk.outgoing.text,
        crashed=bool(app.return_code),
        signalled=app.signalled,
    )
