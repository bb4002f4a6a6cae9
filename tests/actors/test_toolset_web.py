"""The web toolset against real sockets: what it reaches, and peers that lie, stall, flood and lead elsewhere."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from actors._actor import open_actor
from actors._spool import ToolsetSpool, open_spools
from actors.toolset import ToolsetActor
from actors.toolsets.web import WebToolset
from engine import codec
from engine.limits import DEFAULT, Limits
from engine.storage.spool import Spool
from engine.tools.fetch_rules import REDIRECTS_MAX, parse_network
from engine.tools.spec import ToolContext, ToolResult

DEADLINE = 60  # seconds until a hanging test fails
LOOPBACK: list[object] = [parse_network("127.0.0.1")]
CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/")


class Site:
    """A server whose answers are bytes by path; a callable gets the stream and answers itself."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: dict[str, bytes | Callable[[trio.abc.Stream], object]] = {}
        self.requests: list[bytes] = []
        self.closed: list[str] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some()
            if not data:
                return
            head += data
        self.requests.append(head)
        path = head.split()[1].decode()
        answer = self.pages[path]
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if isinstance(answer, bytes):
                await stream.send_all(answer)
            else:
                await answer(stream)  # type: ignore[misc]
            await stream.aclose()
        self.closed.append(path)


def page(body: bytes, kind: str = "text/html", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
async def site(nursery: trio.Nursery) -> Site:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    site = Site(listeners[0].socket.getsockname()[1])
    nursery.start_soon(partial(trio.serve_listeners, site.serve, listeners))
    return site


@contextlib.asynccontextmanager
async def fetching(allowed: list[object], limits: Limits = DEFAULT) -> AsyncIterator[Callable[[str], object]]:
    with trio.fail_after(DEADLINE), tempfile.TemporaryDirectory() as folder:
        async with open_spools(Path(folder), limits) as spools:
            toolset = WebToolset(spools.of_toolset("web"), allowed=allowed, limits=limits)  # type: ignore[arg-type]
            async with open_actor(ToolsetActor(toolset, limits=limits), "web") as ref:

                async def fetch(url: str) -> ToolResult:
                    return await ref.call("fetch", codec.dump({"url": url}), CONTEXT)

                yield fetch


async def fetch(url: str, allowed: list[object] = LOOPBACK, **limits: float) -> ToolResult:
    bounds = Limits(**limits)  # type: ignore[arg-type]
    async with fetching(allowed, bounds) as get:
        return await get(url)  # type: ignore[no-any-return, misc]


async def test_a_page(site: Site) -> None:
    site.pages["/x?y=1"] = page(b"<h1>Hello</h1><a href=/z>more</a>")
    url = f"http://127.0.0.1:{site.port}/x?y=1"
    result = await fetch(url + "#part")
    assert result == ToolResult(text=f"# Hello\n\n[more](http://127.0.0.1:{site.port}/z)", title=url)
    (request,) = site.requests
    assert request.startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{site.port}\r\n".encode() in request.lower()
    assert b"cookie" not in request.lower() and b"authorization" not in request.lower()


async def test_what_is_not_allowed_is_not_connected_to(site: Site) -> None:
    for host in ("127.0.0.1", "localhost", "0x7f.1", "2130706433", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"):
        result = await fetch(f"http://{host}:{site.port}/", [])
        assert result.is_error and "may not be fetched: the address" in result.text, (host, result.text)
    assert site.requests == []


async def test_the_connection_goes_to_the_address_that_was_judged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is judged, and this machine when it is looked up again."""
    site.pages["/"] = page(b"secret")
    lookups: list[str] = []
    real = trio.socket.getaddrinfo

    async def rebinding(host: str | bytes, port: int, *arguments: object, **options: object) -> object:
        if host == "rebind.example":
            lookups.append(str(host))
            address = "192.0.0.5" if len(lookups) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
        return await real(host, port, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.socket, "getaddrinfo", rebinding)
    url = f"http://rebind.example:{site.port}/"
    refused = await fetch(url, [])
    assert "the address 192.0.0.5 belongs to a special network" in refused.text
    assert lookups == ["rebind.example"]
    refused = await fetch(url, [])
    assert "the address 127.0.0.1 belongs to this machine" in refused.text
    assert (await fetch(url)).text == "secret"
    assert len(lookups) == 3 and len(site.requests) == 1  # one lookup a fetch


async def test_of_several_addresses_only_those_that_may_be_reached(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/"] = page(b"here")
    real = trio.socket.getaddrinfo

    async def several(host: str | bytes, port: int, *arguments: object, **options: object) -> object:
        if host == "several.example":
            addresses = ("10.0.0.1", "169.254.169.254", "127.0.0.1")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
        return await real(host, port, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.socket, "getaddrinfo", several)
    assert (await fetch(f"http://several.example:{site.port}/")).text == "here"


@pytest.mark.parametrize("location", ["/there", "there", "http://127.0.0.1:{port}/there"])
async def test_a_redirect_on_the_same_site(site: Site, location: str) -> None:
    site.pages["/"] = page(b"", status="302 Found", Location=location.format(port=site.port))
    site.pages["/there"] = page(b"found")
    result = await fetch(f"http://127.0.0.1:{site.port}/")
    assert (result.text, result.title) == ("found", f"http://127.0.0.1:{site.port}/there")


async def test_a_redirect_to_elsewhere_is_told_and_not_followed(site: Site) -> None:
    site.pages["/"] = page(b"", status="301 Moved", Location=f"http://localhost:{site.port}/there")
    result = await fetch(f"http://127.0.0.1:{site.port}/")
    assert not result.is_error and f"fetch http://localhost:{site.port}/there to get it" in result.text
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("file:///etc/passwd", "does not begin with"),
        ("http://u:p@127.0.0.1/", "a user or a password"),
        ("/", "redirects"),
    ],
)
async def test_redirects_to_nowhere(site: Site, location: str, says: str) -> None:
    site.pages["/"] = page(b"", status="302 Found", Location=location)
    result = await fetch(f"http://127.0.0.1:{site.port}/")
    assert result.is_error and says in result.text
    assert len(site.requests) == (REDIRECTS_MAX + 1 if location == "/" else 1)


@pytest.mark.parametrize(("size", "more"), [(1000, False), (1001, True)])
async def test_a_page_at_the_bound_and_one_byte_past(site: Site, size: int, more: bool) -> None:
    site.pages["/"] = page(b"x" * size, "text/plain")
    result = await fetch(f"http://127.0.0.1:{site.port}/", fetch_bytes=1000)
    assert result.text == "x" * 1000 + ("\n[The first 1,000 bytes are read; there are more.]" if more else "")


async def test_a_page_without_an_end_is_left(site: Site) -> None:
    async def flood(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65_536)

    site.pages["/"] = flood
    result = await fetch(f"http://127.0.0.1:{site.port}/", fetch_bytes=100_000)
    assert "The first 100,000 bytes are read; there are more." in result.text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "did not answer as HTTP does"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "did not answer as HTTP does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "did not answer as HTTP does"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "did not answer as HTTP does"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", "did not answer as HTTP does"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "did not answer as HTTP does"),
        (page(b"\x1f\x8b", Content_Encoding="gzip"), "compresses its answer"),
        (page(b"<h1>gone</h1>", status="404 Not Found"), "[HTTP status 404]\n# gone"),
        (page(b"\0\1\2", "application/zip"), "no text: application/zip, 3 bytes"),
        (page(b"", status="302 Found"), "[HTTP status 302]"),
    ],
)  # fmt: skip
async def test_answers_that_are_none(site: Site, answer: bytes, says: str) -> None:
    site.pages["/"] = answer
    result = await fetch(f"http://127.0.0.1:{site.port}/")
    assert result.is_error and says in result.text


async def test_a_chunked_answer_after_informational_ones(site: Site) -> None:
    site.pages["/"] = (
        b"HTTP/1.1 103 Early Hints\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
        b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    )
    assert (await fetch(f"http://127.0.0.1:{site.port}/")).text == "abcdef"


async def test_a_peer_that_never_ends_its_answer(site: Site) -> None:
    async def stall(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        await stream.receive_some()

    site.pages["/"] = stall
    result = await fetch(f"http://127.0.0.1:{site.port}/", fetch_timeout=0.2)
    assert result.is_error and "no answer within 0.2 s" in result.text
    assert site.closed == ["/"] or not site.closed  # the connection is closed, whoever notices first


async def test_cancelled_in_the_middle_the_connection_is_closed(site: Site) -> None:
    reading, left = trio.Event(), trio.Event()

    async def stall(stream: trio.abc.Stream) -> None:
        reading.set()
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        left.set()

    site.pages["/"] = stall
    async with fetching(LOOPBACK) as get, trio.open_nursery() as nursery:
        nursery.start_soon(get, f"http://127.0.0.1:{site.port}/")  # type: ignore[arg-type]
        await reading.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(DEADLINE):
        await left.wait()


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = await fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert result.is_error and "cannot be reached: connection refused" in result.text


async def test_a_name_that_there_is_not() -> None:
    result = await fetch("http://name.invalid/")
    assert result.is_error and "there is no host of the name name.invalid" in result.text


@pytest.mark.parametrize("trusted", [True, False])
async def test_https(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    listeners = await trio.open_ssl_over_tcp_listeners(0, server, host="127.0.0.1")
    site = Site(listeners[0].transport_listener.socket.getsockname()[1])
    site.pages["/"] = page(b"secure")

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await site.serve(stream)

    nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
    context = ssl.create_default_context()
    if trusted:
        authority.configure_trust(context)
    monkeypatch.setattr(ssl, "create_default_context", lambda: context)
    result = await fetch(f"https://localhost:{site.port}/")
    assert result.is_error is not trusted
    assert result.text == "secure" if trusted else "is not trusted: " in result.text
    if trusted:  # the certificate is of the name, not of the address
        assert "is not trusted: " in (await fetch(f"https://127.0.0.1:{site.port}/")).text


async def test_its_tools() -> None:
    spool = ToolsetSpool(Spool(Path("/nowhere")).directory("web"), DEFAULT, trio.CapacityLimiter(1))
    assert [spec.name for spec in await WebToolset(spool).open()] == ["fetch"]
    assert await WebToolset(spool, []).open() == []
