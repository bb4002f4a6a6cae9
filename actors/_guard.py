"""Child processes: started, stopped and ended with all that is below them, by the guard (actors/_guard_main.py).

A program is never started by the daemon itself. The daemon makes the pipes and hands the child's ends to the guard,
so what a child writes never goes through it; the guard starts the child in a session of its own, and reports its end
when nothing of it is left. The guard is started with the first child, and again for the next one if it dies; then
its children are killed by what is left of it and have ended with an error. When the daemon dies, all of them die.
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
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import trio

from engine import codec
from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT, KIB, Limits

_log = logging.getLogger("greenroom.guard")

# Programs that save something at SIGTERM do it in this time; a container's runtime gives 10.
STOP_GRACE: Final = 5.0
# After SIGKILL: the keeper gives up after 10 s what the kernel does not end, and the guard 5 s later.
KILL_LIMIT: Final = 15.0
# For who reads: a process has ended and its output has not, because it handed its pipe to somebody elsewhere. What is
# in the pipe is read in less.
READ_AFTER_END: Final = 0.5
# What a dead guard leaves is killed within milliseconds; then the socket ends.
_ORPHANED: Final = 5.0
# A request is written in microseconds; a guard that takes none for this long is stuck.
_SEND_LIMIT: Final = 10.0
# A command, its environment and its folder: the kernel takes 128 KiB for one argument, and environments have 4.
REQUEST_BYTES: Final = 256 * KIB
_READ_BYTES: Final = 64 * KIB
_RETRY_AFTER_MS: Final = 1000
_LIBRARIES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # an interpreter may need them to start
_MAIN: Final = "import sys; sys.path.append(sys.argv[1]); import _guard_main; _guard_main.main()"

Stdin = Literal["null", "pipe"]
Stderr = Literal["pipe", "stdout", "null"]


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


class _Child:
    """What the link knows of a process."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.pid = 0
        self.failure = ""  # why it could not be started
        self.begun = trio.Event()  # or failed
        self.ended: Ended | None = None
        self.gone = trio.Event()

    def end(self, ended: Ended) -> None:
        self.ended = ended
        if not self.begun.is_set():
            self.failure = self.failure or str(ended)
        self.begun.set()
        self.gone.set()


class Process:
    """A running program; made by `Guard.spawn`. Its owner closes it, by `async with` or `aclose`.

    `stdin`, `stdout` and `stderr` are the daemon's ends of the pipes that were asked for. When the process has ended
    nothing of it holds the other ends, so reading comes to its end; only a descriptor that was handed to a process
    elsewhere can hold a pipe open: who reads stops some time after the end (READ_AFTER_END).
    """

    def __init__(self, link: _Link, child: _Child, name: str, pipes: Mapping[str, trio.lowlevel.FdStream]) -> None:
        self._link = link
        self._child = child
        self.name = name
        self.stdin = pipes.get("stdin")
        self.stdout = pipes["stdout"]
        self.stderr = pipes.get("stderr")

    def __repr__(self) -> str:
        return f"<Process {self.name!r} {self.pid} {self.ended or 'running'}>"

    @property
    def pid(self) -> int:
        """Also its session and its process group."""
        return self._child.pid

    @property
    def ended(self) -> Ended | None:
        """None while it, or anything below it, is there."""
        return self._child.ended

    async def wait(self) -> Ended:
        """Until it and all below it are gone. When it ends by itself, what it leaves behind is killed."""
        await self._child.gone.wait()
        assert self._child.ended is not None
        return self._child.ended

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens if it has ended."""
        if not self._child.gone.is_set():
            await self._link.send(("signal", self._child.id, int(number)))

    async def stop(self, grace: float = STOP_GRACE) -> Ended:
        """End it: SIGTERM to its group, SIGKILL to all below it when the group has ended or `grace` seconds are over.

        Any number of tasks may call it: all wait for the same end, the shortest grace holds. Cancelled, it kills at
        once and returns when that is done. An end that does not come (see KILL_LIMIT) is one with an error.
        """
        if not self._child.gone.is_set():
            try:
                await self._stop(max(0.0, grace))
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await self._stop(0.0)
                raise
        return self._child.ended or Ended(error="it did not end")

    async def _stop(self, grace: float) -> None:
        with trio.move_on_after(grace + KILL_LIMIT):
            await self._link.send(("stop", self._child.id, grace))
            await self._child.gone.wait()

    async def aclose(self) -> None:
        """Kill it if it is there, and close the pipes. Done when it returns, cancelled or not."""
        with trio.CancelScope(shield=True):
            await self.stop(0.0)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


@attrs.frozen(slots=True, kw_only=True)
class GuardStatistics:
    """`processes` are there now; `spawned` and `guards` count since the start. `pid` is the present guard's."""

    processes: int
    spawned: int
    guards: int
    pid: int | None


