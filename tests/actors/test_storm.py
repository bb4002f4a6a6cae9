"""Random asks, tells, stops, crashes and cancellations at once: nothing hangs, nothing is left, and every ask ends
in exactly one way. Seeded; what holds does not depend on the order in which the scheduler runs the tasks."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
import trio.testing

from actors._actor import Actor, open_actor
from actors._ask import ActorDied, AskTimeout
from actors._supervisor import ChildSpec, Supervisor, SupervisorRef
from engine.errors import CallerError
from engine.restart import Backoff
from tests.actors.probe import Probe, ProbeRef

ACTORS = 12
ASKERS = 30
ASKS = 25
SLOWEST = 50.0  # seconds of the mock clock: beyond some asks' deadlines and all graces


class Small(Probe):
    mailbox_messages = 3


class Storm:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.begun = 0
        self.ended: Counter[str] = Counter()
        self.working = 0

    async def work(self) -> str:
        """What a message makes an actor do: answer, refuse, wait, or crash; sometimes slow to be cancelled."""
        self.working += 1
        try:
            kind = self.random.random()
            if kind < 0.3:
                await trio.lowlevel.checkpoint()
            elif kind < 0.5:
                await trio.sleep(self.random.uniform(0, SLOWEST))
            elif kind < 0.6:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.random.uniform(0, 1))
            elif kind < 0.75:
                raise CallerError("unknown_run", "no such run")
            elif kind < 0.78:
                raise ValueError("a crash")
            return "value"
        finally:
            self.working -= 1

    async def ask(self, supervisor: SupervisorRef) -> None:
        for _ in range(ASKS):
            self.begun += 1
            with trio.move_on_after(self.random.choice([2.0, 1000.0])) as scope:
                self.ended[await self._outcome(supervisor)] += 1
            if scope.cancelled_caught:
                self.ended["cancelled"] += 1

    async def _outcome(self, supervisor: SupervisorRef) -> str:
        try:
            ref: ProbeRef = supervisor.child(str(self.random.randrange(ACTORS)))
            how = ref.do_later if self.random.random() < 0.4 else ref.do
            join = self.random.random() < 0.3
            return str(await how(self.work, timeout=self.random.choice([5.0, None]), join=join))
        except (ActorDied, AskTimeout, CallerError, ValueError) as exc:
            return type(exc).__name__

    async def meddle(self, supervisor: SupervisorRef) -> None:
        for _ in range(ASKS):
            await trio.sleep(self.random.uniform(0, 4))
            try:
                ref: ProbeRef = supervisor.child(str(self.random.randrange(ACTORS)))
                match self.random.randrange(3):
                    case 0:
                        await ref.stop("meddling", grace=self.random.choice([0, 1, None]))
                    case 1:
                        with trio.move_on_after(self.random.uniform(0, 3)):
                            await ref.tell(self.work)
                    case 2:
                        ref.probe.cell.start_soon(self.work)
            except ActorDied:
                pass


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_every_ask_ends_in_exactly_one_way_and_nothing_is_left(
    seed: int, end: str, autojump_clock: trio.testing.MockClock
) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    storm = Storm(seed)
    specs = [ChildSpec(name=str(number), factory=Small, grace=3.0) for number in range(ACTORS)]
    strategy = storm.random.choice(["one_for_one", "one_for_all", "rest_for_one"])
    supervisor = Supervisor(
        specs, strategy=strategy, intensity=(10_000, 5.0), backoff=Backoff(0.5, 2.0), draw=storm.random.random
    )
    with trio.fail_after(100_000):
        async with trio.open_nursery() as askers:
            with trio.CancelScope() as owner:
                async with open_actor(supervisor, "root", grace=60.0) as ref:
                    for _ in range(ASKERS):
                        askers.start_soon(storm.ask, ref)
                    askers.start_soon(storm.meddle, ref)
                    await trio.sleep(storm.random.uniform(5, 60))
                    if end == "stop":
                        await ref.stop("enough")
                    else:
                        owner.cancel()
                        await trio.lowlevel.checkpoint()
            assert (await ref.wait_ended()).end == "stopped"
            assert storm.working == 0, "work of an actor outlived it"
    assert storm.begun == sum(storm.ended.values()) == ASKERS * ASKS
    assert set(storm.ended) <= {"value", "ActorDied", "AskTimeout", "CallerError", "ValueError", "cancelled"}
    assert len(storm.ended) >= 5, "a storm that stirs little proves little"
    assert trio.lowlevel.current_statistics().tasks_living == tasks, "tasks are left"


@pytest.mark.parametrize("seed", range(6))
async def test_children_added_and_removed_by_many_at_once(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    draw = random.Random(seed)

    async def start() -> None:
        if draw.random() < 0.3:
            await trio.sleep(draw.uniform(0, 20))
        if draw.random() < 0.2:
            raise LookupError("no device")

    async def churn(name: str) -> None:
        for _ in range(20):
            child = ChildSpec(name=name, factory=lambda: Probe(on_start=start), restart="transient")
            with trio.move_on_after(draw.uniform(0, 15)):
                try:
                    (added,) = await ref.add(child)
                    if draw.random() < 0.5:
                        added.probe.cell.start_soon(_crash)
                        await trio.sleep(draw.uniform(0, 2))
                except (LookupError, ActorDied):
                    pass
            await ref.remove(name)
            assert name not in [cell.name for cell in supervisor.cell.children]

    async def _crash() -> None:
        raise ValueError("a crash")

    strategy = draw.choice(["one_for_one", "one_for_all", "rest_for_one"])
    supervisor = Supervisor(strategy=strategy, intensity=(10_000, 5.0), backoff=Backoff(0.5, 4.0), draw=draw.random)
    with trio.fail_after(100_000):
        async with open_actor(supervisor, "root", grace=60.0) as ref, trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(churn, str(number))
        assert (await ref.wait_ended()).end == "stopped"


async def test_a_thousand_actors_stopped_by_a_thousand_tasks_while_asked(nursery: trio.Nursery) -> None:
    ended: Counter[str] = Counter()

    class Idle(Actor):
        async def handle(self, message: object) -> object:
            await trio.lowlevel.checkpoint()
            return message

    async def ask(child) -> None:  # type: ignore[no-untyped-def]
        try:
            ended[await child._ask("hello", timeout=None)] += 1
        except ActorDied:
            ended["ActorDied"] += 1

    async def stop(child) -> None:  # type: ignore[no-untyped-def]
        ended[(await child.stop()).end] += 1

    async with open_actor(Supervisor(ordered=False), "root") as ref:
        specs = [ChildSpec(name=str(number), factory=Idle, restart="temporary") for number in range(1000)]
        children = await ref.add(*specs)
        async with trio.open_nursery() as crowd:
            for child in children:
                crowd.start_soon(ask, child)
                crowd.start_soon(ask, child)
                crowd.start_soon(stop, child)
        assert ref.statistics().children == 0
    assert ended["stopped"] == 1000
    assert ended["hello"] + ended["ActorDied"] == 2000
