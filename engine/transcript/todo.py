"""A session's list of what is to be done, as its model keeps it."""

from __future__ import annotations

from typing import Final, Literal

import attrs

Status = Literal["pending", "in_progress", "completed"]

TODOS_MAX: Final = 50  # a list that is read with each session; longer ones are no plan any more
TODO_CHARACTERS: Final = 200  # a line each


@attrs.frozen(slots=True, kw_only=True)
class Todo:
    """One line without control characters."""

    text: str
    status: Status = "pending"
