"""A registry without runs of its own: tests say what its runs do. And a gateway around it on a real socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from actors._actor import open_actor
from actors._feed import RunFeed, SessionFeed
from actors.gateway import Gateway, GatewayRef, Services
from engine.codec import Json
from engine.commands import (
    ForkSession,
    MessagesPage,
    NewSession,
    OutputPiece,
    Page,
    RunPage,
    SessionChanges,
    SessionPage,
    StartRun,
)
from engine.config import Config, Tls
from engine.config_values import Listen
from engine.errors import CallerError
from engine.limits import Limits
from engine.runs import events
from engine.runs.log import ReplayLog
from engine.runs.record import Run
from engine.tools.spec import ToolsetStatus
from engine.transcript.session import Session

TOKEN = "a-token-of-the-tests"
LIMIT = 60.0  # absolute, for a test that hangs
PART = b"prt_1"
ANY_PORT = Listen(port=0)


def session(session_id: str = "ses_1", **fields: Any) -> Session:
    return Session(id=session_id, title="", model="demo", cwd="/", created_at=1, updated_at=1, **fields)


@attrs.define
class ToldSnapshot:
    seq: int
    pieces: list[bytes]  # the last first

    async def next(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop() if self.pieces else None


class FakeRun:
    """One run that the test writes. `text` is what its deltas say."""

    def __init__(self, run_id: str = "run_1", *, session_id: str = "ses_1", entries: int = 4096) -> None:
        run = Run(id=run_id, session_id=session_id, status="running", model="demo", created_at=1, started_at=1)
        self.text = ""
        self.snapshots = 0
        self.feed = RunFeed(run, ReplayLog(max_entries=entries, max_bytes=1 << 20))
        self.feed.snapshots_from(self._snapshot)

    def start(self) -> None:
        message = b'{"info":{},"parts":[]}'
        self.fact(events.RunStarted(session_id=self.feed.run.session_id, model="demo", message=message))
        self.fact(events.PartStarted(part_id=PART.decode(), message_id="msg_1", kind="text"))

    def fact(self, event: events.Event) -> None:
        self.feed.log.append(1, events.encode(event))
        self.feed.ring()

    def delta(self, text: str) -> None:
        self.text += text
        self.feed.log.append_delta(1, PART, json.dumps(text, ensure_ascii=False)[1:-1].encode())
        self.feed.ring()

    def fact_between(self) -> None:
        self.fact(events.RunStatus(status="running"))

    def finish(self, status: Any = "completed") -> None:
        self.fact(events.RunFinished(status=status, usage=self.feed.run.usage))
        self.feed.run = attrs.evolve(self.feed.run, status=status, last_seq=self.feed.log.last_seq)
        self.feed.end()

    async def _snapshot(self) -> ToldSnapshot:
        self.snapshots += 1
        await trio.lowlevel.checkpoint()
        seq = self.feed.log.last_seq
        head = {"run_id": self.feed.run.id, "seq": seq, "status": self.feed.run.status, "message_id": "msg_1"}
        half = len(self.text) // 2
        return ToldSnapshot(
            seq,
            [
                json.dumps({**head, "part": {"id": "prt_1"}, "offset": at, "text": text, "more": more}).encode()
                for at, text, more in ((half, self.text[half:], False), (0, self.text[:half], True))
            ],
        )


@attrs.frozen
class Started:
    run: Run
    message_id: str
    revision: int
    feed: RunFeed


class FakeRegistry:
    """`begun` are the calls in the order of their begin; one named in `held` waits until it is let go."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.sessions: dict[str, SessionFeed] = {"ses_1": SessionFeed(session())}
        self.held: dict[str, trio.Event] = {}
        self.begun: list[tuple[str, Any]] = []
        self.failure: Exception | None = None

    def add(self, run: FakeRun) -> FakeRun:
        self.runs[run.feed.run.id] = run
        self.sessions[run.feed.run.session_id].add(run.feed)
        return run

    async def _begin(self, name: str, argument: Any) -> None:
        self.begun.append((name, argument))
        if name in self.held:
            await self.held[name].wait()
        if self.failure is not None:
            raise self.failure
        await trio.lowlevel.checkpoint()

    def _session(self, session_id: str) -> SessionFeed:
        if session_id not in self.sessions:
            raise CallerError("unknown_session", f"no session {session_id}")
        return self.sessions[session_id]

    def _run(self, run_id: str) -> FakeRun:
        if run_id not in self.runs:
            raise CallerError("unknown_run", f"no run {run_id}")
        return self.runs[run_id]

    async def create_session(self, new: NewSession) -> Session:
        await self._begin("create_session", new)
        return session("ses_new", instructions=new.instructions)

    async def list_sessions(self, limit: int, cursor: str | None = None, query: str | None = None) -> SessionPage:
        await self._begin("list_sessions", limit)
        everything = [feed.session for feed in self.sessions.values()]
        at = int(cursor or 0)
        more = at + limit < len(everything)
        return Page(tuple(everything[at : at + limit]), str(at + limit) if more else None)

    async def get_session(self, session_id: str) -> Session:
        await self._begin("get_session", session_id)
        return self._session(session_id).session

    async def fork_session(self, asked: ForkSession) -> Session:
        await self._begin("fork_session", asked)
        source = self._session(asked.session_id).session
        return attrs.evolve(source, id="ses_fork", parent_id=source.id)

    async def update_session(self, session_id: str, changes: SessionChanges) -> Session:
        await self._begin("update_session", changes)
        feed = self._session(session_id)
        feed.change(attrs.evolve(feed.session, title=changes.title or "", revision=feed.session.revision + 1))
        return feed.session

    async def delete_session(self, session_id: str) -> None:
        await self._begin("delete_session", session_id)
        self._session(session_id).close("deleted")

    async def messages(self, session_id: str, limit: int, cursor: str | None = None) -> MessagesPage:
        await self._begin("messages", session_id)
        return MessagesPage(messages=(b'{"info":{"id":"msg_1"},"parts":[]}',), revision=3, next_cursor="2")

    async def start_run(self, start: StartRun) -> Started:
        await self._begin("start_run", start)
        run = self.add(FakeRun(f"run_{len(self.runs) + 1}", session_id=start.session_id))
        run.start()
        return Started(run.feed.run, "msg_1", 1, run.feed)

    async def compact_session(self, session_id: str) -> Started:
        await self._begin("compact_session", session_id)
        run = self.add(FakeRun(f"run_{len(self.runs) + 1}", session_id=session_id))
        run.start()
        return Started(run.feed.run, "msg_1", 1, run.feed)

    async def watch_run(self, run_id: str) -> RunFeed:
        await self._begin("watch_run", run_id)
        return self._run(run_id).feed

    async def watch_session(self, session_id: str) -> SessionFeed:
        await self._begin("watch_session", session_id)
        return self._session(session_id)

    async def stop_run(self, run_id: str, reason: str | None = None) -> Run:
        await self._begin("stop_run", run_id)
        return self._run(run_id).feed.run

    async def get_run(self, run_id: str) -> Run:
        await self._begin("get_run", run_id)
        return self._run(run_id).feed.record()

    async def list_runs(
        self, session_id: str | None, active: bool | None, limit: int, cursor: str | None = None
    ) -> RunPage:
        await self._begin("list_runs", session_id)
        return Page(tuple(run.feed.record() for run in self.runs.values())[:limit])

    async def read_output(self, handle: str, offset: int, limit: int) -> OutputPiece:
        await self._begin("read_output", handle)
        return OutputPiece(text="rest", total=offset + 4)


