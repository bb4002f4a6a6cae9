"""What a tool is to the rest of the program: its description for a model, its context, its result.

A tool's full name is `toolset.tool` in events, transcript, rules and configuration. Towards a provider that
allows only `[A-Za-z0-9_-]{1,64}` it is `toolset__tool` (engine.tools.names).
"""

from __future__ import annotations

import attrs


@attrs.frozen(slots=True, kw_only=True)
class ToolSpec:
    """`input_schema` is a JSON Schema of an object, encoded."""

    name: str  # toolset.tool
    description: str
    input_schema: bytes


@attrs.frozen(slots=True, kw_only=True)
class ToolContext:
    """Where a call happens. `cwd` is the session's folder, absolute: built-in tools are confined to it."""

    session_id: str
    run_id: str
    call_id: str
    cwd: str


@attrs.frozen(slots=True, kw_only=True)
class ToolResult:
    """What a call gave, already bounded (`limits.tool_result_bytes`, `.tool_result_lines`).

    `text` is what the model sees; with `is_error` it says what went wrong. `title` is one line for a person.
    """

    text: str
    title: str | None = None
    is_error: bool = False
