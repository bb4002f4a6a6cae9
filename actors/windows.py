"""The windows of one run: what its model is shown at each turn, and whether that is about to be too much.

What a window begins with, and what a service turned out to take, is remembered by the session (`Marks`), so that the
requests of its runs begin alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from actors.services import Services
from engine.errors import PeerError
from engine.providers.overflow import Overflow
from engine.storage.media import media_bytes
from engine.tools.spec import ToolSpec
from engine.transcript.records import Usage
from engine.transcript.session import Session
from engine.transcript.window import BYTES_PER_TOKEN, Marks, Room, Window, bytes_for_messages, used

# Of a model that is not configured: it fails when it is called.
_UNKNOWN: Final = Room(window=32_768, answer=4096, compact_at=0.0)
# Of the bounds of a window: that of what is summarised.
_WHOLE: Final = 2
# Of a request that was refused without a word about its bound: what the next one may have.
_SHRINK: Final = 0.75


class Windows:
    def __init__(self, services: Services, session: Session, run_id: str, model: str, marks: Marks) -> None:
        self._services = services
        self._session = session
        self._run_id = run_id
        self._marks = marks
        self._given = len((session.instructions or "").encode())
        self.overhead = self._given  # bytes of a request beside its messages
        self.model = model
        self.last = Window(messages=())

    def give_tools(self, specs: Sequence[ToolSpec], note: str | None = None) -> None:
        """These, and no others, are in each request from now on, and `note` among its instructions."""
        size = sum(len(spec.name) + len(spec.description.encode()) + len(spec.input_schema) for spec in specs)
        self.overhead = self._given + size + len((note or "").encode())

    def room(self, model: str | None = None) -> Room:
        """What the model takes, as far as is known by now."""
        name = model or self.model
        room = self._services.models.room(name) or _UNKNOWN
        learned = self._marks.tokens.get(name)
        return room if learned is None else attrs.evolve(room, window=min(room.window, learned))

    @property
    def budget(self) -> int:
        """Bytes for messages."""
        return self.room_for(self.model, self.overhead)

    def room_for(self, model: str, overhead: int) -> int:
        """Bytes for messages to a model, beside so many others."""
        return bytes_for_messages(self.room(model).prompt, overhead, self._per_token(model))

    @property
    def size(self) -> int:
        """Bytes of the last request, as they are estimated."""
        return self.last.size + self.overhead

    def counted(self, usage: Usage) -> None:
        """What the service counted with the last request."""
        self._marks.counted(self.model, self.size, usage.input_tokens)

    def _per_token(self, model: str) -> float:
        return self._marks.per_token.get(model, BYTES_PER_TOKEN)

    async def read(self) -> Window:
        """What the model is shown now. Raises CallerError unknown_session."""
        self.last = await self._services.store.window(
            self._session.id,
            max_messages=self._services.limits.window_messages,
            max_bytes=self.budget,
            start=self._marks.start.get(self.model),
            run_id=self._run_id,
            media_bytes=self._marks.media_bytes.get(self.model),
        )
        if self.last.start is not None:
            self._marks.start[self.model] = self.last.start
        return self.last

    async def whole(self) -> Window:
        """What a summary is made of: what the model sees, and what just does not fit any more. Raises CallerError
        unknown_session."""
        return await self._services.store.window(
            self._session.id,
            max_messages=_WHOLE * self._services.limits.window_messages,
            max_bytes=_WHOLE * self.budget,
            run_id=self._run_id,
            media_bytes=0,
        )

    def is_due(self, window: Window) -> bool:
        """Whether the conversation is to be summarised before the model is called with this window."""
        threshold = self.room().threshold
        if threshold is None:
            return False
        return window.left_out or used(window, self.model, self.overhead) >= threshold

    def compacted(self) -> None:
        """The next window begins elsewhere."""
        self._marks.start.clear()

    def refused(self, error: PeerError) -> bool:
        """A service refused the last request as too large: the next one is smaller. Whether that is by media alone."""
        kind = error.data.get("overflow")
        media = media_bytes(self.last.messages)
        # In base64 they are four thirds; where they are less than the text, it is the text that has to go.
        if media and (kind == Overflow.MEDIA or (kind == Overflow.BYTES and 4 * media > 3 * self.size)):
            # Half of them, then none: which one was too large is not always said.
            self._marks.media_bytes[self.model] = 0 if self.model in self._marks.media_bytes else media // 2
            return True
        self.learn(self.model, error, self.size)
        return False

    def leave_images_out(self) -> bool:
        """A service does not take the images of the last request: the next ones have none. False if it had none."""
        if not media_bytes(self.last.messages):
            return False
        self._marks.media_bytes[self.model] = 0
        return True

    def learn(self, model: str, error: PeerError, size: int) -> None:
        """A request of so many bytes was too large for the model."""
        told = error.data.get("window_tokens")
        tokens = int(size / self._per_token(model) * _SHRINK)
        self._marks.learn(model, min(told, tokens) if isinstance(told, int) else tokens)
