"""A model that goes in circles: the same call with the same result in turn after turn.

Such a call is not made again, and its result says so; a turn without it makes it possible again. A call that waits for
something (a view of a job, say) gives another result each time, and is no such call.
"""

from __future__ import annotations

import hashlib

from engine.transcript.records import ToolPart
from engine.transcript.tools import TERMINAL

_DIGEST_BYTES = 16


class Repeats:
    """Of one run. `most` is the number of turns in a row. Holds a digest for each call of two turns."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._before: dict[bytes, tuple[bytes, int]] = {}  # by call: its result in the turn before, for how many turns
        self._now: dict[bytes, tuple[bytes, int]] = {}

    def begin_turn(self) -> None:
        self._before, self._now = self._now, {}

    def why_not(self, part: ToolPart) -> str | None:
        """None if the call may be made, else why not, as the end of a sentence."""
        call = _digest(part.tool.encode(), part.input)
        known = self._before.get(call)
        if known is None or known[1] < self._most:
            return None
        self._now[call] = known  # as long as it is repeated
        return (
            f"in {self._most} turns it has given the same result, which is above. Do something else, or answer with "
            "what is known"
        )

    def ended(self, part: ToolPart) -> None:
        """A call that was made, or that a person has denied, has its result."""
        assert part.state in TERMINAL, "a call without a result"
        call = _digest(part.tool.encode(), part.input)
        result = _digest(part.state.encode(), (part.output or part.error or "").encode("utf-8", "replace"))
        before, count = self._before.get(call, (b"", 0))
        self._now[call] = result, count + 1 if result == before else 1


def _digest(*pieces: bytes) -> bytes:
    made = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for piece in pieces:
        made.update(len(piece).to_bytes(8, "little"))
        made.update(piece)
    return made.digest()
