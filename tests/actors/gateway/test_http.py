"""Plain HTTP and upgrades on one port, byte by byte: who gets in, what is answered, what is bounded."""

from __future__ import annotations

import base64
import json

import attrs
import pytest
import trio

from engine.limits import Limits
from tests.actors.gateway.fakes import TOKEN, Served, serve

BEARER = f"Authorization: Bearer {TOKEN}"
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}",
)


@attrs.frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


class Browser:
    """A socket with one request after another on it."""

    def __init__(self, stream: trio.abc.Stream, host: str = "127.0.0.1") -> None:
        self.stream = stream
        self.host = host
        self._buffer = b""

    async def get(self, path: str, *headers: str, method: str = "GET", host: str | None = None) -> Response:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host if host is None else host}", *headers]
        return await self.send("\r\n".join([*lines, "", ""]).encode(), head_only=method == "HEAD")

    async def send(self, data: bytes, *, head_only: bool = False) -> Response:
        await self.stream.send_all(data)
        return await self.response(head_only=head_only)

    async def response(self, *, head_only: bool = False) -> Response:
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        size = 0 if head_only else int(headers.get("content-length", "0"))
        while len(self._buffer) < size:
            await self._more()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Response(int(status.split()[1]), headers, body)

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        assert data, "the daemon closed before it answered"
        self._buffer += data

    async def at_end(self) -> bool:
        return not self._buffer and await self.stream.receive_some() == b""


async def browser(served: Served) -> Browser:
    return Browser(await served.socket(), served.host)


ACCESS = {
    "probe": ("/healthz", [], None, 200),
    "probe by a foreign name": ("/healthz", [], "evil.example", 403),
    "probe by a foreign page": ("/readyz", ["Origin: https://evil.example"], None, 403),
    "ready": ("/readyz", [], None, 200),
    "page without token": ("/", [], None, 401),
    "metrics without token": ("/metrics", [], None, 401),
    "socket without token": ("/ws", [*UPGRADE], None, 401),
    "wrong token": ("/", ["Authorization: Bearer wrong"], None, 401),
    "empty token": ("/", ["Authorization: Bearer "], None, 401),
    "token of another scheme": ("/", [f"Authorization: Basic {TOKEN}"], None, 401),
    "part of the token": ("/", [f"Authorization: Bearer {TOKEN[:-1]}"], None, 401),
    "wrong socket token": ("/ws", ["Authorization: Bearer wrong", *UPGRADE], None, 401),
    "wrong cookie": ("/ws", ["Cookie: greenroom_1=x", *UPGRADE], None, 401),
    "token in the query of a socket": (f"/ws?token={TOKEN}", [*UPGRADE], None, 401),
    "page": ("/", [BEARER], None, 200),
    "metrics": ("/metrics", [BEARER], None, 200),
    "bearer in lower case": ("/", [f"authorization: bearer {TOKEN}"], None, 200),
    "foreign origin": ("/ws", [BEARER, "Origin: https://evil.example", *UPGRADE], None, 403),
    "origin null": ("/ws", [BEARER, "Origin: null", *UPGRADE], None, 403),
    "origin of another port": ("/ws", [BEARER, "Origin: http://127.0.0.1:1", *UPGRADE], None, 403),
    "origin allowed": ("/metrics", [BEARER, "Origin: https://app.example"], None, 200),
    "one origin of two": ("/metrics", [BEARER, "Origin: https://app.example", "Origin: https://evil"], None, 403),
    "rebound name": ("/ws", [BEARER, *UPGRADE], "evil.example", 403),
    "rebound name with its origin": ("/", [BEARER, "Origin: http://evil.example"], "evil.example", 403),
    "host that looks like loopback": ("/", [BEARER], "127.0.0.1.evil.example", 403),
    "host of all addresses": ("/", [BEARER], "0.0.0.0", 403),
    "no host": ("/", [BEARER], "", 403),
    "host with a bad port": ("/", [BEARER], "localhost:x", 403),
    "localhost": ("/", [BEARER], "localhost", 200),
    "localhost of another port": ("/", [BEARER], "LOCALHOST:9", 200),
    "loopback of version 6": ("/", [BEARER], "[::1]:80", 200),
    "allowed host": ("/", [BEARER], "green.example:443", 200),
    "sign in with a wrong token": ("/?token=wrong", [], None, 401),
    "sign in with an empty token": ("/?token=", [BEARER], None, 401),
    "sign in with a token that is no text": ("/?token=%ff%00", [BEARER], None, 401),
    "page with a query": ("/?x=1&%ff", [BEARER], None, 200),
    "unknown": ("/nothing", [BEARER], None, 404),
    "outside": ("/../healthz", [], None, 404),
    "socket without upgrade": ("/ws", [BEARER], None, 426),
    "old socket": ("/ws", [BEARER, UPGRADE[0], UPGRADE[1], "Sec-WebSocket-Version: 8", UPGRADE[3]], None, 426),
    "socket without key": ("/ws", [BEARER, *UPGRADE[:3]], None, 400),
    "socket with a short key": ("/ws", [BEARER, *UPGRADE[:3], "Sec-WebSocket-Key: YWJj"], None, 400),
    "another subprotocol": ("/ws", [BEARER, *UPGRADE, "Sec-WebSocket-Protocol: chat"], None, 400),
    "socket": ("/ws", [BEARER, *UPGRADE, "Sec-WebSocket-Protocol: chat, greenroom.v1"], None, 101),
    "socket without subprotocol": ("/ws", [BEARER, *UPGRADE], None, 101),
}


