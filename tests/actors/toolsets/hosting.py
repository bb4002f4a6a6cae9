"""A hostile tool server in its actor, and a good one beside it, with a real guard."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from actors._actor import open_actor
from actors._guard import Guard, open_guard
from actors._spool import open_spools
from actors.toolset import ToolsetActor, ToolsetRef
from actors.toolsets.mcp import McpToolset, Server
from engine import codec
from engine.limits import Limits
from engine.tools.spec import Ask, ToolContext, ToolResult, ToolsetStatus
from tests.actors import mcp_server
from tests.actors.toolsets import hostile

LIMIT = 120.0
# The first start imports the client, for which a machine with much else to do takes long.
LIMITS = attrs.evolve(
    Limits(), toolset_first_wait=60, toolset_start_timeout=60, toolset_backoff_first=0.01, toolset_backoff_max=0.02
)


@attrs.frozen
class World:
    bad: ToolsetRef
    good: ToolsetRef
    toolset: McpToolset  # the bad one's
    guard: Guard
    folder: Path
    record: Path

    async def do(
        self,
        *,
        session: str = "ses_1",
        cwd: str = "/",
        asks: Ask | None = None,
        preview: Callable[[str], None] | None = None,
        **given: Any,
    ) -> ToolResult:
        """A call of the bad server, which does what is given (see hostile.py)."""
        context = ToolContext(session_id=session, run_id="run_1", call_id="call_1", cwd=cwd, ask=asks)
        return await self.bad.call("do", codec.dump(given), context, preview)

    async def ask(self, *requests: dict[str, Any], asks: Ask | None = None, **given: Any) -> list[Any]:
        """What the server is answered to requests of its own."""
        result = await self.do(ask=list(requests), asks=asks, **given)
        assert not result.is_error, result.text
        answers: list[Any] = json.loads(result.text)
        return answers

    async def fine(self) -> None:
        """The good server is not harmed."""
        context = ToolContext(session_id="ses_9", run_id="run_9", call_id="call_9", cwd="/")
        assert (await self.good.call("echo", codec.dump({"text": "fine"}), context)).text == "fine"

    async def status(self, holds: Callable[[ToolsetStatus], object]) -> ToolsetStatus:
        """Of the bad one, when it is so."""
        while not holds(status := await self.bad.status()):
            await trio.lowlevel.checkpoint()
        return status

    def received(self, method: str) -> list[dict[str, Any]]:
        """What the bad server has read of this method."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [message for line in lines if (message := json.loads(line)).get("method") == method]


@asynccontextmanager
async def hosted(
    tmp_path: Path,
    *,
    limits: Limits = LIMITS,
    roots: tuple[str, ...] | None = None,
    call_timeout: float | None = None,
    chosen: tuple[str, ...] | None = None,
    beside: bool = False,
    **plan: Any,
) -> AsyncIterator[World]:
    """Both; none of their programs is left at the end. `beside` the bad one the good one works until then."""
    record = tmp_path / "record"
    words = json.dumps({"record": str(record), **plan})
    env = dict(os.environ)
    servers = {
        "bad": Server(command=(sys.executable, hostile.__file__, words), env=env, cwd=str(tmp_path), roots=roots),
        "good": Server(command=(sys.executable, mcp_server.__file__), env=env, cwd=str(tmp_path)),
    }
    with trio.fail_after(LIMIT):
        async with open_spools(tmp_path, limits) as spools, open_guard(limits) as guard:
            spool = {name: spools.of_toolset(name) for name in servers}
            bad = McpToolset(servers["bad"], guard, spool["bad"], tools=chosen, limits=limits)
            good = McpToolset(servers["good"], guard, spool["good"], limits=LIMITS)

            def actor(name: str, toolset: McpToolset) -> ToolsetActor:
                return ToolsetActor(
                    toolset,
                    limits=limits,
                    lazy=True,
                    restart="on_failure",
                    spool=spool[name],
                    call_timeout=call_timeout if name == "bad" else None,
                )

            async with (
                open_actor(actor("good", good), "good") as good_ref,
                open_actor(actor("bad", bad), "bad") as bad_ref,
            ):
                world = World(bad_ref, good_ref, bad, guard, tmp_path, record)
                if beside:
                    await world.fine()
                yield world
                if beside:
                    await world.fine()
            assert guard.statistics().processes == 0, "no program is left"
