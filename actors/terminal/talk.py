"""The client's side of the full-screen chat: connections one after another, the session that is shown, and what the
person does. On trio; a screen reads its state and is told when that has changed.

A connection that is lost is made again for ever, with waits that grow to some seconds and are told. A message that was
given and not acknowledged is sent again with the next connection, by the same idempotency key. Whatever else the person
does without a connection is refused with a note.

All of it is called on trio's thread and inside of its run (see guest.Bridge).
"""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol

import attrs
import trio

from actors.client.connect import BACKOFF, Client
from actors.client.errors import ClientError, ConnectionLost, NoDaemon, RemoteError
from actors.terminal import pages
from actors.terminal.conversation import ENTRIES_MAX, Conversation
from actors.terminal.pages import FollowedSession
from actors.terminal.texts import UNFOLDED_BYTES, Piece
from engine.limits import MIB

# Opens a client that does not reconnect by itself; with True it starts a daemon if none runs.
Opener = Callable[[bool], AbstractAsyncContextManager[Client]]
WhenBusy = Literal["queue", "steer"]
How = Literal["ask", "allow", "deny"]

SESSIONS_SHOWN: Final = 100
# Requests at the same time of what the person does; the daemon takes 32 of a connection.
_ACTIONS_MOST: Final = 8
_COPY_BYTES: Final = MIB


class Screen(Protocol):
    """Who is told. None of these waits, and each may be called before the screen is there."""

    def changed(self) -> None: ...

    def note(self, text: str, *, serious: bool = False) -> None: ...

    def give_back(self, text: str) -> None:
        """A message that was not taken."""

    def show_sessions(self, query: str, sessions: list[dict[str, Any]]) -> None: ...

    def copy(self, text: str) -> None: ...


@attrs.frozen(slots=True)
class Outgoing:
    session_id: str | None  # None: one that has to be made
    text: str
    when_busy: WhenBusy
    key: str = attrs.field(factory=lambda: uuid.uuid4().hex)


