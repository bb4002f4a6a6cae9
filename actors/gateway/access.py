"""Who may use the port: the bearer token, and the Host and Origin that keep foreign web pages out.

A page of a foreign site can make a browser send requests here, also from a name that it has rebound to 127.0.0.1;
it cannot choose `Host` and `Origin`. So both have to be known ones before the token is looked at.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, Literal

import attrs

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case, as h11 gives them
Verdict = Literal["granted", "bad host", "bad origin", "bad token"]

_PORT: Final = re.compile(r"(?::[0-9]{0,5})?", re.ASCII)


def values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header."""
    return [value for key, value in headers if key == name]


def host_name(host: str) -> str | None:
    """The name of a Host header without port, in lower case; None if it is none."""
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        name += bracket
    elif host.count(":") > 1:
        # An IPv6 address whose brackets the client forgot (trio-websocket does). No name has a colon.
        name, colon, port = host.rpartition(":")
        name, port = f"[{name}]", colon + port
    else:
        name, colon, port = host.partition(":")
        port = colon + port
    return name.lower() if name and _PORT.fullmatch(port) else None


def is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name[1:-1] if name.startswith("[") else name).is_loopback
    except ValueError:
        return False


@attrs.frozen(slots=True, kw_only=True)
class Access:
    """`hosts` and `origins` are allowed beside loopback and the host served, in lower case. `cookie` is its name."""

    token: str
    secure: bool  # served over TLS
    cookie: str
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def judge_place(self, headers: Headers) -> Verdict:
        """Whether the request comes from a place that may talk to this port at all; says nothing of the token."""
        hosts = values(headers, b"host")
        host = hosts[0].decode("latin-1").lower() if len(hosts) == 1 else ""
        name = host_name(host)
        if name is None or not (is_loopback(name) or name in self.hosts):
            return "bad host"
        scheme = "https" if self.secure else "http"
        for value in values(headers, b"origin"):
            origin = value.decode("latin-1").lower()
            if origin != f"{scheme}://{host}" and origin not in self.origins:
                return "bad origin"
        return "granted"

    def judge(self, headers: Headers) -> Verdict:
        """Place and token."""
        place = self.judge_place(headers)
        if place != "granted":
            return place
        return "granted" if any(self.is_token(given) for given in self._given(headers)) else "bad token"

    def is_token(self, given: bytes) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(given, self.token.encode())

    def set_cookie(self) -> bytes:
        """The Set-Cookie header that makes a browser's further requests granted."""
        attributes = "; HttpOnly; SameSite=Strict; Path=/" + ("; Secure" if self.secure else "")
        return f"{self.cookie}={self.token}{attributes}".encode()

    def _given(self, headers: Headers) -> list[bytes]:
        given: list[bytes] = []
        for value in values(headers, b"authorization"):
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                given.append(token.strip())
        for value in values(headers, b"cookie"):
            for pair in value.split(b";"):
                name, _, token = pair.strip().partition(b"=")
                if name == self.cookie.encode():
                    given.append(token)
        return given
