"""Real runs over real sockets: clients that are slow, and several that follow and stop one run."""

from __future__ import annotations

import contextlib
import json
import socket as sockets
from collections.abc import AsyncIterator
from typing import Any

import trio
import trio_websocket
from trio.testing import wait_all_tasks_blocked

from actors._actor import open_actor
from actors.gateway import Gateway, Services
from engine.config import Config
from engine.limits import Limits
from tests.actors.gateway.fakes import ANY_PORT, TOKEN, Served, Wire, _stats
from tests.actors.scripted import Stage, Staged, staged

__all__ = ["staged"]

SLOW = {"slow_client_timeout": 60.0, "answer_bytes": float(32 << 20)}


@contextlib.asynccontextmanager
async def served(stage: Stage) -> AsyncIterator[Served]:
    """The stage's registry on a socket."""
    config = Config(listen=ANY_PORT, limits=Limits(slow_client_timeout=SLOW["slow_client_timeout"]))
    services = Services(
        config=config, registry=stage.registry, toolsets=stage.engine._composition.toolbox, stats=_stats
    )
    async with open_actor(Gateway(services, TOKEN), "gateway") as ref:
        ref.ready()
        yield Served(ref, stage.registry)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def little_buffer(at: Served) -> AsyncIterator[Wire]:
    """A client whose socket takes little before it is read."""
    sock = trio.socket.socket()
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", at.port))
    async with trio.open_nursery() as nursery, trio.SocketStream(sock) as stream:
        socket = await trio_websocket.wrap_client_stream(
            nursery,
            stream,
            at.host,
            "/ws",
            subprotocols=["greenroom.v1"],
            extra_headers=[("Authorization", f"Bearer {TOKEN}")],
            max_message_size=1 << 22,
        )
        wire = Wire(socket)
        await wire.initialize()
        yield wire
        nursery.cancel_scope.cancel()


async def watch(wire: Wire, run_id: str, after: int = 0) -> str:
    watch_id: str = (await wire.request("run.watch", run_id=run_id, after=after))["watch_id"]
    return watch_id


async def told(wire: Wire, watch_id: str) -> tuple[str, list[str], list[dict[str, Any]]]:
    """The text of a watch to its end with the kinds of its pushes and the events that end a run. A gap is followed by
    a snapshot, which replaces what was before it."""
    text, seq, gap, methods, ends = "", 0, 0, [], []
    while True:
        method, params = await wire.push()
        assert params["watch_id"] == watch_id
        methods.append(method)
        match method:
            case "run.events":
                assert not gap, "events between a gap and its snapshot"
                for event in params["events"]:
                    assert event.get("from", event["seq"]) == seq + 1, "a hole"
                    seq = event["seq"]
                    text += event["text"] if event["type"] == "part.delta" else ""
                    ends += [event] if event["type"] == "run.finished" else []
            case "run.gap":
                assert params["reason"] == "log_overflow" and params["from"] == seq + 1
                gap = params["to"]
            case "run.snapshot":
                assert params["seq"] >= gap > 0
                if params.get("part", {}).get("kind") == "text":
                    assert params["offset"] in (0, len(text.encode()))
                    text = params["text"] if not params["offset"] else text + params["text"]
                if not params["more"]:
                    seq, gap = params["seq"], 0
            case "watch.closed":
                assert params["reason"] == "finished" and params["status"]
                return text, methods, ends


