"""Blobs that stay while anything refers to them, and go afterwards: on a real store."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from actors._disk import open_disk
from actors._spool import Spools
from actors.blobs import REAP_MOST, BlobKeeper
from engine.errors import PeerError
from engine.storage import applying, blobs, catalog, database, hidden
from engine.storage.blobs import Blobs
from engine.storage.changes import AddMessage, AddPart
from engine.storage.spool import SpoolFile
from engine.transcript.records import AssistantMessage, Blob, ToolPart
from engine.transcript.session import Session
from tests.actors.test_store import LIMIT, NOW


class World:
    def __init__(self, folder: Path, keeper: BlobKeeper, disk: Any) -> None:
        self.folder = folder
        self.keeper = keeper
        self.disk = disk
        self.unused = 0

    async def session(self, name: str, *used: Blob) -> None:
        """A session with a call for each blob."""
        session = Session(id=f"ses_{name}", title="t", model="m", cwd="/", created_at=NOW, updated_at=NOW)
        changes: list[Any] = [AddMessage(AssistantMessage(id=f"msg_{name}", created_at=NOW))]
        for number, blob in enumerate(used):
            part = ToolPart(id=f"prt_{name}{number}", call_id="c", tool="a.b", state="completed", output="", whole=blob)
            changes.append(AddPart(f"msg_{name}", part))
        await self.disk.write(lambda connection: catalog.create(connection, session, None, NOW))
        await self.disk.write(lambda connection: applying.apply(connection, session.id, changes, NOW))

    async def delete(self, name: str) -> None:
        await self.disk.write(lambda connection: hidden.delete(connection, f"ses_{name}"))

    async def reap(self) -> None:
        while await self.keeper.reap():
            pass

    def files(self) -> set[str]:
        return set(os.listdir(self.folder / "blobs")) if (self.folder / "blobs").exists() else set()

    async def rows(self) -> int:
        found = await self.disk.read(lambda connection: connection.execute("SELECT count(*) FROM blobs").fetchone())
        return int(found[0])


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    disk = await open_disk(folder / database.FILE_NAME)
    world: World
    keeper = BlobKeeper(Blobs(folder / "blobs"), disk, lambda: setattr(world, "unused", world.unused + 1))
    world = World(folder, keeper, disk)
    try:
        with trio.fail_after(LIMIT):
            yield world
    finally:
        await disk.aclose()


async def spooled(folder: Path, data: bytes) -> SpoolFile:
    spools = Spools(folder)
    if not (folder / "spool").exists():
        await spools.open()
    writer = await spools.of_toolset("t").file()
    assert await writer.write(data) == len(data)
    return writer.file


def spool_files(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder / "spool") for name in names]


async def test_a_blob_stays_while_it_is_pinned_or_referred_to(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        pins = world.keeper.pins()
        blob = await pins.take(await spooled(tmp_path, b"output"))
        await world.reap()
        assert world.files() == {blob.hash}
        await world.session("1", blob)
        pins.release()
        pins.release()
        assert world.unused == 1
        await world.reap()
        assert world.files() == {blob.hash}
        await world.delete("1")
        await world.reap()
        assert world.files() == set()
        assert await world.rows() == 0


async def test_what_a_run_made_and_never_used_goes_when_it_is_released(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        mine, other = world.keeper.pins(), world.keeper.pins()
        one = await mine.take(await spooled(tmp_path, b"output"))
        two = await other.add(b"output")
        assert one.hash == two.hash and one.handle != two.handle
        mine.release()
        await world.reap()
        assert world.files() == {one.hash}
        other.release()
        await world.reap()
        assert world.files() == set()


async def test_a_session_that_is_deleted_takes_no_blob_that_another_run_has_just_made(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        first, second = world.keeper.pins(), world.keeper.pins()
        await world.session("1", await first.add(b"same"))
        first.release()
        again = await second.add(b"same")
        await world.delete("1")
        await world.reap()
        assert world.files() == {again.hash}
        await world.session("2", again)
        second.release()
        await world.reap()
        assert world.files() == {again.hash}
        assert await world.rows() == 1


async def test_what_a_crash_has_left_is_swept(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        pins = world.keeper.pins()
        kept = await pins.add(b"kept")
        await world.session("1", kept)
        await world.session("2", await pins.add(b"its session goes"))
        await world.delete("2")
        for number in range(REAP_MOST + 5):
            await pins.add(b"%d" % number)
        assert len(world.files()) == REAP_MOST + 7
    # Nothing was released: the daemon died.
    async with opened(tmp_path) as world:
        await world.keeper.sweep()
        assert world.files() == {kept.hash}
        assert await world.rows() == 1


async def test_many_sessions_made_and_deleted_leave_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        for number in range(2 * REAP_MOST + 5):
            pins = world.keeper.pins()
            await world.session(str(number), await pins.add(b"%d" % number))
            pins.release()
        assert len(world.files()) == 2 * REAP_MOST + 5
        for number in range(2 * REAP_MOST + 5):
            await world.delete(str(number))
        await world.reap()
        assert world.files() == set()
        assert await world.rows() == 0


async def test_a_disk_that_refuses_leaves_neither_blob_nor_spool_file(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with opened(tmp_path) as world:
        pins = world.keeper.pins()
        file = await spooled(tmp_path, b"output")
        with monkeypatch.context() as patch:
            patch.setattr(blobs.os, "rename", refuse)
            with pytest.raises(PeerError, match="No space left"):
                await pins.take(file)
            with pytest.raises(PeerError, match="No space left"):
                await pins.add(b"media")
        assert spool_files(tmp_path) == []
        pins.release()
        await world.reap()
        assert world.files() == set()


async def test_a_cancelled_take_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        pins = world.keeper.pins()
        file = await spooled(tmp_path, b"output")
        with trio.CancelScope() as scope:
            scope.cancel()
            await pins.take(file)
        assert scope.cancelled_caught
        assert spool_files(tmp_path) == []
        pins.release()
        await world.reap()
        assert world.files() == set()
