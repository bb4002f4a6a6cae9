"""The command line on real daemons: what is printed, exit codes, signals, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from actors.cli.processes import holder
from tests.e2e.terminal import Terminal
from tests.e2e.wire import DaemonProcess, daemon

LIMIT = 120.0  # absolute, for a hung test
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-P", "-c", "from actors.cli import main; import sys; sys.exit(main())"]


def environment(**extra: str) -> dict[str, str]:
    """Without this machine's configuration and data; the program comes from this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "XDG_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", **extra}


def greenroom(folder: Path, *words: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One command to its end, its standard input a pipe with `text`."""
    return subprocess.run(
        [*COMMAND, *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        cwd=cwd,
        env=environment(GREENROOM_DATA=str(folder)),
    )


def answer(ended: subprocess.CompletedProcess[str], code: int = 0) -> str:
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def ending(folder: Path) -> Iterator[None]:
    """Whatever daemon was started on the directory has ended behind this."""
    try:
        yield
    finally:
        pid = holder(folder)
        if pid is not None:
            greenroom(folder, "stop", "--timeout", "40s")
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
                raise AssertionError("the daemon has not ended")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One daemon for the tests that leave it as they found it."""
    with daemon(tmp_path_factory.mktemp("cli") / "data") as process:
        yield process


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder to be searched."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.py").write_text("def found_it():\n    pass\n")
    return folder


def numbers(count: int) -> str:
    return "".join(f"{n} " for n in range(1, count + 1))


# ------------------------------------------------------------------ answering once
def test_run_starts_a_daemon_searches_this_folder_and_leaves_it_to_end_by_itself(
    tmp_path: Path, workplace: Path
) -> None:
    folder = tmp_path / "data"
    with ending(folder):
        ended = greenroom(folder, "run", "--start", "search this folder for def", cwd=workplace)
        assert "a.py:1: def found_it()" in answer(ended)
        assert "files.search_files" in ended.stderr  # the real tool
        pid = holder(folder)
        assert pid is not None and pid == json.loads((folder / "daemon.json").read_text())["pid"]
        assert os.getsid(pid) == pid  # a session of its own: the terminal's end is not its end
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert command[command.index(b"--idle-exit") + 1] == b"60s"
        # The next one finds it.
        assert answer(greenroom(folder, "run", "--start", "count to 3")) == "1 2 3 \n"
        assert holder(folder) == pid
        assert greenroom(folder, "stop").returncode == 0
    assert not alive(pid)
    assert not (folder / "daemon.json").exists()
    assert (folder / "daemon.log").stat().st_mode & 0o077 == 0


def test_two_at_the_same_time_start_one_daemon(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ending(folder):
        command = [*COMMAND, "run", "--start", "count to 3"]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(GREENROOM_DATA=str(folder)))
            for _ in range(3)
        ]
        outputs = [process.communicate(timeout=LIMIT)[0] for process in processes]
        assert outputs == [b"1 2 3 \n"] * 3
        assert [process.returncode for process in processes] == [0] * 3
        listed = json.loads(answer(greenroom(folder, "sessions", "--json")))
        assert len(listed["sessions"]) == 3


def test_a_daemon_that_was_killed_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with daemon(folder) as process:
        process.signal(signal.SIGKILL)
        process.process.wait()
    assert (folder / "daemon.json").exists()
    with ending(folder):
        assert greenroom(folder, "run", "hello").returncode == 3
        assert answer(greenroom(folder, "run", "--start", "count to 2")) == "1 2 \n"


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[models.m]\nprovider = "nobody"\n')
    ended = greenroom(tmp_path / "data", "run", "--start", "--config", str(config), "hello")
    assert ended.returncode == 2 and f"{config}: models.m.provider: " in ended.stderr
    config.write_text(f'listen = "unix:{tmp_path}/no/such/folder/socket"')
    ended = greenroom(tmp_path / "data", "run", "--start", "--config", str(config), "hello")
    assert ended.returncode == 2 and "cannot serve at unix:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_words_and_a_pipe_are_one_message(server: DaemonProcess) -> None:
    for words, text, wanted in [
        (["count", "to", "3"], "", "1 2 3 \n"),
        (["-"], "count to 3\n", "1 2 3 \n"),
        ([], "count to 3\n", "1 2 3 \n"),
    ]:
        assert answer(greenroom(server.folder, "run", *words, text=text)) == wanted
    greenroom(server.folder, "run", "what is this:", "-", text="a text")
    (session,) = json.loads(answer(greenroom(server.folder, "sessions", "list", "--limit", "1", "--json")))["sessions"]
    shown = json.loads(answer(greenroom(server.folder, "sessions", "show", session["id"], "--json")))
    assert shown["messages"][0]["parts"][0]["text"] == "what is this:\n\na text"


