"""`greenroom sessions compact`: a summary in place of a conversation's beginning; standard error says how it goes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import trio

from actors.cli.answer import Answer, JsonLines, Writer
from actors.cli.arguments import Arguments
from actors.cli.exits import CANCELLED
from actors.cli.output import note
from actors.cli.run import ask_to_stop, tell_end
from actors.cli.start import RECONNECT, open_client
from actors.client import Client


def main(arguments: Arguments) -> int:
    return trio.run(_compact, arguments)


async def _compact(arguments: Arguments) -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, trio.CancelScope() as leaving:
        async with open_client(arguments, reconnect=RECONNECT) as client, trio.open_nursery() as nursery:
            run = (await client.request("session.compact", {"session_id": arguments.id}))["run"]
            nursery.start_soon(_obey, signals, client, run["id"], leaving)
            answer: Answer | JsonLines = (JsonLines if arguments.json else Answer)(Writer())
            async with client.watch_run(run["id"]) as watch:
                await answer.follow(watch)
            nursery.cancel_scope.cancel(reason="the run has ended")
        if answer.status == "completed" and answer.reason:
            note(f"nothing was summarised: {answer.reason}")
        return tell_end(answer.status, answer.error, answer.reason)
    return CANCELLED


async def _obey(signals: AsyncIterator[int], client: Client, run_id: str, leaving: trio.CancelScope) -> None:
    """Ctrl-C stops the run, once more leaves."""
    await anext(signals)
    note("[stopping]")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_to_stop, client, run_id)
        await anext(signals)
        leaving.cancel(reason="told twice")
