"""Texts of finished entries that are at hand without asking the daemon, bounded in bytes; those used longest ago go."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Final

# Of some twenty screens of text: scrolling about in what was just said asks the daemon for nothing.
CACHE_BYTES: Final = 1024 * 1024
# What an entry costs beside its text: key, its place in the dictionary. Measured on CPython 3.11 and rounded up.
_ENTRY_BYTES: Final = 256


class Texts:
    def __init__(self, bound: int = CACHE_BYTES) -> None:
        self._bound = bound
        self._texts: OrderedDict[str, bytes] = OrderedDict()  # UTF-8: a quarter of what a str with one emoji takes
        self._bytes = 0

    def get(self, id: str) -> str | None:
        text = self._texts.get(id)
        if text is None:
            return None
        self._texts.move_to_end(id)
        return text.decode("utf-8", "surrogatepass")

    def put(self, id: str, text: str) -> None:
        """Keep it, unless it would push out a quarter of all else."""
        self.drop(id)
        encoded = text.encode("utf-8", "surrogatepass")
        size = _size(encoded)
        if size > self._bound // 4:
            return
        while self._bytes + size > self._bound:
            _, gone = self._texts.popitem(last=False)
            self._bytes -= _size(gone)
        self._texts[id] = encoded
        self._bytes += size

    def drop(self, id: str) -> None:
        text = self._texts.pop(id, None)
        if text is not None:
            self._bytes -= _size(text)

    def retained_bytes(self) -> int:
        return self._bytes


def _size(text: bytes) -> int:
    return sys.getsizeof(text) + _ENTRY_BYTES
