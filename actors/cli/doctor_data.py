"""`greenroom doctor`: the data directory, what lies in it, and the address that the daemon will have."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from actors.cli.doctor_checks import Check, Result, failed, good, of, skipped, warning
from actors.cli.output import size
from actors.places import read_token, token_file
from engine.config import Config
from engine.errors import EngineError
from engine.limits import GIB, MIB, Limits
from engine.storage import database
from engine.storage.quick import look

# The database is looked through for so long: a reader keeps a daemon's log from being folded.
LOOK_SECONDS: Final = 5.0
# Below this much free space the outputs of one busy day may not fit; below that, hardly the next run.
_FREE_LOW: Final = 2 * GIB
_FREE_NONE: Final = 100 * MIB
_LOG_LARGE: Final = 256 * MIB
# SQLite's log needs memory that processes share: a network file system has none.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"})


def checks(folder: Path, limits: Limits) -> Iterator[Check]:
    yield of("data", "directory", lambda: directory(folder))
    yield of("data", "token", lambda: token(folder))
    yield of("data", "space", lambda: space(folder))
    yield of("data", "database", lambda: stored(folder))
    yield of("data", "logs", lambda: logs(folder, limits))


def directory(folder: Path) -> Result:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return _parent(folder)
    except OSError as exc:
        return failed(f"{folder}: {exc.strerror}", "correct --data or $GREENROOM_DATA")
    if not stat.S_ISDIR(found.st_mode):
        return failed(f"{folder} is no folder", "correct --data or $GREENROOM_DATA")
    if found.st_uid != os.geteuid():
        return failed(
            f"{folder} belongs to user {found.st_uid}, this is user {os.geteuid()}",
            f"run greenroom as its owner, or: chown -R {os.geteuid()} {folder}",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return failed(f"{folder} cannot be written", f"chmod 700 {folder} (or is the file system read-only?)")
    kind = _file_system(folder)
    if kind in _REMOTE:
        return failed(
            f"{folder} is on a network file system ({kind}), where SQLite's log does not work",
            "put the data directory on a local disk: --data or $GREENROOM_DATA",
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return warning(f"{folder} is open to other users (mode {mode:03o})", f"chmod 700 {folder}")
    return good(f"{folder} (mode 700{f', {kind}' if kind else ''})")


def _parent(folder: Path) -> Result:
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        return failed(
            f"{folder} is not there and cannot be made in {parent}", "choose another one: --data or $GREENROOM_DATA"
        )
    return good(f"{folder} is not there yet; the first start makes it")


def _file_system(folder: Path) -> str | None:
    """Of the mount that has the folder."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return None
    real = str(folder.resolve())
    # Spaces and the like stand as octal numbers there.
    places = [(fields[1].encode().decode("unicode_escape"), fields[2]) for fields in mounts if len(fields) > 2]
    over = [(place, kind) for place, kind in places if f"{real}/".startswith(place.rstrip("/") + "/")]
    return max(over, key=lambda found: len(found[0]))[1] if over else None


def token(folder: Path) -> Result:
    path = token_file(folder)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        there = read_token(path)
    except FileNotFoundError:
        return skipped("there is none yet; the first start makes it")
    except OSError as exc:
        return failed(f"{path}: {exc.strerror}", f"remove {path}: the next start makes a new one")
    if mode & 0o077:
        return failed(
            f"{path} can be read by other users (mode {mode:03o}): they can use the daemon",
            f"chmod 600 {path}; if somebody may have read it, remove it and start the daemon anew",
        )
    return good(f"{path} (mode 600)") if there else warning(f"{path} is empty", "the next start fills it")


def space(folder: Path) -> Result:
    parent = folder
    while not parent.exists():
        parent = parent.parent
    found = os.statvfs(parent)
    free = found.f_bavail * found.f_frsize
    text = f"{size(free)} free"
    advice = "make room, delete sessions (`greenroom sessions delete`), or move the data directory (--data)"
    if free < _FREE_NONE or (found.f_files and not found.f_favail):
        return failed(text if found.f_favail else f"{text}, but no file can be made: no inodes", advice)
    return warning(text, advice) if free < _FREE_LOW else good(text)


def stored(folder: Path) -> Result:
    path = folder / database.FILE_NAME
    if not path.exists():
        return skipped("there is none yet; the first start makes it")
    end = time.monotonic() + LOOK_SECONDS
    try:
        found = look(path, lambda: time.monotonic() > end)
    except EngineError as exc:
        return failed(exc.message, "look at it with: greenroom store check", "restore a backup if it is damaged")
    text = f"{size(path.stat().st_size)}, schema {found.schema}"
    if found.problems:
        return failed(
            f"{text}: it is damaged: {'; '.join(found.problems)}",
            "stop the daemon, keep a copy of the directory, and look at all of it: greenroom store check",
            "restore a backup (a data directory of its own: --data)",
        )
    if found.schema < found.newest:
        return good(f"{text}; the next start brings it to schema {found.newest}")
    if found.problems is None:
        return good(f"{text}; too large to be looked through in {LOOK_SECONDS:g} s (all of it: greenroom store check)")
    return good(f"{text}, its pages are whole")


def logs(folder: Path, limits: Limits) -> Result:
    """The database's own log, and that of a daemon that a command has started."""
    written = _size(folder / f"{database.FILE_NAME}-wal")
    said = _size(folder / "daemon.log")
    text = f"database {size(written)}, daemon.log {size(said)}"
    if written > limits.log_hard_bytes + 16 * MIB:
        return warning(
            f"{text}: the database's log is not folded",
            "some program has it open and reads for a long time: end it (fuser shows which)",
        )
    if said > _LOG_LARGE:
        return warning(text, f"cut it: truncate -s 0 {folder / 'daemon.log'} (the daemon goes on at its beginning)")
    return good(text)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


# ------------------------------------------------------------------ the address
def address(config: Config) -> Result:
    """Whether a daemon that starts now gets the address. For a moment it is taken, and nobody can connect."""
    listen = config.listen
    if listen.unix_path is not None:
        folder = Path(listen.unix_path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            return failed(f"{listen}: {folder} is no folder that can be written", "make it, or correct `listen`")
        return good(str(listen))
    try:
        found = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except OSError as exc:
        return failed(f"{listen}: {exc.strerror}", "correct `listen`")
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(where)
            except OSError as exc:
                return failed(
                    f"{listen}: {exc.strerror}",
                    "another program listens there (`ss -ltnp` shows which; systemd does for greenroom.socket, which "
                    "is as it should be): end it, or choose another port in `listen` (port 0 picks a free one)",
                )
    return good(f"{listen} is free" if listen.port else f"{listen}: a free port")
