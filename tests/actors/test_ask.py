"""Asks that are answered: values, errors, deferred work, ActorDied, deadlines, back-pressure."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors._actor import open_actor
from actors._ask import ActorDied, AskTimeout
from engine.errors import CallerError, PeerError
from tests.actors.probe import Probe, crash, forever, nothing, seconds, until, value


class Asks:
    """Asks under way; what each got, by its name."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.got: dict[str, object] = {}

    def start(self, name: str, ask, *arguments, **options) -> None:  # type: ignore[no-untyped-def]
        async def run() -> None:
            try:
                self.got[name] = await ask(*arguments, **options)
            except Exception as exc:  # noqa: BLE001 - the result is what is looked at
                self.got[name] = exc

        self._nursery.start_soon(run)

    def kinds(self) -> dict[str, str]:
        return {name: type(result).__name__ for name, result in self.got.items()}


@pytest.fixture
def asks(nursery: trio.Nursery) -> Asks:
    return Asks(nursery)


async def test_an_ask_gets_the_value() -> None:
    async with open_actor(Probe(), "root") as ref:
        assert await ref.do(value({"a": 1})) == {"a": 1}
        assert await ref.do(value(None)) is None
        assert await ref.do_later(value("later")) == "later"


async def test_an_engine_error_goes_to_the_asker_and_the_actor_lives_on() -> None:
    error = PeerError("tool_error", "it broke", retry=True, tool="x")
    async with open_actor(Probe(), "root") as ref:
        with pytest.raises(PeerError) as caught:
            await ref.do(crash(error))
        assert (caught.value.code, caught.value.message, caught.value.data) == ("tool_error", "it broke", {"tool": "x"})
        assert caught.value.retry is True
        assert await ref.do(value(1)) == 1


async def test_two_askers_who_get_the_same_error_each_get_a_copy_of_their_own(asks: Asks) -> None:
    cause = OSError("disk")
    error = PeerError("disk_full", "the commit failed")
    error.__cause__ = cause
    async with open_actor(Probe(), "root") as ref:
        asks.start("a", ref.do_later, crash(error))
        asks.start("b", ref.do_later, crash(error))
        await trio.testing.wait_all_tasks_blocked()
    first, second = asks.got["a"], asks.got["b"]
    assert isinstance(first, PeerError)
    assert isinstance(second, PeerError)
    assert first is not second
    assert str(first) == str(second) == str(error)
    assert first.__cause__ is second.__cause__ is cause
    assert first.__traceback__ is not second.__traceback__


async def test_a_crash_fails_the_asker_at_work_and_all_who_wait(asks: Asks) -> None:
    gate = trio.Event()

    async def explode() -> None:
        await gate.wait()
        raise ValueError("boom")

    class Small(Probe):
        mailbox_messages = 2

    parent, small = Probe(), Small()
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(small, "a")
        asks.start("at work", ref.do, explode)
        await trio.testing.wait_all_tasks_blocked()
        for name in ("in the mailbox 1", "in the mailbox 2", "waits for room 1", "waits for room 2"):
            asks.start(name, ref.do, nothing)
            await trio.testing.wait_all_tasks_blocked()
        shown = ref.statistics()
        assert (shown.mailbox, shown.mailbox_bound, shown.waiting_senders) == (2, 2, 2)
        gate.set()
        await ref.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
        assert set(asks.kinds().values()) == {"ActorDied"}
        assert len(asks.got) == 5
        with pytest.raises(ActorDied, match="root/a has ended: ValueError: boom"):
            await ref.do(nothing)


async def test_stop_fails_asks_that_were_not_begun_at_once_and_senders_that_wait(asks: Asks) -> None:
    class Small(Probe):
        mailbox_messages = 1

    gate = trio.Event()
    async with open_actor(Small(), "root") as ref:
        asks.start("at work", ref.do, until(gate, "answered"))
        await trio.testing.wait_all_tasks_blocked()
        asks.start("in the mailbox", ref.do, nothing)
        await trio.testing.wait_all_tasks_blocked()
        asks.start("waits", ref.do, nothing)
        asks.start("tells", ref.tell, nothing)
        await trio.testing.wait_all_tasks_blocked()
        asks.start("stops", ref.stop, "enough")
        await trio.testing.wait_all_tasks_blocked()
        assert asks.kinds() == {"in the mailbox": "ActorDied", "waits": "ActorDied", "tells": "ActorDied"}
        assert str(asks.got["waits"]) == "root has ended: enough"
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert asks.got["at work"] == "answered"