class FakeToolsets:
    names = ("files",)

    async def statuses(self) -> tuple[ToolsetStatus, ...]:
        return (ToolsetStatus(name="files", kind="builtin", state="ready", tools=(), leases=0, restarts=0),)


async def _stats() -> Mapping[str, Json]:
    return {"uptime_s": 1, "memory": {"resident": 1, "owned": {}}, "counts": {"sessions": 1}, "actors": {}}


@attrs.frozen
class Served:
    """A gateway that listens, and its registry."""

    ref: GatewayRef
    registry: FakeRegistry

    @property
    def host(self) -> str:
        return self.ref.url.partition("//")[2]

    @property
    def port(self) -> int:
        return int(self.ref.url.rpartition(":")[2])

    async def socket(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    @contextlib.asynccontextmanager
    async def connect(self, *, initialize: bool = True) -> AsyncIterator[Wire]:
        headers = [("Authorization", f"Bearer {TOKEN}")]
        async with open_websocket_url(
            self.ref.ws_url, subprotocols=["greenroom.v1"], extra_headers=headers, max_message_size=1 << 22
        ) as socket:
            try:
                wire = Wire(socket)
                if initialize:
                    await wire.initialize()
                yield wire
            finally:
                if socket.closed is not None:  # the library leaves the socket open when the daemon closed first
                    await trio.aclose_forcefully(socket._stream)


class Wire:
    """A client that reads frames one by one, in the order in which they come."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self._id = 0
        self.pushes: list[dict[str, Any]] = []

    async def initialize(self) -> dict[str, Any]:
        return await self.request("initialize", client={"name": "test", "version": "1"}, protocol=1)

    async def send(self, method: str, **params: Any) -> int:
        self._id += 1
        await self.socket.send_message(
            json.dumps({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        )
        return self._id

    async def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.socket.get_message())
        return frame

    async def answer(self, key: Any) -> dict[str, Any]:
        """The reply with this id; pushes before it are kept."""
        while True:
            frame = await self.receive()
            if frame.get("id") == key and "method" not in frame:
                return frame
            self.pushes.append(frame)

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The result."""
        frame = await self.answer(await self.send(method, **params))
        assert "error" not in frame, frame
        result: dict[str, Any] = frame["result"]
        return result

    async def error(self, method: str, **params: Any) -> dict[str, Any]:
        frame = await self.answer(await self.send(method, **params))
        error: dict[str, Any] = frame["error"]
        return error

    async def push(self) -> tuple[str, dict[str, Any]]:
        frame = self.pushes.pop(0) if self.pushes else await self.receive()
        return frame["method"], frame["params"]

    async def read_run(self, watch_id: str) -> tuple[str, int, list[str]]:
        """The text of a watch to its end, with the last seq and the kinds of its pushes. A snapshot replaces."""
        text, seq, kinds = "", 0, []
        while True:
            method, params = await self.push()
            assert params["watch_id"] == watch_id
            kinds.append(method)
            if method == "run.events":
                for event in params["events"]:
                    assert seq == 0 or event.get("from", event["seq"]) == seq + 1
                    seq = event["seq"]
                    text += event.get("text", "") if event["type"] == "part.delta" else ""
            elif method == "run.snapshot":
                text = params["text"] if params["offset"] == 0 else text + params["text"]
                seq = params["seq"]
            elif method == "watch.closed":
                return text, seq, kinds

    async def close_code(self) -> int:
        """Read until the connection is closed."""
        try:
            while True:
                await self.socket.get_message()
        except ConnectionClosed as exc:
            assert exc.reason is not None
            return exc.reason.code


@contextlib.asynccontextmanager
async def serve(
    limits: Limits | None = None,
    *,
    listen: Listen = ANY_PORT,
    tls: Tls | None = None,
    allowed_hosts: tuple[str, ...] = (),
    allowed_origins: tuple[str, ...] = (),
    limit: float = LIMIT,
) -> AsyncIterator[Served]:
    """`limit` is in seconds of trio's clock: inf where a test moves that."""
    registry = FakeRegistry()
    config = Config(
        listen=listen,
        limits=limits or Limits(),
        tls=tls,
        allowed_hosts=allowed_hosts,
        allowed_origins=allowed_origins,
    )
    services = Services(config=config, registry=registry, toolsets=FakeToolsets(), stats=_stats)
    gateway = Gateway(services, TOKEN)
    with trio.fail_after(limit):
        async with open_actor(gateway, "gateway") as ref:
            ref.ready()
            yield Served(ref, registry)
