"""Servers over HTTP that do what no server should: the call has an error, and nothing else is harmed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest
import trio
from mcp import ClientSession

from actors._spool import open_spools
from actors.toolsets import mcp_http, mcp_socket
from actors.toolsets.mcp import Server
from actors.toolsets.mcp_answers import Reader
from actors.toolsets.mcp_http import NOTICES_MOST, REQUESTS_MOST, open_http
from actors.toolsets.mcp_inbox import Inbox
from engine.limits import KIB, MIB, Limits
from engine.mcp.sse import FIELD_BYTES
from tests.actors.mcp_web import POST, Exchange, Script, good, serving
from tests.actors.processes import descriptors, until
from tests.actors.test_toolset_mcp import CONTEXT, opened
from tests.actors.toolsets.test_mcp_http_resume import spooled

SECRET = "s3cr3t"
# Seconds between two looks at the disk, where threads are at work.
QUIET = 0.005
Say = Callable[[Exchange], Awaitable[None]]


def calls(say: Say) -> Script:
    """A server that is bad at calls, and at nothing else."""

    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            await say(exchange)

    return script


def raw(data: bytes) -> Say:
    async def say(exchange: Exchange) -> None:
        await exchange.raw(data)

    return say


def page(status: int, *more: str) -> Say:
    async def say(exchange: Exchange) -> None:
        await exchange.head(status, "text/html", *more)
        await exchange.raw(b"<html>" + b"p" * MIB)

    return say


def events(data: bytes) -> Say:
    async def say(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.raw(data)

    return say


def document(data: bytes, *more: str) -> Say:
    async def say(exchange: Exchange) -> None:
        await exchange.head(200, "application/json", *more)
        await exchange.raw(data)

    return say


async def anothers(exchange: Exchange) -> None:
    await exchange.json({**exchange.answer("not yours" * 10_000), "id": 4711})


async def anothers_event(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event({**exchange.answer("not yours" * 10_000), "id": 4711})


async def refused(exchange: Exchange) -> None:
    await exchange.json({"error": {"message": "w" * 5000}}, 400)


async def refused_at_length(exchange: Exchange) -> None:
    await exchange.json(exchange.error("w" * MIB), 400)


async def nothing(exchange: Exchange) -> None:
    exchange.said = True


SPLIT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
SPLIT += b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
BAD: list[tuple[str, Say, str]] = [
    ("a page", page(200), "text/html"),
    ("not allowed", page(401), "401 Unauthorized"),
    ("forbidden", page(403), "headers_env"),
    ("teapot", page(418), "418"),
    ("a number", page(599), "599"),
    ("away", page(503), "503 Service Unavailable"),
    ("elsewhere", page(307, "location: http://127.0.0.1:9/other"), "http://127.0.0.1:9/other"),
    ("no answer", page(202), "no answer"),
    ("closed", nothing, "without an answer"),
    ("garbage", raw(b"\x00\xff" * 1000 + b"\r\n\r\n"), "not HTTP"),
    ("endless head", raw(b"HTTP/1.1 200 OK\r\n" + b"x-more: and more\r\n" * 10_000), "not HTTP"),
    ("one long header", raw(b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * MIB), "not HTTP"),
    ("short", raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"), "broke off"),
    (
        "bad chunks",
        raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
        "not HTTP",
    ),
    ("a body of one byte and another", raw(SPLIT), "not JSON"),
    ("packed", document(gzip.compress(b" " * 100 * MIB), "content-encoding: gzip"), "compressed"),
    ("no json", document(b"hello"), "not JSON"),
    ("nothing", document(b""), "no message"),
    ("no message", document(b'{"a": 1}'), "the message"),
    ("wide", document(b"[" + b"1," * MIB + b"1]"), "more than"),
    ("deep", document(b"[" * 1000 + b"]" * 1000), "deep"),
    ("a long name", document(b'{"%s": 1}' % (b"n" * 100_000)), "name"),
    ("a note", document(b'{"jsonrpc":"2.0","method":"notifications/x"}'), "something else"),
    ("another's", anothers, "something else"),
    ("another's event", anothers_event, "without an answer"),
    ("an error", refused, "400 Bad Request: " + "w" * 100),
    ("a long error", refused_at_length, "400 Bad Request"),
    ("no json in events", events(b"data: hello\n\n"), "not JSON"),
    ("no message in events", events(b'data: {"a": 1}\n\n'), "the message"),
    ("garbage for events", events(b"\x00\xff\n" * 100_000), "without an answer"),
    ("wide events", events(b"data: [" + b"1," * MIB + b"1]\n\n"), "more than"),
    ("a long id", events(b"id: " + b"1" * FIELD_BYTES), "too long"),
]


async def test_each_is_said_and_the_call_after_it_works(tmp_path: Path) -> None:
    """All in one session of one toolset, which outlives them."""
    before = descriptors()
    async with serving() as web:
        async with opened(tmp_path, server=Server(url=web.url)) as world:
            for name, say, why in BAD:
                web.script = calls(say)
                result = await world.call("t")
                assert result.is_error and why in result.text, f"{name}: {result.text[:KIB]}"
                assert len(result.text) < KIB, name
                web.script = good
                assert (await world.call("t")).text == "good", name
                assert spooled(tmp_path) == [], name
            assert (await world.ref.status()).restarts == 0
            assert web.begun == 1
        await until(lambda: web.open == 0)
    assert descriptors() <= before


async def test_a_notice_that_breaks_a_bound_is_passed_over(tmp_path: Path) -> None:
    async def say(exchange: Exchange) -> None:
        await exchange.head()
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": [1] * MIB}}
        await exchange.event(note)
        await exchange.event(exchange.answer("good"))

    async with serving(calls(say)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert (await world.call("t")).text == "good"


async def test_a_body_in_tiny_pieces_is_read_in_turns_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_socket, "_PIECES_PAUSE", 0)
    ours, theirs = trio.testing.memory_stream_pair()
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    http.send(h11.EndOfMessage())
    text = bytes(range(97, 123)) * 100
    await theirs.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await theirs.send_all(b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n")
    http.receive_data(await ours.receive_some())
    head = http.next_event()
    assert isinstance(head, h11.Response)
    answer = mcp_socket.Answer(ours, http, head)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        body = b""
        while data := await answer.receive():
            body += data
        assert await answer.receive() == b"", "its end stays its end"
        nursery.cancel_scope.cancel()
    assert body == text and answer.size == len(text)
    assert turns > len(text) // 64 // 2


async def test_nothing_goes_where_a_server_points_to(tmp_path: Path) -> None:
    async with serving() as other, serving(calls(page(307, f"location: {other.url}"))) as web:
        server = Server(url=web.url, headers_env={"X-Key": "KEY"}, environ={"KEY": SECRET})
        async with opened(tmp_path, server=server) as world:
            assert other.url in (await world.call("t")).text
        assert other.seen == [] and other.open == 0


async def flood(exchange: Exchange, piece: bytes) -> None:
    while True:
        await exchange.raw(piece)


async def endless_text(exchange: Exchange) -> None:
    await exchange.head(200, "application/json")
    await exchange.raw(b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"')
    await flood(exchange, b"x" * 64 * KIB)


async def endless_blanks(exchange: Exchange) -> None:
    await exchange.head(200, "application/json")
    await flood(exchange, b" " * 64 * KIB)


async def endless_event(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.raw(b'data: {"a":"')
    await flood(exchange, b"x" * 64 * KIB)


async def endless_comments(exchange: Exchange) -> None:
    await exchange.head()
    await flood(exchange, b": ping\n\n" * 8 * KIB)


async def endless_comment(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.raw(b":")
    await flood(exchange, b"x" * 64 * KIB)


async def endless_notes(exchange: Exchange) -> None:
    await exchange.head()
    note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 1000}}
    await flood(exchange, b"data: %s\n\n" % json.dumps(note).encode() * 64)


ENDLESS = [endless_text, endless_blanks, endless_event, endless_comments, endless_comment, endless_notes]


@pytest.mark.parametrize("say", ENDLESS)
async def test_an_answer_without_end_is_bounded(tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.actors import test_toolset_mcp

    limits = attrs.evolve(test_toolset_mcp.QUICK, mcp_answer_bytes=2 * MIB, spool_file_bytes=MIB, mcp_messages=100_000)
    monkeypatch.setattr(test_toolset_mcp, "QUICK", limits)
    async with serving(calls(say)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error
        # Blanks are held as they come, and bounded before the answer is.
        assert "more than 2,097,152 bytes" in result.text or "more than 1,048,576 bytes" in result.text
        assert spooled(tmp_path) == []
        web.script = good
        assert (await world.call("t")).text == "good"


async def test_lines_that_are_no_messages_are_taken_at_their_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    async def pace(self: Inbox, size: int = 0, count: int = 1) -> None:
        counts.append(count)

    class Body:
        size = 0
        bodies = iter([b": ping\n\n" * 3200, b"id: 1\n\n" * 32, b"id: 2\n\n" * 33, b""])

        async def receive(self) -> bytes:
            return next(self.bodies)

    async def nobody(message: object) -> None: ...

    monkeypatch.setattr(Inbox, "pace", pace)
    reader = Reader(1, nobody, Inbox(None, print))  # type: ignore[arg-type]
    await reader.events(Body())  # type: ignore[arg-type]
    assert counts == [100, 1] and reader.last_id == "2"


@pytest.mark.parametrize("more", [0, 1])
async def test_an_answer_of_exactly_the_bound_and_one_byte_more(
    tmp_path: Path, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.actors import test_toolset_mcp

    most = 100_000

    async def say(exchange: Exchange) -> None:
        body = json.dumps(exchange.answer("x")).encode()
        await exchange.head(200, "application/json")
        await exchange.raw(body + b" " * (most - len(body) + more))

    limits = attrs.evolve(test_toolset_mcp.QUICK, mcp_answer_bytes=most)
    monkeypatch.setattr(test_toolset_mcp, "QUICK", limits)
    async with serving(calls(say)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error == bool(more)


async def tiny_pieces(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
    await flood(exchange, b"1\r\n \r\n" * 10_000)


async def silent(exchange: Exchange) -> None:
    await exchange.hang()


async def silent_body(exchange: Exchange) -> None:
    await exchange.head(200, "application/json")
    await exchange.raw(b'{"jsonrpc":')
    await exchange.hang()


@pytest.mark.parametrize(
    "say", [silent, silent_body, tiny_pieces, *(say for say in ENDLESS if say is not endless_blanks)]
)
async def test_other_toolsets_go_on_beside_one_that_never_ends(tmp_path: Path, say: Say) -> None:
    before = descriptors()
    folders = [tmp_path / "bad", tmp_path / "good"]
    for folder in folders:
        folder.mkdir()
    async with serving(calls(say)) as bad, serving() as other:
        async with (
            opened(folders[0], server=Server(url=bad.url)) as hostile,
            opened(folders[1], server=Server(url=other.url)) as world,
            trio.open_nursery() as nursery,
        ):
            await hostile.ref.specs()
            nursery.start_soon(hostile.call, "t")
            await until(lambda: bool(bad.calls()))
            for _ in range(5):
                assert (await world.call("t")).text == "good"
            nursery.cancel_scope.cancel()
            # With the call, not with the toolset.
            with trio.CancelScope(shield=True):
                await until(lambda: bad.open == 0 and not spooled(folders[0]))
        cancelled = [one for one in bad.seen if one.what == "notifications/cancelled"]
        assert [one.message["params"]["requestId"] for one in cancelled] == [bad.calls()[0].message["id"]]
    assert descriptors() <= before


async def test_a_server_that_asks_without_end_and_takes_no_answer(tmp_path: Path) -> None:
    asked = NOTICES_MOST + 20

    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            await exchange.head()
            for number in range(asked):
                await exchange.event({"jsonrpc": "2.0", "id": f"q{number}", "method": "ping"})
            await until(lambda: len(web.seen) >= begun + NOTICES_MOST)
            await exchange.event(exchange.answer("enough"))
        elif exchange.method == POST and "id" in exchange.message:
            await exchange.hang()

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        await world.ref.specs()
        begun = len(web.seen) + 1  # with the call
        assert (await world.call("t")).text == "enough"
        assert len([one for one in web.seen if str(one.message.get("id", "")).startswith("q")]) <= NOTICES_MOST
        web.script = good
        assert (await world.call("t")).text == "good"


async def test_calls_beyond_the_bound_wait_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_http, "REQUESTS_MOST", 2)
    go = trio.Event()

    async def say(exchange: Exchange) -> None:
        await go.wait()
        await exchange.json(exchange.answer("good"))

    async with serving(calls(say)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        texts: list[str] = []

        async def one() -> None:
            texts.append((await world.call("t")).text)

        await world.ref.specs()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
            await until(lambda: len(web.calls()) == 2)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(web.calls()) == 2
            go.set()
        assert texts == ["good"] * 5
    assert REQUESTS_MOST == 64


# ------------------------------------------------------------ cancelled
class CancelAt(trio.abc.Instrument):
    """Cancel the scope before the n-th step that any task makes."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if not self.left:
            self.scope.cancel(reason="the test's step has come")


