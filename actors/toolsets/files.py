"""The built-in toolset `files`: the session's folder read, searched and written, in worker threads of its own; and
long outputs of earlier calls, read on from the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from actors._toolset_life import Preview, no_news
from actors.toolset import FILE_THREADS
from engine import codec
from engine.commands import OutputPiece
from engine.limits import DEFAULT, Limits
from engine.tools.edit import EDIT_FILE, EditFile, edit_file
from engine.tools.list import LIST_DIRECTORY, ListDirectory, list_directory
from engine.tools.output_pages import READ_OUTPUT, ReadOutput, page, piece_bytes
from engine.tools.read import READ_FILE, ReadFile, read_file
from engine.tools.search import SEARCH_FILES, SearchFiles, search_files
from engine.tools.spec import ToolContext, ToolResult, ToolSpec
from engine.tools.write import WRITE_FILE, WriteFile, write_file

ReadPiece = Callable[[str, str, int, int], Awaitable[OutputPiece]]  # (session id, handle, offset, limit)
_Work = Callable[..., ToolResult]  # (folder, input, checkpoint, limits)
_TOOLS: Final[dict[str, tuple[ToolSpec, type[Any], _Work]]] = {
    "read_file": (READ_FILE, ReadFile, read_file),
    "search_files": (SEARCH_FILES, SearchFiles, search_files),
    "list_directory": (LIST_DIRECTORY, ListDirectory, list_directory),
    "write_file": (WRITE_FILE, WriteFile, write_file),
    "edit_file": (EDIT_FILE, EditFile, edit_file),
}


class FilesToolset:
    """`tools` are the names of those that it gives; None: all. `read_output` reads stored outputs; without it there is
    no tool of this name."""

    kind = "builtin"

    def __init__(
        self,
        tools: Sequence[str] | None = None,
        *,
        limits: Limits = DEFAULT,
        read_output: ReadPiece | None = None,
    ) -> None:
        self._read_output = read_output if tools is None or READ_OUTPUT.name in tools else None
        self._tools = {name: tool for name, tool in _TOOLS.items() if tools is None or name in tools}
        self._limits = limits
        self._threads = trio.CapacityLimiter(FILE_THREADS)

    async def open(self) -> Sequence[ToolSpec]:
        specs = [spec for spec, _, _ in self._tools.values()]
        return specs if self._read_output is None else [*specs, READ_OUTPUT]

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        if tool == READ_OUTPUT.name and self._read_output is not None:
            output = codec.decode(value, ReadOutput)
            most = piece_bytes(self._limits)
            piece = await self._read_output(context.session_id, output.handle, output.offset, most)
            return page(output, piece.text, piece.next_offset, piece.total, self._limits)
        _, kind, work = self._tools[tool]
        asked = codec.decode(value, kind)
        # Not abandoned when it is cancelled: the work looks at every block, and its descriptors are its own to close.
        job = partial(work, context.cwd, asked, trio.from_thread.check_cancelled, self._limits)
        return await trio.to_thread.run_sync(job, limiter=self._threads)

    news = staticmethod(no_news)

    async def close(self) -> None:
        """Nothing is kept between calls."""
