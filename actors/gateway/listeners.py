"""Where the port is: TCP (IPv4, IPv6), a Unix-domain socket, inherited sockets, TLS from certificate files."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.gateway.inherited import duplicates, where
from engine.config import Tls
from engine.config_values import Listen

# Connections that wait to be accepted: more than one burst of reconnecting clients.
BACKLOG: Final = 1024
_OWNER_ONLY: Final = 0o600
_ALL_ADDRESSES: Final = frozenset({"0.0.0.0", "::"})


@attrs.frozen(slots=True)
class Address:
    """How clients on this machine reach the port; for a Unix-domain socket both are `unix:PATH`."""

    url: str
    ws_url: str


@attrs.frozen(slots=True)
class Opened:
    listeners: list[trio.SocketListener]
    address: Address
    port: int | None  # the one that was bound
    hosts: frozenset[str]  # names that a Host header may have because it listens there
    remove: Callable[[], None]  # what is to be removed when the listeners are closed


async def open_listeners(listen: Listen, *, secure: bool, inherited: Sequence[socket.socket] = ()) -> Opened:
    """Bind and listen; or listen at duplicates of the inherited sockets, the first of which gives the address. Raises
    OSError when the address cannot be had."""
    if inherited:
        return _open_inherited(inherited, secure)
    hosts = served_hosts(listen)
    if listen.unix_path is not None:
        listener, remove = _open_unix(listen.unix_path)
        return Opened([listener], _unix_address(listen.unix_path), None, hosts, remove)
    listeners = await trio.open_tcp_listeners(listen.port, host=listen.host, backlog=BACKLOG)
    if listen.port == 0:
        # Each of a name's addresses would get another port; the first one is the port that is told.
        for other in listeners[1:]:
            await other.aclose()
        listeners = listeners[:1]
    host, port = listeners[0].socket.getsockname()[:2]
    return Opened(listeners, _address(_reachable(listen.host, host), port, secure), port, hosts, lambda: None)


def _open_inherited(inherited: Sequence[socket.socket], secure: bool) -> Opened:
    """A socket's file is its maker's: it is not removed here."""
    hosts = frozenset[str]().union(*(served_hosts(where(sock)) for sock in inherited))
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in duplicates(inherited)]
    first = where(inherited[0])
    if first.unix_path is not None:
        return Opened(listeners, _unix_address(first.unix_path), None, hosts, lambda: None)
    address = _address(_reachable(first.host, first.host), first.port, secure)
    return Opened(listeners, address, first.port, hosts, lambda: None)


def _address(host: str, port: int, secure: bool) -> Address:
    s = "s" if secure else ""
    return Address(f"http{s}://{host}:{port}", f"ws{s}://{host}:{port}/ws")


def _unix_address(path: str) -> Address:
    return Address(f"unix:{path}", f"unix:{path}")


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises OSError, which names the file, for files that cannot be read or do not fit."""
    for file in (tls.cert_file, tls.key_file):
        with open(file, "rb"):  # OpenSSL does not say which file it could not open
            pass
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key, and wait.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
    except ssl.SSLError as exc:
        why = f"no certificate in PEM form with its key in {tls.key_file} ({exc.reason or 'it cannot be read'})"
        raise OSError(errno.EINVAL, why, tls.cert_file) from exc
    context.set_alpn_protocols(["http/1.1"])
    return context


def served_hosts(listen: Listen) -> frozenset[str]:
    """The names that a Host header may have because the configuration listens there, in lower case. Not "all
    addresses": browsers let foreign pages talk to 0.0.0.0."""
    host = listen.host.lower()
    if listen.unix_path is not None or host in _ALL_ADDRESSES:
        return frozenset()
    return frozenset({f"[{host}]" if ":" in host else host})


def _reachable(configured: str, bound: str) -> str:
    """The host for URLs: as configured, with brackets for IPv6; for all addresses, the loopback one."""
    try:
        address = ipaddress.ip_address(configured)
    except ValueError:
        return configured
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    elif bound != configured:
        address = ipaddress.ip_address(bound.partition("%")[0])
    return f"[{address}]" if address.version == 6 else str(address)


def _open_unix(path: str) -> tuple[trio.SocketListener, Callable[[], None]]:
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        # Between bind and listen nobody can connect, so that it is never open to others.
        os.chmod(path, _OWNER_ONLY)
        made = os.stat(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise

    def remove() -> None:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_ino, found.st_dev) == (made.st_ino, made.st_dev):  # not another daemon's by now
                Path(path).unlink()

    return listener, remove


def _clear_stale(path: str) -> None:
    """Remove the socket of a daemon that has died. Raises OSError if somebody listens or it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink()
    except BlockingIOError:
        raise OSError(errno.EADDRINUSE, "somebody listens at this socket", path) from None
    else:
        raise OSError(errno.EADDRINUSE, "somebody listens at this socket", path)
    finally:
        probe.close()
