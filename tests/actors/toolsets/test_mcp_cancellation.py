"""A call of a tool server, cancelled before each step of any task in turn, found by counting them."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.tools.spec import Answer, Question, ToolContext
from tests.actors.toolsets.hosting import World, hosted

TEXT = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[{"type":"text","text":"' + "x" * 100_000 + '"}]}}'
PROGRESS = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":@id@,"progress":1}}'
FORM = {"message": "?", "requestedSchema": {"type": "object"}}
CALLS: dict[str, dict[str, Any]] = {
    "a long result": {"write": [PROGRESS, TEXT], "answer": None},
    "a question": {"ask": [{"method": "elicitation/create", "params": FORM}]},
    "a new folder": {"ask": [{"method": "roots/list"}]},
}


class CancelAt(trio.abc.Instrument):
    """Cancel the scope before the n-th step that any task makes."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if not self.left:
            self.scope.cancel(reason="the test's step has come")


async def ask(question: Question) -> Answer:
    await trio.lowlevel.checkpoint()
    return Answer(action="decline")


def left(world: World) -> list[str]:
    """What is there after the call that was not before it."""
    link = world.toolset._link
    assert link is not None
    found = ["a call"] if link._questions._calls else []
    assert link._client is not None
    return found + ["a request"] * len(link._client._dispatcher._pending)


@pytest.mark.parametrize("kind", CALLS)
async def test_cancelled_at_every_step_nothing_is_left_and_the_next_call_works(tmp_path: Path, kind: str) -> None:
    async with hosted(tmp_path) as world:
        await world.do()
        await trio.testing.wait_all_tasks_blocked(0.01)
        tasks = trio.lowlevel.current_statistics().tasks_living
        for step in count(1):
            cwd = f"/{step}" if kind == "a new folder" else "/"
            context = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd=cwd, ask=ask)
            with trio.CancelScope() as scope:
                instrument = CancelAt(scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    result = await world.toolset.call("do", dict(CALLS[kind]), context, lambda text: None)
                    if result.whole is not None:
                        result.whole.discard()  # type: ignore[attr-defined]
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            assert left(world) == []
            if instrument.left > 0:
                break
        assert (await world.do(answer={"content": [{"type": "text", "text": "ok"}]})).text == "ok"
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks
        status = await world.bad.status()
        assert (status.state, status.restarts, status.leases) == ("ready", 0, 0)
        link = world.toolset._link
        assert link is not None
        await link._inbox.aclose()  # answers that came in the moment of the cancellation wait there, with others
        assert [name for _, _, names in os.walk(tmp_path / "spool") for name in names] == []
        told = [one["params"]["requestId"] for one in world.received("notifications/cancelled")]
        calls = {one["id"] for one in world.received("tools/call")}
        assert len(told) == len(set(told)), "each once"
        assert len(calls & set(told)) > 2, json.dumps(told)
    print(f"{kind}: cancelled at {step - 1} steps")
    assert step > 20, "it looks away"
