"""A turn with three calls at a time (a shell command that a person allows, a search of files, a tool of a server over
pipes), its run stopped at the n-th step of any task that works for it.

Steps are counted by an instrument of trio's scheduler: those of the run and its session, of the calls in the toolsets'
actors, of the connection to the tool server, of the journal and the link to the guard of processes, and the arrivals of
what threads have done. Between two
of them lies an await, so that stopping at each is stopping at each await. The processes, threads, disk and clock are
real: the number differs a little from run to run, and so does what is at work in the others.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import orjson
import trio

from actors import session as session_module
from actors._feed import Bell, RunFeed
from actors._guard import Guard, open_guard
from actors.api import Engine, RunHandle, open_engine
from actors.run import Run
from engine.config import Config, ModelConfig, Permissions, ToolsetConfig
from engine.errors import CallerError
from engine.limits import Limits
from engine.providers.base import ModelRequest, ToolCallStarted, ToolInputDelta
from engine.runs.approvals import Resolution
from engine.runs.log import Gap
from engine.transcript.records import TextPart, ToolPart
from tests.actors import mcp_server
from tests.actors.processes import descriptors, until
from tests.actors.scripted import ScriptedModels
from tests.stress.stored import stored_problems
from tests.stress.transcript_rules import event_problems, transcript_problems

COMMAND = "echo one; sleep 0.01; echo two >&2"
TOOLS = (
    ("shell__run", orjson.dumps({"command": COMMAND}).decode()),
    ("files__search_files", '{"pattern": "heron"}'),
    ("server__echo", '{"text": "a heron"}'),
)
SERVERS = 1  # processes that stay
LIMIT = 60.0  # of one case, for what hangs
BEYOND = 3  # cases in a row in which the run has ended before its step: nothing goes on there any more
_HELPERS = ("actors._guard_link.", "actors.journal.", "<TrioToken.run_sync_soon")


# ------------------------------------------------------------------ the n-th step
class StopAt(trio.abc.Instrument):
    """Stops the run before the n-th step that is made for it; 0: never. `steps` counts them all."""

    def __init__(self, session_id: str, number: int, caught: list[Run]) -> None:
        self._names = (session_id, "toolsets", "tool server")
        self._number = number
        self._caught = caught
        self._ours: dict[trio.lowlevel.Task, bool] = {}
        self.steps = 0
        self.fired = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self._is_at_work() or not self._is_ours(task):
            return
        self.steps += 1
        if self.steps == self._number:
            self.fired = True
            run = self._caught[-1]
            # What RunRef.cancel does, with its effect on the work at once instead of with the actor's next step.
            run.cancelled_by = run.cancelled_by or "stopped by the matrix"
            run._scope.cancel(reason="the matrix")
            run.cell.request_stop("the matrix")

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._ours.pop(task, None)

    def _is_at_work(self) -> bool:
        """A stop waits for the start to be over (Session.cancel_run)."""
        try:
            return bool(self._caught) and self._caught[-1].cell.state != "starting"
        except ReferenceError:  # all of it is gone
            return False

    def _is_ours(self, task: trio.lowlevel.Task) -> bool:
        known = self._ours.get(task)
        if known is None:
            above = task.parent_nursery
            known = (
                task.name in self._names
                or task.name.startswith(_HELPERS)
                or (above is not None and self._is_ours(above.parent_task))
            )
            self._ours[task] = known
        return known


@contextmanager
def stopped_at(session_id: str, number: int, caught: list[Run]) -> Iterator[StopAt]:
    instrument = StopAt(session_id, number, caught)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield instrument
    finally:
        trio.lowlevel.remove_instrument(instrument)


def task_names() -> list[str]:
    """All tasks there are, those of threads and of trio's own left out."""
    found: list[str] = []

    def walk(task: trio.lowlevel.Task) -> None:
        found.append(task.name)
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                walk(child)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    walk(root)
    return sorted(found)


# ------------------------------------------------------------------ the stage
@attrs.define
class Outcome:
    """What one case came to. `fired`: the run was still at work when its step came."""

    number: int
    steps: int
    fired: bool
    status: str
    call_states: tuple[str, ...]
    problems: list[str]


