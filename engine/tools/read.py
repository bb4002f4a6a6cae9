"""The tool `read_file`: lines of a text file of the session's folder, bounded while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Annotated, Final

import attrs

from engine import codec
from engine.errors import CallerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools import paths
from engine.tools.schema import input_schema
from engine.tools.spec import Media, ToolResult, ToolSpec

Checkpoint = Callable[[], None]  # raises when the call is cancelled

# Read at a time: `checkpoint` is called before each block, so a cancelled call ends within one.
BLOCK_BYTES: Final = 64 * KIB
# A NUL in the first part of a file makes it binary (the rule of git and grep).
SNIFF_BYTES: Final = 8 * KIB
# What models take (the services of openai and anthropic); WebP has its mark behind a length.
_IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
# Room for the last line of the result, which says what was not shown.
_NOTE_ROOM: Final = 256

Line = Annotated[int, codec.Check("1 or more", lambda value: value >= 1)]


@attrs.frozen(slots=True, kw_only=True)
class ReadFile:
    path: str = attrs.field(metadata={"description": "The file, relative to the session's folder or absolute in it."})
    offset: Line = attrs.field(default=1, metadata={"description": "The first line to show, counted from 1."})
    limit: Line | None = attrs.field(
        default=None, metadata={"description": "How many lines to show; by default as many as fit the result."}
    )


READ_FILE: Final = ToolSpec(
    name="read_file",
    description="Read a text file of the session's folder. Long files come in parts: the last line of the result "
    "says how to read on. Small images are shown, other binary files are refused.",
    input_schema=input_schema(ReadFile),
)


def read_file(folder: str, asked: ReadFile, checkpoint: Checkpoint, limits: Limits = DEFAULT) -> ToolResult:
    """The lines asked for, and in brackets how to read on. Raises CallerError("invalid_path").

    Invalid UTF-8 is shown as U+FFFD. Holds one block and one result, however long the file and its lines are.
    Lines after those shown are counted through `limits.file_tool_bytes` more, beyond it the total is left open.
    """
    descriptor = paths.open_file(folder, asked.path)
    page = _Page(asked, limits)
    feeds = 0  # line feeds so far; line n begins after n - 1 of them
    after = 0  # bytes read since the page is full
    last = b""
    try:
        for block in blocks(descriptor, checkpoint):
            if not last and is_binary(block):
                size = os.fstat(descriptor).st_size
                if (mime := image_type(block)) is not None:
                    return _image(descriptor, asked.path, mime, block, size, limits)
                text = f"{asked.path!r} is a binary file of {size:,} bytes; only text can be read."
                return ToolResult(text=text, is_error=True)
            before, feeds, last = feeds, feeds + block.count(b"\n"), block[-1:]
            if page.full:
                after += len(block)
                if after > limits.file_tool_bytes:
                    return page.result(feeds, complete=False)
            elif feeds >= asked.offset - 1:
                page.take(block, _after_feeds(block, asked.offset - 1 - before))
    except OSError as exc:
        raise CallerError("invalid_path", f"{asked.path!r} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    return page.result(feeds + (last not in (b"", b"\n")), complete=True)


def blocks(descriptor: int, checkpoint: Checkpoint) -> Iterator[bytes]:
    """The rest of a file in blocks; `checkpoint` is called before each."""
    while True:
        checkpoint()
        block = os.read(descriptor, BLOCK_BYTES)
        if not block:
            return
        yield block


def is_binary(head: bytes) -> bool:
    return b"\0" in head[:SNIFF_BYTES]


def image_type(head: bytes) -> str | None:
    """The MIME type of an image that models take, by its first bytes."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for signature, mime in _IMAGES if head.startswith(signature)), None)


def _image(descriptor: int, path: str, mime: str, head: bytes, size: int, limits: Limits) -> ToolResult:
    """An image up to `limits.inline_media_bytes`, of which `head` has been read; of a larger one only a note."""
    data = head
    while len(data) <= limits.inline_media_bytes:
        block = os.read(descriptor, limits.inline_media_bytes + 1 - len(data))
        if not block:
            name = os.path.basename(path)
            text = f"{path!r} is an image: {mime}, {len(data):,} bytes."
            return ToolResult(text=text, title=path, media=(Media(mime=mime, name=name, data=data),))
        data += block
    text = f"{path!r} is an image: {mime}, {size:,} bytes. It is not shown: the bound is {limits.inline_media_bytes:,}."
    return ToolResult(text=text, title=path)


def _after_feeds(block: bytes, feeds: int) -> int:
    position = 0
    for _ in range(feeds):
        position = block.index(b"\n", position) + 1
    return position


class _Page:
    """The lines shown: whole ones while there is room; a first line that is too long is cut, its rest counted."""

    def __init__(self, asked: ReadFile, limits: Limits) -> None:
        self.full = False
        self._asked = asked
        self._room = limits.tool_result_bytes - _NOTE_ROOM
        self._lines_max = min(asked.limit or limits.tool_result_lines, limits.tool_result_lines - 1)
        # Of a line as much is held as could be shown, and a character more to cut at.
        self._held_max = min(self._room, limits.tool_memory_bytes) + 4
        self._line = bytearray()
        self._line_size = 0
        self._shown: list[str] = []
        self._cut = 0  # bytes of the first line that are not shown

    def take(self, block: bytes, begin: int) -> None:
        """Take lines from `begin` on, which follows what was taken before."""
        while not self.full and begin < len(block):
            feed = block.find(b"\n", begin)
            end = feed if feed >= 0 else len(block)
            self._line += block[begin : min(end, begin + self._held_max - len(self._line))]
            self._line_size += end - begin
            begin = end + 1
            if feed >= 0:
                self._end_line()

    def result(self, lines: int, *, complete: bool) -> ToolResult:
        """`lines` are those of the whole file if it was read to its end (`complete`), else those counted."""
        if self._line_size and not self.full:
            self._end_line()
        path, first = self._asked.path, self._asked.offset
        if not self._shown:
            text = f"{path!r} is empty." if not lines else f"{path!r} has {lines:,} lines: there is no line {first:,}."
            return ToolResult(text=text, title=path, is_error=lines > 0)
        final = first + len(self._shown) - 1
        notes = [f"{self._cut:,} more bytes of line {final:,} are cut"] if self._cut else []
        if first > 1 or final < lines:
            notes.append(f"lines {first:,} to {final:,} of {'' if complete else 'more than '}{lines:,}")
        if final < lines:
            notes.append(f"read on with offset {final + 1}")
        if notes:
            self._shown.append(f"[{'; '.join(notes)}]")
        return ToolResult(text="\n".join(self._shown), title=path)

    def _end_line(self) -> None:
        text = self._line.decode(errors="replace")
        size = len(text.encode()) + 1
        if self._line_size > len(self._line) or size > self._room:
            self.full = True
            if not self._shown:
                self._show_cut()
        else:
            self._shown.append(text)
            self._room -= size
            self.full = len(self._shown) >= self._lines_max
        self._line.clear()
        self._line_size = 0

    def _show_cut(self) -> None:
        end = min(self._room, len(self._line) - 4)
        while True:
            for _ in range(3):  # back to where a character begins
                end -= end > 0 and self._line[end] & 0xC0 == 0x80
            text = self._line[:end].decode(errors="replace")
            over = len(text.encode()) - self._room
            if over <= 0:
                break
            end -= (over + 2) // 3  # a byte is shown by three at most: U+FFFD
        self._shown.append(text)
        self._cut = self._line_size - end
