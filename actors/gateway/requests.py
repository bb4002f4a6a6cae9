"""The methods of the wire contract over the registry: one handler each, from decoded parameters to a result.

A handler returns the result as JSON (encoded pieces stand in it as orjson.Fragment), and `Begun` if a watch starts
with its reply. What it raises becomes the error reply (engine.wire.frames.encode_error).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import attrs
import orjson

from actors._feed import RunFeed, SessionFeed
from actors.gateway.markup import Markup
from actors.gateway.watches import Post, RunWatch, SessionWatch, Watch
from actors.metrics import Figures
from engine import codec
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
from engine.config import Config
from engine.errors import CallerError
from engine.limits import KIB
from engine.runs.approvals import Resolution
from engine.runs.record import Run
from engine.tools.spec import ToolsetStatus
from engine.transcript.session import Session
from engine.version import VERSION
from engine.wire import methods, objects, toolsets
from engine.wire.bounds import OUTPUT_READ_MAX

Item = TypeVar("Item", Session, Run)

# A client at its bound of watches has to close one, which it can do at once.
RETRY_AFTER_MS: Final = 1000
# What a list's page may take of a frame; the rest is its envelope and the cursor.
PAGE_BYTES: Final = objects.OBJECT_BYTES
# A session in a list: its instructions and metadata may be long, and one of them must not fill the page.
SESSION_BYTES: Final = 64 * KIB


class Started(Protocol):
    """The answer to a started run."""

    @property
    def run(self) -> Run: ...
    @property
    def message_id(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def feed(self) -> RunFeed: ...


class Registry(Protocol):
    """What the handlers ask of the registry; its Ref has these methods."""

    async def create_session(self, new: NewSession) -> Session: ...
    async def fork_session(self, asked: ForkSession) -> Session: ...
    async def list_sessions(self, limit: int, cursor: str | None = None, query: str | None = None) -> SessionPage: ...
    async def get_session(self, session_id: str) -> Session: ...
    async def update_session(self, session_id: str, changes: SessionChanges) -> Session: ...
    async def delete_session(self, session_id: str) -> None: ...
    async def messages(self, session_id: str, limit: int, cursor: str | None = None) -> MessagesPage: ...
    async def start_run(self, start: StartRun) -> Started: ...
    async def compact_session(self, session_id: str) -> Started: ...
    async def watch_run(self, run_id: str) -> RunFeed: ...
    async def watch_session(self, session_id: str) -> SessionFeed: ...
    async def reply_approval(self, run_id: str, call_id: str, resolution: Resolution) -> Resolution: ...
    async def stop_run(self, run_id: str, reason: str | None = None) -> Run: ...
    async def get_run(self, run_id: str) -> Run: ...
    async def list_runs(
        self, session_id: str | None, active: bool | None, limit: int, cursor: str | None = None
    ) -> RunPage: ...
    async def read_output(self, handle: str, offset: int, limit: int) -> OutputPiece: ...


class Toolsets(Protocol):
    """What the handlers ask of the toolsets; actors.toolset.Toolbox has it."""

    @property
    def names(self) -> tuple[str, ...]: ...
    async def statuses(self) -> tuple[ToolsetStatus, ...]: ...
    async def restart(self, name: str) -> ToolsetStatus: ...


@attrs.frozen(slots=True, kw_only=True)
class Services:
    """What requests are answered from. `stats` gives the result of `daemon.stats`; the gateway adds its own counts to
    `counts`, and `loop` if it is not there; `history` gives the result of `daemon.history`. `figures` are for /metrics,
    by the names of actors.metrics."""

    config: Config
    registry: Registry
    toolsets: Toolsets
    stats: Callable[[], Awaitable[Mapping[str, Json]]]
    figures: Callable[[], Figures] = dict
    history: Callable[[], Json] = dict


class Client(Protocol):
    """The connection that a request came on."""

    @property
    def services(self) -> Services: ...
    @property
    def post(self) -> Post: ...
    @property
    def markup(self) -> Markup: ...
    def watch_place(self) -> AbstractContextManager[str]: ...
    def close_watch(self, watch_id: str) -> bool: ...
    def gateway_stats(self) -> tuple[Mapping[str, int], Mapping[str, float]]: ...


@attrs.frozen(slots=True)
class Begun:
    """A result whose reply has to be out before the first push of `watch`."""

    result: Json
    watch: Watch


Handler = Callable[[Client, Any], Awaitable[Json | Begun]]


def initialize(services: Services, params: methods.Initialize) -> Json:
    """The result of `initialize`; the one handler that does not wait."""
    if params.protocol not in methods.PROTOCOL_VERSIONS:
        raise CallerError(
            "unsupported_protocol",
            f"version {params.protocol} of the protocol is not spoken here",
            supported=list(methods.PROTOCOL_VERSIONS),
        )
    config = services.config
    return {
        "protocol": params.protocol,
        "server": {"name": "greenroom", "version": VERSION},
        "limits": objects.limits_object(config.limits),
        "models": [{"name": name, "provider": model.provider} for name, model in config.models.items()],
        "default_model": config.default_model,
        "toolsets": list(services.toolsets.names),
        "currency": config.currency,
    }


# ------------------------------------------------------------------ sessions
async def _session_create(client: Client, params: methods.SessionCreate) -> Json:
    return _session(await client.services.registry.create_session(params.command()))


async def _session_fork(client: Client, params: methods.SessionFork) -> Json:
    return _session(await client.services.registry.fork_session(params.command()))


async def _session_list(client: Client, params: methods.SessionList) -> Json:
    registry = client.services.registry

    async def fetch(limit: int) -> SessionPage:
        return await registry.list_sessions(limit, params.cursor, params.query)

    return await _page("sessions", params.limit, fetch, lambda item: objects.encode_session(item, room=SESSION_BYTES))


async def _session_get(client: Client, params: methods.SessionGet) -> Json:
    return _session(await client.services.registry.get_session(params.session_id))


async def _session_update(client: Client, params: methods.SessionUpdate) -> Json:
    return _session(await client.services.registry.update_session(params.session_id, params.command()))


async def _session_delete(client: Client, params: methods.SessionDelete) -> Json:
    await client.services.registry.delete_session(params.session_id)
    return {}


async def _session_compact(client: Client, params: methods.SessionCompact) -> Json:
    return {"run": _run((await client.services.registry.compact_session(params.session_id)).run)}


async def _session_messages(client: Client, params: methods.SessionMessages) -> Json:
    page = await client.services.registry.messages(params.session_id, params.limit, params.cursor)
    result = {"messages": [orjson.Fragment(message) for message in page.messages], "revision": page.revision}
    return _with_cursor(result, page.next_cursor)


async def _session_watch(client: Client, params: methods.SessionWatch) -> Json | Begun:
    registry = client.services.registry
    with client.watch_place() as watch_id:
        feed = await registry.watch_session(params.session_id)
        found: dict[str, RunFeed] = {}
        while unseen := (params.after or {}).keys() - found.keys() - (live := _live(feed)):  # some end while we look
            for run_id in unseen:
                run = found[run_id] = await registry.watch_run(run_id)
                if run.run.session_id != params.session_id:
                    raise CallerError("unknown_run", f"the session has no run {run_id}")
        # One that waits, or has begun meanwhile, has its turn behind those that began before it.
        gone = [run for run_id, run in found.items() if run.ended and run_id not in live]
        gone.sort(key=lambda run: run.run.created_at)
        watch = SessionWatch(watch_id, client.post, feed, params.after, gone)
        return Begun({"watch_id": watch_id, "runs": [_watched(run.record()) for run in watch.runs]}, watch)


def _live(feed: SessionFeed) -> set[str]:
    return {run.run.id for _, run in feed.runs_after(0)}


# ------------------------------------------------------------------ runs
async def _run_start(client: Client, params: methods.RunStart) -> Json | Begun:
    if not params.watch:
        return _started(await client.services.registry.start_run(params.command()))
    # The place comes first: a run that was started has to be told.
    with client.watch_place() as watch_id:
        started = await client.services.registry.start_run(params.command())
        result = {**_started(started), "watch_id": watch_id}
        return Begun(result, RunWatch(watch_id, client.post, started.feed, 0))


async def _run_watch(client: Client, params: methods.RunWatch) -> Json | Begun:
    with client.watch_place() as watch_id:
        feed = await client.services.registry.watch_run(params.run_id)
        result = {"watch_id": watch_id, "run": _run(feed.record())}
        return Begun(result, RunWatch(watch_id, client.post, feed, params.after))


async def _watch_close(client: Client, params: methods.WatchClose) -> Json:
    if not client.close_watch(params.watch_id):
        raise CallerError("unknown_watch", "this connection has no such watch")
    return {}


async def _run_stop(client: Client, params: methods.RunStop) -> Json:
    return {"run": _run(await client.services.registry.stop_run(params.run_id, params.reason))}


async def _run_get(client: Client, params: methods.RunGet) -> Json:
    return {"run": _run(await client.services.registry.get_run(params.run_id))}


async def _run_list(client: Client, params: methods.RunList) -> Json:
    registry = client.services.registry

    async def fetch(limit: int) -> RunPage:
        return await registry.list_runs(params.session_id, params.active, limit, params.cursor)

    return await _page("runs", params.limit, fetch, objects.encode_run)


async def _approval_reply(client: Client, params: methods.ApprovalReply) -> Json:
    content = None if params.content is None else codec.parse(params.content)
    resolution = Resolution(decision=params.decision, by="client", reason=params.reason, content=content)
    given = await client.services.registry.reply_approval(params.run_id, params.call_id, resolution)
    return {"decision": given.decision, "by": given.by}


# ------------------------------------------------------------------ the rest
async def _toolset_list(client: Client, params: methods.NoParams) -> Json:
    return {"toolsets": orjson.Fragment(toolsets.encode_toolsets(await client.services.toolsets.statuses()))}


async def _toolset_restart(client: Client, params: methods.ToolsetRestart) -> Json:
    return {"toolset": orjson.Fragment(toolsets.encode_toolset(await client.services.toolsets.restart(params.name)))}


async def _output_read(client: Client, params: methods.OutputRead) -> Json:
    limit = min(params.limit, OUTPUT_READ_MAX)
    piece = await client.services.registry.read_output(params.handle, params.offset, limit)
    return orjson.Fragment(objects.encode_output(piece, params.offset))


async def _markdown_render(client: Client, params: methods.MarkdownRender) -> Json:
    return await client.markup.render(params.text, params.state or "")


async def _daemon_stats(client: Client, params: methods.NoParams) -> Json:
    return with_gateway(await client.services.stats(), *client.gateway_stats())


async def _daemon_history(client: Client, params: methods.NoParams) -> Json:
    return client.services.history()


HANDLERS: Final = MappingProxyType[str, Handler](
    {
        "session.create": _session_create,
        "session.fork": _session_fork,
        "session.list": _session_list,
        "session.get": _session_get,
        "session.update": _session_update,
        "session.delete": _session_delete,
        "session.compact": _session_compact,
        "session.messages": _session_messages,
        "session.watch": _session_watch,
        "run.start": _run_start,
        "run.watch": _run_watch,
        "watch.close": _watch_close,
        "run.stop": _run_stop,
        "run.get": _run_get,
        "run.list": _run_list,
        "approval.reply": _approval_reply,
        "toolset.list": _toolset_list,
        "toolset.restart": _toolset_restart,
        "output.read": _output_read,
        "markdown.render": _markdown_render,
        "daemon.stats": _daemon_stats,
        "daemon.history": _daemon_history,
    }
)
# Answered by the connection itself, at once and in the order of arrival.
INLINE: Final = frozenset({"initialize", "ping"})


def with_gateway(stats: Mapping[str, Json], counts: Mapping[str, int], loop: Mapping[str, float]) -> dict[str, Json]:
    """The result of `daemon.stats`: the daemon's part and the gateway's."""
    return {"loop": loop, **stats, "counts": {**stats.get("counts", {}), **counts}}


def _session(session: Session) -> Json:
    return {"session": orjson.Fragment(objects.encode_session(session))}


def _started(started: Started) -> dict[str, Json]:
    return {"run": _run(started.run), "message_id": started.message_id, "revision": started.revision}


def _run(run: Run) -> Json:
    return orjson.Fragment(objects.encode_run(run))


def _watched(run: Run) -> Json:
    return {"run_id": run.id, "status": run.status, "first_seq": run.first_seq, "last_seq": run.last_seq}


def _with_cursor(result: dict[str, Json], cursor: str | None) -> Json:
    return result if cursor is None else {**result, "next_cursor": cursor}


async def _page(
    key: str, limit: int, fetch: Callable[[int], Awaitable[Page[Item]]], encode: Callable[[Item], bytes]
) -> Json:
    """A page that fits a frame: if it would not, a shorter one is asked for, whose cursor leads to the rest."""
    while True:
        page = await fetch(limit)
        items = [encode(item) for item in page.items]
        fitting = _fitting(items)
        if fitting >= len(items):
            return _with_cursor({key: [orjson.Fragment(item) for item in items]}, page.next_cursor)
        limit = fitting


def _fitting(items: Sequence[bytes]) -> int:
    """How many of them a frame holds; one at least, which is bounded by its own encoder."""
    room = PAGE_BYTES
    for number, item in enumerate(items):
        room -= len(item) + 1
        if room < 0:
            return max(number, 1)
    return len(items)
