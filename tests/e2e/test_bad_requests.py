"""Requests in good form for what does not exist or cannot be, against a daemon process: the code that the contract
names, and nothing has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.e2e.raw import Raw, dial, open_socket
from tests.e2e.wire import DaemonProcess, connect, daemon

LIMIT = 120.0  # absolute, for a hung test


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("bad-requests") / "data") as process:
        yield process
        assert process.process.poll() is None, process.errors()
        assert "Traceback" not in Path(process.log.name).read_text()


async def refused(raw: Raw, method: str, params: dict[str, Any], code: str) -> dict[str, Any]:
    """The `data` of the error, which has to be of this code."""
    error = (await raw.ask(method, params))["error"]
    shown = f"{method} {json.dumps(params)[:200]}"
    assert (error["code"], error.get("data", {}).get("code")) == (-32000, code), (shown, error)
    assert error["message"] and len(json.dumps(error)) < 4096, shown
    data: dict[str, Any] = error["data"]
    return data


# Well-formed ids that nothing has; the first looks like a path.
STRANGERS: Final = ("..", "ses_none", "0", "-", ":", "i" * 128, "run_1.0")
NAMES_ID: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "session.get": ("session_id", "unknown_session", {}),
    "session.update": ("session_id", "unknown_session", {"title": "x"}),
    "session.delete": ("session_id", "unknown_session", {}),
    "session.messages": ("session_id", "unknown_session", {}),
    "session.watch": ("session_id", "unknown_session", {}),
    "run.start": ("session_id", "unknown_session", {"text": "hello"}),
    "run.list": ("session_id", "unknown_session", {}),
    "run.watch": ("run_id", "unknown_run", {}),
    "run.stop": ("run_id", "unknown_run", {}),
    "run.get": ("run_id", "unknown_run", {}),
    "watch.close": ("watch_id", "unknown_watch", {}),
}


@pytest.mark.parametrize("method", NAMES_ID)
async def test_what_does_not_exist_is_named(server: DaemonProcess, method: str) -> None:
    field, code, others = NAMES_ID[method]
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            for stranger in STRANGERS:
                await refused(raw, method, {**others, field: stranger}, code)
            await raw.result("ping")


async def test_handles_of_nothing(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            session = (await raw.result("session.create"))["session"]
            for handle in (
                *(
                    "x",
                    "\0",
                    "../../token",
                    "out_",
                    "out__",
                    "out_prt_1_text",
                    "out_prt_1_nope",
                    "out_ses_1_instructions",
                ),
                *(f"out_{session['id']}_instructions", f"out_{session['id']}_text", "out_'_text", "h" * 256, "é\ud7ff"),
            ):
                await refused(raw, "output.read", {"handle": handle}, "unknown_output")


async def test_a_session_of_what_is_not_configured(server: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nothing")
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            before = len((await raw.result("session.list", limit=100))["sessions"])
            for model in ("nope", "Demo", "demo ", "../..", "\0", "n" * 200):
                await refused(raw, "session.create", {"model": model}, "unknown_model")
            for toolsets in (["nope"], ["files", "nope"], ["files.read_file"], ["FILES"], ["\0"]):
                await refused(raw, "session.create", {"toolsets": toolsets}, "unknown_toolset")
            for name in ("gone", "file", "file/below", "fifo", "dangling"):
                await refused(raw, "session.create", {"cwd": str(tmp_path / name)}, "invalid_path")
            await refused(raw, "session.create", {"cwd": "/" + "d" * 4000}, "invalid_path")
            assert len((await raw.result("session.list", limit=100))["sessions"]) == before


async def test_a_session_cannot_be_changed_to_what_is_not_configured(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            session = (await raw.result("session.create", title="as it was"))["session"]
            change: dict[str, Any] = {"session_id": session["id"], "title": "changed"}
            await refused(raw, "session.update", {**change, "model": "nope"}, "unknown_model")
            await refused(raw, "session.update", {**change, "toolsets": ["nope"]}, "unknown_toolset")
            data = await refused(raw, "session.update", {**change, "expected_revision": 9}, "stale_revision")
            assert data["revision"] == session["revision"]
            assert (await raw.result("session.get", session_id=session["id"]))["session"] == session


async def test_a_run_that_cannot_start_leaves_no_message(server: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 10 * 1024 * 1024 + 1)
    (tmp_path / "out").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            session = (await raw.result("session.create", cwd=str(tmp_path)))["session"]
            here = {"session_id": session["id"]}
            await refused(raw, "run.start", {**here, "text": "hello", "model": "nope"}, "unknown_model")
            data = await refused(raw, "run.start", {**here, "text": "hello", "expected_revision": 0}, "stale_revision")
            assert data["revision"] == session["revision"]
            for path in ("gone", "folder", "fifo", "../..", "/etc/passwd", "out", "folder/../../x", "p" * 4096, "."):
                files = [{"kind": "text", "text": "see"}, {"kind": "file", "path": path}]
                await refused(raw, "run.start", {**here, "input": files}, "invalid_path")
            file = {"kind": "file", "path": "large"}
            data = await refused(raw, "run.start", {**here, "input": [file]}, "payload_too_large")
            assert data["limit"] == 10 * 1024 * 1024
            assert (await raw.result("session.get", **here))["session"] == session
            assert (await raw.result("session.messages", **here))["messages"] == []
            assert (await raw.result("run.list", **here))["runs"] == []


async def test_a_key_is_for_one_payload(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            first = (await raw.result("session.create", title="one", idempotency_key="k"))["session"]
            await refused(raw, "session.create", {"title": "two", "idempotency_key": "k"}, "idempotency_conflict")
            start = {"session_id": first["id"], "text": "count to 2", "idempotency_key": "k"}
            run = (await raw.result("run.start", **start))["run"]
            await refused(raw, "run.start", {**start, "text": "count to 3"}, "idempotency_conflict")
            assert (await raw.result("run.start", **start))["run"]["id"] == run["id"]


async def test_a_watch_of_another_sessions_run(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            one, two = [(await raw.result("session.create"))["session"]["id"] for _ in range(2)]
            run = (await raw.result("run.start", session_id=one, text="count to 2"))["run"]
            await refused(raw, "session.watch", {"session_id": two, "after": {run["id"]: 0}}, "unknown_run")
            await refused(raw, "session.watch", {"session_id": two, "after": {"run_none": 0}}, "unknown_run")


async def test_watches_have_a_bound_and_closing_one_makes_room(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            session_id = (await raw.result("session.create"))["session"]["id"]
            watches = [(await raw.result("session.watch", session_id=session_id))["watch_id"] for _ in range(256)]
            assert len(set(watches)) == 256
            data = await refused(raw, "session.watch", {"session_id": session_id}, "overloaded")
            assert data["retry_after_ms"] > 0
            await raw.result("watch.close", watch_id=watches[0])
            await refused(raw, "watch.close", {"watch_id": watches[0]}, "unknown_watch")
            await raw.result("session.watch", session_id=session_id)


async def test_initialize_comes_first(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with dial(server.folder) as raw:
            await raw.upgrade()
            for method, params in (
                ("ping", {}),
                ("session.list", {}),
                ("run.get", {"run_id": "run_1"}),
                ("run.get", {}),
            ):
                await refused(raw, method, params, "not_initialized")
            client = {"name": "hostile", "version": "1"}
            for protocol in (0, 2, 2**53 - 1):
                asked = {"client": client, "protocol": protocol}
                data = await refused(raw, "initialize", asked, "unsupported_protocol")
                assert data["supported"] == [1]
            await refused(raw, "ping", {}, "not_initialized")
            await raw.initialize()
            await raw.result("ping")
            await raw.initialize()
            await refused(raw, "initialize", {"client": client, "protocol": 2}, "unsupported_protocol")
            await raw.result("ping")


TEXTS: Final = (
    *("count to " + "9" * 5000, f"count to 5 every {'9' * 400} ms", "count to -1", "\0", "\u2028x", "x" * 1_000_000),
    *("read ../../etc/passwd", "read /proc/self/environ", "read \0", "read .", "read fifo", "read " + "x" * 100_000),
    *("search / for root", "search \0 for x", "search this folder for \0", "search " + "d/" * 5000 + " for x"),
    *("search this folder for ((((a+)+)+)+)$", "search this folder for " + "x" * 100_000),
)


async def test_a_run_ends_whatever_it_is_asked(server: DaemonProcess, tmp_path: Path) -> None:
    """The demo model and its tools are given what no person writes; nothing outside the folder is shown."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "text").write_text("a" * 100_000)
    os.mkfifo(folder / "fifo")
    with trio.fail_after(LIMIT):
        async with connect(server.folder) as wire:
            for text in TEXTS:
                session = (await wire.request("session.create", cwd=str(folder)))["session"]
                started = await wire.request("run.start", session_id=session["id"], text=text, watch=True)
                end = (await wire.events(started["watch_id"]))[-1]
                assert (end["type"], end["status"]) == ("run.finished", "completed"), text[:100]
                page = await wire.request("session.messages", session_id=session["id"])
                assert "root:" not in json.dumps(page) and "PATH=" not in json.dumps(page)
            assert (await wire.request("daemon.stats"))["counts"]["defects"] == 0
