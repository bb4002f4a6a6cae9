"""What the system says of the daemon's children."""

from __future__ import annotations

import os

from actors._memory import Family, family
from tests.actors.processes import ALL_TRICKS, guarded, spawn_nasty

PAGE = os.sysconf("SC_PAGE_SIZE")


def pages(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1])


async def test_a_guard_and_all_that_is_below_it() -> None:
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
