"""What encoders of requests share: the words for parts of a message that a service has no better place for."""

from __future__ import annotations

from typing import Final

from engine.transcript.records import CompactionPart, FilePart, TextPart, ToolPart

# A call without a result is not valid for a provider; the history is repaired when a run ends, this is the net.
_NO_RESULT: Final = "Error: the call did not finish."


def text_of(part: object) -> str:
    """What a service is told of the part in words; empty for what the formats have no place for."""
    match part:
        case TextPart(text=text):
            return text
        case CompactionPart(summary=summary):
            return f"Summary of the conversation before this:\n{summary}"
        case FilePart(name=name, mime=mime, size=size):
            return f"[attached file {name or 'without a name'}: {mime}, {size:,} bytes, not shown]"
    return ""


def result_of(part: ToolPart) -> str:
    """The one result of a call."""
    if part.state == "completed":
        return part.output or ""
    return f"Error: {part.error}" if part.error else _NO_RESULT
