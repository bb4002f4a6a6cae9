"""Where the port is: TCP on both versions, TLS, Unix-domain sockets; and that a start that cannot be is an error."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
from pathlib import Path

import pytest
import trio
import trustme
from trio_websocket import open_websocket_url, wrap_client_stream

from engine.config import Tls
from engine.config_values import Listen
from engine.limits import Limits
from tests.actors.gateway.fakes import TOKEN, Wire, serve
from tests.actors.gateway.test_http import BEARER, Browser, browser


async def test_port_0_picks_a_free_one_and_tells_it() -> None:
    async with serve() as served:
        assert served.ref.url == f"http://127.0.0.1:{served.port}"
        assert served.ref.ws_url == f"ws://127.0.0.1:{served.port}/ws"
        page = await browser(served)
        async with page.stream:
            assert (await page.get("/healthz")).status == 200


async def test_all_addresses_are_told_as_loopback() -> None:
    async with serve(listen=Listen(host="0.0.0.0", port=0)) as served:
        assert served.ref.url == f"http://127.0.0.1:{served.port}"
        page = await browser(served)
        async with page.stream:
            assert (await page.get("/", BEARER, host="0.0.0.0")).status == 403
            assert (await page.get("/", BEARER)).status == 200


async def test_a_name_is_one_port() -> None:
    async with serve(listen=Listen(host="localhost", port=0)) as served:
        assert served.ref.url == f"http://localhost:{served.port}"
        page = Browser(await trio.open_tcp_stream("localhost", served.port), f"localhost:{served.port}")
        async with page.stream:
            assert (await page.get("/", BEARER)).status == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_version_6() -> None:
    async with serve(listen=Listen(host="::1", port=0)) as served:
        assert served.ref.url == f"http://[::1]:{served.port}"
        async with served.connect() as wire:
            assert await wire.request("ping") == {}
        page = Browser(await trio.open_tcp_stream("::1", served.port), f"[::1]:{served.port}")
        async with page.stream:
            assert (await page.get("/", BEARER, f"Origin: http://[::1]:{served.port}")).status == 200


async def test_a_port_in_use_is_an_error() -> None:
    async with serve() as served:
        with pytest.raises(OSError):
            async with serve(listen=Listen(port=served.port)):
                pass


async def test_nothing_listens_when_it_has_ended() -> None:
    async with serve() as served:
        port = served.port
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", port)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def files(authority: trustme.CA, folder: Path) -> Tls:
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    return Tls(cert_file=str(folder / "cert.pem"), key_file=str(folder / "key.pem"))


async def test_tls(authority: trustme.CA, tmp_path: Path) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serve(tls=files(authority, tmp_path)) as served:
        assert served.ref.url.startswith("https://") and served.ref.ws_url.startswith("wss://")
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", served.port, ssl_context=context)
        async with stream:
            page = Browser(stream, served.host)
            assert (await page.get("/healthz")).status == 200
            assert (await page.get("/", BEARER, f"Origin: https://{served.host}")).status == 200
            assert (await page.get("/", BEARER, f"Origin: http://{served.host}")).status == 403
            assert "; Secure" in (await page.get(f"/?token={TOKEN}")).headers["set-cookie"]
        headers = [("Authorization", f"Bearer {TOKEN}")]
        url = served.ref.ws_url.replace("127.0.0.1", "localhost")
        async with open_websocket_url(url, ssl_context=context, extra_headers=headers) as socket:
            wire = Wire(socket)
            await wire.initialize()
            await wire.socket.send_message("x" * (1 << 20))
            assert (await wire.receive())["error"]["code"] == -32700
        # Plain HTTP at a TLS port, and a peer that hangs up in the handshake, harm nobody.
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            async with await served.socket() as plain:
                await plain.send_all(data)
        while served.ref.gateway_statistics().sockets:
            await trio.testing.wait_all_tasks_blocked()
        assert served.ref.gateway_statistics().defects == 0


async def test_a_peer_that_stops_in_the_middle_of_the_tls_handshake_is_closed(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with serve(Limits(handshake_timeout=0.05), tls=files(authority, tmp_path)) as served:
        for data in (b"", b"\x16\x03\x01\x02\x00\x01"):
            async with await served.socket() as stream:
                if data:
                    await stream.send_all(data)
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
        assert served.ref.gateway_statistics().defects == 0


async def test_certificate_files_that_do_not_fit_are_an_error(authority: trustme.CA, tmp_path: Path) -> None:
    tls = files(authority, tmp_path)
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "key.pem")
    with pytest.raises(OSError) as raised:
        async with serve(tls=tls):
            pass
    assert raised.value.filename == tls.cert_file
    assert f"with its key in {tls.key_file}" in str(raised.value)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(FileNotFoundError) as raised:
        async with serve(tls=tls):
            pass
    assert raised.value.filename == tls.key_file


async def test_a_unix_socket_is_for_its_owner_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serve(listen=Listen(unix_path=str(path))) as served:
        assert served.ref.url == served.ref.ws_url == f"unix:{path}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        page = Browser(await trio.open_unix_socket(path), "localhost")
        async with page.stream:
            assert (await page.get("/", BEARER)).status == 200
        async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:
            headers = [("Authorization", f"Bearer {TOKEN}")]
            socket = await wrap_client_stream(nursery, stream, "localhost", "/ws", extra_headers=headers)
            wire = Wire(socket)
            await wire.initialize()
            assert await wire.request("ping") == {}
            await socket.aclose()
    assert not path.exists()


async def test_a_stale_unix_socket_is_replaced_a_live_one_and_a_file_are_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    listen = Listen(unix_path=str(path))
    async with serve(listen=listen):
        with pytest.raises(OSError) as raised:
            async with serve(listen=listen):
                pass
        assert "somebody listens" in str(raised.value)
        async with await trio.open_unix_socket(path):
            pass
    path.write_text("precious")
    with pytest.raises(OSError) as raised:
        async with serve(listen=listen):
            pass
    assert isinstance(raised.value, FileExistsError)
    assert path.read_text() == "precious"


async def test_a_socket_file_of_another_daemon_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serve(listen=Listen(unix_path=str(path))) as served:
        path.unlink()
        async with serve(listen=Listen(unix_path=str(path))):
            await served.ref.stop()
            async with await trio.open_unix_socket(path):
                pass
    assert not path.exists()
