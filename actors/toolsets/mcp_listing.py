"""What a tool server says that it offers, as tools for a model: read page by page, checked and bounded.

What cannot be a tool is left out, and said; it is no reason to do without the others.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_results import strings_in
from engine.limits import KIB
from engine.tools.names import is_tool_name
from engine.tools.spec import ToolSpec

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp_types import Tool

# Each is part of every request to a model, whose own services take 128 at most.
TOOLS_MOST: Final = 128
# Pages of one list; a server that never comes to an end of them is not followed.
PAGES_MOST: Final = 32
# The schema of a tool with many fields is some KiB, its description less than one.
SCHEMA_BYTES: Final = 32 * KIB
DESCRIPTION_CHARACTERS: Final = 4096
# What is wrong with a list is one line.
_TROUBLES_SHOWN: Final = 5
_NAME_SHOWN: Final = 80


@attrs.frozen(slots=True, kw_only=True)
class Listing:
    """`trouble` says what was left out."""

    tools: tuple[ToolSpec, ...]
    prompts: int
    resources: int
    trouble: str | None


async def read_listing(session: ClientSession, inbox: Inbox, chosen: Collection[str] | None) -> Listing:
    """Those of the server's tools that are `chosen` (None: all), and how much else it has. Raises what the session
    does."""
    import mcp_types as types

    offered = session.server_capabilities or types.ServerCapabilities()
    tools: dict[str, ToolSpec] = {}
    troubles: list[str] = []
    cursor: str | None = None
    if offered.tools is not None:
        for _ in range(PAGES_MOST):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            page = await session.send_request(types.ListToolsRequest(params=params), types.ListToolsResult)
            held = inbox.find(strings_in([_raw(tool) for tool in page.tools]))
            try:
                for tool in page.tools:
                    name = tool.name[:_NAME_SHOWN]
                    if chosen is not None and tool.name not in chosen:
                        continue
                    if tool.name in tools:
                        troubles.append(f"{name!r} is there twice")
                    elif len(tools) >= TOOLS_MOST:
                        troubles.append(f"it has more than {TOOLS_MOST} tools")
                        break
                    elif held is not None and any(held.find(text) for text in strings_in(_raw(tool))):
                        troubles.append(f"{name!r} has a string that is too long")
                    else:
                        spec = _spec(tool)
                        if isinstance(spec, str):
                            troubles.append(f"{name!r} {spec}")
                        else:
                            tools[spec.name] = spec
            finally:
                if held is not None:
                    await held.aclose()
            cursor = page.next_cursor
            if not cursor or len(tools) >= TOOLS_MOST:
                break
        else:
            troubles.append(f"its tools have more than {PAGES_MOST} pages")
    troubles += [f"it has no tool {name!r}" for name in chosen or () if name not in tools]
    prompts = resources = 0
    if offered.prompts is not None:
        prompts = len((await session.list_prompts()).prompts)
    if offered.resources is not None:
        resources = len((await session.list_resources()).resources)
    return Listing(tools=tuple(tools.values()), prompts=prompts, resources=resources, trouble=_line(troubles))


def _spec(tool: Tool) -> ToolSpec | str:
    """What is wrong with it if it cannot be one."""
    if not is_tool_name(tool.name):
        return "is no name for a tool: 1 to 64 letters, digits, `_` and `-`"
    if tool.input_schema.get("type") != "object":
        return "has a schema that is not one of an object"
    try:
        schema = orjson.dumps(tool.input_schema)
    except (TypeError, ValueError):
        return "has a schema that is no JSON"
    if len(schema) > SCHEMA_BYTES:
        return f"has a schema of more than {SCHEMA_BYTES:,} bytes"
    description = (tool.description or tool.title or "").encode(errors="replace").decode()
    return ToolSpec(name=tool.name, description=description[:DESCRIPTION_CHARACTERS], input_schema=schema)


def _raw(tool: Tool) -> Any:
    return [tool.name, tool.description, tool.input_schema]


def _line(troubles: list[str]) -> str | None:
    if not troubles:
        return None
    more = len(troubles) - _TROUBLES_SHOWN
    return "; ".join(troubles[:_TROUBLES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
