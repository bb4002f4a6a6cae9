"""Deferred work: it begins in the order of its messages, and kept work outlives its asker."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from actors._actor import Actor, Cell, Ref, open_actor

HOLD = -1


class _Ref(Ref):
    __slots__ = ()

    async def begin(self, number: int) -> Any:
        return await self._ask(number)


class _Worker(Actor):
    def __init__(self, *, keep: bool = False) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.gate = trio.Event()
        self.release = trio.Event()
        self._keep = keep

    def make_ref(self, cell: Cell) -> _Ref:
        return _Ref(cell)

    async def handle(self, message: Any) -> Any:
        if message == HOLD:
            await self.release.wait()
            return None
        return self.cell.defer(self._work, message, keep=self._keep)

    async def _work(self, number: int) -> int:
        self.begun.append(number)
        await self.gate.wait()
        self.ended.append(number)
        return number


async def test_deferred_work_begins_in_the_order_of_its_messages() -> None:
    worker = _Worker()
    async with open_actor(worker, "root") as ref, trio.open_nursery() as nursery:
        # All wait in the mailbox, in order, before the first is handled: many of their tasks begin in one tick.
        nursery.start_soon(ref.begin, HOLD)
        for number in range(40):
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ref.begin, number)
        await trio.testing.wait_all_tasks_blocked()
        worker.release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert worker.begun == list(range(40))
        worker.gate.set()


async def test_kept_work_goes_on_without_its_asker_and_other_work_does_not() -> None:
    for keep in (True, False):
        worker = _Worker(keep=keep)
        async with open_actor(worker, "root") as ref:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ref.begin, 1)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            worker.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert worker.begun == [1]
            assert worker.ended == ([1] if keep else [])
