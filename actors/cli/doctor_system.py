"""`greenroom doctor`: what the machine gives: Python, SQLite, the C library, descriptors, memory, the terminal."""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from actors._descriptors import BESIDE
from actors._memory import resident
from actors.cli.doctor_checks import Check, Result, failed, good, of, skipped, warning
from actors.cli.output import size
from actors.gateway.port import TOLD_FULL_MAX
from engine.limits import Limits
from engine.storage.quick import sqlite_version

PYTHON: Final = (3, 11)
# The first with STRICT tables, which the schema has.
SQLITE: Final = (3, 37)


def checks(limits: Limits, pid: int | None) -> Iterator[Check]:
    """`pid` is the daemon's that runs."""
    yield of("system", "python", lambda: python(sys.version_info[:3]))
    yield of("system", "sqlite", lambda: sqlite(sqlite_version()))
    yield of("system", "memory", lambda: memory(limits))
    yield of("system", "descriptors", lambda: descriptors(limits, soft_descriptors(pid)))
    yield of("system", "terminal", terminal)


def python(version: tuple[int, ...]) -> Result:
    text = ".".join(map(str, version))
    if version < PYTHON:
        return failed(f"Python {text}", f"install Python {'.'.join(map(str, PYTHON))} or newer")
    return good(f"Python {text} on {platform.system()} {platform.release()}")


def sqlite(version: tuple[int, ...]) -> Result:
    text = f"SQLite {'.'.join(map(str, version))}"
    if version < SQLITE:
        return failed(text, f"use a Python that is built with SQLite {'.'.join(map(str, SQLITE))} or newer")
    return good(text)


def memory(limits: Limits, root: Path = Path("/")) -> Result:
    """Whether memory is measured, and whether the machine, or the container, has what the daemon may take."""
    if not resident().total:
        return warning(
            "the resident memory cannot be measured here: memory_soft and memory_hard bound nothing",
            "run the daemon on Linux where it has to stay within its bounds",
        )
    room, whose = _room(root)
    library = _c_library()
    kind = library or "a C library that is not glibc: free memory is given back late"
    if room < limits.memory_hard:
        return warning(
            f"{whose} has {size(room)}, and memory_hard is {size(limits.memory_hard)}: the kernel ends the daemon "
            "before it refuses runs",
            "set memory_soft and memory_hard in [limits] below what there is",
        )
    text = f"{size(room)} of {whose}, memory_hard {size(limits.memory_hard)}, {kind}"
    return good(text) if library is not None else warning(text, "use a Python for glibc where memory matters")


def _room(root: Path) -> tuple[int, str]:
    """Bytes that this process may have at the most, and whose they are."""
    room, whose = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine"
    for file in (*_groups(root), root / "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < room:
            room, whose = int(text), "the control group (container or service)"
    return room, whose


def _groups(root: Path) -> Iterator[Path]:
    """The bounds of this process's control group and of those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    base = root / "sys/fs/cgroup"
    for line in lines:
        if line.startswith("0::/"):
            folder = base / line[4:]
            while folder != base.parent:
                yield folder / "memory.max"
                folder = folder.parent


def _c_library() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return None


def soft_descriptors(pid: int | None = None) -> int:
    """As many as this process may have open, or the one with this number if that can be told."""
    if pid is not None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
                if line.startswith("Max open files"):
                    return int(line.split()[3])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # which `greenroom serve` asks for, as far as it needs them
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def descriptors(limits: Limits, most: int) -> Result:
    wanted = limits.connections_max + TOLD_FULL_MAX + BESIDE  # as the daemon asks for
    if most < wanted:
        return warning(
            f"{most} descriptors at the most; {limits.connections_max} connections (connections_max) and the rest need "
            f"{wanted}",
            f"raise it (`ulimit -n {2 * wanted}`, LimitNOFILE= in a unit), or lower connections_max in [limits]",
        )
    return good(f"{most if most != sys.maxsize else 'any number of'} descriptors, {wanted} are needed at the most")


def terminal() -> Result:
    if not sys.stdout.isatty():
        return skipped("standard output is no terminal")
    name = os.environ.get("TERM", "")
    try:
        unicode = codecs.lookup(sys.stdout.encoding or "").name == "utf-8"
    except LookupError:
        unicode = False
    size = os.get_terminal_size(sys.stdout.fileno())
    text = f"{name or 'TERM is not set'}, {sys.stdout.encoding}, {size.columns} × {size.lines}"
    advice = []
    if name in ("", "dumb", "unknown"):
        advice.append("set TERM to what the terminal is, such as xterm-256color; until then chat is line by line")
    if not unicode:
        advice.append("choose a UTF-8 locale, such as LANG=C.UTF-8: text in other languages is not shown right")
    if importlib.util.find_spec("textual") is None:
        advice.append("for the full-screen chat: pip install 'greenroom[chat]'")
    return warning(text, *advice) if advice else good(text)