def test_without_a_message_it_is_wrong_usage(server: DaemonProcess) -> None:
    for text in ("", " \n"):
        ended = greenroom(server.folder, "run", text=text)
        assert ended.returncode == 2 and "no message" in ended.stderr


def test_json_is_one_event_a_line(server: DaemonProcess) -> None:
    lines = [json.loads(line) for line in answer(greenroom(server.folder, "run", "--json", "count to 5")).splitlines()]
    assert [lines[0]["type"], lines[-1]["type"]] == ["run.started", "run.finished"]
    assert "".join(line["text"] for line in lines if line["type"] == "part.delta") == numbers(5)
    assert len({line["run_id"] for line in lines}) == 1


def test_a_session_goes_on(server: DaemonProcess) -> None:
    first = json.loads(answer(greenroom(server.folder, "run", "--json", "count to 1")).splitlines()[0])
    session_id = first["session_id"]
    answer(greenroom(server.folder, "run", "--session", session_id, "count to 2"))
    shown = answer(greenroom(server.folder, "sessions", "show", session_id))
    assert [line for line in shown.splitlines() if line.startswith("count")] == ["count to 1", "count to 2"]
    assert answer(greenroom(server.folder, "sessions", "rename", session_id, "another title")) == ""
    assert "another title" in answer(greenroom(server.folder, "sessions", "list", "--query", "another"))
    answer(greenroom(server.folder, "sessions", "delete", session_id))
    assert "another title" not in answer(greenroom(server.folder, "sessions"))
    ended = greenroom(server.folder, "sessions", "show", session_id)
    assert ended.returncode == 1 and session_id in ended.stderr


def test_a_session_is_compacted(server: DaemonProcess) -> None:
    first = json.loads(answer(greenroom(server.folder, "run", "--json", "count to 900")).splitlines()[0])
    session_id = first["session_id"]
    answer(greenroom(server.folder, "run", "--session", session_id, "count to 2"))
    ended = greenroom(server.folder, "sessions", "compact", session_id)
    assert ended.returncode == 0 and "being summarised" in ended.stderr and ended.stdout == ""
    shown = answer(greenroom(server.folder, "sessions", "show", session_id))
    assert "[what the model is told of all before]\nThe user said: “count to 900”" in shown
    lines = [
        json.loads(line)
        for line in answer(greenroom(server.folder, "sessions", "compact", session_id, "--json")).splitlines()
    ]
    assert [lines[0]["type"], lines[-1]["type"]] == ["run.started", "run.finished"]
    ended = greenroom(server.folder, "sessions", "compact", "ses_nope")
    assert ended.returncode == 1 and "ses_nope" in ended.stderr


@pytest.mark.parametrize(
    ("options", "wanted"), [(["--session", "ses_nope"], "ses_nope"), (["--model", "nope"], "no model is named 'nope'")]
)
def test_what_the_daemon_refuses_is_said_and_is_1(server: DaemonProcess, options: list[str], wanted: str) -> None:
    ended = greenroom(server.folder, "run", *options, "hello")
    assert (ended.returncode, ended.stdout) == (1, "") and wanted in ended.stderr


