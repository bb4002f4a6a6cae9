"""The main job on real parts: a daemon process, real sockets, a real SQLite file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.wire import DaemonProcess, Wire, WireError, connect, daemon

LIMIT = 120.0  # absolute, for a hung test; nothing here waits for time to pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One daemon for the tests that leave it as they found it."""
    with daemon(tmp_path_factory.mktemp("shared") / "data") as process:
        yield process


async def start(wire: Wire, text: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    session = (await wire.request("session.create", cwd=os.getcwd()))["session"]
    return session["id"], await wire.request("run.start", session_id=session["id"], text=text, **fields)


async def read_text(wire: Wire, watch_id: str, *, until: int | None = None) -> tuple[str, int, list[dict[str, Any]]]:
    """The text of all deltas, the last seq, and the other events; up to the event `until` if given."""
    text, last, others = "", 0, []
    while (event := await wire.event(watch_id)) is not None:
        assert event.get("from", event["seq"]) == last + 1 or last == 0
        last = event["seq"]
        if event["type"] == "part.delta":
            text += event["text"]
        else:
            others.append(event)
        if until is not None and last >= until:
            break
    return text, last, others


def numbers(count: int) -> str:
    return "".join(f"{n} " for n in range(1, count + 1))


async def test_two_clients_see_the_same_run_and_a_third_resumes(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            session_id, started = await start(one, "count to 300 every 2 ms", watch=True)
            run_id = started["run"]["id"]
            watch = await two.request("run.watch", run_id=run_id)
            seen: dict[str, Any] = {}

            async def read(name: str, wire: Wire, watch_id: str) -> None:
                seen[name] = await read_text(wire, watch_id)

            async def cut_and_resume() -> None:
                async with connect(server.folder) as three:
                    watch = await three.request("run.watch", run_id=run_id)
                    head, last, _ = await read_text(three, watch["watch_id"], until=100)
                async with connect(server.folder) as four:
                    watch = await four.request("run.watch", run_id=run_id, after=last)
                    tail, _, _ = await read_text(four, watch["watch_id"])
                seen["three"] = head + tail

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, "one", one, started["watch_id"])
                nursery.start_soon(read, "two", two, watch["watch_id"])
                nursery.start_soon(cut_and_resume)
            assert seen["one"][0] == numbers(300)
            assert seen["two"][0] == numbers(300)
            assert seen["three"] == numbers(300)
            kinds = [event["type"] for event in seen["one"][2]]
            assert kinds[0] == "run.started" and kinds[-1] == "run.finished"
            assert seen["one"][2][-1]["status"] == "completed"
            page = await one.request("session.messages", session_id=session_id, limit=10)
            user, assistant = page["messages"]
            assert [part["text"] for part in user["parts"]] == ["count to 300 every 2 ms"]
            assert [part["text"] for part in assistant["parts"] if part["kind"] == "text"] == [numbers(300)]


async def test_stop_from_another_client_keeps_the_partial_text(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            session_id, started = await start(one, "count to 100000 every 5 ms", watch=True)
            run_id = started["run"]["id"]
            head, _, _ = await read_text(one, started["watch_id"], until=20)
            run = (await two.request("run.stop", run_id=run_id, reason="enough"))["run"]
            assert (run["status"], run["reason"]) == ("cancelled", "enough")
            again = (await one.request("run.stop", run_id=run_id))["run"]
            assert again == run
            assert (await one.request("run.list", active=True))["runs"] == []
            page = await two.request("session.messages", session_id=session_id, limit=10)
            (text,) = [part["text"] for part in page["messages"][1]["parts"] if part["kind"] == "text"]
            assert text.startswith(head) and numbers(100000).startswith(text)
            assert page["messages"][1]["info"]["finish"] == "cancelled"
            tail, _, others = await read_text(one, started["watch_id"])
            assert others[-1]["type"] == "run.finished" and others[-1]["status"] == "cancelled"
            assert text == head + tail


async def test_a_search_is_a_real_tool_call(server: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def found():\n    pass\n")
    (tmp_path / "b.txt").write_text("nothing\n")
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session = (await wire.request("session.create", cwd=str(tmp_path)))["session"]
            started = await wire.request(
                "run.start", session_id=session["id"], text="search this folder for def", watch=True
            )
            text, _, others = await read_text(wire, started["watch_id"])
            assert "a.py" in text
            states = [event["state"] for event in others if event["type"] == "tool.updated"]
            assert states == ["pending", "running", "completed"]
            page = await wire.request("session.messages", session_id=session["id"], limit=10)
            (tool,) = [p for m in page["messages"] for p in m["parts"] if p["kind"] == "tool"]
            assert (tool["tool"], tool["state"]) == ("files.search_files", "completed")
            assert "def found()" in tool["output"]


async def test_a_busy_session_refuses_and_names_the_run(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, started = await start(wire, "count to 100000 every 5 ms")
            with pytest.raises(WireError) as refused:
                await wire.request("run.start", session_id=session_id, text="hello")
            assert refused.value.code == "session_busy"
            assert refused.value.data["run_id"] == started["run"]["id"]
            shown = (await wire.request("session.get", session_id=session_id))["session"]
            assert shown["active_run_id"] == started["run"]["id"]
            await wire.request("run.stop", run_id=started["run"]["id"])
            again = await wire.request("run.start", session_id=session_id, text="count to 3", watch=True)
            assert (await read_text(wire, again["watch_id"]))[0] == "1 2 3 "


async def test_a_session_watch_shows_later_runs(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as one, connect(server.folder) as two:
            session = (await one.request("session.create"))["session"]
            watch = await two.request("session.watch", session_id=session["id"])
            assert watch["runs"] == []
            texts = []
            for count in (5, 7):
                started = await one.request("run.start", session_id=session["id"], text=f"count to {count}")
                text = ""
                while True:
                    frame = await two.push(watch["watch_id"])
                    if frame["method"] != "run.events":
                        continue
                    assert frame["params"]["run_id"] == started["run"]["id"]
                    events = frame["params"]["events"]
                    text += "".join(event["text"] for event in events if event["type"] == "part.delta")
                    if events[-1]["type"] == "run.finished":
                        break
                texts.append(text)
            assert texts == [numbers(5), numbers(7)]


async def test_deleting_a_session_stops_its_run_and_leaves_nothing(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, started = await start(wire, "count to 100000 every 5 ms", watch=True)
            await wire.request("session.delete", session_id=session_id)
            for method in ("session.get", "session.messages", "session.watch"):
                with pytest.raises(WireError) as refused:
                    await wire.request(method, session_id=session_id)
                assert refused.value.code == "unknown_session"
            with pytest.raises(WireError) as refused:
                await wire.request("run.get", run_id=started["run"]["id"])
            assert refused.value.code == "unknown_run"


async def test_stats_show_every_actor_under_its_parent(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            session_id, started = await start(wire, "count to 100000 every 5 ms")
            stats = await wire.request("daemon.stats")
            root = stats["actors"]["daemon"]
            assert {"store", "toolsets", "registry", "gateway"} <= set(root["children"])
            session = root["children"]["registry"]["children"][session_id]
            assert started["run"]["id"] in session["children"]
            assert root["children"]["gateway"]["children"]
            assert root["children"]["toolsets"]["children"]
            assert stats["memory"]["resident"] > 1_000_000 and stats["uptime_s"] >= 0
            history = await wire.request("daemon.history")
            assert history["memory"]["owned"].keys() == stats["memory"]["owned"].keys()
            assert len(history["at"]) == len(history["memory"]["resident"]) == len(history["counts"]["active_runs"])
            await wire.request("run.stop", run_id=started["run"]["id"])


def test_health_needs_no_token_and_metrics_does(server: DaemonProcess) -> None:
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(server.url + path) as answer:
            assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(server.url + "/metrics")
    assert refused.value.code == 401
    refused.value.close()
    token = Path(json.loads((server.folder / "daemon.json").read_text())["token_file"]).read_text().strip()
    request = urllib.request.Request(server.url + "/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        assert b"greenroom_" in answer.read()


def test_files_are_for_their_owner_only(server: DaemonProcess) -> None:
    for path in server.folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def _children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in listing.stdout.split()]


async def test_sigterm_with_a_run_ends_clean_and_the_next_start_has_everything(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    config = '[limits]\ndrain_timeout = "200ms"\n'
    with trio.fail_after(LIMIT), daemon(folder, config) as process:
        async with connect(folder) as wire:
            session_id, started = await start(wire, "count to 100000 every 5 ms", watch=True)
            head, _, _ = await read_text(wire, started["watch_id"], until=10)
            process.signal(signal.SIGTERM)
            tail, _, others = await read_text(wire, started["watch_id"])
            assert others[-1]["type"] == "run.finished" and others[-1]["status"] == "cancelled"
            code, _ = await wire.wait_closed()
            assert code == 1001
        assert await trio.to_thread.run_sync(process.wait) == 0
        assert not (folder / "daemon.json").exists()
        assert {path.name for path in folder.iterdir() if path.is_file()} <= {"token", "greenroom.db", "lock"}
    with trio.fail_after(LIMIT), daemon(folder):
        async with connect(folder) as wire:
            run = (await wire.request("run.get", run_id=started["run"]["id"]))["run"]
            assert run["status"] == "cancelled"
            page = await wire.request("session.messages", session_id=session_id)
            (text,) = [part["text"] for part in page["messages"][1]["parts"] if part["kind"] == "text"]
            assert text == head + tail
            assert [s["id"] for s in (await wire.request("session.list"))["sessions"]] == [session_id]


async def test_sigkill_in_mid_run_is_settled_as_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), daemon(folder) as process:
        async with connect(folder) as wire:
            session_id, started = await start(wire, "count to 100000 every 1 ms", watch=True)
            run_id = started["run"]["id"]
            # More than one commit's worth: `chunk_bytes` of text is durable at the latest after the next one.
            _, last, _ = await read_text(wire, started["watch_id"], until=3000)
            process.signal(signal.SIGKILL)
            await wire.wait_closed()
        process.process.wait()
    with trio.fail_after(LIMIT), daemon(folder):
        async with connect(folder) as wire:
            run = (await wire.request("run.get", run_id=run_id))["run"]
            assert run["status"] == "interrupted" and run["last_seq"] > last
            page = await wire.request("session.messages", session_id=session_id)
            assistant = page["messages"][1]
            assert assistant["info"]["finish"] == "interrupted"
            (text,) = [part["text"] for part in assistant["parts"] if part["kind"] == "text"]
            assert len(text) >= 4096 and numbers(100000).startswith(text)
            watch = await wire.request("run.watch", run_id=run_id, after=last)
            gap = await wire.push(watch["watch_id"])
            assert gap["method"] == "run.gap"
            shown = ""
            while (frame := await wire.push(watch["watch_id"]))["method"] == "run.snapshot":
                shown += frame["params"].get("text", "")
            assert shown == text
            assert (frame["method"], frame["params"]["reason"]) == ("watch.closed", "evicted")
            again = await wire.request("run.start", session_id=session_id, text="count to 3", watch=True)
            assert (await read_text(wire, again["watch_id"]))[0] == "1 2 3 "


def test_a_second_daemon_is_refused_and_told_who_holds_the_directory(server: DaemonProcess) -> None:
    import sys

    command = [sys.executable, "-m", "actors.cli", "serve", "--data", str(server.folder), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 4
    assert str(server.pid) in ended.stderr and ended.stdout == ""
