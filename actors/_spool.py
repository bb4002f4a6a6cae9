"""Outputs of tools on their way to the disk: what engine.tools.output collects is written in worker threads.

    async with spool.output() as output:          # spool: the toolset's
        async for data in stream:
            await output.feed(data)
        collected = await output.finish()

A disk that refuses, or a bound that is reached, ends what is kept and never the call: the text says so. Threads are
the spool's own, so that a disk that hangs holds up nobody who does not write to it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import attrs
import trio

from engine.errors import PeerError
from engine.limits import DEFAULT, Limits
from engine.storage.spool import FOLDER_NAME, Spool, SpoolDirectory, SpoolFile
from engine.tools.output import OutputCollector

_log = logging.getLogger("greenroom.spool")
T = TypeVar("T")

# Writes at the same time: they are copies to the system's cache, and more would wait for the same disk.
SPOOL_THREADS: Final = 4


@attrs.frozen(slots=True)
class Collected:
    """What a tool gave: `text` as the model sees it; `whole` is its file if that is more, and the taker's to discard.
    `size` in bytes."""

    text: str
    size: int
    whole: SpoolFile | None = None


class Spools:
    """The spool of a data directory, which this process has locked."""

    def __init__(self, folder: Path, limits: Limits = DEFAULT) -> None:
        self._spool = Spool(folder / FOLDER_NAME, limits)
        self._limits = limits
        self._threads = trio.CapacityLimiter(SPOOL_THREADS)

    @property
    def used(self) -> int:
        """Bytes of all spool files."""
        return self._spool.used

    async def open(self) -> None:
        """Remove what a dead daemon has left. Raises PeerError disk_full."""
        await self._run(self._spool.sweep)

    async def aclose(self) -> None:
        """Remove all. Shielded; a disk that does not let it is logged, the next start removes it."""
        with trio.CancelScope(shield=True):
            try:
                await self._run(self._spool.remove)
            except OSError as exc:
                _log.warning("spool files could not be removed: %s", exc)

    def of_toolset(self, name: str) -> ToolsetSpool:
        return ToolsetSpool(self._spool.directory(name), self._limits, self._threads)

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._threads)


@contextlib.asynccontextmanager
async def open_spools(folder: Path, limits: Limits = DEFAULT) -> AsyncIterator[Spools]:
    """The spool of a data directory while the block runs: empty before and after. Raises PeerError disk_full."""
    spools = Spools(folder, limits)
    await spools.open()
    try:
        yield spools
    finally:
        await spools.aclose()


class ToolsetSpool:
    """The one directory of a toolset. Its owner calls `aclose` when the toolset has stopped; it can be used again."""

    def __init__(self, directory: SpoolDirectory, limits: Limits, threads: trio.CapacityLimiter) -> None:
        self._directory = directory
        self._limits = limits
        self._threads = threads

    def output(self) -> Output:
        """The collector of one call's output."""
        return Output(self, self._limits)

    async def file(self) -> SpoolWriter:
        """A file for what is no output to be shown, such as media. Raises PeerError disk_full."""
        return SpoolWriter(self, await self.run(self._directory.create))

    async def aclose(self) -> None:
        """Remove the directory with all in it. Shielded."""
        with trio.CancelScope(shield=True):
            try:
                await self.run(self._directory.remove)
            except OSError as exc:
                _log.warning("spool files could not be removed: %s", exc)

    async def run(self, work: Callable[[], T]) -> T:
        """Work with the disk in a thread. Not abandoned when cancelled: what it has begun, it ends."""
        return await trio.to_thread.run_sync(work, limiter=self._threads)


class SpoolWriter:
    """A spool file and the threads that write it. `file` is the taker's to discard."""

    def __init__(self, spool: ToolsetSpool, file: SpoolFile) -> None:
        self._spool = spool
        self.file = file

    async def write(self, data: bytes) -> int:
        """How many bytes of `data` were written: fewer if a bound is reached. Raises PeerError disk_full."""
        allowed = self.file.claim(len(data))
        if allowed:
            await self._spool.run(lambda: self.file.write(data[:allowed]))
        return allowed

    async def read(self, offset: int, size: int) -> bytes:
        """What was written there, at most `size` bytes. Raises PeerError disk_full."""
        return await self._spool.run(lambda: self.file.read(offset, size))

    async def discard(self) -> None:
        """Remove the file. Shielded, idempotent."""
        with trio.CancelScope(shield=True):
            await self._spool.run(self.file.discard)


class Output:
    """See the module. Left without `finish`, nothing of it remains."""

    def __init__(self, spool: ToolsetSpool, limits: Limits) -> None:
        self._spool = spool
        self._limits = limits
        self._collector = OutputCollector(limits)
        self._writer: SpoolWriter | None = None

    @property
    def size(self) -> int:
        """Bytes fed so far."""
        return self._collector.size

    async def __aenter__(self) -> Output:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.discard()

    async def feed(self, data: bytes) -> None:
        """Take the next bytes, of any size; returns when what is due of them is on the disk."""
        step = self._limits.tool_memory_bytes
        for begin in range(0, len(data), step):
            self._collector.feed(data[begin : begin + step] if len(data) > step else data)
            await self._write(self._collector.take())

    async def missed(self, size: int, line_feeds: int, last: bytes, why: str) -> None:
        """So many bytes of the output come next that somebody else could not keep: nothing after them is kept. `last`
        is the last one, `why` completes "because"."""
        self._collector.missed(size, line_feeds, last)
        await self._write(self._collector.take(end=True))
        self._collector.lost(0, why)

    async def finish(self) -> Collected:
        """The end of the output."""
        await self._write(self._collector.take(end=True))
        writer = self._writer
        text = self._collector.result(writer.file.handle if writer is not None else None)
        self._writer = None
        return Collected(text, self._collector.size, writer.file if writer is not None else None)

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        try:
            if self._writer is None:
                self._writer = await self._spool.file()
            written = await self._writer.write(data)
        except PeerError as exc:
            self._collector.lost(self._collector.kept, exc.message)
        else:
            if written == len(data):
                return
            self._collector.lost(len(data) - written, "a bound of what is kept on the disk is reached")
        if not self._collector.kept and self._writer is not None:
            writer, self._writer = self._writer, None
            await writer.discard()
