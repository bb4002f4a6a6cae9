"""Cursors of paged lists: a letter that names the list and the order number of the last item given.

They come back from clients and are hostile. Order numbers never change, so a cursor stays right while rows are
added or removed.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from engine.wire.methods import InvalidParams

ListName = Literal["s", "m", "r"]  # sessions, messages, runs

# 18 digits always fit SQLite's 64-bit integers.
_FORM: Final = re.compile(r"([smr])(\d{1,18})", re.ASCII)
# Above every order number: the start of a list that begins with the newest.
NEWEST: Final = 2**63 - 1


def encode(name: ListName, order: int) -> str:
    return f"{name}{order}"


def decode(name: ListName, cursor: str | None) -> int:
    """The order number below which the page begins. Raises InvalidParams for what no such list ever gave."""
    if cursor is None:
        return NEWEST
    found = _FORM.fullmatch(cursor)
    if found is None or found[1] != name:
        raise InvalidParams([("cursor", "is not a cursor of this list")])
    return int(found[2])
