"""`greenroom toolsets`: list, show, restart."""

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
    actions = {"list": _list, "show": _show, "restart": _restart}
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
    others = [f"{len(toolset[kind])} {kind}" for kind in ("prompts", "resources") if toolset.get(kind)]
    names = " ".join(tool["name"] for tool in toolset["tools"])
    return line(f"{names} ({', '.join(others)})" if others else names, columns())


def _show(arguments: Arguments) -> int:
    found = {one["name"]: one for one in ask(arguments, Client.request, "toolset.list")["toolsets"]}
    wanted = [found[name] for name in dict.fromkeys(arguments.name) if name in found]
    if arguments.json:
        say_json({"toolsets": wanted})
    else:
        for one in wanted:
            _show_one(one)
    unknown = [name for name in dict.fromkeys(arguments.name) if name not in found]
    for name in unknown:
        note(f"there is no toolset {name!r}; there are {', '.join(found)}")
    return FAILED if unknown else GOOD


def _show_one(toolset: dict[str, Any]) -> None:
    say(f"{toolset['name']}  {toolset['kind']}  {toolset['state']}")
    for kind in ("tools", "prompts", "resources"):
        for entry in toolset.get(kind, ()):
            name = f"{entry['uri']} {entry['name']}" if "uri" in entry else entry["name"]
            say("  " + line(f"{kind[:-1]} {name}: {entry['description']}".rstrip(": "), columns() - 2))
        if f"{kind}_more" in toolset:
            say(f"  and {toolset[f'{kind}_more']} more {kind}")
    _tell_errors([toolset])


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
