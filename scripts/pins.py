"""Hold scripts/pins.txt against pyproject.toml and the installed packages' own requirements, both ways.

Wrong is: a requirement that no pin fulfils, a pin that nothing requires, a line that is not an exact version, an
installed package of another version than its pin.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)")


def mistakes(root: Path = ROOT) -> list[str]:
    found: list[str] = []
    pins = read_pins((root / "scripts" / "pins.txt").read_text(), found)
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wanted = [("pyproject.toml", needed) for needed in applying(roots(project), set())]
    reached: set[tuple[str, frozenset[str]]] = set()  # one may be required with an extra here, without it there
    while wanted:
        by, requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name not in pins:
            found.append(f"{by} requires {requirement}, which is not pinned")
            continue
        if not requirement.specifier.contains(pins[name], prereleases=True):
            found.append(f"{by} requires {requirement}, but {name} is pinned to {pins[name]}")
        if (name, frozenset(requirement.extras)) in reached:
            continue
        reached.add((name, frozenset(requirement.extras)))
        wanted += [(name, needed) for needed in requirements_of(name, pins[name], requirement.extras, found)]
    found += [
        f"{name} is pinned, but nothing requires it" for name in sorted(pins.keys() - {name for name, _ in reached})
    ]
    return found


def roots(project: dict) -> list[str]:
    extras = project["project"].get("optional-dependencies", {})
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(text for extra in extras.values() for text in extra),
    ]


def read_pins(text: str, found: list[str]) -> dict[str, str]:
    pins: dict[str, str] = {}
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None:
            found.append(f"pins.txt: {line!r} is not NAME==VERSION")
        else:
            pins[canonicalize_name(match[1])] = match[2]
    return pins


def requirements_of(name: str, version: str, extras: set[str], found: list[str]) -> list[Requirement]:
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        found.append(f"{name} is pinned, but not installed")
        return []
    if package.version != version:
        found.append(f"{name} is pinned to {version}, but {package.version} is installed")
    return applying(package.requires or [], extras)


def applying(texts: list[str], extras: set[str]) -> list[Requirement]:
    """Those requirements that hold for this interpreter and the extras asked for."""
    needed = [Requirement(text) for text in texts]
    return [r for r in needed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in {"", *extras})]


if __name__ == "__main__":
    lines = mistakes()
    for line in lines:
        print(line)
    sys.exit(bool(lines))
