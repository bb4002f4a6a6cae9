"""Confinement: opening files of the session's folder and nothing else, without a gap between check and use.

A path is walked component by component from the folder's own descriptor, never following a link by the kernel's
hand. Links are read and resolved here, so that each step is either inside or refused; what somebody renames or
links meanwhile cannot lead out, because every step starts at an open directory that was inside. Devices, FIFOs and
sockets are refused before they are opened, and once more on the open descriptor, which never blocks.

Every refusal is CallerError("invalid_path") and names the path as it was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterable
from typing import Final, NoReturn

import attrs

from engine.errors import CallerError

# PATH_MAX and the links that Linux follows in one path (path_resolution(7)).
PATH_BYTES_MAX: Final = 4096
_LINKS_MAX: Final = 40
# Open directories of one walk: eight walks at once stay below the usual 1,024 descriptors of a process.
DEPTH_MAX: Final = 64

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAME_SHOWN: Final = 200  # characters of a path that an error repeats


class NotRegular(OSError):
    """What stands at the name is neither a regular file nor (where one may be) a directory."""


def check_folder(folder: str) -> None:
    """Refuse what cannot be a session's folder: it has to be a directory that this process may open."""
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except (OSError, ValueError) as exc:  # ValueError: a NUL, or a character that no file name can have
        refuse(folder, f"cannot be the session's folder: {getattr(exc, 'strerror', None) or 'it is no path'}")


def open_file(folder: str, path: str) -> int:
    """A descriptor of the regular file `path` of `folder`, for reading; the caller closes it."""
    descriptor, _ = open_path(folder, path)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        refuse(path, "is a directory")
    return descriptor


def read_whole(folder: str, path: str, size_max: int) -> bytes:
    """The content of the regular file `path` of `folder`, at most `size_max` + 1 bytes of it: one too many tells
    that there is more."""
    descriptor = open_file(folder, path)
    try:
        data = b""
        while len(data) <= size_max and (piece := os.read(descriptor, size_max + 1 - len(data))):
            data += piece
    except OSError as exc:
        refuse(path, f"cannot be read: {exc.strerror}")
    finally:
        os.close(descriptor)
    return data


@attrs.frozen(slots=True)
class Place:
    """Where a file is or will be: a name in an open directory, and both as components below the folder."""

    directory: int  # a descriptor, for its taker to close
    name: str
    names: tuple[str, ...]


def open_place(folder: str, path: str, *, make: bool = True) -> Place:
    """Where the file `path` of `folder` is to be written. With `make` it may be missing, and folders are made.

    What stands at the place is a regular file, or with `make` nothing. Links are resolved, also the last one, so
    that nothing is written through one to outside. The caller closes `directory`.
    """
    if path.endswith(("/", "/.")):
        refuse(path, "names a folder, not a file")
    walk = _Walk(folder, path)
    try:
        return walk.place(make=make)
    except NotRegular as exc:
        refuse(path, str(exc.strerror))
    except OSError as exc:
        refuse(path, (exc.strerror or type(exc).__name__).lower())
    finally:
        walk.close()


def open_path(folder: str, path: str) -> tuple[int, tuple[str, ...]]:
    """A descriptor of the regular file or directory `path`, and where it really is: components below `folder`.

    `folder` is absolute; `path` is relative to it, or absolute and inside. The caller closes the descriptor.
    """
    walk = _Walk(folder, path)
    try:
        return walk.run()
    except NotRegular as exc:
        refuse(path, str(exc.strerror))
    except OSError as exc:
        refuse(path, (exc.strerror or type(exc).__name__).lower())
    finally:
        walk.close()


