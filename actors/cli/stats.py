"""`greenroom stats`: what the daemon holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from actors.cli.arguments import Arguments
from actors.cli.listing import ask
from actors.cli.output import say, say_json, size
from actors.client import Client


def main(arguments: Arguments) -> None:
    stats = ask(arguments, Client.request, "daemon.stats")
    if arguments.json:
        say_json(stats)
        return
    say(f"up for          {timedelta(seconds=round(stats['uptime_s']))}")
    _tell_memory(stats["memory"])
    processes = stats["processes"]
    below = f"{processes['programs']} programs, {processes['all']} in all, {size(processes['resident'])} resident"
    say(f"processes       {below}")
    for name, count in sorted(stats["counts"].items()):
        say(f"{name:15} {count}")
    say(f"loop lag (p99)  {stats['loop']['lag_p99_ms']:.1f} ms")
    if arguments.tree:
        say("")
        for name, actor in stats["actors"].items():
            _tell_tree(name, actor, 0)


def _tell_memory(memory: dict[str, Any]) -> None:
    """By owner, the largest first; what the sum of the owners explains of what is resident."""
    resident, owned = memory["resident"], memory["owned"]
    explained = sum(owned.values())
    share = f", {explained / resident:.0%} of it explained:" if resident else ""
    say(f"memory          {size(resident)} resident ({memory['state']}){share}")
    for owner, held in sorted(owned.items(), key=lambda entry: -entry[1]):
        if held:
            say(f"  {owner:13} {size(held):>10}")
    say(f"  {'sum':13} {size(explained):>10}")


def _tell_tree(name: str, actor: dict[str, Any], depth: int) -> None:
    state = actor.get("state", "")
    say(f"{'  ' * depth}{name}  {state}".rstrip())
    for child, below in actor.get("children", {}).items():
        _tell_tree(child, below, depth + 1)
