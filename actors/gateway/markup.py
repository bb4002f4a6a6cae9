"""Markdown to HTML for pages: on the loop, a little at a time, one text after the other.

A text of the greatest size takes some 60 ms of CPU, made to cost the most some 200. It is done in steps of a quarter of
a millisecond, at the very worst ten (engine/rendering/html.py), and between two of them every other task of the daemon
has its turn: also with many pages a run waits for one step, not for a text. In a thread it would hold the interpreter
longer at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from engine.codec import DecodeError, Json
from engine.errors import CallerError
from engine.wire.methods import InvalidParams

if TYPE_CHECKING:
    from engine.rendering.html import Rendering


class Markup:
    """Of one gateway. `most`: the bytes of one text."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._turn = trio.Lock()
        self._kind: type[Rendering] | None = None

    async def render(self, text: str, state: str) -> Json:
        """The result of `markdown.render`. Raises CallerError payload_too_large, InvalidParams for a state that is
        none."""
        size = len(text.encode())
        if size > self._most:
            message = f"a text may have {self._most} bytes, this one has {size}"
            raise CallerError("payload_too_large", message, limit=self._most)
        async with self._turn:
            if self._kind is None:
                # A megabyte and 20 ms, which a daemon without pages does without.
                self._kind = await trio.to_thread.run_sync(_load)
            try:
                rendering = self._kind(text, state)
            except DecodeError:
                raise InvalidParams([("state", "is not one that an answer of this daemon had")]) from None
            while rendering.step():
                await trio.lowlevel.checkpoint()
            return attrs.asdict(rendering.result())


def _load() -> type[Rendering]:
    from engine.rendering.html import Rendering

    return Rendering
