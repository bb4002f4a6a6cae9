"""A daemon process among clients that mean harm: slow, flooding, many, rude. Others go on undisturbed, what they used
is given back, and the daemon ends well."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.e2e.raw import CLOSE, TEXT, UPGRADE, Raw, dial, frame, open_files, open_socket, resident_kib, token_of
from tests.e2e.wire import DaemonProcess, Wire, connect, daemon

LIMIT = 120.0  # absolute, for a hung test
MIB = 1 << 20
CONNECTIONS = 100
CROWD = 2_000  # sockets at once, twenty times what the daemon takes
# What all the abuse together may add to the memory of an idle daemon. A message of 1 MiB that is all numbers or keys is
# up to 30 MiB while it is parsed, of which the allocator keeps some; it does not grow with the number of messages.
LEFT_KIB = 64 * 1024

CONFIG = f"""
[limits]
connections_max = {CONNECTIONS}
handshake_timeout = "3s"
slow_client_timeout = "3s"
drain_timeout = "1s"
"""


async def slow_heads(folder: Path) -> None:
    """Clients that never come to the end of their request: each is closed in its time, whatever it still sends."""
    async with contextlib.AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(dial(folder)) for _ in range(CONNECTIONS // 2)]

        async def drip(raw: Raw) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                for number in range(20):
                    await raw.stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"[number : number + 1])
            await raw.ended()

        async with trio.open_nursery() as nursery:
            for raw in raws:
                nursery.start_soon(drip, raw)


async def half_upgrades(folder: Path) -> None:
    """Upgrades that are asked for and left before they are answered, or after that and before `initialize`."""
    head = ["GET /ws HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token_of(folder)}", *UPGRADE, "", ""]
    for number in range(CONNECTIONS):
        async with dial(folder) as raw:
            await raw.stream.send_all("\r\n".join(head).encode()[: None if number % 2 else -2])


async def rude_ends(folder: Path) -> None:
    """Connections cut in the middle of a frame, with work under way, without a close, by a reset."""
    create = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "session.list"}).encode()
    for number in range(CONNECTIONS):
        async with open_socket(folder) as raw:
            await raw.stream.send_all((frame(TEXT, create) * 40)[: -1 - number % 7])
            if number % 2:
                raw.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 3 == 0:
                await raw.stream.send_all(frame(CLOSE, b"\x03\xe8"))


async def crowd(folder: Path) -> None:
    """Far more sockets than there are places, all open at once: those beyond are refused, all are closed."""
    async with contextlib.AsyncExitStack() as stack:
        raws: list[Raw] = []

        async def come() -> None:
            with contextlib.suppress(OSError):
                raws.append(await stack.enter_async_context(dial(folder)))

        for _ in range(CROWD // 100):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(come)
        async with trio.open_nursery() as nursery:
            for raw in raws:
                nursery.start_soon(raw.ended)


async def floods_without_reading(folder: Path) -> None:
    """Requests whose replies nobody takes: the daemon stops reading, and aborts the socket in its time."""
    requests = [("daemon.stats", {}), ("session.list", {"limit": 100}), ("nope", {"a" * 1000: 1}), ("ping", {})]
    texts = [json.dumps({"jsonrpc": "2.0", "id": 1, "method": m, "params": p}).encode() for m, p in requests]

    async def flood(text: bytes) -> None:
        async with open_socket(folder) as raw:
            data = frame(TEXT, text) * 100
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await raw.stream.send_all(data)

    async with trio.open_nursery() as nursery:
        for text in texts:
            nursery.start_soon(flood, text)


async def large_and_deep(folder: Path) -> None:
    """Messages of 1 MiB that cost the reader most: nested, many keys, many numbers, one long string."""
    deep = b'{"jsonrpc":"2.0","id":1,"method":"session.create","params":{"metadata":'
    texts = [
        b"[" * (MIB - 1),
        (b'{"a":' * (MIB // 5 - 1))[:MIB],
        b"[" + b"1," * (MIB // 2 - 2) + b"1]",
        deep + b"[" * 900 + b"]" * 900 + b"}}",
        deep + b"[" + b"1.5," * (MIB // 4 - 100) + b"1]}}",
        deep + b"{" + b",".join(b'"k%d":0' % n for n in range(80_000)) + b"}}}",
        deep + b'{"a":"' + b"\\u0000" * 170_000 + b'"}}}',
    ]
    async with open_socket(folder) as raw:
        for text in texts * 8:
            assert len(text) <= MIB
            await raw.text(text)
            assert (await raw.reply())["error"]["code"] in (-32700, -32600, -32602)
            await raw.result("ping")


ABUSE: Final[tuple[Callable[[Path], Awaitable[None]], ...]] = (
    slow_heads,
    half_upgrades,
    rude_ends,
    crowd,
    floods_without_reading,
    large_and_deep,
)


async def health(folder: Path) -> int:
    """The status of /healthz, when there is a place for the question."""
    while True:
        with contextlib.suppress(trio.BrokenResourceError, EOFError, OSError):
            async with dial(folder) as raw:
                return (await raw.http("/healthz"))[0]


async def only_two_are_left(wire: Wire) -> dict[str, Any]:
    """The counts when all sockets but the two of this test are gone."""
    while True:
        counts: dict[str, Any] = (await wire.request("daemon.stats"))["counts"]
        if counts["sockets"] == 2:
            return counts


async def test_abuse_of_every_kind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * CROWD)), hard))
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), daemon(folder, CONFIG) as process:
        async with connect(folder) as one, connect(folder) as two:
            session = (await one.request("session.create"))["session"]
            started = await one.request(
                "run.start", session_id=session["id"], text="count to 100000 every 5 ms", watch=True
            )
            run_id = started["run"]["id"]
            files, memory = open_files(process.pid), resident_kib(process.pid)
            text = ""

            async def read() -> None:
                nonlocal text
                for event in await one.events(started["watch_id"]):
                    text += event["text"] if event["type"] == "part.delta" else ""

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for abuse in ABUSE:
                    await abuse(folder)
                    assert await health(folder) == 200, abuse
                    run = (await two.request("run.get", run_id=run_id))["run"]
                    assert run["status"] == "running", abuse
                counts = await only_two_are_left(two)
                assert open_files(process.pid) <= files
                assert resident_kib(process.pid) <= memory + LEFT_KIB
                await two.request("run.stop", run_id=run_id)
            # The bystander has every number up to where its run was stopped, in order.
            numbers = text.split()
            assert len(numbers) > 100 and numbers == [str(n) for n in range(1, len(numbers) + 1)]
            assert counts["refused_full"] >= CROWD - 2 * CONNECTIONS
            assert counts["aborted_slow"] >= 4
            assert counts["defects"] == 0
            process.signal(signal.SIGTERM)
            assert (await one.wait_closed())[0] == (await two.wait_closed())[0] == 1001
        assert await trio.to_thread.run_sync(process.wait) == 0
    check_log(process)


def check_log(process: DaemonProcess) -> None:
    log = Path(process.log.name).read_text()
    assert "Traceback" not in log and "ERROR" not in log
    assert len(log) < 64 * 1024, "an attacker does not fill the disk with a log"


async def test_a_daemon_without_file_descriptors_serves_whom_it_has_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), daemon(folder) as process:
        async with connect(folder) as one:
            room = open_files(process.pid) + 10
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (room, room))
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(100):
                    await stack.enter_async_context(dial(folder))
                while open_files(process.pid) < room:
                    await one.request("ping")
                session = (await one.request("session.create"))["session"]
                started = await one.request("run.start", session_id=session["id"], text="count to 20", watch=True)
                assert (await one.events(started["watch_id"]))[-1]["status"] == "completed"
            assert await health(folder) == 200
        process.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait) == 0
