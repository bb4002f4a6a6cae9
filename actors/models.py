"""The models of the configuration, and their calls as streams of events.

`Models` is not an actor: a call lives in the run that opened it and ends with it. What calls share, the HTTP client,
is opened at the first call to a service and closed with `Models`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, Self

import attrs
import trio

from actors._http import HttpAnswer, HttpClient, silent
from actors._tally import Tally
from actors.logs import hide, redact
from engine.config import ModelConfig
from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT, KIB, Limits
from engine.prices import Price, priced
from engine.providers import anthropic_request, demo, openai_request
from engine.providers.anthropic_answer import AnthropicDecoder
from engine.providers.base import Decoder, ModelEvent, ModelRequest, ReasoningDelta, TextDelta, UsageReported
from engine.providers.faults import error_from_status
from engine.providers.openai_answer import OpenAIDecoder
from engine.providers.pieces import Pieces
from engine.redaction import HIDDEN
from engine.transcript.records import Usage
from engine.transcript.window import Room

_log = logging.getLogger("greenroom.models")

# After the finish reason the usage may still come, after the end of the answer only the end of the body.
_AFTER_FINISH: Final = 2.0
_AFTER_DONE: Final = 0.1
# Of the body of an error answer: services explain themselves in less.
_ERROR_BODY: Final = 16 * KIB
# Reading that body may take this long; the status alone is an answer too.
_ERROR_BODY_SECONDS: Final = 5.0
# A key file holds one line; more is another file.
_KEY_MAX: Final = 8 * KIB
# Events of the demo model in one batch, after which the loop gets its turn.
_DEMO_BATCH: Final = 64
_DELTAS: Final = frozenset({TextDelta, ReasoningDelta})


class ModelStream(Protocol):
    async def receive(self) -> list[ModelEvent] | None:
        """The next events as they arrived, never an empty list; None after the last. Raises PeerError
        ("provider_error", "provider_timeout", "context_overflow"), after which it may not be called again."""


@attrs.frozen(slots=True, kw_only=True)
class ModelsStatistics:
    models: int
    calls: int  # open now
    piece_bytes: int  # of messages kept as they stand in requests


class Models:
    """`configs` by the names that users give. Use as `async with`; calls have to be closed before it."""

    def __init__(
        self,
        configs: Mapping[str, ModelConfig],
        limits: Limits = DEFAULT,
        environ: Mapping[str, str] = os.environ,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        for config in configs.values():  # before they are used: something else may show the environment
            hide(environ.get(config.api_key_env or "", "").strip())
        self._configs = dict(configs)
        self._limits = limits
        self._environ = environ
        self._http = HttpClient(limits)
        self._pieces = Pieces(limits.request_cache_bytes)
        self._threads = trio.CapacityLimiter(4)
        self._calls = 0

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(self._http.run)
            self._task = nursery
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._calls == 0, "a model call is open longer than the models"
        self._task.cancel_scope.cancel(reason="closed")
        await self._stack.__aexit__(None, None, None)  # what ended the block goes on as it is, not in a group
        await self._http.aclose()

    def has(self, name: str) -> bool:
        return name in self._configs

    def room(self, name: str) -> Room | None:
        """What the model takes, None for one that is not configured."""
        config = self._configs.get(name)
        if config is None:
            return None
        return Room(
            window=config.context_window,
            answer=config.max_output_tokens,
            compact_at=config.compact_at,
            compact_model=config.compact_model,
        )

    def retried(self, name: str, code: str) -> None:
        """A call that failed with this code is repeated: to be counted."""
        self._tally.model_retries[name, code] += 1

    def forget(self, session_id: str) -> None:
        """The session has left memory: what is kept of its requests goes too."""
        self._pieces.forget(session_id)

    def statistics(self) -> ModelsStatistics:
        return ModelsStatistics(models=len(self._configs), calls=self._calls, piece_bytes=self._pieces.bytes)

    def shed(self) -> None:
        """Let go what is kept for the next requests."""
        self._pieces.clear()

    @contextlib.asynccontextmanager
    async def open(self, name: str, request: ModelRequest) -> AsyncIterator[ModelStream]:
        """One call of the model `name`; the request's `model` is replaced by what the endpoint knows.

        Leaving the block ends the call: an answer that is not read to its end costs its connection, which is closed
        at once. Raises CallerError("unknown_model") and what `receive` raises.
        """
        config = self._configs.get(name)
        if config is None:
            raise CallerError("unknown_model", f"no model {name!r} is configured")
        self._calls += 1
        self._tally.model_calls[name] += 1
        began = trio.current_time()
        try:
            async with self._stream(name, config, request) as stream:
                counted = _Counted(stream, self._tally, config.price)
                try:
                    yield counted
                finally:
                    self._tally.used(name, counted.usage)
        except PeerError as exc:
            self._tally.model_failures[name, exc.code] += 1
            # The text is the service's, which may quote what it was sent.
            _log.warning("a call of the model %s failed: %s", name, exc.code)
            _log.debug("the model %s: %s", name, exc.message)
            raise
        finally:
            self._calls -= 1
            self._tally.model_seconds[name].observe(trio.current_time() - began)

    def _stream(
        self, name: str, config: ModelConfig, request: ModelRequest
    ) -> AbstractAsyncContextManager[ModelStream]:
        if config.provider == "demo":
            return contextlib.nullcontext(_DemoStream(request))
        return self._service(config, attrs.evolve(request, model=config.model or name))

    @contextlib.asynccontextmanager
    async def _service(self, config: ModelConfig, request: ModelRequest) -> AsyncIterator[ModelStream]:
        key, source = await read_key(config, self._environ, self._threads)
        call = (_anthropic if config.provider == "anthropic" else _openai)(
            config, request, key, self._limits, self._pieces
        )
        url, model = call.url, request.model
        headers = {"accept": "text/event-stream", "user-agent": "greenroom", **call.headers}
        deadlines = _Deadlines(self._limits)
        with _redacted(key):
            async with contextlib.AsyncExitStack() as stack:
                with deadlines.scope() as scope:
                    answer = await stack.enter_async_context(self._http.post(url, headers, call.body, request.media))
                if scope.cancelled_caught:
                    raise deadlines.missed()
                if answer.status != 200:
                    head = b""
                    with trio.move_on_after(_ERROR_BODY_SECONDS), contextlib.suppress(PeerError):
                        head = await answer.head(_ERROR_BODY)
                    raise error_from_status(
                        answer.status, answer.headers, head, model=model, url=url, key_source=source
                    )
                yield _ServiceStream(answer, call.decoder, deadlines)


async def read_key(
    config: ModelConfig, environ: Mapping[str, str], limiter: trio.CapacityLimiter | None = None
) -> tuple[str | None, str | None]:
    """The key, read anew for each call, and where it comes from; (None, None) for a model that has none. It is hidden
    from now on. Raises PeerError if it cannot be used."""
    if config.api_key_env is not None:
        source = f"the environment variable {config.api_key_env}"
        text = environ.get(config.api_key_env)
        if text is None:
            raise PeerError("provider_error", f"the model's key is missing: {source} is not set")
    elif config.api_key_file is not None:
        source = f"the file {config.api_key_file}"
        try:
            text = await trio.to_thread.run_sync(
                _read_key, config.api_key_file, limiter=limiter, abandon_on_cancel=True
            )
        except OSError as exc:
            raise PeerError("provider_error", f"the model's key is missing: {source}: {exc.strerror}") from None
    else:
        return None, None
    text = text.strip()
    hide(text)
    if not text or not text.isascii() or not text.isprintable():
        raise PeerError("provider_error", f"{source} does not hold a key: one line of ASCII was expected")
    return text, source


def service(config: ModelConfig, key: str | None) -> tuple[str, dict[str, str]]:
    """Where the service of a model is, without a slash at the end, and the headers that each request has."""
    if config.provider == "anthropic":
        # Some write the version of the path into the URL, as other services want it.
        base = (config.base_url or anthropic_request.BASE_URL).rstrip("/").removesuffix("/v1")
        headers = {"anthropic-version": anthropic_request.VERSION}
        return f"{base}/v1", headers | ({} if key is None else {"x-api-key": key})
    assert config.base_url is not None, "the configuration refuses a service without a URL"
    return config.base_url.rstrip("/"), {} if key is None else {"authorization": f"Bearer {key}"}


@attrs.frozen(slots=True, kw_only=True)
class _Call:
    """A call in the format of its provider."""

    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)  # with the key
    body: Iterable[bytes]
    decoder: Decoder


def _openai(config: ModelConfig, request: ModelRequest, key: str | None, limits: Limits, pieces: Pieces) -> _Call:
    base, headers = service(config, key)
    return _Call(
        url=f"{base}/chat/completions",
        headers=headers,
        body=openai_request.encode_request(request, pieces),
        decoder=OpenAIDecoder(limits),
    )


def _anthropic(config: ModelConfig, request: ModelRequest, key: str | None, limits: Limits, pieces: Pieces) -> _Call:
    base, headers = service(config, key)
    return _Call(
        url=f"{base}/messages",
        headers=headers,
        # Services that only speak the format may refuse a field that they do not know.
        body=anthropic_request.encode_request(
            request, config.max_output_tokens, pieces, cached=config.base_url is None
        ),
        decoder=AnthropicDecoder(limits),
    )


class _Deadlines:
    """Of one call: no bytes for `progress_timeout`, or no end after `call_timeout`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._end = trio.current_time() + limits.call_timeout

    @property
    def over(self) -> bool:
        return trio.current_time() >= self._end

    def scope(self, seconds: float = math.inf) -> trio.CancelScope:
        """For the next wait for bytes, `seconds` at the most."""
        seconds = min(seconds, self._limits.progress_timeout)
        return trio.CancelScope(deadline=min(trio.current_time() + seconds, self._end))

    def missed(self) -> PeerError:
        """Why a scope was cancelled. A call that took all of its time is not worth another."""
        if self.over:
            return PeerError(
                "provider_timeout", f"the model's service did not end its answer in {self._limits.call_timeout:g} s"
            )
        return silent(self._limits.progress_timeout)