@pytest.mark.parametrize("name", ACCESS)
async def test_access(name: str) -> None:
    path, headers, host, status = ACCESS[name]
    async with serve(allowed_hosts=("green.example",), allowed_origins=("https://app.example",)) as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get(path, *headers, host=host)
            assert response.status == status
            assert TOKEN not in str(response)
            if status == 101:
                wanted = "greenroom.v1" if "subprotocol" not in name else None
                assert response.headers.get("sec-websocket-protocol") == wanted
            else:
                # The connection is good for the next request, whatever the answer was.
                assert (await page.get("/healthz")).status == 200


async def test_a_browser_signs_in_by_a_cookie() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get(f"/?token={TOKEN}")
            assert (response.status, response.headers["location"]) == (303, "/")
            cookie, *attributes = response.headers["set-cookie"].split("; ")
            assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes)
            shown = await page.get("/", f"Cookie: other=1; {cookie}")
            assert shown.status == 200 and shown.headers["content-type"].startswith("text/html")
            assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
            origin = f"Origin: http://{served.host}"
            assert (await page.get("/ws", f"Cookie: {cookie}", origin, *UPGRADE)).status == 101


async def test_readiness_follows_the_daemon() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            served.ref._gateway.readiness = "starting"
            response = await page.get("/readyz")
            assert (response.status, json.loads(response.body)) == (503, {"status": "starting"})
            served.ref.ready()
            response = await page.get("/readyz")
            assert (response.status, json.loads(response.body)) == (200, {"status": "ready"})
            served.ref.drain()
            response = await page.get("/readyz")
            assert (response.status, json.loads(response.body)) == (503, {"status": "draining"})
            assert (await page.get("/healthz")).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/ws"])
async def test_other_methods_are_refused(method: str, path: str) -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get(path, BEARER, method=method)
            assert response.status == 405 and "GET" in response.headers["allow"]


async def test_head_has_no_body() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get("/healthz", method="HEAD")
            assert (response.status, response.headers["content-length"]) == (200, "3")
            assert (await page.get("/healthz")).body == b"ok\n"


@pytest.mark.parametrize("header", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_bodies_are_refused_and_not_read(header: str) -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get("/healthz", header)
            assert response.status == 413 and response.headers["connection"] == "close"
            await page.stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await page.at_end()


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_request_gets_400(data: bytes) -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            await page.stream.send_all(data)
            if data.startswith(b"\x16"):
                await page.stream.send_all(b"\r\n\r\n")
            assert (await page.response()).status == 400
            assert await page.at_end()
        assert served.ref.gateway_statistics().defects == 0


async def test_a_head_of_the_greatest_size_passes_and_one_byte_more_does_not() -> None:
    limits = Limits(http_head_bytes=1000)
    async with serve(limits) as served:
        for size, status in ((1000, 200), (1001, 431), (5000, 431)):
            head = f"GET /healthz HTTP/1.1\r\nHost: {served.host}\r\nX: ".encode()
            data = head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"
            assert len(data) == size
            page = await browser(served)
            async with page.stream:
                response = await page.send(data)
                assert response.status == status
                if status == 431:
                    assert await page.at_end()
        # Kept-alive requests are counted one by one.
        page = await browser(served)
        async with page.stream:
            for _ in range(5):
                assert (await page.get("/healthz", "X: " + "x" * 700)).status == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            one = f"GET /healthz HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode()
            two = f"GET /nothing HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode()
            await page.stream.send_all((one + two) * 3)
            assert [(await page.response()).status for _ in range(6)] == [200, 404] * 3


async def test_an_upgrade_on_a_kept_alive_connection_with_a_message_behind_it() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            assert (await page.get("/healthz")).status == 200
            head = "\r\n".join([f"GET /ws HTTP/1.1\r\nHost: {served.host}", BEARER, *UPGRADE, "", ""]).encode()
            text = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
            assert len(text) < 126
            masked = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text  # a mask of zeros leaves it as it is
            # In two pieces: the second begins in the middle of the message.
            await page.stream.send_all(head + masked[:10])
            assert (await page.response()).status == 101
            await page.stream.send_all(masked[10:])
            while b"not_initialized" not in page._buffer:
                await page._more()


async def test_one_socket_too_many_is_told_so() -> None:
    async with serve(Limits(connections_max=2)) as served:
        held = [await served.socket() for _ in range(2)]
        while served.ref.gateway_statistics().sockets < 2:
            await trio.testing.wait_all_tasks_blocked()
        page = await browser(served)
        async with page.stream:
            assert (await page.get("/healthz")).status == 503
            assert await page.at_end()
        for stream in held:
            await stream.aclose()
        while served.ref.gateway_statistics().sockets:
            await trio.testing.wait_all_tasks_blocked()
        page = await browser(served)
        async with page.stream:
            assert (await page.get("/healthz")).status == 200
        assert served.ref.gateway_statistics().refused_full == 1


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_a_socket_that_does_not_send_its_request_is_closed(data: bytes) -> None:
    async with serve(Limits(handshake_timeout=0.05)) as served:
        page = await browser(served)
        async with page.stream:
            if data:
                await page.stream.send_all(data)
            assert await page.at_end()


async def test_a_burst_of_sockets_that_break_leaves_nothing() -> None:
    async with serve() as served:
        for data in (b"", b"GET", b"\0" * 100, b"GET /ws HTTP/1.1\r\n"):
            for _ in range(20):
                stream = await served.socket()
                if data:
                    await stream.send_all(data)
                await trio.aclose_forcefully(stream)
        while served.ref.gateway_statistics().sockets:
            await trio.testing.wait_all_tasks_blocked()
        assert served.ref.gateway_statistics().defects == 0
        page = await browser(served)
        async with page.stream:
            assert (await page.get("/healthz")).status == 200
