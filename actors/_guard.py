"""Child processes: started, stopped and ended with all that is below them, by the guard (actors/_guard_main.py).

A program is never started by the daemon itself. The daemon makes the pipes and hands the child's ends to the guard,
so what a child writes never goes through it; the guard starts the child in a session of its own, and reports its end
when nothing of it is left. The guard is started with the first child, and again for the next one if it dies; then
its children are killed by what is left of it and have ended with an error. When the daemon dies, all of them die.

A process that is the daemon's alone can take the guard's place as the parent of orphans: then also what has changed its
session does not survive that the guard and its keepers are killed at the same moment. What does is only what outlives
all three of them killed at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import count
from typing import Final, Literal

import attrs
import trio

from actors._guard_link import KILL_LIMIT, READ_AFTER_END, Child, Ended, Link, Record, open_link
from actors._guard_main import PR_SET_CHILD_SUBREAPER, TICK, end_strangers, prctl
from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT, KIB, MIB, Limits

_log = logging.getLogger("greenroom.guard")

# Programs that save something at SIGTERM do it in this time; a container's runtime gives 10.
STOP_GRACE: Final = 5.0
# What may be in a pipe when its writer ends: the most that the kernel allows without privileges.
_PIPE_BYTES: Final = MIB
_READ_BYTES: Final = 64 * KIB
# What comes fast is read so many times before the loop has its turn, which costs as much as counting what was read:
# a third less time for a gigabyte of output, and half a millisecond of the loop's. A pipe holds as much.
_AT_ONCE: Final = 8
_RETRY_AFTER_MS: Final = 1000

Stdin = Literal["null", "pipe"]
Stderr = Literal["pipe", "stdout", "null"]


class Process:
    """A running program; made by `Guard.spawn`. Its owner closes it, by `async with` or `aclose`.

    `stdin`, `stdout` and `stderr` are the daemon's ends of the pipes that were asked for. When the process has ended
    nothing of it holds the other ends, so that reading comes to its end; but a pipe that it handed to a process
    elsewhere stays open, so read standard output by `read`.
    """

    def __init__(self, link: Link, child: Child, name: str, pipes: Mapping[str, trio.lowlevel.FdStream]) -> None:
        self._link = link
        self._child = child
        self.name = name
        self.stdin = pipes.get("stdin")
        self.stdout = pipes["stdout"]
        self.stderr = pipes.get("stderr")
        self._at_once = 0  # reads until the next checkpoint
        self._unread = _PIPE_BYTES  # at most, when it has ended

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

    async def read(self) -> bytes:
        """The next of its standard output, at most 64 KiB; b"" at the end, which follows that of the process.

        For one task. Cancelled, nothing is lost; where much is to be read, only each _AT_ONCE-th call is a checkpoint.
        """
        if self._at_once and not self._child.gone.is_set():
            self._at_once -= 1
            with contextlib.suppress(OSError):  # there is nothing yet, or it is closed: both are found below
                return os.read(self.stdout.fileno(), _READ_BYTES)
        self._at_once = _AT_ONCE - 1
        with trio.CancelScope() as scope:
            if self._child.gone.is_set():
                scope.deadline = trio.current_time() + READ_AFTER_END
            self._child.reading = scope
            try:
                data = await self.stdout.receive_some(min(_READ_BYTES, self._unread)) if self._unread else b""
            finally:
                self._child.reading = None
            if self._child.gone.is_set():
                self._unread -= len(data)
            return bytes(data)
        return b""

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
                stream.close()

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

    def __init__(self, limits: Limits, nursery: trio.Nursery, adopts: bool) -> None:
        self._limits = limits
        self._nursery = nursery
        self._adopts = adopts
        self._link: Link | None = None
        self._linking = trio.Lock()
        self._closing = False
        self._numbers = count(1)
        self._present: set[Child] = set()
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
        child = Child(next(self._numbers))
        try:
            arguments = [os.fsencode(argument) for argument in command]
            variables = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
            record = "spawn", child.id, arguments, os.fsencode(cwd), variables
        except UnicodeEncodeError as exc:
            raise PeerError("tool_error", f"{command[0]!r} cannot be started: {exc.object!r} is no text") from exc
        self._present.add(child)
        try:
            return await self._spawn(child, record, command[0], stdin, stderr)
        except BaseException:
            self._present.discard(child)
            raise

    async def _spawn(self, child: Child, record: Record, name: str, stdin: Stdin, stderr: Stderr) -> Process:
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

    async def _linked(self) -> Link:
        """The link to a guard that lives."""
        async with self._linking:
            link = self._link
            if link is None or link.lost:
                # Not cancelled half-way: the next caller uses it.
                self._link = link = await open_link(lambda link: self._nursery.start_soon(link.run), self._end_orphans)
                self._guards += 1
                if self._closing:
                    link.finish()
            return link

    async def _end_orphans(self) -> None:
        """What a guard that has ended could not end is our child now."""
        if not self._adopts:
            return
        with trio.move_on_after(KILL_LIMIT) as limit:
            async with self._linking:  # a guard that is being started meanwhile would be taken for one of them
                keep = {self._link.process.pid} if self._link is not None else set()
                while await trio.to_thread.run_sync(end_strangers, keep):  # noqa: ASYNC110 - nothing tells of it
                    await trio.sleep(TICK)
        if limit.cancelled_caught:
            _log.error("children of a guard that died do not end")

    def close(self) -> None:
        self._closing = True
        if self._link is not None:
            self._link.finish()


@contextlib.asynccontextmanager
async def open_guard(limits: Limits = DEFAULT, *, adopts: bool = False) -> AsyncIterator[Guard]:
    """A guard for the block; at its end every process that is left is killed, and so is the guard. What the block
    raises comes out as it is.

    With `adopts` this process, which must have no other children, ends what a dead guard could not.
    """
    failure: Exception | None = None
    if adopts:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        async with trio.open_nursery() as nursery:
            guard = Guard(limits, nursery, adopts)
            try:
                yield guard
            except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                failure = exc
            finally:
                guard.close()
    finally:
        if adopts:  # nobody would wait for what is taken in from now on
            prctl(PR_SET_CHILD_SUBREAPER, 0)
    if failure is not None:
        raise failure


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
        if name == "stdout":
            with contextlib.suppress(OSError, AttributeError):  # the user's pipes are many, or it is not Linux
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _AT_ONCE * _READ_BYTES)
        kept, given = (writing, reading) if name == "stdin" else (reading, writing)
        self._ours.callback(os.close, kept)
        self._theirs.callback(os.close, given)
        self._kept[name] = kept
        return given

    def _null(self) -> int:
        descriptor = os.open(os.devnull, os.O_RDWR)
        self._theirs.callback(os.close, descriptor)
        return descriptor
