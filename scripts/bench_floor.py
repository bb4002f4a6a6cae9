"""The floor of scripts/bench_stream.py: what the libraries cost without an engine.

    python scripts/bench_floor.py --base-url http://127.0.0.1:PORT/v1

A WebSocket server (trio-websocket) that takes a text, asks a chat-completions service for it (httpx2), and sends the
deltas of each chunk that arrives as one frame; `[DONE]` is the last. Nothing is stored, bounded, merged or resumed.
Prints `floor ready ws://…` when it listens.
"""

from __future__ import annotations

import argparse
from functools import partial

import httpx2
import orjson
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def pass_through(client: httpx2.AsyncClient, url: str, request: WebSocketRequest) -> None:
    socket = await request.accept()
    try:
        while True:
            text = await socket.get_message()
            body = {"model": "floor", "stream": True, "messages": [{"role": "user", "content": text}]}
            async with client.stream("POST", url, json=body) as response:
                rest = b""
                async for chunk in response.aiter_raw():
                    *events, rest = (rest + chunk).split(b"\n\n")
                    texts = [content for event in events if (content := content_of(event))]
                    if texts:
                        await socket.send_message(orjson.dumps(texts).decode())
            await socket.send_message("[DONE]")
    except ConnectionClosed:
        pass


def content_of(event: bytes) -> str:
    data = event.removeprefix(b"data: ")
    if data == b"[DONE]":
        return ""
    choices = orjson.loads(data)["choices"]
    return choices[0]["delta"].get("content") or "" if choices else ""


async def main(base_url: str) -> None:
    bounds = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=bounds, timeout=60) as client, trio.open_nursery() as nursery:
        handler = partial(pass_through, client, f"{base_url}/chat/completions")
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        print(f"floor ready ws://127.0.0.1:{server.port}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    trio.run(main, parser.parse_args().base_url)
