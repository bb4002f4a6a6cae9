"""What a tool server says that it offers: its tools for a model, prompts and resources for people to know of.

Read page by page, checked and bounded; every bound is in engine.limits. What cannot be a tool is left out, and said: it
is no reason to do without the others, and neither is a list of something else than tools that does not work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import attrs
import orjson

from actors.toolsets.mcp_client import Client, Refused
from actors.toolsets.mcp_inbox import Held, Inbox
from actors.toolsets.mcp_results import strings_in
from engine.limits import Limits
from engine.mcp.schemas import schema_fault
from engine.tools.names import is_tool_name
from engine.tools.spec import Offer, ResourceLine, ToolLine, ToolSpec

# Entries of one list that are looked at, good or bad: a message may have some hundred thousand.
ENTRIES_MOST: Final = 4096
# What is wrong with a list is one line.
_TROUBLES_SHOWN: Final = 5
_NAME_SHOWN: Final = 80
# Of prompts and resources: they are lines of a list, which nothing but people read.
_LABEL_CHARACTERS: Final = 200
_URI_CHARACTERS: Final = 1000

# Takes an entry of a list; what is wrong with it if it is left out.
Take = Callable[[dict[str, Any]], str | None]


@attrs.frozen(slots=True, kw_only=True)
class Listing:
    """`trouble` says what was left out."""

    tools: tuple[ToolSpec, ...]
    offer: Offer
    trouble: str | None


class _Full(Exception):
    """A list has as many entries as are taken; the text says so."""


class _Troubles:
    """The first of them in words, the others only counted: there may be one for each entry of a hostile list."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._count = 0

    def add(self, text: str, *, of_all: bool = False) -> None:
        """`of_all` is said before what is about one entry."""
        self._count += 1
        self._texts.insert(0 if of_all else len(self._texts), text)
        del self._texts[_TROUBLES_SHOWN:]

    def line(self) -> str | None:
        if not self._count:
            return None
        more = self._count - len(self._texts)
        return "; ".join(self._texts) + (f"; and {more} more" if more else "")


async def read_listing(client: Client, inbox: Inbox, chosen: Collection[str] | None, limits: Limits) -> Listing:
    """Those of the server's tools that are `chosen` (None: all), and what else it has. Raises Refused if it does not
    tell its tools, Gone."""
    reading = _Reading(client, inbox, limits)
    tools = _Tools(chosen, limits)
    if "tools" in client.offered:
        await reading.read("tools", tools.take)
    for name in chosen or ():
        if name not in tools.specs:
            reading.troubles.add(f"it has no tool {name!r}")
    prompts: dict[str, ToolLine] = {}
    resources: dict[str, ResourceLine] = {}

    def take_prompt(entry: dict[str, Any]) -> str | None:
        name = _label(entry.get("name"))
        if not name:
            return "has no name"
        if len(prompts) >= limits.mcp_offers:
            raise _Full(f"it has more than {limits.mcp_offers} prompts")
        prompts[name] = ToolLine(name=name, description=_label(entry.get("description") or entry.get("title")))
        return None

    def take_resource(entry: dict[str, Any]) -> str | None:
        uri = _label(entry.get("uri"), _URI_CHARACTERS)
        if not uri:
            return "has no uri"
        if len(resources) >= limits.mcp_offers:
            raise _Full(f"it has more than {limits.mcp_offers} resources")
        name, description = _label(entry.get("name") or entry.get("title")), _label(entry.get("description"))
        resources[uri] = ResourceLine(uri=uri, name=name, description=description)
        return None

    for kind, take in (("prompts", take_prompt), ("resources", take_resource)):
        if kind in client.offered:
            try:
                await reading.read(kind, take)
            except Refused as exc:
                reading.troubles.add(f"its {kind} cannot be read: {str(exc)[:_LABEL_CHARACTERS]}")
    offer = Offer(prompts=tuple(prompts.values()), resources=tuple(resources.values()))
    return Listing(tools=tuple(tools.specs.values()), offer=offer, trouble=reading.troubles.line())


