"""Sessions over HTTP: streams that break off and go on, sessions that are forgotten, and how they end."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest
import trio

from actors.toolsets import mcp_http
from actors.toolsets.mcp import Server
from actors.toolsets.mcp_answers import RESUME_FIRST, RESUME_LEAST, RESUME_LONGEST, Reader
from actors.toolsets.mcp_http import RESUMES_MOST
from engine.limits import KIB, MIB
from engine.mcp.sse import EventScanner
from engine.storage.spool import SpoolFile
from tests.actors import test_toolset_mcp
from tests.actors.mcp_server import LINE
from tests.actors.mcp_web import GET, POST, Exchange, Script, good, serving
from tests.actors.processes import until
from tests.actors.test_toolset_mcp import CONTEXT, World, opened

NOTE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
LONG = LINE * 5_000  # far over what of a string is in memory


def spooled(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "spool").rglob("*") if path.is_file() and path.stat().st_size]


def broken_off(then: Script, *, quickly: bool = True) -> Script:
    """A call whose stream ends after the event with the id `1`; `then` has the GETs that go on with it."""

    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            await exchange.head()
            await exchange.event(id=1, **({"retry": 0} if quickly else {}))
            await exchange.event(NOTE)
        elif exchange.resumes is not None:
            await then(exchange)

    return script


async def test_a_stream_that_breaks_off_goes_on_from_its_last_event(tmp_path: Path) -> None:
    async def then(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event(exchange.answer(f"after {exchange.resumes}", web.calls()[0].message["id"]))

    async with serving(broken_off(then)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert (await world.call("t")).text == "after 1"
        assert len(web.calls()) == 1, "it is not sent again"
        (resumed,) = [exchange for exchange in web.gets() if exchange.resumes]
        assert resumed.headers["mcp-session-id"] == "one"
        assert resumed.headers["mcp-protocol-version"] == web.calls()[0].headers["mcp-protocol-version"]
        assert (await world.ref.status()).restarts == 0


async def test_a_long_text_that_broke_off_is_there_once(tmp_path: Path) -> None:
    async def then(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event(exchange.answer(LONG, web.calls()[0].message["id"]))

    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            await exchange.head()
            await exchange.event(id=1, retry=0)
            await exchange.raw(b'data: {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"')
            await exchange.raw(b"x" * 500_000)
        elif exchange.resumes is not None:
            await then(exchange)

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert isinstance(result.whole, SpoolFile) and result.whole.path.read_text() == LONG
        assert spooled(tmp_path) == [result.whole.path]
        result.whole.discard()


async def test_a_stream_may_break_off_as_often_as_it_brings_something(tmp_path: Path) -> None:
    async def then(exchange: Exchange) -> None:
        await exchange.head()
        last = int(exchange.resumes or 0)
        if last < RESUMES_MOST + 2:
            await exchange.event(NOTE, id=last + 1)
        else:
            await exchange.event(exchange.answer("at last", web.calls()[0].message["id"]))

    async with serving(broken_off(then)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert (await world.call("t")).text == "at last"


@pytest.mark.parametrize("how", ["empty", "closed", "503"])
async def test_one_that_brings_nothing_is_given_up(tmp_path: Path, how: str) -> None:
    async def then(exchange: Exchange) -> None:
        if how == "closed":
            await exchange.stream.aclose()
        else:
            await exchange.head(503 if how == "503" else 200)

    async with serving(broken_off(then)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error and "asked for again" in result.text
        assert len([exchange for exchange in web.gets() if exchange.resumes]) == RESUMES_MOST
        web.script = good
        assert (await world.call("t")).text == "good"


async def test_a_server_that_is_away_for_a_moment(tmp_path: Path) -> None:
    async def then(exchange: Exchange) -> None:
        resumed = [one for one in web.gets() if one.resumes]
        if len(resumed) < RESUMES_MOST:
            await exchange.head(503, "text/html")
        else:
            await exchange.head()
            await exchange.event(exchange.answer("back", web.calls()[0].message["id"]))

    async with serving(broken_off(then)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert (await world.call("t")).text == "back"


async def test_a_server_that_does_not_go_on(tmp_path: Path) -> None:
    async with serving(broken_off(good)) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error and "405" in result.text
        assert len([exchange for exchange in web.gets() if exchange.resumes]) == 1


async def test_a_stream_without_ids_is_not_asked_for_again(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            await exchange.head()
            await exchange.event(NOTE)

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error and "ended without an answer" in result.text
        assert [exchange for exchange in web.gets() if exchange.resumes] == []


@pytest.mark.parametrize(
    ("said", "waits"), [("", RESUME_FIRST), ("0", RESUME_LEAST), ("2500", 2.5), ("99999999", RESUME_LONGEST)]
)
async def test_the_wait_before_that_is_the_servers_within_bounds(said: str, waits: float) -> None:
    async def nobody(message: object) -> None: ...

    reader = Reader(1, nobody, None)  # type: ignore[arg-type]
    (end,) = EventScanner().feed(b"id: 1\n" + (b"retry: %s\n" % said.encode() if said else b"") + b"\n")
    reader._end_event(end)  # type: ignore[arg-type]
    assert (reader.wait, reader.last_id) == (waits, "1")


# ------------------------------------------------------------ sessions
@pytest.mark.parametrize("how", ["404", "400", "resumed"])
async def test_a_session_that_is_forgotten_is_begun_anew(tmp_path: Path, how: str) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.headers.get("mcp-session-id") == "two":
            await good(exchange)
        elif exchange.what == "tools/call" and how == "404":
            await exchange.head(404, "text/html")
        elif exchange.what == "tools/call" and how == "400":
            await exchange.json(exchange.error("Bad Request: No valid session ID provided"), 400)
        elif exchange.what == "tools/call":
            await exchange.head()
            await exchange.event(id=1, retry=0)
        elif exchange.resumes is not None:
            await exchange.head(404, "text/html")

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error and "session" in result.text
        assert (await world.call("t")).text == "good"
        assert (await world.ref.status()).restarts == 1
        assert web.begun == 2
        assert web.methods().count("DELETE") == 0, "there is nothing to end"


async def test_another_mistake_is_no_end_of_the_session(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            await exchange.json(exchange.error("a bad argument"), 400)

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error and "400" in result.text and "a bad argument" in result.text
        web.script = good
        assert (await world.call("t")).text == "good"
        assert web.begun == 1


async def test_a_session_is_ended_by_name_and_each_request_has_it(tmp_path: Path) -> None:
    async with serving() as web:
        async with opened(tmp_path, server=Server(url=web.url)) as world:
            await world.call("t")
            await until(lambda: GET in web.methods())
        first, *others = web.seen
        assert first.what == "initialize" and "mcp-session-id" not in first.headers
        assert {exchange.headers.get("mcp-session-id") for exchange in others} == {"one"}
        assert {exchange.what for exchange in others} >= {"notifications/initialized", "tools/list", "tools/call"}
        assert web.methods().count("DELETE") == 1 and others[-1].method == "DELETE"
        await until(lambda: web.open == 0)


async def test_a_server_that_does_not_take_its_end_is_left_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_http, "GOODBYE_SECONDS", 0.1)

    async def script(exchange: Exchange) -> None:
        if exchange.method == "DELETE":
            await exchange.hang()
        await good(exchange)

    async with serving(script) as web:
        async with opened(tmp_path, server=Server(url=web.url)) as world:
            await world.call("t")
        assert web.methods()[-1] == "DELETE"


async def test_a_server_without_sessions_has_no_stream_and_no_end(tmp_path: Path) -> None:
    async with serving(sessions=[]) as web:
        async with opened(tmp_path, server=Server(url=web.url)) as world:
            assert (await world.call("t")).text == "good"
        assert set(web.methods()) == {POST}


@pytest.mark.parametrize("bad", ["with a space", "with-\xe9", "x\x07y"])
async def test_an_id_of_a_session_that_is_none(tmp_path: Path, bad: str) -> None:
    async with serving(sessions=[bad] * 9) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        result = await world.call("t")
        assert result.is_error and web.calls() == []


# ------------------------------------------------------------ what a server says by itself
async def listed(world: World) -> list[str]:
    return [spec.name.removeprefix("fake.") for spec in await world.ref.specs()]


async def test_tools_that_have_changed_are_told_and_the_stream_goes_on(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.method == GET and exchange.resumes == "7":
            web.tools = ["t", "third"]
            await exchange.head()
            await exchange.event(CHANGED, id=8)
            await exchange.hang()
        elif exchange.method == GET:
            await exchange.head()
            await exchange.raw(b": hello\n\n")
            await ready.wait()
            web.tools = ["t", "second"]
            await exchange.event(CHANGED, id=7, retry=0)
        await good(exchange)

    ready = trio.Event()
    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert await listed(world) == ["t"]
        ready.set()
        while "second" not in await listed(world):  # noqa: ASYNC110
            await trio.sleep(0.01)
        while "third" not in await listed(world):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await world.call("t")).text == "good"


@pytest.mark.parametrize("begin", [b'data: {"jsonrpc":"2.0","method":"', b": "])
async def test_what_is_said_without_an_end_is_broken_off(
    tmp_path: Path, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.method == GET:
            gets.append(0)
            await exchange.head()
            await exchange.raw(begin)
            while True:
                await exchange.raw(bytes(64 * KIB))
                gets[-1] += 64 * KIB
        await good(exchange)

    gets: list[int] = []
    monkeypatch.setattr(mcp_http, "RESUME_FIRST", 0.01)
    monkeypatch.setattr("actors.toolsets.mcp_answers.RESUME_FIRST", 0.01)
    monkeypatch.setattr(test_toolset_mcp, "QUICK", attrs.evolve(test_toolset_mcp.QUICK, mcp_unasked_bytes=MIB))
    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        assert (await world.call("t")).text == "good"
        await until(lambda: len(gets) > 2)
        assert gets[0] >= MIB
        assert (await world.call("t")).text == "good"
        assert (await world.ref.status()).restarts == 0


@pytest.mark.parametrize("status", [400, 404, 405, 501])
async def test_a_server_that_has_no_stream_for_that(tmp_path: Path, status: int) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.method == GET:
            await exchange.json(exchange.error("Unknown session or method"), status)
        await good(exchange)

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        await world.ref.specs()
        await until(lambda: bool(web.gets()) and web.open == 0)
        assert (await world.call("t")).text == "good"
        assert (await world.ref.status()).restarts == 0 and web.begun == 1


async def test_what_is_said_on_a_calls_own_stream(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call":
            token = exchange.message["params"]["_meta"]["progressToken"]
            params = {"progressToken": token, "progress": 1, "total": 2, "message": "half"}
            await exchange.head()
            await exchange.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            await exchange.event({"jsonrpc": "2.0", "id": "q", "method": "ping"})
            while not any(one.message.get("id") == "q" for one in web.seen):  # noqa: ASYNC110
                await trio.sleep(0.01)
            await exchange.event(exchange.answer("done"))

    async with serving(script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        shown: list[str] = []
        result = await world.ref.call("t", b"{}", CONTEXT, shown.append)
        assert result.text == "done" and shown == ["half\n"]


async def test_headers_of_the_environment_go_with_every_request_and_into_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "s3cr3t-0f-th1s-t3st"

    async def script(exchange: Exchange) -> None:
        if exchange.what == "tools/call" and len(web.calls()) == 1:
            await exchange.head(401, "text/html")
            await exchange.raw(secret.encode())
        elif exchange.what == "tools/call" and len(web.calls()) == 2:
            await exchange.head()
            await exchange.event(id=1, retry=0)
        elif exchange.resumes:
            await exchange.head()
            await exchange.event(exchange.answer("good", web.calls()[-1].message["id"]))

    with caplog.at_level(logging.DEBUG):
        async with serving(script) as web:
            server = Server(url=web.url, headers_env={"X-Key": "KEY"}, environ={"KEY": secret})
            async with opened(tmp_path, server=server) as world:
                refused = await world.call("t")
                assert refused.is_error and "401" in refused.text and "headers_env" in refused.text
                assert secret not in refused.text
                assert (await world.call("t")).text == "good"
            assert {exchange.method for exchange in web.seen} == {"GET", "POST", "DELETE"}
            assert {exchange.headers.get("x-key") for exchange in web.seen} == {secret}
    assert secret not in caplog.text and secret not in repr(server)


@pytest.mark.parametrize("key", ["first-half\nsecond-half", "half-\xe9", "half-漢"])
async def test_a_header_that_cannot_be_sent_is_not_shown(tmp_path: Path, key: str) -> None:
    async with serving() as web:
        server = Server(url=web.url, headers_env={"X-Key": "KEY"}, environ={"KEY": key})
        async with opened(tmp_path, server=server) as world:
            result = await world.call("t")
            assert result.is_error and "header" in result.text and "half" not in result.text
        assert web.seen == []
