"""Supervision: order of start and stop, restart policies, strategies, intensity, backoff, escalation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from actors._actor import SLICE, Actor, open_actor
from actors._ask import ActorDied
from actors._supervisor import ChildSpec, Restart, Strategy, Supervisor, SupervisorRef, TooManyRestarts
from engine.restart import Backoff
from tests.actors.probe import Probe, crash, nothing, value

# Enough restarts for the tests that are not about their number.
PLENTY = (100, 5.0)


def spec(name: str, log: list[str], restart: Restart = "permanent", **hooks: Any) -> ChildSpec:
    return ChildSpec(name=name, factory=lambda: Probe(log, **hooks), restart=restart)


async def break_child(ref: SupervisorRef, name: str) -> None:
    """Crash a child and return when its supervisor has done what it does about it."""
    with pytest.raises(ActorDied):
        await ref.child(name).do(crash(ValueError(f"{name} broke")))
    await trio.testing.wait_all_tasks_blocked()


# ------------------------------------------------------------ order
async def test_children_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    slow = trio.lowlevel.checkpoint
    specs = [spec(name, log, on_start=slow, on_stopping=slow, on_stop=slow) for name in "abc"]
    async with open_actor(Supervisor(specs), "root"):
        assert log == ["a:start", "b:start", "c:start"]
        log.clear()
    assert log == ["c:stopping", "c:stop", "b:stopping", "b:stop", "a:stopping", "a:stop"]


async def test_a_failed_start_stops_those_before_it_and_fails_the_supervisor() -> None:
    log: list[str] = []
    specs = [spec("a", log), spec("b", log), spec("c", log, on_start=crash(LookupError("no port"))), spec("d", log)]
    with pytest.raises(LookupError, match="no port"):
        async with open_actor(Supervisor(specs), "root"):
            raise AssertionError("not reached")
    assert log == ["a:start", "b:start", "b:stopping", "b:stop", "a:stopping", "a:stop"]


async def test_a_crowd_is_stopped_together() -> None:
    meeting = trio.testing.Sequencer()
    log: list[str] = []

    def at(*places: int) -> Callable[[], Any]:
        async def hook() -> None:
            for place in places:
                async with meeting(place):
                    pass

        return hook

    specs = [spec("a", log, "temporary", on_stop=at(0, 2)), spec("b", log, "temporary", on_stop=at(1, 3))]
    async with open_actor(Supervisor(specs, ordered=False), "root"):
        pass
    assert log[-2:] == ["a:stop", "b:stop"]


# ------------------------------------------------------------ adding and removing
async def test_added_children_are_supervised_and_removed_ones_are_gone() -> None:
    log: list[str] = []
    async with open_actor(Supervisor(), "root") as ref:
        a, b = await ref.add(spec("a", log), spec("b", log))
        assert await a.do(value(1)) == 1
        assert ref.child("b") is b
        await break_child(ref, "a")
        assert await ref.child("a").do(value(2)) == 2
        assert ref.restarts("a") == 1
        await ref.remove("a")
        assert log[-1] == "a:stop"
        with pytest.raises(ActorDied, match="root/a is not running"):
            ref.child("a")
        assert ref.restarts("a") == 0, "nothing is kept of a child that has gone"
        await ref.remove("a")  # idempotent
        await ref.add(spec("a", log))
        assert await ref.child("a").do(value(3)) == 3


async def test_more_children_than_a_slice_are_added_in_order() -> None:
    names = [str(number) for number in range(2 * SLICE + 1)]
    async with open_actor(Supervisor(ordered=False), "root") as ref:
        refs = await ref.add(*(ChildSpec(name=name, factory=Actor, restart="temporary") for name in names))
        assert [child.name for child in refs] == names
        assert ref.statistics().children == len(names)


async def test_the_first_of_added_children_that_fails_is_raised_and_those_before_it_stay() -> None:
    log: list[str] = []
    async with open_actor(Supervisor(), "root") as ref:
        with pytest.raises(LookupError, match="no port"):
            await ref.add(spec("a", log), spec("b", log, on_start=crash(LookupError("no port"))), spec("c", log))
        assert log == ["a:start"]
        assert await ref.child("a").do(value(1)) == 1
        await ref.add(spec("b", log))  # the name of the failed one is free
        assert await ref.child("b").do(value(2)) == 2


async def test_a_factory_that_raises_fails_the_start() -> None:
    def factory() -> Actor:
        raise KeyError("not configured")

    async with open_actor(Supervisor(), "root") as ref:
        with pytest.raises(KeyError, match="not configured"):
            await ref.add(ChildSpec(name="a", factory=factory))
        assert ref.statistics().children == 0


async def test_a_child_of_a_name_that_runs_is_refused() -> None:
    async with open_actor(Supervisor([spec("a", [])]), "root") as ref:
        with pytest.raises(AssertionError, match="root has a child a already"):
            await ref.add(spec("a", []))
        assert await ref.child("a").do(value(1)) == 1


# ------------------------------------------------------------ restart policies
@pytest.mark.parametrize(
    ("restart", "end", "again"),
    [
        ("permanent", "crashed", True),
        ("permanent", "finished", True),
        ("permanent", "stopped", True),
        ("permanent", "killed", True),
        ("transient", "crashed", True),
        ("transient", "finished", False),
        ("transient", "stopped", False),
        ("transient", "killed", True),
        ("temporary", "crashed", False),
        ("temporary", "finished", False),
        ("temporary", "stopped", False),
        ("temporary", "killed", False),
    ],
)
async def test_the_policy_and_the_end_decide_about_a_restart(restart: Restart, end: str, again: bool) -> None:
    log: list[str] = []
    supervisor = Supervisor([spec("a", log, restart, on_stop=trio.lowlevel.checkpoint)])
    async with open_actor(supervisor, "root") as ref:
        child = ref.child("a")
        match end:
            case "crashed":
                await break_child(ref, "a")
            case "finished":
                child.probe.cell.finish()
            case "stopped":
                await child.stop()
            case "killed":
                await child.stop(grace=0)
        assert (await child.wait_ended()).end == end
        await trio.testing.wait_all_tasks_blocked()
        assert log.count("a:start") == (2 if again else 1)
        assert ref.restarts("a") == (1 if again else 0)
        if again:
            assert ref.child("a") is not child
            assert await ref.child("a").do(value(1)) == 1
        else:
            with pytest.raises(ActorDied):
                ref.child("a")
            await ref.add(spec("a", log))  # its name is free


# ------------------------------------------------------------ strategies
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["b:start"]),
        ("one_for_all", ["d:stop", "c:stop", "a:stop", "a:start", "b:start", "c:start", "d:start"]),
        ("rest_for_one", ["d:stop", "c:stop", "b:start", "c:start", "d:start"]),
    ],
)
async def test_the_strategy_decides_who_goes_with_a_failed_child(strategy: Strategy, expected: list[str]) -> None:
    log: list[str] = []
    slow = trio.lowlevel.checkpoint
    specs = [spec(name, log, on_start=slow, on_stop=slow) for name in "abcd"]
    async with open_actor(Supervisor(specs, strategy=strategy), "root") as ref:
        log.clear()
        await break_child(ref, "b")
        assert [event for event in log if not event.endswith("stopping")] == expected
        assert [ref.restarts(name) for name in "abcd"] == [0, 1, 0, 0], "only the failed child's restart counts"
        for name in "abcd":
            assert await ref.child(name).do(value(name)) == name


async def test_the_rest_gets_the_new_ref_of_what_it_depends_on() -> None:
    given: list[object] = []
    supervisor = Supervisor(strategy="rest_for_one")

    def second() -> Actor:
        given.append(supervisor.child("first"))
        return Probe()

    async with open_actor(supervisor, "root") as ref:
        await ref.add(spec("first", []))
        await ref.add(ChildSpec(name="second", factory=second))
        old = ref.child("first")
        await break_child(ref, "first")
        assert given == [old, ref.child("first")]
        assert old is not ref.child("first")


async def test_a_child_that_dies_of_its_siblings_death_costs_one_restart_only() -> None:
    """The second one crashes by the first one's crash, before and while the group is restarted."""
    log: list[str] = []
    supervisor = Supervisor(strategy="rest_for_one", intensity=(1, 5.0))

    class Dependent(Probe):
        async def on_start(self) -> None:
            await super().on_start()
            self.cell.start_soon(self._depend, supervisor.child("first"))

        async def _depend(self, first: Any) -> None:
            await first.wait_ended()
            raise RuntimeError("lost the first")

    async with open_actor(supervisor, "root") as ref:
        await ref.add(spec("first", log), ChildSpec(name="second", factory=lambda: Dependent(log)))
        await break_child(ref, "first")
        assert [event for event in log if event.endswith("start")] == ["first:start", "second:start"] * 2
        assert (ref.restarts("first"), ref.restarts("second")) == (1, 0)
        assert ref.state == "running"


