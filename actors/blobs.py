"""The blobs of the store: kept while anything refers to them, removed afterwards.

A blob's file comes before the first row that refers to it, and a row may come late (when the run that made it
settles): until then the blob is pinned, by the run. What has neither a pin nor a row that refers to it is reaped:
after a session is deleted, after a run that ended without using what it had pinned, and at the start of the store for
what a crash has left.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeVar

import attrs
import trio

from actors._disk import Disk
from engine import ids
from engine.errors import PeerError
from engine.limits import DEFAULT, Limits
from engine.storage import attachments
from engine.storage.blobs import Blobs
from engine.storage.spool import SpoolFile
from engine.tools.spec import ToolResult, Whole
from engine.transcript.records import Blob, FilePart

_log = logging.getLogger("greenroom.store")
T = TypeVar("T")

# Files removed at a time: the lock is held for as long.
REAP_MOST: Final = 256
BLOB_THREADS: Final = 4


class BlobKeeper:
    """Of one open store. `on_unused` is called, synchronously, when `reap` may have something to do."""

    def __init__(self, blobs: Blobs, disk: Disk, on_unused: Callable[[], None], limits: Limits = DEFAULT) -> None:
        self.blobs = blobs
        self.limits = limits
        self._disk = disk
        self._on_unused = on_unused
        self._threads = trio.CapacityLimiter(BLOB_THREADS)
        self._pins: Counter[str] = Counter()
        self._suspects: set[str] = set()  # unpinned, and perhaps without a row
        # Held while files are removed: a blob that is pinned under it stays.
        self._reaping = trio.Lock()

    def pins(self) -> Pins:
        return Pins(self)

    async def pin(self, digest: str) -> None:
        async with self._reaping:
            self._pins[digest] += 1

    def unpin(self, digest: str) -> None:
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]
            self._suspects.add(digest)
            self._on_unused()

    async def take(self, file: SpoolFile) -> None:
        await self._run(functools.partial(self.blobs.take, file))

    async def read(self, digest: str, offset: int, size: int) -> bytes:
        return await self._run(functools.partial(self.blobs.read, digest, offset, size))

    async def add(self, digest: str, data: bytes) -> None:
        await self._run(functools.partial(self.blobs.add, digest, data))

    async def read_and_discard(self, file: SpoolFile, most: int) -> bytes:
        """The content of a file, at most so much of it."""

        def work() -> bytes:
            try:
                return file.read(0, most)
            finally:
                file.discard()

        return await self._run(work)

    async def hash(self, data: bytes) -> str:
        return await self._run(lambda: hashlib.sha256(data).hexdigest())

    async def sweep(self) -> None:
        """Reap what a dead daemon has left."""
        names = await self._run(self.blobs.names)
        while batch := await self._run(lambda: list(itertools.islice(names, REAP_MOST))):
            self._suspects.update(batch)
            while await self.reap():
                pass

    async def reap(self) -> bool:
        """Remove some of what is not referred to, and whether there may be more."""
        async with self._reaping:
            suspects = list(itertools.islice(self._suspects, REAP_MOST))
            self._suspects.difference_update(suspects)
            try:
                unused = await self._disk.read(functools.partial(attachments.unused, most=REAP_MOST + len(self._pins)))
                unknown = await self._disk.read(functools.partial(attachments.unknown, hashes=suspects))
                gone = [digest for digest in {*unused, *unknown} if digest not in self._pins]
                if gone:
                    await self._run(functools.partial(self.blobs.remove, gone))
                    await self._disk.write(functools.partial(attachments.forget, hashes=gone))
            except BaseException:
                self._suspects.update(suspects)
                raise
            return bool(self._suspects) or len(gone) >= REAP_MOST

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._threads)


class Pins:
    """The blobs that one owner has made and may come to refer to; they stay at least until `release`."""

    def __init__(self, keeper: BlobKeeper) -> None:
        self._keeper = keeper
        self._hashes: list[str] = []

    async def keep(self, result: ToolResult) -> ToolResult:
        """The result as a transcript can have it: its whole output is a blob, or missing and said to be if the disk
        refuses, its media are files."""
        if result.media:
            files = [await self.file(media.mime, media.name, media.data) for media in result.media]
            result = attrs.evolve(result, media=(), files=(*result.files, *files))
        if not isinstance(result.whole, SpoolFile):
            return result
        try:
            await self.take(result.whole)
        except PeerError as exc:
            # The line that says where the whole is (engine.tools.output) is longer than this one.
            note = f"[The whole output could not be kept because {exc.message}]"
            lines = result.text.split("\n")
            text = "\n".join(note if result.whole.handle in line else line for line in lines)
            return attrs.evolve(result, text=text, whole=None)
        return result

    async def file(self, mime: str, name: str, data: bytes | Whole) -> FilePart:
        """A file as a part: inline up to `limits.inline_media_bytes`, else a blob; if the disk refuses that, or it has
        more than `limits.media_bytes`, without its content. A spool file is taken or discarded."""
        limits = self._keeper.limits
        size = len(data) if isinstance(data, bytes) else data.size
        part = FilePart(id=ids.part_id(), mime=mime, size=size, name=name)
        try:
            if isinstance(data, SpoolFile):
                if limits.inline_media_bytes < size <= limits.media_bytes:
                    blob = await self.take(data)
                    return attrs.evolve(part, handle=blob.handle, hash=blob.hash)
                data = await self._keeper.read_and_discard(data, limits.inline_media_bytes)
            assert isinstance(data, bytes)
            if size <= limits.inline_media_bytes:
                return attrs.evolve(part, data_base64=base64.b64encode(data).decode())
            if size <= limits.media_bytes:
                blob = await self.add(data)
                return attrs.evolve(part, handle=blob.handle, hash=blob.hash)
        except PeerError as exc:
            _log.warning("a file of %d bytes was not kept: %s", size, exc)
        return part

    async def take(self, file: SpoolFile) -> Blob:
        """Make the file a blob. Raises PeerError disk_full; the file is discarded in any case.

        Cancelled, it is a blob that is pinned, or discarded."""
        try:
            blob = Blob(handle=file.handle, hash=file.hash, size=file.size)
            await self._pin(blob.hash)
            await self._keeper.take(file)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(file.discard)
            raise
        return blob

    async def add(self, data: bytes) -> Blob:
        """Make the bytes a blob. Raises PeerError disk_full."""
        digest = await self._keeper.hash(data)
        await self._pin(digest)
        await self._keeper.add(digest, data)
        return Blob(handle=ids.new_id("out"), hash=digest, size=len(data))

    def release(self) -> None:
        """What nothing refers to by now may go. Idempotent."""
        hashes, self._hashes = self._hashes, []
        for digest in hashes:
            self._keeper.unpin(digest)

    async def _pin(self, digest: str) -> None:
        await self._keeper.pin(digest)
        self._hashes.append(digest)
