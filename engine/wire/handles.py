"""Handles: names for strings that are too long for a frame, `out_<part id>_<field>`.

A handle is opaque to clients and lives as long as the part does. The store resolves it; `output.read` reads it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from engine import ids

# The fields of parts that may be cut (see engine.wire.objects). `data` is a file's content, `input` a call's
# input as JSON text; all others are the field's own text.
FIELDS: Final = frozenset({"text", "output", "error", "input", "data", "summary", "snapshot", "description", "prompt"})
_PREFIX: Final = "out_"


class Handle(NamedTuple):
    part_id: str
    field: str


def handle_of(part_id: str, field: str) -> str:
    """The handle of a part's field."""
    assert field in FIELDS, field
    return f"{_PREFIX}{part_id}_{field}"


def parse(handle: str) -> Handle | None:
    """What a handle names; None if no daemon ever gave such a handle (the part itself may still be unknown)."""
    if not handle.startswith(_PREFIX):
        return None
    part_id, _, field = handle[len(_PREFIX) :].rpartition("_")
    return Handle(part_id, field) if field in FIELDS and ids.is_well_formed(part_id) else None
