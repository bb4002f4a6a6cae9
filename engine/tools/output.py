"""The output of a tool while it arrives: what the model is shown of it, and what has to be written for the whole.

One place for every tool. Feed it the output's bytes; what it says to write goes to a file (engine.storage.spool),
in order. Output within the bounds of a result is shown whole, and nothing of it is written. Of longer output the
model gets head and tail with exact counts, and a last line that says where the whole is, or why it is nowhere.
"""

from __future__ import annotations

from typing import Final

from engine.limits import DEFAULT, KIB, Limits
from engine.tools.cut import HeadTail

# Room for the last line: 200 bytes of words and counts, a handle, and why something was not kept.
NOTE_BYTES: Final = KIB
_WHY_BYTES: Final = 400
# The whole is written in pieces of this size: a hop to a thread costs as much as writing 256 KiB to the system's cache.
BATCH_BYTES: Final = 256 * KIB


class OutputCollector:
    """Holds at most a result (`limits.tool_result_bytes`), a batch, and what was fed last.

    After each `feed`: what `take` gives is to be written, and `lost` says that it could not be. With `writes` False
    the whole is written by others, and nothing is held for it.
    """

    def __init__(self, limits: Limits = DEFAULT, *, writes: bool = True) -> None:
        self._shown = HeadTail(limits.tool_result_bytes, limits.tool_result_lines, NOTE_BYTES)
        self._writes = writes
        self._held = bytearray()  # fed and not taken
        self._lost: str | None = None
        self.size = 0  # bytes fed
        self.kept = 0  # of them, those taken and not lost

    @property
    def fits(self) -> bool:
        """Whether the model sees the whole of what was fed so far."""
        return self._shown.fits

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self._shown.feed(data)
        if self._lost is None and self._writes:
            self._held += data

    def take(self, *, end: bool = False) -> bytes:
        """What is to be written now; empty while that is not worth it. At the `end`: all that remains."""
        if self._lost is not None or self.fits or (len(self._held) < BATCH_BYTES and not end):
            return b""
        data = bytes(self._held)
        self._held.clear()
        self.kept += len(data)
        return data

    def lost(self, size: int, why: str) -> None:
        """The last `size` bytes that were taken, and all that follow, cannot be kept. `why` completes "because"."""
        self.kept -= size
        self._lost = why.encode()[:_WHY_BYTES].decode(errors="ignore")
        self._held = bytearray()

    def missed(self, size: int, line_feeds: int, last: bytes) -> None:
        """As HeadTail.skip. What follows is not kept: `take` what is held, then say so with `lost`."""
        self.size += size
        self._shown.skip(size, line_feeds, last)

    def result(self, handle: str | None = None) -> str:
        """What the model is shown, within the bounds. `handle` names the file, None if there is none. The end."""
        text = self._shown.result()
        if self.fits:
            return text
        count = self._shown.lines
        lines = f"{self.size:,} bytes in {count:,} line{'' if count == 1 else 's'}"
        if self._lost is None:
            note = f"[The whole output, {lines}, is kept" if handle else f"[The whole output had {lines}"
        elif handle:
            note = f"[Of the output, {lines}, only the first {self.kept:,} bytes are kept because {self._lost}"
        else:
            note = f"[The whole output, {lines}, could not be kept because {self._lost}"
        note += f": read_output reads it by the handle {handle}]" if handle else "]"
        return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{note}"
