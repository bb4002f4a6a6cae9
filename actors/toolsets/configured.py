"""From the configuration to the actors of its toolsets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from actors.toolset import Toolset, ToolsetActor
from actors.toolsets.files import FilesToolset
from actors.toolsets.functions import FunctionsToolset
from engine.config import Config
from engine.limits import Limits

FUNCTIONS: Final = "functions"  # the toolset of a program's own functions
_BUILTIN: Final[Mapping[str, Callable[..., Toolset]]] = MappingProxyType({"files": FilesToolset})
Factory = Callable[[], ToolsetActor]  # a fresh actor for every start, as a ChildSpec takes it


def make_toolsets(config: Config, functions: Sequence[Callable[..., Any]] = ()) -> dict[str, Factory]:
    """The factory of each configured toolset by its name, and of `functions` if there are any.

    Raises TypeError for a function that cannot be a tool.
    """
    made: dict[str, Factory] = {}
    for name, toolset in config.toolsets.items():
        make = partial(_BUILTIN[name], toolset.tools, limits=config.limits)
        made[name] = _factory(make, config.limits, toolset.call_timeout)
    if functions:
        own = FunctionsToolset(functions, limits=config.limits)  # now, so that a mistake is the caller's
        made[FUNCTIONS] = _factory(lambda: own, config.limits, None)
    return made


def _factory(make: Callable[[], Toolset], limits: Limits, call_timeout: float | None) -> Factory:
    starts = itertools.count()
    return lambda: ToolsetActor(make(), limits=limits, call_timeout=call_timeout, restarts=next(starts))
