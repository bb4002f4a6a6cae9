"""What the doctor's checks say, each by both sides; the real command is in tests/e2e/test_doctor.py."""

from __future__ import annotations

import os
import resource
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock

from actors.cli import doctor_data, doctor_system
from actors.cli.doctor import _tls, lines
from actors.cli.doctor_checks import AT_ONCE, PROGRESS, Check, Result, clean, failed, good, known, of, run
from actors.logs import hide
from engine.config import Config, Tls
from engine.config_values import Listen
from engine.limits import DEFAULT, GIB, MIB
from engine.storage import database

LIMIT = 60.0  # absolute, for a test that hangs


def check(name: str, seconds: float = 0.0, result: Result | None = None, raises: Exception | None = None) -> Check:
    async def work() -> Result:
        await trio.sleep(seconds)
        if raises is not None:
            raise raises
        return result or good(name)

    return Check(area="test", name=name, work=work)


async def results(checks: list[Check], seconds: float = 10.0) -> list[Result]:
    told: list[Result] = []
    await run(checks, seconds, lambda check, result: told.append(result))
    return told


# ------------------------------------------------------------------ running them
async def test_results_are_told_in_order_as_soon_as_they_can(autojump_clock: MockClock) -> None:
    told: list[tuple[str, float]] = []
    waited: list[tuple[list[str], float]] = []
    checks = [check("slow", 5), check("quick", 1), check("last", 7)]
    began = trio.current_time()
    await run(
        checks,
        10,
        lambda check, result: told.append((result.text, trio.current_time() - began)),
        lambda checks: waited.append(([check.name for check in checks], trio.current_time() - began)),
    )
    assert told == [("slow", 5), ("quick", 5), ("last", 7)]
    assert waited == [
        (["slow", "last"], PROGRESS),
        (["slow", "last"], 2 * PROGRESS),
        (["last"], 3 * PROGRESS),
    ]


