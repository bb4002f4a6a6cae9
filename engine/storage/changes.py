"""The changes that a run makes to its transcript, as data.

A run collects changes and hands them to the store in order; each hand-over is one transaction (with those of
other runs, see actors/_disk.py). Applying a list either happens whole or not at all.
"""

from __future__ import annotations

import attrs

from engine.runs.approvals import Resolution
from engine.runs.record import Run
from engine.transcript.records import AssistantMessage, Part, Usage, UserMessage


@attrs.frozen(slots=True)
class AddMessage:
    """A message at the end of the session; its parts follow by AddPart."""

    info: UserMessage | AssistantMessage


@attrs.frozen(slots=True)
class AddPart:
    """A part at the end of its message. Text and reasoning may begin empty and grow by AppendText."""

    message_id: str
    part: Part


@attrs.frozen(slots=True)
class AppendText:
    """Text at the end of a text or reasoning part: a chunk row until FoldText."""

    part_id: str
    text: str


@attrs.frozen(slots=True)
class FoldText:
    """The part is complete: its chunks become its text. `signature` is given to a reasoning part."""

    part_id: str
    signature: str | None = None


@attrs.frozen(slots=True)
class PutPart:
    """The part's new state, replacing what is stored under its id (not for parts that grow by AppendText)."""

    part: Part


@attrs.frozen(slots=True)
class FinishMessage:
    """The assistant message's final form; its usage is added to the session's."""

    info: AssistantMessage


@attrs.frozen(slots=True)
class AddUsage:
    """What a model call cost that gave no message: added to the session's."""

    usage: Usage


@attrs.frozen(slots=True)
class PutRun:
    """The run's new state."""

    run: Run


@attrs.frozen(slots=True)
class ReserveSeq:
    """Numbers up to and including `through` may be used from now on; after a crash the run goes on above."""

    run_id: str
    through: int


@attrs.frozen(slots=True)
class AskApproval:
    """A call waits for a person."""

    run_id: str
    call_id: str


@attrs.frozen(slots=True)
class SettleApproval:
    """The wait is over."""

    run_id: str
    call_id: str
    resolution: Resolution


Change = (
    AddMessage | AddPart | AppendText | FoldText | PutPart | FinishMessage | AddUsage | PutRun | ReserveSeq
    | AskApproval | SettleApproval
)  # fmt: skip
