"""The client against a server that the test plays: requests, errors, ends."""

from __future__ import annotations

import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from trio_websocket import WebSocketConnection, WebSocketRequest, wrap_server_stream

from actors.client import (
    AccessDenied,
    ConnectionLost,
    NoDaemon,
    RemoteError,
    Untrusted,
    connect,
    dial,
    link,
)
from tests.actors.client.fake import HELLO, TOKEN, FakeDaemon, fake_daemon, serving

LIMIT = 60.0


async def test_it_finds_the_daemon_by_its_files_and_shows_its_token(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon:
            daemon.announce(tmp_path)
            async with connect(data_dir=tmp_path) as client:
                assert client.hello["default_model"] == "demo"
            assert daemon.headers[0]["authorization"] == f"Bearer {TOKEN}"


async def test_it_takes_the_address_as_serve_prints_it() -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(f"http://127.0.0.1:{daemon.port}", token=TOKEN) as client:
            assert client.hello["server"]["name"] == "fake"


async def test_replies_find_their_requests_in_any_order() -> None:
    async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client, trio.open_nursery() as nursery:
        results: dict[str, Any] = {}

        async def ask(run_id: str) -> None:
            results[run_id] = await client.request("run.get", {"run_id": run_id})

        with trio.fail_after(LIMIT):
            nursery.start_soon(ask, "run_1")
            one = await daemon.asked("run.get")
            nursery.start_soon(ask, "run_2")
            two = await daemon.asked("run.get")
            await two.reply(run=two.params["run_id"])
            await one.reply(run=one.params["run_id"])
        await trio.testing.wait_all_tasks_blocked()
        while len(results) < 2:
            await trio.lowlevel.checkpoint()
        assert results == {"run_1": {"run": "run_1"}, "run_2": {"run": "run_2"}}


async def test_an_error_reply_is_raised_with_its_code_and_data() -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client:
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    await (await daemon.asked("run.start")).refuse("session_busy", "it works", run_id="run_7")

                nursery.start_soon(serve)
                with pytest.raises(RemoteError) as refused:
                    await client.request("run.start", {"session_id": "ses_1", "text": "hi"})
            assert (refused.value.code, refused.value.message) == ("session_busy", "it works")
            assert refused.value.data["run_id"] == "run_7"
            assert str(refused.value) == "it works [session_busy]"


async def test_it_gives_up_after_the_time_to_reconnect(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    with trio.fail_after(LIMIT):
        async with serving(daemon) as cut:
            daemon.announce(tmp_path)
            async with connect(data_dir=tmp_path, reconnect=0.5) as client:
                (tmp_path / "daemon.json").unlink()
                cut()
                with pytest.raises(NoDaemon, match="no daemon runs"):
                    while True:
                        with contextlib.suppress(ConnectionLost):
                            await client.request("ping")


@pytest.mark.parametrize("content", [None, "", "{", '{"url": 1}'])
async def test_no_daemon_is_said_so(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "daemon.json").write_text(content)
    with pytest.raises(NoDaemon, match=str(tmp_path)):
        async with connect(data_dir=tmp_path):
            raise AssertionError("there is none")


async def test_a_port_where_nobody_listens_is_no_daemon(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    async with serving(daemon):
        daemon.announce(tmp_path)
    with trio.fail_after(LIMIT), pytest.raises(NoDaemon, match="nobody serves"):
        async with connect(data_dir=tmp_path):
            raise AssertionError("there is none")


@pytest.mark.parametrize("url", ["", "localhost:1", "ftp://h", "http://", "http://h:99999", "http://h:x", "ws://[::1"])
async def test_what_is_no_address_is_said_so(url: str) -> None:
    with pytest.raises(NoDaemon, match="is no address of a daemon"):
        async with connect(url, token=TOKEN):
            raise AssertionError("there is none")


async def test_a_certificate_of_a_stranger_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    daemon = FakeDaemon()
    with trio.fail_after(LIMIT):
        async with serving(daemon, context):
            url = f"https://127.0.0.1:{daemon.port}"
            with pytest.raises(Untrusted, match="SSL_CERT_FILE"):
                async with connect(url, token=TOKEN):
                    raise AssertionError("it is not trusted")
            authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            async with connect(url, token=TOKEN) as client:
                assert client.hello["server"]["name"] == "fake"


async def test_a_refused_token_is_said_so() -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon:
            daemon.accepts = False
            with pytest.raises(AccessDenied) as denied:
                async with connect(daemon.url, token="wrong"):
                    raise AssertionError("it was refused")
            assert denied.value.status == 401


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\x00\xff garbage\r\n\r\n"])
async def test_something_else_at_the_port_is_no_daemon(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises((NoDaemon, AccessDenied)):
                async with connect(f"ws://127.0.0.1:{port}", token=TOKEN):
                    raise AssertionError("there is none")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("message", ["{", "[]", "3", '{"id": []}', '{"method": "run.events", "params": 3}', '"x"'])
async def test_what_is_not_the_protocol_ends_the_connection(message: str) -> None:
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, trio.open_nursery() as nursery:

            async def serve() -> None:
                await (await daemon.asked("ping")).socket.send_message(message)

            nursery.start_soon(serve)
            with pytest.raises(ConnectionLost, match="not of the greenroom protocol"):
                async with connect(daemon.url, token=TOKEN) as client:
                    await client.request("ping")


async def test_a_peer_that_is_gone_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def say_nothing(socket: WebSocketConnection, ping: object) -> None:
        pass

    monkeypatch.setattr(WebSocketConnection, "_handle_ping_event", say_nothing)
    monkeypatch.setattr(link, "PING_INTERVAL", 0.01)
    monkeypatch.setattr(link, "PONG_SECONDS", 0.05)
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client:
            with pytest.raises(ConnectionLost):
                await client.request("ping")


async def test_a_peer_that_answers_pings_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = 0
    enough = trio.Event()
    answer = WebSocketConnection._handle_ping_event

    async def count(socket: WebSocketConnection, ping: Any) -> None:
        nonlocal pings
        pings += 1
        if pings == 3:
            enough.set()
        await answer(socket, ping)

    monkeypatch.setattr(WebSocketConnection, "_handle_ping_event", count)
    monkeypatch.setattr(link, "PING_INTERVAL", 0.001)
    with trio.fail_after(LIMIT):
        async with fake_daemon() as daemon, connect(daemon.url, token=TOKEN) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "ping")
            asked = await daemon.asked("ping")
            await enough.wait()
            await asked.reply()


async def test_a_peer_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is being sent cannot be cancelled half; it has a deadline."""
    monkeypatch.setattr(dial, "SEND_SECONDS", 0.2)

    async def deaf(request: WebSocketRequest) -> None:
        socket = await request.accept(subprotocol="greenroom.v1")
        hello = json.loads(await socket.get_message())
        await socket.send_message(json.dumps({"id": hello["id"], "result": HELLO}))
        await trio.sleep_forever()

    daemon = FakeDaemon()
    daemon.handle = deaf  # type: ignore[method-assign]
    with trio.fail_after(LIMIT):
        async with serving(daemon), connect(daemon.url, token=TOKEN) as client:

            async def ask() -> None:
                with pytest.raises(ConnectionLost):
                    await client.request("run.start", {"text": "x" * 900_000})

            async with trio.open_nursery() as nursery:
                for _ in range(40):  # more than the buffers of both sockets
                    nursery.start_soon(ask)


async def test_an_exception_of_the_body_comes_out_as_it_is() -> None:
    async with fake_daemon() as daemon:
        with trio.fail_after(LIMIT), pytest.raises(KeyError):
            async with connect(daemon.url, token=TOKEN):
                raise KeyError("mine")


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            socket = await request.accept(subprotocol="greenroom.v1")
            frame = json.loads(await socket.get_message())
            await socket.send_message(json.dumps({"id": frame["id"], "result": {"server": "unix"}}))
            await trio.sleep_forever()

    path = tmp_path / "socket"
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen(1)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            async with connect(f"unix:{path}", token=TOKEN) as client:
                assert client.hello["server"] == "unix"
            nursery.cancel_scope.cancel()