class _ServiceStream:
    def __init__(self, answer: HttpAnswer, decoder: Decoder, deadlines: _Deadlines) -> None:
        self._answer = answer
        self._decoder = decoder
        self._deadlines = deadlines
        self._ended = False

    async def receive(self) -> list[ModelEvent] | None:
        decoder = self._decoder
        while decoder.error is None and not self._ended:
            if decoder.finished:
                # What may follow is usage, and the end that lets the connection be used again.
                data = await self._rest(_AFTER_DONE if decoder.done else _AFTER_FINISH)
            else:
                data = await self._bytes()
            self._ended = not data
            events = decoder.feed(data) if data else decoder.close()
            if events:
                return events
        if decoder.error is not None:
            raise decoder.error
        return None

    async def _bytes(self) -> bytes:
        data = await self._answer.receive()
        if self._deadlines.over:
            raise self._deadlines.missed()
        return data

    async def _rest(self, seconds: float) -> bytes:
        with self._deadlines.scope(seconds), contextlib.suppress(PeerError):
            return await self._answer.receive()
        return b""


class _Counted:
    """A stream, and what passes through it in numbers; usage gets its price."""

    def __init__(self, stream: ModelStream, tally: Tally, price: Price | None) -> None:
        self._stream = stream
        self._tally = tally
        self._price = price
        self.usage = Usage()

    async def receive(self) -> list[ModelEvent] | None:
        events = await self._stream.receive()
        if events is not None:
            for index, event in enumerate(events):
                if type(event) in _DELTAS:
                    self._tally.deltas += 1
                elif isinstance(event, UsageReported):
                    self.usage = priced(event.usage, self._price)
                    events[index] = UsageReported(self.usage)
        return events


class _DemoStream:
    def __init__(self, request: ModelRequest) -> None:
        self._script = demo.answer(request)
        self._next: demo.Timed | None = next(self._script, None)

    async def receive(self) -> list[ModelEvent] | None:
        if self._next is None:
            return None
        await trio.sleep(self._next[0])  # a checkpoint too
        batch: list[ModelEvent] = [self._next[1]]
        self._next = next(self._script, None)
        while self._next is not None and self._next[0] == 0 and len(batch) < _DEMO_BATCH:
            batch.append(self._next[1])
            self._next = next(self._script, None)
        return batch


@contextlib.contextmanager
def _redacted(key: str | None) -> Iterator[None]:
    """A service may repeat the key in its error: it is taken out before anybody sees it, however short it is."""
    try:
        yield
    except PeerError as exc:
        message = redact(exc.message.replace(key, HIDDEN) if key is not None else exc.message)
        if message == exc.message:
            raise
        raise PeerError(exc.code, message, retry=exc.retry, **exc.data) from None


def _read_key(path: str) -> str:
    # Not blocking: a named pipe in the key's place would hold the thread for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return (file.read(_KEY_MAX) or b"").decode("utf-8", "replace")