class Talk:
    def __init__(
        self,
        opener: Opener,
        screen: Screen,
        *,
        cwd: str,
        session_id: str | None = None,
        model: str | None = None,
        approve: How = "ask",
        start: bool = False,
    ) -> None:
        self.conversation = Conversation()
        self.session_id = session_id
        self.connected = False
        self.waiting: int | None = None  # seconds until the next attempt, while there is no connection
        self.gone = False  # nobody serves there, as far as the last attempt told
        self.hello: dict[str, Any] = {}
        self.outgoing: Outgoing | None = None  # given, not acknowledged
        self._unwanted: Outgoing | None = None  # to be stopped as soon as it is a run
        self.loading = False  # older messages are on their way
        self.start = start
        self._opener = opener
        self._screen = screen
        self._cwd = cwd
        self._model = model
        self._approve: How = approve
        self._cursors: dict[str, int] = {}
        self._welcomed = False
        self._hurry = trio.Event()  # the person wants a connection now
        self._wanted = trio.Event()  # texts
        self._given = trio.Event()  # a message
        self._switched = trio.Event()  # to another session
        self._nursery: trio.Nursery | None = None  # of the present connection
        self._client: Client | None = None
        self._actions = 0
        self._query: str | None = None  # of sessions, while it is looked for
        self._replied: set[tuple[str, str]] = set()

    @property
    def model(self) -> str:
        session = self.conversation.session
        return self._model or (session or {}).get("model") or self.hello.get("default_model", "")

    @property
    def has_older(self) -> bool:
        """There are older messages, and they can be asked for now."""
        here = self.conversation
        return self.connected and not self.loading and not here.older_refused and here.places.before() is not None

    @property
    def busy(self) -> bool:
        return self.conversation.run is not None

    # -------------------------------------------------------------- connections
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started when the first connection and its session are there. Raises what prevents these."""
        starts, attempt = self.start, 0
        failure: ClientError = ConnectionLost(1006)
        while True:
            try:
                async with self._opener(starts) as client:
                    attempt = 0
                    await self._converse(client, task_status)
                failure = ConnectionLost(1006)
            except (ConnectionLost, NoDaemon) as exc:
                failure = exc
            except ClientError as exc:
                if not self._welcomed:
                    raise
                if str(exc) != str(failure):
                    self._screen.note(str(exc), serious=True)  # it will not pass by itself, perhaps
                failure = exc
            if not self._welcomed:
                raise failure
            if starts:
                self._screen.note(str(failure), serious=True)  # of what the person asked for
            self.connected, self.gone = False, isinstance(failure, NoDaemon)
            attempt += 1
            starts = await self._pause(BACKOFF.delay(attempt, random.random()))

    async def _pause(self, seconds: float) -> bool:
        """Wait, told by the second; whether a daemon may be started then, because the person asked for one."""
        until = trio.current_time() + seconds
        hurried = False
        while not hurried and (left := until - trio.current_time()) > 0:
            self.waiting = round(left)
            self._screen.changed()
            with trio.move_on_after(min(left, 1.0)):
                await self._hurry.wait()
                hurried = True
        self._hurry = trio.Event()
        self.waiting = None
        self._screen.changed()
        return self.start and hurried

    async def _converse(self, client: Client, task_status: trio.TaskStatus[None]) -> None:
        """One connection, until it is lost. Raises what it ended with."""
        failure: Exception | None = None

        async def guarded(work: Callable[[], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await work()
            except (ConnectionLost, NoDaemon, RemoteError) as exc:
                failure = failure or exc
                nursery.cancel_scope.cancel(reason="the connection is lost")

        async def begun() -> None:
            await self._sessions(client, lambda: None if self._welcomed else self._welcome(task_status))

        async with trio.open_nursery() as nursery:
            self.hello, self.gone = client.hello, False
            self._nursery, self._client = nursery, client
            for work in (begun, self._send_given, self._fetch_wanted):
                nursery.start_soon(guarded, work)
            with contextlib.suppress(ConnectionLost, NoDaemon):
                await client.wait_lost()
            nursery.cancel_scope.cancel(reason="the connection is lost")
        self._nursery = self._client = None
        self._actions, self.loading, self._query = 0, False, None
        if failure is not None:
            raise failure

    def _welcome(self, task_status: trio.TaskStatus[None]) -> None:
        self._welcomed = True
        task_status.started()

    # -------------------------------------------------------------- the session
    async def _sessions(self, client: Client, begun: Callable[[], None]) -> None:
        """Follow the session that is shown, one after another."""
        while True:
            switched = self._switched = trio.Event()
            if self.session_id is None:
                self.connected = True
                begun()
                self._screen.changed()
                await switched.wait()
                continue
            failure: ClientError | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, switched, nursery.cancel_scope)
                try:
                    await self._follow(client, begun)
                except ClientError as exc:
                    failure = exc
                nursery.cancel_scope.cancel(reason="there is nothing more to follow")
            if failure is not None:
                if not self._welcomed or not isinstance(failure, RemoteError) or failure.code != "unknown_session":
                    raise failure
                self._screen.note("the session is gone")
                self._show(None)

    async def _follow(self, client: Client, begun: Callable[[], None]) -> None:
        assert self.session_id is not None
        watch = FollowedSession(client, self.session_id, self._cursors)
        with contextlib.closing(watch):
            await watch.begin()
            await self._attach(client, watch)
            self.connected = True
            begun()
            self._screen.changed()
            async for push in watch:
                if watch.begun_anew:
                    await self._attach(client, watch)
                conversation = self.conversation
                conversation.take(push.method, push.params)
                if conversation.needs_page:
                    conversation.repair(await self._page(client))
                if conversation.run is None:
                    watch.cursors.clear()  # also of a run whose end was not told as an event
                self._cursors = watch.cursors
                self._settle_approvals()
                if len(conversation.view) > ENTRIES_MAX and conversation.run is None:
                    await self._begin_anew(client)
                self._screen.changed()
        if self.conversation.closed == "deleted":
            self._screen.note("the session was deleted")
            self._show(None)
        else:
            await client.wait_lost()  # the daemon goes away

    async def _attach(self, client: Client, watch: FollowedSession) -> None:
        conversation = self.conversation
        watch.begun_anew = False
        conversation.session = (await self._ask(client, "session.get"))["session"]
        if conversation.needs_page:
            conversation.repair(await self._page(client))
        if not watch.asked_after:
            conversation.attach(await self._page(client), watch.runs)

    async def _begin_anew(self, client: Client) -> None:
        """Without the index of what was long ago."""
        fresh = Conversation()
        fresh.session = self.conversation.session
        fresh.attach(await self._page(client))
        self.conversation = fresh

    async def _ask(self, client: Client, method: str, **params: Any) -> dict[str, Any]:
        return await client.request(method, {"session_id": self.session_id, **params})

    async def _page(self, client: Client, cursor: str | None = None, limit: int | None = None) -> dict[str, Any]:
        assert self.session_id is not None
        return await pages.page_of(client, self.session_id, cursor, limit)

    def _show(self, session_id: str | None) -> None:
        self.session_id = session_id
        self.conversation = Conversation()
        self._cursors = {}
        self._replied.clear()
        self._switched.set()
        self._screen.changed()

    # -------------------------------------------------------------- what the person does
    def send(self, text: str, when_busy: WhenBusy) -> None:
        if self.outgoing is not None:
            self._screen.give_back(text)
            return
        self.outgoing = Outgoing(self.session_id, text, when_busy)
        self._given.set()
        self._screen.changed()

    def connect_now(self) -> None:
        """Do not wait for the next attempt; starts a daemon, if that was wanted on the command line."""
        self._hurry.set()

    def new_session(self) -> None:
        self._show(None)

    def open_session(self, session_id: str) -> None:
        if session_id != self.session_id:
            self._show(session_id)

    def stop_run(self) -> None:
        """What is at work; else what is being sent, as soon as the daemon has it."""
        run = self.conversation.run
        if run is not None:
            self._stop(run.id)
        else:
            self._unwanted = self.outgoing

    def _stop(self, run_id: str) -> None:
        self._act(lambda client: client.request("run.stop", {"run_id": run_id}))

    def compact(self) -> None:
        self._act(lambda client: self._ask(client, "session.compact"))

    def reply(self, run_id: str, call_id: str, **answer: Any) -> None:
        """To an approval: `decision`, and `reason` or `content`."""
        self._replied.add((run_id, call_id))

        async def reply(client: Client) -> None:
            try:
                await client.request("approval.reply", {"run_id": run_id, "call_id": call_id, **answer})
            except RemoteError as exc:
                self._replied.discard((run_id, call_id))
                fields = "; ".join(f"{path}: {text}" for path, text in exc.fields)
                self._screen.note(f"{exc.message} {fields}".strip())
            self._screen.changed()

        if not self._act(reply):
            self._replied.discard((run_id, call_id))

    def pending(self) -> list[Any]:
        """Approvals that wait for this person."""
        return [each for key, each in self.conversation.approvals.items() if key not in self._replied]

    def find_sessions(self, query: str) -> None:
        """Of queries that come while one is looked for, the newest is looked for next."""

        async def find(client: Client) -> None:
            done = None
            try:
                while (wanted := self._query) != done and wanted is not None:
                    params: dict[str, Any] = {"limit": SESSIONS_SHOWN, **({"query": wanted} if wanted else {})}
                    self._screen.show_sessions(wanted, (await client.request("session.list", params))["sessions"])
                    done = wanted
            finally:
                self._query = None

        begin, self._query = self._query is None, query
        if begin and not self._act(find):
            self._query = None

    def want_texts(self) -> None:
        """The view wants texts."""
        self._wanted.set()

    def want_older(self) -> None:
        conversation = self.conversation
        cursor = conversation.places.before()
        if cursor is None or not self.has_older:
            return

        async def load(client: Client) -> None:
            try:
                page = await self._page(client, cursor, pages.OLDER_PAGE)
                if conversation is self.conversation:
                    conversation.older(page)
            except RemoteError:
                conversation.older_refused = True
                raise
            finally:
                self.loading = False
            self._screen.changed()

        self.loading = self._act(load)

    def unfold(self, entry_id: str) -> None:
        """Or fold."""
        conversation = self.conversation

        async def turn(client: Client) -> None:
            unfolded = not conversation.is_unfolded(entry_id)
            piece = await self._find(client, entry_id, unfolded=unfolded, most=UNFOLDED_BYTES)
            if piece is None or conversation is not self.conversation:
                return
            conversation.fold(entry_id, piece, unfolded)
            self._screen.changed()

        self._act(turn)

    def copy(self, entry_id: str) -> None:
        if entry_id not in self.conversation.view:
            return  # it went while the key was on its way
        text = self.conversation.view.text(entry_id)
        if text is not None:
            self._screen.copy(text)
            return

        async def find(client: Client) -> None:
            piece = await self._find(client, entry_id, unfolded=False, most=_COPY_BYTES)
            if piece is not None:
                self._screen.copy(piece.text)

        self._act(find)

    def _act(self, action: Callable[[Client], Awaitable[Any]]) -> bool:
        """Begin it beside all else; False if that cannot be now."""
        nursery, client = self._nursery, self._client
        if nursery is None or client is None or self._actions >= _ACTIONS_MOST:
            self._screen.note("no connection" if client is None else "too much at the same time")
            return False

        async def act() -> None:
            try:
                await action(client)
            except RemoteError as exc:
                self._screen.note(exc.message, serious=True)
            except (ConnectionLost, NoDaemon):
                self._screen.note("the connection was lost: it is not known whether that was done")
            finally:
                self._actions -= 1

        self._actions += 1
        nursery.start_soon(act)
        return True

    def _settle_approvals(self) -> None:
        """Tell who has answered, if it was not this person; answer what `--approve` answers."""
        for run_id, event in self.conversation.resolved:
            own = (run_id, event["call_id"]) in self._replied
            self._replied.discard((run_id, event["call_id"]))
            if not own and event["by"] != "stop":
                by = "another client" if event["by"] == "client" else event["by"]
                self._screen.note(f"{event['decision']}, by {by}")
        self.conversation.resolved.clear()
        if self.conversation.run is None:
            self._replied.clear()
        if self._approve != "ask":
            for each in self.pending():
                decision = "deny" if "parent_call_id" in each.request else self._approve
                self.reply(each.run_id, each.call_id, decision=decision)

    # -------------------------------------------------------------- messages
    async def _send_given(self) -> None:
        client = self._client
        assert client is not None
        while True:
            if (given := self.outgoing) is None:
                self._given = trio.Event()
                await self._given.wait()
                continue
            try:
                run = await self._start_run(client, given)
            except RemoteError as exc:
                self.outgoing = None
                self._screen.give_back(given.text)
                self._screen.note(exc.message, serious=True)
                continue
            self.outgoing = None
            if given is self._unwanted:
                self._stop(run["id"])
            elif run["status"] == "queued":
                self._screen.note(f"queued: it waits at position {run.get('position', 1)}")
            self._screen.changed()

    async def _start_run(self, client: Client, given: Outgoing) -> dict[str, Any]:
        model = {} if self._model is None else {"model": self._model}
        session_id = given.session_id
        if session_id is None:
            created = await client.request("session.create", {"cwd": self._cwd, "idempotency_key": given.key, **model})
            session_id = created["session"]["id"]
            if self.session_id is None:
                self._show(session_id)
        params = {"session_id": session_id, "text": given.text, "when_busy": given.when_busy}
        result = await client.request("run.start", {**params, "idempotency_key": given.key, **model})
        run: dict[str, Any] = result["run"]
        return run

    # -------------------------------------------------------------- texts
    async def _fetch_wanted(self) -> None:
        client = self._client
        assert client is not None
        while True:
            wanted = self._wanted
            if self.session_id is not None and await pages.fetch_some(client, self.session_id, self.conversation):
                self._screen.changed()
                continue
            await wanted.wait()
            if wanted is self._wanted:
                self._wanted = trio.Event()

    async def _find(self, client: Client, entry_id: str, *, unfolded: bool, most: int) -> Piece | None:
        assert self.session_id is not None
        return await pages.find(client, self.session_id, self.conversation, entry_id, unfolded=unfolded, most=most)


async def _cancel_when(switched: trio.Event, scope: trio.CancelScope) -> None:
    await switched.wait()
    scope.cancel(reason="another session is shown")
