"""Tool servers that crash, lie, flood and are silent: each harms itself alone, and the one beside it works on."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actors.toolsets.mcp_client import ASKED_MOST
from actors.toolsets.mcp_stdio import LINES_AT_ONCE
from engine.limits import KIB, MIB
from tests.actors.processes import until
from tests.actors.toolsets.hosting import LIMITS, World, hosted

TEXT = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[{"type":"text","text":"right"}]}}'
NOTICE = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'

# Messages that one read of 64 KiB may count for before the pace is kept: blank lines are, in groups.
AT_ONCE = 64 * KIB // LINES_AT_ONCE

together = functools.partial(hosted, beside=True)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end by itself is not waited for."""
    monkeypatch.setattr("actors.toolsets.mcp.CLOSE_GRACE", 0.1)


async def works(world: World, restarts: int = 0) -> None:
    """Both of them."""
    assert (await world.do(answer={"content": [{"type": "text", "text": "ok"}]})).text == "ok"
    assert (await world.bad.status()).restarts == restarts
    await world.fine()


# ------------------------------------------------------------------ ends
async def test_a_crash_in_the_middle_of_a_call(tmp_path: Path) -> None:
    async with together(tmp_path) as world:
        half = '{"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"' + "half" * 10_000
        result = await world.do(half=half, exit=3)
        assert result.is_error and "exit code 3" in result.text
        await world.fine()
        await works(world, restarts=1)


async def test_a_crash_ends_all_calls_at_work(tmp_path: Path) -> None:
    async with together(tmp_path) as world:
        results: list[str] = []

        async def wait() -> None:
            results.append((await world.do(answer=None)).text)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await until(lambda: len(world.received("tools/call")) == 3)
            assert (await world.do(exit=4)).is_error
        assert len(results) == 3 and all(results)
        await works(world, restarts=1)


async def test_an_output_that_is_closed_by_one_that_lives_on(tmp_path: Path) -> None:
    async with together(tmp_path) as world:
        result = await world.do(close=True)
        assert result.is_error
        await works(world, restarts=1)


# ------------------------------------------------------------------ says what it should not
GARBAGE = [
    "no JSON at all", "{", "[]", "null", '"text"', "\x00\x01\ufffd", '{"jsonrpc":"2.0"}',
    '{"jsonrpc":"1.0","id":1,"result":{}}',
    '{"jsonrpc":"2.0","id":4711,"result":"text"}', '{"jsonrpc":"2.0","id":{},"result":{}}',
    '{"jsonrpc":"2.0","method":7}',
    '{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}', '{"jsonrpc":"2.0","id":[1],"method":"ping"}',
    "[" * 1000, '{"a":' * 1000, NOTICE, '{"jsonrpc":"2.0","method":"notifications/of/theirs","params":{"x":[1]}}',
    '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":"much"}}',
    '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":77,"progress":1}}',
    '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}',
    '{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":[]}',
]  # fmt: skip


async def test_garbage_before_and_between_messages(tmp_path: Path) -> None:
    async with together(tmp_path, first=GARBAGE) as world:
        assert (await world.do(write=[*GARBAGE, TEXT, *GARBAGE], answer=None)).text == "right"
        await works(world)


async def test_huge_lines(tmp_path: Path) -> None:
    async with together(tmp_path) as world:
        array = '{"jsonrpc":"2.0","method":"x","params":[' + "1," * MIB + "1]}"
        await world.do(write=["x" * (3 * MIB), array, '{"method":"' + "y" * (3 * MIB) + '"}', TEXT], answer=None)
        await works(world)


async def test_an_answer_that_breaks_a_bound_is_an_error_at_once(tmp_path: Path) -> None:
    result = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[' + "%s" + "]}}"
    many, deep = "1," * LIMITS.mcp_line_values + "1", "[" * 200 + "]" * 200
    async with together(tmp_path) as world:
        for inside, says in ((many, "more than 65,536 values"), (deep, "nested more than 128 deep")):
            found = await world.do(write=[result % inside], answer=None)
            assert found.is_error and says in found.text
        await works(world)


async def test_wrong_ids_and_answers_twice(tmp_path: Path) -> None:
    wrong = [TEXT.replace("@id@", other).replace("right", "wrong") for other in ("0", "999999", '"x"', "-1", "1.5")]
    async with together(tmp_path) as world:
        late = TEXT.replace("right", "late")
        assert (await world.do(write=[*wrong, TEXT, late, late], answer=None)).text == "right"
        assert (await world.do(write=[TEXT.replace("@id@", '"@id@"')], answer=None)).text == "right"
        await works(world)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"protocolVersion": "1999-01-01", "capabilities": {}}, "1999-01-01"),
        ({"protocolVersion": ["2025-11-25"]}, "no version of the protocol"),
        ({}, "no version of the protocol"),
    ],
)
async def test_an_initialize_that_cannot_be(tmp_path: Path, result: Any, says: str) -> None:
    limits = attrs.evolve(LIMITS, toolset_restarts=1)
    async with together(tmp_path, limits=limits, answers={"initialize": result}) as world:
        found = await world.do()
        assert found.is_error and says in found.text
        assert (await world.bad.status()).state == "failed"


async def test_capabilities_that_are_none_offer_nothing(tmp_path: Path) -> None:
    result = {"protocolVersion": "2025-06-18", "capabilities": [1]}
    async with together(tmp_path, answers={"initialize": result}) as world:
        assert await world.bad.specs() == ()
        assert (await world.bad.status()).state == "ready"


