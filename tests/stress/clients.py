"""What clients ask: sessions, starts, stops and watches, each request a task of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from actors._ask import ActorDied
from actors.gateway.watches import RunWatch, SessionWatch
from actors.session_ref import StartedRun
from engine.commands import NewSession, StartRun, WhenBusy
from engine.errors import CallerError, PeerError
from engine.limits import KIB
from tests.actors.scripted import names
from tests.stress.follower import Follower
from tests.stress.seen import TERMINAL, Script
from tests.stress.truth import Truth, pick

SESSIONS = 3


class Clients(Truth):
    def ask(self, name: str, ask: Callable[[], Awaitable[object]], *allowed: str) -> None:
        self.tasks.start_soon(self._ask, name, ask, allowed)

    async def _ask(self, name: str, ask: Callable[[], Awaitable[object]], allowed: tuple[str, ...]) -> None:
        life = self.life
        self.under_way[name] += 1
        try:
            await ask()
        except CallerError as exc:
            if not self.closing and life == self.life:
                assert exc.code in allowed, f"{name}: {exc.code}"
                self.stats[exc.code] += 1
        except (ActorDied, PeerError):
            assert self.closing, f"{name}: an actor has died"
        finally:
            self.under_way[name] -= 1

    async def do_create(self) -> None:
        if len(self.sessions) - len(self.deleted) < SESSIONS:
            self.disk.release()  # behind a commit that is held it would wait, and everything with it
            self.sessions.append((await self.registry.create_session(NewSession())).id)

    async def do_delete(self, index: int) -> None:
        if index < len(self.sessions):  # rarely: of what is deleted there is not much to see
            session_id = self.sessions[index]
            self.deleted.add(session_id)
            self.ask("delete", lambda: self._delete(session_id), "unknown_session")

    async def _delete(self, session_id: str) -> None:
        await self.registry.delete_session(session_id)
        self.stats["deleted"] += 1
        with pytest.raises(CallerError, match="session"):
            await self.registry.get_session(session_id)
        assert session_id not in self.actor._sessions
        assert not [run for run in self.actor._runs.values() if run.run.session_id == session_id]

    async def do_start(self, index: int, when_busy: WhenBusy, settle: bool) -> None:
        live = [session_id for session_id in self.sessions if session_id not in self.deleted]
        session_id = pick(self.sessions if index == 7 else live, index)
        if session_id is None:
            return
        tag = f"message {len(self.starts)}"
        start = StartRun(
            session_id=session_id,
            input=(tag,),
            when_busy=when_busy,
            idempotency_key=tag,
        )
        self.starts.append(start)
        self.scripts[tag] = Script(tag)
        self._ask_start(start)
        if settle:
            await self.settle()

    async def do_repeat(self, index: int) -> None:
        start = pick(self.starts, index)
        if start is not None:
            self._ask_start(start)

    def _ask_start(self, start: StartRun) -> None:
        allowed = ["overloaded"]
        if start.when_busy == "reject" and start.idempotency_key not in self.acknowledged:
            allowed.append("session_busy")
        if start.when_busy in ("queue", "steer"):
            allowed.append("queue_full")
        self.ask("start", lambda: self._start(start), *allowed, "unknown_session", "unknown_run")

    async def _start(self, start: StartRun) -> None:
        life = self.life
        try:
            started = await self.registry.start_run(start)
        except CallerError as exc:
            if exc.code in ("unknown_session", "unknown_run") and not self.closing:
                assert start.session_id in self.deleted
            raise
        if life == self.life:
            self._started(start, started)

    def _started(self, start: StartRun, started: StartedRun) -> None:
        tag = start.input[0]
        assert isinstance(tag, str)
        ids = (started.run.id, started.message_id)
        assert self.acknowledged.setdefault(tag, ids) == ids, "a repeated start made another run"
        self.stats["started"] += 1
        self.stats[start.when_busy] += tag in self.steered.get(started.run.id, ()) or started.run.status == "queued"
        self.know(started.feed, tag)

    async def do_stop(self, index: int, tasks: int) -> None:
        run_id = pick(list(self.session_of), index)
        if run_id is not None:
            self.stop_asked.add(run_id)
            for _ in range(tasks):
                self.ask("stop", lambda: self._stop(run_id), "unknown_run")

    async def _stop(self, run_id: str) -> None:
        life = self.life
        try:
            run = await self.registry.stop_run(run_id)
        except CallerError:
            assert self.closing or self.session_of[run_id] in self.deleted
            raise
        if life == self.life and not self.closing:
            assert run.status in TERMINAL, "stopped is not stopped"
            assert run_id not in names(self.engine.tree()), "the run's actor outlives its stop"
            self.ended(run)
            self.stats["stopped"] += 1

    async def do_watch(self, index: int, cursor: str) -> None:
        run_id = pick(list(self.session_of), index)
        if run_id is None:
            return
        follower = Follower(self)
        self.followers.append(follower)
        after = 0
        if cursor == "resume":
            known = [one.seen[run_id] for one in self.followers if run_id in one.seen and not one.broken]
            earlier = pick([seen for seen in known if not seen.waiting], index)
            if earlier is not None:
                follower.seen[run_id] = earlier.resumed()
                after = earlier.seq
        elif cursor == "future":
            after = 10**9
        self.ask("watch", lambda: self._watch(follower, run_id, after), "unknown_run")

    async def _watch(self, follower: Follower, run_id: str, after: int) -> None:
        feed = await self.registry.watch_run(run_id)
        if not self.closing and not follower.closed:
            self.know(feed)
            follower.watch = RunWatch("w", follower, feed, after)
            follower.dirty = True
            self.stats["watched evicted" if feed.evicted else "watched"] += 1

    async def do_watch_session(self, index: int) -> None:
        session_id = pick(self.sessions, index)
        if session_id is not None:
            follower = Follower(self)
            self.followers.append(follower)
            self.ask("watch", lambda: self._watch_session(follower, session_id), "unknown_session")

    async def _watch_session(self, follower: Follower, session_id: str) -> None:
        feed = await self.registry.watch_session(session_id)
        if not self.closing and not follower.closed:
            follower.watch = SessionWatch("w", follower, feed, None)
            follower.dirty = True
            self.stats["watched session"] += 1

    async def do_pull(self, index: int, room: int, times: int) -> None:
        follower = pick([one for one in self.followers if one.open], index)
        if follower is not None:
            for _ in range(times):
                follower.pull(room)

    async def do_close(self, index: int) -> None:
        follower = pick([one for one in self.followers if one.open], index)
        if follower is not None:
            follower.close()

    def _drain_all(self) -> bool:
        """Pull all that there is; whether there was something."""
        frames = 0
        for follower in self.followers:
            while follower.pull(64 * KIB):
                frames += 1
        return frames > 0
