"""Starts, stops and crashes cut short: at each hook, from above, by the grace, and by each other."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors._actor import CHILDREN_SHARE, SLICE, SLICE_PAUSE, Actor, open_actor
from actors._ask import ActorDied
from actors._statistics import Outcome
from tests.actors.probe import Probe, ProbeRef, crash, forever, nothing, seconds, until, value


class Starts:
    """Children whose start is under way; what each starter got."""

    def __init__(self, nursery: trio.Nursery, parent: Probe) -> None:
        self._nursery = nursery
        self._parent = parent
        self.scope = trio.CancelScope()
        self.got: object = "nothing yet"

    async def begin(self, child: Actor, **options: float) -> None:
        """Return when the start waits for something."""

        async def run() -> None:
            with self.scope:
                try:
                    self.got = await self._parent.cell.start_child(child, "a", **options)
                except trio.Cancelled:
                    self.got = "cancelled"
                    raise
                except Exception as exc:  # noqa: BLE001 - the result is what is looked at
                    self.got = exc

        self._nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()


# ------------------------------------------------------------ during the start
async def test_a_stop_during_the_start_cancels_it_and_fails_the_starter(nursery: trio.Nursery) -> None:
    parent, child = Probe(), Probe(on_start=forever)
    async with open_actor(parent, "root"):
        starts = Starts(nursery, parent)
        await starts.begin(child)
        assert child.cell.state == "starting"
        outcome = await child.cell.ref.stop("changed my mind")
        assert outcome == Outcome("stopped", "changed my mind")
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(starts.got, ActorDied)
        assert str(starts.got) == "root/a was stopped while it started: changed my mind"
        assert child.log == ["a:start cut"]
        assert parent.cell.children == ()


async def test_a_cancelled_starter_takes_its_start_with_it(nursery: trio.Nursery) -> None:
    parent, child = Probe(), Probe(on_start=forever)
    async with open_actor(parent, "root"):
        starts = Starts(nursery, parent)
        await starts.begin(child)
        starts.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (starts.got, child.log, parent.cell.children) == ("cancelled", ["a:start cut"], ())
        assert parent.told == [("a", Outcome("stopped", "its start was cancelled"))]


async def test_a_starter_cancelled_before_the_start_began_has_nothing_started() -> None:
    parent, child = Probe(), Probe()
    async with open_actor(parent, "root"):
        with trio.CancelScope() as scope:
            scope.cancel()
            await parent.cell.start_child(child, "a")
        assert scope.cancelled_caught
        assert child.log == []
        assert parent.told == []


async def test_children_started_by_a_cancelled_start_are_stopped_with_their_hooks(nursery: trio.Nursery) -> None:
    log: list[str] = []

    async def start() -> None:
        await child.cell.start_child(Probe(log), "grandchild")
        await trio.sleep_forever()

    parent, child = Probe(), Probe(log, on_start=start)
    async with open_actor(parent, "root"):
        starts = Starts(nursery, parent)
        await starts.begin(child)
        starts.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert starts.got == "cancelled"
        assert log == ["grandchild:start", "a:start cut", "grandchild:stopping", "grandchild:stop"]


async def test_a_start_that_succeeds_in_spite_of_a_stop_is_stopped_with_its_hooks(nursery: trio.Nursery) -> None:
    gate = trio.Event()

    async def start() -> None:
        with trio.CancelScope(shield=True):
            await gate.wait()

    parent, child = Probe(), Probe(on_start=start)
    async with open_actor(parent, "root"):
        starts = Starts(nursery, parent)
        await starts.begin(child)
        child.cell.request_stop("enough")
        gate.set()
        assert (await child.cell.wait_ended()).end == "stopped"
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(starts.got, ActorDied), "it was never usable"
        assert child.log == ["a:start", "a:stopping", "a:stop"]


async def test_asks_to_an_actor_that_still_starts_fail_when_the_start_does(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    got: list[str] = []

    async def start() -> None:
        await gate.wait()
        raise LookupError("no device")

    async def ask() -> None:
        with pytest.raises(ActorDied) as caught:
            await child.cell.ref.do(nothing)
        got.append(str(caught.value))

    parent, child = Probe(), Probe(on_start=start)
    async with open_actor(parent, "root"):
        starts = Starts(nursery, parent)
        await starts.begin(child)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["root/a has ended: its start failed"]
        assert isinstance(starts.got, LookupError)


async def test_a_parents_stop_cancels_the_start_of_its_child(nursery: trio.Nursery) -> None:
    parent, child = Probe(), Probe(on_start=forever)
    async with open_actor(parent, "root") as ref:
        starts = Starts(nursery, parent)
        await starts.begin(child)
        assert (await ref.stop("enough")).end == "stopped"
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(starts.got, ActorDied)
        assert parent.log == ["root:start", "root:stopping", "root:stop"]


async def test_a_parents_crash_cancels_the_start_of_its_child(nursery: trio.Nursery) -> None:
    root, parent, child = Probe(), Probe(), Probe(on_start=forever)
    async with open_actor(root, "root"):
        ref = await root.cell.start_child(parent, "parent")
        starts = Starts(nursery, parent)
        await starts.begin(child)
        with pytest.raises(ActorDied):
            await ref.do(crash(ValueError("boom")))
        await ref.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(starts.got, ActorDied)
        assert child.log == ["a:start cut"]


async def test_a_stop_and_the_end_of_the_start_in_the_same_moment(nursery: trio.Nursery) -> None:
    """Whichever is first, the starter is told something true and the actor ends once."""
    for order in range(2):
        gate = trio.Event()
        parent, child = Probe(), Probe(on_start=until(gate))
        async with open_actor(parent, "root"):
            starts = Starts(nursery, parent)
            await starts.begin(child)
            if order == 0:
                gate.set()
                child.cell.request_stop("enough")
            else:
                child.cell.request_stop("enough")
                gate.set()
            assert (await child.cell.wait_ended()).end == "stopped"
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(starts.got, ActorDied)


# ------------------------------------------------------------ the grace
@pytest.mark.parametrize("hook", ["on_stopping", "on_stop"])
async def test_a_hook_that_hangs_is_killed_at_the_end_of_the_grace(
    hook: str, autojump_clock: trio.testing.MockClock
) -> None:
    probe = Probe(**{hook: forever})
    async with open_actor(probe, "root", grace=4) as ref:
        began = trio.current_time()
        outcome = await ref.stop("enough")
        assert trio.current_time() - began == pytest.approx(4)
        assert outcome == Outcome("killed", "enough; its grace expired")
        assert probe.log[-1] == f"root:{hook.removeprefix('on_')} cut"


async def test_a_handler_that_hangs_is_killed_and_its_asker_told(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    got: list[str] = []

    async def ask() -> None:
        with pytest.raises(ActorDied) as caught:
            await ref.do(forever, timeout=None)
        got.append(str(caught.value))

    async with open_actor(Probe(), "root", grace=4) as ref:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert (await ref.stop()).end == "killed"
    await trio.testing.wait_all_tasks_blocked()
    assert got == ["root ended while it worked on Do"]


async def test_a_second_stop_can_only_shorten_the_grace(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_actor(Probe(on_stop=forever), "root", grace=10) as ref:
        began = trio.current_time()
        nursery.start_soon(ref.stop)
        await trio.sleep(1)
        nursery.start_soon(ref.stop, "be quick", 2)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ref.stop, "take your time", 100)
        outcome = await ref.wait_ended()
        assert trio.current_time() - began == pytest.approx(3)
        assert outcome.reason == "asked; its grace expired", "the first reason stands"


async def test_no_grace_at_all_kills_at_once_and_leaves_nothing() -> None:
    probe = Probe(on_stopping=forever)
    async with open_actor(probe, "root") as ref:
        assert (await ref.stop("now", grace=0)).end == "killed"
        assert probe.log == ["root:start", "root:stopping cut"]


async def test_children_who_hang_leave_their_parent_time_for_its_own_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    parent = Probe()
    async with open_actor(parent, "root", grace=10) as ref:
        child = await parent.cell.start_child(Probe(on_stop=forever), "a", grace=60)
        began = trio.current_time()
        outcome = await ref.stop("enough")
        assert trio.current_time() - began == pytest.approx(10 * CHILDREN_SHARE)
        assert outcome.end == "stopped"
        assert (await child.wait_ended()).end == "killed"
        assert parent.log[-1] == "root:stop"


async def test_cleanup_that_takes_its_shielded_time_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 50):
                await trio.sleep(20)

    probe = Probe()
    async with open_actor(probe, "root", grace=3) as ref:
        probe.cell.start_soon(slow)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        assert (await ref.stop()).end == "stopped"
        assert trio.current_time() - began == pytest.approx(20)


# ------------------------------------------------------------ from above
async def test_a_root_whose_body_is_cancelled_still_ends_in_order() -> None:
    log: list[str] = []
    parent = Probe(log, on_stop=nothing)
    with trio.CancelScope() as scope:
        async with open_actor(parent, "root") as ref:
            child: ProbeRef = await parent.cell.start_child(Probe(log, on_stop=trio.lowlevel.checkpoint), "a")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["root:start", "a:start", "root:stopping", "a:stopping", "a:stop", "root:stop"]
    assert await ref.wait_ended() == Outcome("stopped", "its owner has ended")
    assert (await child.wait_ended()).end == "stopped"


async def test_a_root_that_hangs_is_killed_although_it_is_shielded(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with trio.move_on_after(1) as scope:
        async with open_actor(Probe(on_stop=forever), "root", grace=5) as ref:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(6)
    assert (await ref.wait_ended()).end == "killed"


async def test_a_root_cancelled_while_it_starts_stops_what_it_had_started() -> None:
    log: list[str] = []

    async def start() -> None:
        await probe.cell.start_child(Probe(log), "a")
        scope.cancel()
        await trio.sleep_forever()

    probe = Probe(log, on_start=start)
    with trio.CancelScope() as scope:
        async with open_actor(probe, "root"):
            raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert log == ["a:start", "root:start cut", "a:stopping", "a:stop"]


async def test_a_hard_end_from_above_leaves_no_ask_hanging(nursery: trio.Nursery) -> None:
    """The parent crashes: its children are cancelled in whatever they do."""
    got: dict[str, str] = {}

    async def ask(name: str, ask, work) -> None:  # type: ignore[no-untyped-def]
        try:
            got[name] = await ask(work, timeout=None)
        except ActorDied as exc:
            got[name] = type(exc).__name__

    class Small(Probe):
        mailbox_messages = 1

    root, parent = Probe(), Probe()
    async with open_actor(root, "root"):
        ref = await root.cell.start_child(parent, "parent")
        child = await parent.cell.start_child(Small(), "a")
        for name, how, work in (
            ("deferred", child.do_later, forever),
            ("at work", child.do, forever),
            ("in the mailbox", child.do, nothing),
            ("waits for room", child.do, nothing),
        ):
            nursery.start_soon(ask, name, how, work)
            await trio.testing.wait_all_tasks_blocked()
        assert child.statistics().waiting_senders == 1
        parent.cell.start_soon(crash(ValueError("boom")))
        await ref.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
        assert got == dict.fromkeys(("deferred", "at work", "in the mailbox", "waits for room"), "ActorDied")


async def test_a_crash_during_a_hard_end_is_reported_and_does_not_climb(caplog: pytest.LogCaptureFixture) -> None:
    """A group that mixes Cancelled and a crash: the parent is cancelled already, the crash is the child's own."""

    async def bad_cleanup() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("bad cleanup")

    root, parent, child = Probe(), Probe(), Probe()
    async with open_actor(root, "root") as root_ref:
        ref = await root.cell.start_child(parent, "parent")
        child_ref = await parent.cell.start_child(child, "a")
        child.cell.start_soon(bad_cleanup)
        child.cell.start_soon(forever)
        await trio.testing.wait_all_tasks_blocked()
        parent.cell.start_soon(crash(ValueError("first")))
        outcome = await ref.wait_ended()
        assert isinstance(outcome.error, ValueError), "the parent's end has its own cause only"
        below = await child_ref.wait_ended()
        assert isinstance(below.error, KeyError)
        assert root_ref.state == "running"
    assert "root/parent/a crashed" in caplog.text


