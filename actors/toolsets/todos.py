"""The built-in toolset `todo`: a session's list of what is to be done. It is a part of the session in the store, so it
outlives the daemon, is copied by a fork and goes with the session; nothing of it is kept here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from actors._toolset_life import Preview, no_news
from engine import codec
from engine.tools.spec import ToolContext, ToolResult, ToolSpec
from engine.tools.todo import READ_TODOS, WRITE_TODOS, ReadTodos, WriteTodos, todos_of, told
from engine.transcript.todo import Todo

Read = Callable[[str], Awaitable[tuple[Todo, ...]]]  # of a session
Write = Callable[[str, tuple[Todo, ...]], Awaitable[None]]


class TodoToolset:
    """`tools` are the names of those that it gives; None: both. `write` returns when the list is durable."""

    kind = "builtin"

    def __init__(self, tools: Sequence[str] | None, *, read: Read, write: Write) -> None:
        self._tools = [spec for spec in (READ_TODOS, WRITE_TODOS) if tools is None or spec.name in tools]
        self._read = read
        self._write = write

    async def open(self) -> Sequence[ToolSpec]:
        return self._tools

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        if tool == READ_TODOS.name:
            codec.decode(value, ReadTodos)
            return told(await self._read(context.session_id))
        todos = todos_of(codec.decode(value, WriteTodos))
        await self._write(context.session_id, todos)
        return told(todos)

    news = staticmethod(no_news)

    async def close(self) -> None:
        """Nothing is kept between calls."""
