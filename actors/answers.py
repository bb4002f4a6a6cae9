"""The answers of a run's model: each is streamed into a turn of the run."""

from __future__ import annotations

from typing import Final

import trio

from actors.models import Models
from actors.progress import Progress
from engine.providers.base import ModelEvent, ModelRequest, ReasoningDelta, TextDelta
from engine.runs.turn import Turn

# Of one batch of a model's text between two looks at the loop: a few frames' worth, a fraction of the log's bound.
PIECE_CHARACTERS: Final = 64 * 1024


class Answers:
    """Of one run."""

    def __init__(self, models: Models, progress: Progress) -> None:
        self._models = models
        self._progress = progress

    async def answer(self, turn: Turn, request: ModelRequest) -> None:
        """Take the model's answer into the turn. What ends it is held, for the end of the turn."""
        async with self._models.open(request.model, request) as stream:
            while not turn.full:
                batch = await stream.receive()
                if batch is None:
                    break
                await self._take(turn, batch)
        self._progress.held = turn.end_answer()

    async def _take(self, turn: Turn, batch: list[ModelEvent]) -> None:
        """Hand the batch to the turn. A large one goes in pieces, so that watchers can keep up with the log."""
        piece: list[ModelEvent] = []
        size = 0
        for event in batch:
            piece.append(event)
            size += len(event.text) if isinstance(event, TextDelta | ReasoningDelta) else 0
            if size >= PIECE_CHARACTERS:
                await self._progress.apply(turn.take(piece))
                await trio.lowlevel.checkpoint()
                piece, size = [], 0
        if piece:
            await self._progress.apply(turn.take(piece))
