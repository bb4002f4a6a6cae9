"""Why a store cannot be used at all."""

from __future__ import annotations

from engine.errors import OwnError


class UnusableStore(OwnError):
    """The database is damaged, foreign, or of a newer greenroom. Nothing was changed; `message` says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__("internal", message)
