"""Sending to a busy session, from several clients: queue, steer, interrupt, and what a restart leaves of a queue."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.wire import DaemonProcess, Wire, WireError, connect, daemon

LIMIT = 120.0
ENDLESS = "count to 1000000 every 5 ms"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("busy") / "data") as process:
        yield process


async def busy(wire: Wire, text: str = ENDLESS) -> tuple[str, str]:
    """A session and its active run."""
    session_id = (await wire.request("session.create"))["session"]["id"]
    started = await wire.request("run.start", session_id=session_id, text=text)
    return session_id, started["run"]["id"]


async def send(wire: Wire, session_id: str, text: str, when_busy: str, **fields: Any) -> dict[str, Any]:
    started: dict[str, Any] = await wire.request(
        "run.start", session_id=session_id, text=text, when_busy=when_busy, **fields
    )
    return started


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "part.delta")


async def test_what_waits_begins_in_order_and_every_client_sees_it(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            session_id, active = await busy(one)
            watch = await two.request("session.watch", session_id=session_id)
            first = await send(one, session_id, "count to 3", "queue", watch=True)
            second = await send(two, session_id, "count to 4", "queue", watch=True)
            assert [(sent["run"]["status"], sent["run"]["position"]) for sent in (first, second)] == [
                ("queued", 1), ("queued", 2),
            ]  # fmt: skip
            listed = (await two.request("run.list", session_id=session_id, active=True))["runs"]
            assert [run["id"] for run in listed] == [second["run"]["id"], first["run"]["id"], active]
            while (frame := await two.push(watch["watch_id"]))["params"].get("session", {}).get("queued") != 2:
                assert frame["method"] in ("run.events", "session.changed")
            await two.request("run.stop", run_id=active)
            events = await one.events(first["watch_id"])
            assert (events[0]["type"], events[0]["seq"], text_of(events)) == ("run.started", 1, "1 2 3 ")
            assert text_of(await two.events(second["watch_id"])) == "1 2 3 4 "
            assert (await one.request("session.get", session_id=session_id))["session"]["queued"] == 0
            page = await one.request("session.messages", session_id=session_id)
            asked = [message["parts"][0]["text"] for message in page["messages"] if message["info"]["role"] == "user"]
            assert asked == [ENDLESS, "count to 3", "count to 4"]
            assert [message["info"]["id"] for message in page["messages"] if message["info"]["role"] == "user"][1:] == [
                first["message_id"], second["message_id"],
            ]  # fmt: skip


async def test_the_eleventh_message_is_refused_and_a_stop_makes_room(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, active = await busy(wire)
            waiting = [await send(wire, session_id, f"count to {n + 1}", "queue") for n in range(10)]
            with pytest.raises(WireError) as refused:
                await send(wire, session_id, "one more", "queue")
            assert refused.value.code == "queue_full"
            with pytest.raises(WireError) as refused:
                await send(wire, session_id, "x" * 16_001, "queue")
            assert (refused.value.code, refused.value.data["limit"]) == ("payload_too_large", 16_000)
            stopped = (await wire.request("run.stop", run_id=waiting[4]["run"]["id"]))["run"]
            assert stopped["status"] == "cancelled" and "position" not in stopped
            assert (await send(wire, session_id, "x" * 16_000, "queue"))["run"]["position"] == 10
            assert (await wire.request("run.get", run_id=waiting[5]["run"]["id"]))["run"]["position"] == 5
            await wire.request("session.delete", session_id=session_id)
            with pytest.raises(WireError) as refused:
                await wire.request("run.get", run_id=waiting[0]["run"]["id"])
            assert refused.value.code == "unknown_run"
            assert active not in str((await wire.request("run.list", active=True))["runs"])


async def test_a_queue_survives_a_kill_and_goes_on_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), daemon(folder) as process:
        async with connect(folder) as wire:
            session_id, active = await busy(wire)
            waiting = [await send(wire, session_id, f"count to {n}", "queue", idempotency_key=f"k{n}") for n in (3, 4)]
            waiting.append(await send(wire, session_id, ENDLESS, "queue"))
            process.signal(signal.SIGKILL)
            await wire.wait_closed()
        process.process.wait()
    with trio.fail_after(LIMIT), daemon(folder):
        async with connect(folder) as wire:
            assert (await wire.request("run.get", run_id=active))["run"]["status"] == "interrupted"
            for count, sent in zip((3, 4), waiting, strict=False):
                watch = await wire.request("run.watch", run_id=sent["run"]["id"])
                events = await wire.events(watch["watch_id"])
                assert text_of(events) == "".join(f"{n} " for n in range(1, count + 1))
                assert events[-1]["status"] == "completed"
            again = await send(wire, session_id, "count to 3", "queue", idempotency_key="k3")
            assert (again["run"]["id"], again["message_id"]) == (waiting[0]["run"]["id"], waiting[0]["message_id"])
            last = (await wire.request("run.stop", run_id=waiting[2]["run"]["id"]))["run"]
            assert last["status"] == "cancelled"
            page = await wire.request("session.messages", session_id=session_id)
            asked = [message["info"]["id"] for message in page["messages"] if message["info"]["role"] == "user"]
            assert asked[1:] == [sent["message_id"] for sent in waiting]


async def test_a_message_to_the_run_at_work_is_shown_to_every_client(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            session_id, active = await busy(one, "count to 150 every 10 ms")
            watch = await two.request("run.watch", run_id=active)
            sent = await send(one, session_id, "count to 2", "steer")
            assert sent["run"]["id"] == active
            events = await two.events(watch["watch_id"])
            (steered,) = [event for event in events if event["type"] == "message.steered"]
            assert steered["message"]["info"]["id"] == sent["message_id"]
            assert steered["message"]["parts"][0]["text"] == "count to 2"
            finishes = [event["finish"] for event in events if event["type"] == "turn.finished"]
            assert finishes == ["stop", "stop"]
            assert text_of(events) == "".join(f"{n} " for n in range(1, 151)) + "1 2 "
            assert [event["type"] for event in events].count("run.finished") == 1


async def test_interrupt_from_another_client(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            session_id, active = await busy(one)
            waits = await send(one, session_id, "count to 2", "queue", watch=True)
            sent = await send(two, session_id, "count to 3", "interrupt", watch=True)
            assert (await one.request("run.get", run_id=active))["run"]["status"] == "cancelled"
            assert text_of(await two.events(sent["watch_id"])) == "1 2 3 "
            assert text_of(await one.events(waits["watch_id"])) == "1 2 "


async def test_the_command_line_waits_its_turn(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, active = await busy(wire)
            command = [sys.executable, "-m", "actors.cli", "--data", str(server.folder), "run", "--session", session_id]
            refused = await trio.run_process(
                [*command, "hello"], capture_stdout=True, capture_stderr=True, check=False, env=dict(os.environ)
            )
            assert refused.returncode == 1 and active in refused.stderr.decode()
            async with trio.open_nursery() as nursery:
                process = await nursery.start(
                    functools.partial(
                        trio.run_process,
                        [*command, "--when-busy", "queue", "count", "to", "3"],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                    )
                )
                said = b""
                while b"position 1" not in said:
                    said += await process.stderr.receive_some()
                await wire.request("run.stop", run_id=active)
                answer = b""
                async for piece in process.stdout:
                    answer += piece
            assert answer.strip() == b"1 2 3"
