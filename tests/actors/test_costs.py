"""What runs cost: the same in message, run and session, and once over all sessions."""

from __future__ import annotations

import trio

from actors.api import open_engine
from engine.config import Config, ModelConfig
from engine.prices import Price
from engine.runs.events import Numbered, RunFinished, TurnFinished

PRICE = Price(input=0.1, output=0.3, per="1K")


async def test_costs_are_counted_once() -> None:
    config = Config(models={"demo": ModelConfig(provider="demo", price=PRICE)}, toolsets={})
    with trio.fail_after(60):
        async with open_engine(config) as engine:
            session = await engine.create_session()
            run = await session.start("count to 3")  # 3 words in, 3 out: 0.0003 + 0.0009
            seen = []
            async with run.events() as events:
                async for one in events:
                    if isinstance(one, Numbered) and isinstance(one.event, TurnFinished | RunFinished):
                        seen.append(one.event.usage.cost)
            assert seen == [0.0012, 0.0012]
            assert run.record.usage.cost == 0.0012
            answer = (await session.messages())[-1]
            assert answer["info"]["usage"] == {
                "input_tokens": 3, "output_tokens": 3, "reasoning_tokens": 0, "cache_read_tokens": 0,
                "cache_write_tokens": 0, "cost": 0.0012,
            }  # fmt: skip
            await (await session.start("count to 1")).wait()  # 3 + 3 + 3 in, 1 out
            assert (await session.record()).usage.cost == 0.0024
            copy = await session.fork()
            assert (await copy.record()).usage.cost is None
            assert [one["info"].get("usage", {}).get("cost") for one in await copy.messages()] == [
                None, 0.0012, None, 0.0012,
            ]  # fmt: skip
            await (await copy.start("count to 2")).wait()  # 9 + 1 + 3 in, 2 out
            assert (await copy.record()).usage.cost == 0.0019
            assert (await session.record()).usage.cost == 0.0024


async def test_without_a_price_there_is_no_cost() -> None:
    with trio.fail_after(60):
        async with open_engine(Config(toolsets={})) as engine:
            session = await engine.create_session()
            run = await session.start("count to 3")
            await run.wait()
            assert run.record.usage.cost is None and run.record.usage.output_tokens == 3
            assert (await session.record()).usage.cost is None