async def test_a_full_mailbox_makes_tell_wait(asks: Asks) -> None:
    class Small(Probe):
        mailbox_messages = 1

    gate = trio.Event()
    async with open_actor(Small(), "root") as ref:
        asks.start("at work", ref.do, until(gate))
        await trio.testing.wait_all_tasks_blocked()
        await ref.tell(nothing)
        asks.start("waits", ref.tell, nothing)
        await trio.testing.wait_all_tasks_blocked()
        assert "waits" not in asks.got
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert asks.got == {"at work": None, "waits": None}


async def test_an_ask_past_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with open_actor(Probe(), "root") as ref:
        began = trio.current_time()
        with pytest.raises(AskTimeout, match="root did not answer Do in 3 s"):
            await ref.do(seconds(5), timeout=3)
        assert trio.current_time() - began == pytest.approx(3)
        assert await ref.do(value("fine")) == "fine"  # after the first message: it was not cut
        assert trio.current_time() - began == pytest.approx(5)


async def test_the_deadline_of_an_ask_counts_the_wait_for_room(autojump_clock: trio.testing.MockClock) -> None:
    class Small(Probe):
        mailbox_messages = 1

    async with open_actor(Small(), "root", grace=1) as ref:
        await ref.tell(forever)
        await trio.testing.wait_all_tasks_blocked()
        await ref.tell(nothing)
        began = trio.current_time()
        with pytest.raises(AskTimeout):
            await ref.do(nothing, timeout=2)
        assert trio.current_time() - began == pytest.approx(2)
        assert ref.statistics().waiting_senders == 0


async def test_an_ask_without_deadline_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with open_actor(Probe(), "root") as ref:
        began = trio.current_time()
        await ref.do(seconds(100_000), timeout=None)
        assert trio.current_time() - began == pytest.approx(100_000)


async def test_an_answer_in_the_moment_of_the_deadline_is_not_lost(autojump_clock: trio.testing.MockClock) -> None:
    class Small(Probe):
        mailbox_messages = 1

    async with open_actor(Small(), "root") as ref:
        with trio.CancelScope() as scope:

            async def cancel_the_asker() -> str:
                scope.cancel()
                return "answered all the same"

            # The envelope is taken and answered while the asker still sleeps in the mailbox's queue of senders.
            await ref.tell(seconds(1))
            await trio.testing.wait_all_tasks_blocked()
            await ref.tell(nothing)
            assert await ref.do(cancel_the_asker) == "answered all the same"


# ------------------------------------------------------------ deferred work
async def test_deferred_work_lets_the_mailbox_go_on(asks: Asks) -> None:
    gate = trio.Event()
    async with open_actor(Probe(), "root") as ref:
        asks.start("slow", ref.do_later, until(gate, "slow"))
        await trio.testing.wait_all_tasks_blocked()
        assert await ref.do(value("quick")) == "quick"
        assert asks.got == {}
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert asks.got == {"slow": "slow"}


@pytest.mark.parametrize("error", [CallerError("unknown_run", "no"), KeyError("a defect"), ActorDied("another")])
async def test_whatever_deferred_work_raises_goes_to_the_asker_and_nowhere_else(error: Exception) -> None:
    async with open_actor(Probe(), "root") as ref:
        with pytest.raises(type(error)) as caught:
            await ref.do_later(crash(error))
        assert str(caught.value) == str(error)
        assert await ref.do(value(1)) == 1


async def test_deferred_work_that_nobody_asked_for_is_logged_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Teller(Probe):
        async def handle(self, message: object) -> object:
            return self.cell.defer(crash(KeyError("quiet defect")))

    async with open_actor(Teller(), "root") as ref:
        await ref.tell(nothing)
        await trio.testing.wait_all_tasks_blocked()
        assert ref.state == "running"
    assert "quiet defect" in caplog.text


async def test_deferred_work_is_cut_when_the_actor_has_stopped(asks: Asks) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cut")

    async def on_stop() -> None:
        assert ended == []  # it still has the actor's grace

    async with open_actor(Probe(on_stop=on_stop), "root") as ref:
        asks.start("slow", ref.do_later, work)
        await trio.testing.wait_all_tasks_blocked()
        outcome = await ref.stop("enough")
        assert (outcome.end, ended) == ("stopped", ["cut"])
        await trio.testing.wait_all_tasks_blocked()
        assert str(asks.got["slow"]) == "root has ended: enough"


async def test_deferred_work_is_cut_when_the_actor_crashes(asks: Asks) -> None:
    parent = Probe()
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(Probe(), "a")
        asks.start("slow", ref.do_later, forever)
        await trio.testing.wait_all_tasks_blocked()
        asks.start("crash", ref.do, crash(ValueError("boom")))
        await ref.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
    assert asks.kinds() == {"slow": "ActorDied", "crash": "ActorDied"}
