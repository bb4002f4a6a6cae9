"""A session in a daemon: what is decoded of it is kept for its steps and leaves with it; opening one and a step on it
cost what its window does; order does not depend on the clock."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import trio

from actors.store_ref import StoreRef
from engine.commands import NewSession
from engine.storage import applying, columns, database
from engine.storage.changes import AddMessage, AddPart, Change, FinishMessage
from engine.transcript.records import AssistantMessage, TextPart, UserMessage
from tests.actors.scripted import Stage, Staged, kinds, names, shown, staged

__all__ = ["staged"]

HISTORY = 600  # messages before the run, half of them the user's
WINDOW = 20


async def answered(stage: Stage, session_id: str, text: str = "hello") -> tuple[str, list[str]]:
    """A run of one turn; its id and the texts that the model was sent."""
    session = await stage.engine.session(session_id)
    run = await session.start(text)
    call = await stage.models.call()
    told = [part.text for message in call.request.messages for part in message.parts if isinstance(part, TextPart)]
    call.text(f"answer to {text}")
    call.end()
    assert (await run.wait()).status == "completed"
    return run.id, told


async def until_nothing_is_kept(store: StoreRef) -> None:
    while store.store_statistics().rows.entries:
        await trio.lowlevel.checkpoint()


async def test_a_step_finds_what_the_one_before_has_decoded(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        for number in range(4):
            await answered(stage, session.id, f"m{number}")
        figures = stage.store.store_statistics().rows
        # Each step reads what is new (the user's message, and the answer before it), and finds all else.
        assert (figures.misses, figures.hits) == (1 + 2 + 2 + 2, 0 + 1 + 3 + 5)
        assert figures.entries == 7 and 7 * 500 < figures.bytes < 7 * 5000 and figures.evictions == 0


async def test_a_small_cache_evicts_and_changes_no_answer(staged: Staged) -> None:
    async with staged(row_cache_bytes=5000) as stage:
        session = await stage.engine.create_session()
        for number in range(6):
            _, told = await answered(stage, session.id, f"m{number}")
        figures = stage.store.store_statistics().rows
        assert figures.bytes <= 5000 and 0 < figures.entries < 11 and figures.evictions > 0
        said = itertools.chain.from_iterable((f"m{number}", f"answer to m{number}") for number in range(6))
        assert told == list(said)[:-1]


@pytest.mark.parametrize("how", ["passivated", "deleted", "shed"])
async def test_what_is_decoded_of_a_session_leaves_with_it(staged: Staged, how: str) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        other = await stage.engine.create_session()
        await answered(stage, session.id)
        await answered(stage, other.id)
        assert stage.store.store_statistics().rows.entries == 2
        if how == "passivated":
            await stage.registry.passivate(0)
        elif how == "deleted":
            await stage.registry.delete_session(session.id)
            await stage.registry.delete_session(other.id)
        else:
            await stage.store.shrink()
        await until_nothing_is_kept(stage.store)
        assert stage.store.store_statistics().rows.bytes == 0


async def test_a_session_that_left_memory_comes_back_unnoticed(staged: Staged) -> None:
    async with staged() as stage:
        session = await stage.engine.create_session()
        seen: list[list[str]] = []
        for number in range(6):
            if number % 2:
                await stage.registry.passivate(0)
                assert session.id not in names(stage.engine.tree())
            _, told = await answered(stage, session.id, f"m{number}")
            seen.append(told)
        said = list(itertools.chain.from_iterable((f"m{number}", f"answer to m{number}") for number in range(6)))
        assert seen == [said[: 2 * number + 1] for number in range(6)]
        assert [
            m["parts"][-2 if index % 2 else 0]["text"] for index, m in enumerate(await stage.messages(session.id))
        ] == said


async def test_opening_and_a_step_cost_the_window_and_not_the_history(
    staged: Staged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    part = columns.part

    def counted(part_id: str, *rest: object) -> object:
        decoded.append(part_id)
        return part(part_id, *rest)  # type: ignore[arg-type]

    async with staged(window_messages=WINDOW) as stage:
        session = await stage.registry.create_session(NewSession())
        changes: list[Change] = []
        for number in range(HISTORY // 2):
            user = UserMessage(id=f"msg_u{number}", created_at=number)
            answer = AssistantMessage(id=f"msg_a{number}", created_at=number, finished_at=number, finish="stop")
            changes += [AddMessage(user), AddPart(user.id, TextPart(id=f"prt_u{number}", text="question"))]
            changes += [AddMessage(answer), AddPart(answer.id, TextPart(id=f"prt_a{number}", text="answer"))]
            changes.append(FinishMessage(answer))
        writer = database.open_writer(tmp_path / "data" / database.FILE_NAME)
        writer.execute("BEGIN")
        applying.apply(writer, session.id, changes, 1)
        writer.execute("COMMIT")
        writer.close()
        await stage.registry.passivate(0)
        monkeypatch.setattr(columns, "part", counted)
        _, told = await answered(stage, session.id)
        assert told[-1] == "hello" and len(told) <= WINDOW
        assert len(decoded) <= WINDOW
        decoded.clear()
        await answered(stage, session.id, "again")
        assert len(decoded) <= 5  # the answer of three parts and the new message: all else was there
        assert stage.store.store_statistics().rows.entries <= WINDOW


async def test_the_clock_orders_nothing(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes back an hour, three years forward, and stands still; events, messages and runs stay in their order."""
    now = 1_700_000_000_000_000_000
    hour, years = 3_600 * 10**9, 3 * 365 * 24 * 3_600 * 10**9
    jumps = itertools.cycle([0, -hour, 0, years, -1, 0, -years, hour])

    def jumping() -> int:
        nonlocal now
        now += next(jumps)
        return now

    monkeypatch.setattr("actors._clock.time.time_ns", jumping)
    async with staged() as stage:
        session = await stage.engine.create_session()
        runs: list[str] = []
        for number in range(5):
            run = await session.start(f"m{number}")
            call = await stage.models.call()
            call.text("a", "b")
            call.end()
            assert (await run.wait()).status == "completed"
            events = shown(run)
            assert kinds(events)[0] == "run.started" and kinds(events)[-1] == "run.finished"
            assert [one.seq for one in events] == sorted(one.seq for one in events)
            runs.append(run.id)
        messages = await stage.messages(session.id)
        assert [m["info"]["run_id"] for m in messages] == [run_id for run_id in runs for _ in range(2)]
        assert len({m["info"]["created_at"] for m in messages}) > 1
        assert [run.id for run in (await stage.registry.list_runs(session.id, None, 10)).items] == runs[::-1]
        assert stage.registry.registry_statistics().retained_runs == 5  # nothing became due by a jump
