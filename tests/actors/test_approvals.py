"""Calls that a person is asked about: shown to every client, decided once, by a person or by what else ends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._feed import Bell
from actors.api import RunHandle
from engine.config import Permissions
from engine.errors import CallerError, PeerError
from engine.limits import KIB
from engine.providers.base import AnswerFinished, ToolCallStarted, ToolInputDelta
from engine.runs.approvals import Resolution
from engine.runs.events import ApprovalRequested, ApprovalResolved, Numbered, RunStatus
from tests.actors.scripted import Call, Stage, Staged, check_seq, kinds, of, shown, staged, until, until_kind

__all__ = ["staged"]

ASK = Permissions(ask=("functions",))
DONE: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


async def work(what: str = "") -> str:
    """Does its work."""
    DONE.append(what)
    return f"did {what}"


def watch(run: RunHandle) -> None:
    """Somebody is there to be asked."""
    run._feed.attach(Bell().ring)


async def asked(stage: Stage, *calls: tuple[str, str], watched: bool = True) -> tuple[RunHandle, Call, list[str]]:
    """A run whose calls of `work` wait for a person; its call ids in order."""
    run, call = await stage.begin()
    if watched:
        watch(run)
    call.tools(*(calls or (("functions__work", '{"what":"a"}'),)))
    found = await until_kind(run, ApprovalRequested, max(1, len(calls)))
    requests = sorted(of(found, ApprovalRequested), key=lambda one: str(one.input))
    return run, call, [request.call_id for request in requests]


async def reply(stage: Stage, run: RunHandle, call_id: str, decision: Any, reason: str | None = None) -> Resolution:
    return await stage.registry.reply_approval(
        run.id, call_id, Resolution(decision=decision, by="client", reason=reason)
    )


async def results(stage: Stage, run: RunHandle) -> list[tuple[str, str]]:
    """State and result of each call in the transcript."""
    return [
        (part["state"], part.get("output") or part.get("error"))
        for message in await stage.messages(await stage.session_of(run))
        for part in message["parts"]
        if part["kind"] == "tool"
    ]


def resolved(run: RunHandle) -> list[tuple[str, str]]:
    return [(one.decision, one.by) for one in of(shown(run), ApprovalResolved)]


async def test_a_call_that_is_allowed_is_made(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        (request,) = of(shown(run), ApprovalRequested)
        assert (request.tool, request.input) == ("functions.work", {"what": "a"})
        assert "functions" in request.question and request.expires_at > 0
        assert run.record.status == "waiting_approval" and DONE == []
        assert (await reply(stage, run, call_id, "allow")).decision == "allow"
        (await stage.models.call()).end()
        assert (await run.wait()).status == "completed"
        assert DONE == ["a"]
        assert await results(stage, run) == [("completed", "did a")]
        assert resolved(run) == [("allow", "client")]
        statuses = [one.status for one in of(shown(run), RunStatus)]
        assert statuses == ["waiting_approval", "running"]
        check_seq(shown(run))


async def test_a_call_that_is_denied_has_that_as_its_result(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        await reply(stage, run, call_id, "deny", "not today")
        (await stage.models.call()).end()
        await run.wait()
        ((state, error),) = await results(stage, run)
        assert state == "error" and "not today" in error
        assert DONE == []
        await stage.usable(await stage.session_of(run))


async def test_a_call_that_a_rule_denies_is_not_asked(staged: Staged) -> None:
    async with staged(tools=[work], permissions=Permissions(deny=("functions.work(what=b*)",))) as stage:
        run, call = await stage.begin()
        call.tools(("functions__work", '{"what":"bad"}'), ("functions__work", '{"what":"good"}'))
        (await stage.models.call()).end()
        await run.wait()
        (bad, error), (good, _) = await results(stage, run)
        assert (bad, good) == ("error", "completed") and "functions.work(what=b*)" in error
        assert DONE == ["good"]
        assert of(shown(run), ApprovalRequested) == []


async def test_a_rule_about_a_folder_holds_for_links_to_it(
    staged: Staged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "link").symlink_to("secret")
    monkeypatch.chdir(tmp_path)  # the folder of sessions that are given none
    async with staged(tools=[work], permissions=Permissions(deny=("functions.work(what=secret/*)",))) as stage:
        run, call = await stage.begin()
        call.tools(("functions__work", '{"what":"link/key"}'), ("functions__work", '{"what":"other/key"}'))
        (await stage.models.call()).end()
        await run.wait()
        assert [state for state, _ in await results(stage, run)] == ["error", "completed"]
        assert DONE == ["other/key"]


async def test_the_first_reply_wins_and_the_loser_is_told(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        outcomes: list[tuple[str, str]] = []

        async def one(decision: str) -> None:
            try:
                given = await reply(stage, run, call_id, decision)
                outcomes.append((given.decision, given.by))
            except CallerError as exc:
                assert exc.code == "already_resolved"
                outcomes.append((str(exc.data["decision"]), str(exc.data["by"])))

        async with trio.open_nursery() as nursery:
            for decision in ("allow", "deny", "allow", "deny"):
                nursery.start_soon(one, decision)
        assert len(set(outcomes)) == 1 and len(outcomes) == 4
        (await stage.models.call()).end()
        await run.wait()
        assert resolved(run) == outcomes[:1]
        decision = outcomes[0][0]
        assert (await reply(stage, run, call_id, decision)).by == "client"  # also of a run that has ended
        with pytest.raises(CallerError) as caught:
            await reply(stage, run, call_id, "deny" if decision == "allow" else "allow")
        assert (caught.value.code, caught.value.data["by"]) == ("already_resolved", "client")


async def test_replies_to_what_was_never_asked(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, _ = await asked(stage)
        for run_id, call_id, code in (
            (run.id, "call_nothing", "unknown_approval"),
            ("run_nothing", "call_nothing", "unknown_run"),
        ):
            with pytest.raises(CallerError) as caught:
                await stage.registry.reply_approval(run_id, call_id, Resolution(decision="allow", by="client"))
            assert caught.value.code == code


async def test_several_calls_wait_and_take_no_place_of_those_that_work(staged: Staged) -> None:
    async with staged(
        tools=[work], permissions=Permissions(ask=("functions.work(what=?)",)), parallel_tool_calls=1
    ) as stage:
        run, call = await stage.begin()
        watch(run)
        call.tools(*(("functions__work", f'{{"what":"{what}"}}') for what in ("a", "b", "free")))
        found = await until(
            run, lambda found: len(of(found, ApprovalRequested)) == 2 and "tool.updated" in kinds(found)
        )
        await until(run, lambda found: DONE == ["free"])
        requests = {one.input["what"]: one.call_id for one in of(found, ApprovalRequested)}
        await reply(stage, run, requests["b"], "allow")
        await until(run, lambda found: DONE == ["free", "b"])
        assert run.record.status == "waiting_approval"
        await reply(stage, run, requests["a"], "deny")
        (await stage.models.call()).end()
        await run.wait()
        assert [state for state, _ in await results(stage, run)] == ["error", "completed", "completed"]


async def test_allow_always_is_remembered_for_the_session_and_over_a_restart(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        session_id = await stage.session_of(run)
        await reply(stage, run, call_id, "allow_always")
        call = await stage.models.call()
        call.tools(("functions__work", '{"what":"b"}'))
        (await stage.models.call()).end()
        await run.wait()
        assert DONE == ["a", "b"] and len(of(shown(run), ApprovalRequested)) == 1
    async with staged(tools=[work], permissions=ASK) as stage:
        session = await stage.engine.session(session_id)
        run = await session.start("again")
        (await stage.models.call()).tools(("functions__work", '{"what":"c"}'))
        (await stage.models.call()).end()
        await run.wait()
        assert DONE == ["a", "b", "c"]
        other, _, _ = await asked(stage)  # another session is asked
        assert other.record.status == "waiting_approval"


async def test_cancel_stops_the_run(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        assert (await reply(stage, run, call_id, "cancel", "stop it")).decision == "cancel"
        assert (run.record.status, run.record.reason) == ("cancelled", "stop it")
        assert resolved(run) == [("cancel", "client")]
        ((state, _),) = await results(stage, run)
        assert state == "error" and DONE == []
        await stage.usable(await stage.session_of(run))


async def test_a_stop_decides_what_waits(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, call_ids = await asked(stage, ("functions__work", '{"what":"a"}'), ("functions__work", '{"what":"b"}'))
        assert (await run.stop()).status == "cancelled"
        assert resolved(run) == [("cancel", "stop")] * 2
        assert kinds(shown(run))[-1] == "run.finished"
        with pytest.raises(CallerError) as caught:
            await reply(stage, run, call_ids[0], "allow")
        assert (caught.value.code, caught.value.data) == ("already_resolved", {"decision": "cancel", "by": "stop"})
        assert DONE == []
        await stage.usable(await stage.session_of(run))


async def test_nobody_there_is_decided_by_the_configuration(staged: Staged, mock_clock: MockClock) -> None:
    for headless, state in (("deny", "error"), ("allow", "completed")):
        permissions = Permissions(ask=("functions",), headless=headless)  # type: ignore[arg-type]
        async with staged(tools=[work], permissions=permissions, headless_grace=5) as stage:
            mock_clock.rate = 0
            run, call = await stage.begin()
            call.tools(("functions__work", "{}"))
            await stage_until_waiting(stage, run)
            mock_clock.rate = 100
            (await stage.models.call()).end()
            mock_clock.rate = 0
            assert (await run.wait()).status == "completed"
            assert resolved(run) == [(headless, "rule")]
            assert [one[0] for one in await results(stage, run)] == [state]


async def stage_until_waiting(stage: Stage, run: RunHandle) -> None:
    """Without a watcher: nobody is to be there."""
    while not of(shown(run), ApprovalRequested):
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()


async def test_a_client_that_comes_within_the_grace_is_asked(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[work], permissions=ASK, headless_grace=5, approval_timeout=25) as stage:
        run, call = await stage.begin()
        call.tools(("functions__work", "{}"))
        await stage_until_waiting(stage, run)
        mock_clock.jump(4.9)
        watch(run)
        await wait_all_tasks_blocked()
        mock_clock.jump(18)
        await wait_all_tasks_blocked()
        assert run.record.status == "waiting_approval"
        (request,) = of(shown(run), ApprovalRequested)
        await reply(stage, run, request.call_id, "allow")
        (await stage.models.call()).end()
        assert (await run.wait()).status == "completed"


async def test_an_answer_that_never_comes_is_an_expiry_not_a_denial(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[work], permissions=ASK, approval_timeout=20, run_timeout=10) as stage:
        run, _, _ = await asked(stage)
        await wait_all_tasks_blocked()
        mock_clock.jump(19)
        await wait_all_tasks_blocked()
        assert run.record.status == "waiting_approval"  # the run's own time does not pass meanwhile
        mock_clock.jump(2)
        call = await stage.models.call()
        assert resolved(run) == [("deny", "expiry")]
        call.end()
        assert (await run.wait()).status == "completed"
        ((_, error),) = await results(stage, run)
        assert "nobody answered" in error


async def test_a_snapshot_has_what_waits(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        snapshot = await run._feed.snapshot()
        piece = await snapshot.next()
        assert piece is not None
        (pending,) = orjson.loads(piece)["pending_approvals"]
        assert (pending["call_id"], pending["tool"], pending["input"]) == (call_id, "functions.work", {"what": "a"})
        await reply(stage, run, call_id, "allow")
        piece = await (await run._feed.snapshot()).next()
        assert piece is not None and orjson.loads(piece)["pending_approvals"] == []


async def test_a_snapshot_has_all_that_waits_in_pieces_that_fit_a_frame(staged: Staged) -> None:
    inputs = [json.dumps({"what": f"{number} {'x' * 30 * KIB}"}) for number in range(12)]
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, call_ids = await asked(stage, *(("functions__work", text) for text in inputs))
        snapshot = await run._feed.snapshot()
        pieces = []
        while (piece := await snapshot.next()) is not None:
            assert len(piece) <= 64 * KIB
            pieces.append(orjson.loads(piece))
        told = [pending for piece in pieces for pending in piece["pending_approvals"]]
        assert sorted(pending["call_id"] for pending in told) == sorted(call_ids)
        assert sorted(json.dumps(pending["input"]) for pending in told) == sorted(inputs)
        assert [piece["more"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]


async def test_a_repeated_call_id_is_asked_again(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, call = await stage.begin()
        watch(run)
        for number in (1, 2):
            call.send(ToolCallStarted(0, "call_0", "functions__work"), ToolInputDelta(0, f'{{"what":"{number}"}}'))
            call.send(AnswerFinished("tool_calls"))
            call._send.send_nowait(None)
            await until_kind(run, ApprovalRequested, number)
            await reply(stage, run, "call_0", "allow")
            call = await stage.models.call()
        call.end()
        await run.wait()
        assert DONE == ["1", "2"]


async def test_a_long_input_is_judged_like_a_short_one(staged: Staged) -> None:
    what = "b" * 5000
    async with staged(tools=[work], permissions=Permissions(deny=("functions.work(what=b*)",))) as stage:
        run, call = await stage.begin()
        call.tools(("functions__work", f'{{"what":"{what}"}}'), ("functions__work", f'{{"what":"a{what}"}}'))
        (await stage.models.call()).end()
        await run.wait()
        assert [state for state, _ in await results(stage, run)] == ["error", "completed"]
        assert "".join(DONE) == f"a{what}"


async def test_with_nobody_there_each_of_several_calls_is_decided(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK, headless_grace=0.05) as stage:
        run, call = await stage.begin()
        call.tools(*(("functions__work", f'{{"what":"{name}"}}') for name in "abc"))
        (await stage.models.call()).end()
        assert (await run.wait()).status == "completed"
        assert resolved(run) == [("deny", "rule")] * 3 and DONE == []
        assert [state for state, _ in await results(stage, run)] == ["error"] * 3


async def test_a_program_that_only_waits_or_reads_is_not_asked(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[work], permissions=ASK, headless_grace=5) as stage:
        run, call = await stage.begin()
        records: list[str] = []

        async def wait() -> None:
            records.append((await run.wait()).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            async with run.events() as events:
                call.tools(("functions__work", "{}"))
                async for event in events:
                    if isinstance(event, Numbered) and isinstance(event.event, ApprovalRequested):
                        break
                await wait_all_tasks_blocked()
                mock_clock.jump(6)
                (await stage.models.call()).end()
        assert records == ["completed"] and resolved(run) == [("deny", "rule")]


async def test_a_program_that_answers_is_asked(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[work], permissions=ASK, headless_grace=5) as stage:
        run, call = await stage.begin()
        async with run.events(answers=True) as events:
            call.tools(("functions__work", '{"what":"it"}'))
            async for event in events:
                if isinstance(event, Numbered) and isinstance(event.event, ApprovalRequested):
                    await wait_all_tasks_blocked()
                    mock_clock.jump(6)
                    await wait_all_tasks_blocked()
                    await run.reply(event.event.call_id, "allow")
                    (await stage.models.call()).end()
        assert DONE == ["it"] and resolved(run) == [("allow", "client")]


async def test_a_disk_that_refuses_a_decision_leaves_the_call_waiting(staged: Staged) -> None:
    async with staged(tools=[work], permissions=ASK) as stage:
        run, _, (call_id,) = await asked(stage)
        for decision in ("allow", "allow_always"):
            stage.disk.full = True
            with pytest.raises(PeerError) as caught:
                await reply(stage, run, call_id, decision)
            assert caught.value.code == "disk_full"
            stage.disk.full = False
            assert resolved(run) == [] and DONE == [] and run.record.status == "waiting_approval"
        await reply(stage, run, call_id, "deny")  # another decision than those that were not taken
        (await stage.models.call()).end()
        await run.wait()
        assert resolved(run) == [("deny", "client")] and DONE == []


async def test_who_was_there_and_left_is_not_there(staged: Staged, mock_clock: MockClock) -> None:
    async with staged(tools=[work], permissions=ASK, headless_grace=5) as stage:
        run, call = await stage.begin()
        bell = Bell()
        run._feed.attach(bell.ring)
        call.tools(("functions__work", "{}"))
        await stage_until_waiting(stage, run)
        run._feed.detach(bell.ring)
        (request,) = of(shown(run), ApprovalRequested)
        await reply(stage, run, request.call_id, "allow")
        (await stage.models.call()).tools(("functions__work", "{}"))
        while len(of(shown(run), ApprovalRequested)) < 2:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()  # and nothing turns in circles
        mock_clock.jump(6)
        (await stage.models.call()).end()
        await run.wait()
        assert resolved(run) == [("allow", "client"), ("deny", "rule")]
