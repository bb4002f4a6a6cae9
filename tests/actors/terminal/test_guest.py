"""Trio beside asyncio: each side's end ends the other, and what is raised comes out."""

from __future__ import annotations

import asyncio

import pytest
import trio

from actors.terminal import guest
from actors.terminal.guest import Bridge, Status


class Sides:
    """Notes what happens; the trio side adds what it is posted."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bridge = Bridge()
        self.closed = asyncio.Event()
        self.fails: Exception | None = None
        self.wanted = trio.Event()

    async def work(self, task_status: Status) -> None:
        self.seen.append("work begins")
        task_status.started()
        try:
            await self.wanted.wait()
            if self.fails is not None:
                raise self.fails
        finally:
            self.seen.append("work ends")

    async def show(self) -> None:
        self.seen.append("shown")
        self.bridge.post(self.wanted.set)
        await self.closed.wait()
        self.seen.append("left")

    def close(self) -> None:
        self.closed.set()


def test_when_work_ends_the_screens_are_closed() -> None:
    sides = Sides()
    guest.run(sides.work, sides.bridge, sides.show, sides.close)
    assert sides.seen == ["work begins", "shown", "work ends", "left"]


def test_what_work_raises_comes_out_after_the_screens_are_closed() -> None:
    sides = Sides()
    sides.fails = ValueError("no")
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        guest.run(sides.work, sides.bridge, sides.show, sides.close)
    assert sides.seen == ["work begins", "shown", "work ends", "left"]


def test_when_the_screens_are_left_work_is_cancelled() -> None:
    sides = Sides()

    async def leave() -> None:
        sides.seen.append("left")

    guest.run(sides.work, sides.bridge, leave, sides.close)
    assert sides.seen == ["work begins", "left", "work ends"]
    sides.bridge.post(sides.wanted.set)  # nobody is there: no error
    assert not sides.wanted.is_set()


def test_what_the_screens_raise_comes_out_after_work_has_ended() -> None:
    sides = Sides()

    async def fail() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        guest.run(sides.work, sides.bridge, fail, sides.close)
    assert sides.seen == ["work begins", "work ends"]


def test_work_that_does_not_begin_shows_nothing() -> None:
    sides = Sides()

    async def fail(task_status: Status) -> None:
        raise OSError("no connection")

    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        guest.run(fail, sides.bridge, sides.show, sides.close)
    assert sides.seen == []
