"""The tool `list_directory`: what is in a folder of the session's folder, one line an entry."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator
from typing import Final

import attrs

from engine.errors import CallerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools import paths
from engine.tools.read import Checkpoint
from engine.tools.schema import input_schema
from engine.tools.spec import ToolResult, ToolSpec

# Room for the last line, which counts what is there and left out.
_NOTE_ROOM: Final = KIB
# Names between two looks at whether the call is cancelled: about a millisecond.
_NAMES_AT_ONCE: Final = 50


@attrs.frozen(slots=True, kw_only=True)
class ListDirectory:
    path: str = attrs.field(
        default=".", metadata={"description": "The folder, relative to the session's folder or absolute in it."}
    )


LIST_DIRECTORY: Final = ToolSpec(
    name="list_directory",
    description="List a folder of the session's folder: its entries by name, folders with / at the end, links with "
    "where they point, files with their size in bytes. It does not go into folders.",
    input_schema=input_schema(ListDirectory),
)


def list_directory(folder: str, asked: ListDirectory, checkpoint: Checkpoint, limits: Limits = DEFAULT) -> ToolResult:
    """The entries, then a summary. Raises CallerError("invalid_path").

    Of a folder with more than `limits.search_files_max` names the first that the system gives are sorted and counted.
    Holds one result, however many names there are.
    """
    descriptor, names = paths.open_path(folder, asked.path)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            paths.refuse(asked.path, "is a file, not a folder")
        listing = _Listing(descriptor, checkpoint, limits)
        text = listing.text()
    except OSError as exc:
        raise CallerError("invalid_path", f"{asked.path!r} cannot be listed: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    return ToolResult(text=text, title=paths.shown(names) or ".")


class _Listing:
    def __init__(self, descriptor: int, checkpoint: Checkpoint, limits: Limits) -> None:
        self._descriptor = descriptor
        self._checkpoint = checkpoint
        self._limits = limits
        self._count = 0
        self._more = False  # there are names that were not looked at

    def text(self) -> str:
        room = self._limits.tool_result_bytes - _NOTE_ROOM
        lines: list[str] = []
        for name in heapq.nsmallest(self._limits.tool_result_lines - 1, self._names()):
            self._checkpoint()
            line = self._line(name)
            room -= len(line.encode()) + 1
            if room < 0:
                break
            lines.append(line)
        total = f"{'more than ' if self._more else ''}{self._count:,} {'entry' if self._count == 1 else 'entries'}"
        shown = "" if len(lines) == self._count and not self._more else f"; the first {len(lines):,} by name are shown"
        return "\n".join([*lines, f"[{total}{shown}]"])

    def _names(self) -> Iterator[str]:
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                if self._count % _NAMES_AT_ONCE == 0:
                    self._checkpoint()
                if self._count == self._limits.search_files_max:
                    self._more = True
                    return
                self._count += 1
                yield entry.name

    def _line(self, name: str) -> str:
        shown = paths.shown((name,))
        try:
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return f"{shown}/"
            if stat.S_ISREG(status.st_mode):
                return f"{shown} ({status.st_size:,})"
            if stat.S_ISLNK(status.st_mode):
                return f"{shown} -> {paths.shown((os.readlink(name, dir_fd=self._descriptor),))}"
            return f"{shown} ({paths.kind(status.st_mode)})"
        except OSError as exc:  # it went away meanwhile, or may not be looked at
            return f"{shown} ({(exc.strerror or 'unreadable').lower()})"
