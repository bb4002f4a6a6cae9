"""Calls against a real service in another process: chat completions, and where they differ messages too."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trio
import trustme

from actors.models import Models
from engine.config import ModelConfig
from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.redaction import HIDDEN
from engine.transcript.media import BLOCK_BYTES, marker
from engine.transcript.records import (
    AssistantMessage,
    FilePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolPart,
    Usage,
    UserMessage,
)
from tests.model_formats import SIGNATURE
from tests.model_server import ModelServer, model_server

LIMIT = 60.0  # absolute, for a hung test
EACH_PROVIDER = pytest.mark.parametrize("provider", ["openai", "anthropic"])


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def request(text: str, *parts: Part) -> ModelRequest:
    messages = [Message(UserMessage(id="m1", created_at=1, run_id="run"), (TextPart(id="p", text=text),))]
    if parts:
        messages.append(Message(AssistantMessage(id="m2", created_at=1, run_id="run"), parts))
    return ModelRequest(model="ours", instructions="Be brief.", messages=tuple(messages), tools=())


def models(server: ModelServer, environ: dict[str, str] | None = None, silence: float = LIMIT, **fields: Any) -> Models:
    """`silence` is the progress timeout; other fields are the model's."""
    config = {"provider": "openai", "base_url": server.url, "model": "theirs", **fields}
    limits = attrs.evolve(DEFAULT, progress_timeout=silence, connect_timeout=LIMIT)
    return Models({"ours": ModelConfig(**config), "demo": ModelConfig(provider="demo")}, limits, environ or {})


async def read(models: Models, request: ModelRequest, name: str = "ours") -> list[ModelEvent]:
    events = []
    async with models.open(name, request) as stream:
        while (batch := await stream.receive()) is not None:
            assert batch
            events += batch
    return events


async def call(server: ModelServer, text: str, **fields: Any) -> list[ModelEvent]:
    with trio.fail_after(LIMIT):
        async with models(server, **fields) as ours:
            return await read(ours, request(text))


async def failed(server: ModelServer, text: str, **fields: Any) -> tuple[str, PeerError]:
    """The text before the error, and the error."""
    told = ""
    with trio.fail_after(LIMIT):
        async with models(server, **fields) as ours:
            with pytest.raises(PeerError) as caught:
                async with ours.open("ours", request(text)) as stream:
                    while (batch := await stream.receive()) is not None:
                        told += text_of(batch)
    return told, caught.value


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def ended(server: ModelServer) -> dict[str, Any]:
    """The newest request, when its answer has ended at the server."""
    number = server.requests()[-1]["number"]
    return await trio.to_thread.run_sync(server.ended, number)


# ------------------------------------------------------------ answers
async def test_a_plain_stream_and_what_was_sent(server: ModelServer) -> None:
    events = await call(server, "hello", environ={"A_KEY": " sk-1 \n"}, api_key_env="A_KEY")
    assert text_of(events) == "Hello from the model server."
    assert set(events[-2:]) == {
        AnswerFinished("stop"),
        UsageReported(Usage(input_tokens=11, output_tokens=3)),
    }
    asked = await ended(server)
    assert asked["target"] == "/v1/chat/completions"
    assert asked["headers"]["authorization"] == "Bearer sk-1"
    assert asked["headers"]["content-length"] == str(asked["size"])
    assert asked["body"]["model"] == "theirs"
    assert asked["body"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]


# ------------------------------------------------------------ images
DIGEST = "5" * 64


