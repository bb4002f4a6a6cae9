"""Messages that wait, and messages that the run at work takes in: in order, none lost, each in exactly one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from engine.runs.record import Run
from engine.storage import starting, waiting
from engine.transcript.records import Message, TextPart
from tests.stress.seen import Json
from tests.stress.truth import LIMITS, Truth

# As they are before a test puts its own in their place.
_STORE: dict[str, Callable[..., Any]] = {
    "start": starting.start_run,
    "steer": starting.steer_run,
    "enqueue": waiting.enqueue,
    "begin": waiting.begin,
}


class Queues(Truth):
    # ------------------------------------------------------------ in the disk's thread
    # Which message is in which run is known before its sender is answered.
    def _store_run(self, connection: Any, run: Run, message: Message, **named: Any) -> Any:
        self.tag_of[run.id] = text_of(message)
        return self.disk.gate(_STORE["start"], connection, run, message, **named)

    def _store_queued(self, connection: Any, run: Run, message: Message, **named: Any) -> Any:
        self.tag_of[run.id] = text_of(message)
        stored = self.disk.gate(_STORE["enqueue"], connection, run, message, **named)
        if not stored.repeated and run.id not in (order := self.enqueued.setdefault(run.session_id, [])):
            order.append(run.id)
        return stored

    def _store_begun(self, connection: Any, run_id: str, **named: Any) -> Any:
        begun = self.disk.gate(_STORE["begin"], connection, run_id, **named)
        if begun is not None and run_id not in (order := self.begun.setdefault(begun.run.session_id, [])):
            order.append(run_id)
        return begun

    def _store_steered(self, connection: Any, run: Run, message: Message, **named: Any) -> Any:
        stored = self.disk.gate(_STORE["steer"], connection, run, message, **named)
        if not stored.repeated and text_of(message) not in (taken := self.steered.setdefault(run.id, [])):
            taken.append(text_of(message))
        return stored

    # ------------------------------------------------------------ when nothing goes on
    async def _check_queue(self, session_id: str) -> None:
        active = (await self.registry.list_runs(session_id, True, 100)).items[::-1]
        queue = [run for run in active if run.status == "queued"]
        assert len(active) - len(queue) <= 1, f"several runs are active in {session_id}"
        assert [run.position for run in queue] == list(range(1, len(queue) + 1)), "a queue with a hole"
        assert len(queue) <= LIMITS.queued_messages_max
        assert (await self.registry.get_session(session_id)).queued == len(queue)
        order, begun = self.enqueued.get(session_id, []), self.begun.get(session_id, [])
        waits = [run.id for run in queue]
        assert begun == [run_id for run_id in order if run_id in begun], "begun in another order than sent"
        assert waits == [run_id for run_id in order if run_id in waits], "the queue is in another order than sent"
        if begun and waits:
            assert order.index(begun[-1]) < order.index(waits[0]), "one that was sent later was begun before"
        for run_id in order:
            if run_id not in waits and run_id not in begun:
                await self._check_dropped(run_id)
        page = await self.registry.messages(session_id, 200)
        kept = [part["text"] for message in user_messages(page.messages) for part in message["parts"]]
        assert not {self.tag_of[run_id] for run_id in waits} & set(kept), "a message that waits is in the transcript"
        if waits and len(active) == len(queue):
            taken = {*self.actor._admission._active.values(), *self.actor._admission._starting}
            assert session_id in self.actor._admission._waiting, "a queue that nobody wakes"
            assert len(taken) == LIMITS.active_runs_max, "a queue that waits for a place that is free"
        self.stats["waiting"] += len(waits)

    async def _check_dropped(self, run_id: str) -> None:
        run = await self.registry.get_run(run_id)
        assert run.status == "cancelled" and run_id in self.stop_asked, f"{run} has left its queue unasked"


def text_of(message: Message) -> str:
    text = message.parts[0]
    assert isinstance(text, TextPart)
    return text.text


def user_messages(encoded: Any) -> list[Json]:
    return [message for message in map(json.loads, encoded) if message["info"]["role"] == "user"]
