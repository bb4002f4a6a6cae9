"""Telling whoever supervises this process how it is: systemd's notification protocol, one datagram a message.

    NOTIFY_SOCKET   where to: an absolute path, or `@` and a name that is no file
    WATCHDOG_USEC   it wants a sign of life in this time, in microseconds; of the process WATCHDOG_PID if that is set

Nobody has to listen, and a message never waits: what cannot be sent is dropped. The sign of life comes from the event
loop, so that a process whose loop stands still is ended and started again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, MutableMapping
from typing import Final

import trio

_log = logging.getLogger("greenroom.notify")

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
# Signs of life in the time in which one is wanted: one that is late is not yet the end.
SIGNS: Final = 3
# A supervisor that wants signs more often than this is not meant.
_LEAST_SECONDS: Final = 0.01


class Supervision:
    """Made by `take_supervision`. `address` is None when nobody wants to be told; `every` are the seconds between two
    signs of life, None when none is wanted."""

    def __init__(self, address: str | bytes | None = None, every: float | None = None) -> None:
        self._address = address
        self.every = every

    def tell(self, *states: str) -> bool:
        """Send assignments such as `READY=1` in one message; whether it was taken. Does not wait and raises nothing."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(states).encode(), self._address)
        except OSError as exc:
            _log.debug("the supervisor was not told: %s", exc.strerror)
            return False
        return True

    @contextlib.asynccontextmanager
    async def signs(self) -> AsyncIterator[None]:
        """Give signs of life while the block runs, if they are wanted."""
        if self.every is None:
            yield
            return
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sign, self.every)
            try:
                yield
            except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                failure = exc
            nursery.cancel_scope.cancel(reason="the end")
        if failure is not None:
            raise failure

    async def _sign(self, every: float) -> None:
        while True:
            self.tell("WATCHDOG=1")
            await trio.sleep(every)


def take_supervision(environ: MutableMapping[str, str]) -> Supervision:
    """Who wants to be told, by the variables, which are removed: no child speaks for this process."""
    given = {name: environ.pop(name, "") for name in _VARIABLES}
    every = None
    usec = given["WATCHDOG_USEC"]
    if usec.isascii() and usec.isdigit() and given["WATCHDOG_PID"] in ("", str(os.getpid())):
        every = max(int(usec[:15]) / 1e6 / SIGNS, _LEAST_SECONDS) if int(usec[:15]) else None
    address: str | bytes | None
    match given["NOTIFY_SOCKET"][:1]:
        case "@":
            address = b"\0" + os.fsencode(given["NOTIFY_SOCKET"][1:])
        case "/":
            address = given["NOTIFY_SOCKET"]
        case _:  # of another kind of socket, or none
            address = None
    return Supervision(address, every if address is not None else None)
