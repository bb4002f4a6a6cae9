"""Looking at process trees from outside, and the bounds that stress_processes and its part with a daemon share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from _daemon import Findings

TOOL = Path(__file__).with_name("_stress_tool.py")
QUICK = "--quick" in sys.argv  # little, with more time, so that no busy machine turns it red
AT_ONCE = 4 if QUICK else 8
PIDS = 4  # processes of a session
WITHIN = 20.0 if QUICK else 5.0  # seconds after SIGKILL
PATIENCE = 120.0  # seconds for anything that has no bound of its own
LOOK = 0.005
SPARE = 4  # descriptors of a daemon that may come and go: of connections and threads' work


class Part:
    """The findings of one part, named after it."""

    def __init__(self, findings: Findings, name: str) -> None:
        self._findings = findings
        self._name = name

    def note(self, key: str, value: Any, unit: str, what: str) -> None:
        self._findings.note(f"{self._name}_{key}", value, unit, f"{self._name}: {what}")

    def hold(self, key: str, value: Any, good: bool, unit: str, what: str) -> None:
        self._findings.hold(f"{self._name}_{key}", value, good, unit, f"{self._name}: {what}")

    def slowest(self, key: str, seconds: float, what: str) -> None:
        self.hold(key, round(seconds, 3), seconds < WITHIN, "s", f"{what} < {WITHIN:g} s")


def pids_in(record: Path) -> list[int]:
    """Whole lines only: the last one may be in the making."""
    try:
        return [int(line) for line in record.read_bytes().split(b"\n")[:-1]]
    except FileNotFoundError:
        return []


def parents() -> dict[int, tuple[int, str]]:
    """Parent and state of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/stat").read_text()
            except OSError:  # it ended
                continue
            state, parent = line[line.rindex(")") + 2 :].split()[:2]
            found[int(name)] = int(parent), state
    return found


def below(pid: int) -> set[int]:
    """All descendants."""
    found: set[int] = set()
    present = parents()
    more = {pid}
    while more := {child for child, (parent, _) in present.items() if parent in more} - found:
        found |= more
    return found


def left_of(pids: set[int]) -> dict[int, str]:
    """Those that are there, with their state. A zombie whose parent is the init process has ended."""
    present = parents()
    return {pid: present[pid][1] for pid in pids if pid in present and present[pid] != (1, "Z")}


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing tells of it
        await trio.sleep(LOOK)