class _Reading:
    def __init__(self, client: Client, inbox: Inbox, limits: Limits) -> None:
        self._client = client
        self._inbox = inbox
        self._limits = limits
        self.troubles = _Troubles()

    async def read(self, kind: str, take: Take) -> None:
        """All pages of one list. Raises Refused, Gone."""
        cursor: str | None = None
        left = ENTRIES_MOST
        for _ in range(self._limits.mcp_pages):
            params = None if cursor is None else {"cursor": cursor}
            async with self._client.request(f"{kind}/list", params) as page:
                held = self._inbox.take(page.cuts)  # of which nothing is read
                await held.forget()
            entries = page.result.get(kind)
            if not isinstance(entries, list):
                self.troubles.add(f"its list of {kind} is none", of_all=True)
                return
            following = page.result.get("nextCursor")
            leads = isinstance(following, str) and following != cursor and not held.find(following)
            try:
                for entry in entries:
                    if not left:
                        raise _Full(f"of its {kind} only the first {ENTRIES_MOST} are looked at")
                    left -= 1
                    self._take(entry, held, take)
            except _Full as exc:
                self.troubles.add(str(exc), of_all=True)
                return
            if not following:
                return
            if not leads:
                self.troubles.add(f"its {kind} have a page that does not lead to the next one", of_all=True)
                return
            cursor = following
        self.troubles.add(f"its {kind} have more than {self._limits.mcp_pages} pages", of_all=True)

    def _take(self, entry: Any, held: Held, take: Take) -> None:
        if not isinstance(entry, dict):
            self.troubles.add("an entry of a list is not an object")
            return
        fault: str | None = "has a string that is too long"
        if not any(held.find(text) for text in strings_in(entry)):
            fault = take(entry)
        if fault is not None:
            self.troubles.add(f"{held.plain(str(entry.get('name')), _NAME_SHOWN)!r} {fault}")


class _Tools:
    """Those that can be tools, as far as they are `chosen`."""

    def __init__(self, chosen: Collection[str] | None, limits: Limits) -> None:
        self._chosen = chosen
        self._limits = limits
        self._bytes = 0
        self.specs: dict[str, ToolSpec] = {}

    def take(self, entry: dict[str, Any]) -> str | None:
        name = entry.get("name")
        if not isinstance(name, str) or (self._chosen is not None and name not in self._chosen):
            return None if isinstance(name, str) else "is no name for a tool"
        if name in self.specs:
            return "is there twice"
        if not is_tool_name(name):
            return "is no name for a tool: 1 to 64 letters, digits, `_` and `-`"
        if len(self.specs) >= self._limits.mcp_tools:
            raise _Full(f"it has more than {self._limits.mcp_tools} tools")
        schema = entry.get("inputSchema")
        fault = schema_fault(schema)
        if fault is not None:
            return f"has a schema that {fault}"
        assert isinstance(schema, dict)
        try:
            encoded = orjson.dumps({"type": "object", **schema})
        except TypeError:  # a number beyond 64 bits, half a surrogate pair
            return "has a schema with a value that cannot be sent on"
        if len(encoded) > self._limits.mcp_schema_bytes:
            return f"has a schema of more than {self._limits.mcp_schema_bytes:,} bytes"
        description = _label(entry.get("description") or entry.get("title"), self._limits.mcp_description_characters)
        self._bytes += len(encoded) + len(description.encode())
        if self._bytes > self._limits.mcp_tools_bytes:
            self._bytes -= len(encoded) + len(description.encode())
            return f"makes its tools larger than {self._limits.mcp_tools_bytes:,} bytes together"
        self.specs[name] = ToolSpec(name=name, description=description, input_schema=encoded)
        return None


def _label(value: Any, most: int = _LABEL_CHARACTERS) -> str:
    return value.encode(errors="replace").decode()[:most] if isinstance(value, str) else ""
