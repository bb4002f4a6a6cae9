"""`greenroom doctor`: the daemon of the data directory, asked by the ways that its clients use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors.cli.doctor_checks import Check, Result, failed, good, known, skipped, warning
from actors.cli.output import size
from actors.cli.processes import holder
from actors.client import AccessDenied, ClientError, RemoteError, Untrusted, connect
from actors.client.dial import find, get
from actors.places import read_daemon_file
from engine.version import VERSION

# A daemon on this machine answers in milliseconds, one that is very busy within seconds.
_SECONDS: Final = 10.0
# Above it a client sees that the loop stands still.
_LAG_MS: Final = 250.0
_ENVIRON: Final = 1024 * 1024


@attrs.frozen(slots=True, kw_only=True)
class Seen:
    """What was found of a daemon. `toolsets` are its own by name; `variables` the names of its environment, None if
    that is not known."""

    pid: int | None = None
    checks: tuple[Check, ...] = ()
    toolsets: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    variables: frozenset[str] | None = None


async def see(folder: Path) -> Seen:
    pid, file = holder(folder), read_daemon_file(folder)
    if pid is None:
        left = "; daemon.json is left of one that was killed, and the next start replaces it" if file else ""
        idle = skipped(f"none runs on {folder}{left}", "start one: greenroom serve (or greenroom chat --start)")
        return Seen(checks=(known("daemon", "", idle),))
    if file is None:
        busy = warning(
            f"process {pid} holds {folder} and cannot be used yet",
            "it starts, or ends, or is another command at work (a vacuum, an import): try again in a moment",
        )
        return Seen(pid=pid, checks=(known("daemon", "", busy),))
    found = [known("daemon", "ready", await _ready(folder, file.url))]
    try:
        with trio.fail_after(_SECONDS):
            async with connect(data_dir=folder, name="greenroom-doctor") as client:
                stats = await client.request("daemon.stats")
                listed = await client.request("toolset.list")
                server = client.hello["server"]
    except trio.TooSlowError:
        hung = failed(
            f"process {pid} at {file.url} does not answer within {_SECONDS:g} s",
            "look at its log; end it with `greenroom stop`, if need be with `kill -9` (nothing acknowledged is lost)",
        )
        return Seen(pid=pid, checks=(*found, known("daemon", "access", hung)), variables=_variables(pid))
    except (ClientError, RemoteError) as exc:
        return Seen(
            pid=pid, checks=(*found, known("daemon", "access", _refused(exc, folder))), variables=_variables(pid)
        )
    found.append(known("daemon", "access", good(f"process {pid} at {file.url} takes the token")))
    found.append(known("daemon", "version", _version(str(server["version"]))))
    found += _figures(stats)
    return Seen(
        pid=pid,
        checks=tuple(found),
        toolsets={one["name"]: one for one in listed["toolsets"]},
        variables=_variables(pid),
    )


def _refused(exc: ClientError, folder: Path) -> Result:
    match exc:
        case AccessDenied():
            advice = f"the token in {folder} is not the daemon's: was the file replaced? Start the daemon anew"
        case Untrusted():
            advice = "name who has signed its certificate in SSL_CERT_FILE, or give it one that is trusted ([tls])"
        case _:
            advice = "look at its log; start it anew with `greenroom stop` and `greenroom serve`"
    return failed(str(exc), advice)


async def _ready(folder: Path, url: str) -> Result:
    """By /readyz, as a load balancer asks."""
    try:
        with trio.fail_after(_SECONDS):
            status, said = await get(find(None, "", folder), "/readyz")
    except trio.TooSlowError:
        return failed(f"{url}/readyz does not answer within {_SECONDS:g} s", "look at the daemon's log")
    except ClientError as exc:
        return _refused(exc, folder)
    if status == 200:
        return good(f"{url} is ready")
    return warning(f"{url}/readyz: {status} {said}", "it starts or drains: try again in a moment")


def _version(theirs: str) -> Result:
    if theirs == VERSION:
        return good(f"greenroom {VERSION}, as this command")
    return warning(
        f"the daemon is greenroom {theirs}, this command {VERSION}",
        "start the daemon anew, or use the command that belongs to it",
    )


def _figures(stats: dict[str, Any]) -> Iterator[Check]:
    memory = stats["memory"]
    text = f"{size(memory['resident'])} resident, {memory['state']}"
    match memory["state"]:
        case "normal":
            result = good(text)
        case "hard":
            result = failed(
                f"{text}: new runs are refused",
                "see what holds it (greenroom top), stop runs, or raise memory_hard in [limits]",
            )
        case _:
            result = warning(
                f"{text}: caches and logs of ended runs are dropped",
                "see what holds it (greenroom top), or raise memory_soft in [limits]",
            )
    yield known("daemon", "memory", result)
    lag = stats["loop"]["lag_p99_ms"]
    text = f"one turn of the event loop in a hundred takes {lag:.1f} ms or more"
    slow = warning(text, "the machine has too little processor time, or a disk is slow: look at what else it does")
    yield known("daemon", "latency", slow if lag > _LAG_MS else good(text))


def _variables(pid: int) -> frozenset[str] | None:
    """Names of the variables with which the process was started. Their values are not kept."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read(_ENVIRON).split(b"\0")
    except OSError:
        return None
    return frozenset(os.fsdecode(entry.partition(b"=")[0]) for entry in entries if entry)
