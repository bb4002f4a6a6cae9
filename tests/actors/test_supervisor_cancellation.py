"""Supervisors stopped, crashed or cancelled while children start, wait for a restart, or are removed."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors._actor import open_actor
from actors._ask import ActorDied
from actors._statistics import Outcome
from actors._supervisor import ChildSpec, Strategy, Supervisor, SupervisorRef
from engine.restart import Backoff
from tests.actors.probe import Probe, crash, forever, value
from tests.actors.test_supervisor import break_child, spec

LONG = Backoff(1000.0, 1000.0)
GROUPS: list[Strategy] = ["one_for_one", "one_for_all", "rest_for_one"]


@pytest.mark.parametrize("strategy", GROUPS)
async def test_a_stop_interrupts_a_backoff_at_once(strategy: Strategy, autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    specs = [spec("a", log), spec("b", log)]
    async with open_actor(Supervisor(specs, strategy=strategy, backoff=LONG), "root") as ref:
        await break_child(ref, "b")
        began = trio.current_time()
        assert (await ref.stop()).end == "stopped"
        assert trio.current_time() == pytest.approx(began)
        assert log.count("b:start") == 1
        assert log[-1] == "a:stop"


@pytest.mark.parametrize("strategy", GROUPS)
async def test_a_stop_interrupts_the_start_of_a_restart_at_once(
    strategy: Strategy, autojump_clock: trio.testing.MockClock
) -> None:
    log: list[str] = []
    starts = iter([False])

    async def start() -> None:
        if next(starts, True):
            await trio.sleep_forever()

    async with open_actor(Supervisor([spec("a", log, on_start=start)], strategy=strategy), "root") as ref:
        await break_child(ref, "a")
        began = trio.current_time()
        assert (await ref.stop()).end == "stopped"
        assert trio.current_time() == pytest.approx(began)
        assert log == ["a:start", "a:start cut"]


@pytest.mark.parametrize("strategy", GROUPS)
async def test_removal_interrupts_a_backoff_at_once(strategy: Strategy, autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    specs = [spec("a", log), spec("b", log), spec("c", log)]
    async with open_actor(Supervisor(specs, strategy=strategy, backoff=LONG), "root") as ref:
        await break_child(ref, "b")
        began = trio.current_time()
        await ref.remove("b")
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == pytest.approx(began)
        with pytest.raises(ActorDied):
            ref.child("b")
        # Siblings that went with it are up again without it.
        assert await ref.child("a").do(value(1)) == 1
        assert await ref.child("c").do(value(1)) == 1
        await trio.sleep(2000)
        assert log.count("b:start") == 1


@pytest.mark.parametrize("strategy", GROUPS)
async def test_removal_interrupts_the_start_of_a_restart(
    strategy: Strategy, autojump_clock: trio.testing.MockClock
) -> None:
    log: list[str] = []
    starts = iter([False])

    async def start() -> None:
        if next(starts, True):
            await trio.sleep_forever()

    specs = [spec("a", log), spec("b", log, on_start=start)]
    async with open_actor(Supervisor(specs, strategy=strategy), "root") as ref:
        await break_child(ref, "b")
        await ref.remove("b")
        await trio.testing.wait_all_tasks_blocked()
        assert log[-1] == "b:start cut" or log[-2:] == ["b:start cut", "a:start"]
        assert ref.restarts("b") == 0
        assert await ref.child("a").do(value(1)) == 1
        await ref.add(spec("b", log))
        assert await ref.child("b").do(value(1)) == 1


async def test_removal_while_the_group_goes_down_with_the_failed_child(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    gate = trio.Event()
    log: list[str] = []

    async def stop() -> None:
        await gate.wait()

    specs = [spec("a", log), spec("b", log, on_stop=stop)]
    async with open_actor(Supervisor(specs, strategy="one_for_all", backoff=LONG), "root") as ref:
        await break_child(ref, "a")  # b is asked to stop and waits for the gate
        nursery.start_soon(ref.remove, "a")
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        # The one whose restart it would have been is gone: b comes back without count and without backoff.
        assert await ref.child("b").do(value(1)) == 1
        assert ref.restarts("b") == 0
        assert log.count("a:start") == 1


async def test_a_cancelled_removal_goes_away_and_the_child_with_it(nursery: trio.Nursery) -> None:
    gate = trio.Event()

    async def stop() -> None:
        await gate.wait()

    async with open_actor(Supervisor([spec("a", [], on_stop=stop)]), "root") as ref:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel, scope)
            await ref.remove("a")
        assert scope.cancelled_caught
        with pytest.raises(ActorDied):
            ref.child("a")
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert ref.statistics().children == 0


async def test_a_cancelled_add_takes_the_start_under_way_with_it_and_leaves_those_before(
    nursery: trio.Nursery,
) -> None:
    log: list[str] = []
    async with open_actor(Supervisor(), "root") as ref:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel, scope)
            await ref.add(spec("a", log), spec("b", log, on_start=forever), spec("c", log))
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert log == ["a:start", "b:start cut"]
        assert await ref.child("a").do(value(1)) == 1
        await ref.add(spec("b", log))
        assert await ref.child("b").do(value(1)) == 1


async def test_a_stop_while_a_child_is_added_cancels_its_start(nursery: trio.Nursery) -> None:
    log: list[str] = []
    got: list[str] = []

    async def add() -> None:
        try:
            await ref.add(spec("b", log, on_start=forever))
        except ActorDied as exc:
            got.append(str(exc))

    async with open_actor(Supervisor([spec("a", log)]), "root") as ref:
        nursery.start_soon(add)
        await trio.testing.wait_all_tasks_blocked()
        assert (await ref.stop("enough")).end == "stopped"
        await trio.testing.wait_all_tasks_blocked()
        assert len(got) == 1
        assert log == ["a:start", "b:start cut", "a:stopping", "a:stop"] or log == [
            "a:start", "a:stopping", "b:start cut", "a:stop"
        ]  # fmt: skip


async def test_a_stop_during_the_first_start_stops_in_reverse_what_had_started(nursery: trio.Nursery) -> None:
    log: list[str] = []
    slow = trio.testing.wait_all_tasks_blocked  # long enough for others to overtake
    parent = Probe()
    supervisor = Supervisor(
        [spec("a", log, on_stop=slow), spec("b", log, on_stop=slow), spec("c", log, on_start=forever)]
    )
    async with open_actor(parent, "root"):

        async def start() -> None:
            with pytest.raises(ActorDied, match="was stopped while it started"):
                await parent.cell.start_child(supervisor, "supervisor")

        nursery.start_soon(start)
        await trio.testing.wait_all_tasks_blocked()
        cell = supervisor.cell
        cell.request_stop("changed my mind")
        assert await cell.wait_ended() == Outcome("stopped", "changed my mind")
        assert log == [
            "a:start", "b:start", "c:start cut", "b:stopping", "b:stop", "a:stopping", "a:stop",
        ]  # fmt: skip


async def test_children_killed_with_their_supervisor_are_not_restarted(caplog: pytest.LogCaptureFixture) -> None:
    """A hard end from above: every child is killed, which is no reason to count restarts and give up."""
    log: list[str] = []
    root, parent = Probe(), Probe()
    async with open_actor(root, "root"):
        ref = await root.cell.start_child(parent, "parent")
        supervisor = await parent.cell.start_child(Supervisor([spec(name, log) for name in "abcdef"]), "supervisor")
        parent.cell.start_soon(crash(ValueError("boom")))
        await ref.wait_ended()
        assert await supervisor.wait_ended() == Outcome("killed", "an enclosing scope was cancelled")
    assert len(log) == 6
    assert "is restarted" not in caplog.text


async def test_a_child_that_falls_while_all_are_stopped_is_not_restarted(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    log: list[str] = []

    async def stop() -> None:
        await gate.wait()

    async with open_actor(Supervisor([spec("a", log), spec("b", log, on_stop=stop)]), "root") as ref:
        first = ref.child("a")
        nursery.start_soon(ref.stop)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ActorDied):
            await first.do(crash(ValueError("at the worst moment")))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert (await ref.wait_ended()).end == "stopped"
    assert log.count("a:start") == 1


async def test_a_supervisor_that_gives_up_takes_no_more_children(nursery: trio.Nursery) -> None:
    gate = trio.Event()

    async def stop() -> None:
        await gate.wait()

    parent = Probe()
    async with open_actor(parent, "root"):
        ref: SupervisorRef = await parent.cell.start_child(
            Supervisor([spec("a", []), spec("b", [], on_stop=stop)], intensity=(0, 5.0)), "supervisor"
        )
        await break_child(ref, "a")  # it gives up, and waits for b's end
        with pytest.raises(ActorDied, match="starts no children"):
            await ref.add(spec("c", []))
        gate.set()
        outcome = await ref.wait_ended()
        assert (outcome.end, outcome.reason.partition(":")[0]) == ("crashed", "TooManyRestarts")


async def test_a_start_past_its_deadline_during_a_restart_counts(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    starts = iter([False, True, False])

    async def start() -> None:
        if next(starts):
            await trio.sleep_forever()

    child = ChildSpec(name="a", factory=lambda: Probe(log, on_start=start), start_timeout=7)
    async with open_actor(Supervisor([child]), "root") as ref:
        began = trio.current_time()
        await break_child(ref, "a")
        await trio.sleep(7.5)
        assert log == ["a:start", "a:start cut", "a:start"]
        assert ref.restarts("a") == 2
        assert trio.current_time() - began == pytest.approx(7.5)


async def test_a_stop_in_the_moment_in_which_a_backoff_ends_is_a_stop(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The scheduler decides which comes first; in neither case is the refused start counted as a restart."""
    for _ in range(24):
        supervisor = Supervisor([spec("a", [])], intensity=(1, 60.0), backoff=Backoff(8.0, 8.0), draw=lambda: 0.5)
        async with open_actor(supervisor, "root") as ref:
            at = trio.current_time() + 6

            async def stop(ref: SupervisorRef, at: float) -> None:
                await trio.sleep_until(at)
                await ref.stop()

            nursery.start_soon(stop, ref, at)
            await break_child(ref, "a")
            assert (await ref.wait_ended()).end == "stopped"


async def _cancel(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
