"""`greenroom top` on a terminal of its own, before a real daemon; and without a terminal."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.screen import Screen
from tests.e2e.test_cli import COMMAND, LIMIT, answer, environment, greenroom
from tests.e2e.wire import DaemonProcess, daemon

# The other screen, without a cursor; and back.
ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("top") / "data") as process:
        yield process


def opened(folder: Path, *words: str, columns: int = 100, rows: int = 30) -> Screen:
    env = environment(GREENROOM_DATA=str(folder), TERM="xterm-256color", PYTHONUTF8="1")
    return Screen([*COMMAND, "top", "--interval", "0.2", *words], env, columns=columns, rows=rows)


def test_keys_sizes_and_the_terminal_as_it_was(server: DaemonProcess) -> None:
    with opened(server.folder) as screen:
        before = screen.mode()
        screen.expect("memory by owner", "toolsets", "sort by name")
        assert screen.lines[-1].startswith("q quit")
        assert screen.mode() != before
        first = screen.row_of("memory by owner") + 1
        screen.type("s")
        screen.expect("sort by size")
        names = [line.split()[0] for line in screen.lines[first : first + 4]]
        assert names == sorted(names)
        screen.type("p")
        screen.expect("paused", "go on")
        screen.type("\x1b[A\x1b[B")  # arrows mean nothing
        screen.resize(60, 14)
        screen.until(lambda: screen.lines[-1].startswith("q quit"))
        assert all(len(line) <= 60 for line in screen.lines)
        screen.type("p")
        screen.expect_gone("paused")
        screen.resize(100, 40)
        screen.until(lambda: screen.lines[-1].startswith("q quit") and "todo" in screen.text)
        screen.type("Q")
        assert screen.wait() == 0
        assert screen.mode() == before
        assert bytes(screen.raw).endswith(LEAVE)
        assert bytes(screen.raw).startswith(ENTER)


@pytest.mark.parametrize("ending", ["SIGTERM", "\x03"])
def test_the_terminal_is_given_back_whatever_ends_it(server: DaemonProcess, ending: str) -> None:
    with opened(server.folder) as screen:
        before = screen.mode()
        screen.expect("memory by owner")
        if ending == "SIGTERM":
            screen.process.send_signal(signal.SIGTERM)
        else:
            screen.type(ending)
        assert screen.wait() == 5
        assert screen.mode() == before
        assert bytes(screen.raw).endswith(LEAVE)


def test_it_shows_runs_and_comes_back_when_the_daemon_does(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(daemon(folder))
        screen = stack.enter_context(opened(folder))
        screen.expect("no active runs", "up 0:0")
        run = stack.enter_context(
            subprocess.Popen(
                [*COMMAND, "run", "count to 1000 every 1000 ms"],
                env=environment(GREENROOM_DATA=str(folder)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(run.kill)  # it would wait for the next daemon
        screen.expect("active runs", "running", "run_")
        first.process.kill()
        first.process.wait(LIMIT)
        screen.expect("reconnecting")
        second = stack.enter_context(daemon(folder))
        screen.expect_gone("reconnecting")
        screen.expect("no active runs")
        second.signal(signal.SIGTERM)
        screen.expect("waiting for the next")
        assert second.process.wait(LIMIT) == 0
        screen.type("q")
        assert screen.wait() == 0


def test_a_pipe_gets_one_view_in_plain_text(server: DaemonProcess) -> None:
    said = answer(greenroom(server.folder, "top"))
    assert said.startswith("greenroom  ")
    assert "\x1b" not in said
    for word in ("memory by owner", "program", "no active runs", "files", "ready"):
        assert word in said


def test_json_is_a_line_for_each_look(server: DaemonProcess) -> None:
    (line,) = answer(greenroom(server.folder, "top", "--json", "--once")).splitlines()
    one = json.loads(line)
    assert one["memory"]["resident"] > 0
    assert [toolset["name"] for toolset in one["toolsets"]] == ["files", "shell", "web", "todo"]
    assert "actors" not in one
    command, env = [*COMMAND, "top", "--json", "--interval", "0.1"], environment(GREENROOM_DATA=str(server.folder))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _read_some(process)


def _read_some(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None and process.stderr is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert looks[0]["at"] < looks[1]["at"] < looks[2]["at"]
    # Its reader has had enough: that is no error.
    process.stdout.close()
    assert process.wait(LIMIT) == 0, process.stderr.read()
    assert process.stderr.read() == ""


def test_no_daemon(tmp_path: Path) -> None:
    assert answer(greenroom(tmp_path / "none", "top"), 3) == ""
    with opened(tmp_path / "none") as screen:
        assert screen.wait() == 3
        assert ENTER not in screen.raw
