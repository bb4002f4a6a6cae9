"""The lock of a data directory: one daemon at a time.

The lock is the kernel's (flock), so that it ends with its holder, however that dies; the file's content, the
holder's pid, is only for the message that the second one shows. The file stays: removing it would let two
processes lock two files of one name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.errors import PeerError

FILE_NAME: Final = "lock"
_PID_BYTES: Final = 32  # longest pid, with room


class Held(Exception):
    """Another daemon has the data directory. `pid` is its process, None if it did not say."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        super().__init__(f"the data directory {folder} is held by another daemon (pid {pid or 'unknown'})")
        self.folder = folder
        self.pid = pid


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the directory's lock while the block runs; taken without waiting. The directory exists.

    Raises Held, or PeerError disk_full if the directory cannot be used. Child processes do not inherit the lock.
    """
    descriptor = _acquire(folder)
    try:
        yield
    finally:
        os.close(descriptor)  # this is what unlocks


def _acquire(folder: Path) -> int:
    try:
        descriptor = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _unusable(folder, exc) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, _PID_BYTES, 0).strip()
        os.close(descriptor)
        raise Held(folder, int(holder) if holder.isdigit() else None) from None
    except OSError as exc:
        os.close(descriptor)
        raise _unusable(folder, exc) from exc
    return descriptor


def _unusable(folder: Path, exc: OSError) -> PeerError:
    return PeerError("disk_full", f"the data directory {folder} cannot be used: {exc.strerror or exc}")
