"""Class I: services that refuse a request as too large, in each known wording, over both formats, on real sockets. A
session outlives all of them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from actors.api import Engine, RunHandle, SessionHandle, open_engine
from engine import codec
from engine.commands import InputFile, SessionChanges, StartRun
from engine.config import Config, ModelConfig
from engine.runs.log import Gap
from engine.transcript.compaction import ATTEMPTS
from tests.model_server import ModelServer, model_server
from tests.overflows import NO_IMAGES, WORDINGS
from tests.stress.transcript_rules import event_problems, transcript_problems

LIMIT = 120.0
PROVIDERS: tuple[Literal["openai", "anthropic"], ...] = ("openai", "anthropic")
PAD = "lorem ipsum dolor sit amet " * 250  # 6,750 bytes
NUMBERS = range(len(WORDINGS))
SOME = NUMBERS[::6]
GREETING = "Hello from the model server."


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@contextlib.asynccontextmanager
async def serving(server: ModelServer, folder: Path, **models: str) -> AsyncIterator[Engine]:
    """An engine whose models are those of the server, by name: what the endpoint calls them says what they answer."""
    configs: dict[str, ModelConfig] = {}
    for provider in PROVIDERS:
        for name, model in {"sane": "greeting", **models}.items():
            configs[f"{provider}-{name}"] = ModelConfig(
                provider=provider, base_url=server.url, model=model, max_output_tokens=1000, context_window=64_000
            )
    with trio.fail_after(LIMIT):
        config = Config(models=configs, default_model="openai-sane", durability="normal")
        async with open_engine(config, data_dir=folder) as engine:
            yield engine


async def told(session: SessionHandle, run: RunHandle) -> list[dict[str, Any]]:
    """The session's messages, which are valid, and agree with what was shown of the run."""
    messages = await session.messages(200)
    assert transcript_problems(messages) == []
    piece = run._feed.log.read(0, 1 << 30)
    assert not isinstance(piece, Gap)
    own = [message for message in messages if message["info"].get("run_id") == run.id]
    assert event_problems([codec.parse(body) for body in piece.events], own) == []
    return messages


def text_of(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["parts"])


