"""The link to a guard process: what is asked of it, and what it says of its children.

The protocol is described in actors/_guard_main.py, which is the other side.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from engine import codec
from engine.errors import CallerError
from engine.limits import KIB

_log = logging.getLogger("greenroom.guard")

# After SIGKILL: the keeper gives up after 10 s what the kernel does not end, and the guard 5 s later.
KILL_LIMIT: Final = 15.0
# A process has ended and its output has not, because it handed its pipe to somebody elsewhere. What is in the pipe is
# there at once.
READ_AFTER_END: Final = 0.5
# What a dead guard leaves is killed within milliseconds; then the socket ends.
_ORPHANED: Final = 5.0
# A request is written in microseconds; a guard that takes none for this long is stuck.
_SEND_LIMIT: Final = 10.0
# A command, its environment and its folder: the kernel takes 128 KiB for one argument, and environments have 4.
REQUEST_BYTES: Final = 256 * KIB
_READ_BYTES: Final = 64 * KIB
_LIBRARIES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # an interpreter may need them to start
_MAIN: Final = "import sys; sys.path.append(sys.argv[1]); import _guard_main; _guard_main.main()"
_DIED: Final = "the guard of child processes died"

Record = tuple[Any, ...]


@attrs.frozen(slots=True, kw_only=True)
class Ended:
    """How a process ended: with an exit `code` or by a `signal`; `error` says what went wrong around it.

    `max_rss` is the most memory in bytes that the process itself had, or the guard's 10 MB if it had less. `killed`
    processes were left of it when it ended, and were killed.
    """

    code: int | None = None
    signal: int | None = None
    error: str | None = None
    max_rss: int = 0
    killed: int = 0

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        if self.signal is None:
            return f"exit code {self.code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"killed by {known.get(self.signal, f'signal {self.signal}')}"


class Child:
    """What the link knows of a process."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.pid = 0
        self.failure = ""  # why it could not be started
        self.begun = trio.Event()  # or failed
        self.ended: Ended | None = None
        self.gone = trio.Event()
        self.reading: trio.CancelScope | None = None  # the wait for its output

    def end(self, ended: Ended) -> None:
        self.ended = ended
        if not self.begun.is_set():
            self.failure = self.failure or str(ended)
        self.begun.set()
        self.gone.set()
        if self.reading is not None:
            self.reading.deadline = trio.current_time() + READ_AFTER_END


async def open_link(started: Callable[[Link], None], ended: Callable[[], Awaitable[None]]) -> Link:
    """Start a guard. `started` has to see to it that the link runs; what is here is undone if it fails. `ended` is
    waited for when the guard has ended, before that is told of its children; it is shielded, and has a deadline."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        with theirs, trio.CancelScope(shield=True):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-S", "-c", _MAIN, str(Path(__file__).parent)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the daemon
                env={name: os.environ[name] for name in _LIBRARIES if name in os.environ},
            )
        link = Link(process, trio.socket.from_stdlib_socket(ours), ended)
        started(link)
        undo.pop_all()
    return link


class Link:
    """One guard process and its socket. `lost`: it takes no more."""

    def __init__(
        self, process: trio.Process, sock: trio.socket.SocketType, ended: Callable[[], Awaitable[None]]
    ) -> None:
        self.process = process
        self._ended = ended
        self.lost = False
        self._finishing = False
        self._socket = sock
        self._children: dict[int, Child] = {}
        self._sending = trio.Lock()
        # Shielded: while the daemon is being cancelled, processes are stopped through it.
        self._scope = trio.CancelScope(shield=True)

    # ------------------------------------------------------------ to the guard
    async def spawn(self, child: Child, record: Record, descriptors: Sequence[int]) -> None:
        self._children[child.id] = child
        try:
            await self.send(record, descriptors)
        except CallerError:
            del self._children[child.id]
            raise
        if self.lost:
            child.end(Ended(error=_DIED))

    async def send(self, record: Record, descriptors: Sequence[int] = ()) -> None:
        """A guard that is gone takes nothing, and its children's ends are told another way."""
        data = marshal.dumps(record)
        if len(data) > REQUEST_BYTES:
            text = f"a command and its environment may have {REQUEST_BYTES:,} bytes, not {len(data):,}"
            raise CallerError("payload_too_large", text, limit=REQUEST_BYTES)
        data = len(data).to_bytes(4, "little") + data
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        # Half a record would make nonsense of the next one.
        with trio.CancelScope(shield=True), trio.move_on_after(_SEND_LIMIT) as limit:
            async with self._sending:
                with contextlib.suppress(OSError, trio.ClosedResourceError):
                    sent = await self._socket.sendmsg([data], ancillary)
                    while sent < len(data):
                        sent += await self._socket.send(data[sent:])
        if limit.cancelled_caught:
            _log.error("the guard of child processes takes no orders: it is killed")
            self.process.kill()

    def finish(self) -> None:
        """Let the guard kill what there is, and end."""
        self.lost = self._finishing = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + KILL_LIMIT + _ORPHANED)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    # ------------------------------------------------------------ from the guard
    async def run(self) -> None:
        """Until the guard and all its keepers are gone."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._bound_by_its_end)
                    await self._read()
                    nursery.cancel_scope.cancel(reason="the guard's socket ended")
        finally:
            self.lost = True
            self._socket.close()
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_ORPHANED):
                    await self.process.wait()
                if self.process.returncode is None:
                    self.process.kill()
                    await self.process.wait()
                await self._ended()
            if self._children:
                _log.error("the guard of child processes died (%s)", self.process.returncode)
            for child in self._children.values():
                child.end(Ended(error=_DIED))
            self._children.clear()

    async def _bound_by_its_end(self) -> None:
        await self.process.wait()
        self.lost = True  # a child for whom it is too late is started by the next guard
        await trio.sleep(_ORPHANED)
        self._scope.cancel(reason="the guard died, and its socket has not ended")

    async def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := await self._socket.recv(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(codec.parse(line))

    def _take(self, said: codec.Json) -> None:
        assert isinstance(said, dict), "the guard writes objects"
        number = said["id"]
        child = self._children.get(number)
        if child is None:
            return
        if "started" in said:
            child.pid = said["started"]
            child.begun.set()
            return
        del self._children[number]
        if "failed" in said:
            child.failure = _failure(said["failed"], said["where"])
            child.end(Ended(error=child.failure))
        elif "lost" in said:
            child.end(Ended(error="its keeper was killed"))
        elif "given_up" in said:
            child.end(Ended(error="it, or something below it, does not end"))
        else:
            status = said["ended"]
            child.end(
                Ended(
                    code=status if status >= 0 else None,
                    signal=-status if status < 0 else None,
                    error=_DIED if "abandoned" in said and not self._finishing else None,
                    max_rss=said["memory"] * KIB,
                    killed=said["killed"],
                )
            )


def _failure(number: int, where: str) -> str:
    text = os.strerror(number)
    return {"cwd": f"its folder cannot be entered: {text}", "fork": f"no process can be made: {text}"}.get(where, text)
