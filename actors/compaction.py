"""Compaction in a run: a summary takes the place of the conversation's beginning (engine.transcript.compaction).

It is made when a turn is about to begin and the window is due, when a service refused a request as too large, and by
hand. Until its one transaction nothing is changed: cancelled, failed or lost with the daemon, the history is as before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import attrs

from actors._feed import RunFeed
from actors.answers import Answers
from actors.progress import Progress
from actors.services import Services
from actors.windows import Windows
from engine import ids
from engine.errors import PeerError
from engine.providers.base import ModelRequest
from engine.runs.events import CompactionFinished, CompactionStarted
from engine.runs.turn import PartAdded, Step
from engine.storage.changes import AddMessage, AddPart, AddUsage, FinishMessage, PutRun
from engine.transcript import compaction
from engine.transcript.records import (
    NO_USAGE,
    AssistantMessage,
    CompactionPart,
    Message,
    TextPart,
    Usage,
    UserMessage,
)
from engine.transcript.window import Window, weight_of

_log = logging.getLogger("greenroom.run")

OVERFLOW: Final = "context_overflow"


class Compactor:
    """Of one run. `parent_id` is the user's message that the run answers; None for a run that only compacts."""

    def __init__(
        self,
        services: Services,
        feed: RunFeed,
        progress: Progress,
        answers: Answers,
        windows: Windows,
        parent_id: str | None,
    ) -> None:
        self._services = services
        self._feed = feed
        self._progress = progress
        self._answers = answers
        self._windows = windows
        self._parent_id = parent_id
        self._attempts = 0  # that came to nothing, since the last answer
        self._given_up = False

    def answered(self, usage: Usage) -> None:
        """The model took a request, which had so many tokens."""
        self._attempts = 0
        self._windows.counted(usage)

    def is_due(self, window: Window) -> bool:
        """Whether to compact before the model is called with this window."""
        return not self._given_up and self._windows.is_due(window)

    async def in_time(self, window: Window) -> None:
        """Compact, if that is worth it. A service that fails is met again by the turn itself: one attempt is left to
        it."""
        try:
            whole = await self._windows.whole()
            await self._compact(whole, window.size, compaction.KEPT_PART, attempts=compaction.ATTEMPTS - 1)
        except PeerError as exc:
            if exc.code == "disk_full":
                raise
            self._given_up = True
            _log.warning("%s goes on without a summary: %s", self._feed.run.id, exc.code)

    async def after_overflow(self, error: PeerError) -> None:
        """Make the next request smaller than the one that a service refused with `error`, or raise: that error after
        ATTEMPTS of them, or when too little can be given up. Of images that it does not take none are left."""
        if error.data.get("images"):
            if not self._windows.leave_images_out():
                raise error
            return
        self._failed(error)
        before, refused = self._windows.size, self._windows.last
        if self._windows.refused(error):
            return
        # Of the window that was too large: in the one that takes its place the beginning may be left out.
        await self._compact(refused, refused.size, compaction.KEPT_PART / self._attempts)
        await self._windows.read()
        if not compaction.is_progress(before, self._windows.size):
            raise _given_up(error, "nothing more can be left out")

    async def by_hand(self) -> bool:
        """Compact now; whether there was anything worth it. Raises PeerError."""
        whole = await self._windows.whole()
        return await self._compact(whole, whole.size, compaction.KEPT_PART, by_hand=True)

    async def _compact(
        self, window: Window, size: int, part: float, *, by_hand: bool = False, attempts: int = compaction.ATTEMPTS
    ) -> bool:
        """`size` is of the messages of a request that would be made, or was."""
        count = compaction.split(window, int(self._windows.budget * part), by_hand=by_hand)
        beside = 0 if by_hand else self._windows.overhead
        before = size + beside
        # What was left out of that request is saved too.
        total = sum(map(weight_of, window.messages))

        def after(summary: str) -> int:
            return before - (total - compaction.size_after(window, count, summary))

        if not count or not compaction.is_progress(before, after("")):
            return False
        await self._progress.apply(Step([], [CompactionStarted()]))
        model = self._windows.room().compact_model or self._windows.model
        tally = self._services.tally.compactions
        try:
            summary, usage = await self._summary(model, window.messages[:count], attempts)
        except PeerError:
            tally[model, "error"] += 1
            raise
        if not compaction.is_progress(before, after(summary)):
            self._given_up = True  # another one would be no shorter
            await self._spent(usage)
            tally[model, "error"] += 1
            return False
        await self._store(model, summary, usage, compaction.kept_from(window, count))
        tally[model, "completed"] += 1
        self._windows.compacted()
        return True

    async def _summary(self, model: str, messages: Sequence[Message], attempts: int) -> tuple[str, Usage]:
        most = min(self._services.limits.summary_bytes, self._windows.budget // 4)
        while True:
            room = self._windows.room_for(model, len(compaction.INSTRUCTIONS))
            text = compaction.question(messages, room)
            asked = Message(
                UserMessage(id=ids.message_id(), created_at=self._services.now_ms()),
                (TextPart(id=ids.part_id(), text=text),),
            )
            request = ModelRequest(model=model, instructions=compaction.INSTRUCTIONS, messages=(asked,), tools=())
            try:
                summary, usage = await self._answers.text(request, most)
            except PeerError as exc:
                if exc.code != OVERFLOW:
                    raise
                self._failed(exc, attempts)
                self._windows.learn(model, exc, len(text.encode()))
                continue
            if summary.strip():
                return summary.strip(), usage
            await self._spent(usage)
            self._failed(PeerError("provider_error", "the model gave no summary of the conversation"), attempts)

    async def _spent(self, usage: Usage) -> None:
        """A call that was no use has its price all the same."""
        if usage == NO_USAGE:
            return
        self._feed.run = attrs.evolve(self._feed.run, usage=self._feed.run.usage + usage)
        await self._progress.apply(Step([AddUsage(usage), PutRun(self._feed.run)], []))

    def _failed(self, error: PeerError, attempts: int = compaction.ATTEMPTS) -> None:
        self._attempts += 1
        if self._attempts >= attempts:
            raise _given_up(error, f"given up after {self._attempts} attempts")

    async def _store(self, model: str, summary: str, usage: Usage, kept_from: str | None) -> None:
        run = self._feed.run
        now = self._services.now_ms()
        info = AssistantMessage(
            id=ids.message_id(),
            created_at=now,
            finished_at=now,
            run_id=run.id,
            parent_id=self._parent_id,
            model=model,
            finish="stop",
            usage=usage,
        )
        part = CompactionPart(id=ids.part_id(), summary=summary, kept_from=kept_from)
        self._feed.run = attrs.evolve(run, usage=run.usage + usage)
        await self._progress.apply(
            Step(
                [AddMessage(info), AddPart(info.id, part), FinishMessage(info), PutRun(self._feed.run)],
                [PartAdded(info.id, part), CompactionFinished(kept_from=kept_from)],
                durable=True,
            )
        )


def _given_up(error: PeerError, why: str) -> PeerError:
    return PeerError(error.code, f"{error.message} ({why})", retry=False, **error.data)
