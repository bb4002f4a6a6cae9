"""What the system says of the daemon's children."""

from __future__ import annotations

import os

import pytest

from actors import _memory
from actors._memory import Family, family
from tests.actors.processes import ALL_TRICKS, guarded, spawn_nasty

PAGE = os.sysconf("SC_PAGE_SIZE")


def pages(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1])


@pytest.mark.parametrize("listed", [True, False])
async def test_a_guard_and_all_that_is_below_it(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system lists children; and where it does not, found among all processes."""
    monkeypatch.setattr(_memory, "_lists_children", lambda: listed)
    async with guarded() as guard:
        assert family(guard.statistics().pid) == Family(0, 0), "none is there before the first program"
        _, pids = await spawn_nasty(guard, *ALL_TRICKS)
        pid = guard.statistics().pid
        assert pid is not None
        found = family(pid)
        assert found.processes == len(pids) + 2, "the guard and a keeper"
        least = sum(map(pages, pids)) * PAGE
        assert least * 0.9 < found.resident - 2 * pages(pid) * PAGE < least * 1.1
        assert family(pids[-1]).processes <= len(pids)
    assert family(pid) == Family(0, 0), "it has ended"


def test_resident_memory_is_what_is_of_files_and_what_is_not() -> None:
    """Held against the system's own words for it; a few pages come and go meanwhile."""
    found = _memory.resident()
    with open("/proc/self/status") as file:
        told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file if line.startswith("Rss")}
    assert abs(found.own - told["RssAnon"]) < 4 << 20
    assert abs(found.shared - told["RssFile"] - told["RssShmem"]) < 4 << 20
