"""Bodies of the events that carry parts of a transcript: cut to the size of an event, as clients see them.

A body is the inside of an event's JSON object without `seq` and `at`, as engine.runs.log takes it.
"""

from __future__ import annotations

from typing import Final

import orjson

from engine.limits import DEFAULT
from engine.runs import events
from engine.runs.events import ApprovalRequested, Event, MessageSteered, PartFinished, PartStarted, RunStarted
from engine.tools.spec import Question
from engine.transcript.records import KIND_OF, Message, Part, ToolPart
from engine.wire import handles, objects

# The event's own keys around the object that it carries.
_OVERHEAD: Final = 1024
_ROOM: Final = DEFAULT.event_bytes - _OVERHEAD


def run_started(session_id: str, model: str, message: Message) -> bytes:
    """`run.started`, with the user's message as `session.messages` shows it."""
    data = objects.encode_message(message, room=_ROOM)
    return events.encode(RunStarted(session_id=session_id, model=model, message=data))


def message_steered(message: Message) -> MessageSteered:
    """`message.steered`, likewise."""
    return MessageSteered(message=objects.encode_message(message, room=_ROOM))


def approval_requested(part: ToolPart, question: str, expires_at: int) -> ApprovalRequested:
    """`approval.requested`: the call's input cut as everywhere."""
    value, more = objects.cut_json(part.input, DEFAULT.string_bytes)
    handle = None if more is None else {"bytes": more, "handle": handles.handle_of(part.id, "input")}
    return ApprovalRequested(
        call_id=part.call_id,
        tool=part.tool,
        input=value,
        question=objects.clean(question),
        expires_at=expires_at,
        input_more=handle,
    )


def question_asked(part: ToolPart, question_id: str, question: Question, expires_at: int) -> ApprovalRequested:
    """`approval.requested` of what a tool asks in the call; it is within `limits.tool_question_bytes`."""
    return ApprovalRequested(
        call_id=question_id,
        tool=part.tool,
        input={"message": question.message, "schema": question.schema},
        question=objects.clean(f"{part.tool} asks: {question.message}"),
        expires_at=expires_at,
        parent_call_id=part.call_id,
    )


def tool_updated(part: ToolPart) -> bytes:
    """`tool.updated`: the part's fields, flat."""
    value = orjson.loads(objects.encode_part(part, room=_ROOM))
    part_id = value.pop("id")
    for name in ("kind", "started_at", "finished_at"):
        value.pop(name, None)
    return b'"type":"tool.updated",' + orjson.dumps({"part_id": part_id, **value})[1:-1]


def tool_finished(part: ToolPart) -> bytes:
    """`part.finished` of a tool call; `bytes` is the length of what the model sees of it, in UTF-8."""
    text = part.output if part.output is not None else part.error or ""
    return events.encode(PartFinished(part_id=part.id, kind="tool", bytes=len(text.encode()), part=shown(part)))


def part_started(message_id: str, part: Part) -> bytes:
    """`part.started` of a part that is whole."""
    return events.encode(PartStarted(part_id=part.id, message_id=message_id, kind=KIND_OF[type(part)]))


def part_finished(part: Part) -> bytes:
    """`part.finished` of it."""
    return events.encode(PartFinished(part_id=part.id, kind=KIND_OF[type(part)], bytes=0, part=shown(part)))


def encode(event: Event) -> bytes:
    """Any other event."""
    return events.encode(event)


def shown(part: Part) -> orjson.Fragment:
    """A part as clients see it, within the size of an event."""
    return orjson.Fragment(objects.encode_part(part, room=_ROOM))
