"""Figures and log of a real daemon, as an operator gets them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from actors.metrics import METRICS, PROCESS_METRICS
from tests.e2e.wire import READY, DaemonProcess, Wire, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0  # absolute, for a hung test; nothing here waits for time to pass
Samples = dict[tuple[str, ...], float]


def token(folder: Path) -> str:
    return (folder / "token").read_text().strip()


def get(process: DaemonProcess, *, bearer: str | None, accept: str = "*/*") -> tuple[int, str, str]:
    address = urllib.parse.urlsplit(process.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=LIMIT)
    headers = {"Accept": accept} | ({} if bearer is None else {"Authorization": f"Bearer {bearer}"})
    try:
        connection.request("GET", "/metrics", headers=headers)
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read().decode()
    finally:
        connection.close()


def scrape(process: DaemonProcess) -> Samples:
    """Samples by name and the values of their labels."""
    status, _, text = get(process, bearer=token(process.folder))
    assert status == 200
    samples = [sample for family in parse(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


async def run(wire: Wire, text: str, **fields: Any) -> dict[str, Any]:
    """A run in a session of its own, to its end."""
    session = (await wire.request("session.create", cwd=os.getcwd(), **fields))["session"]
    started = await wire.request("run.start", session_id=session["id"], text=text, watch=True)
    await wire.events(started["watch_id"])
    ended: dict[str, Any] = (await wire.request("run.get", run_id=started["run"]["id"]))["run"]
    return ended


async def test_the_figures_move_with_the_work(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), daemon(tmp_path / "data") as process:
        before = await trio.to_thread.run_sync(scrape, process)
        async with connect(process.folder) as wire:
            await run(wire, "count to 20")
            await run(wire, "search this folder for def")
            await wire.request("ping")
            after = await trio.to_thread.run_sync(scrape, process)
        scrapes = 3
        while (ended := await trio.to_thread.run_sync(scrape, process))["greenroom_connections",]:
            scrapes += 1  # the client has closed; that the daemon has seen it too, only its figures tell
    assert before["greenroom_ready",] == 1 and before["greenroom_connections",] == 0
    assert before["greenroom_store_commit_duration_seconds_count",] == before["greenroom_store_commits_total",]
    assert after["greenroom_connections",] == 1
    assert after["greenroom_sessions",] == 2 and after["greenroom_runs", "retained"] == 2
    assert after["greenroom_runs_started_total",] == after["greenroom_runs_ended_total", "completed"] == 2
    assert after["greenroom_runs_evicted_total",] == 0
    assert after["greenroom_model_calls_total", "demo"] == 3  # the search asks again with the result
    assert after["greenroom_model_call_duration_seconds_count", "demo"] == 3
    assert after["greenroom_model_calls_open",] == 0
    assert after["greenroom_deltas_total",] >= 21  # twenty numbers, and what the search has to say
    assert after["greenroom_model_tokens_total", "output", "demo"] > 0
    assert after["greenroom_tool_calls_total", "completed", "files"] == 1
    assert after["greenroom_tool_call_duration_seconds_bucket", "+Inf", "files"] == 1
    assert after["greenroom_requests_total", "ok", "run.start"] == 2
    for name in ("store_commits_total", "sent_bytes_total", "received_bytes_total", "frames_sent_total"):
        assert after[f"greenroom_{name}",] > before[f"greenroom_{name}",], name
    assert after["greenroom_replay_log_bytes",] == after["greenroom_memory_owned_bytes", "logs"] > 0
    assert [after["greenroom_memory_state", state] for state in ("normal", "soft", "hard")] == [1, 0, 0]
    assert after["greenroom_memory_shed_bytes_total",] == 0
    assert after["process_resident_memory_bytes",] > 10_000_000 and after["process_open_fds",] > 5
    assert after["process_cpu_seconds_total",] > 0
    assert ended["greenroom_http_requests_total",] == before["greenroom_http_requests_total",] + scrapes


async def test_types_helps_and_formats(tmp_path: Path) -> None:
    with daemon(tmp_path / "data") as process:
        for given in (None, "wrong", token(process.folder)[:-1]):
            status, _, text = get(process, bearer=given)
            assert (status, "greenroom_" in text) == (401, False)
        assert get(process, bearer=token(process.folder))[1] == "text/plain; version=0.0.4; charset=utf-8"
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        status, kind, text = get(process, bearer=token(process.folder), accept=accept)
    assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = {family.name: family for family in parse_openmetrics(text)}
    known = {metric.name: metric for metric in METRICS}
    for family in families.values():
        metric = known.get(family.name) or known.get(f"{family.name}_total")
        if metric is None:
            assert {f"{family.name}{suffix}" for suffix in ("", "_total", "_info")} & set(PROCESS_METRICS), family.name
        else:
            assert (family.type, family.documentation) == (metric.kind, metric.help)
    assert families["greenroom_build_info"].samples[0].value == 1
    size = len(text.splitlines())
    assert size < 400  # an idle daemon's; it grows with the configuration, not with use


async def test_retries_and_evictions_are_counted(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), model_server() as server:
        config = (
            f'[models.broken]\nprovider = "openai"\nbase_url = "{server.url}"\nmodel = "m"\n'
            "[limits]\nmodel_attempts = 3\nterminal_retained_max = 1\n"
            'retry_delay_first = "1ms"\nretry_delay_max = "2ms"\n'
        )
        with daemon(tmp_path / "data", config) as process:
            async with connect(process.folder) as wire:
                for _ in range(2):
                    await run(wire, "!status code=503", model="broken")
            figures = await trio.to_thread.run_sync(scrape, process)
    assert figures["greenroom_model_calls_total", "broken"] == 6
    assert figures["greenroom_model_call_failures_total", "provider_error", "broken"] == 6
    assert figures["greenroom_model_call_retries_total", "provider_error", "broken"] == 4
    assert figures["greenroom_runs_ended_total", "failed"] == figures["greenroom_runs_started_total",] == 2
    assert figures["greenroom_runs_evicted_total",] == 1


# ------------------------------------------------------------------ the log
KEY = "sk-test-0123456789abcdef"


async def test_the_log_of_a_failed_run_names_it_and_not_the_key(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TEST_METRICS_KEY", KEY)
    with trio.fail_after(LIMIT), model_server() as server:
        config = (
            f'[models.broken]\nprovider = "openai"\nbase_url = "{server.url}"\nmodel = "m"\n'
            'api_key_env = "TEST_METRICS_KEY"\n[limits]\nmodel_attempts = 1\n'
        )
        arguments = ("--log-format", "json", "--log-level", "debug")
        with daemon(tmp_path / "data", config, *arguments) as process:
            async with connect(process.folder) as wire:
                ended = await run(wire, "!status code=401 message=bad_key_{key}", model="broken")
            figures = await trio.to_thread.run_sync(scrape, process)
            process.signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(process.wait) == 0
            log = process.errors()
    assert ended["status"] == "failed" and ended["error"]["code"] == "provider_error"
    assert KEY not in json.dumps(ended)
    assert figures["greenroom_model_call_failures_total", "provider_error", "broken"] == 1
    assert figures["greenroom_runs_ended_total", "failed"] == 1
    lines = [json.loads(line) for line in log.splitlines()]
    about = [line for line in lines if line.get("run_id") == ended["id"]]
    assert about and all(line["session_id"] == ended["session_id"] for line in about)
    said = [(line["level"], line["message"]) for line in about if "provider_error" in line["message"]]
    assert said == [
        ("warning", "a call of the model broken failed: provider_error"),
        ("warning", f"{ended['id']} failed: provider_error"),
    ]
    assert KEY not in log and token(process.folder) not in log
    assert all(set(line) >= {"ts", "level", "logger", "message"} for line in lines)


async def test_what_people_and_models_say_is_not_in_the_log(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), daemon(tmp_path / "data") as process:
        async with connect(process.folder) as wire:
            await run(wire, "count to 3 zebrafish")
            await run(wire, "search this folder for zebrafish")
        process.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait) == 0
        log = process.errors()
    assert "draining" in log and "zebrafish" not in log


@contextlib.contextmanager
def unread_daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon whose standard error is a pipe that is full from the start and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    command = [sys.executable, "-m", "actors.cli", "serve", "--data", str(folder), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--log-level", "debug"], stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        os.close(reader)


async def test_nobody_reads_standard_error(tmp_path: Path) -> None:
    """The daemon works on, and its end does not wait."""
    with trio.fail_after(LIMIT), unread_daemon(tmp_path / "data") as process:
        assert process.stdout is not None
        line = await trio.to_thread.run_sync(process.stdout.readline)
        assert line.decode().startswith(READY)
        async with connect(tmp_path / "data") as wire:
            assert (await run(wire, "count to 50"))["status"] == "completed"
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait) == 0


async def test_child_processes_are_counted_and_measured(tmp_path: Path) -> None:
    config = '[permissions]\nallow = ["shell"]\n'
    with trio.fail_after(LIMIT), daemon(tmp_path / "data", config) as process:
        before = await trio.to_thread.run_sync(scrape, process)
        assert before["greenroom_programs",] == before["greenroom_programs_started_total",] == 0
        assert before["greenroom_child_processes",] == before["greenroom_child_processes_resident_bytes",] == 0
        async with connect(process.folder) as wire:
            session = (await wire.request("session.create", cwd=str(tmp_path)))["session"]
            started = await wire.request("run.start", session_id=session["id"], text="run sleep 1000", watch=True)
            while (event := await wire.event(started["watch_id"])) is None or event.get("state") != "running":
                assert event is not None
            while not (found := (await wire.request("daemon.stats"))["processes"])["started"]:
                pass  # it is being started
            assert found["programs"] == 1 and found["all"] >= 3 and found["resident"] > 1_000_000
            now = await trio.to_thread.run_sync(scrape, process)
            assert now["greenroom_programs",] == now["greenroom_programs_started_total",] == 1
            assert now["greenroom_child_processes",] >= 3
            assert now["greenroom_child_processes_resident_bytes",] > 1_000_000
            await wire.request("run.stop", run_id=started["run"]["id"])
            ended = (await wire.request("daemon.stats"))["processes"]
            assert (ended["programs"], ended["started"], ended["all"]) == (0, 1, 1), "the guard stays"
