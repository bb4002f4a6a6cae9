"""How far something is that takes a while, on standard error: one line that is written over on a terminal, a line
every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Final

_EVERY: Final = {True: 0.1, False: 5.0}  # seconds between two lines, on a terminal or not


class Steps:
    """Called with what is done, how much of it, of how much (0 if that is not known)."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + _EVERY[False] / 10  # what is quick says nothing
        self._shown = False

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY[self._terminal]
        text = f"{what} {100 * done // of} %" if of else f"{what} {done}"
        self._write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._shown = True

    def clear(self) -> None:
        """Nothing of it stays on a terminal."""
        if self._shown and self._terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
