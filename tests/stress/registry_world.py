"""Plays a list of operations on a real engine: registry, sessions, runs and SQLite, with a scripted model and with
watchers that pull as a connection's writer does. After each operation the invariants are checked; at the end
everything is let go, and nothing may be held.

Time stands still unless an operation moves it (a MockClock that never jumps by itself: the disk's threads take real
time). What is under way when an operation begins is left to the scheduler and the disk, unless it says `settle`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actors._ask import ActorDied
from actors._feed import RunFeed
from actors.api import Engine, open_engine
from actors.gateway.watches import RunReader, RunWatch, SessionWatch, Watch
from actors.registry import Registry
from actors.session import StartedRun
from actors.store import Store
from engine.commands import NewSession, StartRun
from engine.config import Config, ModelConfig
from engine.errors import CallerError, PeerError
from engine.limits import KIB, Limits
from engine.providers.base import AnswerFinished, ReasoningDelta, TextDelta, ToolCallStarted, ToolInputDelta
from engine.runs.log import ENVELOPE_BYTES
from engine.runs.record import Run
from engine.storage import applying, starting
from engine.transcript.records import AssistantMessage, Message, TextPart, ToolPart
from engine.wire import objects
from tests.actors.scripted import Call, HeldDisk, ScriptedModels, names
from tests.stress.seen import TERMINAL, Json, Script, Seen

SESSIONS = 3
RUN_TEXT = 24 * KIB  # of one run: less than a page of messages and a string of the wire hold uncut
HANGS_AFTER = 60.0  # real seconds of one example
LIMITS = Limits(
    run_log_entries=40,
    run_log_bytes=4 * KIB,
    all_logs_bytes=7 * KIB,  # less than the newest segments of all logs and what else fits one log
    terminal_retention=4.0,
    terminal_retained_max=3,
    active_runs_max=2,
    passivate_after=8.0,
    seq_block=50,
    chunk_bytes=512,
    unsaved_bytes=2 * KIB,
    tool_call_timeout=1e6,
    run_timeout=1e6,
)
# What is left of the tree when nobody uses it.
ROOTS = {"store", "toolsets", "functions", "registry"}

Operation = tuple[Any, ...]

_start_run = starting.start_run


@attrs.define(eq=False)
class Follower:
    """A watch, and what was told through it."""

    world: World
    watch: Watch | None = None
    seen: dict[str, Seen] = attrs.field(factory=dict)
    dirty: bool = False
    over: bool = False  # told to its end
    closed: bool = False  # by us, or with the engine
    broken: bool = False  # the engine went away under a snapshot

    # ------------------------------------------------------------ Post
    def ring(self, watch: Watch) -> None:
        self.dirty = True

    def want(self, reader: RunReader) -> None:
        self.world.tasks.start_soon(self._fetch, reader)

    def release(self, reader: RunReader) -> None:
        pass

    async def _fetch(self, reader: RunReader) -> None:
        try:
            await reader.tell(await reader.feed.snapshot())
        except Exception:
            if not (self.world.closing or self.closed):
                raise
            self.broken = True
            reader.give_up()

    # ------------------------------------------------------------ the writer's side
    @property
    def open(self) -> bool:
        return self.watch is not None and not self.over and not self.closed

    def pull(self, room: int) -> bool:
        """One frame, as Writer._gather does it; False if there was none."""
        watch = self.watch
        if watch is None or not self.open or not self.dirty:
            return False
        text = watch.pull(room)
        self.dirty = text is not None and (watch.behind or watch.over)
        if text is not None:
            self._take(json.loads(text), room)
        if watch.over:
            self.over = True
            watch.close()
        return text is not None

    def _take(self, frame: Json, room: int) -> None:
        method, params = frame["method"], frame["params"]
        assert params["watch_id"] == "w"
        if method == "session.changed":
            return
        if method == "watch.closed":
            assert "run_id" not in params or params["reason"] == "draining" or params["status"] in TERMINAL
            return
        if not self.broken:
            run_id = params["run_id"]
            if run_id not in self.seen:
                self.seen[run_id] = Seen(run_id, self.world.script_of(run_id))
            self.seen[run_id].take(method, params)
            self.world.stats[method] += 1

    def close(self) -> None:
        self.closed = True
        if self.watch is not None:
            self.watch.close()


class World:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.copy = folder / "copy"
        self.clock: trio.testing.MockClock = trio.lowlevel.current_clock()  # type: ignore[assignment]
        self.sessions: list[str] = []
        self.deleted: set[str] = set()  # deletion was asked
        self.scripts: dict[str, Script] = {}  # by the user's message
        self.tag_of: dict[str, str] = {}  # run -> the user's message
        self.session_of: dict[str, str] = {}
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

    # ------------------------------------------------------------ lives of the engine
    async def play(self, operations: Sequence[Operation]) -> None:
        rest = deque(operations)
        while True:
            async with trio.open_nursery() as self.tasks:
                async with self._engine():
                    crash = await self._live(rest)
                    again = crash or bool(rest)
                    if crash:
                        await self._crash()
                    elif not again:
                        await self._let_go()
                        await self._check_kept()
                    self.closing = True
                    self.disk.release()
                await trio.testing.wait_all_tasks_blocked()
                assert not +self.under_way, f"asked of an engine that has ended: {+self.under_way}"
                if not crash:
                    self._drain_all()
                self._leave()
                self.tasks.cancel_scope.cancel()
            if crash:
                shutil.rmtree(self.data)
                self.copy.rename(self.data)
            if not again:
                break
        # What is durable is the same for the next daemon.
        async with trio.open_nursery() as self.tasks:
            async with self._engine():
                await self._check_kept()
                self.closing = True
            self.tasks.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine]:
        self.life += 1
        self.closing = False
        self.models = ScriptedModels()

        async def echo(text: str) -> str:
            """Say it again."""
            return text

        async def wait() -> str:
            """Wait until the test lets it go."""
            let_go = trio.Event()
            self.tools.append(let_go)
            await let_go.wait()
            return "waited"

        config = Config(
            default_model="model",
            models={"model": ModelConfig(provider="demo")},
            toolsets={},
            limits=LIMITS,
            durability="normal",
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("actors.composition.Models", lambda *_, **__: self.models)
            patch.setattr(starting, "start_run", self._store_run)
            patch.setattr(applying, "apply", functools.partial(self.disk.gate, applying.apply))
            async with open_engine(config, data_dir=self.data, tools=[echo, wait]) as self.engine:
                self.registry = self.engine.registry
                actor = self.registry._cell.actor
                assert isinstance(actor, Registry)
                self.actor = actor
                store = self.engine._composition.store._cell.actor
                assert isinstance(store, Store)
                self.store = store
                self.tasks.start_soon(self._answer_calls, self.models)
                yield self.engine

    async def _live(self, rest: deque[Operation]) -> bool:
        """Play until the engine is to be closed; whether by a crash."""
        while rest:
            name, *arguments = rest.popleft()
            if name == "restart":
                return False
            if name == "crash":
                return True
            await getattr(self, f"do_{name}")(*arguments)
            self._check_now()
        return False

    async def _crash(self) -> None:
        """Keep the files as a kill would leave them now: what is told from here on never happened."""
        await self.settle()
        self._drain_all()
        self._check_now()
        shutil.copytree(self.data, self.copy)
        for feed in self.feeds:
            if feed.run.status not in TERMINAL and feed.run.id in self.tag_of:
                self.script_of(feed.run.id).crashed = True
        self._leave()
        self.life += 1

    def _leave(self) -> None:
        for follower in self.followers:
            follower.close()
        self.feeds.clear()
        self.calls.clear()
        self.tools.clear()

    async def _answer_calls(self, models: ScriptedModels) -> None:
        while True:
            call = await models._calls.receive()
            tag = check_request(call.request.messages)
            # A call that faltered before it said anything is made again in the same turn.
            if tag not in self.faltered or self.scripts[tag].turns[-1]:
                self.scripts[tag].turns.append([])
            if tag in self.faltered:
                self.faltered.discard(tag)
                self.stats["tried again"] += 1
            self.calls[tag] = call

    # ------------------------------------------------------------ to rest
    async def settle(self) -> None:
        """Until nothing goes on but what waits for the model, for a watcher or for time."""
        self.disk.release()
        while True:
            await trio.testing.wait_all_tasks_blocked()
            disk = self.store.disk
            if all(worker._room.value == LIMITS.disk_queue for worker in (disk._writer, disk._reader)):
                return
            await disk.read(lambda connection: None)
            await disk.write(lambda connection: None)

    async def do_settle(self) -> None:
        await self.settle()
        self._check_settled()
        for session_id in self.sessions:
            if session_id not in self.deleted:
                active = await self.store.cell.ref.list_runs(session_id, True, 100)  # type: ignore[attr-defined]
                assert len(active.items) <= 1, f"several runs are active in {session_id}"

    async def do_hold(self) -> None:
        """Commits wait until the next operation that settles."""
        self.disk.hold()
        self.stats["held"] += 1

    async def do_rest(self) -> None:
        """Until nothing goes on but what waits for the disk too."""
        await trio.testing.wait_all_tasks_blocked()
        self._check_woken()

    async def do_turn(self, count: int) -> None:
        for _ in range(count):
            await trio.lowlevel.checkpoint()

    async def do_advance(self, seconds: float) -> None:
        await self.settle()  # else a grace would end that has no time to pass in
        self.clock.jump(seconds)
        self.stats["advance"] += 1

    # ------------------------------------------------------------ what clients ask
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

    async def do_start(self, index: int, interrupt: bool, settle: bool) -> None:
        live = [session_id for session_id in self.sessions if session_id not in self.deleted]
        session_id = pick(self.sessions if index == 7 else live, index)
        if session_id is None:
            return
        tag = f"message {len(self.starts)}"
        start = StartRun(
            session_id=session_id,
            input=(tag,),
            when_busy="interrupt" if interrupt else "reject",
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
        self.know(started.feed, tag)

    def know(self, feed: RunFeed, tag: str | None = None) -> None:
        run_id = feed.run.id
        assert tag in (None, self.tag_of[run_id]), "the answer to a start has the run of another"
        self.session_of[run_id] = feed.run.session_id
        if feed not in self.feeds:
            self.feeds.append(feed)

    def script_of(self, run_id: str) -> Script:
        return self.scripts[self.tag_of[run_id]]

    def _store_run(self, connection: Any, run: Run, message: Message, **named: Any) -> Any:
        """In the disk's thread: which message made which run is known before its start is answered."""
        text = message.parts[0]
        assert isinstance(text, TextPart)
        self.tag_of[run.id] = text.text
        return self.disk.gate(_start_run, connection, run, message, **named)

    async def do_stop(self, index: int, tasks: int) -> None:
        run_id = pick(list(self.session_of), index)
        if run_id is not None:
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

    def ended(self, run: Run) -> None:
        known = self.ends.setdefault(run.id, run)
        assert known == run, f"{known} became {run}"

    # ------------------------------------------------------------ the model
    async def do_model(self, index: int, what: str, amount: int) -> None:
        tags = [tag for tag, call in self.calls.items() if not call.closed.is_set() and id(call) not in self.answered]
        tag = pick(tags, index)
        if tag is None:
            return
        call, script = self.calls[tag], self.scripts[tag]
        self.stats[what] += 1
        match what:
            case "text" | "reasoning" | "burst":
                pieces = 1 if what != "burst" else 10 * (1 + amount % 8)
                for _ in range(pieces):
                    if script.size > RUN_TEXT:
                        break
                    self.said += 1
                    # Unique, and with what JSON escapes and UTF-8 makes longer.
                    text = f'<{self.said}>"é\n' + "x" * (amount * 7 % 150)
                    kind = "reasoning" if what == "reasoning" else "text"
                    script.say(kind, text)
                    call.send(TextDelta(text) if kind == "text" else ReasoningDelta(text))
            case "end":
                self.answered.add(id(call))
                call.end()
            case "fail":
                self.answered.add(id(call))
                call.fail(PeerError("provider_error", "the service is down, says the test"))
            case "falter":
                self.answered.add(id(call))
                self.faltered.add(tag)
                call.fail(PeerError("provider_error", "the service is overloaded, says the test", retry=True))
            case "tools":
                self.answered.add(id(call))
                chosen = [("echo", '{"text": "hi"}'), ("wait", "{}"), ("echo", "{"), ("nothing", "{}")]
                picked = [chosen[(amount + number) % 4] for number in range(1 + amount % 3)]
                for number, (name, given) in enumerate(picked):
                    call.send(ToolCallStarted(number, "", f"functions__{name}"), ToolInputDelta(number, given))
                call.send(AnswerFinished("tool_calls"))
                call._send.send_nowait(None)

    async def do_release(self) -> None:
        """Let the tools go that wait."""
        for let_go in self.tools:
            let_go.set()
        self.tools.clear()

    # ------------------------------------------------------------ watchers
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

    # ------------------------------------------------------------ what always holds
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

    # ------------------------------------------------------------ the end
    async def _let_go(self) -> None:
        await self.settle()
        for run_id in list(self.actor._admission._active):
            self.ask("stop", lambda run_id=run_id: self.registry.stop_run(run_id))  # type: ignore[misc]
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

    async def _check_kept(self) -> None:
        runs = {run.id: run for run in (await self.registry.list_runs(None, None, 200)).items}
        for session_id in self.sessions:
            try:
                page = await self.registry.messages(session_id, 200)
            except CallerError:
                assert session_id in self.deleted
                continue
            assert page.next_cursor is None
            messages = [json.loads(message) for message in page.messages]
            order = list(dict.fromkeys(message["info"]["run_id"] for message in messages))
            for run_id in order:
                self._check_run(runs[run_id], [one for one in messages if one["info"]["run_id"] == run_id])
            assert [one["info"]["run_id"] for one in messages] == [
                run_id for run_id in order for one in messages if one["info"]["run_id"] == run_id
            ], "the messages of two runs are mixed"
            for tag, (run_id, message_id) in self.acknowledged.items():
                if self.session_of[run_id] == session_id:
                    found = [one for one in messages if one["info"]["id"] == message_id]
                    assert [part["text"] for one in found for part in one["parts"]] == [tag], "a message is lost"

    def _check_run(self, run: Run, messages: list[Json]) -> None:
        assert run.status in TERMINAL
        self.ended(run)
        user, *answers = messages
        assert user["info"]["role"] == "user" and all(one["info"]["role"] == "assistant" for one in answers)
        script = self.scripts[user["parts"][0]["text"]]
        for number, answer in enumerate(answers):
            assert answer["info"].get("finish"), "an answer without an end"
            told = script.turns[number] if number < len(script.turns) else []
            kept = [(part["kind"], part["text"]) for part in answer["parts"] if part["kind"] in ("text", "reasoning")]
            if run.status == "completed" or number < len(answers) - 1:
                assert kept == told, "the model said something else"
            elif kept:
                assert kept[:-1] == told[: len(kept) - 1], "the model said something else"
                assert kept[-1][0] == told[len(kept) - 1][0]
                assert told[len(kept) - 1][1].startswith(kept[-1][1]), "the model said something else"
            for part in answer["parts"]:
                if part["kind"] == "tool":
                    assert part["state"] in ("completed", "error"), "a call without a result"
                    assert (part.get("output") is None) != (part.get("error") is None)
        calls = [part["call_id"] for one in answers for part in one["parts"] if part["kind"] == "tool"]
        assert len(set(calls)) == len(calls)
        record = json.loads(objects.encode_run(run))
        for follower in self.followers:
            seen = follower.seen.get(run.id)
            if seen is not None and not follower.broken:
                seen.check(record, messages, complete=id(seen) in self.complete and not script.crashed)
                self.stats["compared"] += 1


