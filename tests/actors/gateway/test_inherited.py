"""Sockets that somebody else has opened: which are taken, and that a gateway listens at them again."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from actors.gateway.inherited import SOCKETS_MAX, duplicates, take_inherited, where
from actors.gateway.listeners import open_listeners
from engine.config_values import Listen


@contextlib.contextmanager
def placed(*sockets: socket.socket) -> Iterator[int]:
    """The sockets as inherited descriptors from a number on that is free; the number."""
    first = 200
    for number, sock in enumerate(sockets, first):
        os.dup2(sock.fileno(), number)
    try:
        yield first
    finally:
        for number in range(first, first + len(sockets)):
            with contextlib.suppress(OSError):
                os.close(number)


def variables(count: object, pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid() if pid is None else pid), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "a:b"}


def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address)  # type: ignore[arg-type]
    sock.listen()
    return sock


def test_what_was_opened_for_this_process_is_taken_and_not_handed_on() -> None:
    with listening() as one, listening() as two, placed(one, two) as first:
        environ = {**variables(2), "HOME": "/"}
        taken = take_inherited(environ, first)
        assert environ == {"HOME": "/"}
        assert [sock.fileno() for sock in taken] == [first, first + 1]
        assert not any(os.get_inheritable(sock.fileno()) for sock in taken)
        assert [where(sock) for sock in taken] == [Listen(port=sock.getsockname()[1]) for sock in (one, two)]
        for sock in taken:
            sock.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        variables(1, pid=1),
        {"LISTEN_FDS": "1"},
        variables(0),
        variables("one"),
        variables(-1),
        variables("²"),
    ],
)
def test_what_is_not_for_this_process_is_left_alone(environ: dict[str, str]) -> None:
    assert take_inherited(environ) == []
    assert environ == {}


def test_as_many_sockets_as_a_port_may_have_addresses() -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listening()) for _ in range(SOCKETS_MAX)]
        first = stack.enter_context(placed(*sockets))
        taken = take_inherited(variables(SOCKETS_MAX), first)
        assert len(taken) == SOCKETS_MAX
        for sock in taken:
            sock.close()
    for too_many in (SOCKETS_MAX + 1, "9" * 5000):
        with pytest.raises(OSError, match="at most 16"):
            take_inherited(variables(too_many))


def test_what_is_no_listening_stream_socket_is_refused_and_all_are_closed(tmp_path: Path) -> None:
    with listening() as good, socket.socket() as deaf, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for bad in (deaf, datagrams):
            with placed(good, bad) as first:
                with pytest.raises(OSError, match=f"descriptor {first + 1}, .*is no listening stream socket"):
                    take_inherited(variables(2), first)
                for number in (first, first + 1):
                    with pytest.raises(OSError, match="Bad file"):
                        os.fstat(number)
        with placed(good) as first, pytest.raises(OSError, match=f"descriptor {first + 1}, .*is no socket"):
            take_inherited(variables(2), first)
    name = f"\0greenroom-test-{os.getpid()}"
    with (
        listening(socket.AF_UNIX, name) as nameless,
        placed(nameless) as first,
        pytest.raises(OSError, match="no absolute path"),
    ):
        take_inherited(variables(1), first)


async def test_a_port_that_is_opened_again_is_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with listening(socket.AF_INET6, ("::1", 0)) as one, listening(socket.AF_UNIX, path) as two:
        for _ in range(2):
            opened = await open_listeners(Listen(port=1), secure=False, inherited=[one, two])
            port = one.getsockname()[1]
            assert (opened.port, opened.address.url) == (port, f"http://[::1]:{port}")
            assert opened.address.ws_url == f"ws://[::1]:{port}/ws"
            assert opened.hosts == {"[::1]"}
            assert len(opened.listeners) == 2
            with trio.fail_after(20):
                client = await trio.open_tcp_stream("::1", port)
                accepted = await opened.listeners[0].accept()
                await client.send_all(b"x")
                assert await accepted.receive_some(1) == b"x"
            for closing in (client, accepted, *opened.listeners):
                await closing.aclose()
            opened.remove()
        assert two.fileno() >= 0
        assert os.path.exists(path)  # noqa: ASYNC240 - a test's


def test_duplicates_are_all_or_none() -> None:
    with listening() as sock:
        closed = socket.socket()
        closed.close()
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Bad file"):
            duplicates([sock, closed])
        assert len(os.listdir("/proc/self/fd")) == before
