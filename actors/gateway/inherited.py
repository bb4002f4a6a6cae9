"""Listening sockets that whoever started this process has opened for it (socket activation, as systemd does it).

    LISTEN_FDS     how many there are, from descriptor 3 on
    LISTEN_PID     whom they are for: a process that inherits the variables by accident leaves them alone

The sockets are kept for the life of the process: a gateway that is restarted listens at duplicates of the same ones.
While no daemon accepts, connections wait in the kernel, also from one daemon to the next.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final

from engine.config_values import Listen

FIRST: Final = 3  # behind standard input, output and error
# Addresses of one port; more are a mistake, or somebody else's variable.
SOCKETS_MAX: Final = 16
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def take_inherited(environ: MutableMapping[str, str], first: int = FIRST) -> list[socket.socket]:
    """The sockets that were opened for this process; the variables are removed, so that no child believes it is meant.

    The descriptors are the caller's from now on and not inherited any more. Raises OSError, with a text for people, for
    what is no listening stream socket; then all of them are closed.
    """
    pid, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    for name in _VARIABLES:
        environ.pop(name, None)
    if pid != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return []
    if len(count) > 9 or int(count) > SOCKETS_MAX:
        raise OSError(f"LISTEN_FDS says {count[:10]} sockets: at most {SOCKETS_MAX} are expected")
    taken: list[socket.socket] = []
    try:
        for descriptor in range(first, first + int(count)):
            taken.append(_take(descriptor))
    except BaseException:
        for sock in taken:
            sock.close()
        raise
    return taken


def _take(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise OSError(f"descriptor {descriptor}, which LISTEN_FDS names, is no socket: {exc.strerror}") from None
    try:
        os.set_inheritable(descriptor, False)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens or sock.family not in _FAMILIES:
            raise OSError(f"descriptor {descriptor}, which LISTEN_FDS names, is no listening stream socket")
        where(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def where(sock: socket.socket) -> Listen:
    """Its address as a setting. Raises OSError for a Unix-domain socket without a path, where no client finds it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        if not isinstance(name, str) or not name.startswith("/"):
            raise OSError("an inherited Unix-domain socket has no absolute path: clients could not find it")
        return Listen(unix_path=name)
    return Listen(host=name[0].partition("%")[0], port=name[1])


def duplicates(inherited: Sequence[socket.socket]) -> list[socket.socket]:
    """To be listened at and closed, while the inherited ones stay."""
    made: list[socket.socket] = []
    try:
        for sock in inherited:
            made.append(sock.dup())
    except BaseException:
        for copy in made:
            copy.close()
        raise
    return made
