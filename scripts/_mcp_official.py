"""The official client (mcp) with its own transports: what one call costs this process.

    python _mcp_official.py stdio|http TOOL SIZE SERVER…      SERVER: a command, or an address

Prints one JSON object: seconds of the call, the peak above idle in MB, or the error that it ends with.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import mcp
import trio
from _tool_calls import Peak
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

SMALL = 1000


@contextlib.asynccontextmanager
async def connected(kind: str, server: list[str]) -> AsyncIterator[Any]:
    if kind == "stdio":
        streams: Any = stdio_client(StdioServerParameters(command=server[0], args=server[1:]))
    else:
        streams = streamable_http_client(server[0])
    async with streams as (reading, writing, *_), mcp.ClientSession(reading, writing) as session:
        await session.initialize()
        yield session


async def main(kind: str, tool: str, size: int, server: list[str]) -> dict[str, Any]:
    async with connected(kind, server) as session:
        await session.call_tool(tool, {"size": SMALL})
        peak, began = Peak(os.getpid()), time.monotonic()
        try:
            answer = await session.call_tool(tool, {"size": size})
        except Exception as exc:  # noqa: BLE001 - it is what is found
            found: dict[str, Any] = {"error": f"{type(exc).__name__}: {exc}"[:200]}
        else:
            content = answer.content[0]
            found = {"size": len(content.text if content.type == "text" else content.data)}
        return {"seconds": round(time.monotonic() - began, 3), "peak_mb": peak.mb(), **found}


if __name__ == "__main__":
    print(json.dumps(trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])), flush=True)