def check_request(messages: tuple[Message, ...]) -> str:
    """The history is one that a provider takes; returns the newest user message."""
    assert messages and messages[0].role == "user"
    for message in messages:
        if isinstance(message.info, AssistantMessage):
            assert message.info.finish is not None, "an answer without an end"
        for part in message.parts:
            assert not isinstance(part, ToolPart) or part.state in ("completed", "error"), "a call without a result"
    user = [message for message in messages if message.role == "user"][-1]
    text = user.parts[0]
    return text.text  # type: ignore[union-attr]


def pick(values: Sequence[Any], index: int) -> Any:
    return values[index % len(values)] if values else None


class Errors(logging.Handler):
    """Whatever the program logs as an error is one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def play(operations: Sequence[Operation], folder: Path) -> Counter[str]:
    """Returns how often what was done."""
    stats: Counter[str] = Counter()

    async def main() -> None:
        world = World(folder)
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            watchdog = threading.Timer(HANGS_AFTER, token.run_sync_soon, (scope.cancel,))
            watchdog.start()
            try:
                await world.play(operations)
            finally:
                watchdog.cancel()
        assert not scope.cancelled_caught, "it hangs"
        stats.update(world.stats)

    errors = Errors()
    logging.getLogger("greenroom").addHandler(errors)
    try:
        trio.run(main, clock=trio.testing.MockClock())
    finally:
        logging.getLogger("greenroom").removeHandler(errors)
    assert not errors.lines, errors.lines
    return stats
