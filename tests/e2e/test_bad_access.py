"""Who does not get in, and HTTP that no good client sends, at the port of a daemon process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
import trio

from tests.e2e.raw import CLOSE, UPGRADE, Raw, address_of, dial, open_socket, token_of
from tests.e2e.wire import DaemonProcess, daemon

LIMIT = 120.0  # absolute, for a hung test
EVIL: Final = "evil.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("bad-access") / "data") as process:
        yield process
        assert process.process.poll() is None, process.errors()


# name -> (path, headers, Host, status). TOKEN, PORT and HOST stand for the daemon's own.
ACCESS: Final[dict[str, tuple[str, tuple[str, ...], str | None, int]]] = {
    "nothing at all": ("/ws", UPGRADE, None, 401),
    "an empty token": ("/ws", ("Authorization: Bearer ", *UPGRADE), None, 401),
    "a wrong token": ("/ws", ("Authorization: Bearer x", *UPGRADE), None, 401),
    "a token and more": ("/ws", ("Authorization: Bearer TOKENx", *UPGRADE), None, 401),
    "the head of a token": ("/ws", ("Authorization: Bearer TOKE", *UPGRADE), None, 401),
    "a token that is no ASCII": ("/ws", ("Authorization: Bearer é😀", *UPGRADE), None, 401),
    "a token of 10,000": ("/ws", ("Authorization: Bearer " + "x" * 10_000, *UPGRADE), None, 401),
    "another scheme": ("/ws", ("Authorization: Basic TOKEN", *UPGRADE), None, 401),
    "no scheme": ("/ws", ("Authorization: TOKEN", *UPGRADE), None, 401),
    "a token in the query of a socket": ("/ws?token=TOKEN", UPGRADE, None, 401),
    "a token in the query of figures": ("/metrics?token=TOKEN", (), None, 401),
    "a token in a cookie of another name": ("/ws", ("Cookie: greenroom=TOKEN", *UPGRADE), None, 401),
    "a wrong token in the cookie": ("/ws", ("Cookie: greenroom_PORT=x", *UPGRADE), None, 401),
    "an empty cookie": ("/ws", ("Cookie: greenroom_PORT=", *UPGRADE), None, 401),
    "a token in the cookie": ("/ws", ("Cookie: a=b; greenroom_PORT=TOKEN", *UPGRADE), None, 101),
    "the page with a wrong token": ("/?token=x", (), None, 401),
    "the page with an empty token": ("/?token=", (), None, 401),
    "the page with the token": ("/?token=TOKEN", (), None, 303),
    "a foreign origin": ("/ws", ("Authorization: Bearer TOKEN", f"Origin: https://{EVIL}", *UPGRADE), None, 403),
    "a foreign origin with the cookie": (
        "/ws",
        ("Cookie: greenroom_PORT=TOKEN", f"Origin: http://{EVIL}", *UPGRADE),
        None,
        403,
    ),
    "an origin of null": ("/ws", ("Authorization: Bearer TOKEN", "Origin: null", *UPGRADE), None, 403),
    "an empty origin": ("/ws", ("Authorization: Bearer TOKEN", "Origin: ", *UPGRADE), None, 403),
    "an origin of another port": ("/", ("Authorization: Bearer TOKEN", "Origin: http://127.0.0.1:1"), None, 403),
    "our own origin over TLS": ("/", ("Authorization: Bearer TOKEN", "Origin: https://HOST"), "HOST", 403),
    "our own origin": ("/ws", ("Authorization: Bearer TOKEN", "Origin: http://HOST", *UPGRADE), "HOST", 101),
    "a rebound name": ("/ws", ("Authorization: Bearer TOKEN", *UPGRADE), EVIL, 403),
    "a rebound name with its origin": ("/ws", ("Authorization: Bearer TOKEN", f"Origin: http://{EVIL}"), EVIL, 403),
    "a rebound name and nothing else": ("/ws", UPGRADE, EVIL, 403),
    "signing in by a rebound name": ("/?token=TOKEN", (), EVIL, 403),
    "a name that begins as ours": ("/", ("Authorization: Bearer TOKEN",), "127.0.0.1.evil.example", 403),
    "a name that ends as ours": ("/", ("Authorization: Bearer TOKEN",), "evil.localhost", 403),
    "a user before the host": ("/", ("Authorization: Bearer TOKEN",), "127.0.0.1@evil.example", 403),
    "all addresses": ("/", ("Authorization: Bearer TOKEN",), "0.0.0.0:80", 403),
    "an empty host": ("/", ("Authorization: Bearer TOKEN",), "", 403),
    "no token and a foreign origin": ("/ws", (f"Origin: https://{EVIL}", *UPGRADE), None, 403),
    "no token for figures": ("/metrics", (), None, 401),
    "no token for the page": ("/", (), None, 401),
    "the health for everybody here": ("/healthz", (), None, 200),
    "the health for a foreign page": ("/healthz", (f"Origin: https://{EVIL}",), EVIL, 403),
    "a body": ("/healthz", ("Content-Length: 5",), None, 413),
    "a body in chunks": ("/healthz", ("Transfer-Encoding: chunked",), None, 413),
    "nothing there": ("/../../etc/passwd", ("Authorization: Bearer TOKEN",), None, 404),
    "a NUL in hexadecimal": ("/%00", ("Authorization: Bearer TOKEN",), None, 404),
    "a socket elsewhere": ("/ws/", ("Authorization: Bearer TOKEN", *UPGRADE), None, 404),
    "no upgrade": ("/ws", ("Authorization: Bearer TOKEN",), None, 426),
    "an upgrade to HTTP/2": ("/ws", ("Authorization: Bearer TOKEN", "Upgrade: h2c", "Connection: Upgrade"), None, 426),
    "another subprotocol": (
        "/ws",
        ("Authorization: Bearer TOKEN", "Sec-WebSocket-Protocol: greenroom.v2", *UPGRADE),
        None,
        400,
    ),
}


@pytest.mark.parametrize("name", ACCESS)
async def test_who_gets_in(server: DaemonProcess, name: str) -> None:
    path, headers, host, status = ACCESS[name]
    where, port = address_of(server.folder)
    own = {"TOKEN": token_of(server.folder), "PORT": str(port), "HOST": f"{where}:{port}"}

    def filled(text: str) -> str:
        for key, value in own.items():
            text = text.replace(key, value)
        return text

    with trio.fail_after(LIMIT):
        async with dial(server.folder) as raw:
            host = None if host is None else filled(host)
            found, body = await raw.http(filled(path), *map(filled, headers), host=host)
            assert found == status, body
            assert own["TOKEN"] not in body
        async with dial(server.folder) as raw:
            assert (await raw.http("/healthz"))[0] == 200


# What is no HTTP that is served here -> the status, None if the socket is just closed.
GARBAGE: Final[dict[str, tuple[bytes, int | None]]] = {
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
    "lines of nothing": (b"\r\n" * 9000, 400),
    "bytes": (bytes(range(256)), 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403),
    "an endless line": (b"GET /" + b"a" * 20_000, 431),
    "endless headers": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000, 431),
    "a header without a name": (b"GET / HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n", 400),
    "a header folded": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\na: b\r\n\tc\r\n\r\n", 200),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two lengths": (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a length below 0": (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    "a length beyond all": (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "another method": (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "a proxy's method": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a proxy's target": (b"GET http://example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "the end of the peer": (b"", None),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_request_is_refused_and_closed(server: DaemonProcess, name: str) -> None:
    data, status = GARBAGE[name]
    with trio.fail_after(LIMIT):
        async with dial(server.folder) as raw:
            await raw.stream.send_all(data)
            if not data:
                await raw.stream.send_eof()
            if status is not None:
                assert (await raw.answer())[0] == status
            await raw.stream.send_eof()
            await raw.ended()
        async with dial(server.folder) as raw:
            assert (await raw.http("/healthz"))[0] == 200


async def test_requests_behind_one_another_are_answered_in_order(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with dial(server.folder) as raw:
            one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            other = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await raw.stream.send_all((one + other) * 50)
            assert [(await raw.answer())[0] for _ in range(100)] == [200, 404] * 50


async def test_compression_is_not_agreed_to(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        for offer in (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover, permessage-bzip2",
            "x" * 4000,
            ",;=",
        ):
            async with dial(server.folder) as raw:
                bearer = f"Authorization: Bearer {token_of(server.folder)}"
                head = await _head(raw, "/ws", bearer, *UPGRADE, f"Sec-WebSocket-Extensions: {offer}")
                if head.startswith("HTTP/1.1 101"):
                    assert "sec-websocket-extensions" not in head.lower()
                    await raw.initialize()
                    # A frame that says it is compressed has no meaning here.
                    await raw.send(1, b"\x00", reserved=4)
                    assert await raw.closed() == 1002
                    await raw.ended()
                else:
                    assert head.startswith("HTTP/1.1 400"), head
        async with open_socket(server.folder) as raw:
            await raw.result("ping")


async def _head(raw: Raw, path: str, *headers: str) -> str:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    await raw.stream.send_all("\r\n".join(lines).encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += await raw.stream.receive_some()
    return data.decode()


async def test_a_token_is_not_in_the_log(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            await raw.send(CLOSE, b"\x03\xe8")
            await raw.ended()
        assert token_of(server.folder) not in server.errors()
