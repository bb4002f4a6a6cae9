"""The life of an actor: start, messages, children, stop, crash, what watchers and parents see."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import trio
import trio.testing

from actors._actor import BURST, Actor, Cell, open_actor
from actors._ask import ActorDied, Envelope, Reply
from actors._statistics import Outcome
from tests.actors.probe import Probe, ProbeRef, crash, forever, nothing, seconds, until, value


async def test_a_ref_is_handed_out_when_the_actor_can_be_used(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe(on_start=seconds(3))
    began = trio.current_time()
    async with open_actor(probe, "root") as ref:
        assert trio.current_time() - began == pytest.approx(3)
        assert (ref.state, ref.name, probe.log) == ("running", "root", ["root:start"])
        assert repr(ref) == "<ProbeRef root running>"
        assert repr(probe.cell) == "<Probe root running>"
    assert probe.log == ["root:start", "root:stopping", "root:stop"]
    assert ref.state == "ended"


async def test_a_start_that_raises_is_raised_to_the_starter_as_it_is() -> None:
    probe = Probe(on_start=crash(KeyError("no such table")))
    with pytest.raises(KeyError, match="no such table"):
        async with open_actor(probe, "root"):
            raise AssertionError("not reached")
    assert probe.log == []


async def test_a_start_past_its_deadline_raises_too_slow(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe(on_start=forever)
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError, match="root could not be started in 7 s"):
        async with open_actor(probe, "root", start_timeout=7):
            raise AssertionError("not reached")
    assert trio.current_time() - began == pytest.approx(7)
    assert probe.log == ["root:start cut"]


async def test_what_the_body_raises_comes_out_as_it_is_after_an_orderly_stop() -> None:
    probe = Probe()
    with pytest.raises(KeyError, match="mine"):
        async with open_actor(probe, "root"):
            raise KeyError("mine")
    assert probe.log == ["root:start", "root:stopping", "root:stop"]


async def test_a_message_handed_over_in_the_moment_of_the_stop_is_not_begun() -> None:
    probe = Probe()
    async with open_actor(probe, "root") as ref:
        await trio.testing.wait_all_tasks_blocked()
        asked, told = Reply(), Envelope("told", None)
        await probe.cell.deliver(Envelope("asked", asked))
        await probe.cell.deliver(told)
        probe.cell.request_stop("enough")
        await asked.wait()
        with pytest.raises(ActorDied, match="root has ended: enough"):
            asked.result()
        assert ref.statistics().handled == 0


async def test_messages_are_handled_one_at_a_time_in_order() -> None:
    order: list[int] = []
    at_work = 0

    def job(number: int):  # type: ignore[no-untyped-def]
        async def work() -> None:
            nonlocal at_work
            at_work += 1
            assert at_work == 1
            await trio.lowlevel.checkpoint()
            order.append(number)
            at_work -= 1

        return work

    async with open_actor(Probe(), "root") as ref:
        for number in range(20):
            await ref.tell(job(number))
        await ref.do(nothing)
        assert order == list(range(20))
        assert ref.statistics().handled == 21


async def test_a_flood_of_messages_lets_other_tasks_run(nursery: trio.Nursery) -> None:
    class Roomy(Probe):
        mailbox_messages = 10 * BURST

    flood = 10 * BURST
    handled: list[int] = []
    seen: list[int] = []

    async def look() -> None:
        while len(handled) < flood:
            seen.append(len(handled))
            await trio.lowlevel.checkpoint()

    async def count() -> None:
        handled.append(1)

    async with open_actor(Roomy(), "root") as ref:
        for _ in range(flood):
            await ref.tell(count)
        nursery.start_soon(look)
        await ref.do(nothing)
    assert len(set(seen)) > 1, "the loop did not turn before all were handled"


async def test_an_actor_without_messages_crashes_on_one() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(Actor(), "root") as ref:
            await ref._tell("hello")
            await trio.sleep_forever()
    assert caught.group_contains(AssertionError, match="Actor takes no messages, got str")


# ------------------------------------------------------------ children
async def _parent(log: list[str], *names: str) -> tuple[Probe, dict[str, ProbeRef]]:
    """A parent that starts children in its on_start; the dict is filled by then."""
    refs: dict[str, ProbeRef] = {}

    async def start() -> None:
        for name in names:
            refs[name] = await parent.cell.start_child(Probe(log), name)

    parent = Probe(log, on_start=start)
    return parent, refs


async def test_children_are_stopped_together_between_the_two_hooks_of_their_parent() -> None:
    log: list[str] = []
    meeting = trio.testing.Sequencer()

    async def first() -> None:
        async with meeting(0):
            pass
        async with meeting(2):
            pass

    async def second() -> None:
        async with meeting(1):
            pass

    parent = Probe(log)
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(Probe(log, on_stop=first), "a")
        assert ref.probe.cell.path == "root/a"
        await parent.cell.start_child(Probe(log, on_stop=second), "b")
        log.clear()
    assert log[0] == "root:stopping"
    assert sorted(log[1:-1]) == ["a:stop", "a:stopping", "b:stop", "b:stopping"]
    assert log[-1] == "root:stop"
    assert sorted((name, outcome.end) for name, outcome in parent.told) == [("a", "stopped"), ("b", "stopped")]


async def test_a_childs_crash_is_told_to_its_parent_and_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    parent, refs = await _parent([], "a", "b")
    async with open_actor(parent, "root") as ref:
        with pytest.raises(ActorDied, match="root/a ended while it worked on Do"):
            await refs["a"].do(crash(ValueError("boom")))
        outcome = await refs["a"].wait_ended()
        assert (outcome.end, outcome.reason) == ("crashed", "ValueError: boom")
        assert isinstance(outcome.error, ValueError)
        assert parent.told == [("a", outcome)]
        assert await refs["b"].do(value(5)) == 5
        assert ref.state == "running"
        assert [child.name for child in parent.cell.children] == ["b"]
    assert "root/a crashed" in caplog.text


async def test_a_name_is_free_again_when_its_child_has_ended() -> None:
    parent, refs = await _parent([], "a")
    async with open_actor(parent, "root"):
        with pytest.raises(AssertionError, match="has a child a already"):
            await parent.cell.start_child(Probe(), "a")
        await refs["a"].stop()
        again = await parent.cell.start_child(Probe(), "a")
        assert await again.do(value("new")) == "new"
        with pytest.raises(ActorDied):
            await refs["a"].do(value("old"))


async def test_a_failed_start_of_a_child_is_raised_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    parent, _ = await _parent([])
    async with open_actor(parent, "root"):
        with pytest.raises(LookupError, match="no device"):
            await parent.cell.start_child(Probe(on_start=crash(LookupError("no device"))), "a")
        assert parent.cell.children == ()
        assert parent.told[0][1].end == "crashed"
    assert "crashed" not in caplog.text, "the starter knows: it is not logged as well"


async def test_a_failed_start_stops_the_children_that_it_had_started_with_their_hooks() -> None:
    log: list[str] = []

    async def start() -> None:
        for name in "ab":
            await parent.cell.start_child(Probe(log, on_stop=trio.lowlevel.checkpoint), name)
        raise LookupError("late")

    parent = Probe(log, on_start=start)
    with pytest.raises(LookupError, match="late"):
        async with open_actor(parent, "root"):
            raise AssertionError("not reached")
    assert log[:2] == ["a:start", "b:start"]
    assert sorted(log[2:]) == ["a:stop", "a:stopping", "b:stop", "b:stopping"]


async def test_a_child_that_ends_before_its_starter_looks_is_no_failed_start() -> None:
    async def start() -> None:
        child.cell.start_soon(end)

    async def end() -> None:
        child.cell.finish("had little to do")

    child = Probe(on_start=start)
    parent, _ = await _parent([])
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(child, "a")
        assert await ref.wait_ended() == Outcome("finished", "had little to do")


async def test_a_child_that_crashes_before_its_starter_looks_is_no_failed_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def start() -> None:
        child.cell.start_soon(crash(ValueError("at once")))

    child = Probe(on_start=start)
    parent, _ = await _parent([])
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(child, "a")
        assert (await ref.wait_ended()).end == "crashed"
    assert "root/a crashed" in caplog.text


# ------------------------------------------------------------ stop and crash
async def test_stop_is_joined_and_every_caller_sees_the_same_end(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    outcomes: list[Outcome] = []
    async with open_actor(Probe(on_stop=until(gate)), "root") as ref:

        async def stop(reason: str) -> None:
            outcomes.append(await ref.stop(reason))

        for number in range(1000):
            nursery.start_soon(stop, f"reason {number}")
        await trio.testing.wait_all_tasks_blocked()
        assert (outcomes, ref.state) == ([], "stopping")
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(outcomes) == 1000
        assert len(set(map(id, outcomes))) == 1
        assert await ref.stop("once more") is outcomes[0]
        assert outcomes[0].end == "stopped"


async def test_finish_ends_like_a_stop_with_an_outcome_of_its_own() -> None:
    probe = Probe()

    async def finish() -> str:
        probe.cell.finish("all done")
        return "last words"

    async with open_actor(probe, "root") as ref:
        assert await ref.do(finish) == "last words"
        assert await ref.wait_ended() == Outcome("finished", "all done")
        assert probe.log == ["root:start", "root:stopping", "root:stop"]
        assert probe.cell.stop_reason == "all done"


async def test_a_stopping_actor_takes_nothing_more_and_starts_no_children(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    probe = Probe(on_stopping=until(gate))
    async with open_actor(probe, "root") as ref:
        nursery.start_soon(ref.stop, "enough")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ActorDied, match="root has ended: enough"):
            await ref.do(nothing)
        with pytest.raises(ActorDied):
            await ref.tell(nothing)
        with pytest.raises(ActorDied, match="root is stopping: it starts no children"):
            await probe.cell.start_child(Probe(), "late")
        gate.set()


async def test_the_message_at_work_is_finished_within_the_grace_and_its_asker_answered(
    nursery: trio.Nursery,
) -> None:
    gate = trio.Event()
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await ref.do(until(gate, "answered")))

    async with open_actor(Probe(), "root") as ref:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ref.stop)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await ref.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
    assert answers == ["answered"]


@pytest.mark.parametrize("where", ["on_stopping", "on_stop"])
async def test_a_crash_while_stopping_is_the_outcome(where: str, caplog: pytest.LogCaptureFixture) -> None:
    parent, _ = await _parent([])
    child = Probe(**{where: crash(ValueError("bad end"))})
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(child, "a")
        outcome = await ref.stop()
    assert (outcome.end, outcome.reason) == ("crashed", "ValueError: bad end")
    assert "root/a crashed" in caplog.text


async def test_a_crash_of_the_root_cancels_the_body_and_is_raised() -> None:
    probe = Probe()

    async def start() -> None:
        probe.cell.start_soon(crash(ValueError("boom")))

    probe._hooks["start"] = start
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(probe, "root") as ref:
            await trio.sleep_forever()
    assert caught.group_contains(ValueError, match="boom", depth=1)
    assert (await ref.wait_ended()).end == "crashed"


async def test_a_crash_cancels_children_and_background_tasks() -> None:
    log: list[str] = []
    parent, _ = await _parent([])
    async with open_actor(parent, "root"):
        middle = Probe(log)
        ref = await parent.cell.start_child(middle, "middle")
        child = await middle.cell.start_child(Probe(log), "leaf")
        with pytest.raises(ActorDied):
            await ref.do(crash(ValueError("boom")))
        assert (await ref.wait_ended()).end == "crashed"
        assert await child.wait_ended() == Outcome("killed", "an enclosing scope was cancelled")
        assert log == ["middle:start", "leaf:start"]


async def test_several_crashes_at_once_are_one_outcome_with_all_of_them() -> None:
    probe = Probe()
    gate = trio.Event()

    async def fail(error: Exception) -> None:
        try:
            await gate.wait()
        finally:
            raise error

    parent, _ = await _parent([])
    async with open_actor(parent, "root"):
        ref = await parent.cell.start_child(probe, "a")
        probe.cell.start_soon(fail, ValueError("one"))
        probe.cell.start_soon(fail, KeyError("two"))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        outcome = await ref.wait_ended()
    assert outcome.end == "crashed"
    assert isinstance(outcome.error, ExceptionGroup)
    assert sorted(type(error).__name__ for error in outcome.error.exceptions) == ["KeyError", "ValueError"]


# ------------------------------------------------------------ watchers
async def test_watchers_are_called_once_in_order_also_when_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    def bad(outcome: Outcome) -> None:
        seen.append("bad")
        raise RuntimeError("a stranger's defect")

    async with open_actor(Probe(), "root") as ref:
        ref.on_end(lambda outcome: seen.append(("first", outcome.reason)))
        ref.on_end(bad)
        ref.on_end(lambda outcome: seen.append(("last", outcome.reason)))
        forget = ref.on_end(lambda outcome: seen.append("forgotten"))
        forget()
        forget()
        await ref.stop("enough")
    assert seen == [("first", "enough"), "bad", ("last", "enough")]
    assert "a stranger's defect" in caplog.text
    ref.on_end(lambda outcome: seen.append("after"))()
    assert seen[3:] == ["after"]


async def test_a_watcher_that_forgets_others_while_it_is_called_skips_nobody() -> None:
    seen: list[str] = []
    async with open_actor(Probe(), "root") as ref:
        forgets = []

        def first(outcome: Outcome) -> None:
            seen.append("first")
            for forget in forgets:
                forget()

        forgets.append(ref.on_end(first))
        forgets.append(ref.on_end(lambda outcome: seen.append("second")))
        forgets.append(ref.on_end(lambda outcome: seen.append("third")))
    assert seen == ["first", "second", "third"]


async def test_a_parent_whose_notice_raises_crashes_itself_and_the_stop_returns() -> None:
    class Bad(Probe):
        def on_child_end(self, child: Cell, outcome: Outcome) -> None:
            raise RuntimeError("cannot take it")

    bad = Bad()
    with pytest.raises(ExceptionGroup) as caught:
        async with open_actor(bad, "root"):
            ref = await bad.cell.start_child(Probe(), "a")
            assert (await ref.stop()).end == "stopped"
            await trio.sleep_forever()
    assert caught.group_contains(RuntimeError, match="cannot take it")


# ------------------------------------------------------------ what it shows and holds
async def test_statistics_and_tree_show_what_is_there(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    parent, refs = await _parent([], "a", "b")
    async with open_actor(parent, "root") as ref:
        nursery.start_soon(refs["a"].do, until(gate))
        await trio.testing.wait_all_tasks_blocked()
        await refs["a"].tell(nothing)
        shown = refs["a"].statistics()
        assert (shown.mailbox, shown.waiting_senders, shown.handled, shown.state) == (1, 0, 1, "running")
        assert ref.tree() == {
            "kind": "Probe",
            "state": "running",
            "children": {
                "a": {"kind": "Probe", "state": "running", "mailbox": 1},
                "b": {"kind": "Probe", "state": "running"},
            },
        }
        gate.set()


async def test_a_large_tree_is_cut_and_says_how_much() -> None:
    parent, _ = await _parent([])
    async with open_actor(parent, "root") as ref:
        for number in range(2600):
            await parent.cell.start_child(Actor(), str(number))
        tree = ref.tree()
        assert (len(tree["children"]), tree["more"]) == (2499, 101)


async def test_an_ended_actor_is_freed_with_its_last_ref_without_a_collection() -> None:
    parent, _ = await _parent([])
    async with open_actor(parent, "root"):
        gc.collect()
        gc.disable()
        try:
            ref = await parent.cell.start_child(Probe(), "a")
            watched = weakref.ref(ref.probe)
            assert await ref.do(value(1)) == 1
            await ref.stop()
            assert watched() is not None, "what a Ref shows after the end is still there"
            del ref
            parent.told.clear()
            await trio.lowlevel.checkpoint()
            assert watched() is None
        finally:
            gc.enable()


async def test_an_engine_error_of_a_told_message_is_logged_and_the_actor_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from engine.errors import CallerError

    with caplog.at_level(logging.WARNING):
        async with open_actor(Probe(), "root") as ref:
            await ref.tell(crash(CallerError("unknown_run", "no run x")))
            assert await ref.do(value(1)) == 1
    assert "root refused Do: no run x" in caplog.text