def test_a_timeout_stops_the_run_and_is_1(server: DaemonProcess) -> None:
    ended = greenroom(server.folder, "run", "--timeout", "300ms", "count to 100000 every 5 ms")
    assert ended.returncode == 1
    assert numbers(100000).startswith(ended.stdout.rstrip("\n")) and ended.stdout
    assert "not done after 0.3 s" in ended.stderr
    assert json.loads(answer(greenroom(server.folder, "runs", "--active", "--json")))["runs"] == []


def test_a_reader_that_has_enough_ends_the_run_quietly(server: DaemonProcess) -> None:
    with start(server.folder, "run", "count to 100000 every 5 ms") as process:
        assert process.stdout is not None and process.stderr is not None
        seen = b""
        while len(seen) < 20:
            seen += process.stdout.read(20)
        assert numbers(100).encode().startswith(seen)
        process.stdout.close()
        assert process.wait(LIMIT) == 5
        assert process.stderr.read() == b""
    assert json.loads(answer(greenroom(server.folder, "runs", "--active", "--json")))["runs"] == []


def test_a_list_into_a_closed_pipe_ends_quietly(server: DaemonProcess) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "stats", "--tree"]
    environ = environment(GREENROOM_DATA=str(server.folder))
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environ, timeout=LIMIT, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


