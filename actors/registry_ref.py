"""The Ref of the registry: all requests of the wire contract as methods, for the gateway and for programs."""

from __future__ import annotations

from typing import Any, Protocol, cast

import attrs

from actors._actor import Ref
from actors._feed import RunFeed, SessionFeed
from actors.session_ref import StartedRun
from engine.commands import (
    ForkSession,
    MessagesPage,
    NewSession,
    OutputPiece,
    RunPage,
    SessionChanges,
    SessionPage,
    StartRun,
)
from engine.runs.approvals import Resolution
from engine.runs.record import Run as RunRecord
from engine.transcript.session import Session as SessionRecord


@attrs.frozen(slots=True)
class RegistryStatistics:
    sessions: int
    active_runs: int
    queued_runs: int
    retained_runs: int
    log_bytes: int


@attrs.frozen(slots=True)
class Request:
    """One of the registry's methods with arguments."""

    method: str
    arguments: tuple[Any, ...]


class Insides(Protocol):
    """What is asked of the registry without its mailbox: synchronous, and always answered."""

    def figures(self) -> RegistryStatistics: ...
    def session_changed(self, session_id: str) -> None: ...
    def shed_logs(self) -> int: ...
    def memory_full(self, full: bool) -> None: ...


class RegistryRef(Ref):
    """What the gateway and the programmatic API use. Errors are CallerError with the wire's codes."""

    __slots__ = ()

    async def create_session(self, new: NewSession) -> SessionRecord:
        return await self._do("create_session", new)  # type: ignore[no-any-return]

    async def fork_session(self, asked: ForkSession) -> SessionRecord:
        """A new session with a copy of the transcript up to a message. It goes on if the caller does not wait."""
        return await self._do("fork_session", asked)  # type: ignore[no-any-return]

    async def list_sessions(self, limit: int, cursor: str | None = None, query: str | None = None) -> SessionPage:
        return await self._do("list_sessions", limit, cursor, query)  # type: ignore[no-any-return]

    async def get_session(self, session_id: str) -> SessionRecord:
        return await self._do("get_session", session_id)  # type: ignore[no-any-return]

    async def update_session(self, session_id: str, changes: SessionChanges) -> SessionRecord:
        return await self._do("update_session", session_id, changes)  # type: ignore[no-any-return]

    async def delete_session(self, session_id: str) -> None:
        """Stop the session's runs and remove all that is stored of it; joined."""
        await self._do("delete_session", session_id)

    async def messages(self, session_id: str, limit: int, cursor: str | None = None) -> MessagesPage:
        return await self._do("messages", session_id, limit, cursor)  # type: ignore[no-any-return]

    async def start_run(self, start: StartRun) -> StartedRun:
        return await self._do("start_run", start)  # type: ignore[no-any-return]

    async def compact_session(self, session_id: str) -> StartedRun:
        """Start a run that only summarises. It goes on if the caller does not wait."""
        return await self._do("compact_session", session_id)  # type: ignore[no-any-return]

    async def watch_run(self, run_id: str) -> RunFeed:
        """The run's feed: live, retained, or made from the store (then it is `evicted`)."""
        return await self._do("watch_run", run_id)  # type: ignore[no-any-return]

    async def watch_session(self, session_id: str) -> SessionFeed:
        return await self._do("watch_session", session_id)  # type: ignore[no-any-return]

    async def stop_run(self, run_id: str, reason: str | None = None) -> RunRecord:
        """The run when it has ended and everything of it is joined; an ended run as it is."""
        return await self._do("stop_run", run_id, reason)  # type: ignore[no-any-return]

    async def reply_approval(self, run_id: str, call_id: str, resolution: Resolution) -> Resolution:
        """Decide an approval; durable when this returns, and after `cancel` the run has ended. Raises unknown_run,
        unknown_approval, already_resolved {decision, by}."""
        return await self._do("reply_approval", run_id, call_id, resolution)  # type: ignore[no-any-return]

    async def get_run(self, run_id: str) -> RunRecord:
        return await self._do("get_run", run_id)  # type: ignore[no-any-return]

    async def list_runs(
        self, session_id: str | None, active: bool | None, limit: int, cursor: str | None = None
    ) -> RunPage:
        return await self._do("list_runs", session_id, active, limit, cursor)  # type: ignore[no-any-return]

    async def read_output(self, handle: str, offset: int, limit: int) -> OutputPiece:
        return await self._do("read_output", handle, offset, limit)  # type: ignore[no-any-return]

    async def drain(self) -> None:
        """Refuse new runs from now on, and wait until no run is active. The caller bounds the wait."""
        await self._do("drain")

    async def end_runs(self) -> None:
        """Cancel what is still active, as part of the daemon's shutdown; joined."""
        await self._do("end_runs")

    async def passivate(self, idle: float) -> None:
        """Unload the sessions that nobody has used for so many seconds. It goes on if the caller does not wait."""
        await self._do("passivate", idle)

    def session_changed(self, session_id: str) -> None:
        """Something of the session was stored by another part: its watchers are to be told. A notice."""
        self._registry.session_changed(session_id)

    def registry_statistics(self) -> RegistryStatistics:
        return self._registry.figures()

    def shed_logs(self) -> int:
        """Empty the replay logs of ended runs; later watches get a gap and are answered from the store. Returns the
        bytes freed."""
        return self._registry.shed_logs()

    def memory_full(self, full: bool) -> None:
        """While memory is full new runs are refused and queues wait. Idempotent."""
        self._registry.memory_full(full)

    @property
    def _registry(self) -> Insides:
        return cast(Insides, self._cell.actor)

    async def _do(self, method: str, *arguments: Any) -> Any:
        # No deadline here: a stop may take its grace, and the caller (a connection, a program) has its own.
        return await self._ask(Request(method, arguments), timeout=None)
