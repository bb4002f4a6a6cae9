"""The governor's deeds, look by look, with injected samples: what is shed, refused and given back, and when."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from actors._actor import open_actor
from actors._ask import ActorDied
from actors._memory import Resident, freeze_again, give_back, heap, resident, sqlite_bytes
from actors.governor import COLLECT_RUNS_MAX, NEW_MODULES, STALE_DEADLINES, Governor, forget_deadlines
from actors.models import ModelsStatistics
from actors.owners import CONNECTION_BYTES, OWNERS, RETAINED_BYTES, RUN_BYTES, SESSION_BYTES, Owners
from actors.registry_ref import RegistryStatistics
from engine.limits import MIB, Limits
from engine.storage import database

LIMITS = Limits(memory_soft=100 * MIB, memory_hard=200 * MIB, governor_interval=1.0)


class World:
    """What the governor works on, and a record of what it did. Of `looks` each is (MiB resident, things held); after
    the last one `looked` is set."""

    def __init__(self, looks: Iterable[tuple[int, int]], *, active: int = 0) -> None:
        self.looks = list(looks)
        self.active = active
        self.done: list[str] = []
        self.died = self.given_back = False
        self.looked = trio.Event()
        self.now: tuple[int, int] = (0, 0)
        self.registry = SimpleNamespace(
            shed_logs=self.shed,
            memory_full=self.full,
            passivate=self.passivate,
            registry_statistics=lambda: SimpleNamespace(active_runs=active),
        )
        self.store = SimpleNamespace(shrink=self.shrink)
        self.models = SimpleNamespace(shed=lambda: self.done.append("pieces"))

    def resident(self) -> Resident:
        if self.given_back:  # what is told in the log afterwards is no look
            self.given_back = False
        elif not self.looks:
            self.looked.set()
        else:
            self.now = self.looks.pop(0)
        return Resident(self.now[0] * MIB, 0)

    def held(self) -> int:
        return self.now[1]

    def shed(self) -> int:
        self.done.append("shed")
        return 7

    def full(self, full: bool) -> None:
        if self.died:
            self.died = False
            raise ActorDied("a part is being restarted")
        self.done.append("refuse" if full else "admit")

    async def passivate(self, idle: float) -> None:
        self.done.append(f"passivate {idle:g}")

    async def shrink(self) -> None:
        self.done.append("shrink")

    def give_back(self) -> None:
        self.done.append("give back")
        self.given_back = True


async def watch(world: World) -> Any:
    """Let the governor look until there is nothing more to see; its figures."""
    composition: Any = world
    governor = Governor(composition, LIMITS, held=world.held, resident=world.resident, give_back=world.give_back)
    async with open_actor(governor, "governor") as ref:
        await world.looked.wait()
        return ref.governor_statistics()


async def test_below_the_bounds_nothing_is_done(autojump_clock: trio.testing.MockClock) -> None:
    world = World([(100, 50)] * 5)
    figures = await watch(world)
    assert set(world.done) == {"admit"}
    assert (figures.level, figures.releases, figures.shed_bytes) == ("normal", 0, 0)
    assert trio.current_time() >= 5 * LIMITS.governor_interval


@pytest.mark.parametrize(
    ("new", "active", "frozen"), [(NEW_MODULES, COLLECT_RUNS_MAX, 1), (NEW_MODULES - 1, 0, 0), (NEW_MODULES, 17, 0)]
)
async def test_a_library_that_was_imported_is_left_out_of_collections_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, new: int, active: int, frozen: int
) -> None:
    done: list[None] = []
    modules = dict.fromkeys(map(str, range(100)))
    monkeypatch.setattr("actors.governor.freeze_again", lambda: done.append(None))
    monkeypatch.setattr("actors.governor.sys", SimpleNamespace(modules=modules))

    class Importing(World):
        def resident(self) -> Resident:
            modules.update(dict.fromkeys(map(str, range(100 + new))))
            return super().resident()

    await watch(Importing([(50, 5)] * 5, active=active))
    assert len(done) == frozen


def test_only_a_program_that_froze_freezes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    frozen = 0
    fake = SimpleNamespace(
        get_freeze_count=lambda: frozen, collect=lambda: done.append("collect"), freeze=lambda: done.append("freeze")
    )
    monkeypatch.setattr("actors._memory.gc", fake)
    freeze_again()
    assert done == []
    frozen = 5
    freeze_again()
    assert done == ["collect", "freeze"]


async def test_above_the_soft_bound_it_sheds_and_gives_back(autojump_clock: trio.testing.MockClock) -> None:
    world = World([(101, 50), (95, 50), (90, 50)])
    figures = await watch(world)
    assert world.done[:6] == ["admit", "shed", "passivate 10", "shrink", "pieces", "give back"]
    assert world.done[6:9] == ["admit", "shed", "admit"]  # still above nine tenths; then below
    assert "shed" not in world.done[9:]
    assert (figures.level, figures.releases, figures.shed_bytes) == ("normal", 1, 2 * 7)


async def test_above_the_hard_bound_new_runs_are_refused_until_it_is_well_below(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World([(201, 50), (199, 50), (180, 50)])
    await watch(world)
    assert [deed for deed in world.done if deed in ("refuse", "admit")][:3] == ["refuse", "refuse", "admit"]


async def test_transitions_are_logged_once_each_with_figures(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "greenroom.memory")
    await watch(World([(50, 3), (250, 3), (250, 3), (250, 3), (50, 3)]))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    refused, fine = (record.getMessage() for record in caplog.records)
    for figure in ("hard", "was normal", "250 MiB resident", "3 things", "soft from 100 MiB", "hard from 200 MiB"):
        assert figure in refused
    assert "normal (was hard)" in fine and "50 MiB resident" in fine


async def test_after_a_burst_it_gives_back_below_the_bounds_and_keeps_the_caches(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World([(40, 0), (90, 100), (90, 100), (90, 0), (90, 0)])
    figures = await watch(world)
    assert world.done.count("give back") == figures.releases == 1
    assert set(world.done) == {"admit", "give back"}


@pytest.mark.parametrize(("active", "collections"), [(16, 1), (17, 0)])
async def test_a_full_collection_is_for_when_few_runs_are_at_work(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, active: int, collections: int
) -> None:
    collected: list[None] = []
    monkeypatch.setattr("actors.governor.gc.collect", lambda: collected.append(None))
    await watch(World([(101, 50)], active=active))
    assert len(collected) == collections


async def test_a_part_that_is_being_restarted_is_looked_at_again(autojump_clock: trio.testing.MockClock) -> None:
    world = World([(201, 50), (201, 50)])
    world.died = True
    await watch(world)
    assert world.done[0] == "refuse"  # of the second look


async def test_a_disk_that_does_not_answer_does_not_keep_the_governor(autojump_clock: trio.testing.MockClock) -> None:
    world = World([(101, 50), (101, 50)])
    world.store.shrink = trio.sleep_forever
    await watch(world)
    assert "give back" in world.done


async def test_deadlines_of_closed_scopes_are_forgotten() -> None:
    kept = trio.CancelScope(deadline=trio.current_time() + 1000)
    with kept:
        for _ in range(STALE_DEADLINES // 2):
            with trio.CancelScope(deadline=trio.current_time() + 1000):  # noqa: ASYNC100 - it is to be closed
                pass
        await forget_deadlines(STALE_DEADLINES + 2)
        assert deadlines() <= STALE_DEADLINES // 2
        assert kept.deadline < trio.current_time() + 1000


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the interpreter keeps the name of a look-up no more")
async def test_names_that_were_looked_up_are_let_go_with_each_look(autojump_clock: trio.testing.MockClock) -> None:
    names = [f"name_{number}" for number in range(100)]
    before = [sys.getrefcount(name) for name in names]

    class Looking(World):
        def full(self, full: bool) -> None:
            held.append(sum(sys.getrefcount(name) for name in names) - sum(before))
            for name in names:
                getattr(Looking, name, None)  # the interpreter keeps it
            held.append(sum(sys.getrefcount(name) for name in names) - sum(before))

    held: list[int] = []
    await watch(Looking([(50, 5)] * 3))
    assert set(held[::2]) == {0}
    assert min(held[1::2]) > 50


async def test_what_makes_trio_forget_deadlines_leaves_none_of_its_own() -> None:
    await forget_deadlines(10 * STALE_DEADLINES)
    assert deadlines() <= 10


def deadlines() -> int:
    """How many deadlines trio has in mind: it has no public figure of them."""
    from trio._core._run import GLOBAL_RUN_CONTEXT

    return len(GLOBAL_RUN_CONTEXT.runner.deadlines._heap)


def test_shrinking_frees_the_page_cache(tmp_path: Path) -> None:
    connection = database.open_writer(tmp_path / database.FILE_NAME)
    try:
        connection.execute("CREATE TABLE ballast (text TEXT)")
        connection.executemany("INSERT INTO ballast VALUES (?)", [("x" * 3000,)] * 300)
        full = sqlite_bytes()
        database.shrink(connection)
        assert full - sqlite_bytes() > 500_000
        assert connection.execute("SELECT count(*) FROM ballast").fetchone() == (300,)
    finally:
        connection.close()


def test_the_owners_are_those_that_are_told_and_counted() -> None:
    owners = Owners()
    owners.settle()
    registry = RegistryStatistics(sessions=2, active_runs=3, queued_runs=1, retained_runs=4, log_bytes=1234)
    store: Any = SimpleNamespace(unsaved=99, rows=SimpleNamespace(bytes=77))
    models = ModelsStatistics(models=1, calls=0, piece_bytes=55)
    counted = owners.counted(registry, store, models, 5)
    assert (counted["logs"], counted["unsaved"], counted["rows"], counted["requests"]) == (1234, 99, 77, 55)
    assert counted["runs"] == 3 * RUN_BYTES and counted["sessions"] == 2 * SESSION_BYTES
    assert counted["ended_runs"] == 5 * RETAINED_BYTES and counted["connections"] == 5 * CONNECTION_BYTES
    assert 0 < counted["program"] < resident().total


async def test_all_owners_of_an_idle_process_explain_it() -> None:
    owners = Owners()
    owners.settle()
    registry = RegistryStatistics(sessions=0, active_runs=0, queued_runs=0, retained_runs=0, log_bytes=0)
    store: Any = SimpleNamespace(unsaved=0, rows=SimpleNamespace(bytes=0))
    models = ModelsStatistics(models=1, calls=0, piece_bytes=0)
    now, _ = await owners.look(None)
    owned = owners.owned(now, registry, store, models, 0)
    assert set(owned) == set(OWNERS)
    del owned["http"]  # other tests have imported it: here it is a part of the program
    assert sum(owned.values()) == pytest.approx(resident().total, rel=0.05)


def test_the_process_is_measured_and_free_pages_leave_it() -> None:
    give_back()  # what other tests have left free would be used first
    before = resident()
    assert 0 < before.shared < before.total and before.own == before.total - before.shared
    held = [bytes(4000) for _ in range(10_000)]  # larger than what Python's own allocator takes
    assert heap().used > 40_000_000
    assert resident().total >= before.total + 30_000_000
    last = held.pop()
    del held
    give_back()
    assert resident().total < before.total + 20_000_000
    assert last
