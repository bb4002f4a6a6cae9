"""A daemon under a supervisor: sockets that are opened for it, what it tells, and where its log goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.e2e.test_cli import environment
from tests.e2e.wire import READY, daemon

LIMIT = 120.0  # absolute, for a hung test
# Puts the descriptors in the place where they belong, names this very process, and becomes the daemon.
LAUNCH = """
import fcntl, os, sys
given = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 100) for word in sys.argv[1].split(",")]
for place, number in enumerate(given, 3):
    os.dup2(number, place)
os.closerange(100, 100 + len(given))
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[2]))
os.execv(sys.executable, [sys.executable, "-m", "actors.cli", "serve", *sys.argv[3:]])
"""


@contextlib.contextmanager
def launched(
    folder: Path, sockets: Sequence[socket.socket], *arguments: str, wrong: int = 0, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A daemon on the data directory that gets the sockets; killed at the end unless it has ended."""
    numbers = [sock.fileno() for sock in sockets]
    command = [sys.executable, "-c", LAUNCH, ",".join(map(str, numbers)), str(wrong), "--data", str(folder), *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=numbers,
        env=environment(LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES="greenroom", **variables),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ready_at(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith(READY), (line, process.stderr.read())
    return line.removeprefix(READY).strip()


def health(url: str) -> int:
    with urllib.request.urlopen(f"{url}/healthz", timeout=LIMIT) as answer:
        return int(answer.status)


def listening(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind((host, 0))
    sock.listen()
    return sock


def test_sockets_are_opened_by_the_supervisor(tmp_path: Path) -> None:
    with listening() as first, listening() as second, launched(tmp_path / "data", [first, second]) as process:
        url = ready_at(process)
        assert url == f"http://127.0.0.1:{first.getsockname()[1]}"
        assert health(url) == health(f"http://127.0.0.1:{second.getsockname()[1]}") == 200
        assert json.loads((tmp_path / "data" / "daemon.json").read_text())["url"] == url
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        # The supervisor's socket is still open: who comes now waits for the next daemon.
        with socket.create_connection(first.getsockname(), timeout=LIMIT) as early:
            early.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with launched(tmp_path / "data", [first]) as again:
                ready_at(again)
                early.settimeout(LIMIT)
                assert early.recv(100).startswith(b"HTTP/1.1 200")


def test_a_unix_socket_of_the_supervisor_stays_and_a_supervisor_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
        with launched(tmp_path / "data", [sock], NOTIFY_SOCKET=str(tmp_path / "nobody")) as process:
            assert ready_at(process) == f"unix:{path}"
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(LIMIT)
                client.connect(str(path))
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
        assert path.exists()


def test_a_socket_for_all_the_world_wants_tls_as_ever(tmp_path: Path) -> None:
    with listening("0.0.0.0") as sock, launched(tmp_path / "data", [sock]) as process:
        assert process.wait(LIMIT) == 2
        assert process.stderr is not None
        assert "other machines can reach this address" in process.stderr.read()
    with listening("0.0.0.0") as sock, launched(tmp_path / "data", [sock], "--insecure") as process:
        assert ready_at(process) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_an_address_beside_sockets_is_refused(tmp_path: Path) -> None:
    with listening() as sock, launched(tmp_path / "data", [sock], "--listen", "127.0.0.1:0") as process:
        assert process.wait(LIMIT) == 2
        assert process.stderr is not None
        assert process.stderr.read().startswith("--listen: ")


def test_sockets_of_another_process_are_left_alone(tmp_path: Path) -> None:
    with listening() as sock, launched(tmp_path / "data", [sock], "--listen", "127.0.0.1:0", wrong=1) as process:
        assert ready_at(process) != f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_the_supervisor_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(address)
        told.settimeout(LIMIT)
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
        with listening() as sock, launched(tmp_path / "data", [sock], **variables) as process:
            url = ready_at(process)
            messages = []
            while not messages or not messages[-1].startswith("READY"):
                messages.append(told.recv(4096).decode())
            assert messages[-1].splitlines() == ["READY=1", f"STATUS=ready at {url}"]
            while messages[-3:] != ["WATCHDOG=1"] * 3:
                messages.append(told.recv(4096).decode())
            process.send_signal(signal.SIGTERM)
            while not messages[-1].startswith("STOPPING=1"):
                messages.append(told.recv(4096).decode())
            assert process.wait(LIMIT) == 0


def test_the_log_goes_on_at_the_beginning_of_a_file_that_was_truncated(tmp_path: Path) -> None:
    """What logrotate's copytruncate does. The file is opened for appending, as a shell does for `2>>`."""
    with daemon(tmp_path / "data") as process:
        log = Path(process.log.name)
        until = time.monotonic() + LIMIT
        while b"is ready at" not in log.read_bytes():  # a thread writes it
            assert time.monotonic() < until
            time.sleep(0.01)
        os.truncate(log, 0)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    after = log.read_bytes()
    assert after.rstrip().endswith(b"ended")
    assert b"is ready at" not in after
    assert b"\0" not in after, "a hole: the writer went on where it was"