@pytest.mark.parametrize("kind", ["json", "events", "resumed"])
async def test_cancelled_at_every_step_nothing_is_left(tmp_path: Path, kind: str) -> None:
    """Of the whole loop, the server's among them: before each in turn the call is cancelled."""
    text = "x" * 200_000

    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call" and kind == "json":
            await exchange.json(exchange.answer(text))
        elif exchange.what == "tools/call" and kind == "events":
            await exchange.head()
            await exchange.event(exchange.answer(text))
        elif exchange.what == "tools/call":
            await exchange.head()
            await exchange.event(id=exchange.message["id"], retry=0)
        elif exchange.resumes is not None:
            await exchange.head()
            await exchange.event(exchange.answer(text, int(exchange.resumes)))

    noise: list[str] = []
    before = descriptors()
    limits = attrs.evolve(Limits(), spool_file_bytes=MIB)
    steps = count(1, 3 if kind == "resumed" else 1)
    async with serving(script) as web, open_spools(tmp_path, limits) as spools:
        inbox = Inbox(spools.of_toolset("server"), noise.append, limits)
        async with open_http(web.url, inbox, {}, limits) as streams, ClientSession(*streams) as session:
            await session.initialize()
            for step in steps:
                with trio.CancelScope() as scope:
                    instrument = CancelAt(scope, step)
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await session.call_tool("t", {})
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
                await until(lambda: web.open == 0)
                # An answer that came in the moment of the cancellation waits in the inbox, with those of others.
                await inbox.aclose()
                while spooled(tmp_path):
                    await trio.sleep(QUIET)
                    await inbox.aclose()
                if instrument.left > 0:
                    break
            result: Any = await session.call_tool("t", {})
            assert result.content[0].text.startswith("greenroom-cut:")
        await inbox.aclose()
    print(f"{kind}: cancelled at {step - 1} steps")
    assert step > 20, "it looks away"
    assert spooled(tmp_path) == [] and descriptors() <= before


