"""Toolsets as clients see them: `toolset.list` and `toolset.restart`.

What a toolset has are lines of lists. If all of them together would not fit a frame, descriptions are cut ever shorter,
and then the lists; `<list>_more` counts what is left out of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import orjson

from engine import codec
from engine.tools.spec import ToolsetStatus
from engine.wire.objects import OBJECT_BYTES, clean, error_object

_LISTS: Final = ("tools", "prompts", "resources")
# What is tried: bytes of a description, and entries of a list once descriptions are gone.
_DESCRIPTIONS: Final = (1000, 200, 60, 0)
_ENTRIES: Final = (1 << 16, 64, 16, 4, 0)


def encode_toolsets(statuses: Sequence[ToolsetStatus], *, room: int = OBJECT_BYTES) -> bytes:
    """`[{name, kind, state, …}]`."""
    sizes = [(description, _ENTRIES[0]) for description in _DESCRIPTIONS]
    sizes += product(_DESCRIPTIONS[-1:], _ENTRIES[1:])
    for description, entries in sizes:
        data = orjson.dumps([_object(status, description, entries) for status in statuses])
        if len(data) <= room:
            break
    return data


def encode_toolset(status: ToolsetStatus) -> bytes:
    return encode_toolsets([status])[1:-1]


def _object(status: ToolsetStatus, description: int, entries: int) -> dict[str, Any]:
    value: dict[str, Any] = codec.plain(status)
    if status.error is not None:
        value["error"] = error_object(status.error)
    for name in _LISTS:
        lines = value.get(name)
        if lines is None:
            continue
        value[name] = [{key: _cut(key, text, description) for key, text in line.items()} for line in lines[:entries]]
        if len(lines) > entries:
            value[f"{name}_more"] = len(lines) - entries
    return value


def _cut(key: str, text: str, most: int) -> str:
    if key != "description":
        return clean(text)
    return clean(text, most) if most else ""