async def test_an_earlier_sibling_that_falls_during_a_backoff_is_brought_up_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log: list[str] = []
    supervisor = Supervisor(
        [spec("first", log), spec("second", log)], strategy="rest_for_one", backoff=Backoff(8.0, 8.0), draw=lambda: 0.5
    )
    async with open_actor(supervisor, "root") as ref:
        first = ref.child("first")
        log.clear()
        await break_child(ref, "second")
        with pytest.raises(ActorDied):
            await first.do(crash(ValueError("both")))
        await trio.sleep(13)  # 6 s each, by the draw
        assert log == ["first:start", "second:start"]
        assert (ref.restarts("first"), ref.restarts("second")) == (1, 1)


async def test_temporary_siblings_are_stopped_with_a_group_and_not_started_again() -> None:
    log: list[str] = []
    specs = [spec("a", log), spec("b", log, "temporary"), spec("c", log)]
    async with open_actor(Supervisor(specs, strategy="one_for_all"), "root") as ref:
        log.clear()
        await break_child(ref, "c")
        assert log == ["b:stopping", "b:stop", "a:stopping", "a:stop", "a:start", "c:start"]
        with pytest.raises(ActorDied):
            ref.child("b")


async def test_a_start_that_fails_during_a_group_restart_is_tried_again_with_the_group() -> None:
    log: list[str] = []
    fails = [False, True, False]

    async def start_b() -> None:
        if fails.pop(0):
            raise LookupError("not yet")

    specs = [spec("a", log), spec("b", log, on_start=start_b), spec("c", log)]
    async with open_actor(Supervisor(specs, strategy="one_for_all"), "root") as ref:
        log.clear()
        await break_child(ref, "c")
        assert [event for event in log if not event.endswith("stopping")] == [
            "b:stop", "a:stop", "a:start",  # b fails here
            "a:stop", "a:start", "b:start", "c:start",
        ]  # fmt: skip
        assert (ref.restarts("b"), ref.restarts("c")) == (1, 1)


