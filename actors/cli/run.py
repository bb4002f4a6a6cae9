"""`greenroom run`: one message, its answer, and an exit code."""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
from typing import Any, Final

import trio

from actors.cli.answer import Answer, JsonLines, Writer
from actors.cli.approvals import Approvals, How
from actors.cli.arguments import Arguments
from actors.cli.exits import CANCELLED, FAILED, GOOD, USAGE, Exit
from actors.cli.lines import Lines
from actors.cli.output import note
from actors.cli.settings import seconds
from actors.cli.start import RECONNECT, open_client
from actors.client import Client, RemoteError
from engine.limits import DEFAULT

CODES: Final = {"completed": GOOD, "cancelled": CANCELLED}
STDIN: Final = "-"
_STOP_SECONDS: Final = 10.0  # for the run to end when it was asked to


def main(arguments: Arguments) -> int:
    timeout = None if arguments.timeout is None else seconds("--timeout", arguments.timeout)
    text = _prompt(arguments.prompt)
    return trio.run(_run, arguments, text, timeout)


def _prompt(words: list[str]) -> str:
    """The message: words, and standard input if it was asked for or nothing else is there."""
    from_input = words[-1:] == [STDIN] or (not words and not sys.stdin.isatty())
    parts = [" ".join(words[:-1] if words[-1:] == [STDIN] else words)]
    if from_input:
        data = sys.stdin.buffer.read(DEFAULT.message_bytes + 1)
        if len(data) > DEFAULT.message_bytes:
            raise Exit(USAGE, f"standard input is over {DEFAULT.message_bytes} bytes: name the file in the message")
        parts.append(data.decode(errors="replace").strip())
    text = "\n\n".join(part for part in parts if part)
    if not text:
        raise Exit(USAGE, 'there is no message (greenroom run "…", or text in a pipe)')
    return text


async def _run(arguments: Arguments, text: str, timeout: float | None) -> int:
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, trio.CancelScope() as leaving:
        running = trio.Event()

        async def obey() -> None:
            async for _ in signals:
                if stop.is_set() or not running.is_set():
                    leaving.cancel(reason="there is nothing to be stopped, or it was asked before")
                stop.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey)
            code = await _answer(arguments, text, stop, running, timeout)
            nursery.cancel_scope.cancel(reason="it has answered")
        return code
    return CANCELLED


async def _answer(arguments: Arguments, text: str, stop: trio.Event, running: trio.Event, timeout: float | None) -> int:
    """Start the run and print its answer. `stop` asks the run to stop; `running` is set when it has begun."""
    late = abandoned = False
    async with open_client(arguments, start=arguments.start, reconnect=RECONNECT) as client:
        approvals = Approvals(client, *asking(arguments.approve))
        make = JsonLines if arguments.json else Answer
        answer: Answer | JsonLines = make(Writer(), approvals.take)
        params = {} if arguments.model is None else {"model": arguments.model}
        session_id = arguments.session or await new_session(client, **params)
        async with client.start_run(session_id, text, when_busy=arguments.when_busy, **params) as started:
            run_id = started.run["id"]
            if started.run["status"] == "queued":
                note(f"[waits in the session's queue, at position {started.run['position']}]")
            running.set()

            async def stop_run() -> None:
                nonlocal late
                with trio.move_on_after(math.inf if timeout is None else timeout) as clock:
                    await stop.wait()
                late = clock.cancelled_caught
                note(f"[not done after {timeout:g} s: stopping]" if late else "[stopping]")
                await ask_to_stop(client, run_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_run)
                try:
                    await approvals.beside(functools.partial(answer.follow, started.events))
                except BrokenPipeError:
                    # Nobody reads the answer: nobody needs the rest of it.
                    await ask_to_stop(client, run_id)
                    abandoned = True
                nursery.cancel_scope.cancel(reason="the run has ended")
    if abandoned:
        return CANCELLED
    code = tell_end(answer.status, answer.error, answer.reason)
    return FAILED if late and code != GOOD else code


def asking(how: How | None) -> tuple[How, Lines | None]:
    """How approvals are answered: in the terminal, if there is one and nothing else was said."""
    if how not in (None, "ask"):
        return how, None
    if sys.stdin.isatty() and sys.stderr.isatty():
        return "ask", Lines(sys.stdin.fileno())
    if how == "ask":
        raise Exit(USAGE, "--approve ask needs a terminal")
    return "deny", None


async def new_session(client: Client, **params: str) -> str:
    """A session in the folder where the command was given. A model that there is not leaves none behind."""
    result = await client.request("session.create", {"cwd": os.getcwd(), **params})
    session_id: str = result["session"]["id"]
    return session_id


async def ask_to_stop(client: Client, run_id: str) -> None:
    with trio.move_on_after(_STOP_SECONDS):
        try:
            await client.request("run.stop", {"run_id": run_id})
        except RemoteError as exc:
            note(str(exc))


def tell_end(status: str | None, error: dict[str, Any] | None, reason: str | None) -> int:
    """Say how a run ended if it did not complete; the exit code for it."""
    if status != "completed":
        why = error["message"] if error else reason
        note(f"{status or 'the run is gone'}{f': {why}' if why else ''}")
    return CODES.get(status or "", FAILED)
