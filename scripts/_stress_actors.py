"""Ten thousand actors of the kernel, and beside them what trio itself costs for the same work.

Three measurements, each in a process of its own: `kernel` and `floor` do start, ask and stop; `memory` counts with
tracemalloc what one idle actor holds (tracing makes everything slow, so nothing else is measured there).
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
import trio.testing
from _stress_instruments import Loop, Progress, percentile, resident, settle_memory

from actors._actor import Actor, Cell, Ref, open_actor
from actors._ask import ActorDied
from actors._supervisor import ChildSpec, Supervisor, SupervisorRef
from actors.daemon import GC_THRESHOLDS

ASKERS = 50
ASKS_EACH = 10
# Asks that an actor has taken and not answered when the stop comes: one for every tenth actor.
HELD_SHARE = 10
# A phase that takes longer hangs. Two orders of magnitude above what is expected.
PATIENCE = 120.0


class Hang(Exception):
    """A phase did not end."""


# ------------------------------------------------------------ the kernel
@attrs.frozen
class _Echo:
    value: int


@attrs.frozen
class _Hold:
    """Never answered."""


class EchoRef(Ref):
    __slots__ = ()

    async def echo(self, value: int) -> int:
        return await self._ask(_Echo(value))  # type: ignore[no-any-return]

    async def hold(self) -> None:
        await self._ask(_Hold(), timeout=None)


class Echo(Actor):
    def make_ref(self, cell: Cell) -> EchoRef:
        return EchoRef(cell)

    async def handle(self, message: Any) -> Any:
        if isinstance(message, _Echo):
            return message.value
        return self.cell.defer(trio.sleep_forever)


async def start_actors(root: SupervisorRef, count: int) -> list[EchoRef]:
    specs = [ChildSpec(name=f"echo{number}", factory=Echo, restart="temporary") for number in range(count)]
    return await root.add(*specs)


async def kernel(count: int, progress: Progress) -> dict[str, Any]:
    figures: dict[str, Any] = {"actors": count}
    tasks = trio.lowlevel.current_statistics().tasks_living
    settle_memory(GC_THRESHOLDS)
    with Loop.watched() as loop:
        async with open_actor(Supervisor(ordered=False), "root", grace=PATIENCE) as root:
            before = resident()
            progress.show(f"kernel: {count} actors start", now=True)
            with loop.phase(figures, "start"):
                refs = await start_actors(root, count)
            await trio.testing.wait_all_tasks_blocked()
            figures["rss_bytes_each"] = round((resident() - before) / count)
            await _ask_all(figures, loop, progress, "kernel", [ref.echo for ref in refs])
            await _stop_under_load(figures, loop, progress, root, refs)
        figures["tasks_left"] = trio.lowlevel.current_statistics().tasks_living - tasks
        figures["actors_left"] = len(root._cell.children)
    return figures


async def _stop_under_load(
    figures: dict[str, Any], loop: Loop, progress: Progress, root: SupervisorRef, refs: list[EchoRef]
) -> None:
    """Stop all while asks are held by actors and others come in without end; each ends, and in one way."""
    ended: Counter[str] = Counter()
    begun = 0

    async def held(ref: EchoRef) -> None:
        nonlocal begun
        begun += 1
        try:
            await ref.hold()
        except ActorDied:
            ended["ActorDied"] += 1

    async def ask(mine: list[EchoRef]) -> None:
        nonlocal begun
        while True:
            for ref in mine:
                begun += 1
                try:
                    await ref.echo(1)
                except ActorDied:
                    ended["ActorDied"] += 1
                    return
                ended["answered"] += 1

    progress.show("kernel: asks in flight", now=True)
    with trio.move_on_after(PATIENCE) as scope:
        async with trio.open_nursery() as askers:
            for ref in refs[::HELD_SHARE]:
                askers.start_soon(held, ref)
            for number in range(ASKERS):
                askers.start_soon(ask, refs[number::ASKERS])
            await trio.sleep(0.2)
            figures["asks_in_flight_at_stop"] = begun - ended.total()
            progress.show("kernel: stop", now=True)
            with loop.phase(figures, "stop"):
                await root.stop("the stress is over")
            await trio.testing.wait_all_tasks_blocked()
            figures["asks_hanging"] = begun - ended.total()
            askers.cancel_scope.cancel()
    if scope.cancelled_caught:
        raise Hang("stop")


async def _ask_all(
    figures: dict[str, Any],
    loop: Loop,
    progress: Progress,
    name: str,
    asks: list[Callable[[int], Awaitable[int]]],
) -> None:
    """Each is asked ASKS_EACH times, from ASKERS tasks."""
    took: list[float] = []

    async def run(mine: list[Callable[[int], Awaitable[int]]]) -> None:
        for number in range(ASKS_EACH):
            for ask in mine:
                began = time.perf_counter()
                answer = await ask(number)
                took.append(time.perf_counter() - began)
                assert answer == number
            progress.show(f"{name}: {len(took)} asks")

    # Latency first by one asker alone: what an ask takes when nothing else goes on.
    for ask in asks[:1000]:
        began = time.perf_counter()
        await ask(0)
        took.append(time.perf_counter() - began)
    took.sort()
    figures["lone_ask_p50_us"] = round(percentile(took, 0.5) * 1e6, 1)
    took.clear()
    with trio.move_on_after(PATIENCE) as scope, loop.phase(figures, "ask"):
        async with trio.open_nursery() as nursery:
            for number in range(ASKERS):
                nursery.start_soon(run, asks[number::ASKERS])
    if scope.cancelled_caught:
        raise Hang("ask")
    took.sort()
    figures["asks"] = len(took)
    figures["ask_us"] = round(figures["ask_s"] / len(took) * 1e6, 1)
    figures["asks_per_s"] = round(len(took) / figures["ask_s"])
    figures["ask_p50_us"] = round(percentile(took, 0.5) * 1e6, 1)
    figures["ask_p99_us"] = round(percentile(took, 0.99) * 1e6, 1)


# ------------------------------------------------------------ the floor
class Bare:
    """What an actor is made of, by hand: a task, its nursery, a channel, a reply by event. Nothing is supervised,
    bounded in time, stopped in order or told about an end."""

    def __init__(self) -> None:
        self.send, self._receive = trio.open_memory_channel[tuple[int, list[int], trio.Event]](64)

    async def live(self, started: Callable[[], None]) -> None:
        async with trio.open_nursery():
            started()
            async for value, box, done in self._receive:
                box.append(value)
                done.set()

    async def echo(self, value: int) -> int:
        box: list[int] = []
        done = trio.Event()
        await self.send.send((value, box, done))
        await done.wait()
        return box[0]


async def floor(count: int, progress: Progress) -> dict[str, Any]:
    figures: dict[str, Any] = {"actors": count}
    settle_memory(GC_THRESHOLDS)
    started = 0

    def one() -> None:
        nonlocal started
        started += 1

    with Loop.watched() as loop:
        before = resident()
        async with trio.open_nursery() as nursery:
            progress.show(f"floor: {count} tasks start", now=True)
            with loop.phase(figures, "start"):
                bare = [Bare() for _ in range(count)]
                for each in bare:
                    nursery.start_soon(each.live, one)
                while started < count:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            figures["rss_bytes_each"] = round((resident() - before) / count)
            await _ask_all(figures, loop, progress, "floor", [each.echo for each in bare])
            loop.reset()
            began = time.perf_counter()
            nursery.cancel_scope.cancel()
        figures["stop_s"] = round(time.perf_counter() - began, 4)
        figures["stop_stall_ms"] = round(loop.stall * 1e3, 2)
    return figures


# ------------------------------------------------------------ memory by count
async def memory(count: int, progress: Progress) -> dict[str, Any]:
    async with open_actor(Supervisor(ordered=False), "root", grace=PATIENCE) as root:
        progress.show(f"memory: {count} actors start", now=True)
        gc.collect()
        tracemalloc.start()
        await start_actors(root, count)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        await root.stop("measured")
        gc.collect()
        left, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {"actors": count, "traced_bytes_each": round(held / count), "traced_bytes_left_each": round(left / count)}


MEASUREMENTS = {"kernel": kernel, "floor": floor, "memory": memory}
