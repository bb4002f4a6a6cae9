"""Questions of a tool server over HTTP: each comes in the answer of its call, and is one of that call's session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import trio

from actors.toolsets.mcp import Server
from engine import codec
from engine.tools.spec import Answer, Question
from tests.actors.mcp_web import Exchange, serving
from tests.actors.processes import until
from tests.actors.test_toolset_mcp import CONTEXT, World, opened

FORM = {"type": "object", "properties": {"name": {"type": "string"}}}


class Asking:
    """A server each call of which asks for a name, and answers with what it was told."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.come = trio.Event()

    async def script(self, exchange: Exchange) -> None:
        message = exchange.message
        if exchange.what == "tools/call":
            number = f"q{message['id']}"
            asked = {"message": message["params"]["arguments"]["message"], "requestedSchema": FORM}
            await exchange.head()
            await exchange.event({"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": asked})
            while number not in self.answers:
                await self.come.wait()
            await exchange.event(exchange.answer(json.dumps(self.answers[number])))
        elif "result" in message:
            self.answers[message["id"]] = message["result"]
            self.come.set()
            self.come = trio.Event()


async def test_two_sessions_at_a_time_are_asked_each_its_own(tmp_path: Path) -> None:
    asked: dict[str, list[str]] = {"ses_1": [], "ses_2": []}
    results: dict[str, str] = {}
    server = Asking()

    async def call(world: World, session: str) -> None:
        async def ask(question: Question) -> Answer:
            asked[session].append(question.message)
            await until(lambda: all(asked.values()))  # both are asked at the same time
            return Answer(action="accept", content={"name": session})

        context = attrs.evolve(CONTEXT, session_id=session, ask=ask)
        given = codec.dump({"message": f"of {session}"})
        results[session] = (await world.ref.call("t", given, context)).text

    async with serving(server.script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        async with trio.open_nursery() as nursery:
            for session in asked:
                nursery.start_soon(call, world, session)
        assert asked == {"ses_1": ["of ses_1"], "ses_2": ["of ses_2"]}
        for session, text in results.items():
            assert json.loads(text) == {"action": "accept", "content": {"name": session}}


async def test_a_call_that_is_cancelled_takes_its_question_with_it(tmp_path: Path) -> None:
    server = Asking()
    withdrawn = trio.Event()
    begun = trio.Event()

    async def ask(question: Question) -> Answer:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            withdrawn.set()

    async with serving(server.script) as web, opened(tmp_path, server=Server(url=web.url)) as world:
        async with trio.open_nursery() as nursery:
            context = attrs.evolve(CONTEXT, ask=ask)
            nursery.start_soon(world.ref.call, "t", b'{"message":"?"}', context)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert withdrawn.is_set()
        (sent,) = web.calls()
        await until(lambda: any(one.what == "notifications/cancelled" for one in web.seen))
        (told,) = [one.message for one in web.seen if one.what == "notifications/cancelled"]
        assert told["params"]["requestId"] == sent.message["id"]
        await until(lambda: web.open == 0)
