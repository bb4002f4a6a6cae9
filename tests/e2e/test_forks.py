"""Forks, costs and titles of a real daemon: over the wire, after a kill, and on the command line."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.test_cli import answer, greenroom
from tests.e2e.wire import Wire, WireError, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0
CONFIG = """
currency = "EUR"
[models.demo]
provider = "demo"
[models.demo.price]
input = 0.1
output = 0.3
per = "1K"
"""


async def run(wire: Wire, session: str, text: str) -> None:
    started = await wire.request("run.start", session_id=session, text=text, watch=True)
    events = await wire.events(started["watch_id"], gaps=True)
    assert events[-1]["status"] == "completed"


async def whole(wire: Wire, part: dict[str, Any]) -> str:
    """The part's text, by its handle if it is long."""
    if "text_more" not in part:
        return str(part["text"])
    text, offset = "", 0
    while offset is not None:
        piece = await wire.request("output.read", handle=part["text_more"]["handle"], offset=offset)
        text += piece["text"]
        offset = piece.get("next_offset")
    return text


async def test_a_fork_outlives_its_parent_and_the_daemon(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        with daemon(tmp_path / "data", CONFIG) as process:
            async with connect(process.folder) as wire:
                session = (await wire.request("session.create", title="talk"))["session"]
                assert session["todos"] == []
                await run(wire, session["id"], "count to 20000")
                await run(wire, session["id"], "count to 1")
                messages = (await wire.request("session.messages", session_id=session["id"]))["messages"]
                at = messages[1]["info"]["id"]
                asked = {"session_id": session["id"], "message_id": at, "idempotency_key": "k"}
                fork = (await wire.request("session.fork", **asked))["session"]
                assert (fork["parent_id"], fork["message_count"], fork["title"]) == (session["id"], 2, "talk")
                assert "cost" not in fork["usage"]
                assert (await wire.request("session.fork", **asked))["session"]["id"] == fork["id"]
                for wrong, code in (({"message_id": "msg_x"}, "unknown_message"), ({}, "idempotency_conflict")):
                    key = {"idempotency_key": "k"} if code == "idempotency_conflict" else {}
                    with pytest.raises(WireError) as caught:
                        await wire.request("session.fork", session_id=session["id"], **wrong, **key)
                    assert caught.value.code == code
                await wire.request("session.delete", session_id=session["id"])
            process.signal(signal.SIGKILL)
            process.wait()
        with daemon(tmp_path / "data", CONFIG) as process:
            async with connect(process.folder) as wire:
                (found,) = (await wire.request("session.list"))["sessions"]
                assert found["id"] == fork["id"]
                copied = (await wire.request("session.messages", session_id=fork["id"]))["messages"]
                assert copied[1]["info"]["parent_id"] == copied[0]["info"]["id"]
                assert copied[1]["info"]["usage"]["cost"] == 6.0003  # 3 words in, 20,000 out
                text = next(part for part in copied[1]["parts"] if part["kind"] == "text")
                assert await whole(wire, text) == "".join(f"{n} " for n in range(1, 20_001))
                await run(wire, fork["id"], "count to 1")
                record = (await wire.request("session.get", session_id=fork["id"]))["session"]
                assert (record["message_count"], record["usage"]["output_tokens"]) == (4, 1)


async def test_titles_have_no_control_characters(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), daemon(tmp_path / "data") as process:
        async with connect(process.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            for title in ("a\nb", "\x1b[2J", "a\x00", "\u202egnp.exe", "x" * 201):
                for method, params in (("session.create", {}), ("session.update", {"session_id": session})):
                    with pytest.raises(WireError) as caught:
                        await wire.request(method, title=title, **params)
                    assert [field["path"] for field in caught.value.data["fields"]] == ["title"]
            await run(wire, session, "\x1b[31m\x07\nred\u202e alert\nand more")
            record = (await wire.request("session.get", session_id=session))["session"]
            assert record["title"] == "[31m"
            await wire.request("session.update", session_id=session, title="x" * 200)


async def test_a_title_made_by_a_service_is_told(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), model_server() as models:
        service = f'[models.service]\nprovider = "openai"\nmodel = "service"\nbase_url = "{models.url}"\n'
        service += "[models.service.price]\ninput = 1\noutput = 1\n"
        with daemon(tmp_path / "data", f'title_model = "service"\n{service}') as process:
            async with connect(process.folder) as wire:
                session = (await wire.request("session.create", model="service"))["session"]["id"]
                watch = (await wire.request("session.watch", session_id=session))["watch_id"]
                await wire.request("run.start", session_id=session, text="!stream n=3 text=one-")
                while True:
                    push = await wire.push(watch)
                    title = push["params"].get("session", {}).get("title", "")
                    if push["method"] == "session.changed" and title and not title.startswith("!"):
                        break
                usage = push["params"]["session"]["usage"]
                page = await wire.request("session.messages", session_id=session)
                assert usage["cost"] > page["messages"][-1]["info"]["usage"]["cost"], "making it is counted too"


def test_a_list_of_what_is_to_be_done(tmp_path: Path) -> None:
    with model_server() as models:
        service = f'[models.service]\nprovider = "openai"\nmodel = "service"\nbase_url = "{models.url}"\n'
        with daemon(tmp_path / "data", service) as process:
            todos = (
                '{"todos":[{"text":"plan","status":"completed"},{"text":"build","status":"in_progress"},{"text":"x"}]}'
            )
            asked = greenroom(process.folder, "run", "--json", f"!tool name=todo__write input={todos}")
            session = json.loads(answer(asked).splitlines()[0])["session_id"]
            fork = answer(greenroom(process.folder, "sessions", "fork", session)).strip()
            for one in (session, fork):
                lines = answer(greenroom(process.folder, "sessions", "show", one)).splitlines()
                assert [line for line in lines if line.startswith("[")][:3] == ["[x] plan", "[>] build", "[ ] x"]


def test_on_the_command_line(tmp_path: Path) -> None:
    with daemon(tmp_path / "data", CONFIG) as process:

        def shown(*words: str) -> Any:
            return json.loads(answer(greenroom(process.folder, *words, "--json")))

        lines = answer(greenroom(process.folder, "run", "--json", "count to 3")).splitlines()
        session, run_id = (json.loads(lines[0])[name] for name in ("session_id", "run_id"))
        answer(greenroom(process.folder, "run", "--session", session, "count to 1"))
        first = shown("sessions", "show", session)["messages"][1]["info"]["id"]
        fork = answer(greenroom(process.folder, "sessions", "fork", session, "--at", first)).strip()
        assert shown("sessions", "show", fork)["session"]["parent_id"] == session
        assert shown("sessions", "fork", session)["message_count"] == 4
        text = answer(greenroom(process.folder, "sessions", "show", session)).splitlines()
        assert "used 12 tokens in, 4 out, 0.0024 EUR" in text
        assert any(line.startswith("── assistant") and line.endswith(", 0.0012") for line in text)
        text = answer(greenroom(process.folder, "sessions", "show", fork)).splitlines()
        assert "used 0 tokens in, 0 out" in text and f"a fork of {session}" in text
        assert "usage        3 tokens in, 3 out, 0.0012 EUR" in answer(
            greenroom(process.folder, "runs", "show", run_id)
        )
        refused: subprocess.CompletedProcess[str] = greenroom(
            process.folder, "sessions", "fork", session, "--at", "msg_x"
        )
        assert refused.returncode == 1 and "msg_x" in refused.stderr
