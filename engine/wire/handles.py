"""Handles: names for strings that are too long for a frame, `out_<id of its part>_<field>`.

A handle is opaque to clients and lives as long as its owner does: a part, or a session for its `instructions`.
The store resolves it; `output.read` reads it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from engine import ids

# The fields that may be cut (see engine.wire.objects). `data` is a file's content, `input` a call's input as JSON
# text; all others are the field's own text.
FIELDS: Final = frozenset(
    {"instructions", "text", "output", "error", "input", "data", "summary", "snapshot", "description", "prompt"}
)
_PREFIX: Final = "out_"


class Handle(NamedTuple):
    owner_id: str  # of a part, or of a session
    field: str


def handle_of(owner_id: str, field: str) -> str:
    """The handle of a field of a part or session."""
    assert field in FIELDS, field
    return f"{_PREFIX}{owner_id}_{field}"


def parse(handle: str) -> Handle | None:
    """What a handle names; None if no daemon ever gave such a handle (its owner may still be unknown)."""
    if not handle.startswith(_PREFIX):
        return None
    owner_id, _, field = handle[len(_PREFIX) :].rpartition("_")
    return Handle(owner_id, field) if field in FIELDS and ids.is_well_formed(owner_id) else None
