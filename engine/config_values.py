"""The values of greenroom.toml that are text with a grammar of their own: addresses, sizes and times.

Each parser raises ValueError whose text says what was expected, never what was found: a value may be a secret
that stands in the wrong place.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

import attrs

from engine.limits import GIB, KIB, MIB, Limits, Unit

# Above any sensible setting and far below what overflows SQLite's and the system's integers.
COUNT_MAX: Final = 2**40
SECONDS_MAX: Final = 10 * 366 * 86_400.0

# These are part of the wire contract: clients rely on them, so a setting may not change them.
WIRE_LIMITS: Final = frozenset({"frame_bytes", "string_bytes", "event_bytes", "markdown_bytes"})

# Bounds that would make another one senseless: (the bound, how it stands to the other one, the other one, why).
Relation = Literal["more than", "at most"]
RELATIONS: Final[tuple[tuple[str, Relation, str, str], ...]] = (
    ("silence_timeout", "more than", "ping_interval", "a quiet peer answers pings only"),
    ("delta_bytes", "at most", "string_bytes", "a delta is never cut"),
    ("memory_soft", "at most", "memory_hard", "what can be dropped goes before runs are refused"),
)

_BYTES: Final = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": KIB, "mib": MIB, "gib": GIB}
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_UNITS: Final[Mapping[Unit, Mapping[str, float]]] = MappingProxyType(
    {"bytes": _BYTES, "seconds": _SECONDS, "count": {}, "characters": {}}
)
_EXAMPLES: Final[Mapping[Unit, str]] = MappingProxyType(
    {
        "bytes": 'a size above 0, such as 65536, "64KiB" or "1 MiB"',
        "seconds": 'a time above 0, such as 90, "90s" or "15 min"',
        "count": "a whole number above 0",
        "characters": "a whole number above 0",
    }
)
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)", re.ASCII)

_UNIX: Final = "unix:"
_UNIX_PATH_BYTES: Final = 107  # sun_path of Linux less its NUL
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


# ------------------------------------------------------------------ addresses
@attrs.frozen(slots=True, kw_only=True)
class Listen:
    """Where the port is: `host` and `port` (0 picks a free one), or the absolute path of a Unix-domain socket."""

    host: str = "127.0.0.1"
    port: int = 8765
    unix_path: str | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A host name other than localhost counts as reachable."""
        if self.unix_path is not None or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"{_UNIX}{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Listen:
    """`host:port`, `[v6]:port` or `unix:/path`."""
    wanted = "host:port, [address]:port or unix:/absolute/path"
    if text.startswith(_UNIX):
        path = text[len(_UNIX) :]
        if not path.startswith("/") or "\0" in path or len(path.encode()) > _UNIX_PATH_BYTES:
            raise ValueError(f"expected {wanted} (a path of at most {_UNIX_PATH_BYTES} bytes)")
        return Listen(unix_path=path)
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 0xFFFF:
        raise ValueError(f"expected {wanted}, the port 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return Listen(host=str(ipaddress.IPv6Address(host[1:-1])), port=int(port))
        except ValueError:
            raise ValueError(f"expected {wanted}") from None
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"expected {wanted}")
    return Listen(host=host, port=int(port))


def is_host(text: str) -> bool:
    """A host as it stands in a Host header, without port."""
    if text.startswith("[") and text.endswith("]"):
        try:
            ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(text) is not None


def is_origin(text: str) -> bool:
    """`https://host` or `http://host:port`: what a browser sends as Origin, without path."""
    return is_http_url(text) and text == text.lower() and text.count("/") == 2 and not set("?#") & set(text)


def is_http_url(text: str) -> bool:
    """An http(s) URL with a host and without user, password, query and fragment."""
    if not text.isascii() or any(c <= " " or c == "\x7f" for c in text):
        return False
    try:
        url = urlsplit(text)
        # Reading `port` raises for one that is out of range.
        good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return False
    return good and "@" not in url.netloc and not url.query and not url.fragment


# ------------------------------------------------------------------ sizes and times
def parse_quantity(value: object, unit: Unit) -> int | float:
    """A number, or text with a unit: seconds as float, all else as int. Above 0, finite."""
    wanted = f"expected {_EXAMPLES[unit]}"
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        factor = _UNITS[unit].get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise ValueError(wanted)
        number = float(match[1]) * factor
    elif type(value) in (int, float):
        assert isinstance(value, int | float)
        if isinstance(value, int) and abs(value) > COUNT_MAX:
            raise ValueError(f"{wanted}, at most {COUNT_MAX}")
        number = float(value)
    else:
        raise ValueError(wanted)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(wanted)
    if unit == "seconds":
        if number > SECONDS_MAX:
            raise ValueError(f"{wanted}, at most ten years")
        return number
    if number != int(number):
        raise ValueError(f"{wanted}, whole")
    if number > COUNT_MAX:
        raise ValueError(f"{wanted}, at most {COUNT_MAX}")
    return int(number)


def parse_limits(table: Mapping[str, object]) -> tuple[Limits, list[tuple[str, str]]]:
    """The limits with those of the table, and the mistakes as (name, message). Unknown names are said elsewhere."""
    values: dict[str, int | float] = {}
    mistakes: list[tuple[str, str]] = []
    for field in attrs.fields(Limits):
        if field.name not in table:
            continue
        try:
            value = parse_quantity(table[field.name], field.metadata["unit"])
        except ValueError as exc:
            mistakes.append((field.name, str(exc)))
            continue
        if field.name in WIRE_LIMITS and value != field.default:
            mistakes.append((field.name, f"is fixed at {field.default} by the wire contract"))
        values[field.name] = value
    if mistakes:
        return Limits(), mistakes
    limits = Limits(**values)  # type: ignore[arg-type]
    for name, relation, other, why in RELATIONS:
        value, than = getattr(limits, name), getattr(limits, other)
        if value > than if relation == "at most" else value <= than:
            mistakes.append((name, f"has to be {relation} {other}: {why}"))
    return limits, mistakes
