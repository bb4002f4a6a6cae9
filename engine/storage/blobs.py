"""Blobs: bulky content as files in the data directory, named by their SHA-256, each once however often it is used.

A file is whole and synced before it gets its name, and has its name before a row of the database refers to it
(engine.storage.attachments); it is removed after the last such row. So a crash leaves files that nothing refers to,
never a reference to nothing: `names` lists what is there, for a sweep at the next start.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from engine.errors import PeerError
from engine.storage.spool import SpoolFile

FOLDER_NAME: Final = "blobs"
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NEW: Final = ".new-"


def is_name(text: str) -> bool:
    """Whether a file of this name is a blob."""
    return _HASH.fullmatch(text) is not None


class Blobs:
    """The files of one data directory, which this process has locked; their folder (0700) is made with the first.
    Used in threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, file: SpoolFile) -> None:
        """Make a spool file a blob, by its hash. Raises PeerError disk_full; then the file is still the caller's."""
        with _translated():
            path = self._path(file.hash)
            if not self._there(path, file.size):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                file.sync()
                self._name(file.path, path)
                file.moved()
        file.discard()  # of equal content there is one

    def add(self, digest: str, data: bytes) -> None:
        """Make `data`, of this hash, a blob. Raises PeerError disk_full."""
        if not self._there(self._path(digest), len(data)):
            with self.adding(digest) as put:
                put(data)

    @contextlib.contextmanager
    def adding(self, digest: str) -> Iterator[Callable[[bytes], object]]:
        """A function that takes the content of a new blob in pieces; the blob is made when the block ends, and not if
        it raises. That the content has this hash is the caller's word. Raises PeerError disk_full."""
        path = self._path(digest)
        with _translated():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_NEW, dir=self._folder)  # 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file.write
                    file.flush()
                    os.fsync(file.fileno())
                self._name(Path(name), path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on, fewer at the end. Raises PeerError disk_full for a file that is
        gone or cannot be read."""
        with _translated():
            descriptor = os.open(self._path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)

    def has(self, digest: str, size: int) -> bool:
        """Whether the blob is there, with as many bytes."""
        return self._there(self._path(digest), size)

    def remove(self, hashes: Iterable[str]) -> None:
        """Remove the blobs, those that are there. Raises PeerError disk_full."""
        with _translated():
            for digest in hashes:
                self._path(digest).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """The hashes of all files. What is half made is removed on the way."""
        with _translated():
            for name in os.listdir(self._folder) if self._folder.exists() else ():
                if name.startswith(_NEW):
                    (self._folder / name).unlink(missing_ok=True)
                elif _HASH.fullmatch(name):
                    yield name

    def _path(self, digest: str) -> Path:
        assert _HASH.fullmatch(digest), "no hash"
        return self._folder / digest

    @staticmethod
    def _there(path: Path, size: int) -> bool:
        with contextlib.suppress(OSError):
            return path.stat().st_size == size
        return False

    def _name(self, temporary: Path, path: Path) -> None:
        """Give a synced file its name, durably."""
        os.rename(temporary, path)
        _sync(self._folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise PeerError("disk_full", f"the disk refuses it ({exc.strerror or 'it failed'})", retry=True) from exc
