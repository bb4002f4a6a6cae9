"""One turn of a run: a model's answer and its tool calls, as a state machine without I/O.

The run (actors/run.py) feeds it the model's events and the tools' results; each call returns a Step: changes for
the store and facts for the watchers, in order. If a step is `durable`, its changes have to be committed before
its facts are shown, because they acknowledge something.

- At most one text or reasoning part is open; it is closed by the next kind of event or the end of the answer.
- A call's part is made when the model names it and gets its input when the answer has ended.
- `interrupt` closes whatever is open, from any state: partial text is kept, every call has exactly one result.
- A model call that failed before it had given anything is made again in the same turn (`retry`). What one has given
  before it failed is never added to: that turn is interrupted with `error`, and a new one of the same number, with a
  message of its own, takes the call's next attempt.
- Bounds: `answer_bytes` of text and reasoning, `tool_input_bytes` a call, `tool_calls_per_turn`. Beyond one the
  turn is `full`: the caller stops the model, and the turn finishes with `length`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from engine import codec, ids
from engine.limits import Limits
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.runs.events import (
    Event,
    PartDelta,
    PartFinished,
    PartStarted,
    TurnFinished,
    TurnStarted,
)
from engine.runs.retry import Retry, scheduled
from engine.storage.changes import AddMessage, AddPart, AppendText, Change, FinishMessage, FoldText, PutPart
from engine.tools.spec import ToolResult
from engine.transcript.records import (
    NO_USAGE,
    AssistantMessage,
    Blob,
    CompactionPart,
    Failure,
    FilePart,
    Finish,
    PartKind,
    PatchPart,
    ReasoningPart,
    RetryPart,
    StepFinishPart,
    StepStartPart,
    TextPart,
    ToolPart,
    Usage,
)
from engine.transcript.tools import TERMINAL, advance, interrupt

# Shown of an input that is not JSON: enough to see what the model did.
_INPUT_SHOWN: Final = 200
# Arrays and objects inside each other in an input: more than any tool takes, and less than what JSON writers allow
# (254) with what is put around it on the wire.
INPUT_DEPTH: Final = 128


@attrs.frozen(slots=True)
class ToolChanged:
    """A tool call has a new state; on the wire a `tool.updated`, and at its end a `part.finished`."""

    part: ToolPart


@attrs.frozen(slots=True)
class PartAdded:
    """A part that is whole at once; on the wire a `part.started` and a `part.finished`."""

    message_id: str
    part: FilePart | PatchPart | CompactionPart


Fact = Event | ToolChanged | PartAdded


@attrs.define(slots=True)
class Step:
    changes: list[Change] = attrs.field(factory=list)
    facts: list[Fact] = attrs.field(factory=list)
    durable: bool = False


@attrs.define(slots=True)
class _Open:
    part_id: str
    kind: PartKind
    bytes: int = 0


@attrs.define(slots=True)
class _Call:
    part: ToolPart
    fragments: list[str] = attrs.field(factory=list)
    size: int = 0


class Turn:
    """See the module. `full_name` maps a provider's tool name to `toolset.tool` (an unknown one to itself)."""

    def __init__(
        self,
        number: int,
        info: AssistantMessage,
        *,
        limits: Limits,
        full_name: Callable[[str], str] = str,
    ) -> None:
        self.number = number
        self.info = info
        self.finish: Finish | None = None  # what the model said
        self.full = False
        self.closed = False
        self.added: list[FilePart | PatchPart] = []  # what calls gave beside their results
        self._limits = limits
        self._full_name = full_name
        self._open: _Open | None = None
        self._calls: dict[int, _Call] = {}
        self._answer_bytes = 0
        self._usage = NO_USAGE  # of this attempt
        self._usage_before = NO_USAGE  # of those before it
        self._texts: dict[str, _Open] = {}  # text and reasoning parts in order

    @property
    def texts(self) -> tuple[tuple[str, PartKind, int], ...]:
        """The text and reasoning parts so far: id, kind, and bytes of text that were shown."""
        return tuple((part.part_id, part.kind, part.bytes) for part in self._texts.values())

    @property
    def usage(self) -> Usage:
        """Of all attempts of the model call: those that failed count."""
        return self._usage_before + self._usage

    @property
    def calls(self) -> tuple[ToolPart, ...]:
        """The calls of this turn in the model's order."""
        return tuple(call.part for call in self._calls.values())

    @property
    def started_answering(self) -> bool:
        return self._open is not None or bool(self._calls) or self._answer_bytes > 0

    def begin(self) -> Step:
        start = StepStartPart(id=ids.part_id(), turn=self.number)
        return Step(
            [AddMessage(self.info), AddPart(self.info.id, start)],
            [TurnStarted(turn=self.number, message_id=self.info.id)],
        )

    def retry(self, retry: Retry) -> Step:
        """The model call is made again, after a wait."""
        assert not self.started_answering, "what was given before an error is not added to"
        self._usage_before, self._usage = self.usage, NO_USAGE
        self.finish = None
        part = RetryPart(id=ids.part_id(), attempt=retry.attempt, reason=retry.reason, delay_ms=retry.delay_ms)
        return Step([AddPart(self.info.id, part)], [scheduled(retry)])

    # ------------------------------------------------------------ the answer
    def take(self, events: Iterable[ModelEvent]) -> Step:
        """The next events of the model, in order. Nothing is taken once the turn is full."""
        step = Step()
        for event in events:
            if self.full:
                break
            match event:
                case TextDelta(text):
                    self._text("text", text, step)
                case ReasoningDelta(text):
                    self._text("reasoning", text, step)
                case ReasoningFinished(signature):
                    self._reasoning_finished(signature, step)
                case ToolCallStarted(index, call_id, name):
                    self._call_started(index, call_id, name, step)
                case ToolInputDelta(index, text):
                    self._call_input(index, text)
                case UsageReported(usage):
                    self._usage = usage
                case AnswerFinished(finish):
                    self.finish = finish
        return step

    def end_answer(self) -> Step:
        """The model has ended: the open part is closed. Which calls are to be made is in `calls` now."""
        step = Step()
        self._close(step)
        return step

    def _text(self, kind: PartKind, text: str, step: Step) -> None:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if self._answer_bytes + size > self._limits.answer_bytes:
            self.full = True
            return
        part = self._opened(kind, step)
        self._answer_bytes += size
        part.bytes += size
        step.changes.append(AppendText(part.part_id, text))
        step.facts.append(PartDelta(part_id=part.part_id, text=text))

    def _opened(self, kind: PartKind, step: Step) -> _Open:
        """The open part, if it is of this kind, else a new one."""
        part = self._open
        if part is None or part.kind != kind:
            self._close(step)
            part = self._open = _Open(ids.part_id(), kind)
            self._texts[part.part_id] = part
            empty = TextPart(id=part.part_id, text="") if kind == "text" else ReasoningPart(id=part.part_id, text="")
            step.changes.append(AddPart(self.info.id, empty))
            step.facts.append(PartStarted(part_id=part.part_id, message_id=self.info.id, kind=kind))
        return part

    def _reasoning_finished(self, signature: str | None, step: Step) -> None:
        if signature is None:
            if self._open is not None and self._open.kind == "reasoning":
                self._close(step)
            return
        size = len(signature.encode())
        if self._answer_bytes + size > self._limits.answer_bytes:
            self.full = True
            return
        self._answer_bytes += size
        self._opened("reasoning", step)
        self._close(step, signature)

    def _close(self, step: Step, signature: str | None = None) -> None:
        part, self._open = self._open, None
        if part is not None:
            step.changes.append(FoldText(part.part_id, signature))
            step.facts.append(PartFinished(part_id=part.part_id, kind=part.kind, bytes=part.bytes))
            step.durable = True

    def _call_started(self, index: int, call_id: str, name: str, step: Step) -> None:
        if index in self._calls:
            return  # a provider that repeats itself
        if len(self._calls) >= self._limits.tool_calls_per_turn:
            self.full = True
            return
        self._close(step)
        # Ids of providers are not unique over a session (some count from 0), and some give none.
        part = ToolPart(
            id=ids.part_id(),
            call_id=call_id if ids.is_well_formed(call_id) else ids.call_id(),
            tool=self._full_name(name),
            state="pending",
        )
        if any(call.part.call_id == part.call_id for call in self._calls.values()):
            part = attrs.evolve(part, call_id=ids.call_id())
        self._calls[index] = _Call(part)
        step.changes.append(AddPart(self.info.id, part))
        step.facts.append(PartStarted(part_id=part.id, message_id=self.info.id, kind="tool"))
        step.facts.append(ToolChanged(part))

    def _call_input(self, index: int, text: str) -> None:
        call = self._calls.get(index)
        if call is None:
            return  # input of a call that the provider never named
        call.size += len(text)
        if call.size > self._limits.tool_input_bytes:
            self.full = True
            return
        call.fragments.append(text)

    # ------------------------------------------------------------ the calls
    def read_call(self, part: ToolPart, now: int) -> tuple[ToolPart, Step]:
        """Give the call its input: nothing to store or show yet. If that is no JSON object the call ends at once in
        `error`: look at the state of the part that is returned."""
        call = self._call(part)
        text = "".join(call.fragments).strip()
        call.fragments.clear()
        problem: str | None = None
        data = b"{}"
        try:
            value = codec.parse(text) if text else {}
            if not isinstance(value, dict):
                problem = "the input of a tool call has to be a JSON object"
            elif codec.is_deeper(value, INPUT_DEPTH):
                problem = f"the input of a tool call may be nested {INPUT_DEPTH} deep at most"
            else:
                data = codec.dump(value)
        except codec.DecodeError as exc:
            problem = f"the input of the call {exc}; it began: {text[:_INPUT_SHOWN]!r}"
        if problem is not None:
            return self.refuse_call(part, problem, now)
        call.part = attrs.evolve(call.part, input=data)
        return call.part, Step()

    def start_call(self, part: ToolPart, now: int) -> tuple[ToolPart, Step]:
        """Begin the call, which has its input."""
        call = self._call(part)
        call.part = advance(call.part, "running", started_at=now)
        return call.part, Step([PutPart(call.part)], [ToolChanged(call.part)])

    def refuse_call(self, part: ToolPart, why: str, now: int) -> tuple[ToolPart, Step]:
        """End a call that was not begun: `why` is what the model sees."""
        call = self._call(part)
        call.part = advance(call.part, "error", error=why, started_at=now, finished_at=now)
        return call.part, self._call_ended(call.part)

    def end_call(self, part: ToolPart, result: ToolResult, now: int) -> Step:
        """The call's one result. Its whole output is a blob by now."""
        call = self._call(part)
        whole = result.whole and Blob(handle=result.whole.handle, hash=result.whole.hash, size=result.whole.size)
        ended = {"title": result.title, "whole": whole, "finished_at": now}
        if result.is_error:
            call.part = advance(call.part, "error", error=result.text, **ended)
        else:
            call.part = advance(call.part, "completed", output=result.text, **ended)
        step = self._call_ended(call.part)
        added: list[FilePart | PatchPart] = [attrs.evolve(file, call_id=call.part.call_id) for file in result.files]
        if result.change is not None:
            change = result.change
            added.append(
                PatchPart(
                    id=ids.part_id(), path=change.path, before=change.before, after=change.after, size=change.size
                )
            )
        for extra in added:
            step.changes.append(AddPart(self.info.id, extra))
            step.facts.append(PartAdded(self.info.id, extra))
        self.added += added
        return step

    def _call_ended(self, part: ToolPart) -> Step:
        return Step([PutPart(part)], [ToolChanged(part)], durable=True)

    def _call(self, part: ToolPart) -> _Call:
        return next(call for call in self._calls.values() if call.part.id == part.id)

    # ------------------------------------------------------------ the end
    def close(self, finish: Finish, now: int, error: Failure | None = None) -> Step:
        """The turn's end, all its calls being terminal."""
        assert not self.closed, "a turn ends once"
        assert all(part.state in TERMINAL for part in self.calls), "a call without a result"
        self.closed = True
        step = Step(durable=True)
        self._close(step)
        self.info = attrs.evolve(self.info, finish=finish, finished_at=now, usage=self.usage, error=error)
        last = StepFinishPart(id=ids.part_id(), turn=self.number, finish=finish, usage=self.usage)
        step.changes += [AddPart(self.info.id, last), FinishMessage(self.info)]
        step.facts.append(TurnFinished(turn=self.number, finish=finish, usage=self.usage))
        return step

    def interrupt(self, finish: Finish, why: str, now: int, error: Failure | None = None) -> Step:
        """End the turn from any state, leaving a history that is valid for a provider. `why` completes the
        sentence "The call did not finish: …"."""
        step = Step()
        self._close(step)
        for call in self._calls.values():
            if call.part.state not in TERMINAL:
                call.part = interrupt(call.part, why, now)
                ended = self._call_ended(call.part)
                step.changes += ended.changes
                step.facts += ended.facts
        last = self.close(finish, now, error)
        step.changes += last.changes
        step.facts += last.facts
        step.durable = True
        return step
