"""`greenroom toolsets`: list, restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import trio

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, GOOD
from actors.cli.listing import ask
from actors.cli.output import columns, line, note, say, say_json, table
from actors.client import Client

_USABLE: Final = ("ready", "degraded")


def main(arguments: Arguments) -> int:
    actions = {"list": _list, "restart": _restart}
    return actions[arguments.action](arguments)


def _list(arguments: Arguments) -> int:
    toolsets = ask(arguments, Client.request, "toolset.list")["toolsets"]
    if arguments.json:
        say_json({"toolsets": toolsets})
        return GOOD
    rows = [
        (one["name"], one["kind"], one["state"], str(one["leases"]), str(one["restarts"]), _tools(one))
        for one in toolsets
    ]
    table(("TOOLSET", "KIND", "STATE", "CALLS", "RESTARTS", "TOOLS"), rows)
    _tell_errors(toolsets)
    return GOOD


def _tools(toolset: dict[str, Any]) -> str:
    return line(" ".join(tool["name"] for tool in toolset["tools"]), columns())


def _tell_errors(toolsets: Iterable[dict[str, Any]]) -> None:
    for one in toolsets:
        if "error" in one:
            note(f"{one['name']}: {line(one['error']['message'], columns())}")


def _restart(arguments: Arguments) -> int:
    toolsets = ask(arguments, _restart_all, arguments.name)
    if arguments.json:
        say_json({"toolsets": toolsets})
    else:
        for one in toolsets:
            say(f"{one['name']} {one['state']}")
        _tell_errors(toolsets)
    return GOOD if all(one["state"] in _USABLE for one in toolsets) else FAILED


async def _restart_all(client: Client, names: list[str]) -> list[dict[str, Any]]:
    """All at the same time; in the order given."""
    restarted: dict[str, dict[str, Any]] = {}

    async def restart(name: str) -> None:
        restarted[name] = (await client.request("toolset.restart", {"name": name}))["toolset"]

    async with trio.open_nursery() as nursery:
        for name in dict.fromkeys(names):
            nursery.start_soon(restart, name)
    return [restarted[name] for name in dict.fromkeys(names)]
