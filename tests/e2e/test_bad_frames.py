"""WebSocket frames that no good client sends, against a daemon process: what closes a connection, with which code,
and what does not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.e2e.raw import BINARY, CLOSE, PING, PONG, TEXT, Raw, dial, frame, open_socket
from tests.e2e.wire import DaemonProcess, connect, daemon

LIMIT = 120.0  # absolute, for a hung test
MIB = 1 << 20
CONTINUED: Final = 0
PING_REQUEST: Final = b'{"jsonrpc":"2.0","id":"p","method":"ping"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("bad-frames") / "data") as process:
        yield process
        assert process.process.poll() is None, process.errors()
        assert "Traceback" not in Path(process.log.name).read_text()


def parts(*payloads: bytes, opcode: int = TEXT) -> bytes:
    """One message in fragments."""
    last = len(payloads) - 1
    return b"".join(frame(CONTINUED if n else opcode, p, last=n == last) for n, p in enumerate(payloads))


# What is sent -> the code of the close frame.
CLOSING: Final[dict[str, tuple[bytes, int]]] = {
    "a binary message": (frame(BINARY, b"x"), 1003),
    "an empty binary message": (frame(BINARY, b""), 1003),
    "a binary message in fragments": (parts(b"x", b"y", opcode=BINARY), 1003),
    "text over 1 MiB": (frame(TEXT, b"x" * (MIB + 1)), 1009),
    "text over 1 MiB in fragments": (parts(*[b"x" * 65_536] * 17), 1009),
    "characters of two bytes over 1 MiB": (frame(TEXT, "é".encode() * (MIB // 2 + 1)), 1009),
    "text of 8 MiB": (frame(TEXT, b"x" * (8 * MIB)), 1009),
    "ten malformed in a row": (frame(TEXT, b"{]") * 10, 1008),
    "ten of different kinds in a row": (b"".join(map(frame, [TEXT] * 10, [b"", b"[]", b"1", b"{}", b"x"] * 2)), 1008),
    "text that is no UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half of a surrogate pair in UTF-8": (frame(TEXT, b'"\xed\xa0\xbd"'), 1007),
    "an overlong form": (frame(TEXT, b'"\xc0\xaf"'), 1007),
    "a character cut at the end": (frame(TEXT, "é".encode()[:1]), 1007),
    "a character cut by a close": (parts("é".encode()[:1], b"x"), 1007),
    "an unmasked frame": (frame(TEXT, PING_REQUEST, masked=False), 1002),
    "a reserved bit": (frame(TEXT, PING_REQUEST, reserved=1), 1002),
    "all reserved bits": (frame(TEXT, PING_REQUEST, reserved=7), 1002),
    "an unknown opcode": (frame(3, b"x"), 1002),
    "an unknown control opcode": (frame(11, b"x"), 1002),
    "a continuation of nothing": (frame(CONTINUED, b"x"), 1002),
    "a message inside a message": (frame(TEXT, b"{", last=False) + frame(TEXT, b"}"), 1002),
    "a ping in fragments": (frame(PING, b"x", last=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a length with its highest bit": (b"\x81\xff" + b"\xff" * 8 + bytes(4), 1002),
    "a length that needs fewer bytes": (b"\x81\xfe\x00\x05" + bytes(4) + b"12345", 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code that nobody sends": (frame(CLOSE, b"\x03\xed"), 1002),
    "a close whose reason is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", CLOSING)
async def test_what_closes_a_connection_says_why_and_others_go_on(server: DaemonProcess, name: str) -> None:
    data, code = CLOSING[name]
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as other, open_socket(server.folder) as raw:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all_there_is, raw, data)
                assert await raw.closed() == code
            await raw.goodbye(code)
            await other.result("ping")
        async with open_socket(server.folder) as raw:
            await raw.result("ping")


async def send_all_there_is(raw: Raw, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the daemon had seen enough
        await raw.stream.send_all(data)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0"])
async def test_a_close_is_answered_in_kind(server: DaemonProcess, payload: bytes) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            await raw.send(CLOSE, payload)
            opcode, answer = await raw.receive()
            assert (opcode, answer[:2]) == (CLOSE, payload[:2])
            await raw.ended()


async def test_nothing_behind_a_close_is_worked_on(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            create = b'{"jsonrpc":"2.0","id":1,"method":"session.create","params":{"title":"behind a close"}}'
            await raw.stream.send_all(frame(CLOSE, b"\x03\xe8") + frame(TEXT, create))
            await raw.ended()
        async with open_socket(server.folder) as raw:
            assert (await raw.result("session.list", query="behind a close"))["sessions"] == []


async def test_a_request_may_come_in_fragments_with_pings_between_them(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            text = '{"jsonrpc":"2.0","id":"é😀","method":"ping"}'.encode()
            pieces = [bytes((byte,)) for byte in text]
            data = b""
            for number, piece in enumerate(pieces):
                data += frame(CONTINUED if number else TEXT, piece, last=number == len(pieces) - 1)
                data += frame(PING, b"%d" % number) if number < len(pieces) - 1 else b""
            for byte in data:  # and each byte in a packet of its own, as far as the kernel goes along
                await raw.stream.send_all(bytes((byte,)))
            for number in range(len(pieces) - 1):
                assert await raw.receive() == (PONG, b"%d" % number)
            assert (await raw.reply())["id"] == "é😀"


async def test_a_request_of_exactly_1_mib(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            await raw.text(PING_REQUEST + b" " * (MIB - len(PING_REQUEST)))
            assert await raw.reply() == {"jsonrpc": "2.0", "id": "p", "result": {}}


async def test_nine_malformed_and_a_good_one_over_and_over(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            for _ in range(5):
                await raw.stream.send_all(frame(TEXT, b"{]") * 9)
                assert [(await raw.reply())["error"]["code"] for _ in range(9)] == [-32700] * 9
                await raw.result("ping")


async def test_pongs_that_nobody_asked_for_and_pings_in_masses(server: DaemonProcess) -> None:
    """20,000 pings are answered, or their sender is told to leave; another connection sees nothing of it."""
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw, connect(server.folder) as other:
            session = (await other.request("session.create"))["session"]
            started = await other.request("run.start", session_id=session["id"], text="count to 200", watch=True)

            async def flood() -> None:
                for _ in range(20):
                    await send_all_there_is(raw, (frame(PONG, b"x") + frame(PING, b"y")) * 1000)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                events = await other.events(started["watch_id"])
                for _ in range(20_000):
                    assert await raw.receive() == (PONG, b"y")
            assert events[-1]["status"] == "completed"
            await raw.result("ping")


@pytest.mark.parametrize("cut", [0, 1, 5, 40, 100])
async def test_a_handshake_or_a_frame_that_is_cut(server: DaemonProcess, cut: int) -> None:
    with trio.fail_after(LIMIT):
        for upgraded in (False, True):
            async with dial(server.folder) as raw:
                if upgraded:
                    await raw.upgrade()
                    await raw.stream.send_all(frame(TEXT, PING_REQUEST * 3)[:cut])
                else:
                    await raw.stream.send_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n" * 2)
        async with open_socket(server.folder) as raw:
            await raw.result("ping")


async def test_random_bytes_after_the_handshake(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        for _ in range(50):
            async with open_socket(server.folder) as raw:
                await send_all_there_is(raw, os.urandom(2000))
                await raw.stream.send_eof()
                await raw.ended()
        async with open_socket(server.folder) as raw:
            await raw.result("ping")
