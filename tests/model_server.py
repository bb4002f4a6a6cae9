"""A chat-completions and messages service for tests and benchmarks, as a process of its own with real sockets.

    python -m tests.model_server --port 0        prints `model server http://127.0.0.1:PORT/v1` when it listens

What it answers is asked for by the last user message if it begins with `!`, else by the model's name: a scenario
and its settings, such as `stream n=100 rate=50`. Unknown names stream a greeting. `GET /_requests` gives what was
asked so far and how each answer ended; `GET /_requests/N` the same of one, once its answer has ended, and
`GET /_asked/WORD` of the newest whose body has the word, once there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h11
import trio

from tests import attacks
from tests.model_formats import Format, compact, format_of
from tests.overflows import NO_IMAGES, WORDINGS

Settings = dict[str, str]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
KEPT = 2000  # requests that are remembered
FAILED: Counter[str] = Counter()  # requests of `flaky` by their id
BODY_KEPT = 1 << 20  # bytes of a body that are remembered
READY = "model server "


class Asked:
    """One request and how its answer ended: `done`, `cut` by the scenario, or `closed` by the client."""

    def __init__(self, number: int, target: str, headers: dict[str, str], body: bytes) -> None:
        self.number, self.target, self.headers = number, target, headers
        self.size = len(body)
        self.body = json.loads(body) if body and len(body) <= BODY_KEPT else None
        self.end: str | None = None
        self.ended_at: float | None = None  # on the monotonic clock, which all processes of a machine share
        self.ended = trio.Event()

    def finish(self, how: str) -> None:
        if self.end is None:
            self.end, self.ended_at = how, time.monotonic()
        self.ended.set()

    def shown(self) -> dict[str, Any]:
        names = ("number", "target", "headers", "size", "body", "end", "ended_at")
        return {name: getattr(self, name) for name in names}


class Answer:
    """What a scenario writes to."""

    def __init__(self, stream: trio.abc.Stream, asked: Asked) -> None:
        self.stream, self.asked = stream, asked
        self.format: Format = format_of(asked.target, str((asked.body or {}).get("model", "")))

    async def raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def chunk(self, data: bytes) -> None:
        await self.stream.send_all(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, value: dict[str, Any]) -> None:
        await self.chunk(self.format.framed(value))

    async def begin(self, text: bool = True) -> None:
        await self.raw(HEAD)
        for event in self.format.begin(text):
            await self.event(event)

    async def text(self, text: str) -> None:
        await self.event(self.format.text(text))

    async def finish(self, calls: bool = False, words: int = 3) -> None:
        for event in self.format.finish(calls, words):
            await self.event(event)

    async def end(self, calls: bool = False, words: int = 3) -> None:
        await self.finish(calls, words)
        await self.chunk(self.format.last(words))
        await self.raw(b"0\r\n\r\n")

    async def plain(self, status: str, body: bytes, kind: str = "application/json", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


# ------------------------------------------------------------ scenarios
class Cut(Exception):
    """The scenario breaks the connection."""


async def greeting(answer: Answer, asked: Settings) -> None:
    await answer.begin()
    for word in ("Hello ", "from the ", "model server."):
        await answer.text(word)
    await answer.end()


async def stream(answer: Answer, asked: Settings) -> None:
    """n deltas of `text`, `rate` a second (0: as fast as they go), `batch` of them in a chunk. {n} in the text is the
    delta's number; with stamp=1 each begins with the monotonic time it was sent, and that is all without a text.
    What is not ASCII is escaped in every other batch."""
    count, rate, batch = int(asked.get("n", "10")), float(asked.get("rate", "0")), int(asked.get("batch", "1"))
    text = asked.get("text", "" if asked.get("stamp") else "word ")
    await answer.begin()
    before, after = answer.format.framed(answer.format.text("@")).split(b"@")
    # Streams that begin together do not tick together.
    start = trio.current_time() + (answer.asked.number * 0.618 % 1) / rate if rate else 0.0
    for number in range(0, count, batch):
        if rate:
            await trio.sleep_until(start + number / rate)
        content = f"{time.monotonic():.6f} {text}" if asked.get("stamp") else text
        content = json.dumps(content.replace("{n}", str(number)), ensure_ascii=number // batch % 2 == 0)[1:-1]
        data = (before + content.encode() + after) * min(batch, count - number)
        await answer.stream.send_all(b"%x\r\n%b\r\n" % (len(data), data))
    await answer.end(words=count)


async def document(answer: Answer, asked: Settings) -> None:
    """Markdown of `size` bytes in pieces of `piece`, `rate` a second (0: as fast as they go); it has `n` in all its
    parts, and ends with a paragraph `end-N.`"""
    number, size, piece = asked.get("n", "0"), int(asked.get("size", "8192")), int(asked.get("piece", "256"))
    rate, end = float(asked.get("rate", "0")), f"\n\nend-{number}."
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        name = f"{number}.{len(parts)}"
        parts.append(
            f"## Part {name}\n\nSome *words* of **{name}** with `code` and a [link](http://example.org/{name}), "
            f"{'and many more words behind them ' * 5}\n\n- an item\n- another of {name}\n\n"
            f"```python\ndef name(value):\n    return value + {len(parts)}  # {name}\n```\n\n"
            f"| one | two |\n|---|--:|\n| cell | {name} |\n\n> quoted {name}\n\n"
        )
    text = "".join(parts)[: size - len(end)] + end
    await answer.begin()
    start = trio.current_time()
    for at in range(0, len(text), piece):
        if rate:
            await trio.sleep_until(start + at / piece / rate)
        await answer.text(text[at : at + piece])
    await answer.end()


async def tool(answer: Answer, asked: Settings) -> None:
    """A call of `name` with `input`, after a thought with think=1; when its result comes back, that is told."""
    assert answer.asked.body is not None
    result = answer.format.result(answer.asked.body)
    if result is not None:
        await answer.begin()
        await answer.text(f"The tool said: {result[:200]}")
        await answer.end()
        return
    text = asked.get("input", "{}")
    await answer.begin(text=False)
    thoughts = answer.format.thinking("It has to be read.") if asked.get("think") else []
    for event in thoughts + answer.format.call(asked["name"], [text[at : at + 5] for at in range(0, len(text), 5)]):
        await answer.event(event)
    await answer.end(calls=True)


async def attack(answer: Answer, asked: Settings) -> None:
    """All of tests.attacks, torn into pieces of `size` characters."""
    size = int(asked.get("size", "7"))
    await answer.begin()
    for at in range(0, len(attacks.ALL), size):
        await answer.text(attacks.ALL[at : at + size])
    await answer.text("\n\nthe attack is over")
    await answer.end()


async def status(answer: Answer, asked: Settings) -> None:
    """A status; `message`, `kind` and `retry_after` as asked. The message {key} becomes the key that was sent."""
    message = asked.get("message", "refused as asked").replace("_", " ")
    message = message.replace("{key}", key_of(answer.asked.headers))
    error = answer.format.error(message, asked.get("kind", "test_error"))
    headers = {"retry_after": asked["retry_after"]} if "retry_after" in asked else {}
    await answer.plain(f"{asked.get('code', '500')} Refused", compact(error), **headers)


def key_of(headers: dict[str, str]) -> str:
    return headers.get("authorization", headers.get("x-api-key", ""))


async def error_midstream(answer: Answer, asked: Settings) -> None:
    await answer.begin()
    await answer.text("partial ")
    await answer.event(answer.format.error("The engine is overloaded", asked.get("kind", "overloaded_error")))
    await answer.raw(b"0\r\n\r\n")


async def cut(answer: Answer, asked: Settings) -> None:
    """The connection breaks; in the middle of a chunk with where=chunk, at the head with where=head."""
    where = asked.get("where", "event")
    if where != "head":
        await answer.begin()
        await answer.text("partial ")
    if where == "chunk":
        await answer.raw(b"ff\r\ndata: {")
    raise Cut


async def ended(answer: Answer, asked: Settings) -> None:
    """The body ends as HTTP wants it, but the answer does not."""
    await answer.begin()
    await answer.text("partial ")
    await answer.raw(b"0\r\n\r\n")


async def garbage(answer: Answer, asked: Settings) -> None:
    await answer.begin()
    await answer.text("partial ")
    kinds = {
        "json": b"data: {broken\n\n",
        "utf8": b'data: {"choices":"\xff\xfe"}\n\n',
        "line": b"\x00\x80\xff\x13 \n\n",
    }
    await answer.chunk(kinds[asked.get("kind", "line")])
    await answer.end()


async def event(answer: Answer, asked: Settings) -> None:
    """One event whose data has exactly `bytes` bytes."""
    await answer.begin()
    one = answer.format.text("@")
    filler = b"x" * (int(asked["bytes"]) - len(compact(one)) + 1)
    await answer.chunk(answer.format.framed(one).replace(b"@", filler))
    await answer.end()


async def emoji(answer: Answer, asked: Settings) -> None:
    """One emoji over two chunks: in the middle of its UTF-8, or as two escapes in two deltas."""
    await answer.begin()
    one = answer.format.framed(answer.format.text("@"))
    if asked.get("split", "utf8") == "utf8":
        data = one.replace(b"@", "a😀b".encode())
        at = data.index("😀".encode()) + 2
        await answer.chunk(data[:at])
        await answer.chunk(data[at:])
    else:
        for half in (b"a\\ud83d", b"\\ude00b"):
            await answer.chunk(one.replace(b"@", half))
    await answer.end()


async def silence(answer: Answer, asked: Settings) -> None:
    """n deltas and then nothing, until the client goes."""
    await answer.begin()
    for _ in range(int(asked.get("n", "1"))):
        await answer.text("partial ")
    await trio.sleep_forever()


async def unclosed(answer: Answer, asked: Settings) -> None:
    """A whole answer, but neither its last event nor an end of the body."""
    await answer.begin()
    await answer.text("whole")
    await answer.finish()
    await trio.sleep_forever()


async def hang(answer: Answer, asked: Settings) -> None:
    await trio.sleep_forever()


async def slow_head(answer: Answer, asked: Settings) -> None:
    """A head that never ends."""
    await answer.raw(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while True:
        await answer.raw(b"x-%d: y\r\n" % number)
        number += 1
        await trio.sleep(float(asked.get("every", "0.02")))


async def html(answer: Answer, asked: Settings) -> None:
    page = b"<!doctype html><html><title>Sign in</title></html>"
    await answer.plain(f"{asked.get('code', '200')} OK", page, "text/html")


async def error200(answer: Answer, asked: Settings) -> None:
    kind = asked.get("kind", "invalid_request_error")
    await answer.plain("200 OK", compact(answer.format.error("no such deployment", kind)))


async def flaky(answer: Answer, asked: Settings) -> None:
    """The first `fails` requests with this `id` fail, as the scenario `how` does; then it works."""
    FAILED[asked["id"]] += 1
    if FAILED[asked["id"]] <= int(asked.get("fails", "1")):
        await SCENARIOS[asked.get("how", "status")](answer, asked)
    else:
        await greeting(answer, asked)


async def whole(answer: Answer, asked: Settings) -> None:
    """An answer that is not streamed."""
    await answer.plain("200 OK", compact(answer.format.whole("All at once.")))


async def redirect(answer: Answer, asked: Settings) -> None:
    await answer.plain("307 Temporary Redirect", b"", location="/v1/elsewhere")


async def overflow(answer: Answer, asked: Settings) -> None:
    """A request of more than `over` bytes (any, if that is left out) is refused with the wording number `n` of
    tests.overflows: as a status, or with how=stream inside an answer, behind a word of it with late=1. `images`: only
    what shows more of them than that is refused. Else a greeting."""
    whose, status_code, error, _, _ = WORDINGS[int(asked.get("n", "0"))]
    shown = json.dumps(answer.asked.body).count('"type": "image')
    refused = shown > int(asked["images"]) if "images" in asked else answer.asked.size > int(asked.get("over", "0"))
    if not refused:
        await greeting(answer, asked)
    elif asked.get("how") == "stream" and not isinstance(error, str):
        await answer.begin()
        if asked.get("late"):
            await answer.text("partial ")
        await answer.event(answer.format.refusal(error))
        await answer.raw(b"0\r\n\r\n")
    elif isinstance(error, str):
        await answer.plain(f"{status_code} {whose}", error.encode(), "text/html")
    else:
        await answer.plain(f"{status_code} {whose}", compact(error))


async def blind(answer: Answer, asked: Settings) -> None:
    """A model that takes no images: refused in the words number `n` of tests.overflows.NO_IMAGES. Else a greeting."""
    whose, status_code, error = NO_IMAGES[int(asked.get("n", "0"))]
    if '"type": "image' in json.dumps(answer.asked.body):
        await answer.plain(f"{status_code} {whose}", compact(error))
    else:
        await greeting(answer, asked)


SCENARIOS: dict[str, Callable[[Answer, Settings], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        greeting, stream, document, tool, attack, status, error_midstream, cut, ended, garbage, event, emoji,
        silence, unclosed, hang, slow_head, html, error200, flaky, whole, redirect, overflow, blind,
    )
}  # fmt: skip


def scenario_of(body: dict[str, Any], format: Format) -> tuple[str, Settings]:
    text = (format.texts(body) or [""])[-1]
    name, *pairs = (text[1:] if text.startswith("!") else body["model"]).split(" ")
    settings = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return (name, settings) if name in SCENARIOS else ("greeting", {})


# ------------------------------------------------------------ the server
class Server:
    def __init__(self) -> None:
        self.asked: dict[int, Asked] = {}
        self.count = 0
        self.arrived = trio.Event()  # of the next request

    async def connection(self, stream: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            async with stream:
                reader = h11.Connection(h11.SERVER)
                async for head, body in requests(stream, reader):
                    if not await self.answer(stream, head, body):
                        return

    async def answer(self, stream: trio.abc.Stream, head: h11.Request, body: bytes) -> bool:
        """False if the connection is of no more use."""
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        target = head.target.decode()
        if head.method == b"GET":
            await self.report(stream, target)
            return True
        self.count += 1
        asked = self.asked[self.count] = Asked(self.count, target, headers, body)
        self.asked.pop(self.count - KEPT, None)
        self.arrived.set()
        self.arrived = trio.Event()
        answer = Answer(stream, asked)
        name, settings = scenario_of(asked.body, answer.format) if asked.body else ("greeting", {})
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.watch, stream, asked, nursery.cancel_scope)
                await SCENARIOS[name](answer, settings)
                asked.finish("done")
                nursery.cancel_scope.cancel(reason="answered")
        except* Cut:
            asked.finish("cut")
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            asked.finish("closed")
        return asked.end == "done"

    async def watch(self, stream: trio.abc.Stream, asked: Asked, scope: trio.CancelScope) -> None:
        """The client sends nothing while it is answered: what comes is its end."""
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some(1)
        asked.finish("closed")
        scope.cancel(reason="the client has gone")

    async def report(self, stream: trio.abc.Stream, target: str) -> None:
        value: Any
        *_, kind, last = target.split("/")
        if kind == "_asked":
            while not (found := [asked for asked in self.asked.values() if last in json.dumps(asked.body)]):
                await self.arrived.wait()
            value = found[-1].shown()
        elif kind == "_last":
            value = self.count
        elif last.isdigit():
            await self.asked[int(last)].ended.wait()
            value = self.asked[int(last)].shown()
        else:
            value = [asked.shown() for asked in self.asked.values()]
        body = json.dumps(value).encode()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def requests(stream: trio.abc.Stream, reader: h11.Connection) -> AsyncIterator[tuple[h11.Request, bytes]]:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = reader.next_event()
        if event is h11.NEED_DATA:
            reader.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            yield head, bytes(body)
            body.clear()
            # The answer was written past h11: it is told a minimal one, so that it reads on.
            reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.their_state is not h11.DONE:
                return
            reader.start_next_cycle()
        else:
            return


async def serve(port: int, tls: str | None) -> None:
    server = Server()
    listen: Any = partial(trio.serve_tcp, server.connection, port, host="127.0.0.1")
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        listen = partial(
            trio.serve_ssl_over_tcp, server.connection, port, context, host="127.0.0.1", https_compatible=True
        )
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(listen)
        transport = listener.transport_listener if tls else listener
        address = f"127.0.0.1:{transport.socket.getsockname()[1]}"
        print(f"{READY}{'https' if tls else 'http'}://{address}/v1", flush=True)
        # The parent holds the other end of our standard input: we end with it, however it ends.
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel(reason="the parent has gone")


# ------------------------------------------------------------ for those who start it
class ModelServer:
    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid  # url: what base_url is set to

    def requests(self) -> list[dict[str, Any]]:
        """All requests so far, oldest first: number, target, headers, size, body, end, ended_at."""
        return self._get("/_requests")  # type: ignore[no-any-return]

    def last(self) -> int:
        """The number of the newest request, 0 before the first."""
        return int(self._get("/_last/number"))

    def ended(self, number: int) -> dict[str, Any]:
        """One request, once its answer has ended. Blocks."""
        return self._get(f"/_requests/{number}")  # type: ignore[no-any-return]

    def asked(self, word: str) -> dict[str, Any]:
        """The newest request whose body has the word (letters and digits), once there is one. Blocks."""
        return self._get(f"/_asked/{word}")  # type: ignore[no-any-return]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def model_server(tls: Path | None = None) -> Iterator[ModelServer]:
    """The server as a process of its own; ended and reaped when the block is left. `tls` is a certificate's file
    with its key; `requests` and `ended` are not asked of such a server."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "tests.model_server", "--port", "0", *(["--tls", str(tls)] if tls else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        line = process.stdout.readline().decode()
        assert line.startswith(READY), line
        try:
            yield ModelServer(line.removeprefix(READY).strip(), process.pid)
        finally:
            process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", help="a certificate with its key, in PEM form")
    asked_for = parser.parse_args()
    trio.run(serve, asked_for.port, asked_for.tls)