class Guard:
    """Starts processes; made by `open_guard`."""

    def __init__(self, limits: Limits, nursery: trio.Nursery) -> None:
        self._limits = limits
        self._nursery = nursery
        self._link: _Link | None = None
        self._linking = trio.Lock()
        self._closing = False
        self._numbers = count(1)
        self._present: set[_Child] = set()
        self._guards = 0
        self._spawned = 0

    def statistics(self) -> GuardStatistics:
        link = self._link
        return GuardStatistics(
            processes=self._count(),
            spawned=self._spawned,
            guards=self._guards,
            pid=link.process.pid if link is not None and not link.lost else None,
        )

    async def spawn(
        self,
        command: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: Stdin = "null",
        stderr: Stderr = "pipe",
    ) -> Process:
        """Start a program in the folder `cwd` with exactly the environment `env`; it is looked up in env's PATH.

        Raises CallerError("overloaded") at `limits.processes_max`, CallerError("payload_too_large"), and
        PeerError("tool_error") that names the program if it cannot be started. Cancelled, it leaves no process.
        """
        assert command, "no program"
        if self._closing:
            raise PeerError("tool_error", f"{command[0]!r} cannot be started: the daemon is ending")
        if self._count() >= self._limits.processes_max:
            most = self._limits.processes_max
            text = f"{command[0]!r} cannot be started: {most} processes are there, the most that may be at once"
            raise CallerError("overloaded", text, retry_after_ms=_RETRY_AFTER_MS)
        child = _Child(next(self._numbers))
        record = (
            "spawn",
            child.id,
            [os.fsencode(argument) for argument in command],
            os.fsencode(cwd),
            {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
        )
        self._present.add(child)
        try:
            return await self._spawn(child, record, command[0], stdin, stderr)
        except BaseException:
            self._present.discard(child)
            raise

    async def _spawn(self, child: _Child, record: _Record, name: str, stdin: Stdin, stderr: Stderr) -> Process:
        with contextlib.ExitStack() as ours:
            try:
                link = await self._linked()
                with contextlib.ExitStack() as theirs:
                    ends = _Ends(ours, theirs)
                    await link.spawn(child, record, ends.make(stdin, stderr))
            except OSError as exc:
                raise PeerError("tool_error", f"{name!r} cannot be started: {exc.strerror}") from exc
            try:
                await child.begun.wait()
            except trio.Cancelled:
                with trio.move_on_after(KILL_LIMIT, shield=True):
                    await link.send(("stop", child.id, 0.0))
                    await child.gone.wait()
                raise
            if child.failure:
                raise PeerError("tool_error", f"{name!r} cannot be started: {child.failure}")
            ours.pop_all()
            self._spawned += 1
            return Process(link, child, name, ends.streams())

    def _count(self) -> int:
        self._present = {child for child in self._present if not child.gone.is_set()}
        return len(self._present)

    async def _linked(self) -> _Link:
        """The link to a guard that lives."""
        async with self._linking:
            if self._link is None or self._link.lost:
                ours, theirs = socket.socketpair()
                with contextlib.ExitStack() as undo:
                    undo.callback(ours.close)
                    with theirs, trio.CancelScope(shield=True):
                        process = await trio.lowlevel.open_process(
                            [sys.executable, "-I", "-S", "-c", _MAIN, str(Path(__file__).parent)],
                            stdin=theirs.fileno(),
                            stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL,
                            start_new_session=True,  # Ctrl-C at the terminal is for the daemon
                            env={name: os.environ[name] for name in _LIBRARIES if name in os.environ},
                        )
                    link = _Link(process, trio.socket.from_stdlib_socket(ours))
                    self._nursery.start_soon(link.run)  # it closes the socket
                    undo.pop_all()
                self._link = link
                self._guards += 1
                if self._closing:
                    link.finish()
            return self._link

    def close(self) -> None:
        self._closing = True
        if self._link is not None:
            self._link.finish()


@contextlib.asynccontextmanager
async def open_guard(limits: Limits = DEFAULT) -> AsyncIterator[Guard]:
    """A guard for the block; at its end every process that is left is killed, and so is the guard."""
    async with trio.open_nursery() as nursery:
        guard = Guard(limits, nursery)
        try:
            yield guard
        finally:
            guard.close()


class _Ends:
    """The pipes of a child. Descriptors are closed by the two stacks."""

    def __init__(self, ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> None:
        self._ours = ours
        self._theirs = theirs
        self._kept: dict[str, int] = {}

    def make(self, stdin: Stdin, stderr: Stderr) -> list[int]:
        """The child's standard input, output and error."""
        output = self._pipe("stdout")
        return [
            self._pipe("stdin") if stdin == "pipe" else self._null(),
            output,
            output if stderr == "stdout" else self._pipe("stderr") if stderr == "pipe" else self._null(),
        ]

    def streams(self) -> dict[str, trio.lowlevel.FdStream]:
        return {name: trio.lowlevel.FdStream(descriptor) for name, descriptor in self._kept.items()}

    def _pipe(self, name: str) -> int:
        reading, writing = os.pipe()
        kept, given = (writing, reading) if name == "stdin" else (reading, writing)
        self._ours.callback(os.close, kept)
        self._theirs.callback(os.close, given)
        self._kept[name] = kept
        return given

    def _null(self) -> int:
        descriptor = os.open(os.devnull, os.O_RDWR)
        self._theirs.callback(os.close, descriptor)
        return descriptor


_Record = tuple[Any, ...]


class _Link:
    """One guard process and its socket. `lost`: it takes no more."""

    def __init__(self, process: trio.Process, sock: trio.socket.SocketType) -> None:
        self.process = process
        self.lost = False
        self._finishing = False
        self._socket = sock
        self._children: dict[int, _Child] = {}
        self._sending = trio.Lock()
        # Shielded: while the daemon is being cancelled, processes are stopped through it.
        self._scope = trio.CancelScope(shield=True)

    # ------------------------------------------------------------ to the guard
    async def spawn(self, child: _Child, record: _Record, descriptors: Sequence[int]) -> None:
        self._children[child.id] = child
        try:
            await self.send(record, descriptors)
        except CallerError:
            del self._children[child.id]
            raise
        if self.lost:
            child.end(Ended(error=_DIED))

    async def send(self, record: _Record, descriptors: Sequence[int] = ()) -> None:
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


_DIED: Final = "the guard of child processes died"


def _failure(number: int, where: str) -> str:
    text = os.strerror(number)
    return {"cwd": f"its folder cannot be entered: {text}", "fork": f"no process can be made: {text}"}.get(where, text)
