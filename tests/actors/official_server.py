"""A tool server on the official library, over HTTP in each of the ways that it has, for the Python of .venv-servers.

    python official_server.py        prints a port for each of WAYS, in one line

Tools: `add {a, b}`, `steps {count}` (tells its progress, then gives a long text), `drop {}` (ends its stream in the
middle, to be asked for again; for `events`, the one way that keeps what was sent).
"""

import asyncio
import socket

WAYS = ("json", "events", "stateless")
LONG = "a line\n" * 30_000


def main() -> None:
    import uvicorn
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Context
    from mcp.server.streamable_http import EventMessage, EventStore

    class Kept(EventStore):
        def __init__(self) -> None:
            self.events: list = []

        async def store_event(self, stream_id, message) -> str:
            self.events.append((stream_id, message))
            return str(len(self.events) - 1)

        async def replay_events_after(self, last_event_id, send_callback):
            stream = self.events[int(last_event_id)][0]
            for number, (other, message) in enumerate(self.events):
                if number > int(last_event_id) and other == stream and message is not None:
                    await send_callback(EventMessage(message, str(number)))
            return stream

    tools = MCPServer("official")

    @tools.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @tools.tool()
    async def steps(count: int, ctx: Context) -> str:
        for number in range(1, count + 1):
            await ctx.report_progress(number, count, f"step {number}")
        return LONG

    @tools.tool()
    async def drop(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "before")
        await ctx.close_sse_stream()
        await ctx.report_progress(2, 2, "after")
        return "resumed"

    given = {
        "json": {"json_response": True},
        "events": {"event_store": Kept(), "retry_interval": 100},
        "stateless": {"stateless_http": True},
    }

    async def serve() -> None:
        servers = []
        for way in WAYS:
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            print(listener.getsockname()[1], end=" ", flush=True)
            app = tools.streamable_http_app(**given[way])
            servers.append(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
        print(flush=True)
        await asyncio.gather(*servers)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
