"""Asking a daemon once, and lists that come in pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

from actors.cli.arguments import Arguments
from actors.cli.exits import NO_DAEMON, Exit
from actors.cli.start import open_client
from actors.client import Client

_PAGE: Final = 100
_PATIENCE: Final = 120.0  # what is asked here is answered from a store; stopping a run takes the longest


def ask(arguments: Arguments, work: Callable[..., Awaitable[Any]], *details: Any) -> Any:
    """`work(client, …)` with a client of the daemon; what it returns."""

    async def run() -> Any:
        with trio.move_on_after(_PATIENCE):
            async with open_client(arguments) as client:
                return await work(client, *details)
        raise Exit(NO_DAEMON, f"the daemon has not answered for {_PATIENCE:.0f} s")

    return trio.run(partial(run))


async def listed(client: Client, method: str, key: str, params: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """The first `limit` entries of a list."""
    entries: list[dict[str, Any]] = []
    params = {name: value for name, value in params.items() if value is not None}
    while len(entries) < limit:
        page = await client.request(method, {**params, "limit": min(_PAGE, limit - len(entries))})
        entries += page[key]
        if "next_cursor" not in page:
            break
        params["cursor"] = page["next_cursor"]
    return entries
