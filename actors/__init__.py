# actors holds the life of greenroom: everything that waits, owns a nursery or can be cancelled. A module here
# imports only those above it in the order that scripts/import_rules.py lists, and never the package itself.
#
# The names below are the programmatic interface. They are loaded when they are first used: the command line, which
# lives in this package too, has to start quickly.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.api import Engine as Engine
    from actors.api import RunHandle as RunHandle
    from actors.api import SessionHandle as SessionHandle
    from actors.api import open_engine as open_engine

_PUBLIC = dict.fromkeys(("Engine", "RunHandle", "SessionHandle", "open_engine"), "actors.api")
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