async def test_so_many_at_once_and_no_more(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    await results([check(str(number), 1) for number in range(AT_ONCE)])
    assert trio.current_time() - began == 1
    await results([check(str(number), 1) for number in range(AT_ONCE + 1)])
    assert trio.current_time() - began == 3


async def test_one_that_hangs_or_fails_does_not_end_the_others(autojump_clock: MockClock) -> None:
    hung, broken, fine = await results(
        [check("hung", 11), check("broken", raises=ValueError("of a \x1b[31mstranger")), check("fine", 9)]
    )
    assert (hung.state, hung.text) == ("failed", "no result within 10 s")
    assert (broken.state, broken.text) == ("failed", "ValueError: of a ␛[31mstranger")
    assert fine == good("fine")


async def test_a_look_at_the_disk_has_the_deadline_too() -> None:
    released = threading.Event()
    read, write = os.pipe()

    def stuck() -> Result:
        os.read(read, 1)
        released.set()
        return good("never")

    with trio.fail_after(LIMIT):
        (result,) = await results([of("disk", "", stuck)], 0.05)
    assert result.state == "failed"
    os.write(write, b"x")
    os.close(write)
    assert await trio.to_thread.run_sync(released.wait, LIMIT)
    os.close(read)


# ------------------------------------------------------------------ what is shown
def test_what_is_shown_is_clean_bounded_and_without_secrets() -> None:
    hide("a-secret-of-the-doctors-tests")
    result = failed("said \x1b]0;title\x07 a-secret-of-the-doctors-tests\r\n\n  end\x9b", "do\x1b[2J it")
    assert "secret-of" not in result.text
    assert not any(ord(c) < 32 and c != "\n" for c in result.text + result.advice[0])
    assert len(clean("x" * 10_000)) == 2000
    assert clean("\n".join("abcdefghijklmnop")).splitlines() == list("abcdefghijkl")


def test_lines_have_what_to_do_below_them() -> None:
    one = known("model", "local", good("nothing"))
    assert lines(one, good("it is there"), 80) == ["good     model local            it is there"]
    assert lines(one, failed("first\nsecond", "do this", "or that"), 80) == [
        "failed   model local            first",
        "           second",
        "         → do this",
        "         → or that",
    ]
    long = lines(one, failed("word " * 40), 60)
    assert len(long) > 2
    assert all(len(line) <= 60 for line in long)


def test_the_certificate(tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    tls = Tls(cert_file=str(file), key_file=str(file))
    told = _tls(tls)
    assert told.state == "failed" and str(file) in told.text and "[tls]" in told.advice[0]
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
    assert _tls(tls).state == "good"


# ------------------------------------------------------------------ the data directory
def test_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    assert "the first start makes it" in doctor_data.directory(folder).text
    folder.mkdir(mode=0o700)
    assert doctor_data.directory(folder).state == "good"
    folder.chmod(0o750)
    told = doctor_data.directory(folder)
    assert (told.state, told.advice) == ("warning", (f"chmod 700 {folder}",))
    folder.chmod(0o700)
    (tmp_path / "file").touch()
    assert doctor_data.directory(tmp_path / "file").text.endswith("is no folder")
    assert doctor_data.directory(tmp_path / "file" / "below").state == "failed"
    monkeypatch.setattr(doctor_data, "_file_system", lambda folder: "nfs4")
    told = doctor_data.directory(folder)
    assert told.state == "failed" and "network file system (nfs4)" in told.text
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    told = doctor_data.directory(folder)
    assert told.state == "failed" and "this is user 12345" in told.text


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    assert doctor_data._file_system(Path("/proc/self")) == "proc"
    assert doctor_data._file_system(Path("/")) not in (None, "proc")


def test_the_token(tmp_path: Path) -> None:
    assert doctor_data.token(tmp_path).state == "skipped"
    path = tmp_path / "token"
    path.write_text("a-token\n")
    path.chmod(0o600)
    told = doctor_data.token(tmp_path)
    assert told.state == "good"
    assert "a-token" not in told.text
    path.chmod(0o640)
    assert doctor_data.token(tmp_path).state == "failed"
    path.chmod(0o600)
    path.write_text("no token\nbut a text\n")
    assert doctor_data.token(tmp_path).state == "failed"
    path.write_text("")
    assert doctor_data.token(tmp_path).state == "warning"


@pytest.mark.parametrize(
    ("free", "inodes", "state"),
    [
        (2 * GIB, 1, "good"),
        (2 * GIB - 4096, 1, "warning"),
        (100 * MIB, 1, "warning"),
        (100 * MIB - 4096, 1, "failed"),
        (2 * GIB, 0, "failed"),
    ],
)
def test_free_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, inodes: int, state: str) -> None:
    found = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=1000, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    assert doctor_data.space(tmp_path / "not" / "there").state == state


def make_database(folder: Path) -> Path:
    path = folder / database.FILE_NAME
    database.close_writer(database.open_writer(path))
    return path


def test_the_database(tmp_path: Path) -> None:
    assert doctor_data.stored(tmp_path).state == "skipped"
    path = make_database(tmp_path)
    told = doctor_data.stored(tmp_path)
    assert told.state == "good" and told.text.endswith("its pages are whole")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    assert "the next start brings it to schema" in doctor_data.stored(tmp_path).text
    path.write_bytes(b"something else" * 1000)
    told = doctor_data.stored(tmp_path)
    assert told.state == "failed" and "damaged or not a database" in told.text
    assert any("greenroom store check" in sentence for sentence in told.advice)


def test_a_database_that_is_too_large_to_be_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_database(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE filler (text)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 100,)] * 50_000)
        connection.commit()
    monkeypatch.setattr(doctor_data, "LOOK_SECONDS", -1.0)
    told = doctor_data.stored(tmp_path)
    assert told.state == "good" and "too large" in told.text


