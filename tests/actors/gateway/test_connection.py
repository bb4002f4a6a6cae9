"""One WebSocket connection: frames, requests, their order and bounds, and what ends it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import trio

from actors._feed import SessionFeed
from engine.limits import Limits
from tests.actors.gateway.fakes import FakeRun, serve, session
from tests.actors.gateway.test_slow_clients import masked, raw_connection


async def test_every_method_answers_with_the_keys_of_the_contract() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        asked = {
            "session.create": ({}, {"session"}),
            "session.list": ({}, {"sessions"}),
            "session.get": ({"session_id": "ses_1"}, {"session"}),
            "session.update": ({"session_id": "ses_1", "title": "t"}, {"session"}),
            "session.messages": ({"session_id": "ses_1"}, {"messages", "next_cursor", "revision"}),
            "run.start": ({"session_id": "ses_1", "text": "hi"}, {"run", "message_id", "revision"}),
            "run.stop": ({"run_id": "run_1"}, {"run"}),
            "run.get": ({"run_id": "run_1"}, {"run"}),
            "run.list": ({}, {"runs"}),
            "toolset.list": ({}, {"toolsets"}),
            "output.read": ({"handle": "out_1"}, {"text", "total"}),
            "daemon.stats": ({}, {"uptime_s", "memory", "counts", "actors", "loop"}),
            "ping": ({}, set()),
            "session.delete": ({"session_id": "ses_1"}, set()),
        }
        for method, (params, keys) in asked.items():
            assert (await wire.request(method, **params)).keys() == keys, method
        stats = await wire.request("daemon.stats")
        assert stats["counts"]["sessions"] == 1 and stats["counts"]["connections"] == 1
        assert stats["loop"]["lag_p99_ms"] >= 0


async def test_initialize_comes_first_and_knows_one_version() -> None:
    async with serve() as served, served.connect(initialize=False) as wire:
        for method in ("ping", "session.list", "no.such"):
            assert (await wire.error(method))["data"]["code"] == "not_initialized"
        client = {"name": "test", "version": "1"}
        refused = await wire.error("initialize", client=client, protocol=2)
        assert refused["data"] == {"code": "unsupported_protocol", "supported": [1]}
        assert (await wire.error("ping"))["data"]["code"] == "not_initialized"
        result = await wire.request("initialize", client=client, protocol=1)
        assert result["models"] == [{"name": "demo", "provider": "demo"}]
        assert result["default_model"] == "demo" and result["toolsets"] == ["files"]
        assert result["limits"]["message_bytes"] == 1048576
        assert await wire.request("ping") == {}


async def test_wrong_requests_get_the_codes_of_the_contract() -> None:
    async with serve() as served, served.connect() as wire:
        assert (await wire.error("no.such"))["code"] == -32601
        error = await wire.error("session.get", session_id=1, colour="red")
        assert error["code"] == -32602
        assert {field["path"] for field in error["data"]["fields"]} == {"session_id", "colour"}
        assert (await wire.error("ping", x=1))["data"]["fields"][0]["path"] == "x"
        error = await wire.error("session.get", session_id="ses_none")
        assert error["code"] == -32000 and error["data"]["code"] == "unknown_session"
        assert (await wire.error("watch.close", watch_id="w9"))["data"]["code"] == "unknown_watch"
        assert served.registry.begun == [("get_session", "ses_none")]


async def test_a_defect_is_told_by_reference_only(caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as served, served.connect() as wire:
        served.registry.failure = ZeroDivisionError("a secret")
        error = await wire.error("run.get", run_id="run_1")
        assert error["data"]["code"] == "internal" and "secret" not in json.dumps(error)
        assert error["data"]["ref"] in caplog.text and "a secret" in caplog.text
        served.registry.failure = None
        assert (await wire.error("run.get", run_id="run_1"))["data"]["code"] == "unknown_run"


async def test_what_comes_before_initialize_is_refused_however_soon_that_follows() -> None:
    known = {"protocol": 1, "client": {"name": "t", "version": "1"}}
    pieces = masked("session.list", 1) + masked("initialize", 2, **known) + masked("session.list", 3)
    async with serve() as served:
        for number in range(1, 13):  # which task comes first is a matter of chance
            page = await raw_connection(served)
            await page.stream.send_all(pieces)
            received = b""
            while not all(b'"id":%d,' % key in received for key in (1, 2, 3)):
                received += await page.stream.receive_some()
            assert b'"id":1,"error"' in received and b'"code":"not_initialized"' in received
            assert b'"id":2,"result"' in received and b'"id":3,"result"' in received
            assert len(served.registry.begun) == number
            await trio.aclose_forcefully(page.stream)


async def test_notifications_are_dropped_and_counted() -> None:
    async with serve() as served, served.connect() as wire:
        await wire.socket.send_message('{"jsonrpc":"2.0","method":"session.create"}')
        await wire.request("ping")
        assert served.registry.begun == []
        assert served.ref.gateway_statistics().notifications == 1


MALFORMED = {
    "{": -32700,
    "": -32700,
    "[]": -32600,
    "1": -32600,
    '{"jsonrpc":"2.0"}': -32600,
    '{"jsonrpc":"1.0","id":1,"method":"ping"}': -32600,
    '{"jsonrpc":"2.0","id":{},"method":"ping"}': -32600,
    '{"jsonrpc":"2.0","id":1,"method":5}': -32600,
    '{"jsonrpc":"2.0","id":1,"method":"ping","params":3}': -32600,
}


@pytest.mark.parametrize("text", MALFORMED)
async def test_a_malformed_message_is_answered_and_the_connection_stays(text: str) -> None:
    async with serve() as served, served.connect() as wire:
        await wire.socket.send_message(text)
        assert (await wire.receive())["error"]["code"] == MALFORMED[text]
        assert await wire.request("ping") == {}


async def test_nine_malformed_and_a_good_one_are_fine_ten_are_not() -> None:
    async with serve() as served, served.connect() as wire:
        for _ in range(2):
            for _ in range(9):
                await wire.socket.send_message("{")
                assert (await wire.receive())["error"]["code"] == -32700
            assert await wire.request("ping") == {}
        for _ in range(10):
            await wire.socket.send_message("{")
        for _ in range(10):
            assert (await wire.receive())["error"]["code"] == -32700
        assert await wire.close_code() == 1008
        assert served.ref.gateway_statistics().malformed == 28


async def test_a_binary_message_closes() -> None:
    async with serve() as served, served.connect() as wire:
        await wire.socket.send_message(b"{}")
        assert await wire.close_code() == 1003


def padded(size: int, character: str = "x") -> str:
    """A request whose JSON has `size` bytes."""
    head, tail = '{"jsonrpc":"2.0","id":7,"method":"ping","params":{"p":"', '"}}'
    room = size - len(head) - len(tail)
    wide = len(character.encode())
    return head + character * (room // wide) + "x" * (room % wide) + tail


@pytest.mark.parametrize("character", ["x", "é", "😀"])
async def test_a_message_of_the_greatest_size_passes_and_one_byte_more_closes(character: str) -> None:
    async with serve() as served, served.connect() as wire:
        text = padded(1 << 20, character)
        assert len(text.encode()) == 1 << 20
        await wire.socket.send_message(text)
        assert (await wire.receive())["error"]["code"] == -32602
        assert await wire.request("ping") == {}
        await wire.socket.send_message(padded((1 << 20) + 1, character))
        assert await wire.close_code() == 1009


async def test_a_message_in_endless_empty_fragments_ends_the_connection() -> None:
    async with serve() as served, served.connect() as wire:
        raw = wire.socket._stream
        await raw.send_all(b"\x01\x80\0\0\0\0")
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(10_000):
                await raw.send_all(b"\x00\x80\0\0\0\0" * 100)
                await trio.lowlevel.checkpoint()
        assert await wire.close_code() == 1006


async def test_requests_begin_in_order_and_at_most_so_many_are_at_work() -> None:
    limits = Limits(requests_in_flight=4)
    async with serve(limits) as served, served.connect() as wire:
        gate = served.registry.held["get_run"] = trio.Event()
        served.registry.add(FakeRun())
        keys = [await wire.send("run.get", run_id=f"run_{n}") for n in range(1, 8)]
        # A ping behind all of them is answered while they wait.
        assert await wire.request("ping") == {}
        await trio.testing.wait_all_tasks_blocked()
        assert [argument for _, argument in served.registry.begun] == [f"run_{n}" for n in range(1, 5)]
        gate.set()
        replies = [await wire.receive() for _ in keys]
        assert {reply["id"] for reply in replies} == set(keys)
        assert [argument for _, argument in served.registry.begun] == [f"run_{n}" for n in range(1, 8)]


async def test_reading_pauses_when_the_inbox_is_full_and_goes_on() -> None:
    limits = Limits(requests_in_flight=2)
    async with serve(limits) as served, served.connect() as wire:
        gate = served.registry.held["get_run"] = trio.Event()
        keys = [await wire.send("run.get", run_id="run_1") for _ in range(40)]
        await trio.testing.wait_all_tasks_blocked()
        counted = served.ref.gateway_statistics().requests
        assert counted <= 1 + 2 + 2 + 1  # initialize; at work; waiting; one taken at most when it became full
        gate.set()
        assert {(await wire.receive())["id"] for _ in keys} == set(keys)
        assert served.ref.gateway_statistics().requests == 41


async def test_a_client_that_leaves_ends_its_requests() -> None:
    async with serve() as served:
        async with served.connect() as wire:
            served.registry.held["get_run"] = trio.Event()
            await wire.send("run.get", run_id="run_1")
            await wire.request("ping")
        while served.ref.gateway_statistics().connections:
            await trio.testing.wait_all_tasks_blocked()
        assert served.ref.tree().get("children", {}) == {}


async def test_a_stopping_gateway_says_going_away() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        result = await wire.request("run.watch", run_id="run_1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.ref.stop)
            pushes: list[dict[str, Any]] = []
            while not pushes or pushes[-1]["method"] != "watch.closed":
                pushes.append(await wire.receive())
            assert pushes[-1]["params"] == {
                "watch_id": result["watch_id"], "run_id": "run_1", "status": "running", "reason": "draining",
            }  # fmt: skip
            assert await wire.close_code() == 1001
        assert not run.feed.watched


async def test_a_peer_that_is_thrown_out_gets_no_more_of_its_watches() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        await wire.request("run.watch", run_id="run_1")
        await wire.push()
        for _ in range(10):
            await wire.socket.send_message("{")
        while run.feed.watched:
            run.delta("x" * 1000)
            await trio.lowlevel.checkpoint()
        assert await wire.close_code() == 1008


async def test_a_page_that_does_not_fit_a_frame_is_shorter_and_goes_on() -> None:
    async with serve() as served, served.connect() as wire:
        for n in range(20):
            served.registry.sessions[f"ses_{n}"] = SessionFeed(session(f"ses_{n}", instructions="x" * 30_000))
        ids: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            await wire.send("session.list", **cursor)
            text = await wire.socket.get_message()
            assert len(text) <= 256 * 1024
            page = json.loads(text)["result"]
            ids += [item["id"] for item in page["sessions"]]
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert sorted(ids) == sorted(served.registry.sessions)


async def test_garbage_at_the_socket_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seeded = random.Random(7)
    heads = [b"\x81", b"\x01", b"\x80", b"\x88", b"\x89", b"\x8a", b"\x82", b"\xff", b"\xc1"]
    async with serve() as served:
        for _ in range(150):
            async with served.connect() as wire:
                data = b""
                for _ in range(seeded.randrange(1, 6)):
                    size = seeded.randrange(0, 126)
                    mask = 0x80 if seeded.random() < 0.8 else 0
                    data += seeded.choice(heads) + bytes([mask | size]) + seeded.randbytes(seeded.randrange(size + 8))
                await wire.socket._stream.send_all(data)
                if seeded.random() < 0.5:
                    await wire.socket._stream.send_eof()
                else:
                    await trio.aclose_forcefully(wire.socket._stream)
        while served.ref.gateway_statistics().sockets:
            await trio.testing.wait_all_tasks_blocked()
        assert served.ref.gateway_statistics().defects == 0
        assert "ERROR" not in caplog.text
        async with served.connect() as wire:
            assert await wire.request("ping") == {}


async def test_a_killed_gateway_leaves_no_feed_and_no_socket() -> None:
    async with serve() as served, served.connect() as wire:
        run = served.registry.add(FakeRun())
        run.start()
        await wire.request("run.watch", run_id="run_1")
        served.registry.held["get_run"] = trio.Event()
        await wire.send("run.get", run_id="run_1")
        await wire.request("ping")
        await served.ref.stop(grace=0)
        assert not run.feed.watched
        assert await wire.close_code() in (1001, 1006)
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", served.port)
