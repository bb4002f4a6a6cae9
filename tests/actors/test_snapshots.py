"""Snapshots: what a watcher is told whose cursor is older than the log. Their text is the store's, in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors._feed import RunFeed, Snapshot
from actors.snapshots import StoredSnapshot
from actors.store_ref import StoreRef
from engine.limits import KIB
from engine.providers.base import ReasoningDelta, TextDelta
from engine.runs.record import Run
from tests.actors.scripted import Staged, log_of, staged, text_of, until, until_text

__all__ = ["staged"]

# The bounds of the wire contract: a piece, and a string in it.
PIECE = 64 * KIB
STRING = 32 * KIB


async def told(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The pieces, after their bounds and their marks were checked."""
    encoded = []
    while (piece := await snapshot.next()) is not None:
        encoded.append(piece)
    pieces = [orjson.loads(piece) for piece in encoded]
    for number, piece in enumerate(pieces, start=1):
        assert len(encoded[number - 1]) <= PIECE
        assert len(piece.get("text", "").encode()) <= STRING
        assert piece["seq"] == snapshot.seq and piece["more"] is (number < len(pieces))
    return pieces


def texts(pieces: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The text of each part by its id, put together by offset."""
    whole: dict[str, str] = {}
    for piece in pieces:
        if "part" in piece:
            before = whole.setdefault(piece["part"]["id"], "")
            assert piece["offset"] == len(before.encode())
            whole[piece["part"]["id"]] += piece.get("text", "")
    return whole


async def evicted(stage: Any, run_id: str) -> RunFeed:
    while not (feed := await stage.registry.watch_run(run_id)).evicted:
        await trio.lowlevel.checkpoint()
    assert isinstance(feed, RunFeed)
    return feed


LONG = {
    "ascii": "0123456789" * 10_000,
    "two bytes, odd": "x" + "é" * 50_000,
    "four bytes": "ab" + "🙂" * 30_000,
    "escaped sixfold": "\x01" * 40_000,
    "exactly one piece": "y" * STRING,
    "one byte over": "y" * (STRING + 1),
    "short": "…",
}


@pytest.mark.parametrize("name", LONG)
async def test_the_text_is_the_stored_text(staged: Staged, name: str) -> None:
    text = LONG[name]
    async with staged(terminal_retention=0.01) as stage:
        run, call = await stage.begin()
        call.reasoning("a thought")
        for begin in range(0, len(text), 8000):
            call.text(text[begin : begin + 8000])
        await until(run, lambda found: text_of(found) == "a thought" + text)
        feed = await stage.registry.watch_run(run.id)
        live = await feed.snapshot()
        assert live.seq == feed.log.last_seq
        pieces = await told(live)
        assert [*texts(pieces).values()] == ["a thought", text]
        assert {piece["status"] for piece in pieces} == {"running"}
        call.end()
        await run.wait()
        gone = await evicted(stage, run.id)
        pieces = await told(await gone.snapshot())
        assert [*texts(pieces).values()] == ["a thought", text]
        assert {piece["status"] for piece in pieces} == {"completed"}
        assert {piece["seq"] for piece in pieces} == {run.record.last_seq}
        message = (await stage.messages(run.record.session_id))[-1]
        assert {piece["message_id"] for piece in pieces} == {message["info"]["id"]}


async def test_a_snapshot_and_what_follows_it_are_the_whole_text(staged: Staged) -> None:
    """Also while text was handed to the store that is not shown yet."""
    async with staged(chunk_bytes=1) as stage:
        run, call = await stage.begin()
        stage.disk.hold()
        call.text("first ")
        await until_text(run, "first ")
        await stage.disk.wait_held()  # behind this commit the next one waits, and with it what it acknowledges
        call.send(TextDelta("second "), ReasoningDelta("third"))
        await wait_all_tasks_blocked()
        feed = await stage.registry.watch_run(run.id)
        found: list[Snapshot] = []

        async def take() -> None:
            found.append(await feed.snapshot())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            stage.disk.release()
        call.end()
        await run.wait()
        (snapshot,) = found
        before = "".join(texts(await told(snapshot)).values())
        assert before == "first "
        assert before + text_of(log_of(feed, snapshot.seq)) == "first second third"


async def test_a_snapshot_before_anything_was_written(staged: Staged) -> None:
    async with staged() as stage:
        run, _ = await stage.begin()
        feed = await stage.registry.watch_run(run.id)
        (piece,) = await told(await feed.snapshot())
        assert piece["status"] == "running" and piece["offset"] == 0 and "part" not in piece


async def test_calls_are_told_with_their_results(staged: Staged) -> None:
    def long() -> str:
        """Gives much."""
        return "z" * 40_000

    async with staged(tools=[long], terminal_retention=0.01, turns_per_run=1) as stage:
        run, call = await stage.begin()
        call.text("see")
        call.tools(("functions__long", "{}"), ("functions__missing", "{}"))
        await run.wait()
        pieces = await told(await (await evicted(stage, run.id)).snapshot())
        assert [piece["part"]["kind"] for piece in pieces] == ["text", "tool", "tool"]
        done, missing = pieces[1]["part"], pieces[2]["part"]
        assert done["state"] == "completed" and done["output_more"]["bytes"] == 40_000
        assert missing["state"] == "error"


async def test_the_last_message_is_told_of_an_ended_run_in_memory(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("whole")
        call.end()
        await run.wait()
        feed = await stage.registry.watch_run(run.id)
        snapshot = await feed.snapshot()
        assert not feed.evicted and snapshot.seq == run.record.last_seq
        pieces = await told(snapshot)
        assert [*texts(pieces).values()] == ["whole"]
        assert pieces[0]["status"] == "completed"


async def test_a_run_without_an_answer(staged: Staged) -> None:
    async with staged(terminal_retention=0.01) as stage:
        session = await stage.engine.create_session()
        run = await session.start("hi")
        await run.stop()
        (piece,) = await told(await (await evicted(stage, run.id)).snapshot())
        assert piece["status"] == "cancelled" and "part" not in piece


async def test_a_deleted_run_is_told_as_nothing(staged: Staged) -> None:
    async with staged() as stage:
        run, call = await stage.begin()
        call.text("gone soon")
        await until_text(run, "gone soon")
        feed = await stage.registry.watch_run(run.id)
        await stage.registry.delete_session(await stage.session_of(run))
        (piece,) = await told(await feed.snapshot())
        assert "text" not in piece


async def test_text_that_goes_while_it_is_read_ends_the_part(staged: Staged) -> None:
    """Its session was deleted between the look at the message and the reading of its text."""
    async with staged() as stage:
        store: StoreRef = stage.engine._composition.store
        run = Run(id="run_1", session_id="ses_1", status="completed", model="m", created_at=1, last_seq=3)
        snapshot = StoredSnapshot(store, run, "msg_1", 3, [({"id": "prt_no", "kind": "text"}, "prt_no", 100)])
        (piece,) = await told(snapshot)
        assert piece["part"]["id"] == "prt_no" and piece.get("text", "") == ""
