"""Exit codes, and what ends a command early. Part of the wire contract: scripts rely on them."""

from __future__ import annotations

from typing import Final

GOOD: Final = 0
FAILED: Final = 1  # the run or check failed
USAGE: Final = 2  # usage or configuration
NO_DAEMON: Final = 3
HELD: Final = 4  # the data directory is held by another daemon
CANCELLED: Final = 5


class Exit(Exception):
    """End the command with this code; `lines` are for people, on standard error."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(code, *lines)
        self.code = code
        self.lines = lines