def test_logs(tmp_path: Path) -> None:
    assert doctor_data.logs(tmp_path, DEFAULT).state == "good"
    with open(tmp_path / "greenroom.db-wal", "wb") as file:
        file.truncate(DEFAULT.log_hard_bytes + 16 * MIB)
    assert doctor_data.logs(tmp_path, DEFAULT).state == "good"
    with open(tmp_path / "greenroom.db-wal", "ab") as file:
        file.truncate(DEFAULT.log_hard_bytes + 16 * MIB + 1)
    assert doctor_data.logs(tmp_path, DEFAULT).state == "warning"
    (tmp_path / "greenroom.db-wal").unlink()
    with open(tmp_path / "daemon.log", "wb") as file:
        file.truncate(256 * MIB + 1)
    assert "truncate -s 0" in doctor_data.logs(tmp_path, DEFAULT).advice[0]


def test_the_address(tmp_path: Path) -> None:
    assert doctor_data.address(Config(listen=Listen(port=0))).state == "good"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Listen(port=taken.getsockname()[1])
        told = doctor_data.address(Config(listen=listen))
        assert told.state == "failed" and "another program listens" in told.advice[0]
    assert doctor_data.address(Config(listen=listen)).state == "good"
    assert doctor_data.address(Config(listen=Listen(unix_path=str(tmp_path / "s")))).state == "good"
    assert doctor_data.address(Config(listen=Listen(unix_path=str(tmp_path / "no" / "s")))).state == "failed"


# ------------------------------------------------------------------ the system
@pytest.mark.parametrize(
    ("look", "version", "state"),
    [
        (doctor_system.python, (3, 11, 0), "good"),
        (doctor_system.python, (3, 10, 9), "failed"),
        (doctor_system.sqlite, (3, 37, 0), "good"),
        (doctor_system.sqlite, (3, 36, 9), "failed"),
    ],
)
def test_versions(look: Callable[[tuple[int, ...]], Result], version: tuple[int, ...], state: str) -> None:
    assert look(version).state == state


def test_descriptors() -> None:
    wanted = 1600  # 1,024 clients, 64 more that are told so, and the rest: what the daemon asks the system for
    assert doctor_system.descriptors(DEFAULT, wanted).state == "good"
    told = doctor_system.descriptors(DEFAULT, wanted - 1)
    assert told.state == "warning" and "ulimit -n" in told.advice[0]
    # Of a process what it has, of a daemon that is to be started what it may ask for.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (number if number != resource.RLIM_INFINITY else sys.maxsize for number in limits)
    assert (doctor_system.soft_descriptors(os.getpid()), doctor_system.soft_descriptors()) == (soft, hard)


def test_memory_of_a_container(tmp_path: Path) -> None:
    limits = attrs.evolve(DEFAULT, memory_soft=64 * MIB, memory_hard=100 * MIB)
    for folder in ("proc/self", "sys/fs/cgroup/a/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    (tmp_path / "sys/fs/cgroup/a/b/memory.max").write_text("max\n")
    told = doctor_system.memory(limits, tmp_path)
    assert "of the machine" in told.text
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text(f"{100 * MIB}\n")
    told = doctor_system.memory(limits, tmp_path)
    assert "100.0 MiB of the control group" in told.text and told.state == "good"
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text(f"{100 * MIB - 1}\n")
    told = doctor_system.memory(limits, tmp_path)
    assert told.state == "warning" and "memory_hard" in told.advice[0]


def test_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Out:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 1

    def told(**changes: Any) -> Result:
        out = Out()
        for name, value in changes.items():
            setattr(out, name, value)
        monkeypatch.setattr("sys.stdout", out)
        return doctor_system.terminal()

    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 24)))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert told().text == "xterm-256color, utf-8, 80 × 24"
    assert told().state == "good"
    assert told(encoding="latin-1").state == "warning"
    assert told(isatty=lambda: False).state == "skipped"
    monkeypatch.setenv("TERM", "dumb")
    assert told().state == "warning"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "greenroom[chat]" in told().advice[0]
