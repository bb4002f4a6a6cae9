"""Standard input, line by line."""

from __future__ import annotations

import os
from typing import Final

import trio

from engine.limits import DEFAULT

_READ_BYTES: Final = 64 * 1024


class Lines:
    """Lines of standard input. Waiting for one can be cancelled, and loses nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waits = True  # a plain file cannot be waited for, and never lets one wait
        self._buffer = b""
        self._ended = False

    async def read(self) -> str | None:
        """The next line without its end; None when there is no more. A line has a bound: beyond it, it is cut."""
        while b"\n" not in self._buffer and not self._ended and len(self._buffer) < DEFAULT.message_bytes:
            await self._readable()
            data = os.read(self._descriptor, _READ_BYTES)
            self._buffer += data
            self._ended = not data
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    async def _readable(self) -> None:
        if self._waits:
            try:
                await trio.lowlevel.wait_readable(self._descriptor)
            except PermissionError:
                self._waits = False
        await trio.lowlevel.checkpoint()
