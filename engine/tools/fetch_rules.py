"""What the tool `fetch` may reach: URLs, addresses, redirects. Nothing is resolved or opened here.

A name says nothing about where it leads, so addresses are judged, those that the name was resolved to, and the
connection is made to an address that was judged: no second resolution can give another. Only addresses of the public
internet are reached; private ones, those of this machine and of the link, and those that carry another address in
them are refused, unless the configuration names their network.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NoReturn
from urllib.parse import quote, urljoin, urlsplit

import attrs

from engine.errors import CallerError

URL_CHARACTERS_MAX: Final = 8192  # what browsers and servers agree on
REDIRECTS_MAX: Final = 5
_HOST_CHARACTERS_MAX: Final = 253  # of a name in the DNS
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?", re.ASCII)
# What may stand in a request line as it is; the rest is escaped.
_TARGET_SAFE: Final = "!#$%&'()*+,/:;=?@[]~"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The registries of special addresses (IANA, RFC 6890 and later). Of IPv6 only what is given to the public is reached.
_REFUSED_4: Final = tuple(
    (ipaddress.IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "a private network"),
        ("100.64.0.0/10", "a provider's shared network"),
        ("127.0.0.0/8", "this machine"),
        ("169.254.0.0/16", "the link"),
        ("172.16.0.0/12", "a private network"),
        ("192.0.0.0/24", "a special network"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "a relay"),
        ("192.168.0.0/16", "a private network"),
        ("198.18.0.0/15", "measurements"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "a group of machines"),
        ("240.0.0.0/4", "a reserved network"),
    )
)
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
_REFUSED_6: Final = tuple(
    (ipaddress.IPv6Network(network), why)
    for network, why in (
        ("::1/128", "this machine"),
        ("64:ff9b::/96", "an address in another"),
        ("64:ff9b:1::/48", "an address in another"),
        ("2001::/23", "a special network"),  # Teredo and others
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "an address in another"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "a private network"),
        ("fe80::/10", "the link"),
        ("fec0::/10", "a private network"),
        ("ff00::/8", "a group of machines"),
    )
)


@attrs.frozen(slots=True, kw_only=True)
class Target:
    """Where one request goes. `host` is a name or an address without brackets, `path` what the request line has."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As the Host header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(text: str) -> Target:
    """Raises CallerError("invalid_path") for what is no URL of the web, or has credentials in it."""
    if len(text) > URL_CHARACTERS_MAX:
        _refuse(text, f"is longer than {URL_CHARACTERS_MAX:,} characters")
    if any(character <= " " or character == "\\" or not character.isprintable() for character in text):
        _refuse(text, "has a blank, a backslash or a control character in it")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        _refuse(text, "is not a URL")
    if parts.scheme not in _PORTS:
        _refuse(text, "does not begin with http:// or https://")
    if "@" in parts.netloc:
        _refuse(text, "has a user or a password in it")
    if "[" in parts.netloc and ":" not in host:
        _refuse(text, "has no host that there is")
    if not host or port == 0:
        _refuse(text, "has no host" if not host else "has no port that there is")
    path = quote(parts.path or "/", safe=_TARGET_SAFE)
    if parts.query:
        path += "?" + quote(parts.query, safe=_TARGET_SAFE)
    return Target(scheme=parts.scheme, host=_host(text, host), port=port or _PORTS[parts.scheme], path=path)


def _host(url: str, host: str) -> str:
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address("" if "%" in host else host))
        except ValueError:
            _refuse(url, "has no host that there is")
    try:
        if len(host) <= _HOST_CHARACTERS_MAX and not host.isascii():
            host = host.encode("idna").decode()
    except UnicodeError:
        _refuse(url, "has no host that there is")
    host = host.lower()
    if len(host) > _HOST_CHARACTERS_MAX or not _HOST.fullmatch(host) or ".." in host:
        _refuse(url, "has no host that there is")
    return host


def redirected(current: Target, status: int, location: str | None) -> Target | None:
    """Where a response leads; None: it is no redirect. Raises CallerError("invalid_path") as `parse_url`, and for one
    that gives up encryption."""
    if status not in _REDIRECTS or location is None:
        return None
    try:
        joined = urljoin(str(current), location.strip())
    except ValueError:
        _refuse(location, "is not a URL")
    target = parse_url(quote(joined, safe=_TARGET_SAFE))
    if current.scheme == "https" and target.scheme == "http":
        _refuse(str(target), f"is not encrypted, but {current.authority} leads there")
    return target


def same_site(one: Target, other: Target) -> bool:
    """Whether a redirect may be followed without asking again: what was allowed was this host."""
    return one.host == other.host and (one.port == other.port or (one.port, other.port) == (80, 443))


def refusal(address: str, allowed: Sequence[Network] = ()) -> str | None:
    """Why this resolved address may not be connected to, in words; None: it may."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # with a zone, or none at all
        return "is no address of the internet"
    embedded = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    forms: list[Address] = [parsed] if embedded is None else [parsed, embedded]
    if any(form in network for form in forms for network in allowed):
        return None
    why = _refused(forms[-1])
    return None if why is None else f"belongs to {why}"


def _refused(address: Address) -> str | None:
    if isinstance(address, ipaddress.IPv4Address):
        return next((why for network, why in _REFUSED_4 if address in network), None)
    why = next((why for network, why in _REFUSED_6 if address in network), None)
    return why or (None if address in _PUBLIC_6 and address.scope_id is None else "a reserved network")


def parse_network(text: str) -> Network:
    """An address or a network such as 10.0.0.0/8, as the configuration names it. Raises ValueError."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("expected an address or a network, such as 127.0.0.1 or 10.0.0.0/8") from None


_SHOWN_CHARACTERS: Final = 200


def _refuse(url: str, why: str) -> NoReturn:
    shown = url if len(url) <= _SHOWN_CHARACTERS else f"{url[:_SHOWN_CHARACTERS]}…"
    raise CallerError("invalid_path", f"{shown!r} {why}") from None
