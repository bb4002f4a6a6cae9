"""What a line of the log is about: the session, run, connection or toolset in whose task it was written.

The kernel enters an actor's name when its task begins; everything that the actor starts inherits it, worker threads
too, so that nobody passes ids for the log's sake.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

# The name of the parent of all toolsets, whose own names are the configuration's.
_TOOLSETS: Final = "toolsets"
# Other actors' names by their first letters.
_FIELDS: Final[Mapping[str, str]] = MappingProxyType({"ses_": "session_id", "run_": "run_id", "conn": "connection"})

_context: ContextVar[Mapping[str, str]] = ContextVar("greenroom_log_context")


def enter_actor(name: str, parent: str | None) -> None:
    """The present task is the actor `name` from now on."""
    field = "toolset" if parent == _TOOLSETS else _FIELDS.get(name[:4])
    if field is not None:
        # Not what was: whoever starts an actor may work for something else.
        of_parent = {"session_id": parent} if field == "run_id" and parent is not None else {}
        _context.set({**of_parent, field: name})


def add_log_context(**fields: str) -> None:
    """The present task works for these too."""
    _context.set({**log_context(), **fields})


def log_context() -> Mapping[str, str]:
    return _context.get({})
