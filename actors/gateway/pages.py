"""The page at `/`: its files, read once, and how they are answered.

The files are those of the folder `page` beside this one, as the package was installed. They are read at the first
request for one, all of them, and stay in memory: some 100 KiB, PAGE_BYTES at the most. A request chooses from the table
of their names, so that no path of a request ever touches the disk.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import resources
from typing import Final

import attrs

from actors.gateway.access import Headers, host_name, values

PAGE_BYTES: Final = 1 << 20  # of all files: what is in the package, and a test holds it against this
INDEX: Final = "index.html"
SIGN_IN: Final = "signin.html"
KINDS: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".ico": b"image/x-icon",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
    ".webmanifest": b"application/manifest+json",
}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z]+)", re.ASCII)

# Each file is asked for again and answered with 304 while it is the same: a new daemon's page is never mixed with an
# old one's scripts. No other site may frame it, open it and keep a hand on it, or take its files.
_GUARDS: Final = (
    (b"cache-control", b"no-cache"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_NOWHERE: Final = b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
# Scripts, styles and pictures are files of the daemon; `blob:` are pictures of a transcript, which come over the
# WebSocket. HTML gets into the page through one policy, which is for what `markdown.render` has made.
_POLICY: Final = _NOWHERE + (
    b"form-action 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; manifest-src 'self'; "
    b"require-trusted-types-for 'script'; trusted-types greenroom; connect-src 'self'"
)
_SIGN_IN_POLICY: Final = _NOWHERE + b"form-action 'self'"
_SAYS_WRONG: Final = b'<p role="alert"'


@attrs.frozen(slots=True)
class File:
    body: bytes
    kind: bytes
    tag: bytes  # its ETag

    @classmethod
    def of(cls, name: str, body: bytes) -> File:
        return cls(body, KINDS[_ending(name) or ""], b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())

    def is_known(self, headers: Headers) -> bool:
        """Whether the request says that it has this one (If-None-Match)."""
        given = [tag.strip() for value in values(headers, b"if-none-match") for tag in value.split(b",")]
        return any(tag.removeprefix(b"W/") in (self.tag, b"*") for tag in given)


@functools.cache
def files() -> dict[str, File]:
    """By the name in the address, without its slash."""
    folder = resources.files("actors.gateway").joinpath("page")
    return {item.name: File.of(item.name, item.read_bytes()) for item in folder.iterdir() if _ending(item.name)}


def find(path: bytes) -> File | None:
    """The file at this path of an address."""
    name = path[1:].decode("latin-1") or INDEX
    return None if path == b"/" + INDEX.encode() or name == SIGN_IN else files().get(name)


def guards(file: File, headers: Headers, *, secure: bool) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of its answer. The request's Host has been found good."""
    return (*_GUARDS, (b"etag", file.tag), (b"content-security-policy", _POLICY + _socket(headers, secure=secure)))


def sign_in(*, wrong: bool = False) -> tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]:
    """What a browser without the token is shown, its kind, and the headers of that. `wrong`: it has shown another."""
    guards = ((name, b"no-store" if name == b"cache-control" else value) for name, value in _GUARDS)
    file = files()[SIGN_IN]
    body = file.body.replace(_SAYS_WRONG + b" hidden>", _SAYS_WRONG + b">") if wrong else file.body
    return body, file.kind, (*guards, (b"content-security-policy", _SIGN_IN_POLICY))


def _socket(headers: Headers, *, secure: bool) -> bytes:
    """The WebSocket's address for browsers to whom 'self' is HTTP alone. They know no addresses of IPv6 there."""
    host = b"".join(values(headers, b"host"))
    name = host_name(host.decode("latin-1"))
    if name is None or name.startswith("["):
        return b""
    return (b" wss://" if secure else b" ws://") + host


def _ending(name: str) -> str | None:
    """The ending of a file that is served; None for any other."""
    found = _NAME.fullmatch(name)
    return found[1] if found and found[1] in KINDS else None
