"""What the port answers to an HTTP request: decided synchronously from its head. The only I/O is that the files of
the page are read at the first request for one."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Awaitable, Callable
from typing import Final, Literal
from urllib.parse import parse_qs

import attrs
import h11
import orjson

from actors.gateway import pages
from actors.gateway.access import Access, Headers, values
from engine.wire.methods import SUBPROTOCOL

Readiness = Literal["starting", "ready", "draining"]

_TEXT: Final = b"text/plain; charset=utf-8"
_WEBSOCKET_VERSION: Final = b"13"
_KEY_BYTES: Final = 16  # of Sec-WebSocket-Key, by RFC 6455
# Nothing at this port may be framed, sniffed, kept by caches or told to other sites.
_GUARDS: Final = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@attrs.frozen(slots=True, kw_only=True)
class Answer:
    """A whole response. `close`: the connection ends behind it."""

    status: int
    body: bytes = b""
    kind: bytes = _TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False


@attrs.frozen(slots=True)
class Later:
    """An answer that takes a moment to make."""

    make: Callable[[], Awaitable[Answer]]


@attrs.frozen(slots=True)
class Upgrade:
    """The request is to become a WebSocket."""

    subprotocol: str | None


@attrs.frozen(slots=True, kw_only=True)
class Site:
    """What the answers depend on."""

    access: Access
    readiness: Callable[[], Readiness]
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]  # from the Accept header to text and content type


def refuse(status: int, why: str, *headers: tuple[bytes, bytes], close: bool = False) -> Answer:
    return Answer(status=status, body=why.encode() + b"\n", headers=(*headers, *_GUARDS), close=close)


def decide(request: h11.Request, site: Site) -> Answer | Later | Upgrade:
    """The answer to a request, or that it is an upgrade."""
    path, _, query = request.target.partition(b"?")
    answer = _route(request, path, query, list(request.headers), site)
    # A body is never read: behind it there is no next request on this connection.
    return attrs.evolve(answer, close=True) if isinstance(answer, Answer) and has_body(request) else answer


def has_body(request: h11.Request) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in request.headers
    )


def _route(request: h11.Request, path: bytes, query: bytes, headers: Headers, site: Site) -> Answer | Later | Upgrade:
    probe = path in (b"/healthz", b"/readyz")
    file = None if probe or path in (b"/metrics", b"/ws") else pages.find(path)
    verdict = site.access.judge_place(headers)
    if verdict == "bad host":
        return refuse(403, "this Host is not served: use a loopback name or add it to allowed_hosts")
    if verdict == "bad origin":
        return refuse(403, "this Origin may not use the daemon: add it to allowed_origins if it should")
    if not probe and file is None and path not in (b"/metrics", b"/ws"):
        return refuse(404, "there is nothing here")
    if request.method not in (b"GET", b"HEAD") or (path == b"/ws" and request.method == b"HEAD"):
        return refuse(405, "GET only", (b"allow", b"GET" if path == b"/ws" else b"GET, HEAD"))
    if has_body(request):
        return refuse(413, "no request here has a body")
    if path == b"/healthz":
        return Answer(status=200, body=b"ok\n", headers=_GUARDS)
    if path == b"/readyz":
        return _ready(site.readiness())
    token = _token(query) if path == b"/" else None
    if token is not None and site.access.is_token(token):
        return refuse(303, "signed in", (b"location", b"/"), (b"set-cookie", site.access.set_cookie()))
    if token is not None or site.access.judge(headers) != "granted":
        return _no_token(path, headers, given=token is not None)
    if path == b"/metrics":
        return Later(functools.partial(_metrics, b", ".join(values(headers, b"accept")).decode("latin-1"), site))
    return _upgrade(request, headers) if file is None else _file(file, headers, site.access)


def _ready(readiness: Readiness) -> Answer:
    body = orjson.dumps({"status": readiness})
    status = 200 if readiness == "ready" else 503
    return Answer(status=status, body=body, kind=b"application/json", headers=_GUARDS)


async def _metrics(accept: str, site: Site) -> Answer:
    body, kind = await site.metrics(accept)
    return Answer(status=200, body=body, kind=kind.encode(), headers=_GUARDS)


def _token(query: bytes) -> bytes | None:
    """The token that a query has; None if there is none in it."""
    try:
        given = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=8).get("token")
    except ValueError:
        return None
    # What is pasted into the form often brings a space or an end of line.
    return given[0].strip().encode("utf-8", "replace") if given else None


def _no_token(path: bytes, headers: Headers, *, given: bool) -> Answer:
    """401: a page for people, a line for programs. `given`: a token was in the address, and a wrong one."""
    challenge = (b"www-authenticate", b"Bearer")
    if path == b"/" and any(b"text/html" in value for value in values(headers, b"accept")):
        body, kind, guards = pages.sign_in(wrong=given)
        return Answer(status=401, body=body, kind=kind, headers=(challenge, *guards))
    if given:
        return refuse(401, "the token is not the daemon's", challenge)
    return refuse(
        401,
        "a token is needed: `Authorization: Bearer …`, or open /?token=… once; it is in the data directory",
        challenge,
    )


def _file(file: pages.File, headers: Headers, access: Access) -> Answer:
    guards = pages.guards(file, headers, secure=access.secure)
    if file.is_known(headers):
        return Answer(status=304, kind=file.kind, headers=guards)
    return Answer(status=200, body=file.body, kind=file.kind, headers=guards)


def _upgrade(request: h11.Request, headers: Headers) -> Answer | Upgrade:
    """What RFC 6455 asks of the request is checked here, so that the library behind never refuses one."""
    if b"websocket" not in _tokens(headers, b"upgrade") or b"upgrade" not in _tokens(headers, b"connection"):
        return refuse(426, "a WebSocket is served here", (b"upgrade", b"websocket"))
    if values(headers, b"sec-websocket-version") != [_WEBSOCKET_VERSION] or request.http_version != b"1.1":
        return refuse(
            426,
            "WebSocket version 13 over HTTP/1.1 is served here",
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", _WEBSOCKET_VERSION),
        )
    if not _is_key(values(headers, b"sec-websocket-key")):
        return refuse(400, "Sec-WebSocket-Key has to be 16 bytes in base64")
    offered = _tokens(headers, b"sec-websocket-protocol")
    if offered and SUBPROTOCOL.encode() not in offered:
        return refuse(400, f"the subprotocol served here is {SUBPROTOCOL}")
    return Upgrade(SUBPROTOCOL if offered else None)


def _is_key(keys: list[bytes]) -> bool:
    try:
        return len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The comma-separated values of a header, in lower case."""
    return [token.strip().lower() for value in values(headers, name) for token in value.split(b",") if token.strip()]
