"""The answers of a run's model: each is streamed into a turn of the run, in several attempts if it has to be.

When a model call is repeated is decided in engine.runs.retry, and this is the only place that repeats one. An attempt
that failed before it gave anything is repeated in its turn. If it gave something, its turn ends with `error`, so that
no part is left open, and the next attempt begins a turn of its own: what the failed attempt gave is not shown to the
model again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.models import Models
from actors.progress import Progress
from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.base import ModelEvent, ModelRequest, ReasoningDelta, TextDelta, UsageReported
from engine.runs import retry
from engine.runs.turn import Step, Turn
from engine.transcript.records import NO_USAGE, Failure, Usage

# Of one batch of a model's text between two looks at the loop: a few frames' worth, a fraction of the log's bound.
PIECE_CHARACTERS: Final = 64 * 1024


class Answers:
    """Of one run. `random` gives numbers in [0, 1)."""

    def __init__(
        self,
        models: Models,
        limits: Limits,
        progress: Progress,
        now_ms: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._models = models
        self._limits = limits
        self._progress = progress
        self._now_ms = now_ms
        self._random = random

    async def answer(self, begin: Callable[[], Awaitable[tuple[Turn, ModelRequest]]]) -> Turn:
        """Return the turn with the model's answer; the step that ends it is held, for the end of the turn. `begin`
        begins a turn, each time of the same number, and says what the model is to be asked.

        Raises the PeerError of the last attempt, CallerError("unknown_model"), and what applying a step raises; the
        turn is open then. Cancelled, waiting or not: the turn is as it was.
        """
        turn, request = await begin()
        attempt = 1
        with trio.move_on_after(self._limits.call_timeout) as scope:
            while True:
                try:
                    await self._attempt(turn, request)
                    return turn
                except PeerError as exc:
                    left = scope.deadline - trio.current_time()
                    again = retry.after(exc, attempt, left=left, random=self._random(), limits=self._limits)
                    if again is None:
                        raise retry.given_up(exc, attempt, self._limits) from None
                    self._models.retried(request.model, exc.code)
                    failure = Failure(code=exc.code, message=exc.message)
                if turn.started_answering:
                    step = turn.interrupt("error", failure.message, self._now_ms(), failure)
                    await self._progress.apply(self._progress.counted(turn, step))
                    turn, request = await begin()
                await self._progress.apply(turn.retry(again))
                await trio.sleep(again.delay)
                attempt = again.attempt
        raise retry.out_of_time(attempt, self._limits)

    async def text(self, request: ModelRequest, most: int) -> tuple[str, Usage]:
        """What the model says outside of a turn, at most `most` bytes of it, and its usage; the call is repeated as
        that of a turn is. Raises as `answer` does. Cancelled: nothing has happened."""
        attempt = 1
        with trio.move_on_after(self._limits.call_timeout) as scope:
            while True:
                try:
                    return await self._whole(request, most)
                except PeerError as exc:
                    left = scope.deadline - trio.current_time()
                    again = retry.after(exc, attempt, left=left, random=self._random(), limits=self._limits)
                    if again is None:
                        raise retry.given_up(exc, attempt, self._limits) from None
                    self._models.retried(request.model, exc.code)
                await self._progress.apply(Step([], [retry.scheduled(again)]))
                await trio.sleep(again.delay)
                attempt = again.attempt
        raise retry.out_of_time(attempt, self._limits)

    async def _whole(self, request: ModelRequest, most: int) -> tuple[str, Usage]:
        pieces: list[str] = []
        size = 0
        usage = NO_USAGE
        async with self._models.open(request.model, request) as stream:
            while size < most and (batch := await stream.receive()) is not None:
                for event in batch:
                    if isinstance(event, TextDelta):
                        pieces.append(event.text)
                        size += len(event.text.encode())
                    elif isinstance(event, UsageReported):
                        usage = event.usage
        return "".join(pieces).encode()[:most].decode("utf-8", "ignore"), usage

    async def _attempt(self, turn: Turn, request: ModelRequest) -> None:
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