# ------------------------------------------------------------------ says nothing
async def test_one_that_never_answers_initialize(tmp_path: Path) -> None:
    limits = attrs.evolve(LIMITS, toolset_start_timeout=0.3, toolset_restarts=1)
    async with together(tmp_path, limits=limits, silent=["initialize"]) as world:
        result = await world.do()
        assert result.is_error and "not ready within 0.3 s" in result.text
        assert (await world.bad.status()).state == "failed"
        await world.fine()
        assert world.received("notifications/cancelled") == [], "which the protocol does not allow"


async def test_a_call_past_its_time_is_told_to_the_server(tmp_path: Path) -> None:
    async with together(tmp_path, call_timeout=1) as world:
        await world.bad.specs()
        result = await world.do(answer=None)
        assert result.is_error and "did not finish in 1 s" in result.text
        await until(lambda: len(world.received("notifications/cancelled")) == 1)
        (call,), (told,) = world.received("tools/call"), world.received("notifications/cancelled")
        assert told["params"]["requestId"] == call["id"]
        await works(world)


async def test_progress_does_not_extend_the_time_of_a_call(tmp_path: Path) -> None:
    shown: list[str] = []
    progress = (
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":@id@,"progress":1,"total":2.5}}'
    )
    async with together(tmp_path, call_timeout=1) as world:
        await world.bad.specs()
        said = progress.replace("}}", ',"message":"half way"}}')
        result = await world.do(write=[progress, said], answer=None, preview=shown.append)
        assert "did not finish in 1 s" in result.text
        assert shown == ["1 of 2.5\n", "half way\n"]


async def test_a_call_that_is_cancelled_is_told_to_the_server_at_once(tmp_path: Path) -> None:
    async with together(tmp_path) as world:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(world.do, answer=None))
                await until(lambda: len(world.received("tools/call")) == 1)
                scope.cancel()
        await until(lambda: len(world.received("notifications/cancelled")) == 1)
        (call,), (told,) = world.received("tools/call"), world.received("notifications/cancelled")
        assert told["params"]["requestId"] == call["id"]
        # The answer comes too late, and is nobody's.
        late = TEXT.replace("@id@", str(call["id"])).replace("right", "z" * 100_000)
        await world.do(write=[late])
        await works(world)


async def test_one_that_reads_nothing_holds_nobody(tmp_path: Path) -> None:
    """Its pipe is full: what is cancelled returns all the same."""
    async with together(tmp_path) as world:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(world.do, sleep=True))
                await until(lambda: len(world.received("tools/call")) == 1)
                for _ in range(4):
                    nursery.start_soon(functools.partial(world.do, much="m" * 200_000))
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        await world.fine()
        await world.bad.restart()
        await works(world)


# ------------------------------------------------------------------ floods
FLOODS = {
    "logs": NOTICE,
    "changes": '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}',
    "progress": '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":@id@,"progress":1}}',
    "requests": '{"jsonrpc":"2.0","id":"x","method":"ping"}',
    "questions": '{"jsonrpc":"2.0","id":"@id@","method":"elicitation/create","params":{"message":"?"}}',
    "answers": '{"jsonrpc":"2.0","id":12345678,"result":{}}',
    "garbage": "garbage",
    "blank lines": "",
    "deep ones": "[" * 100,
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_costs_a_bounded_number_of_tasks_and_messages_a_second(tmp_path: Path, kind: str) -> None:
    rate = 200
    limits = attrs.evolve(LIMITS, mcp_messages=rate)
    line = FLOODS[kind]
    async with together(tmp_path, limits=limits) as world:
        await works(world)
        tasks = trio.lowlevel.current_statistics().tasks_living
        link = world.toolset._link
        assert link is not None
        pace, began = link._inbox._pace, trio.current_time()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                # Large writes, so that the pipe is always full.
                nursery.start_soon(functools.partial(world.do, write=[line] * 1000, times=1_000_000))
                await until(lambda: pace.taken >= rate)
                for _ in range(10):
                    await world.fine()
                    assert trio.lowlevel.current_statistics().tasks_living < tasks + ASKED_MOST + 20
                scope.cancel()
        elapsed = trio.current_time() - began
        assert pace.taken <= rate * (elapsed + 2) + AT_ONCE, "what is more waits in the pipe"
        await world.bad.restart()
        await works(world)


async def test_more_requests_than_it_takes_answers_are_dropped(tmp_path: Path) -> None:
    """They have ids of their own, and it never reads what it is answered: its pipe is full after some."""
    limits = attrs.evolve(LIMITS, mcp_messages=1_000_000)
    async with together(tmp_path, limits=limits) as world:
        await works(world)
        lines = [json.dumps({"jsonrpc": "2.0", "id": f"p{number}", "method": "ping"}) for number in range(5000)]
        link = world.toolset._link
        assert link is not None
        pace, before = link._inbox._pace, trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(world.do, write=lines, sleep=True))
            await until(lambda: pace.taken >= 5000)
            await world.fine()
            assert ASKED_MOST <= trio.lowlevel.current_statistics().tasks_living - before < ASKED_MOST + 20
            nursery.cancel_scope.cancel()
        await world.bad.restart()
        await works(world)
