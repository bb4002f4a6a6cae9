"""What the operations have asked and were told: the truth that everything is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio
import trio.testing

from actors._feed import RunFeed
from engine.commands import StartRun
from engine.limits import KIB, Limits
from engine.runs.record import Run
from tests.actors.scripted import Call, HeldDisk
from tests.stress.follower import Follower
from tests.stress.seen import Script

LIMITS = Limits(
    run_log_entries=40,
    run_log_bytes=4 * KIB,
    all_logs_bytes=7 * KIB,  # less than the newest segments of all logs and what else fits one log
    terminal_retention=4.0,
    terminal_retained_max=3,
    active_runs_max=2,
    queued_messages_max=3,
    passivate_after=8.0,
    seq_block=50,
    chunk_bytes=512,
    unsaved_bytes=2 * KIB,
    tool_call_timeout=1e6,
    run_timeout=1e6,
)


class Truth:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.copy = folder / "copy"
        self.clock: trio.testing.MockClock = trio.lowlevel.current_clock()  # type: ignore[assignment]
        self.sessions: list[str] = []
        self.deleted: set[str] = set()  # deletion was asked
        self.scripts: dict[str, Script] = {}  # by the user's message
        self.tag_of: dict[str, str] = {}  # run -> the user's message
        self.session_of: dict[str, str] = {}
        # In the order in which the store has taken them: runs by session, messages by the run that took them in.
        self.enqueued: dict[str, list[str]] = {}
        self.begun: dict[str, list[str]] = {}
        self.steered: dict[str, list[str]] = {}
        self.stop_asked: set[str] = set()  # runs
        self.starts: list[StartRun] = []
        self.acknowledged: dict[str, tuple[str, str]] = {}  # tag -> run and message
        self.ends: dict[str, Run] = {}  # the terminal record that was told first
        self.followers: list[Follower] = []
        self.feeds: list[RunFeed] = []
        self.calls: dict[str, Call] = {}  # the newest of each run, by tag
        self.answered: set[int] = set()  # calls whose answer the test has ended
        self.faltered: set[str] = set()  # tags whose call failed in a way that may pass
        self.tools: list[trio.Event] = []
        self.under_way: Counter[str] = Counter()
        self.closing = False
        self.disk = HeldDisk()
        self.life = 0
        self.said = 0
        self.stats: Counter[str] = Counter()

    def script_of(self, run_id: str) -> Script:
        return self.scripts[self.tag_of[run_id]]

    def know(self, feed: RunFeed, tag: str | None = None) -> None:
        run_id = feed.run.id
        assert tag in (None, self.tag_of[run_id], *self.steered.get(run_id, ())), (
            "a start was answered with the run of another"
        )
        self.session_of[run_id] = feed.run.session_id
        if feed not in self.feeds:
            self.feeds.append(feed)

    def ended(self, run: Run) -> None:
        known = self.ends.setdefault(run.id, run)
        assert known == run, f"{known} became {run}"


def pick(values: Sequence[Any], index: int) -> Any:
    return values[index % len(values)] if values else None