def open_entry(directory: int, name: str) -> int:
    """A descriptor of the regular file `name` of an open directory; links are not followed. The caller closes it.

    Raises OSError, of which NotRegular says that it is another kind of thing.
    """
    # Some devices act when they are opened, so look first. The second look is at what was really opened.
    _require_regular(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    descriptor = os.open(name, _FILE, dir_fd=directory)
    try:
        _require_regular(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_directory(directory: int, name: str) -> int:
    """A descriptor of the directory `name` of an open directory; links are not followed. The caller closes it."""
    return os.open(name, _DIRECTORY, dir_fd=directory)


def shown(names: Iterable[str]) -> str:
    """A path for people and models: what is not Unicode, and control characters (a line end would forge a line)."""
    text = "/".join(names).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def refuse(path: str, why: str) -> NoReturn:
    shown = path if len(path) <= _NAME_SHOWN else path[:_NAME_SHOWN] + "…"
    raise CallerError("invalid_path", f"{shown!r} {why}") from None


class _Walk:
    """One walk: the open directories from the folder to where it stands, and the components still to go."""

    def __init__(self, folder: str, path: str) -> None:
        assert os.path.isabs(folder), "the session's folder is absolute"
        self._path = path
        self._folders = tuple(dict.fromkeys(_parts(form) for form in (folder, os.path.realpath(folder))))
        self._links = 0
        self._ahead = deque(self._inside(path))
        self._names: list[str] = []
        self._open: list[int] = []
        try:
            self._open.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as exc:
            refuse(folder, f"cannot be opened as the session's folder: {exc.strerror}")

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    def run(self) -> tuple[int, tuple[str, ...]]:
        name = self._to_last(make=False)
        if name is None:
            return self._open.pop(), tuple(self._names)
        return open_entry(self._open[-1], name), (*self._names, name)

    def place(self, *, make: bool) -> Place:
        name = self._to_last(make=make)
        if name is None:
            refuse(self._path, "is a directory")
        return Place(self._open.pop(), name, (*self._names, name))

    def _to_last(self, *, make: bool) -> str | None:
        """Go to the folder of the last component, which is returned; None: it is a folder, and entered. With `make`
        the last component may be missing, and folders are made."""
        while self._ahead:
            name = self._ahead.popleft()
            if name == "..":
                if not self._names:
                    refuse(self._path, "leads out of the session's folder")
                self._names.pop()
                os.close(self._open.pop())
                continue
            mode = self._mode(name, make=make)
            if mode is None:
                return name
            if stat.S_ISLNK(mode):
                self._follow(name)
            elif stat.S_ISDIR(mode):
                self._require_depth(len(self._open) + 1)
                self._open.append(open_directory(self._open[-1], name))
                self._names.append(name)
            elif self._ahead:
                refuse(self._path, f"cannot exist: {name!r} is not a directory")
            else:
                _require_regular(mode)
                return name
        return None

    def _mode(self, name: str, *, make: bool) -> int | None:
        """What stands at the name. A missing folder is made; None: the last component is missing, and may be."""
        try:
            return os.stat(name, dir_fd=self._open[-1], follow_symlinks=False).st_mode
        except FileNotFoundError:
            if not make or ".." in self._ahead:
                raise
            if not self._ahead:
                return None
        self._require_depth(len(self._open) + len(self._ahead))  # before the first is made
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._open[-1])
        return stat.S_IFDIR  # if it is something else by now, it cannot be opened as one

    def _require_depth(self, depth: int) -> None:
        if depth > DEPTH_MAX:
            refuse(self._path, f"is more than {DEPTH_MAX} folders deep")

    def _follow(self, name: str) -> None:
        self._links += 1
        if self._links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(name, dir_fd=self._open[-1])
        if target.startswith("/"):
            while self._names:
                self._names.pop()
                os.close(self._open.pop())
        self._ahead.extendleft(reversed(self._inside(target)))
        if sum(len(part) for part in self._ahead) > PATH_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def _inside(self, path: str) -> tuple[str, ...]:
        """The components of a path; of an absolute one those below the folder."""
        if not path:
            refuse(self._path, "is empty")
        if "\0" in path:
            refuse(self._path, "has a NUL character")
        try:
            size = len(os.fsencode(path))
        except UnicodeEncodeError:
            refuse(self._path, "has a character that no file name can have")
        if size > PATH_BYTES_MAX:
            refuse(self._path, f"is longer than {PATH_BYTES_MAX} bytes")
        parts = _parts(path)
        if not path.startswith("/"):
            return parts
        for folder in self._folders:
            if parts[: len(folder)] == folder:
                return parts[len(folder) :]
        refuse(self._path, "leads out of the session's folder")


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _require_regular(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    raise NotRegular(errno.EINVAL, f"is {kind(mode)}, not a regular file")


def kind(mode: int) -> str:
    """What is no regular file, in words."""
    kinds = (
        (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
        (stat.S_ISDIR, "a directory"), (stat.S_ISLNK, "a link"),
    )  # fmt: skip
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")