# ------------------------------------------------------------ intensity and backoff
async def test_restarts_up_to_the_intensity_are_done_and_one_more_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    now = [1000.0]
    supervisor = Supervisor([spec("a", log), spec("b", log)], intensity=(3, 5.0), clock=lambda: now[0])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(supervisor, "root") as ref:
            for restarts in range(1, 4):
                await break_child(ref, "a")
                assert ref.restarts("a") == restarts
                now[0] += 1
            log.clear()
            await break_child(ref, "a")
            raise AssertionError("the supervisor has given up and cancelled this")
    assert caught.group_contains(TooManyRestarts, match="root/a ended too often, the last time: ValueError: a broke")
    assert log == ["b:stopping", "b:stop"], "the others are stopped in order before it gives up"
    assert (await ref.wait_ended()).end == "crashed"


async def test_the_intensity_forgets_what_is_older_than_its_period() -> None:
    now = [1000.0]
    supervisor = Supervisor([spec("a", [])], intensity=(1, 5.0), clock=lambda: now[0])
    async with open_actor(supervisor, "root") as ref:
        for _ in range(4):
            await break_child(ref, "a")
            now[0] += 5.0  # exactly the period: due
        assert ref.restarts("a") == 4
        assert ref.state == "running"


async def test_a_restart_waits_its_backoff_with_jitter(autojump_clock: trio.testing.MockClock) -> None:
    started: list[float] = []

    async def start() -> None:
        started.append(trio.current_time())

    draws = iter([0.0, 0.5, 0.0])
    supervisor = Supervisor(
        [spec("a", [], on_start=start)],
        intensity=PLENTY,
        backoff=Backoff(first=2.0, most=60.0),
        draw=lambda: next(draws),
    )
    async with open_actor(supervisor, "root") as ref:
        waits: list[float] = []
        for _ in range(2):
            fell = trio.current_time()
            await break_child(ref, "a")
            with pytest.raises(ActorDied):
                ref.child("a")  # not while it waits
            await trio.sleep(4)
            waits.append(started[-1] - fell)
        # 2 s halved by the draw of 0; 4 s times 3/4 by the draw of 0.5.
        assert waits == [pytest.approx(1.0), pytest.approx(3.0)]
        await trio.sleep(5)  # it has run for a whole period: the backoff begins anew
        fell = trio.current_time()
        await break_child(ref, "a")
        await trio.sleep(4)
        assert started[-1] - fell == pytest.approx(1.0)


