"""Spool files: the whole outputs of tools on the disk, until a transcript refers to them or nobody needs them.

Each toolset has one directory, made with its first file and removed with all in it when the toolset stops. The
folder of all directories belongs to the daemon that holds the data directory (engine.storage.lock): whatever is there
at its start is of a dead one. Directories are 0700, files 0600; a file is opened once, when it is made, and no link
is followed to it.

Of one file, `claim` is called by the thread that owns the program's state, and says how much may be written; all else
is work with the disk, called in any thread, one call at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections import deque
from itertools import count
from pathlib import Path
from typing import Final

from engine import ids
from engine.errors import PeerError
from engine.limits import DEFAULT, Limits

FOLDER_NAME: Final = "spool"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Spool:
    """All spool files of a daemon, at most `limits.spool_bytes` together. `sweep` comes first."""

    def __init__(self, folder: Path, limits: Limits = DEFAULT) -> None:
        self.folder = folder
        self.limits = limits
        self._claimed = 0
        # Appended to and taken from by any thread: sizes of files that are gone, and files that were forgotten.
        self._freed: deque[int] = deque()
        self._forgotten: deque[tuple[Path, int]] = deque()

    @property
    def used(self) -> int:
        """Bytes of all files, written or claimed. For the thread that claims."""
        while self._freed:
            self._claimed -= self._freed.popleft()
        return self._claimed

    def sweep(self) -> None:
        """Make the folder, empty. Raises PeerError disk_full."""
        try:
            self.remove()
            self.folder.mkdir(mode=0o700)
        except OSError as exc:
            raise _refused(exc) from exc

    def remove(self) -> None:
        """Remove the folder with all in it. Raises OSError."""
        if self.folder.is_symlink():
            self.folder.unlink()
        elif self.folder.exists():
            shutil.rmtree(self.folder)

    def directory(self, name: str) -> SpoolDirectory:
        """The directory of the toolset `name`; made with its first file."""
        return SpoolDirectory(self, name)

    def room(self, size: int) -> int:
        return max(0, min(size, self.limits.spool_bytes - self.used))

    def claim(self, size: int) -> None:
        self._claimed += size

    def free(self, size: int) -> None:
        self._freed.append(size)

    def forget(self, path: Path, size: int) -> None:
        self._forgotten.append((path, size))

    def remove_forgotten(self) -> None:
        """Remove the files whose owner has gone without a word."""
        while self._forgotten:
            path, size = self._forgotten.popleft()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self.free(size)


class SpoolDirectory:
    def __init__(self, spool: Spool, name: str) -> None:
        self.spool = spool
        self._name = name
        self._path: Path | None = None
        self._numbers = count(1)

    def create(self) -> SpoolFile:
        """A new file. Raises PeerError disk_full."""
        self.spool.remove_forgotten()
        try:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix=f"{self._name}-", dir=self.spool.folder))  # 0700
            path = self._path / str(next(self._numbers))
            return SpoolFile(self.spool, path, os.open(path, _FLAGS, 0o600))
        except OSError as exc:
            raise _refused(exc) from exc

    def remove(self) -> None:
        """Remove the directory with all in it; a later file makes another one. Raises OSError."""
        path, self._path = self._path, None
        self.spool.remove_forgotten()
        if path is not None:
            shutil.rmtree(path)


class SpoolFile:
    """A file being written, then read; `handle` is the name that the model and clients know it by.

    It belongs to who holds it: `discard`, or `moved` after it was renamed. One that is forgotten is removed when the
    next one is made, or with its directory.
    """

    def __init__(self, spool: Spool, path: Path, descriptor: int) -> None:
        self.path = path
        self.handle = ids.new_id("out")
        self.size = 0  # bytes written
        self._spool = spool
        self._descriptor: int | None = descriptor
        self._most = spool.limits.spool_file_bytes
        self._claimed = 0
        self._hash = hashlib.sha256()
        self._gone = False

    @property
    def hash(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._hash.hexdigest()

    def claim(self, size: int) -> int:
        """How many of the next `size` bytes may be written, by the bounds of a file and of all together."""
        allowed = self._spool.room(min(size, self._most - self._claimed))
        self._claimed += allowed
        self._spool.claim(allowed)
        return allowed

    def write(self, data: bytes) -> None:
        """Write what was claimed. Raises PeerError disk_full; then the file is to be discarded."""
        assert self._descriptor is not None, "the file is closed"
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self._hash.update(view[:written])
                self.size += written
                view = view[written:]
        except OSError as exc:
            raise _refused(exc) from exc

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on; fewer at the end of what was written. Raises PeerError disk_full."""
        assert self._descriptor is not None, "the file is closed"
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as exc:
            raise _refused(exc) from exc

    def sync(self) -> None:
        """What was written survives a power cut. Raises OSError."""
        assert self._descriptor is not None, "the file is closed"
        os.fsync(self._descriptor)

    def discard(self) -> None:
        """Close and remove the file. Idempotent."""
        if not self._gone:
            self._close()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._spool.free(self._claimed)

    def moved(self) -> None:
        """The file has got another name and owner: it no longer counts here."""
        if not self._gone:
            self._close()
            self._spool.free(self._claimed)

    def _close(self) -> None:
        self._gone = True
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        if not self._gone:
            self._close()
            self._spool.forget(self.path, self._claimed)


def _refused(exc: OSError) -> PeerError:
    # Models read this: no path is in it.
    return PeerError("disk_full", f"the disk refuses it ({exc.strerror or 'it failed'})", retry=True)
