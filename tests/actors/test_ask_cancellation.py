"""Askers that go away: before, while and after their message is handled, with and without joining its end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors._actor import open_actor
from actors._ask import JOIN_TIMEOUT, AskTimeout
from actors._statistics import Outcome
from tests.actors.probe import Probe, forever, nothing, until, value


async def _cancelled_once_blocked(ask, *arguments, **options) -> None:  # type: ignore[no-untyped-def]
    """Run the ask until it waits, cancel it, and return when it has ended."""
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await ask(*arguments, **options)
            assert scope.cancelled_caught

        scopes: list[trio.CancelScope] = []
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()


async def test_a_message_of_an_asker_who_left_before_its_turn_is_skipped(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    done: list[str] = []

    async def work() -> None:
        done.append("too late")

    async with open_actor(Probe(), "root") as ref:
        nursery.start_soon(ref.do, until(gate))
        await trio.testing.wait_all_tasks_blocked()
        await _cancelled_once_blocked(ref.do, work)
        gate.set()
        assert await ref.do(value(1)) == 1
        assert done == []
        assert ref.statistics().handled == 2


async def test_an_asker_cancelled_while_it_waits_for_room_has_delivered_nothing(nursery: trio.Nursery) -> None:
    class Small(Probe):
        mailbox_messages = 1

    gate = trio.Event()
    async with open_actor(Small(), "root") as ref:
        nursery.start_soon(ref.do, until(gate))
        await trio.testing.wait_all_tasks_blocked()
        await ref.tell(nothing)
        await _cancelled_once_blocked(ref.do, forever)
        assert ref.statistics().waiting_senders == 0
        gate.set()
        assert await ref.do(value(1)) == 1


async def test_the_handler_goes_on_when_its_asker_leaves() -> None:
    gate = trio.Event()
    done: list[str] = []

    async def work() -> None:
        await gate.wait()
        done.append("finished")

    async with open_actor(Probe(), "root") as ref:
        await _cancelled_once_blocked(ref.do, work)
        assert done == []
        gate.set()
        assert await ref.do(value("next")) == "next"
        assert done == ["finished"]


async def test_deferred_work_is_cancelled_when_its_asker_leaves() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cut")

    async with open_actor(Probe(), "root") as ref:
        await _cancelled_once_blocked(ref.do_later, work)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["cut"]
        assert await ref.do(value(1)) == 1


async def test_deferred_work_is_cancelled_when_its_asker_times_out(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time() - began)

    async with open_actor(Probe(), "root") as ref:
        began = trio.current_time()
        with pytest.raises(AskTimeout):
            await ref.do_later(work, timeout=4)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [pytest.approx(4)]


async def test_a_joining_asker_returns_only_when_its_deferred_work_has_ended(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    ended: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await gate.wait()
            ended.append("work")

    async def ask() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await ref.do_later(work, join=True)
        ended.append("asker")

    scopes: list[trio.CancelScope] = []
    async with open_actor(Probe(), "root") as ref:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["work", "asker"]


async def test_a_joining_asker_whose_message_was_not_begun_leaves_at_once(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    async with open_actor(Probe(), "root") as ref:
        nursery.start_soon(ref.do, until(gate))
        await trio.testing.wait_all_tasks_blocked()
        await _cancelled_once_blocked(ref.do_later, forever, join=True)
        gate.set()
        assert await ref.do(value(1)) == 1


async def test_a_join_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10 * JOIN_TIMEOUT)

    async with open_actor(Probe(), "root") as ref:
        began = trio.current_time()
        with pytest.raises(AskTimeout):
            await ref.do_later(stubborn, timeout=1, join=True)
        assert trio.current_time() - began == pytest.approx(1 + JOIN_TIMEOUT)


async def test_a_join_ends_with_the_actor(nursery: trio.Nursery) -> None:
    """The asker's own cancellation and the actor's end at the same time leave nobody behind."""

    async def ask() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await ref.do_later(forever, join=True)
        left.append("asker")

    scopes: list[trio.CancelScope] = []
    left: list[str] = []
    async with open_actor(Probe(), "root") as ref:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ref.stop)
        scopes[0].cancel()
        await ref.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
        assert left == ["asker"]


async def test_an_asker_who_leaves_between_the_handler_and_its_deferred_work_has_it_not_begun(
    nursery: trio.Nursery,
) -> None:
    began: list[str] = []

    async def work() -> None:
        began.append("side effect")

    class Leaving(Probe):
        async def handle(self, message: object) -> object:
            # The asker is cancelled, and leaves, in the same batch in which the deferred task is begun.
            scopes[0].cancel()
            await trio.testing.wait_all_tasks_blocked()
            return self.cell.defer(work)

    async def ask() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await ref.do(nothing)

    scopes: list[trio.CancelScope] = []
    async with open_actor(Leaving(), "root") as ref:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()  # until the handler goes on
        await trio.testing.wait_all_tasks_blocked()
        assert ref.statistics().handled == 1
        assert began == []
        assert await ref.stop() == Outcome("stopped", "asked")


async def test_an_ask_in_a_cancelled_scope_asks_nothing() -> None:
    async with open_actor(Probe(), "root") as ref:
        for _ in range(16):  # it would be the scheduler's choice whether the message is begun
            with trio.CancelScope() as scope:
                scope.cancel()
                await ref.do(nothing)
            assert scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked()
        assert ref.statistics().handled == 0
