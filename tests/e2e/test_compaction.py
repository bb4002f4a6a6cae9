"""session.compact over the wire: watched, stopped from another connection, and lost with a daemon that is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.wire import Wire, WireError, connect, daemon
from tests.model_server import ModelServer, model_server
from tests.stress.transcript_rules import event_problems, transcript_problems

LIMIT = 120.0
PAD = "lorem ipsum " * 300


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def config(server: ModelServer) -> str:
    """A model that answers; one whose summaries never come."""
    lines = ['listen = "127.0.0.1:0"', 'default_model = "sane"']
    for name, model in (("sane", "greeting"), ("stuck", "silence")):
        lines += [f"[models.{name}]", 'provider = "openai"', f'base_url = "{server.url}"', f'model = "{model}"']
    lines += ["[models.waits]", 'provider = "openai"', f'base_url = "{server.url}"', 'model = "greeting"']
    return "\n".join([*lines, 'compact_model = "stuck"'])


async def talk(wire: Wire, model: str) -> str:
    """A session with two turns."""
    session_id: str = (await wire.request("session.create", model=model, toolsets=[]))["session"]["id"]
    for number in range(2):
        started = await wire.request("run.start", session_id=session_id, text=f"{number} {PAD}", watch=True)
        assert (await wire.events(started["watch_id"]))[-1]["status"] == "completed"
    return session_id


async def messages(wire: Wire, session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await wire.request("session.messages", session_id=session_id))["messages"]
    return found


async def until_compacting(wire: Wire, watch_id: str) -> None:
    while (await wire.event(watch_id) or {})["type"] != "compaction.started":
        pass


async def test_it_is_a_run_that_any_client_sees_and_stops(server: ModelServer, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config(server)) as process:
        async with connect(process.folder) as one, connect(process.folder) as other:
            session_id = await talk(one, "sane")
            run = (await one.request("session.compact", session_id=session_id))["run"]
            assert run["session_id"] == session_id and run["model"] == "sane"
            watch = await other.request("run.watch", run_id=run["id"])
            events = await other.events(watch["watch_id"])
            kinds = [event["type"] for event in events]
            assert kinds[0] == "run.started" and "Compact" in events[0]["message"]["parts"][0]["text"]
            assert kinds[-3:] == ["part.finished", "compaction.finished", "run.finished"]
            found = await messages(one, session_id)
            assert transcript_problems(found) == [] and event_problems(events, found[-1:]) == []
            assert found[-1]["parts"][0]["kind"] == "compaction"
            assert found[-1]["parts"][0]["kept_from"] == events[-2]["kept_from"] == found[2]["info"]["id"]
            with pytest.raises(WireError, match="unknown_session"):
                await one.request("session.compact", session_id="ses_none")

            session_id = await talk(one, "waits")
            before = await messages(one, session_id)
            run = (await one.request("session.compact", session_id=session_id))["run"]
            watch = await other.request("run.watch", run_id=run["id"])
            await until_compacting(other, watch["watch_id"])
            with pytest.raises(WireError, match="session_busy"):
                await one.request("run.start", session_id=session_id, text="too early")
            stopped = (await one.request("run.stop", run_id=run["id"]))["run"]
            assert stopped["status"] == "cancelled"
            assert [event["type"] for event in await other.events(watch["watch_id"])][-1:] == ["run.finished"]
            assert await messages(one, session_id) == before


async def test_killed_in_the_middle_it_has_not_happened(server: ModelServer, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT):
        with daemon(folder, config(server)) as process:
            async with connect(folder) as wire:
                session_id = await talk(wire, "waits")
                before = await messages(wire, session_id)
                run = (await wire.request("session.compact", session_id=session_id))["run"]
                watch = await wire.request("run.watch", run_id=run["id"])
                await until_compacting(wire, watch["watch_id"])
                process.signal(signal.SIGKILL)
                process.wait()
        with daemon(folder, config(server)):
            async with connect(folder) as wire:
                assert (await wire.request("run.get", run_id=run["id"]))["run"]["status"] == "interrupted"
                assert await messages(wire, session_id) == before
                started = await wire.request("run.start", session_id=session_id, text="go on", watch=True)
                assert (await wire.events(started["watch_id"]))[-1]["status"] == "completed"
                assert transcript_problems(await messages(wire, session_id)) == []
