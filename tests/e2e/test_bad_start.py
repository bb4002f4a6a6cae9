"""What keeps a daemon from starting: it says what and where on standard error, leaves what it found as it was, and
ends with the exit code of the contract. Nothing is printed on standard output: nobody may take it for ready."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.wire import daemon

LIMIT = 120.0  # absolute, for a hung daemon
USAGE, FAILED = 2, 1


def serve(folder: Path, *arguments: str) -> tuple[int, str]:
    """A daemon that is expected not to start: its exit code, and what it says."""
    command = [sys.executable, "-m", "actors.cli", "serve", "--data", str(folder), *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if "--listen" not in arguments:
        command += ["--listen", "127.0.0.1:0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr, ended.stderr
    assert not (folder / "daemon.json").is_file()
    return ended.returncode, ended.stderr


# ------------------------------------------------------------------ the data directory
def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("a file")
    return folder / "file" / "data"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("a file")
    return folder / "file"


def a_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def with_name(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        """A directory stands where a file is needed."""
        (folder / name).mkdir()
        return folder

    return make


@pytest.mark.parametrize(
    "make", [below_a_file, a_file, a_loop, *map(with_name, ("greenroom.db", "lock", "token", "daemon.json"))]
)
def test_a_data_directory_that_cannot_be_written(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    code, says = serve(folder)
    assert code == USAGE
    assert str(folder) in says and len(says.splitlines()) == 1


def _database(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        connection = sqlite3.connect(path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return make


def _bytes(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


DATABASES: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "text": (_bytes(b"this is no database\n" * 1000), "damaged or not a database"),
    "a cut header": (_bytes(b"SQLite format 3\0" + bytes(84)), "damaged or not a database"),
    "of a newer version": (
        _database("PRAGMA application_id = 0x67726e72", "PRAGMA user_version = 99", "CREATE TABLE later (a)"),
        "is of a newer greenroom (schema 99",
    ),
    "of another program": (_database("CREATE TABLE accounts (a)"), "of another program"),
    "of another program, marked so": (
        _database("PRAGMA application_id = 1", "PRAGMA user_version = 1"),
        "of another program",
    ),
}


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_that_is_none_of_ours_is_left_alone(tmp_path: Path, name: str) -> None:
    make, expected = DATABASES[name]
    path = tmp_path / "greenroom.db"
    make(path)
    before = path.read_bytes()
    code, says = serve(tmp_path)
    assert code == FAILED
    assert expected in says and len(says.splitlines()) == 1
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} <= {"greenroom.db", "lock"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"two words", b"t" * 5000, "tökén".encode(), b"a\0b"])
def test_a_token_file_that_holds_no_token(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    code, says = serve(tmp_path)
    assert code == USAGE
    assert str(tmp_path / "token") in says and "remove it" in says
    assert (tmp_path / "token").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_token_file_gets_a_token(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "token").write_bytes(content)
    with daemon(folder):
        assert len((folder / "token").read_text().strip()) >= 32
        assert (folder / "token").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_daemon_left_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "daemon.json").write_bytes(b"\xff{")
    (folder / "lock").write_bytes(b"\xff" * 100)
    with daemon(folder) as process:
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not (folder / "daemon.json").exists()


# ------------------------------------------------------------------ the address
def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, says = serve(tmp_path / "data", "--listen", where)
    assert code == USAGE
    assert where in says and "in use" in says


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"])
def test_beyond_this_machine_needs_tls_or_insecure(tmp_path: Path, listen: str) -> None:
    code, says = serve(tmp_path / "data", "--listen", listen)
    assert code == USAGE
    assert "other machines can reach this address" in says and "--listen" in says
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:-1", ":8765", "unix:", "unix:x", "a b:1"]
)
def test_what_is_no_address(tmp_path: Path, listen: str) -> None:
    code, says = serve(tmp_path / "data", "--listen", listen)
    assert code == USAGE
    assert "--listen: expected host:port" in says


def test_a_socket_where_there_is_a_file_or_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "none" / "socket"):
        code, says = serve(tmp_path / "data", "--listen", f"unix:{path}")
        assert code == USAGE and str(path) in says
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("missing", ["cert.pem", "key.pem"])
def test_certificate_files_that_are_not_there(tmp_path: Path, missing: str) -> None:
    for name in {"cert.pem", "key.pem"} - {missing}:
        (tmp_path / name).write_text("nothing of use")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    config = tmp_path / "greenroom.toml"
    config.write_text(f'[tls]\ncert_file = "{cert}"\nkey_file = "{key}"\n')
    for arguments in (("--config", str(config)), ("--tls-cert", cert, "--tls-key", key)):
        code, says = serve(tmp_path / "data", *arguments)
        assert code == USAGE
        assert str(tmp_path / missing) in says and "No such file" in says


def test_certificate_files_that_hold_none(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\nnothing of use\n")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    code, says = serve(tmp_path / "data", "--tls-cert", cert, "--tls-key", key)
    assert code == USAGE and cert in says and key in says
    code, says = serve(tmp_path / "data", "--tls-cert", cert)
    assert code == USAGE and "--tls-key: is missing" in says


# ------------------------------------------------------------------ greenroom.toml
MISTAKES: Final = """
listen = "0.0.0.0:1"
default_model = "gpt"
lisen = "x"
durability = "most"
log_level = 3
insecure = "no"
allowed_hosts = ["a:1"]
allowed_origins = ["example.com", 7]
api_key = "sk-secret-value"

