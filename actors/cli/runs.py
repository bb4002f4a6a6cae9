"""`greenroom runs`: list, show, stop."""

from __future__ import annotations

from typing import Any

import trio

from actors.cli.arguments import Arguments
from actors.cli.listing import ask, listed
from actors.cli.output import say, say_json, table, when
from actors.cli.spent import spent
from actors.client import Client


def main(arguments: Arguments) -> None:
    {"list": _list, "show": _show, "stop": _stop}[arguments.action](arguments)


def _list(arguments: Arguments) -> None:
    wanted = {"session_id": arguments.session, "active": arguments.active}
    runs = ask(arguments, listed, "run.list", "runs", wanted, arguments.limit)
    if arguments.json:
        say_json({"runs": runs})
        return
    rows = [(run["id"], run["session_id"], run["status"], when(run["created_at"]), run["model"]) for run in runs]
    table(("RUN", "SESSION", "STATUS", "CREATED", "MODEL"), rows)


def _show(arguments: Arguments) -> None:
    run, currency = ask(arguments, _read, arguments.id)
    if arguments.json:
        say_json(run)
        return
    for name, value in run.items():
        if name.endswith("_at"):
            value = when(value)
        elif name == "usage":
            value = spent(value, currency)
        elif name == "error":
            value = f"{value['message']} [{value['code']}]"
        say(f"{name:12} {value}".rstrip())


async def _read(client: Client, run_id: str) -> tuple[dict[str, Any], str]:
    return (await client.request("run.get", {"run_id": run_id}))["run"], client.hello.get("currency", "")


def _stop(arguments: Arguments) -> None:
    runs = ask(arguments, _stop_all, arguments.id, arguments.reason)
    if arguments.json:
        say_json({"runs": runs})
        return
    for run in runs:
        say(f"{run['id']} {run['status']}")


async def _stop_all(client: Client, run_ids: list[str], reason: str | None) -> list[dict[str, Any]]:
    """All at the same time; in the order given."""
    stopped: dict[str, dict[str, Any]] = {}

    async def stop(run_id: str) -> None:
        params = {"run_id": run_id} if reason is None else {"run_id": run_id, "reason": reason}
        stopped[run_id] = (await client.request("run.stop", params))["run"]

    async with trio.open_nursery() as nursery:
        for run_id in run_ids:
            nursery.start_soon(stop, run_id)
    return [stopped[run_id] for run_id in run_ids]
