"""Who holds a data directory, and the end of a process that was asked to end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from pathlib import Path
from typing import Final

from engine.storage.lock import FILE_NAME

_LOCKS: Final = Path("/proc/locks")
_LOOK: Final = 0.05
_PID_BYTES: Final = 32


def holder(folder: Path) -> int | None:
    """The process that holds the data directory's lock, None if nobody does.

    Linux tells without touching the lock. Elsewhere it is taken for a moment, shared: a daemon that starts in just
    that moment is refused, and has to be started again.
    """
    try:
        with open(folder / FILE_NAME, "rb") as file:
            said = file.read(_PID_BYTES).strip()
            pid = int(said) if said.isdigit() else 0
            if not _LOCKS.exists():
                return _probe(file.fileno(), pid)
            inode = os.fstat(file.fileno()).st_ino
    except OSError:
        return None
    for entry in _LOCKS.read_text().splitlines():
        # `1: FLOCK  ADVISORY  WRITE 4242 08:01:131090 0 EOF`
        fields = entry.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode) and fields[4] == str(pid):
            return pid
    return None


def _probe(descriptor: int, pid: int) -> int | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return None


def end(folder: Path, pid: int, seconds: float) -> bool:
    """Send SIGTERM to the holder of the directory and wait until it has ended; False if that takes longer.

    Where there are process descriptors, a process that gets the holder's number after it cannot be hit.
    """
    if not hasattr(os, "pidfd_open"):
        return _end_by_number(folder, pid, seconds)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if holder(folder) != pid:
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        ended, _, _ = select.select([descriptor], [], [], seconds)
        return bool(ended)
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)


def _end_by_number(folder: Path, pid: int, seconds: float) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while holder(folder) == pid:
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)
    return True