[models.own]
provider = "openai"
api_key = "sk-secret-value"
base_url = "ftp://x"

[models.other]
provider = "telepathy"

[models."bad name"]
provider = "demo"

[toolsets.shel]
kind = "builtin"

[toolsets.files]
kind = "builtin"
tools = ["read_fil"]
call_timeout = "soon"

[permissions]
deny = ["((("]
headless = "maybe"

[limits]
run_timeout = 0
message_bytes = "1 parsec"
frame_bytes = 1
turns_per_rum = 5
connections_max = true
answer_bytes = -1
drain_timeout = nan
mailbox_messages = 1.5

[tls]
cert_file = ""
"""
PLACES: Final = (
    "default_model", "lisen", "durability", "log_level", "insecure", "allowed_hosts[0]", "allowed_origins[0]",
    "allowed_origins[1]", "api_key", "models.own.api_key", "models.own.base_url", "models.own.model",
    "models.other.provider", "models.bad name", "toolsets.shel", "toolsets.files.tools[0]",
    "toolsets.files.call_timeout", "permissions.deny[0]", "permissions.headless", "limits.run_timeout",
    "limits.message_bytes", "limits.frame_bytes", "limits.turns_per_rum", "limits.connections_max",
    "limits.answer_bytes", "limits.drain_timeout", "limits.mailbox_messages", "tls.cert_file", "tls.key_file",
)  # fmt: skip


def test_every_mistake_of_a_configuration_is_told_with_its_place(tmp_path: Path) -> None:
    config = tmp_path / "greenroom.toml"
    config.write_text(MISTAKES)
    code, says = serve(tmp_path / "data", "--config", str(config))
    assert code == USAGE
    lines = says.splitlines()
    told = [line.removeprefix(f"{config}: ").partition(": ")[0] for line in lines]
    assert sorted(told) == sorted(PLACES)
    assert "did you mean listen?" in says and "did you mean turns_per_run?" in says
    assert "sk-secret-value" not in says
    assert not (tmp_path / "data").exists()


FILES: Final[dict[str, tuple[bytes, str]]] = {
    "no TOML": (b"listen = \n", "is not TOML"),
    "a key twice": (b"insecure = true\ninsecure = true\n", "is not TOML"),
    "no text": (b"\xff\xfe", "can't decode"),
    "deep": (b"a = " + b"[" * 100_000, "is not TOML"),
    "a number of 5,000 digits": (b"a = " + b"9" * 5_000, "is not TOML"),
    "over a megabyte": (b"#" * (1 << 20) + b"#", "larger than"),
    "a section that is a value": (b'limits = 3\nmodels = "x"\n', "limits: expected an object"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_configuration(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    config = tmp_path / "greenroom.toml"
    config.write_bytes(content)
    code, says = serve(tmp_path / "data", "--config", str(config))
    assert code == USAGE
    assert expected in says and str(config) in says and len(says) < 2000
    assert not (tmp_path / "data").exists()


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        code, says = serve(tmp_path / "data", "--config", str(path))
        assert code == USAGE and str(path) in says


@pytest.mark.parametrize("arguments", [["--port", "1"], ["extra"], ["--idle-exit", "soon"], ["--log-level", "loud"]])
def test_arguments_that_are_none(tmp_path: Path, arguments: list[str]) -> None:
    code, says = serve(tmp_path / "data", *arguments)
    assert code == USAGE and (arguments[-1] in says or arguments[0] in says)
