"""The tool `edit_file`: an exact text of a file replaced by another.

The file is edited as bytes, so whatever is not replaced stays as it is: the byte order mark, an encoding that is not
UTF-8, the last line without an end. Line ends follow the file: where they are CR LF, those of both texts are taken
as such.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Annotated, Final

import attrs

from engine import codec
from engine.errors import CallerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools import paths
from engine.tools.cut import HeadTail
from engine.tools.read import SNIFF_BYTES, Checkpoint, blocks, is_binary
from engine.tools.schema import input_schema
from engine.tools.spec import FileChange, ToolResult, ToolSpec
from engine.tools.write import replace

# Of the places where a text stands an error names so many.
_PLACES_SHOWN: Final = 10
# The diff is for a glance: what changed is known to who asked for it.
_DIFF_BYTES: Final = 8 * KIB
_DIFF_LINES: Final = 120
_DIFF_PLACES: Final = 20
_CONTEXT_LINES: Final = 3
_LINE_SHOWN: Final = 500  # bytes of one line

_NotEmpty = Annotated[str, codec.Check("a text that is not empty", lambda text: text != "")]


@attrs.frozen(slots=True, kw_only=True)
class EditFile:
    path: str = attrs.field(metadata={"description": "The file, relative to the session's folder or absolute in it."})
    old_text: _NotEmpty = attrs.field(
        metadata={"description": "What stands there now, exactly, with enough around it to be the only such place."}
    )
    new_text: str = attrs.field(metadata={"description": "What will stand in its place."})
    replace_all: bool = attrs.field(
        default=False, metadata={"description": "Replace every place where old_text stands, not a single one."}
    )


EDIT_FILE: Final = ToolSpec(
    name="edit_file",
    description="Replace an exact text in a file of the session's folder. It has to stand there once, unless all "
    "places are to be replaced. The result is a diff.",
    input_schema=input_schema(EditFile),
)


def edit_file(folder: str, asked: EditFile, checkpoint: Checkpoint, limits: Limits = DEFAULT) -> ToolResult:
    """Raises CallerError("invalid_path"); then, and when the result is an error, the file is as it was.

    Files over `limits.file_tool_bytes` are refused, before and after. Holds the file twice.
    """
    place = paths.open_place(folder, asked.path, make=False)
    try:
        data, mode = _read(place, checkpoint, limits)
        edited = data if isinstance(data, ToolResult) else _edit(data, asked, limits)
        if isinstance(edited, ToolResult):
            return edited
        assert isinstance(data, bytes)
        replace(place, edited.data, mode, checkpoint)
    except OSError as exc:
        raise CallerError("invalid_path", f"{asked.path!r} cannot be edited: {(exc.strerror or '').lower()}") from exc
    finally:
        os.close(place.directory)
    path = "/".join(place.names)
    change = FileChange(
        path=path,
        before=hashlib.sha256(data).hexdigest(),
        after=hashlib.sha256(edited.data).hexdigest(),
        size=len(edited.data),
    )
    return ToolResult(text=_diff(paths.shown(place.names), data, edited), title=asked.path, change=change)


@attrs.frozen(slots=True)
class _Edited:
    data: bytes
    at: Sequence[int]  # where in the old content each replaced text began
    old: bytes
    new: bytes


def _read(place: paths.Place, checkpoint: Checkpoint, limits: Limits) -> tuple[bytes | ToolResult, int]:
    descriptor = paths.open_entry(place.directory, place.name)
    try:
        mode = os.fstat(descriptor).st_mode
        shown = paths.shown(place.names)
        data = bytearray()
        for block in blocks(descriptor, checkpoint):
            data += block
            if len(data) > limits.file_tool_bytes:
                return _failed(f"{shown!r} is over {limits.file_tool_bytes:,} bytes: too large to edit."), mode
        if is_binary(bytes(data[:SNIFF_BYTES])):
            return _failed(f"{shown!r} is a binary file; only text can be edited."), mode
        return bytes(data), mode
    finally:
        os.close(descriptor)


def _edit(data: bytes, asked: EditFile, limits: Limits) -> _Edited | ToolResult:
    try:
        old, new = asked.old_text.encode(), asked.new_text.encode()
    except UnicodeEncodeError:
        return _failed("The texts are not Unicode: one has half a character.")
    feeds, pairs = data.count(b"\n"), data.count(b"\r\n")
    if pairs and (pairs == feeds or old not in data):
        old, new = _with_pairs(old), _with_pairs(new)
    if old == new:
        return _failed("old_text and new_text are the same: nothing to do.")
    count = data.count(old)
    if not count:
        return _failed(f"old_text does not stand in {asked.path!r}, which has {feeds:,} lines; nothing was changed.")
    if count > 1 and not asked.replace_all:
        at, feed = _places(data, old, _PLACES_SHOWN), b"\n"
        lines = ", ".join(f"{1 + data.count(feed, 0, begin):,}" for begin in at)
        more = ", …" if count > len(at) else ""
        return _failed(
            f"old_text stands {count:,} times in {asked.path!r}, in the lines {lines}{more}; nothing was changed. Give "
            "more of what is around it, or set replace_all."
        )
    if len(data) + count * (len(new) - len(old)) > limits.file_tool_bytes:
        return _failed(f"{asked.path!r} would be over {limits.file_tool_bytes:,} bytes; nothing was changed.")
    return _Edited(data.replace(old, new), _places(data, old, _DIFF_PLACES), old, new)


def _with_pairs(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _places(data: bytes, text: bytes, most: int) -> list[int]:
    found: list[int] = []
    at = data.find(text)
    while at >= 0 and len(found) < most:
        found.append(at)
        at = data.find(text, at + len(text))
    return found


def _failed(text: str) -> ToolResult:
    return ToolResult(text=text, is_error=True)


# ------------------------------------------------------------ the diff
def _diff(path: str, data: bytes, edited: _Edited) -> str:
    """A unified diff of the first places. Made from the places, not by comparing: its cost is that of its lines."""
    shown = HeadTail(_DIFF_BYTES, _DIFF_LINES)
    shown.feed(f"--- {path}\n+++ {path}\n")
    growth = 0  # lines that the new content is ahead
    left = data.count(edited.old)
    hunks = _hunks(data, edited)
    limits = [*(begin for begin, _ in hunks[1:]), len(data)]  # context ends where the next hunk begins
    low = 0
    for (begin, end), high in zip(hunks, limits, strict=True):
        left -= data.count(edited.old, begin, end)
        old = data[begin:end].splitlines(keepends=True)
        new = data[begin:end].replace(edited.old, edited.new).splitlines(keepends=True)
        while old and new and old[-1] == new[-1]:
            end -= len(old.pop())
            new.pop()
        before, after = _before(data, low, begin), _after(data, end, high)
        low = end + sum(map(len, after))
        first = data.count(b"\n", 0, begin) + 1 - len(before)
        context = len(before) + len(after)
        shown.feed(f"@@ -{first},{len(old) + context} +{first + growth},{len(new) + context} @@\n")
        for mark, lines in ((b" ", before), (b"-", old), (b"+", new), (b" ", after)):
            for line in lines:
                shown.feed(mark + line[:_LINE_SHOWN].rstrip(b"\r\n") + b"\n")
        growth += len(new) - len(old)
    text = shown.result().removesuffix("\n")
    return f"{text}\n[{left:,} more places were changed]" if left else text


def _hunks(data: bytes, edited: _Edited) -> list[tuple[int, int]]:
    """Whole lines around the first places, from and to which byte; those that share a line are one."""
    # Where the last line end of a place goes, the next line belongs to the change.
    ends = len(edited.old) - (edited.old.endswith(b"\n") <= edited.new.endswith(b"\n"))
    hunks: list[tuple[int, int]] = []
    for at in edited.at:
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at + ends) + 1 or len(data)
        if hunks and begin < hunks[-1][1]:
            hunks[-1] = (hunks[-1][0], max(end, hunks[-1][1]))
        else:
            hunks.append((begin, end))
    return hunks


def _before(data: bytes, low: int, end: int) -> list[bytes]:
    """The lines before `end`, a few and not before `low`."""
    lines: list[bytes] = []
    while end > low and len(lines) < _CONTEXT_LINES:
        begin = max(low, data.rfind(b"\n", 0, end - 1) + 1)
        lines.insert(0, data[begin:end])
        end = begin
    return lines


def _after(data: bytes, begin: int, high: int) -> list[bytes]:
    lines: list[bytes] = []
    while begin < high and len(lines) < _CONTEXT_LINES:
        end = data.find(b"\n", begin, high) + 1 or high
        lines.append(data[begin:end])
        begin = end
    return lines
