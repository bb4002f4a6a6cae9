"""The live output of a call: shown to who watches, at a bounded rate, and not behind the call's end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._feed import RunFeed
from actors.preview import PAUSE, live_output
from engine.limits import KIB, Limits
from engine.runs.events import ToolOutput
from engine.runs.log import ReplayLog
from engine.runs.record import Run
from engine.wire import events as wire_events

LIMITS = Limits(preview_bytes=8 * KIB)
PIECE = KIB  # of the 8 KiB in a second


class Shown:
    """In place of a run's progress."""

    def __init__(self) -> None:
        self.pieces: list[ToolOutput] = []

    async def reserve(self, facts: list[ToolOutput]) -> None:
        await trio.lowlevel.checkpoint()

    def show(self, facts: list[ToolOutput]) -> None:
        self.pieces += facts


def feed(*, watched: bool = True) -> RunFeed:
    run = Run(id="run_1", session_id="ses_1", status="running", model="m", created_at=1)
    made = RunFeed(run, ReplayLog(max_entries=10, max_bytes=1000))
    if watched:
        made.attach(lambda: None)
    return made


def live(shown: Any, feed: RunFeed, limits: Limits = LIMITS) -> Any:
    return live_output(feed, shown, "call_1", limits)


async def test_what_comes_is_shown_and_what_waits_is_shown_together(mock_clock: MockClock) -> None:
    shown = Shown()
    async with live(shown, feed()) as take:
        take("one ")
        await wait_all_tasks_blocked()
        assert shown.pieces == [ToolOutput(call_id="call_1", text="one ")]
        take("two ")
        take("three ")
        await wait_all_tasks_blocked()
        assert len(shown.pieces) == 1, "too soon"
        mock_clock.jump(PAUSE)
        await wait_all_tasks_blocked()
        assert [piece.text for piece in shown.pieces] == ["one ", "two three "]
        mock_clock.jump(PAUSE)
        take("late")
    await wait_all_tasks_blocked()
    assert len(shown.pieces) == 2, "nothing is shown behind the end"


async def test_the_rate_is_bounded_and_the_newest_is_shown(mock_clock: MockClock) -> None:
    shown = Shown()
    async with live(shown, feed()) as take:
        for number in range(80):
            for _ in range(100):
                take(f"{number:04} é漢😀 " * 100)
            mock_clock.jump(PAUSE / 10)
            await wait_all_tasks_blocked()
        sizes = [len(piece.text.encode()) for piece in shown.pieces]
        assert max(sizes) <= PIECE and sum(sizes) <= 9 * PIECE  # one second
        assert sum(sizes) >= 7 * PIECE
        assert shown.pieces[-1].text.split()[-2] >= "0070"


@pytest.mark.parametrize("text", ["\0", "\ud800", "😀", '"', "x"])
async def test_a_piece_fits_an_event(mock_clock: MockClock, text: str) -> None:
    shown, limits = Shown(), Limits(preview_bytes=1024 * KIB)
    async with live(shown, feed(), limits) as take:
        take(text * 1_000_000)
        await wait_all_tasks_blocked()
        (piece,) = shown.pieces
        assert len(piece.text) > 1000 and len(wire_events.encode(piece)) <= limits.event_bytes


async def test_nothing_is_held_for_nobody(mock_clock: MockClock) -> None:
    shown, nobody = Shown(), feed(watched=False)
    async with live(shown, nobody) as take:
        take("unseen")
        await wait_all_tasks_blocked()
        nobody.attach(lambda: None)
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert shown.pieces == []
        take("seen")
        await wait_all_tasks_blocked()
        assert [piece.text for piece in shown.pieces] == ["seen"]
