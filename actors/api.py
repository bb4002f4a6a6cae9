"""The programmatic interface: an engine inside a trio program, without a socket.

`async with open_engine(…) as engine` runs the store, the toolsets and the registry as the daemon does, and tears
all of it down on exit. Sessions and runs are handles; events come through a memory channel.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from actors._ask import ActorDied
from actors._feed import Bell, RunFeed
from actors.composition import Composition, open_composition
from actors.registry_ref import RegistryRef
from engine import codec
from engine.commands import ForkSession, NewSession, StartRun, WhenBusy
from engine.config import Config
from engine.errors import CallerError
from engine.runs import events
from engine.runs.approvals import Resolution
from engine.runs.events import Decision, Numbered
from engine.runs.log import Gap
from engine.runs.record import Run as RunRecord
from engine.transcript.session import Session as SessionRecord

# Events are read from the log in pieces of about this many bytes: a slow consumer holds no more than one piece.
_PIECE_BYTES = 64 * 1024


class RunHandle:
    """One run. It goes on whether anybody listens or not."""

    def __init__(self, registry: RegistryRef, feed: RunFeed, message_id: str | None = None) -> None:
        self._registry = registry
        self._feed = feed
        self.id = feed.run.id
        self.message_id = message_id

    def __repr__(self) -> str:
        return f"<RunHandle {self.id} {self._feed.run.status}>"

    @property
    def record(self) -> RunRecord:
        """The run as it is now."""
        return self._feed.record()

    @contextlib.asynccontextmanager
    async def events(
        self, after: int = 0, *, answers: bool = False
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Numbered | Gap]]:
        """The run's events after the cursor `after`, through a channel that ends behind `run.finished`.

        Adjacent deltas that waited may arrive merged. A consumer that falls behind the replay log gets one Gap,
        then what follows it. Leaving the block stops listening, not the run. Where `wait` raises the channel ends.

        `answers`: whoever listens calls `reply` for each `approval.requested`. Otherwise nobody is there to be asked,
        and the configuration's `headless` decides.
        """
        send, receive = trio.open_memory_channel[Numbered | Gap](0)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(self._pump, send, after, answers)
            try:
                yield receive
            except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                failure = exc
            nursery.cancel_scope.cancel(reason="the listener has left")
        if failure is not None:
            raise failure

    async def _pump(self, send: trio.MemorySendChannel[Numbered | Gap], after: int, answers: bool) -> None:
        async with send:
            with contextlib.suppress(CallerError, ActorDied):  # nothing follows
                while not await self._tell(send, after, answers):
                    await self._look_again()

    async def _tell(self, send: trio.MemorySendChannel[Numbered | Gap], after: int, answers: bool) -> bool:
        """Until the run has ended, the listener has gone, or nothing follows in this feed: then False."""
        bell = Bell()
        feed = self._feed
        feed.attach(bell.ring, answers=answers)
        try:
            cursor = after
            while True:
                piece = feed.log.read(cursor, _PIECE_BYTES)
                if isinstance(piece, Gap):
                    await send.send(piece)
                    cursor = max(feed.log.first_seq - 1, 0)
                    continue
                for body in piece.events:
                    event = events.decode(codec.parse(body))
                    if event is not None:
                        await send.send(event)
                cursor = piece.cursor
                if cursor < feed.log.last_seq:
                    continue
                if feed.ended or feed.closed is not None:
                    return feed.ended
                await bell.wait()
        except trio.BrokenResourceError:
            return True  # the listener closed its end
        finally:
            feed.detach(bell.ring)

    async def _look_again(self) -> None:
        """The feed is closed and the run has not ended: it waits, and its session has left memory or was deleted.
        Raises CallerError unknown_run, draining."""
        feed = await self._registry.watch_run(self.id)
        if feed is self._feed:
            raise CallerError("draining", "the engine is being closed")
        self._feed = feed

    async def wait(self) -> RunRecord:
        """The run when it has ended. Cancelling this does not stop the run. Nobody is asked here: see `events`.

        Raises CallerError of a run that waits, and will not begin in this engine: unknown_run when its session is
        deleted, draining when the engine is closed.
        """
        while not await self._wait_end():
            try:
                await self._look_again()
            except ActorDied as exc:
                raise CallerError("draining", "the engine has been closed") from exc
        return self._feed.run

    async def _wait_end(self) -> bool:
        """False if the feed is closed before."""
        bell = Bell()
        feed = self._feed
        feed.attach(bell.ring, answers=False)
        try:
            while not feed.ended and feed.closed is None:
                await bell.wait()
        finally:
            feed.detach(bell.ring)
        return feed.ended

    async def reply(
        self, call_id: str, decision: Decision, reason: str | None = None, content: codec.Json = None
    ) -> None:
        """Answer an `approval.requested`; `content` is for a tool's question. Raises CallerError unknown_approval,
        already_resolved, DecodeError if a question cannot be answered so: it waits as before."""
        resolution = Resolution(decision=decision, by="client", reason=reason, content=content)
        await self._registry.reply_approval(self.id, call_id, resolution)

    async def stop(self, reason: str = "stopped by the program") -> RunRecord:
        """Stop the run; returns when everything of it has ended. Idempotent."""
        return await self._registry.stop_run(self.id, reason)


class SessionHandle:
    """One conversation."""

    def __init__(self, registry: RegistryRef, record: SessionRecord) -> None:
        self._registry = registry
        self.id = record.id

    def __repr__(self) -> str:
        return f"<SessionHandle {self.id}>"

    async def record(self) -> SessionRecord:
        return await self._registry.get_session(self.id)

    async def start(
        self,
        text: str,
        *,
        model: str | None = None,
        when_busy: WhenBusy = "reject",
        idempotency_key: str | None = None,
    ) -> RunHandle:
        """Send a message; returns when it is stored and its run has begun, or waits (`when_busy="queue"`). With
        "steer" the handle is of the active run, which takes the message in. Raises CallerError (session_busy,
        queue_full, …)."""
        started = await self._registry.start_run(
            StartRun(
                session_id=self.id,
                input=(text,),
                model=model,
                when_busy=when_busy,
                idempotency_key=idempotency_key,
            )
        )
        return RunHandle(self._registry, started.feed, started.message_id)

    async def compact(self) -> RunHandle:
        """Put a summary in place of the conversation's beginning, in a run that can be watched and stopped. Raises
        CallerError session_busy."""
        started = await self._registry.compact_session(self.id)
        return RunHandle(self._registry, started.feed)

    async def messages(self, limit: int = 50, cursor: str | None = None) -> list[dict[str, Any]]:
        """The newest page of messages in chronological order, as the wire contract shows them."""
        page = await self._registry.messages(self.id, limit, cursor)
        return [codec.parse(message) for message in page.messages]

    async def fork(self, message_id: str | None = None) -> SessionHandle:
        """A new session with a copy of the transcript up to and including the message, or of all of it. Raises
        CallerError unknown_message."""
        asked = ForkSession(session_id=self.id, message_id=message_id)
        return SessionHandle(self._registry, await self._registry.fork_session(asked))

    async def delete(self) -> None:
        """Stop its run and remove everything that is stored of it."""
        await self._registry.delete_session(self.id)


class Engine:
    """What `open_engine` gives. Every error is an engine.errors.EngineError with a stable code."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition

    @property
    def registry(self) -> RegistryRef:
        """The registry's Ref: all requests of the wire contract as methods."""
        return self._composition.registry

    async def create_session(self, **fields: Any) -> SessionHandle:
        """A new session; `fields` are those of engine.commands.NewSession."""
        return SessionHandle(self.registry, await self.registry.create_session(NewSession(**fields)))

    async def session(self, session_id: str) -> SessionHandle:
        return SessionHandle(self.registry, await self.registry.get_session(session_id))

    async def run(self, run_id: str) -> RunHandle:
        return RunHandle(self.registry, await self.registry.watch_run(run_id))

    def tree(self) -> dict[str, Any]:
        """All actors as JSON, each under its parent."""
        return self._composition.root.tree()


@contextlib.asynccontextmanager
async def open_engine(
    config: Config | None = None,
    *,
    data_dir: str | Path | None = None,
    tools: Sequence[Callable[..., Any]] = (),
) -> AsyncIterator[Engine]:
    """Run an engine in this program until the block ends; then runs are cancelled and everything is closed.

    Without `data_dir` nothing outlives the block (a temporary folder is used). `tools` are Python functions, sync
    or async, typed and with a docstring; models see them as `functions.NAME`.
    """
    with contextlib.ExitStack() as stack:
        folder = data_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="greenroom-"))
        defaults = attrs.evolve(config or Config())
        async with open_composition(defaults, Path(os.fspath(folder)), functions=tools) as composition:
            yield Engine(composition)
