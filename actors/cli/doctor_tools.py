"""`greenroom doctor`: each tool server, started as the daemon starts it, asked for its tools, and stopped again."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import trio

from actors._guard import Guard
from actors._spool import Spools
from actors.cli.doctor_checks import Check, Result, failed, good, known, skipped, warning
from actors.composition import server_of
from actors.logs import hide
from actors.toolsets.mcp import McpToolset
from engine.config import Config, ToolsetConfig
from engine.errors import PeerError
from engine.limits import Limits
from engine.tools.environment import child_environment

_USABLE: Final = ("ready", "degraded")
# What is wrong with its lists is told at once, or there is nothing.
_TROUBLE_SECONDS: Final = 0.2
_PACKAGE: Final = "mcp"


def checks(
    config: Config, guard: Guard, spools: Spools, *, offline: bool, daemon: Mapping[str, dict[str, Any]]
) -> Iterator[Check]:
    """`daemon` has the toolsets of a running daemon by name."""
    builtin = [name for name, chosen in config.toolsets.items() if chosen.kind == "builtin"]
    if builtin:
        yield known("toolset", " ".join(builtin), good("built in"))
    for name, chosen in config.toolsets.items():
        if chosen.kind != "mcp":
            continue
        if offline and chosen.url is not None:
            yield known("toolset", name, skipped("--offline"))
        else:
            work = partial(check, name, chosen, config.limits, guard, spools, daemon.get(name))
            yield Check(area="toolset", name=name, work=work)


async def check(
    name: str,
    chosen: ToolsetConfig,
    limits: Limits,
    guard: Guard,
    spools: Spools,
    daemons: dict[str, Any] | None = None,
) -> Result:
    place = f"[toolsets.{name}]"
    for value in (chosen.env or {}).values():  # a server may repeat in its errors what it was given
        hide(value)
    if importlib.util.find_spec(_PACKAGE) is None:
        return failed("tool servers need another package", "pip install 'greenroom[mcp]'")
    missing = _missing(chosen, place)
    if missing is not None:
        return missing
    toolset = McpToolset(server_of(chosen), guard, spools.of_toolset(name), tools=chosen.tools, limits=limits)
    what = chosen.url or " ".join((chosen.command or "", *chosen.args))
    began = trio.current_time()
    try:
        specs = await toolset.open()
        seconds = trio.current_time() - began
        trouble = None
        with trio.move_on_after(_TROUBLE_SECONDS):
            trouble = (await toolset.news()).trouble
    except PeerError as exc:
        return _broken(exc, what, place, daemons)
    finally:
        with trio.CancelScope(shield=True):  # bounded by the grace that a server has and the guard's kill
            await toolset.close()
    text = f"{what}: {len(specs)} tools after {seconds:.1f} s"
    unknown = sorted(set(chosen.tools or ()) - {spec.name for spec in specs})
    if unknown:
        return warning(f"{text}, but not {', '.join(unknown)}", f"correct `tools` in {place}")
    if trouble is not None:
        return warning(f"{text}; {trouble}", "what is left out cannot be used: ask the server's author")
    if seconds > limits.toolset_first_wait:
        return warning(
            f"{text}: the first run that needs it does not wait so long",
            'have it started with the daemon: restart = "always", or raise toolset_first_wait in [limits]',
        )
    return _beside_the_daemons(text, daemons)


def _missing(chosen: ToolsetConfig, place: str) -> Result | None:
    """What can be seen without starting it."""
    if chosen.command is not None and shutil.which(chosen.command, path=_path()) is None:
        return failed(
            f"there is no program {chosen.command} that can be started",
            f"install it, or give its whole path: command in {place} (PATH is {_path()})",
        )
    for header, variable in (chosen.headers_env or {}).items():
        if not os.environ.get(variable, "").strip():
            return failed(
                f"the environment variable {variable}, for {header}, is not set",
                f"set it where the daemon is started, or correct headers_env in {place}",
            )
    return None


def _path() -> str:
    return child_environment(os.environ).get("PATH", os.defpath)


def _broken(exc: PeerError, what: str, place: str, daemons: dict[str, Any] | None) -> Result:
    text = f"{what}: {exc.message}"
    if daemons is not None and daemons["state"] in _USABLE:
        return warning(
            f"the daemon uses it ({daemons['state']}), but it cannot be started once more: {text}",
            "nothing has to be done if it can only run once",
        )
    return failed(text, f"start it by hand and see what it says, then correct {place}")


def _beside_the_daemons(text: str, daemons: dict[str, Any] | None) -> Result:
    if daemons is not None and daemons["state"] == "failed":
        why = daemons.get("error", {}).get("message", "it does not say why")
        return warning(
            f"{text}; but in the daemon it has failed: {why}",
            f"greenroom toolsets restart {daemons['name']}; if that fails, its environment is another one than here",
        )
    return good(text)
