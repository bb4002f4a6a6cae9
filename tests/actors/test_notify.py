"""What a supervisor is told, over real datagram sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from actors.notify import SIGNS, Supervision, take_supervision

LIMIT = 60.0  # absolute, for a test that hangs


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_goes_to_a_path_or_to_a_name_that_is_no_file(tmp_path: Path, abstract: bool) -> None:
    name = f"greenroom-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"\0{name}" if abstract else str(tmp_path / name))
        told.settimeout(LIMIT)
        environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else str(tmp_path / name), "HOME": "/"}
        supervision = take_supervision(environ)
        assert environ == {"HOME": "/"}
        assert supervision.tell("READY=1", "STATUS=é")
        assert told.recv(100).decode() == "READY=1\nSTATUS=é"


def test_nobody_and_somebody_who_is_gone_are_not_waited_for(tmp_path: Path) -> None:
    assert not Supervision().tell("READY=1")
    assert not Supervision(str(tmp_path / "gone")).tell("READY=1")
    assert not take_supervision({"NOTIFY_SOCKET": "vsock:2:1234"}).tell("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        supervision = Supervision(str(tmp_path / "deaf"))
        taken = 0
        while supervision.tell("WATCHDOG=1"):  # until its queue is full; then it does not block
            taken += 1
            assert taken < 100_000
        assert taken


@pytest.mark.parametrize(
    ("variables", "every"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30 / SIGNS),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30 / SIGNS),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "1"}, 0.01),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_when_signs_of_life_are_wanted(variables: dict[str, str], every: float | None) -> None:
    assert take_supervision({"NOTIFY_SOCKET": "/somewhere", **variables}).every == every
    assert take_supervision(dict(variables)).every is None  # to whom?


async def test_signs_come_while_the_block_runs(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.setblocking(False)
        async with Supervision(str(tmp_path / "notify"), 10.0).signs():
            await trio.sleep(25)
        assert [told.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        await trio.sleep(25)
        with pytest.raises(BlockingIOError):
            told.recv(100)


async def test_what_ends_the_block_goes_on_as_it_is() -> None:
    with pytest.raises(OSError, match="of the block"):
        async with Supervision("/nowhere", 10.0).signs():
            raise OSError("of the block")