async def test_a_notice_that_is_not_taken_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.what == "notifications/initialized":
            await exchange.hang()
        await good(exchange)

    monkeypatch.setattr(mcp_http, "NOTICE_SECONDS", 0.05)
    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert (await world.call("t")).text == "good"


async def test_a_greeting_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and says nothing of TLS."""
    from tests.actors import test_toolset_mcp

    limits = attrs.evolve(test_toolset_mcp.QUICK, connect_timeout=0.05, toolset_restarts=1)
    monkeypatch.setattr(test_toolset_mcp, "QUICK", limits)
    async with serving() as web:
        url = web.url.replace("http://127.0.0.1", "https://localhost")
        async with opened(tmp_path, server=Server(url=url)) as world:
            result = await world.call("t")
            assert result.is_error and "no connection in 0.05 s" in result.text
        await until(lambda: web.open == 0)
        assert web.seen == []


async def test_left_at_once_while_it_is_connected(tmp_path: Path) -> None:
    """A stop in the middle of the handshake."""

    async def hang(exchange: Exchange) -> None:
        await exchange.hang()

    before = descriptors()
    async with serving(hang, sessions=[]) as web:
        async with opened(tmp_path, server=Server(url=web.url)) as world, trio.open_nursery() as nursery:
            nursery.start_soon(world.ref.call, "t", b"{}", CONTEXT)
            await until(lambda: len(web.seen) == 2)
            nursery.cancel_scope.cancel()
        await until(lambda: web.open == 0)
    assert descriptors() <= before
