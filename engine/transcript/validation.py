"""What holds for every stored transcript in which nothing is at work: it can be sent to a provider as it is.

A transcript is looked at message by message, so that its length does not matter. What only its writer knows (which
parts a turn begins with, say) is not judged: transcripts also come from other places. Nor are times: clocks are set
back.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.transcript.records import AssistantMessage, FilePart, Message, ToolPart
from engine.transcript.tools import TERMINAL


def problems(message: Message, *, open: bool = False) -> Iterator[str]:
    """What is wrong with a message. `open`: its run is at work, and it need not be complete."""
    info = message.info
    if isinstance(info, AssistantMessage):
        if info.finish is None and not open:
            yield "it was never finished, and no run is at work on it"
        if info.finish is not None and info.finished_at is None:
            yield f"it finished by {info.finish} and has no time for it"
    elif not message.parts:
        yield "a user's message without parts"
    seen: set[str] = set()
    for part in message.parts:
        if isinstance(part, ToolPart):
            if part.call_id in seen:
                yield f"{part.id}: two calls have the id {part.call_id}"
            seen.add(part.call_id)
            yield from (f"{part.id}: {problem}" for problem in _of_call(part, open=open))
        elif isinstance(part, FilePart) and (part.handle is None) != (part.hash is None):
            yield f"{part.id}: a file has a handle or a hash, and not both"


def _of_call(part: ToolPart, *, open: bool) -> Iterator[str]:
    name = f"the call of {part.tool}"
    if part.state not in TERMINAL:
        if not open:
            yield f"{name} is {part.state}, and no run is at work on it"
        return
    wanted = "output" if part.state == "completed" else "error"
    if getattr(part, wanted) is None:
        yield f"{name} is {part.state} and has no {wanted}"
