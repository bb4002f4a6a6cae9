"""From the configuration to the toolsets: what their supervisor starts, and the Toolbox that finds them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from actors._supervisor import ChildSpec, Restart, SupervisorRef
from actors.toolset import Toolbox, Toolset, ToolsetActor, ToolsetRef
from actors.toolsets.files import FilesToolset
from actors.toolsets.functions import FunctionsToolset
from engine.config import Config
from engine.limits import Limits

FUNCTIONS: Final = "functions"  # the toolset of a program's own functions
_BUILTIN: Final[Mapping[str, Callable[..., Toolset]]] = MappingProxyType({"files": FilesToolset})
_RESTART: Final[Mapping[str, Restart]] = MappingProxyType(
    {"on_failure": "transient", "always": "permanent", "never": "temporary"}
)


def make_toolbox(
    config: Config, functions: Sequence[Callable[..., Any]], supervisor: Callable[[], SupervisorRef]
) -> tuple[Toolbox, tuple[ChildSpec, ...]]:
    """The Toolbox, and the specs of the toolsets for a one_for_one supervisor, whose present Ref `supervisor` gives.

    Raises TypeError for a function that cannot be a tool.
    """
    limits = config.limits
    specs = [
        _spec(
            name,
            partial(_BUILTIN[name], toolset.tools, limits=limits),
            limits,
            call_timeout=toolset.call_timeout,
            restart=_RESTART[toolset.restart],
        )
        for name, toolset in config.toolsets.items()
    ]
    if functions:
        own = FunctionsToolset(functions, limits=limits)  # now, so that a mistake is the caller's
        specs.append(_spec(FUNCTIONS, lambda: own, limits))

    def find(name: str) -> ToolsetRef:
        ref: ToolsetRef = supervisor().child(name)
        return ref

    return Toolbox([spec.name for spec in specs], find), tuple(specs)


def _spec(
    name: str,
    make: Callable[[], Toolset],
    limits: Limits,
    *,
    call_timeout: float | None = None,
    restart: Restart = "transient",
) -> ChildSpec:
    restarts = itertools.count()
    return ChildSpec(
        name=name,
        factory=lambda: ToolsetActor(make(), limits=limits, call_timeout=call_timeout, restarts=next(restarts)),
        restart=restart,
        # The actor bounds the opening itself, to be shown as failed; the kernel's bound is the second line.
        start_timeout=limits.toolset_start_timeout + limits.cancel_grace,
        grace=limits.cancel_grace,
    )