async def test_children_of_one_for_one_wait_their_backoffs_side_by_side(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log: list[str] = []
    supervisor = Supervisor([spec("a", log), spec("b", log)], backoff=Backoff(10.0, 10.0), draw=lambda: 0.5)
    async with open_actor(supervisor, "root") as ref:
        log.clear()
        await break_child(ref, "a")
        await trio.sleep(2)
        await break_child(ref, "b")
        await ref.add(spec("c", log))  # nor does a restart that waits keep others from being added
        await trio.sleep(6)
        assert log == ["c:start", "a:start"]
        await trio.sleep(2)
        assert log == ["c:start", "a:start", "b:start"]


async def test_a_restart_whose_start_fails_counts_and_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    fails = [False, True, True, False]

    async def start() -> None:
        if fails.pop(0):
            raise LookupError("not yet")
        if not fails:
            up.set()

    up = trio.Event()
    supervisor = Supervisor(
        [spec("a", log, on_start=start)], intensity=(3, 60.0), backoff=Backoff(1.0, 32.0), draw=lambda: 0.0
    )
    async with open_actor(supervisor, "root") as ref:
        fell = trio.current_time()
        await break_child(ref, "a")
        await up.wait()
        assert trio.current_time() - fell == pytest.approx(0.5 + 1 + 2)
        assert ref.restarts("a") == 3


async def test_a_restart_that_can_never_start_gives_up_at_the_intensity() -> None:
    starts = iter([False])

    async def start() -> None:
        if next(starts, True):
            raise LookupError("gone for good")

    supervisor = Supervisor([spec("a", [], on_start=start)], intensity=(3, 5.0))
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(supervisor, "root") as ref:
            await break_child(ref, "a")
            await trio.sleep_forever()
    assert caught.group_contains(TooManyRestarts, match="its start failed: gone for good")


# ------------------------------------------------------------ odd moments
async def test_a_child_that_ends_between_its_start_and_its_registration_is_restarted() -> None:
    """The first message is in the mailbox before the start returns, and ends the child in the same step. Whether its
    supervisor looks before or after that is the scheduler's choice: enough children see both."""
    names = [str(number) for number in range(24)]
    lives = dict.fromkeys(names, 0)

    class Short(Probe):
        async def on_start(self) -> None:
            lives[self.cell.name] += 1
            if lives[self.cell.name] == 1:
                await self.cell.ref.tell(crash(ValueError("at once")))

    supervisor = Supervisor(intensity=PLENTY)
    async with open_actor(supervisor, "root") as ref:
        await ref.add(*(ChildSpec(name=name, factory=Short) for name in names))
        await trio.testing.wait_all_tasks_blocked()
        assert set(lives.values()) == {2}
        for name in names:
            assert ref.restarts(name) == 1
            assert await ref.child(name).do(value(name)) == name


async def test_a_temporary_child_that_ends_at_once_was_started() -> None:
    class Short(Probe):
        async def on_start(self) -> None:
            self.cell.start_soon(self._end)

        async def _end(self) -> None:
            self.cell.finish("done")

    async with open_actor(Supervisor(), "root") as ref:
        for _ in range(20):  # the scheduler decides who looks first
            (child,) = await ref.add(ChildSpec(name="a", factory=Short, restart="temporary"))
            assert (await child.wait_ended()).end == "finished"
            await trio.testing.wait_all_tasks_blocked()
            assert ref.statistics().children == 0


async def test_a_child_that_falls_while_a_later_sibling_starts_is_restarted_in_turn() -> None:
    log: list[str] = []
    supervisor = Supervisor(strategy="rest_for_one")

    async def start_b() -> None:
        if log == ["a:start"]:
            a = supervisor.child("a")
            with pytest.raises(ActorDied):
                await a.do(crash(ValueError("early")))
            await trio.testing.wait_all_tasks_blocked()

    async with open_actor(supervisor, "root") as ref:
        await ref.add(spec("a", log), spec("b", log, on_start=start_b))
        await trio.testing.wait_all_tasks_blocked()
        assert [event for event in log if event.endswith("start")] == ["a:start", "b:start", "a:start", "b:start"]


async def test_giving_up_climbs_to_the_next_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    made: list[Supervisor] = []

    def inner() -> Actor:
        made.append(Supervisor([spec("leaf", log)], intensity=(1, 5.0)))
        return made[-1]

    outer = Supervisor([ChildSpec(name="inner", factory=inner)], intensity=(1, 5.0))
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(outer, "root") as ref:
            for _ in range(2):  # one restart of the leaf, then the inner one gives up and is itself restarted
                first = ref.child("inner")
                await break_child(first, "leaf")
                assert (len(made), ref.child("inner") is first) == (len(made), True)
                await break_child(first, "leaf")
            raise AssertionError("the outer one has given up as well")
    assert len(made) == 2
    assert log.count("leaf:start") == 4
    assert caught.group_contains(TooManyRestarts, match="root/inner ended too often")


async def test_it_takes_no_messages_of_others() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(Supervisor(), "root") as ref:
            await ref._tell(nothing)
            await trio.sleep_forever()
    assert caught.group_contains(AssertionError, match="Supervisor takes no messages")
