"""A tool server over pipes for tests, with no library: it does what its calls say, and badly if they say so.

    python mcp_server.py

Tools: `text {size}`, `escaped {size}`, `image {size}`, `many {count, size}` (texts), `garbage {text}`, `raw {line}`,
`notify {count, size}`, `stderr {size}`, `exit {code}`, `silent {}`, `echo {text}`.
"""

import base64
import json
import os
import sys

BLOCK = 1 << 16
TOOLS = "text", "escaped", "image", "many", "garbage", "raw", "notify", "stderr", "exit", "silent", "echo"
LINE = 'a line with "quotes" and é漢😀\n'


def send(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def answer(request: dict, result: object) -> None:
    send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n")


def stream(request: dict, before: str, block: bytes, count: int, after: str) -> None:
    """A result with a long string, written as it goes."""
    send(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[%s' % (request["id"], before.encode()))
    many = max(1, BLOCK // len(block))
    while count:
        now = min(many, count)
        send(block * now)
        count -= now
    send(after.encode() + b"]}}\n")


def call(request: dict) -> None:
    name, given = request["params"]["name"], request["params"].get("arguments") or {}
    size = given.get("size", 0)
    if name == "text":
        stream(request, '{"type":"text","text":"', b"x", size, '"}')
    elif name == "escaped":
        stream(request, '{"type":"text","text":"', json.dumps(LINE)[1:-1].encode(), size, '"}')
    elif name == "image":
        data = base64.b64encode(bytes(range(256)) * 3)
        stream(request, '{"type":"image","mimeType":"image/png","data":"', data, size, '"}')
    elif name == "many":
        answer(request, {"content": [{"type": "text", "text": f"{n}:" + "y" * size} for n in range(given["count"])]})
    elif name == "garbage":
        send(given["text"].encode() + b"\n")
        answer(request, {"content": []})
    elif name == "raw":
        send(given["line"].replace("@id@", str(request["id"])).encode() + b"\n")
    elif name == "notify":
        for number in range(given["count"]):
            params = {"level": "info", "data": f"{number}" + "n" * size}
            send(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params}).encode() + b"\n")
        answer(request, {"content": []})
    elif name == "stderr":
        os.write(2, b"e" * size + b"\nthe last words\n")
        answer(request, {"content": []})
    elif name == "exit":
        os._exit(given["code"])
    elif name == "echo":
        answer(request, {"content": [{"type": "text", "text": given["text"]}]})


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        method = request.get("method")
        if method == "initialize":
            version = request["params"]["protocolVersion"]
            server = {"name": "test", "version": "1"}
            answer(request, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server})
        elif method == "tools/call":
            call(request)
        elif method == "tools/list":
            answer(request, {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]})
        elif "id" in request and method == "ping":
            answer(request, {})


if __name__ == "__main__":
    main()
