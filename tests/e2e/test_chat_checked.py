"""What a check with fresh eyes found in the chat, driven as a person has it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.screen import LIMIT, Screen
from tests.e2e.test_cli import COMMAND, environment, greenroom
from tests.e2e.wire import DaemonProcess, daemon


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("checked") / "data") as process:
        yield process


def chat(folder: Path, **more: str) -> Screen:
    environ = environment(GREENROOM_DATA=str(folder), **{"TERM": "xterm-256color", **more})
    return Screen([*COMMAND, "chat"], environ, folder.parent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_picture_leaves_the_terminal_as_it_was(
    host: DaemonProcess, number: signal.Signals
) -> None:
    with chat(host.folder) as screen:
        before = screen.mode()
        screen.until(lambda: b"\x1b[?1049h" in screen.raw, "the other screen")
        screen.process.send_signal(number)
        assert screen.wait() == 5 and screen.mode() == before
        raw = screen.raw.decode()
        for mode in ("1049", "1000", "1003", "1006", "2004"):
            assert raw.rfind(f"\x1b[?{mode}l") > raw.rfind(f"\x1b[?{mode}h"), mode


def test_a_terminal_that_goes_away_without_a_signal_ends_it(host: DaemonProcess) -> None:
    master, slave = pty.openpty()
    environ = environment(GREENROOM_DATA=str(host.folder), TERM="xterm-256color")
    with subprocess.Popen(
        [*COMMAND, "chat"], stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
    ) as process:
        os.close(slave)
        seen = b""
        while b"connected" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        assert process.wait(LIMIT) == 5


def test_a_terminal_of_another_encoding_has_the_chat_line_by_line(host: DaemonProcess) -> None:
    with chat(host.folder, PYTHONIOENCODING="latin-1") as screen:
        screen.expect("greenroom, model demo")
        screen.type("count to 3\r")
        screen.expect("1 2 3")
        screen.type("/quit\r")
        assert screen.wait() == 0 and b"1049h" not in screen.raw


def test_what_is_refused_in_a_pipe_is_no_success(host: DaemonProcess) -> None:
    ended = greenroom(host.folder, "chat", "--model", "nobody", text="hello\n")
    assert ended.returncode == 1 and "nobody" in ended.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_without_standard_streams_there_is_no_traceback(host: DaemonProcess, closed: str) -> None:
    line = f'exec {closed}; exec "$0" "$@"'
    command = ["/bin/sh", "-c", line, *COMMAND, "chat"]
    environ = environment(GREENROOM_DATA=str(host.folder))
    ended = subprocess.run(command, input=b"", capture_output=True, env=environ, timeout=LIMIT, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.parametrize("words", [("config",), ("run", "count to 3"), ("top", "--once")])
def test_a_full_disk_behind_standard_output_is_said(host: DaemonProcess, words: tuple[str, ...]) -> None:
    environ = environment(GREENROOM_DATA=str(host.folder))
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environ,
            timeout=LIMIT,
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(b"what it writes to is full") and b"Traceback" not in ended.stderr
