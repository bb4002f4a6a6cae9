"""Outputs of tools that are written while they arrive: on real files."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors._spool import Collected, Spools, ToolsetSpool
from engine.limits import KIB, MIB, Limits
from engine.storage import spool
from engine.tools.output import BATCH_BYTES

LIMITS = attrs.evolve(Limits(), spool_file_bytes=MIB, spool_bytes=3 * MIB)


def data_of(size: int) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]


async def collect(spool: ToolsetSpool, data: bytes, step: int = 40_000) -> Collected:
    async with spool.output() as output:
        for begin in range(0, len(data), step):
            await output.feed(data[begin : begin + step])
        return await output.finish()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def opened(tmp_path: Path, limits: Limits = LIMITS) -> tuple[Spools, ToolsetSpool]:
    spools = Spools(tmp_path, limits)
    await spools.open()
    return spools, spools.of_toolset("files")


async def test_a_result_within_its_bounds_makes_no_file(tmp_path: Path) -> None:
    spools, toolset = await opened(tmp_path)
    data = b"x" * LIMITS.tool_result_bytes
    assert await collect(toolset, data) == Collected(data.decode(), len(data))
    assert entries(tmp_path / "spool") == []
    collected = await collect(toolset, data + b"x")
    assert collected.whole is not None
    assert collected.whole.path.read_bytes() == data + b"x"
    await spools.aclose()


@pytest.mark.parametrize("step", [100, 40_000, 300_000])
async def test_a_long_output_is_whole_in_its_file(tmp_path: Path, step: int) -> None:
    spools, toolset = await opened(tmp_path)
    data = data_of(900_000)
    collected = await collect(toolset, data, step)
    assert collected.whole is not None
    assert collected.whole.path.read_bytes() == data
    assert collected.whole.hash == hashlib.sha256(data).hexdigest()
    assert f"900,000 bytes in 112,500 lines, is kept: read_output reads it by the handle {collected.whole.handle}" in (
        collected.text
    )
    assert spools.used == 900_000
    await toolset.aclose()
    assert entries(tmp_path / "spool") == []
    await spools.aclose()
    assert entries(tmp_path) == []


async def test_a_file_of_exactly_its_bound_and_one_byte_more(tmp_path: Path) -> None:
    spools, toolset = await opened(tmp_path)
    exact = await collect(toolset, data_of(MIB))
    assert exact.whole is not None
    assert exact.whole.size == MIB
    assert "only the first" not in exact.text
    more = await collect(toolset, data_of(MIB + 1))
    assert more.whole is not None
    assert more.whole.path.read_bytes() == data_of(MIB)
    assert "1,048,577 bytes in 131,073 lines, only the first 1,048,576 bytes are kept because a bound" in more.text
    assert len(more.text.encode()) <= LIMITS.tool_result_bytes
    await spools.aclose()


async def test_the_bound_of_all_files_together(tmp_path: Path) -> None:
    spools, toolset = await opened(tmp_path)
    held = [await collect(toolset, data_of(MIB)) for _ in range(3)]
    refused = await collect(toolset, data_of(MIB))
    assert refused.whole is None
    assert "could not be kept because a bound of what is kept on the disk is reached]" in refused.text
    assert len(files(tmp_path)) == 3
    assert held[0].whole is not None
    held[0].whole.discard()
    assert (await collect(toolset, data_of(MIB))).whole is not None
    await spools.aclose()


WRITES = 900_000 // BATCH_BYTES + 1


@pytest.mark.parametrize("failing", range(1, WRITES + 1))
async def test_a_disk_that_refuses_any_write_gives_a_bounded_result(
    tmp_path: Path, failing: int, monkeypatch: Any
) -> None:
    done = 0
    real = os.write

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal done
        done += 1
        if done == failing:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, data)

    spools, toolset = await opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "write", write)
        data = data_of(900_000)
        collected = await collect(toolset, data, BATCH_BYTES)
    assert done == failing, "nothing is written after a write that failed"
    assert collected.whole is None
    assert collected.text.startswith("0000000\n")
    assert "112,500 lines, could not be kept because the disk refuses it (Input/output error)]" in collected.text
    assert len(collected.text.encode()) <= LIMITS.tool_result_bytes
    assert files(tmp_path) == []
    assert spools.used == 0
    await spools.aclose()


async def test_a_directory_that_cannot_be_made_gives_a_bounded_result(tmp_path: Path) -> None:
    _, toolset = await opened(tmp_path)
    (tmp_path / "spool").rmdir()
    collected = await collect(toolset, data_of(100_000))
    assert collected.whole is None
    assert "could not be kept because the disk refuses it (No such file or directory)]" in collected.text


async def test_an_output_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    spools, toolset = await opened(tmp_path)
    with trio.CancelScope() as scope:
        async with toolset.output() as output:
            await output.feed(data_of(400_000))
            assert len(files(tmp_path)) == 1
            scope.cancel()
            await output.feed(data_of(200_000))
    assert scope.cancelled_caught
    assert files(tmp_path) == []
    assert spools.used == 0
    await spools.aclose()


async def test_a_dead_daemons_files_are_gone_at_the_start(tmp_path: Path) -> None:
    _, toolset = await opened(tmp_path)
    collected = await collect(toolset, data_of(100 * KIB))
    assert collected.whole is not None  # held: nobody has stopped that daemon
    await opened(tmp_path)
    assert entries(tmp_path / "spool") == []


async def test_outputs_at_the_same_time_keep_their_own(tmp_path: Path) -> None:
    spools, toolset = await opened(tmp_path, Limits())
    found: dict[int, Collected] = {}

    async def one(number: int) -> None:
        found[number] = await collect(toolset, b"%d\n" % number * 100_000, 1000 + number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)
    for number, collected in found.items():
        assert collected.whole is not None
        assert collected.whole.path.read_bytes() == b"%d\n" % number * 100_000
    await spools.aclose()
