"""An engine on a real store whose model does what the test says, and whose disk can be held or filled."""

from __future__ import annotations

import base64
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import orjson
import pytest
import trio

from actors._feed import Bell, RunFeed
from actors.api import Engine, RunHandle, open_engine
from actors.store_ref import StoreRef
from engine import codec
from engine.config import Config, ModelConfig, Permissions, ToolsetConfig
from engine.errors import PeerError
from engine.limits import Limits
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
)
from engine.runs import events
from engine.runs.events import Event, Numbered, PartDelta
from engine.runs.log import Gap
from engine.storage import applying, approvals, starting, waiting
from engine.transcript.media import Shown, split
from engine.transcript.records import FilePart
from engine.transcript.window import Room

LIMIT = 60.0
NO_RULES = Permissions()
# Answers of a call may wait for the run: more than any test sends at a time.
WAITING = 4096


class Call:
    """One call of the model. The test sends batches of events, an error, or the end."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self.closed = trio.Event()  # the run has left the call
        self._send, self._receive = trio.open_memory_channel[list[ModelEvent] | Exception | None](WAITING)

    # for the test
    def send(self, *batch: ModelEvent) -> None:
        self._send.send_nowait(list(batch))

    def text(self, *pieces: str) -> None:
        for piece in pieces:
            self.send(TextDelta(piece))

    def reasoning(self, text: str) -> None:
        self.send(ReasoningDelta(text))

    def fail(self, error: Exception) -> None:
        self._send.send_nowait(error)

    def end(self) -> None:
        self.send(AnswerFinished("stop"))
        self._send.send_nowait(None)

    def tools(self, *calls: tuple[str, str]) -> None:
        """End the answer with calls of (name, input)."""
        for index, (name, given) in enumerate(calls):
            self.send(ToolCallStarted(index, "", name), ToolInputDelta(index, given))
        self.send(AnswerFinished("tool_calls"))
        self._send.send_nowait(None)

    # for the run
    async def receive(self) -> list[ModelEvent] | None:
        answer = await self._receive.receive()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def seen(request: ModelRequest, part: FilePart) -> bytes:
    """The file as a service is sent it with the request."""
    sent = b""
    for piece in split((part.data_base64 or "").encode()):
        if isinstance(piece, Shown):
            assert request.media is not None
            piece = base64.b64encode(await request.media(piece.digest, 0, piece.size))
        sent += piece
    return base64.b64decode(sent)


class ScriptedModels:
    """Stands in for actors.models.Models: `model` and `other` are configured, and each call waits for the test."""

    def __init__(self) -> None:
        self.refuses: Exception | None = None
        self.rooms: dict[str, Room] = {}  # of models; others are never compacted in time
        self.open_now = 0
        self.forgotten: list[str] = []  # sessions that have left memory
        self._send, self._calls = trio.open_memory_channel[Call](WAITING)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.open_now == 0, "a model call is open longer than the models"

    def has(self, name: str) -> bool:
        return name in ("model", "other")

    def room(self, name: str) -> Room | None:
        return self.rooms.get(name, Room(window=8192, answer=1024, compact_at=0.0))

    def retried(self, name: str, code: str) -> None:
        """Counted by the real one."""

    def forget(self, session_id: str) -> None:
        """Nothing is kept here but that."""
        self.forgotten.append(session_id)

    @contextlib.asynccontextmanager
    async def open(self, name: str, request: ModelRequest) -> AsyncIterator[Call]:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        call = Call(request)
        self.open_now += 1
        self._send.send_nowait(call)
        try:
            yield call
        finally:
            self.open_now -= 1
            call.closed.set()

    async def call(self) -> Call:
        """The next call that a run makes, those left out that are over."""
        while (call := await self._calls.receive()).closed.is_set():
            pass
        return call


class HeldDisk:
    """Commits of runs wait while `hold` was called, and fail while `full` is set. Reads and all else go on."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.full = False
        self.waiting = threading.Event()  # a commit was held
        self.refused = threading.Event()  # a commit has failed

    def hold(self) -> None:
        self.waiting.clear()
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def wait_held(self) -> None:
        """Until a commit waits at the gate."""
        await trio.to_thread.run_sync(self.waiting.wait, LIMIT)

    async def wait_refused(self) -> None:
        """Until a commit has failed."""
        await trio.to_thread.run_sync(self.refused.wait, LIMIT)

    def gate(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if not self._open.is_set():
            self.waiting.set()
            assert self._open.wait(LIMIT), "the test never let the disk go"
        if self.full:
            self.refused.set()
            raise PeerError("disk_full", "the disk is full, says the test")
        return work(*arguments, **named)


class Stage:
    """The engine with its session, model and disk."""

    def __init__(self, engine: Engine, models: ScriptedModels, disk: HeldDisk) -> None:
        self.engine = engine
        self.registry = engine.registry
        self.models = models
        self.disk = disk

    async def begin(self, text: str = "hello", **fields: Any) -> tuple[RunHandle, Call]:
        """A new session with a run whose model was called."""
        session = await self.engine.create_session(**fields)
        run = await session.start(text)
        return run, await self.models.call()

    async def session_of(self, run: RunHandle) -> str:
        return (await self.registry.get_run(run.id)).session_id

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        page = await self.registry.messages(session_id, 200)
        return [orjson.loads(message) for message in page.messages]

    async def usable(self, session_id: str) -> None:
        """The next run in the session works, and its history is one that a provider takes."""
        session = await self.engine.session(session_id)
        run = await session.start("and again")
        call = await self.models.call()
        for message in call.request.messages:
            for part in message.parts:
                if hasattr(part, "call_id"):
                    assert part.state in ("completed", "error"), "a call without a result"
        call.text("fine")
        call.end()
        assert (await run.wait()).status == "completed"
        assert (await self.store.list_runs(session_id, True, 100)).items == ()

    @property
    def store(self) -> StoreRef:
        """For what the registry does not tell: the state of the disk."""
        return self.engine._composition.store

    def runs_in_tree(self) -> list[str]:
        return [name for name in names(self.engine.tree()) if name.startswith("run_")]


def names(tree: dict[str, Any]) -> list[str]:
    """The names of all actors below the root of a tree."""
    children = tree.get("children", {})
    return [*children, *(name for child in children.values() for name in names(child))]


Staged = Callable[..., contextlib.AbstractAsyncContextManager[Stage]]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staged:
    """`async with staged(tools=[…], run_timeout=…) as stage`: limits are given by name, and of the built-in toolsets
    those of `toolsets` are there. `limit` is in seconds of trio's clock: inf where a test moves that."""
    disk = HeldDisk()
    monkeypatch.setattr(applying, "apply", functools.partial(disk.gate, applying.apply))
    monkeypatch.setattr(starting, "start_run", functools.partial(disk.gate, starting.start_run))
    monkeypatch.setattr(starting, "settle_run", functools.partial(disk.gate, starting.settle_run))
    monkeypatch.setattr(starting, "steer_run", functools.partial(disk.gate, starting.steer_run))
    monkeypatch.setattr(approvals, "decide", functools.partial(disk.gate, approvals.decide))
    for name in ("enqueue", "begin", "drop"):
        monkeypatch.setattr(waiting, name, functools.partial(disk.gate, getattr(waiting, name)))

    @contextlib.asynccontextmanager
    async def stage(
        tools: Sequence[Callable[..., Any]] = (),
        permissions: Permissions = NO_RULES,
        *,
        toolsets: Mapping[str, ToolsetConfig] = MappingProxyType({}),
        limit: float = LIMIT,
        **limits: float,
    ) -> AsyncIterator[Stage]:
        models = ScriptedModels()
        monkeypatch.setattr("actors.composition.Models", lambda *_, **__: models)
        config = Config(
            default_model="model",
            models={"model": ModelConfig(provider="demo"), "other": ModelConfig(provider="demo")},
            toolsets=toolsets,
            permissions=permissions,
            limits=Limits(**limits),  # type: ignore[arg-type]
        )
        with trio.fail_after(limit):
            async with open_engine(config, data_dir=tmp_path / "data", tools=tools) as engine:
                try:
                    yield Stage(engine, models, disk)
                finally:
                    disk.full = False
                    disk.release()

    return stage


# ------------------------------------------------------------------ what watchers see
def log_of(feed: RunFeed, after: int = 0) -> list[Numbered]:
    """Every event of the log after the cursor; deltas may be merged."""
    piece = feed.log.read(after, 1 << 30)
    assert not isinstance(piece, Gap), piece
    found = [events.decode(codec.parse(body)) for body in piece.events]
    return [event for event in found if event is not None]


def shown(run: RunHandle) -> list[Numbered]:
    return log_of(run._feed)


def text_of(numbered: Sequence[Numbered]) -> str:
    return "".join(one.event.text for one in numbered if isinstance(one.event, PartDelta))


def kinds(numbered: Sequence[Numbered]) -> list[str]:
    return [events.TYPE_OF[type(one.event)] for one in numbered]


def of(numbered: Sequence[Numbered], kind: type[Event]) -> list[Any]:
    return [one.event for one in numbered if isinstance(one.event, kind)]


def check_seq(numbered: Sequence[Numbered], after: int = 0) -> None:
    """Numbers rise without a hole."""
    for one in numbered:
        assert one.first == after + 1, numbered
        after = one.seq


async def until(run: RunHandle | RunFeed, holds: Callable[[list[Numbered]], object]) -> list[Numbered]:
    """Wait until what is shown of the run satisfies `holds`; returns it."""
    feed = run._feed if isinstance(run, RunHandle) else run
    bell = Bell()
    feed.attach(bell.ring)
    try:
        while True:
            found = log_of(feed)
            if holds(found):
                return found
            assert not feed.ended, f"the run ended before: {kinds(found)}"
            await bell.wait()
    finally:
        feed.detach(bell.ring)


async def until_text(run: RunHandle, text: str) -> list[Numbered]:
    return await until(run, lambda found: text_of(found) == text)


async def until_kind(run: RunHandle, kind: type[Event], count: int = 1) -> list[Numbered]:
    return await until(run, lambda found: len(of(found, kind)) >= count)