class Matrix:
    """An engine whose model makes the three calls of each "go", and answers everything else."""

    def __init__(self, engine: Engine, models: ScriptedModels, guard: Guard, caught: list[Run], folder: Path) -> None:
        self._engine = engine
        self._models = models
        self._guard = guard
        self._caught = caught
        self._folder = folder
        self._invalid: list[str] = []

    async def answer_all(self) -> None:
        while True:
            call = await self._models.call()
            self._invalid += request_problems(call.request)
            last = call.request.messages[-1]
            if any(isinstance(part, TextPart) and part.text == "go" for part in last.parts):
                call.reasoning("where could it be")
                await self._taken()
                for piece in ("let ", "me ", "look"):
                    call.text(piece)
                    await self._taken()
                for index, (name, given) in enumerate(TOOLS):
                    call.send(ToolCallStarted(index, "", name), ToolInputDelta(index, given))
                    await self._taken()
                call.tools()
            else:
                for piece in ("all ", "is ", "done"):
                    call.text(piece)
                    await self._taken()
                call.end()

    async def _taken(self) -> None:
        """Let the run take what was sent: each piece of an answer comes by itself."""
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    async def all_cases(self) -> list[Outcome]:
        """Stops at each step, from the first to behind the last."""
        outcomes: list[Outcome] = []
        while len(outcomes) < BEYOND or any(outcome.fired for outcome in outcomes[-BEYOND:]):
            outcomes.append(await self.case(len(outcomes) + 1))
        return outcomes

    async def case(self, number: int) -> Outcome:
        """Stop a run at its n-th step, and look at what is left of it."""
        with trio.fail_after(LIMIT):
            before = descriptors(), task_names()
            session = await self._engine.create_session(cwd=str(self._folder))
            self._caught.clear()
            problems: list[str] = []
            run_id = f"run_matrix_{number}"
            with (
                mock.patch("engine.ids.run_id", lambda: run_id),
                stopped_at(session.id, number, self._caught) as instrument,
            ):
                run = await session.start("go")
                await self._until_ended(run)
            record = await run.stop()  # joined: from here on nothing of it may be left
            problems += self._left(run)
            # A run that is stopped on its way to its end may still complete.
            if record.status != "completed" and not (instrument.fired and record.status == "cancelled"):
                problems.append(f"the run is {record}")
            messages = await self._messages(session.id)
            problems += transcript_problems(messages) + event_problems(events_of(run._feed), messages)
            states = tuple(part["state"] for message in messages for part in message["parts"] if part["kind"] == "tool")
            again = await session.start("and again")
            if (await again.wait()).status != "completed":
                problems.append(f"the next prompt: {again.record}")
            await again.stop()
            problems += transcript_problems(await self._messages(session.id))
            await self._engine.registry.delete_session(session.id)
            problems += await self._until_as(before)
            problems += self._invalid
            self._invalid = []
            return Outcome(number, instrument.steps, instrument.fired, record.status, states, problems)

    async def _until_ended(self, run: RunHandle) -> None:
        """Until the run has ended; who asks is allowed."""
        bell = Bell()
        run._feed.attach(bell.ring)
        try:
            answered: set[str] = set()
            while not run._feed.ended:
                for event in events_of(run._feed):
                    if event["type"] == "approval.requested" and event["call_id"] not in answered:
                        answered.add(event["call_id"])
                        with contextlib.suppress(CallerError):  # the stop decided it
                            allow = Resolution(decision="allow", by="client")
                            await self._engine.registry.reply_approval(run.id, event["call_id"], allow)
                if not run._feed.ended:
                    await bell.wait()
        finally:
            run._feed.detach(bell.ring)

    def _left(self, run: RunHandle) -> list[str]:
        """What a stop that has returned has left, which is to be nothing."""
        left = [name for name in task_names() if run.id in name]
        if self._models.open_now:
            left.append("a model's call")
        if (count := self._guard.statistics().processes) != SERVERS:
            left.append(f"{count} processes, {SERVERS} of which serves tools")
        return [f"left when the stop returned: {left}"] if left else []

    async def _until_as(self, before: tuple[set[str], list[str]]) -> list[str]:
        with trio.move_on_after(LIMIT / 2) as scope:
            await until(lambda: (descriptors(), task_names()) == before)
        if not scope.cancelled_caught:
            return []
        tasks = [name for name in task_names() if name not in before[1]]
        return [f"left: descriptors {descriptors() - before[0]}, tasks {tasks}"]

    async def _messages(self, session_id: str) -> list[dict[str, Any]]:
        page = await self._engine.registry.messages(session_id, 200)
        return [orjson.loads(message) for message in page.messages]


def events_of(feed: RunFeed) -> list[dict[str, Any]]:
    """All events of the run, as clients get them."""
    piece = feed.log.read(0, 1 << 30)
    assert not isinstance(piece, Gap), piece
    return [orjson.loads(body) for body in piece.events]


def request_problems(request: ModelRequest) -> list[str]:
    """What a model's service would refuse."""
    return [
        f"the model is told of a call without a result: {part}"
        for message in request.messages
        for part in message.parts
        if isinstance(part, ToolPart) and (part.state not in ("completed", "error") or not (part.output or part.error))
    ]


@asynccontextmanager
async def open_matrix(folder: Path) -> AsyncIterator[Matrix]:
    """`folder` is for its data and for the files that are searched."""
    place = folder / "place"
    place.mkdir()
    for number in range(20):
        (place / f"{number}.txt").write_text("a heron\nand a word\n" * 20)
    models = ScriptedModels()
    caught: list[Run] = []
    guards: list[Guard] = []

    class Caught(Run):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            caught.append(self)

    @asynccontextmanager
    async def kept_guard(limits: Limits, **given: bool) -> AsyncIterator[Guard]:
        async with open_guard(limits, **given) as guard:
            guards.append(guard)
            yield guard

    config = Config(
        default_model="model",
        models={"model": ModelConfig(provider="demo")},
        toolsets={
            **{name: ToolsetConfig(kind="builtin") for name in ("files", "shell")},
            "server": ToolsetConfig(kind="mcp", command=sys.executable, args=(mcp_server.__file__,)),
        },
        permissions=Permissions(ask=("shell.run",), allow=("server",)),
        durability="normal",
        # The machine may have much else to do: neither the start of the server nor the disk is what is looked at.
        limits=Limits(toolset_first_wait=LIMIT, cancel_grace=LIMIT / 4),
    )
    with (
        mock.patch("actors.composition.Models", lambda *_, **__: models),
        mock.patch("actors.composition.open_guard", kept_guard),
        mock.patch.object(session_module, "Run", Caught),
    ):
        async with (
            open_engine(config, data_dir=folder / "data") as engine,
            trio.open_nursery() as nursery,
        ):
            matrix = Matrix(engine, models, guards[0], caught, place)
            nursery.start_soon(matrix.answer_all)
            await matrix.case(0)  # the guard is started, and all modules are there
            yield matrix
            nursery.cancel_scope.cancel(reason="the matrix is over")
    assert stored_problems(folder / "data") == []
