"""Starts, ends and what comes between, at each checkpoint. The disk has no thread here (tests/actors/still.py), so that
a number of checkpoints is a place in the work of the others."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine import ids
from engine.commands import StartRun
from engine.errors import CallerError
from engine.runs.events import RunFinished
from tests.actors.scripted import Call, check_seq, kinds, log_of, of, staged
from tests.actors.still import Still, StillStage, still

__all__ = ["staged", "still"]

BEYOND = 3  # so many places behind the last one are tried too: nothing goes on there any more


class Race:
    """One session in which a run is started under an id that is known before."""

    def __init__(self, it: StillStage, session_id: str, run_id: str) -> None:
        self.it = it
        self.session_id = session_id
        self.run_id = run_id
        self.told: dict[str, Any] = {}  # by who asked: a record, or an error's code

    async def ask(self, name: str, method: Any, *arguments: Any) -> None:
        try:
            self.told[name] = await method(*arguments)
        except CallerError as exc:
            self.told[name] = exc.code

    async def start(self, name: str = "start", when_busy: Any = "reject") -> None:
        start = StartRun(session_id=self.session_id, input=(name,), when_busy=when_busy)
        await self.ask(name, self.it.stage.registry.start_run, start)


async def checkpoints(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def race(it: StillStage, monkeypatch: pytest.MonkeyPatch, number: int) -> Race:
    session = await it.stage.engine.create_session()
    run_id = f"run_known_{number}"
    made = iter([run_id])
    monkeypatch.setattr(ids, "run_id", lambda: next(made, None) or ids.new_id("run"))
    return Race(it, session.id, run_id)


async def check_quiet(it: StillStage, session_id: str) -> None:
    """Nothing of any run is under way, and those of the session have ended once."""
    await wait_all_tasks_blocked()
    assert it.stage.runs_in_tree() == [] and it.stage.models.open_now == 0
    assert it.stage.registry.registry_statistics().active_runs == 0
    assert not it.actor._admission._starting and not it.actor._opening
    assert (await it.stage.store.list_runs(None, True, 100)).items == ()
    for feed in [feed for feed in it.actor._runs.values() if feed.run.session_id == session_id]:
        found = log_of(feed)
        check_seq(found)
        assert feed.ended and kinds(found).count("run.finished") == 1 and kinds(found)[-1] == "run.finished"
        assert of(found, RunFinished)[0].status == feed.run.status
        assert await it.stage.store.get_run(feed.run.id) == feed.run


async def test_stop_at_each_checkpoint_of_a_start(
    still: Still, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with still() as it:
        outcomes: Counter[str] = Counter()
        for number in itertools.count():
            one = await race(it, monkeypatch, number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.start)
                await checkpoints(number)
                over = "start" in one.told and it.stage.models.open_now == 1
                await one.ask("stop", it.stage.registry.stop_run, one.run_id)
                if one.told["stop"] != "unknown_run":
                    assert one.told["stop"].status == "cancelled", "stopped is stopped"
                    assert one.run_id not in it.stage.runs_in_tree()
            outcomes["unknown" if one.told["stop"] == "unknown_run" else "cancelled"] += 1
            assert one.told["start"].run.id == one.run_id
            record = await it.stage.registry.stop_run(one.run_id)  # one that was not known then is stopped now
            assert record.status == "cancelled"
            await check_quiet(it, one.session_id)
            await it.stage.usable(one.session_id)
            outcomes["over"] += over
            if outcomes["over"] == BEYOND:
                break
        assert outcomes["unknown"] >= 3 and outcomes["cancelled"] >= BEYOND, outcomes


async def test_delete_at_each_checkpoint_of_a_start(
    still: Still, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with still() as it:
        outcomes: Counter[str] = Counter()
        for number in itertools.count():
            one = await race(it, monkeypatch, number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.start)
                await checkpoints(number)
                over = "start" in one.told and it.stage.models.open_now == 1
                await one.ask("delete", it.stage.registry.delete_session, one.session_id)
                assert one.told["delete"] is None, "deleted is deleted"
            outcomes["started" if not isinstance(one.told["start"], str) else one.told["start"]] += 1
            await check_quiet(it, one.session_id)
            assert it.held() == [], "a run without a session"
            for ask in (it.stage.registry.get_run, it.stage.registry.stop_run, it.stage.registry.watch_run):
                with pytest.raises(CallerError):
                    await ask(one.run_id)
            outcomes["over"] += over
            if outcomes["over"] == BEYOND:
                break
        assert set(outcomes) == {"started", "unknown_session", "over"}, outcomes


@pytest.mark.parametrize("when_busy", ["reject", "queue", "steer", "interrupt"])
async def test_a_second_start_at_each_checkpoint_of_a_start(
    still: Still, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, when_busy: str
) -> None:
    async with still() as it:
        outcomes: Counter[str] = Counter()
        for number in itertools.count():
            one = await race(it, monkeypatch, number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.start)
                await checkpoints(number)
                over = "start" in one.told and it.stage.models.open_now == 1
                await one.start("second", when_busy)
            first, second = one.told["start"], one.told["second"]
            assert it.stage.models.open_now <= 1, "two runs of a session at work"
            if second == "session_busy" or first == "session_busy":
                outcomes["refused"] += 1
            elif first.run.id == second.run.id:
                outcomes["steered"] += 1
            else:
                outcomes[second.run.status] += 1
            await finish_all(it, one.session_id)
            await check_quiet(it, one.session_id)
            said = [
                m["parts"][0]["text"] for m in await it.stage.messages(one.session_id) if m["info"]["role"] == "user"
            ]
            accepted = [name for name in ("start", "second") if not isinstance(one.told[name], str)]
            assert sorted(said) == sorted(accepted), "each accepted message is there once"
            outcomes["over"] += over
            if outcomes["over"] == BEYOND:
                break
        expected = {"reject": "refused", "queue": "queued", "steer": "steered", "interrupt": "running"}[when_busy]
        assert outcomes[expected] >= BEYOND, outcomes


async def finish_all(it: StillStage, session_id: str) -> None:
    """Let the models answer until no run of the session is active or waits."""
    while True:
        await wait_all_tasks_blocked()
        with contextlib.suppress(trio.WouldBlock):
            while True:
                call: Call = it.stage.models._calls.receive_nowait()
                if not call.closed.is_set():
                    call.text("fine")
                    call.end()
                    break
            continue
        # Nothing goes on now that is not waited for by a model's call.
        assert not (await it.stage.store.list_runs(session_id, True, 10)).items, "a run waits that nobody begins"
        return


LEAD = 16  # so many checkpoints earlier than the end another may ask: more than any of the asks takes


@pytest.mark.parametrize("asked", ["stop", "interrupt", "queue", "steer", "reject", "delete"])
async def test_each_checkpoint_of_an_end(still: Still, mock_clock: MockClock, asked: str) -> None:
    """The run ends by itself while another asks: from long before to long after."""
    async with still(passivate_after=1e6) as it:
        outcomes: Counter[str] = Counter()
        for place in itertools.count(-LEAD):
            run, call = await it.stage.begin()
            call.text("all of it")
            await wait_all_tasks_blocked()
            one = Race(it, run.record.session_id, run.id)

            async def ask(one: Race = one) -> None:
                if asked == "stop":
                    await one.ask("more", it.stage.registry.stop_run, one.run_id)
                elif asked == "delete":
                    await one.ask("more", it.stage.registry.delete_session, one.session_id)
                else:
                    await one.start("more", asked)

            async with trio.open_nursery() as nursery:
                if place < 0:
                    nursery.start_soon(ask)
                    await checkpoints(-place)
                    call.end()
                else:
                    call.end()
                    await checkpoints(place)
                    over = run._feed.ended and it.stage.runs_in_tree() == []
                    outcomes["over"] += over
                    nursery.start_soon(ask)
            told = one.told["more"]
            if asked == "stop":
                assert told == run.record and told.status in ("completed", "cancelled")
                outcomes[told.status] += 1
            elif asked == "delete":
                assert told is None and run._feed.closed == "deleted"
            else:
                outcomes[told if isinstance(told, str) else "steered" if told.run.id == run.id else "started"] += 1
                await finish_all(it, one.session_id)
            await check_quiet(it, one.session_id)
            if asked != "delete":
                messages = await it.stage.messages(one.session_id)
                said = [m["parts"][0]["text"] for m in messages if m["info"]["role"] == "user"]
                assert said == ["hello"] + ["more"] * (asked != "stop" and told != "session_busy")
                assert [part["text"] for part in messages[1]["parts"] if part["kind"] == "text"] == ["all of it"]
            if asked == "stop":
                await it.stage.usable(one.session_id)
            if outcomes["over"] == BEYOND:
                break
        if asked != "delete":
            early, late = {
                "stop": ("cancelled", "completed"),
                "steer": ("steered", "started"),
                "reject": ("session_busy", "started"),
                "queue": ("started", "started"),
                "interrupt": ("started", "started"),
            }[asked]
            assert outcomes[early] >= BEYOND and outcomes[late] >= BEYOND, outcomes
