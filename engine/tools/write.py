"""The tool `write_file`, and how every tool replaces a file: whole or not at all.

The content goes to a new file in the same folder, which has no name where the file system allows that, reaches the
disk, and takes the name. Whoever reads meanwhile sees the old content or the new one; when the disk is full, the call
is cancelled or the daemon killed, the old one stays. The mode is kept, the owner and other hard links are not. All of
it happens in the directory that was opened inside the session's folder, so that no link made meanwhile leads it
elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import Final

import attrs

from engine.errors import CallerError
from engine.limits import DEFAULT, Limits
from engine.tools import paths
from engine.tools.read import BLOCK_BYTES, Checkpoint, blocks
from engine.tools.schema import input_schema
from engine.tools.spec import FileChange, ToolResult, ToolSpec

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMELESS: Final = os.O_WRONLY | getattr(os, "O_TMPFILE", 0) | os.O_CLOEXEC
_DESCRIPTORS: Final = "/proc/self/fd"
_MODE_NEW: Final = 0o666  # less the process's umask


@attrs.frozen(slots=True, kw_only=True)
class WriteFile:
    path: str = attrs.field(metadata={"description": "The file, relative to the session's folder or absolute in it."})
    content: str = attrs.field(metadata={"description": "All that the file will hold."})


WRITE_FILE: Final = ToolSpec(
    name="write_file",
    description="Write a text file of the session's folder: a new one, with the folders that it needs, or in place of "
    "what is there. To change a part of a file, edit_file is better.",
    input_schema=input_schema(WriteFile),
)


def write_file(folder: str, asked: WriteFile, checkpoint: Checkpoint, limits: Limits = DEFAULT) -> ToolResult:
    """Raises CallerError("invalid_path"): then the file is as it was, and at most empty folders are new."""
    try:
        data = asked.content.encode()
    except UnicodeEncodeError:
        return ToolResult(text="The content is not Unicode text: it has half a character.", is_error=True)
    if len(data) > limits.tool_input_bytes:
        return ToolResult(text=f"The content is over {limits.tool_input_bytes:,} bytes.", is_error=True)
    place = paths.open_place(folder, asked.path)
    try:
        before = None
        mode = None
        with contextlib.suppress(FileNotFoundError):
            before, mode = _hash(place, checkpoint)
        replace(place, data, mode, checkpoint)
    except OSError as exc:
        raise CallerError("invalid_path", f"{asked.path!r} cannot be written: {exc.strerror}") from exc
    finally:
        os.close(place.directory)
    change = FileChange(
        path="/".join(place.names), before=before, after=hashlib.sha256(data).hexdigest(), size=len(data)
    )
    said = "is new" if before is None else "was replaced" if before != change.after else "had this content already"
    return ToolResult(text=f"{asked.path!r} {said}: {len(data):,} bytes.", title=asked.path, change=change)


def replace(place: paths.Place, data: bytes, mode: int | None, checkpoint: Checkpoint) -> None:
    """Put `data` at a place, with the mode of what it replaces. Raises OSError: then nothing has changed.

    After a power cut there is the old content or the new one. A temporary file is left behind only by SIGKILL between
    the two calls that give the content its name, or on a file system without files that have none.
    """
    temporary = f".greenroom-{secrets.token_hex(8)}.tmp"
    descriptor, named = _create(place.directory, temporary, _MODE_NEW if mode is None else stat.S_IRUSR | stat.S_IWUSR)
    try:
        try:
            for begin in range(0, len(data), BLOCK_BYTES):
                checkpoint()
                _write(descriptor, data[begin : begin + BLOCK_BYTES])
            if mode is not None:
                os.fchmod(descriptor, mode & 0o777)
            os.fsync(descriptor)
            checkpoint()
            if not named:
                os.link(f"{_DESCRIPTORS}/{descriptor}", temporary, dst_dir_fd=place.directory, follow_symlinks=True)
        finally:
            os.close(descriptor)
        os.replace(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=place.directory)
        raise


def _create(directory: int, name: str, mode: int) -> tuple[int, bool]:
    """A descriptor of a new file, and whether it has the name already. Raises OSError."""
    if _NAMELESS & os.O_DIRECTORY and os.path.isdir(_DESCRIPTORS):  # of which O_TMPFILE is a part
        try:
            return os.open(".", _NAMELESS, mode, dir_fd=directory), False
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
    return os.open(name, _NEW, mode, dir_fd=directory), True


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _hash(place: paths.Place, checkpoint: Checkpoint) -> tuple[str, int]:
    """SHA-256 and mode of what is there."""
    descriptor = paths.open_entry(place.directory, place.name)
    try:
        digest = hashlib.sha256()
        for block in blocks(descriptor, checkpoint):
            digest.update(block)
        return digest.hexdigest(), os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