async def test_a_crash_and_a_stop_in_the_same_moment(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    parent = Probe()
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(Probe(), "a")
        gate = trio.Event()

        async def fail() -> None:
            await gate.wait()
            raise ValueError("boom")

        ref.probe.cell.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        outcome = await ref.stop("enough")
        assert outcome.end in ("crashed", "stopped")  # the scheduler decides; it is joined either way
        assert ref.state == "ended"


async def test_a_thousand_stops_while_the_owner_is_cancelled(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    ended: list[Outcome] = []
    with trio.CancelScope() as scope:
        async with open_actor(Probe(on_stop=until(gate)), "root") as ref:

            async def stop() -> None:
                ended.append(await ref.stop())

            for _ in range(1000):
                nursery.start_soon(stop)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            gate.set()
    assert scope.cancelled_caught is False  # nothing in the body waited any more
    await trio.testing.wait_all_tasks_blocked()
    assert len(ended) == 1000
    assert {outcome.end for outcome in ended} == {"stopped"}


async def test_a_cancelled_stopper_leaves_and_the_stop_goes_on(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    async with open_actor(Probe(on_stop=until(gate)), "root") as ref:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ref.stop("enough")
        assert scope.cancelled_caught
        assert ref.state == "stopping"
        gate.set()
        assert (await ref.wait_ended()).reason == "enough"


async def test_an_interrupt_from_the_keyboard_goes_through_and_leaves_no_ask(nursery: trio.Nursery) -> None:
    got: list[str] = []

    async def ask() -> None:
        with pytest.raises(ActorDied):
            await ref.do(forever, timeout=None)
        got.append("died")

    parent, child = Probe(), Probe()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_actor(parent, "root"):
            ref = await parent.cell.start_child(child, "a")
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            child.cell.start_soon(crash(KeyboardInterrupt()))
            await trio.sleep_forever()
    assert caught.group_contains(KeyboardInterrupt)
    await trio.testing.wait_all_tasks_blocked()
    assert got == ["died"]


async def test_deferred_work_cannot_be_begun_after_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """The grace ends while a handler that shields itself is at work; the work that it hands on is settled."""

    class Late(Probe):
        async def handle(self, message: object) -> object:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            return self.cell.defer(value("never").__call__)

    parent = Probe()
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(Late(), "a")
        async with trio.open_nursery() as askers:
            got: list[object] = []

            async def ask() -> None:
                try:
                    got.append(await ref.do(nothing))
                except ActorDied as exc:
                    got.append(type(exc).__name__)

            askers.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await ref.stop(grace=1)
        assert got in (["never"], ["ActorDied"])


async def test_a_slow_start_is_bounded_by_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    parent = Probe()
    async with open_actor(parent, "root"):
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError, match="root/a could not be started in 2 s"):
            await parent.cell.start_child(Probe(on_start=seconds(60)), "a", timeout=2)
        assert trio.current_time() - began == pytest.approx(2)
        assert parent.cell.children == ()


async def test_a_crowd_that_hangs_is_killed_in_slices_within_the_grace(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[float] = []
    parent = Probe()
    async with open_actor(parent, "root", grace=100) as ref:
        for number in range(2 * SLICE + 1):
            child = await parent.cell.start_child(Probe(on_stop=forever), str(number), grace=4)
            child.on_end(lambda outcome: ended.append(trio.current_time() - began))
        began = trio.current_time()
        assert (await ref.stop()).end == "stopped"
        assert ended == sorted(ended)
        assert ended[:SLICE] == [pytest.approx(4 - 2 * SLICE_PAUSE)] * SLICE
        assert ended[SLICE : 2 * SLICE] == [pytest.approx(4 - SLICE_PAUSE)] * SLICE
        assert ended[2 * SLICE :] == [pytest.approx(4)]