def with_image(content: bytes, size: int) -> ModelRequest:
    """A request that shows `content` as an image of `size` bytes between two texts."""
    image = FilePart(id="f", mime="image/png", size=size, data_base64=marker(DIGEST, size))

    async def media(digest: str, offset: int, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        assert digest == DIGEST and most <= BLOCK_BYTES
        return content[offset : offset + most]

    asked = request("before")
    message = Message(asked.messages[0].info, (TextPart(id="p", text="before"), image, TextPart(id="q", text="after")))
    return attrs.evolve(asked, messages=(message,), media=media)


@pytest.mark.parametrize("size", [1, 2, 3, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
async def test_an_image_is_read_while_it_is_sent(server: ModelServer, size: int) -> None:
    content = os.urandom(size)
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            assert text_of(await read(ours, with_image(content, size))) == "Hello from the model server."
        asked = await ended(server)
    before, image, after = asked["body"]["messages"][-1]["content"]
    assert (before["text"], after["text"]) == ("before", "after")
    assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(content).decode()}"


async def test_an_image_that_is_shorter_than_it_was_ends_the_call(server: ModelServer) -> None:
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            with pytest.raises(PeerError) as caught:
                await read(ours, with_image(b"short", BLOCK_BYTES))
            assert caught.value.code == "disk_full"
            assert text_of(await read(ours, request("again"))) == "Hello from the model server."


async def test_what_is_sent_to_a_messages_service(server: ModelServer) -> None:
    events = await call(
        server, "hello", provider="anthropic", environ={"A_KEY": "sk-1"}, api_key_env="A_KEY", max_output_tokens=77
    )
    assert text_of(events) == "Hello from the model server."
    used = Usage(input_tokens=11, output_tokens=3, cache_read_tokens=5, cache_write_tokens=4)
    assert set(events[-2:]) == {AnswerFinished("stop"), UsageReported(used)}
    asked = await ended(server)
    assert asked["target"] == "/v1/messages"
    assert asked["headers"]["x-api-key"] == "sk-1"
    assert asked["headers"]["anthropic-version"] == "2023-06-01"
    assert "authorization" not in asked["headers"]
    assert asked["body"] == {
        "model": "theirs", "stream": True, "max_tokens": 77, "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }  # fmt: skip
    # The version of the path may stand in the URL or not.
    await call(server, "hello", provider="anthropic", base_url=server.url.removesuffix("/v1"))
    asked = await ended(server)
    assert (asked["target"], asked["body"]["max_tokens"]) == ("/v1/messages", 32_000)


async def test_thinking_goes_back_to_the_service_with_the_result(server: ModelServer) -> None:
    with trio.fail_after(LIMIT):
        async with models(server, provider="anthropic") as ours:
            text = '!tool name=files__read_file think=1 input={"path":"a.txt"}'
            events = [event for event in await read(ours, request(text)) if not isinstance(event, UsageReported)]
            signature = f"thinking:{SIGNATURE}"
            assert events[:3] == [
                ReasoningDelta("It has to be read."), ReasoningFinished(signature),
                ToolCallStarted(0, "toolu_1", "files__read_file"),
            ]  # fmt: skip
            assert "".join(e.text for e in events if isinstance(e, ToolInputDelta)) == '{"path":"a.txt"}'
            assert AnswerFinished("tool_calls") in events
            thought = ReasoningPart(id="p1", text="It has to be read.", signature=signature)
            part = ToolPart(
                id="p2", call_id="toolu_1", tool="files.read_file", state="completed", input=b"{}", output="file text"
            )
            assert text_of(await read(ours, request(text, thought, part))) == "The tool said: file text"
    sent = (await ended(server))["body"]["messages"][1]["content"]
    assert sent[0] == {"type": "thinking", "thinking": "It has to be read.", "signature": SIGNATURE}


async def test_a_tool_call_round_trip(server: ModelServer) -> None:
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            text = '!tool name=files__read_file input={"path":"a.txt"}'
            events = await read(ours, request(text))
            assert events[0] == ToolCallStarted(0, "call_1", "files__read_file")
            assert "".join(e.text for e in events if isinstance(e, ToolInputDelta)) == '{"path":"a.txt"}'
            assert AnswerFinished("tool_calls") in events
            part = ToolPart(
                id="t", call_id="call_1", tool="files.read_file", state="completed", input=b"{}", output="file text"
            )
            assert text_of(await read(ours, request(text, part))) == "The tool said: file text"


async def test_many_streams_at_once(server: ModelServer) -> None:
    async def one() -> None:
        events = await read(ours, request("!stream n=200 rate=2000 text=w"))
        assert text_of(events) == "w" * 200
        done.append(1)

    done: list[int] = []
    with trio.fail_after(LIMIT):
        async with models(server) as ours, trio.open_nursery() as nursery:
            for _ in range(120):  # more than the library's pool has by default
                nursery.start_soon(one)
    assert len(done) == 120


async def test_a_connection_is_used_again(server: ModelServer) -> None:
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            await read(ours, request("hello"))
            pool = ours._http._client._transport._pool  # type: ignore[union-attr]
            [first] = pool.connections
            await read(ours, request("hello"))
            assert pool.connections == [first]


@EACH_PROVIDER
@pytest.mark.parametrize("split", ["utf8", "escape"])
async def test_an_emoji_over_two_chunks(server: ModelServer, provider: str, split: str) -> None:
    assert text_of(await call(server, f"!emoji split={split}", provider=provider)) == "a😀b"


@EACH_PROVIDER
async def test_a_large_event(server: ModelServer, provider: str) -> None:
    events = await call(server, "!event bytes=2000000", provider=provider)
    assert 1_999_000 < len(text_of(events)) < 2_000_000
    assert max(len(event.text) for event in events if isinstance(event, TextDelta)) <= DEFAULT.delta_bytes


@EACH_PROVIDER
async def test_an_answer_without_a_stream(server: ModelServer, provider: str) -> None:
    assert text_of(await call(server, "!whole", provider=provider)) == "All at once."


@EACH_PROVIDER
async def test_an_answer_whose_connection_stays_open_ends_all_the_same(server: ModelServer, provider: str) -> None:
    events = await call(server, "!unclosed", silence=2, provider=provider)
    told = [event for event in events if not isinstance(event, UsageReported)]
    assert told == [TextDelta("whole"), AnswerFinished("stop")]
    assert (await ended(server))["end"] == "closed"


async def test_the_demo_model(server: ModelServer) -> None:
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            events = await read(ours, request("count to 1000"), "demo")
    assert text_of(events) == "".join(f"{number} " for number in range(1, 1001))
    assert AnswerFinished("stop") in events


async def test_the_demo_model_lets_others_run(autojump_clock: trio.testing.MockClock) -> None:
    async with Models({"demo": ModelConfig(provider="demo")}) as ours:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await read(ours, request("count to 10000"), "demo")
            nursery.cancel_scope.cancel()
        assert turns > 100
        began = trio.current_time()
        await read(ours, request("count to 5 every 1000 ms"), "demo")
        assert trio.current_time() - began == pytest.approx(4.0)


# ------------------------------------------------------------ faults
@EACH_PROVIDER
async def test_an_error_status(server: ModelServer, provider: str) -> None:
    _, error = await failed(server, "!status code=429 retry_after=3 message=slow_down", provider=provider)
    assert (error.code, error.retry, error.data) == ("provider_error", True, {"status": 429, "retry_after": 3.0})
    assert "slow down" in error.message
    _, error = await failed(server, "!status code=400 message=prompt_is_too_long:_9_tokens", provider=provider)
    assert (error.code, error.retry) == ("context_overflow", False)
    _, error = await failed(server, "!status code=413 kind=request_too_large", provider=provider)
    assert (error.code, error.retry) == ("context_overflow", False)
    _, error = await failed(server, "!status code=529 kind=overloaded_error message=Overloaded", provider=provider)
    assert (error.code, error.retry) == ("provider_error", True)
    _, error = await failed(server, "!status code=404", provider=provider)
    assert "'theirs'" in error.message
    assert server.url in error.message


@EACH_PROVIDER
async def test_a_key_that_is_refused_is_not_shown(server: ModelServer, provider: str) -> None:
    key = "sk-secret-0123456789"
    text = "!status code=401 message=bad_key_{key}"
    _, error = await failed(server, text, environ={"A_KEY": key}, api_key_env="A_KEY", provider=provider)
    assert "A_KEY" in error.message
    assert f"bad key {'Bearer ' if provider == 'openai' else ''}{HIDDEN}" in error.message
    assert key not in repr(error) + "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("text", "before", "says", "retry"),
    [
        ("!error_midstream", "partial ", "overloaded", True),
        ("!cut", "partial ", "was cut", True),
        ("!cut where=chunk", "partial ", "was cut", True),
        ("!cut where=head", "", "was cut", True),
        ("!ended", "partial ", "cut before its answer was complete", True),
        ("!garbage", "partial ", "no server-sent event", False),
        ("!garbage kind=json", "partial ", "not JSON: “{broken”", False),
        ("!garbage kind=utf8", "partial ", r"\xff\xfe", False),
        ("!event bytes=5000000", "", "an event over 4,194,304 bytes", False),
        ("!html", "", "a web page", False),
        ("!html code=502", "", "answered 502: a web page", True),
        ("!error200", "", "no such deployment", False),
        ("!redirect", "", "redirects are not followed", False),
    ],
)
@EACH_PROVIDER
async def test_what_a_service_does_wrong(
    server: ModelServer, provider: str, text: str, before: str, says: str, retry: bool
) -> None:
    told, error = await failed(server, text, provider=provider)
    assert told == before
    assert error.code == "provider_error"
    assert says in error.message
    assert error.retry is retry


@pytest.mark.parametrize(("text", "before"), [("!silence n=2", "partial partial "), ("!hang", ""), ("!slow_head", "")])
@EACH_PROVIDER
async def test_silence(server: ModelServer, provider: str, text: str, before: str) -> None:
    silence = 2 if before else 0.3  # what comes before it has its time on a machine with much else to do
    told, error = await failed(server, text, silence=silence, provider=provider)
    assert told == before
    assert (error.code, error.retry) == ("provider_timeout", True)
    assert f"{silence} s" in error.message
    assert (await ended(server))["end"] == "closed"


@pytest.mark.parametrize(("provider", "retry"), [("openai", True), ("anthropic", False)])
async def test_the_kind_of_an_error_counts_where_it_is_always_told(
    server: ModelServer, provider: str, retry: bool
) -> None:
    told, error = await failed(server, "!error_midstream kind=invalid_request_error", provider=provider)
    assert (told, error.code, error.retry) == ("partial ", "provider_error", retry)


async def test_a_call_that_never_ends(server: ModelServer) -> None:
    limits = attrs.evolve(DEFAULT, call_timeout=0.4)
    config = ModelConfig(provider="openai", base_url=server.url, model="theirs")
    with trio.fail_after(LIMIT):
        async with Models({"ours": config}, limits) as ours:
            with pytest.raises(PeerError) as caught:
                await read(ours, request("!stream n=1000000 rate=50"))
    assert (caught.value.code, caught.value.retry) == ("provider_timeout", False)
    assert (await ended(server))["end"] == "closed"


async def test_nobody_listens(server: ModelServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        _, error = await failed(server, "hello", base_url=url)
    assert (error.code, error.retry) == ("provider_error", True)
    assert "refused" in error.message


async def test_a_connection_that_nobody_accepts_and_one_that_no_tls_answers(server: ModelServer) -> None:
    # The service speaks no TLS: its refusal must end the handshake, not hang it.
    _, error = await failed(server, "hello", base_url=server.url.replace("http:", "https:"))
    assert error.code in ("provider_error", "provider_timeout")


async def test_keys_that_are_missing_or_no_keys(server: ModelServer, tmp_path: Path) -> None:
    before = len(server.requests())
    _, error = await failed(server, "hello", api_key_env="A_KEY")
    assert "A_KEY is not set" in error.message
    _, error = await failed(server, "hello", environ={"A_KEY": "a\r\nx-evil: 1"}, api_key_env="A_KEY")
    assert "does not hold a key" in error.message
    assert "evil" not in error.message
    _, error = await failed(server, "hello", api_key_file=str(tmp_path / "none"))
    assert "No such file" in error.message
    os.mkfifo(tmp_path / "pipe")
    _, error = await failed(server, "hello", api_key_file=str(tmp_path / "pipe"))
    assert "does not hold a key" in error.message
    assert len(server.requests()) == before


async def test_a_key_from_a_file_is_read_for_each_call(server: ModelServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    with trio.fail_after(LIMIT):
        async with models(server, api_key_file=str(file)) as ours:
            for key in ("one", "two"):
                file.write_text(f"{key}\n")
                await read(ours, request("hello"))
                assert server.requests()[-1]["headers"]["authorization"] == f"Bearer {key}"


async def test_a_model_that_is_not_configured(server: ModelServer) -> None:
    async with models(server) as ours:
        assert ours.has("ours")
        assert not ours.has("other")
        assert ours.room("other") is None
        with pytest.raises(CallerError) as caught:
            await read(ours, request("hello"), "other")
        assert caught.value.code == "unknown_model"


# ------------------------------------------------------------ ways to a service
async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with model_server(tls=tmp_path / "server.pem") as server:
        _, error = await failed(server, "hello")
        assert "certificate" in error.message
        assert error.retry is False
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert text_of(await call(server, "!stream n=500")) == "word " * 500
        told, error = await failed(server, "!silence", silence=2)
        assert (told, error.code) == ("partial ", "provider_timeout")


async def test_a_proxy_of_the_environment(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    events = await call(server, "!stream n=500", base_url="http://service.invalid/v1")
    assert text_of(events) == "word " * 500
    monkeypatch.delenv("HTTP_PROXY")
    assert server.requests()[-1]["target"] == "http://service.invalid/v1/chat/completions"


async def test_a_large_request_is_sent_whole(server: ModelServer) -> None:
    texts = [f"{number} " * 20_000 for number in range(10)]
    parts = tuple(TextPart(id="p", text=text) for text in texts)
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            await read(ours, request("hello", *parts))
    asked = server.requests()[-1]
    assert asked["body"]["messages"][-1] == {"role": "assistant", "content": "\n\n".join(texts)}
    assert asked["headers"]["content-length"] == str(asked["size"])


# ------------------------------------------------------------ cancellation
@pytest.mark.parametrize(
    "text", ["!stream n=1000000 rate=100", "!stream n=100000000", "!silence", "!hang", "!slow_head"]
)
async def test_a_cancelled_call_closes_its_connection(server: ModelServer, text: str) -> None:
    before = len(server.requests())

    async def one() -> None:
        await read(ours, request(text))

    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                while len(await trio.to_thread.run_sync(server.requests)) == before:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert (await ended(server))["end"] == "closed"
            assert ours.statistics().calls == 0
            assert ours._http.arrivals.pace.streams == 0
            # The client is as good as before.
            assert text_of(await read(ours, request("hello"))) == "Hello from the model server."


async def test_leaving_early_closes_the_connection(server: ModelServer) -> None:
    with trio.fail_after(LIMIT):
        async with models(server) as ours:
            async with ours.open("ours", request("!stream n=100000000")) as stream:
                assert await stream.receive()
            assert (await ended(server))["end"] == "closed"
            async with ours.open("ours", request("!stream n=100000000")):
                pass
            assert (await ended(server))["end"] == "closed"


async def test_no_descriptor_is_left(server: ModelServer) -> None:
    async with models(server) as ours:
        await read(ours, request("hello"))
    before = len(os.listdir("/proc/self/fd"))
    for text in (
        "hello",
        "!cut",
        "!error_midstream",
        "!garbage",
        "!silence",
        "!status code=500",
        "!event bytes=5000000",
    ):
        async with models(server, silence=0.3) as ours:
            with contextlib.suppress(PeerError):
                await read(ours, request(text))
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------ the client
async def test_the_library_is_loaded_by_the_first_call_in_a_thread(server: ModelServer) -> None:
    async with models(server) as ours:
        assert ours._http._client is None
        await read(ours, request("count to 3"), "demo")
        assert ours._http._client is None
        await read(ours, request("hello"))
        assert isinstance(ours._http._client, httpx2.AsyncClient)


async def test_an_error_inside_comes_out_as_it_is(server: ModelServer) -> None:
    with pytest.raises(KeyError):
        async with models(server):
            raise KeyError
