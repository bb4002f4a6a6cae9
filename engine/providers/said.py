"""What encoders of requests share: the words for parts of a message that a service has no better place for."""

from __future__ import annotations

from typing import Final

from engine.transcript.records import CompactionPart, FilePart, Message, TextPart, ToolPart

# A call without a result is not valid for a provider; the history is repaired when a run ends, this is the net.
_NO_RESULT: Final = "Error: the call did not finish."


def text_of(part: object) -> str:
    """What a service is told of the part in words; empty for what the formats have no place for."""
    match part:
        case TextPart(text=text):
            return text
        case CompactionPart(summary=summary):
            return f"Summary of the conversation before this:\n{summary}"
        case FilePart(call_id=None):
            return not_shown(part)
    return ""


def not_shown(file: FilePart) -> str:
    """The words for a file that a service cannot be shown."""
    return f"[attached file {file.name or 'without a name'}: {file.mime}, {file.size:,} bytes, not shown]"


def files_of(message: Message, call: ToolPart) -> list[FilePart]:
    """What the call gave beside its result."""
    return [part for part in message.parts if isinstance(part, FilePart) and part.call_id == call.call_id]


def result_of(part: ToolPart) -> str:
    """The one result of a call."""
    if part.state == "completed":
        return part.output or ""
    return f"Error: {part.error}" if part.error else _NO_RESULT
