"""The tool `read_output`: an output that was longer than its result, read on in parts by its handle."""

from __future__ import annotations

from typing import Annotated, Final

import attrs

from engine import codec
from engine.limits import DEFAULT, Limits
from engine.tools.schema import input_schema
from engine.tools.spec import ToolResult, ToolSpec

# Room for the last line of the result, which says how to read on.
_NOTE_ROOM: Final = 256

Offset = Annotated[int, codec.Check("0 or more", lambda value: value >= 0)]
Handle = Annotated[str, codec.Check("1 to 256 characters", lambda value: 1 <= len(value) <= 256)]


@attrs.frozen(slots=True, kw_only=True)
class ReadOutput:
    handle: Handle = attrs.field(metadata={"description": "The handle in the last line of a long result."})
    offset: Offset = attrs.field(default=0, metadata={"description": "The first byte to show, counted from 0."})


READ_OUTPUT: Final = ToolSpec(
    name="read_output",
    description="Read on in the output of an earlier tool call of this session, of which only head and tail were "
    "shown. It comes in parts: the last line of the result says how to read on.",
    input_schema=input_schema(ReadOutput),
)


def piece_bytes(limits: Limits = DEFAULT) -> int:
    """How much of an output one result shows at most."""
    return limits.tool_result_bytes - _NOTE_ROOM


def page(asked: ReadOutput, text: str, following: int | None, total: int, limits: Limits = DEFAULT) -> ToolResult:
    """The result for `text`, a piece of at most `piece_bytes` that goes on at the byte `following` (None: it ends)."""
    if not text:
        said = (
            "The output is empty." if not total else f"The output has {total:,} bytes: there is no byte {asked.offset}."
        )
        return ToolResult(text=said, is_error=total > 0)
    end = total if following is None else following
    lines = text.split("\n")
    if len(lines) >= limits.tool_result_lines:
        kept = limits.tool_result_lines - 2
        end -= len("\n".join(lines[kept:]).encode())
        text = "\n".join([*lines[:kept], ""])
    if asked.offset == 0 and end == total:
        return ToolResult(text=text)
    more = f"; read on with offset {end}" if end < total else "; this is its end"
    begin = end - len(text.encode())
    note = f"[bytes {begin:,} to {end:,} of {total:,}{more}]"
    return ToolResult(text=f"{text}{'' if text.endswith(chr(10)) else chr(10)}{note}")
