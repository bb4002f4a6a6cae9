"""What holds after each operation, when nothing goes on, and when everything was let go."""

from __future__ import annotations

from collections import Counter

from actors.gateway.watches import RunWatch
from engine.runs.log import ENVELOPE_BYTES
from tests.actors.scripted import names
from tests.stress.seen import TERMINAL
from tests.stress.truth import LIMITS, Truth

# What is left of the tree when nobody uses it.
ROOTS = {"store", "toolsets", "functions", "registry"}


class Invariants(Truth):
    def _check_now(self) -> None:
        registry = self.actor
        sessions = Counter(registry._admission._active.values())
        assert all(count == 1 for count in sessions.values()), "several runs are active in a session"
        assert len(sessions) <= LIMITS.active_runs_max
        logs = [feed.log for feed in registry._runs.values()]
        for log in logs:
            assert len(log) <= LIMITS.run_log_entries and log.size <= LIMITS.run_log_bytes + ENVELOPE_BYTES
            assert log.size == sum(segment.size for segment in log._segments)
        budget = registry._services.budget
        assert budget.size == sum(log.size for log in logs), "the budget counts what is not there"
        assert budget.size <= LIMITS.all_logs_bytes
        for session_id, session in registry._sessions.items():
            known = {id(feed) for feed in registry._runs.values() if feed.run.session_id == session_id}
            feed_of = session._cell.actor.feed  # type: ignore[attr-defined]
            assert known >= {id(feed) for feed in feed_of._runs.values()}, "a session shows a run that has left memory"
        for feed in self.feeds:
            if feed.run.status in TERMINAL:
                self.ended(feed.run)
                assert feed.ended
        for run_id in registry._admission._active:
            assert run_id not in self.ends, "a run that has ended is active"

    def _check_settled(self) -> None:
        assert len(self.actor._retention) <= LIMITS.terminal_retained_max, "more ended runs than are to be kept"
        self._check_woken()

    def _check_woken(self) -> None:
        for follower in self.followers:
            if follower.open and not follower.dirty:
                assert follower.watch is not None and not follower.watch.behind, "a watcher was not woken"

    async def _let_go(self) -> None:
        await self.settle()
        while active := (await self.registry.list_runs(None, True, 100)).items:
            for run in active:  # the newest first: those that wait before the one that they wait for
                self.stop_asked.add(run.id)
                self.ask("stop", lambda run_id=run.id: self.registry.stop_run(run_id))  # type: ignore[misc]
            await self.settle()
        assert not +self.under_way, f"not answered: {+self.under_way}"
        self._check_now()
        self._check_settled()
        while self._drain_all():
            await self.settle()
        for follower in self.followers:
            if follower.watch is not None and isinstance(follower.watch, RunWatch) and not follower.closed:
                assert follower.over, f"not told to the end: {follower.watch._reader!r}"
        self.complete = {
            id(seen)
            for follower in self.followers
            if follower.watch is not None and not follower.closed
            for seen in follower.seen.values()
            if seen.told_end
        }
        for follower in self.followers:
            follower.close()
        for feed in self.feeds:
            assert not feed.watched, "a watcher is still attached"
        self.feeds.clear()
        for _ in range(8):
            await self.do_advance(LIMITS.passivate_after / 2)
        await self.settle()
        figures = self.registry.registry_statistics()
        assert (figures.sessions, figures.active_runs, figures.retained_runs, figures.log_bytes) == (0, 0, 0, 0)
        registry, budget = self.actor, self.actor._services.budget
        assert not registry._runs and not registry._opening and not registry._admission._starting
        assert not budget._active and not budget._ended
        disk = self.store.cell.ref.store_statistics()  # type: ignore[attr-defined]
        assert (disk.journals, disk.unsaved, disk.waiting) == (0, 0, 0)
        assert set(names(self.engine.tree())) == ROOTS
        assert self.models.open_now == 0