async def test_a_slow_socket_falls_behind_the_log_and_has_the_whole_text_in_the_end(staged: Staged) -> None:
    async with staged(**SLOW) as stage, served(stage) as at, at.connect() as quick, little_buffer(at) as slow:
        run, call = await stage.begin()
        quick_id, slow_id = await watch(quick, run.id), await watch(slow, run.id)
        whole: list[str] = []

        async def say(count: int) -> None:
            for _ in range(count):
                piece = f'<{len(whole)}>"é\n' + "x" * 16_000
                whole.append(piece)
                call.text(piece)
                await wait_all_tasks_blocked(0.0001)

        found: list[tuple[str, list[str], list[dict[str, Any]]]] = []

        async def follow() -> None:
            found.append(await told(quick, quick_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            # More than its socket, the one frame on the way and the log hold; nobody waits for it.
            while run._feed.log.first_seq < 100:
                await say(20)
            slow_found: list[tuple[str, list[str], list[dict[str, Any]]]] = []

            async def read_late() -> None:
                slow_found.append(await told(slow, slow_id))

            nursery.start_soon(read_late)
            await say(3)
            call.end()
            assert (await run.wait()).status == "completed"
        text, methods, ends = slow_found[0]
        assert "run.gap" in methods and "run.snapshot" in methods
        assert methods[-2:] == ["run.events", "watch.closed"], "live again at its end"
        assert text == "".join(whole)
        assert [end["status"] for end in ends] == ["completed"]
        assert found[0][0] == "".join(whole)
        assert at.ref.gateway_statistics().aborted_slow == 0


async def test_a_stop_by_a_second_client_ends_the_run_once_for_all(staged: Staged) -> None:
    async with staged() as stage, served(stage) as at, at.connect() as first, at.connect() as second:
        session_id = (await first.request("session.create"))["session"]["id"]
        started = await first.request("run.start", session_id=session_id, text="hi", watch=True)
        run_id, call = started["run"]["id"], await stage.models.call()
        call.text("half of it")
        second_id = await watch(second, run_id)
        stopped = (await second.request("run.stop", run_id=run_id, reason="the other one"))["run"]
        assert (stopped["status"], stopped["reason"]) == ("cancelled", "the other one")
        assert call.closed.is_set() and stage.runs_in_tree() == []
        call.text(" and more")  # nobody listens any more
        call.end()
        for wire, watch_id in ((first, started["watch_id"]), (second, second_id)):
            text, _, ends = await told(wire, watch_id)
            assert text == "half of it"
            assert [(end["status"], end["seq"]) for end in ends] == [("cancelled", stopped["last_seq"])]
        # For the first client, too, it is over; nothing was relabelled.
        assert (await first.request("run.stop", run_id=run_id, reason="me too"))["run"] == stopped
        assert (await first.request("run.get", run_id=run_id))["run"] == stopped
        again = await first.request("run.start", session_id=session_id, text="again")
        assert again["run"]["status"] == "running" and again["run"]["id"] != run_id


async def test_stops_of_many_clients_at_once_are_answered_after_the_end_with_one_record(staged: Staged) -> None:
    async with staged() as stage, served(stage) as at, contextlib.AsyncExitStack() as stack:
        run, call = await stage.begin()
        call.text("half")
        wires = [await stack.enter_async_context(at.connect()) for _ in range(5)]
        ids = [await watch(wire, run.id) for wire in wires]
        stage.disk.hold()  # the end is not stored until the test says so
        keys = [(wire, [await wire.send("run.stop", run_id=run.id) for _ in range(3)]) for wire in wires]
        await stage.disk.wait_held()
        for wire in wires:  # their stops were before this request
            assert (await wire.request("run.get", run_id=run.id))["run"]["status"] == "stopping"
            assert not [push for push in wire.pushes if "result" in push]
        stage.disk.release()
        answers = [(await answer(wire, key))["result"]["run"] for wire, several in keys for key in several]
        assert len(answers) == 15 and all(one == answers[0] for one in answers)
        assert answers[0]["status"] == "cancelled"
        for wire, watch_id in zip(wires, ids, strict=True):
            wire.pushes = [push for push in wire.pushes if "method" in push]
            text, _, ends = await told(wire, watch_id)
            assert text == "half" and [end["status"] for end in ends] == ["cancelled"]


async def answer(wire: Wire, key: int) -> dict[str, Any]:
    """The reply with this id; other replies and pushes are kept."""
    for frame in wire.pushes:
        if frame.get("id") == key:
            wire.pushes.remove(frame)
            return frame
    return await wire.answer(key)


async def test_a_run_goes_on_without_clients_and_is_told_to_the_next(staged: Staged) -> None:
    async with staged() as stage, served(stage) as at:
        async with at.connect() as first:
            session_id = (await first.request("session.create"))["session"]["id"]
            started = await first.request("run.start", session_id=session_id, text="hi", watch=True)
            run_id, call = started["run"]["id"], await stage.models.call()
            call.text("one ")
            method, params = await first.push()
            while method != "run.events" or "one " not in json.dumps(params):
                method, params = await first.push()
            cursor = params["events"][-1]["seq"]
        while at.ref.gateway_statistics().connections:
            await wait_all_tasks_blocked()
        call.text("two ", "three")
        async with at.connect() as second:
            watch_id = await watch(second, run_id, cursor)
            call.end()
            text = ""
            while (push := await second.push())[0] == "run.events":
                for event in push[1]["events"]:
                    assert event.get("from", event["seq"]) == cursor + 1
                    cursor = event["seq"]
                    text += event["text"] if event["type"] == "part.delta" else ""
            assert push[1] == {"watch_id": watch_id, "run_id": run_id, "status": "completed", "reason": "finished"}
            assert text == "two three"