@contextlib.contextmanager
def start(folder: Path, *words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on while the test does."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environ = environment(GREENROOM_DATA=str(folder))
    with subprocess.Popen([*COMMAND, *words], env=environ, bufsize=0, **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_and_is_5(server: DaemonProcess, number: signal.Signals) -> None:
    with start(server.folder, "run", "count to 100000 every 5 ms") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1) == b"1"
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(LIMIT) == 5
        assert b"cancelled" in process.stderr.read()
    (run, *_) = json.loads(answer(greenroom(server.folder, "runs", "--limit", "1", "--json")))["runs"]
    assert run["status"] == "cancelled"


def test_runs_are_listed_shown_and_stopped(server: DaemonProcess) -> None:
    with start(server.folder, "run", "count to 100000 every 5 ms") as process:
        assert process.stdout is not None and process.stdout.read(1) == b"1"
        (run,) = json.loads(answer(greenroom(server.folder, "runs", "list", "--active", "--json")))["runs"]
        assert run["id"] in answer(greenroom(server.folder, "runs"))
        assert "running" in answer(greenroom(server.folder, "runs", "show", run["id"]))
        assert (
            answer(greenroom(server.folder, "runs", "stop", "--reason", "enough", run["id"]))
            == f"{run['id']} cancelled\n"
        )
        process.stdout.read()
        assert process.wait(LIMIT) == 5
        assert process.stderr is not None and b"cancelled: enough" in process.stderr.read()
    assert json.loads(answer(greenroom(server.folder, "runs", "show", "--json", run["id"])))["reason"] == "enough"
    # Two of which one does not exist.
    ended = greenroom(server.folder, "runs", "stop", "run_nope", run["id"])
    assert ended.returncode == 1 and "run_nope" in ended.stderr


def test_stats_show_the_tree(server: DaemonProcess) -> None:
    stats = json.loads(answer(greenroom(server.folder, "stats", "--json")))
    assert stats["memory"]["resident"] > 1_000_000
    text = answer(greenroom(server.folder, "stats", "--tree"))
    for name in ("store", "toolsets", "registry", "gateway", "conn-"):
        assert f"  {name}" in text


def test_the_run_goes_on_when_its_daemon_is_killed_and_started_again(tmp_path: Path) -> None:
    """The client comes back by itself and tells what became of the run."""
    folder = tmp_path / "data"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(daemon(folder))
        process = stack.enter_context(start(folder, "run", "count to 100000 every 1 ms"))
        assert process.stdout is not None and process.stderr is not None
        shown = process.stdout.read(100)
        first.signal(signal.SIGKILL)
        first.process.wait()
        stack.enter_context(daemon(folder))
        shown += process.stdout.read()
        assert process.wait(LIMIT) == 1
        assert numbers(100000).startswith(shown.decode().rstrip("\n"))
        assert b"interrupted" in process.stderr.read()


# ------------------------------------------------------------------ the daemon
def test_serve_prints_one_line_and_ends_good_by_either_signal(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with daemon(tmp_path / "data") as process:
            assert process.url.startswith("http://127.0.0.1:")
            process.signal(number)
            assert process.process.wait(LIMIT) == 0
            assert process.process.stdout is not None and process.process.stdout.read() == b""
            assert "Traceback" not in process.errors()


def test_a_second_daemon_exits_with_4_and_names_the_first(server: DaemonProcess) -> None:
    ended = greenroom(server.folder, "serve", "--listen", "127.0.0.1:0")
    assert (ended.returncode, ended.stdout) == (4, "")
    assert f"pid {server.pid}" in ended.stderr and str(server.folder) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_daemon_every_client_command_exits_with_3(tmp_path: Path) -> None:
    for words in (["run", "hi"], ["chat"], ["sessions"], ["runs"], ["stats"], ["stop"], ["runs", "stop", "run_1"]):
        ended = greenroom(tmp_path / "data", *words)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert f"no daemon runs on {tmp_path / 'data'}" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_configuration_mistakes_exit_with_2_each_on_its_line(tmp_path: Path) -> None:
    config = tmp_path / "greenroom.toml"
    config.write_text('lisen = "x"\n[limits]\nframe_byte = 1\ncall_timeout = "soon"\n')
    ended = greenroom(tmp_path / "data", "serve", "--config", str(config), "--listen", "0.0.0.0:1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert sorted(line.removeprefix(f"{config}: ").partition(": ")[0] for line in ended.stderr.splitlines()) == [
        "--listen",
        "limits.call_timeout",
        "limits.frame_byte",
        "lisen",
    ]
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_exits_with_2(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ended = greenroom(tmp_path / "data", "serve", "--listen", "127.0.0.1:0")
    assert ended.returncode == 2 and str(tmp_path / "data") in ended.stderr


def test_a_data_directory_that_is_a_file_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    ended = greenroom(tmp_path / "data", "serve", "--listen", "127.0.0.1:0")
    assert ended.returncode == 2 and str(tmp_path / "data") in ended.stderr and "Traceback" not in ended.stderr


def test_an_address_in_use_exits_with_2(server: DaemonProcess, tmp_path: Path) -> None:
    where = server.url.removeprefix("http://")
    ended = greenroom(tmp_path / "data", "serve", "--listen", where)
    assert ended.returncode == 2 and f"cannot serve at {where}: " in ended.stderr and "Traceback" not in ended.stderr


def test_certificates_that_are_not_there_exit_with_2(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.pem")
    ended = greenroom(
        tmp_path / "data", "serve", "--listen", "127.0.0.1:0", "--tls-cert", missing, "--tls-key", missing
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    ended = greenroom(tmp_path / "data", "serve", "--tls-cert", missing)
    assert ended.returncode == 2 and ended.stderr.startswith("--tls-key: ")


def test_an_idle_daemon_ends_by_itself(tmp_path: Path) -> None:
    with daemon(tmp_path / "data", None, "--idle-exit", "1s") as process:
        assert process.process.wait(LIMIT) == 0
    assert not (tmp_path / "data" / "daemon.json").exists()


def test_stop_waits_for_the_end_and_says_when_it_takes_longer(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with daemon(folder) as process, start(folder, "run", "count to 100000 every 5 ms") as run:
        assert run.stdout is not None and run.stdout.read(1) == b"1"
        ended = greenroom(folder, "stop", "--timeout", "200ms")  # the run has 30 s to end
        assert ended.returncode == 1 and f"pid {process.pid}" in ended.stderr
        assert greenroom(folder, "stop").returncode == 0  # a second signal skips the wait
        assert process.process.wait(LIMIT) == 0


def test_a_unix_socket_and_tls_serve_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with daemon(folder, f'listen = "unix:{tmp_path}/s"', "--listen", f"unix:{tmp_path}/s") as process:
        assert process.url == f"unix:{tmp_path}/s"
        assert answer(greenroom(folder, "run", "count to 3")) == "1 2 3 \n"
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(tmp_path / "cert.pem"), append=number > 0)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    with daemon(folder, None, *tls) as process:
        assert process.url.startswith("https://")
        command = [*COMMAND, "run", "count to 3"]
        environ = environment(GREENROOM_DATA=str(folder), SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        trusted = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert answer(trusted) == "1 2 3 \n"
        stranger = greenroom(folder, "run", "count to 3")
        assert stranger.returncode == 2 and "is not trusted" in stranger.stderr


# ------------------------------------------------------------------ chat
def test_chat_in_a_pipe_has_a_message_a_line(server: DaemonProcess) -> None:
    ended = greenroom(server.folder, "chat", text="count to 2\n\n/new\ncount to 3\n/nothing\n")
    assert answer(ended) == "1 2 \n1 2 3 \n"
    assert ">" not in ended.stdout and "there is no /nothing" in ended.stderr


def test_chat_compacts_its_session(server: DaemonProcess) -> None:
    ended = greenroom(server.folder, "chat", text="/compact\ncount to 900\n/compact\n/compact\n")
    assert answer(ended) == numbers(900) + "\n"
    told = ended.stderr
    assert "no conversation yet" in told and told.count("its beginning is a summary now") == 1
    assert "nothing was summarised" in told.partition("summary now")[2]


def terminal(folder: Path, *words: str, cwd: Path | None = None) -> Terminal:
    return Terminal([*COMMAND, *words], environment(GREENROOM_DATA=str(folder)), cwd)


def test_chat_on_a_terminal(server: DaemonProcess) -> None:
    chat = terminal(server.folder, "chat", "--plain")
    chat.expect("model demo")
    chat.expect("> ")
    chat.type("count to 3\n")
    chat.expect("1 2 3 ")
    chat.expect("> ")
    chat.type("count to 100000 every 5 ms\n")
    chat.expect("1 2 3 4 ")
    chat.type("\x03")
    chat.expect("[stopping]")
    chat.expect("cancelled")
    chat.expect("> ")
    chat.type("/sessions\n")
    chat.expect("count to 3")
    chat.expect("> ")
    chat.type("/help\n")
    chat.expect("/quit")
    chat.expect("> ")
    chat.type("/quit\n")
    assert chat.wait() == 0


def test_leaving_a_chat_by_an_interrupt_is_5(server: DaemonProcess) -> None:
    chat = terminal(server.folder, "chat", "--plain")
    chat.expect("> ")
    chat.type("\x03")
    assert chat.wait() == 5


def test_chat_goes_on_with_another_daemon(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ending(folder):
        chat = terminal(folder, "chat", "--plain", "--start")
        chat.expect("> ")
        chat.type("count to 2\n")
        chat.expect("1 2 ")
        chat.expect("> ")
        pid = holder(folder)
        assert greenroom(folder, "stop").returncode == 0
        chat.type("count to 3\n")
        chat.expect("1 2 3 ")
        chat.expect("> ")
        assert holder(folder) not in (pid, None)
        chat.type("\x04")
        assert chat.wait() == 0
        (session,) = json.loads(answer(greenroom(folder, "sessions", "--json")))["sessions"]
        assert session["message_count"] == 4


def test_a_terminal_is_not_taken_over_by_what_a_tool_found(server: DaemonProcess, workplace: Path) -> None:
    (workplace / "evil.txt").write_text("needle \x1b]0;owned\x07\x1b[2J end\n")
    shown = terminal(server.folder, "run", "search this folder for needle", cwd=workplace)
    assert shown.wait() == 0
    assert b"needle" in shown.seen and b"\x1b" not in shown.seen and b"\x07" not in shown.seen
    # A pipe gets what was found.
    assert "needle" in answer(greenroom(server.folder, "run", "search this folder for needle", cwd=workplace))
