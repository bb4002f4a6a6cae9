"""Looking at processes from outside, and the program that leaves some behind."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from actors._guard import Guard, Process, open_guard
from engine.limits import Limits

NASTY = Path(__file__).with_name("nasty.py")
ALL_TRICKS = ("deaf", "group", "session", "daemon", "deep")
DEADLINE = 60  # seconds until a hanging test fails
LOOK = 0.01
ENV = {"PATH": os.environ["PATH"]}


@asynccontextmanager
async def guarded(limits: Limits | None = None) -> AsyncIterator[Guard]:
    with trio.fail_after(DEADLINE):
        async with open_guard(limits or Limits()) as guard:
            yield guard


def nasty(*tricks: str) -> list[str]:
    """The command of the program tests/actors/nasty.py."""
    return [sys.executable, "-I", "-S", str(NASTY), *tricks]


async def shell(guard: Guard, text: str) -> Process:
    return await guard.spawn(["sh", "-c", text], cwd="/", env=ENV, stdin="pipe")


async def spawn_nasty(guard: Guard, *tricks: str) -> tuple[Process, list[int]]:
    """The process and the pids of its whole tree, itself included, once all of them are there."""
    process = await guard.spawn(nasty(*tricks), cwd="/", env=ENV, stdin="pipe")
    return process, await tree_of(process.stdout)


async def tree_of(output: trio.abc.ReceiveStream) -> list[int]:
    said = await read_until(output, b"ready\n")
    return [int(line.split()[1]) for line in said.splitlines()[:-1]]


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    read = b""
    while not read.endswith(end):
        data = await stream.receive_some()
        assert data, f"the output ended after {read!r}"
        read += data
    return read


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    read = b""
    async for data in stream:
        read += data
    return read


def present(pids: Iterable[int]) -> list[int]:
    """Those that exist, zombies included."""
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def has_ended(pid: int) -> bool:
    """Whether it is gone, or a zombie."""
    try:
        return stat_fields(pid)[0] == "Z"
    except OSError:
        return True


async def until_gone(pids: Iterable[int]) -> None:
    pids = list(pids)
    await until(lambda: not present(pids))


async def until(condition: Callable[[], bool]) -> None:
    """For what nothing tells us of; the deadline is the caller's."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(LOOK)


def anonymous_kib(pid: int) -> int:
    """Memory of its own, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def parent(pid: int) -> int:
    return int(stat_fields(pid)[1])


def stat_fields(pid: int) -> list[str]:
    """From the state on: state, parent, process group, session."""
    line = Path(f"/proc/{pid}/stat").read_text()
    return line[line.rindex(")") + 2 :].split()


def children(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if parent(int(name)) == pid:
                    found.append(int(name))
            except OSError:  # it ended
                pass
    return found


def in_group(group: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if stat_fields(int(name))[2] == str(group):
                    found.append(int(name))
            except OSError:  # it ended
                pass
    return found


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))
