"""`greenroom chat --plain`: a conversation line by line, in pipes and on any terminal.

The terminal stays in its own line mode: nothing here has to be undone, however this ends. Ctrl-C stops the answer;
once more, or where there is nothing to stop, it leaves.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.cli.answer import Answer, Writer
from actors.cli.approvals import Approvals, How
from actors.cli.arguments import Arguments
from actors.cli.exits import CANCELLED, FAILED, GOOD
from actors.cli.lines import Lines
from actors.cli.listing import listed
from actors.cli.output import note
from actors.cli.run import ask_to_stop, new_session, tell_end
from actors.cli.sessions import tell_sessions
from actors.cli.start import RECONNECT, open_client
from actors.client import Client, ConnectionLost, NoDaemon, RemoteError
from actors.client.watch import RunWatch

_HELP: Final = """\
/new         begin another session
/sessions    list the latest sessions
/open ID     go on with one of them
/compact     put a summary in place of the conversation's beginning, for the model
/help        this
/quit        leave (so does the end of input)
Ctrl-C stops the answer; once more leaves. Everything else is a message."""
_SESSIONS: Final = 10
_RECONNECT_OR_START: Final = 2.0


def main(arguments: Arguments) -> int:
    return trio.run(_chat, arguments)


class _Left(Exception):
    """The person has left by Ctrl-C."""


class Chat:
    """One conversation over as many connections as it takes."""

    def __init__(self, arguments: Arguments, interrupted: Callable[[], Awaitable[None]]) -> None:
        self._arguments = arguments
        self._interrupted = interrupted
        self._lines = Lines(sys.stdin.fileno())
        self._writer = Writer()
        self._session_id: str | None = arguments.session
        self._asks = sys.stdin.isatty()
        self._welcomed = False
        self._unsent: str | None = None  # a message that no daemon has taken yet
        self.code = GOOD  # how the last answer ended

    async def talk(self) -> None:
        """Until the end of input or /quit. Raises _Left, NoDaemon."""
        # A daemon that can be started is not waited for.
        patience = _RECONNECT_OR_START if self._arguments.start else RECONNECT
        while True:
            try:
                async with open_client(self._arguments, start=self._arguments.start, reconnect=patience) as client:
                    self._welcome(client)
                    await self._converse(client)
                    return
            except (ConnectionLost, NoDaemon) as exc:
                if not self._welcomed or not self._arguments.start:
                    raise
                note(f"[{exc}]")  # another daemon goes on: the session is in the store

    def _welcome(self, client: Client) -> None:
        if self._asks and not self._welcomed:
            model = self._arguments.model or client.hello["default_model"]
            note(f"greenroom, model {model}; /help for more")
        self._welcomed = True

    async def _converse(self, client: Client) -> None:
        if self._session_id is not None:
            await client.request("session.get", {"session_id": self._session_id})
        while True:
            text = self._unsent or await self._next_line()
            if text is None:
                return
            try:
                if text.startswith("/"):
                    if not await self._obey(client, text):
                        return
                elif text.strip():
                    self._unsent = text
                    await self._answer(client, text)
            except RemoteError as exc:
                self._unsent = None
                self.code = FAILED
                note(f"[{exc.message}]")

    async def _next_line(self) -> str | None:
        if self._asks:
            await self._writer.write("> ")
        line: list[str | None] = []

        async def read() -> None:
            line.append(await self._lines.read())

        if await self._race(read):
            return line[0]
        note("")
        raise _Left

    async def _answer(self, client: Client, text: str) -> None:
        if self._session_id is None:
            self._session_id = await new_session(client)
        params = {} if self._arguments.model is None else {"model": self._arguments.model}
        async with client.start_run(self._session_id, text, **params) as started:
            self._unsent = None
            how: How = self._arguments.approve or ("ask" if self._asks else "deny")
            approvals = Approvals(client, how, self._lines)
            answer = Answer(self._writer, approvals.take)
            follow = functools.partial(approvals.beside, functools.partial(answer.follow, started.events))
            await self._follow(client, answer, started.events, follow)

    async def _compact(self, client: Client) -> None:
        if self._session_id is None:
            note("[there is no conversation yet]")
            return
        run = (await client.request("session.compact", {"session_id": self._session_id}))["run"]
        answer = Answer(self._writer)
        async with client.watch_run(run["id"]) as watch:
            await self._follow(client, answer, watch, functools.partial(answer.follow, watch))
        if answer.status == "completed" and answer.reason:
            note(f"[nothing was summarised: {answer.reason}]")

    async def _follow(
        self, client: Client, answer: Answer, events: RunWatch, follow: Callable[[], Awaitable[None]]
    ) -> None:
        """Until the run has ended, stopped by Ctrl-C or not. Raises _Left."""

        async def stop() -> None:
            await ask_to_stop(client, events.run_id)
            await answer.follow(events)

        if not await self._race(follow):
            note("[stopping]")
            if not await self._race(stop):
                raise _Left
        self.code = tell_end(answer.status, answer.error, answer.reason)

    async def _race(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work, unless Ctrl-C comes first; whether it was done."""
        done = False

        async def watch(scope: trio.CancelScope) -> None:
            await self._interrupted()
            scope.cancel(reason="Ctrl-C")

        with trio.CancelScope() as scope:
            failure: Exception | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, scope)
                try:
                    await work()
                    done = True
                except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                    failure = exc
                nursery.cancel_scope.cancel(reason="it is done")
            if failure is not None:
                raise failure
        return done

    async def _obey(self, client: Client, text: str) -> bool:
        """A command; False leaves."""
        command, _, rest = text.partition(" ")
        match command:
            case "/quit" | "/exit":
                return False
            case "/new":
                self._session_id = None
                note("[the next message begins another session]")
            case "/sessions":
                tell_sessions(await listed(client, "session.list", "sessions", {}, _SESSIONS))
                sys.stdout.flush()
            case "/open":
                session = (await client.request("session.get", {"session_id": rest.strip()}))["session"]
                self._session_id = session["id"]
                note(f"[{session['id']} {session['title']}]")
            case "/compact":
                await self._compact(client)
            case "/help":
                note(_HELP)
            case _:
                note(f"[there is no {command}; /help lists what there is]")
        return True


async def _chat(arguments: Arguments) -> int:
    with trio.open_signal_receiver(signal.SIGINT) as signals:

        async def interrupted() -> None:
            await anext(signals)

        chat = Chat(arguments, interrupted)
        try:
            await chat.talk()
        except _Left:
            return CANCELLED
        # In a pipe the last answer's end is what a script wants to know; a person has seen it.
        return GOOD if sys.stdin.isatty() else chat.code
