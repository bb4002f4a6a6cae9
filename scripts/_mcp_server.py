"""A tool server (MCP) for measurements, with no library: results of any size, none of which it ever holds.

    python _mcp_server.py            over pipes
    python _mcp_server.py --http     prints `tool server http://127.0.0.1:PORT`; /json answers with JSON, /sse with
                                     events, GET /plain/SIZE and /html/SIZE with a page; ends with its standard input

Its tools take `size`, of the result in bytes of text; a whole number of lines.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

READY = "tool server "
LINE_BYTES = 100
_LINE = 'a line with a "quote", a \\ and a tab\t as logs have them, '
LINE = _LINE + "." * (LINE_BYTES - 1 - len(_LINE)) + "\n"
FIRST, LAST = (f"the {which} line ".ljust(LINE_BYTES - 1, "-") + "\n" for which in ("first", "last"))
# Base64 of every byte; its length is one of whole lines, too.
IMAGE = base64.b64encode(bytes(range(256)) * 75)[: 256 * LINE_BYTES]
PAGES = {"plain": LINE, "html": "<p>A <b>word</b> and <a href='/else/where'>a link</a> in a page of the web.</p>\n"}
BLOCK_BYTES = 1 << 16
SCHEMA = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}


def escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def text(size: int) -> Iterator[bytes]:
    """`size` bytes of text, at least two lines, as they stand in JSON."""
    lines = size // LINE_BYTES - 2
    assert size == (lines + 2) * LINE_BYTES, "a whole number of lines"
    yield escaped(FIRST)
    yield from repeated(escaped(LINE), lines)
    yield escaped(LAST)


def image(size: int) -> Iterator[bytes]:
    """`size` bytes of base64, a multiple of 100."""
    yield from repeated(IMAGE, size // len(IMAGE))
    yield IMAGE[: size % len(IMAGE)]


def repeated(piece: bytes, count: int) -> Iterator[bytes]:
    many = max(1, BLOCK_BYTES // len(piece))
    block = piece * many
    for _ in range(count // many):
        yield block
    yield piece * (count % many)


CONTENT: dict[str, tuple[bytes, Callable[[int], Iterator[bytes]]]] = {
    "text": (b'{"type":"text","text":"', text),
    "image": (b'{"type":"image","mimeType":"image/png","data":"', image),
}


def answer(request: dict[str, Any]) -> Iterator[bytes]:
    """The answer to a request in pieces, without a line end; nothing to a notification."""
    number, params = request.get("id"), request.get("params", {})
    match request["method"]:
        case _ if number is None:
            return
        case "tools/call":
            before, make = CONTENT[params["name"]]
            yield b'{"jsonrpc":"2.0","id":%d,"result":{"content":[%b' % (number, before)
            yield from make(params["arguments"]["size"])
            yield b'"}]}}'
        case "tools/list":
            yield result(number, {"tools": [{"name": name, "inputSchema": SCHEMA} for name in CONTENT]})
        case "initialize":
            known = {"capabilities": {"tools": {}}, "serverInfo": {"name": "measured", "version": "1"}}
            yield result(number, {"protocolVersion": params["protocolVersion"], **known})
        case "ping":
            yield result(number, {})
        case method:
            error = {"code": -32601, "message": f"no method {method}"}
            yield json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode()


def result(number: int, value: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": value}).encode()


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def over_pipes() -> None:
    for line in sys.stdin:
        found = False
        for piece in answer(json.loads(line)):
            found = True
            write(piece)
        if found:
            write(b"\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "id" not in request:
            self.reply(202)
            return
        events = self.path == "/sse"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if events else "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if events:
            self.chunk(b"event: message\ndata: ")
        for piece in answer(request):
            self.chunk(piece)
        if events:
            self.chunk(b"\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self) -> None:
        kind, _, size = self.path[1:].partition("/")
        if kind not in PAGES:
            self.reply(405)  # it says nothing by itself
            return
        line = PAGES[kind].encode()
        count = int(size) // len(line)
        self.reply(200, count * len(line), kind)
        for piece in repeated(line, count):
            self.wfile.write(piece)

    def do_DELETE(self) -> None:
        self.reply(405)

    def reply(self, status: int, size: int = 0, kind: str = "plain") -> None:
        self.send_response(status)
        self.send_header("content-type", f"text/{kind}")
        self.send_header("content-length", str(size))
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed resets its connections."""


def over_http() -> None:
    server = Server(("127.0.0.1", 0), Handler)
    print(f"{READY}http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the client was killed
        over_http() if "--http" in sys.argv else over_pipes()
