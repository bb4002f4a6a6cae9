"""A daemon in one process, a model's service in another: what each answer of the service becomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.wire import DaemonProcess, connect, daemon
from tests.model_formats import SIGNATURE
from tests.model_server import ModelServer, model_server

LIMIT = 120.0


@pytest.fixture(scope="module")
def service() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, service: ModelServer) -> Iterator[DaemonProcess]:
    config = f"""
        default_model = "real"
        [models.real]
        provider = "openai"
        base_url = "{service.url}"
        model = "theirs"
        [models.messages]
        provider = "anthropic"
        base_url = "{service.url}"
        model = "theirs"
        [limits]
        progress_timeout = "1s"
        model_attempts = 1
    """
    with daemon(tmp_path_factory.mktemp("providers") / "data", config) as process:
        yield process


class Told:
    """What a client was told of one run, and what the transcript has of it."""

    def __init__(self) -> None:
        self.text = ""
        self.events: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def stored(self) -> str:
        parts = [part for message in self.messages[1:] for part in message["parts"]]
        return "".join(part["text"] for part in parts if part["kind"] == "text")


async def tell(host: DaemonProcess, text: str, folder: Path, *, model: str = "real", gaps: bool = False) -> Told:
    told = Told()
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session = (await wire.request("session.create", cwd=str(folder), model=model))["session"]
            started = await wire.request("run.start", session_id=session["id"], text=text, watch=True)
            for event in await wire.events(started["watch_id"], gaps=gaps):
                told.text += event.get("text", "") if event["type"] == "part.delta" else ""
                told.events.append(event)
            page = await wire.request("session.messages", session_id=session["id"])
            told.messages = page["messages"]
            # Whatever happened, the session takes the next message.
            again = await wire.request("run.start", session_id=session["id"], text="hello", watch=True)
            assert (await wire.events(again["watch_id"]))[-1]["status"] == "completed"
    assert told.end["type"] == "run.finished"
    return told


async def test_plain_streaming(host: DaemonProcess, tmp_path: Path) -> None:
    told = await tell(host, "!stream n=500", tmp_path)
    assert told.text == "word " * 500 == told.stored
    assert (told.end["status"], told.end["usage"]["output_tokens"]) == ("completed", 500)
    assert told.messages[1]["info"]["finish"] == "stop"


async def test_a_tool_call_round_trip(host: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("the content of x")
    told = await tell(host, '!tool name=files__read_file input={"path":"x.txt"}', tmp_path)
    assert told.end["status"] == "completed"
    assert told.text.startswith("The tool said: ") and "the content of x" in told.text
    calls = [part for message in told.messages for part in message["parts"] if part["kind"] == "tool"]
    assert [(call["tool"], call["state"], call["input"]) for call in calls] == [
        ("files.read_file", "completed", {"path": "x.txt"})
    ]
    assert "the content of x" in calls[0]["output"]
    assert [message["info"].get("finish") for message in told.messages] == [None, "tool_calls", "stop"]


async def test_a_messages_service_gets_its_thinking_back_with_the_result(
    host: DaemonProcess, service: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("the content of x")
    told = await tell(host, '!tool name=files__read_file think=1 input={"path":"x.txt"}', tmp_path, model="messages")
    assert told.end["status"] == "completed"
    assert told.end["usage"] == {
        "input_tokens": 22, "output_tokens": 6, "reasoning_tokens": 0,
        "cache_read_tokens": 10, "cache_write_tokens": 8,
    }  # fmt: skip
    parts = [part for part in told.messages[1]["parts"] if part["kind"] in ("reasoning", "tool")]
    assert [part["kind"] for part in parts] == ["reasoning", "tool"]
    assert parts[0]["text"] == "It has to be read." and "signature" not in parts[0]
    assert "the content of x" in parts[1]["output"]
    first, second = [asked["body"] for asked in service.requests() if "think=1" in str(asked["body"])][:2]
    names = [tool["name"] for tool in first["tools"]]
    assert names[:2] == ["files__read_file", "files__search_files"] and "web__fetch" in names
    _, answer, result = second["messages"]
    assert answer["content"][0] == {"type": "thinking", "thinking": "It has to be read.", "signature": SIGNATURE}
    assert result["content"][0]["tool_use_id"] == answer["content"][1]["id"]
    # The next run, which `tell` made, does not repeat what was thought in this one.
    assert SIGNATURE not in str(service.requests()[-1]["body"]) and SIGNATURE in str(second)


@pytest.mark.parametrize(
    ("text", "code", "kept"),
    [
        ("!error_midstream kind=invalid_request_error", "provider_error", "partial "),
        ("!status code=400 message=prompt_is_too_long:_9_tokens", "context_overflow", ""),
        ("!cut", "provider_error", "partial "),
        ("!silence", "provider_timeout", "partial "),
        ("!error200", "provider_error", ""),
    ],
)
async def test_a_fault_of_a_messages_service(
    host: DaemonProcess, tmp_path: Path, text: str, code: str, kept: str
) -> None:
    told = await tell(host, text, tmp_path, model="messages")
    assert (told.end["status"], told.end["error"]["code"]) == ("failed", code)
    assert told.text == kept == told.stored


async def test_a_tool_that_leads_out_of_the_folder_is_refused(host: DaemonProcess, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("not to be read")
    told = await tell(host, '!tool name=files__read_file input={"path":"../secret.txt"}', inside)
    (call,) = [part for message in told.messages for part in message["parts"] if part["kind"] == "tool"]
    assert call["state"] == "error" and "not to be read" not in str(told.messages)


@pytest.mark.parametrize(
    ("text", "code", "says", "kept"),
    [
        ("!status code=401", "provider_error", "401", ""),
        ("!status code=400 message=bad_request", "provider_error", "bad request", ""),
        ("!error_midstream", "provider_error", "overloaded", "partial "),
        ("!cut where=event", "provider_error", "", "partial "),
        ("!cut where=chunk", "provider_error", "", "partial "),
        ("!garbage kind=json", "provider_error", "", "partial "),
        ("!garbage kind=utf8", "provider_error", "", "partial "),
        ("!garbage kind=line", "provider_error", "", "partial "),
        ("!event bytes=5000000", "provider_error", "", ""),
        ("!silence", "provider_timeout", "", "partial "),
        ("!hang", "provider_timeout", "", ""),
        ("!html", "provider_error", "", ""),
        ("!error200", "provider_error", "no such deployment", ""),
    ],
)
async def test_a_fault_ends_the_run_with_its_reason(
    host: DaemonProcess, tmp_path: Path, text: str, code: str, says: str, kept: str
) -> None:
    told = await tell(host, text, tmp_path)
    assert told.end["status"] == "failed"
    assert told.end["error"]["code"] == code and says in told.end["error"]["message"]
    assert told.text == kept == told.stored
    info = told.messages[1]["info"]
    assert info["finish"] == "error" and info["error"] == told.end["error"]


async def test_an_event_of_two_megabytes_arrives_whole(host: DaemonProcess, tmp_path: Path) -> None:
    # It is more than the replay log holds: a client that is not quick enough is told of a gap.
    told = await tell(host, "!event bytes=2000000", tmp_path, gaps=True)
    assert told.end["status"] == "completed"
    (part,) = [part for part in told.messages[1]["parts"] if part["kind"] == "text"]
    assert 1_990_000 < part["text_more"]["bytes"] < 2_000_000 and len(part["text"]) <= 32 * 1024
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            text, offset = "", 0
            while True:
                piece = await wire.request(
                    "output.read", handle=part["text_more"]["handle"], offset=offset, limit=65536
                )
                text += piece["text"]
                if "next_offset" not in piece:
                    break
                offset = piece["next_offset"]
            assert set(text) == {"x"} and len(text) == part["text_more"]["bytes"]


@pytest.mark.parametrize("split", ["utf8", "escapes"])
async def test_an_emoji_over_two_chunks(host: DaemonProcess, tmp_path: Path, split: str) -> None:
    told = await tell(host, f"!emoji split={split}", tmp_path)
    assert told.text == "a😀b" == told.stored


async def test_stopping_closes_the_models_connection(host: DaemonProcess, service: ModelServer, tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with connect(host.folder) as wire:
            session = (await wire.request("session.create", cwd=str(tmp_path)))["session"]
            text = "!stream n=100000 rate=100"
            started = await wire.request("run.start", session_id=session["id"], text=text, watch=True)
            while (event := await wire.event(started["watch_id"])) is not None and event["type"] != "part.delta":
                pass
            asked = service.requests()[-1]
            assert asked["end"] is None
            run = (await wire.request("run.stop", run_id=started["run"]["id"]))["run"]
            assert run["status"] == "cancelled"
            ended = await trio.to_thread.run_sync(service.ended, asked["number"])
            assert ended["end"] == "closed"