@pytest.mark.parametrize("how", ["status", "stream", "stream late=1"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_each_wording_is_followed_by_a_smaller_request(
    server: ModelServer, tmp_path: Path, provider: Literal["openai", "anthropic"], how: str
) -> None:
    # Each in both formats as a status, and inside a stream of one of them; how each is read from a stream is tested
    # where streams are decoded.
    numbers = {"status": NUMBERS, "stream": NUMBERS[PROVIDERS.index(provider) :: 2], "stream late=1": SOME}[how]
    async with serving(server, tmp_path) as engine:
        for number in numbers:
            session = await engine.create_session(model=f"{provider}-sane", toolsets=())
            first = await session.start(f"!greeting {PAD}")
            assert (await first.wait()).status == "completed"
            run = await session.start(f"!overflow n={number} over=5000 how={how}")
            record = await run.wait()
            assert record.status == "completed", (WORDINGS[number][0], record.error)
            messages = await told(session, run)
            kinds = [[part["kind"] for part in message["parts"]] for message in messages]
            assert ["compaction"] in kinds and text_of(messages[-1]) == GREETING, WORDINGS[number][0]
            assert messages[3]["info"]["error"]["code"] == "context_overflow"


@pytest.mark.parametrize("how", ["status", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_service_that_always_refuses_is_asked_three_times(
    server: ModelServer, tmp_path: Path, provider: str, how: str
) -> None:
    """Summaries are refused too. Then the run has failed, visibly, and a service that takes requests is asked next."""
    always = {f"always{number}": f"overflow n={number} how={how}" for number in SOME}
    async with serving(server, tmp_path, **always) as engine:
        for number in SOME:
            session = await engine.create_session(model=f"{provider}-sane", toolsets=())
            assert (await (await session.start(f"hello {PAD}")).wait()).status == "completed"
            before, asked = await session.messages(), server.last()
            run = await session.start(f"again {PAD}", model=f"{provider}-always{number}")
            record = await run.wait()
            assert record.status == "failed" and record.error is not None, WORDINGS[number][0]
            assert record.error.code == "context_overflow" and "3 attempts" in record.error.message
            assert server.last() - asked == ATTEMPTS
            messages = await told(session, run)
            assert messages[: len(before)] == before, "no summary, no change"
            after = await session.start("once more")
            assert (await after.wait()).status == "completed"
            assert text_of((await told(session, after))[-1]) == GREETING


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_too_much_media_is_left_out_the_oldest_first(server: ModelServer, tmp_path: Path, provider: str) -> None:
    media = [number for number in NUMBERS if WORDINGS[number][3] in ("media", "bytes")]
    async with serving(server, tmp_path) as engine:
        for number in media:
            session = await engine.create_session(model=f"{provider}-sane", toolsets=())
            for index in range(4):
                await with_image(engine, session, f"image {index}", f"{index}.png")
            run = await session.start(f"!overflow n={number} images=2")
            assert (await run.wait()).status == "completed", WORDINGS[number][0]
            messages = await told(session, run)
            assert not any(part["kind"] == "compaction" for message in messages for part in message["parts"])
            body = str(server.ended(server.last())["body"])
            assert "attached file 0.png" in body and "attached file 1.png" in body and "not shown" in body
            assert "attached file 3.png" not in body
            # It is remembered: the next run of the session is not refused again.
            asked = server.last()
            again = await session.start(f"!overflow n={number} images=2")
            assert (await again.wait()).status == "completed"
            assert server.last() - asked == 1


async def with_image(engine: Engine, session: SessionHandle, text: str, name: str) -> None:
    data = b"\x89PNG" + bytes(30_000)
    file = InputFile(data_base64=base64.b64encode(data).decode(), mime="image/png", name=name)
    started = await engine.registry.start_run(StartRun(session_id=session.id, input=(text, file)))
    assert (await RunHandle(engine.registry, started.feed).wait()).status == "completed"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_where_the_text_is_what_is_large_the_images_stay(
    server: ModelServer, tmp_path: Path, provider: str
) -> None:
    number = next(number for number in NUMBERS if WORDINGS[number][0] == "Anthropic, bytes")
    async with serving(server, tmp_path) as engine:
        session = await engine.create_session(model=f"{provider}-sane", toolsets=())
        assert (await (await session.start(f"hello {PAD * 8}")).wait()).status == "completed"
        await with_image(engine, session, "look", "small.png")
        run = await session.start(f"!overflow n={number} over=60000")
        assert (await run.wait()).status == "completed"
        messages = await told(session, run)
        assert any(part["kind"] == "compaction" for message in messages for part in message["parts"])
        assert '"type": "image' in json.dumps(server.ended(server.last())["body"])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_one_image_that_is_too_large_is_left_out(server: ModelServer, tmp_path: Path, provider: str) -> None:
    number = next(number for number in NUMBERS if WORDINGS[number][0] == "Anthropic, an image")
    async with serving(server, tmp_path) as engine:
        session = await engine.create_session(model=f"{provider}-sane", toolsets=())
        await with_image(engine, session, "look", "large.png")
        run = await session.start(f"!overflow n={number} images=0")
        assert (await run.wait()).status == "completed"
        assert "attached file large.png" in str(server.ended(server.last())["body"])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_images_that_a_model_does_not_take_are_left_out(
    server: ModelServer, tmp_path: Path, provider: str
) -> None:
    """A tool's picture, or one of another model's time, does not end the session."""
    async with serving(server, tmp_path) as engine:
        for number, (whose, *_) in enumerate(NO_IMAGES):
            session = await engine.create_session(model=f"{provider}-sane", toolsets=())
            for name in ("one.png", "two.png"):
                await with_image(engine, session, "look", name)
            for asked in (2, 1):  # it is remembered
                before = server.last()
                run = await session.start(f"!blind n={number}")
                assert (await run.wait()).status == "completed", whose
                assert server.last() - before == asked
                body = str(server.ended(server.last())["body"])
                assert "attached file one.png" in body and "attached file two.png" in body
            assert not any(part["kind"] == "compaction" for one in await told(session, run) for part in one["parts"])
        # Who has shown none is not helped by that.
        session = await engine.create_session(model=f"{provider}-sane", toolsets=())
        record = await (await session.start("!status code=400 message=unsupported_image")).wait()
        assert record.error is not None and (record.status, record.error.code) == ("failed", "provider_error")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_summary_that_a_service_does_not_give_is_no_summary(
    server: ModelServer, tmp_path: Path, provider: str
) -> None:
    """A stream that ends well and says nothing."""
    async with serving(server, tmp_path, silent="stream n=0") as engine:
        session = await engine.create_session(model=f"{provider}-sane", toolsets=())
        for _ in range(2):
            assert (await (await session.start(PAD)).wait()).status == "completed"
        before = await session.messages()
        handle = await engine.session(session.id)
        await engine.registry.update_session(session.id, changes_of(f"{provider}-silent"))
        run = await handle.compact()
        record = await run.wait()
        assert record.status == "failed" and record.error is not None and "no summary" in record.error.message
        assert await session.messages() == before
        await engine.registry.update_session(session.id, changes_of(f"{provider}-sane"))
        run = await handle.compact()
        assert (await run.wait()).status == "completed"
        messages = await told(session, run)
        assert messages[-1]["parts"][0]["summary"] == GREETING


def changes_of(model: str) -> SessionChanges:
    return SessionChanges(model=model)
