"""Values of the command line that need the configuration's grammar, and the configuration file itself."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from actors.cli.exits import USAGE, Exit
from actors.places import config_file
from engine.config import FILE_BYTES, Config, ConfigError, parse
from engine.config_values import parse_quantity

# Settings that options replace: where a mistake in them is said to be.
OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen": "--listen",
        "insecure": "--insecure",
        "log_level": "--log-level",
        "tls": "--tls-cert",
        "tls.cert_file": "--tls-cert",
        "tls.key_file": "--tls-key",
    }
)


def seconds(option: str, text: str) -> float:
    """A time such as 90s, 15 min, or a number of seconds."""
    value: object = text
    with contextlib.suppress(ValueError):
        value = float(text)
    try:
        return float(parse_quantity(value, "seconds"))
    except ValueError as exc:
        raise Exit(USAGE, f"{option}: {exc}") from None


def read_config(given: str | None, **overrides: object) -> Config:
    """The configuration: the file that is given, else the platform's if it is there. Every mistake of it is told on a
    line of its own, with its place."""
    path = Path(given).expanduser() if given is not None else config_file()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_BYTES + 1)
    except FileNotFoundError:
        if given is not None:
            raise Exit(USAGE, f"{path}: there is no such file") from None
        text = ""
    except (OSError, UnicodeDecodeError) as exc:
        raise Exit(USAGE, f"{path}: {getattr(exc, 'strerror', None) or exc}") from None
    try:
        return parse(text, **overrides)
    except ConfigError as exc:
        raise Exit(USAGE, *(_mistake(path, place, message, overrides) for place, message in exc.fields)) from None


def _mistake(path: Path, place: str, message: str, overrides: Mapping[str, object]) -> str:
    if place.partition(".")[0] in overrides:
        return f"{OPTIONS.get(place, place)}: {message}"
    return f"{path}: {place}: {message}" if place else f"{path}: {message}"
