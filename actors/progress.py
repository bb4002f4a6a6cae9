"""What a run has written: its open turn, what the store is told of it, and what watchers see of it.

The order of durable and shown: an event that acknowledges something is shown after the commit of what it says;
deltas are shown at once and committed within `chunk_delay`. What was handed to the store and not shown yet when the
work is cut short is shown before the run's end: text and events never differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import attrs
import orjson

from actors._feed import RunFeed
from actors.journal import RunJournal
from actors.snapshots import ShownPart, StoredSnapshot
from actors.store_ref import StoreRef
from engine import codec
from engine.limits import Limits
from engine.runs.events import PartDelta, PartStarted
from engine.runs.turn import Fact, PartAdded, Step, ToolChanged, Turn
from engine.storage.changes import PutRun, ReserveSeq
from engine.transcript.tools import TERMINAL
from engine.wire import events as wire_events


class Progress:
    """Of one run. Its tasks may share it: steps are stored in the order in which they are applied."""

    def __init__(self, feed: RunFeed, journal: RunJournal, limits: Limits, now_ms: Callable[[], int]) -> None:
        self._feed = feed
        self._journal = journal
        self._seq_block = limits.seq_block
        self._now_ms = now_ms
        self._unshown: dict[int, Step] = {}  # handed to the journal, to be shown: by identity, in order
        self._reserved = feed.log.last_seq + limits.seq_block
        self.turn: Turn | None = None  # the last one that was begun
        self.held = Step()  # of the last answer: committed together with the end of its turn

    async def apply(self, step: Step) -> None:
        """Hand the step's changes to the store and show its facts, after the commit if they acknowledge it.
        Raises what a commit raises. Cancelled or failed: what is not shown is left to `take_unshown`."""
        for change in step.changes:
            self._journal.add(change)
        self._unshown[id(step)] = step
        if step.durable:
            await self._journal.commit()
        else:
            await self._journal.room()
        await self.reserve(step.facts)
        del self._unshown[id(step)]
        self.show(step.facts)

    async def apply_held(self) -> None:
        held, self.held = self.held, Step()
        await self.apply(held)

    async def reserve(self, facts: Iterable[Fact]) -> None:
        """Make sure that the facts have numbers which no later start of the daemon gives again."""
        count = events_of(facts)
        # One event more is kept for the end, which must not wait; two for a status before it.
        while self._feed.log.last_seq + count + 2 > self._reserved:
            through = self._feed.log.last_seq + count + self._seq_block
            self._journal.add(ReserveSeq(self._feed.run.id, through))
            await self._journal.commit()
            self._reserved = max(self._reserved, through)

    def show(self, facts: list[Fact]) -> None:
        if self._feed.ended:
            return  # what a stalled disk gave back too late: nothing follows the end
        log = self._feed.log
        at = self._now_ms()
        for fact in facts:
            match fact:
                case PartDelta(part_id=part_id, text=text):
                    log.append_delta(at, part_id.encode(), codec.escaped(text))
                case ToolChanged(part):
                    log.append(at, wire_events.tool_updated(part))
                    if part.state in TERMINAL:
                        log.append(at, wire_events.tool_finished(part))
                case PartAdded(message_id, part):
                    log.append(at, wire_events.part_started(message_id, part))
                    log.append(at, wire_events.part_finished(part))
                case _:
                    log.append(at, wire_events.encode(fact))
        if facts:
            self._feed.ring()

    def counted(self, turn: Turn, step: Step) -> Step:
        """The step of a turn's end, its usage added to the run's."""
        self._feed.run = attrs.evolve(self._feed.run, usage=self._feed.run.usage + turn.usage)
        step.changes.append(PutRun(self._feed.run))
        return step

    def take_unshown(self) -> Step:
        """What was cut short, to be applied again: what was not shown, and the changes that no journal has."""
        step = Step(changes=list(self.held.changes), durable=True)
        for unshown in (*self._unshown.values(), self.held):
            step.facts += unshown.facts
        self._unshown.clear()
        return step

    # ------------------------------------------------------------ for watchers that come too late
    async def snapshot(self, store: StoreRef, message_id: str, approvals: Sequence[orjson.Fragment]) -> StoredSnapshot:
        """The message being written as of the log's head now, with the approvals that wait; its text is read from the
        store. Before the first turn it is the message with this id, without parts."""
        turn = self.turn
        seq = self._feed.log.last_seq
        parts: list[ShownPart] = []
        if turn is not None:
            hidden, bytes_hidden = self._to_be_shown()
            for part_id, kind, size in turn.texts:
                if part_id not in hidden:
                    parts.append(({"id": part_id, "kind": kind}, part_id, size - bytes_hidden[part_id]))
            whole = (*turn.calls, *turn.added)
            parts += [(wire_events.shown(part), None, 0) for part in whole if part.id not in hidden]
            message_id = turn.info.id
        await self._journal.commit()
        return StoredSnapshot(store, self._feed.run, message_id, seq, parts, approvals)

    def _to_be_shown(self) -> tuple[set[str], Counter[str]]:
        """What the log's head does not have yet and the turn has: parts, and bytes of text by part."""
        parts: set[str] = set()
        sizes: Counter[str] = Counter()
        for step in self._unshown.values():
            for fact in step.facts:
                if isinstance(fact, PartStarted):
                    parts.add(fact.part_id)
                elif isinstance(fact, PartAdded):
                    parts.add(fact.part.id)
                elif isinstance(fact, PartDelta):
                    sizes[fact.part_id] += len(fact.text.encode())
        return parts, sizes


def events_of(facts: Iterable[Fact]) -> int:
    """How many events the facts become: a call's end is told as `tool.updated` and as `part.finished`."""
    return sum(
        2 if isinstance(fact, PartAdded) or (isinstance(fact, ToolChanged) and fact.part.state in TERMINAL) else 1
        for fact in facts
    )
