"""The guard: the process below which all child processes of a daemon live. A program, not a module to import.

It is started by actors/_guard_link.py with a socket to the daemon as standard input, in an isolated interpreter without
site-packages, and imports a few light modules of the standard library: it must start in milliseconds and stay below
10 MB. (So `_signal` and `_socket`, what the modules without the underscore are made of: their enums and selectors
cost more than all the rest.) Three levels, each single-threaded:

    daemon ── guard ── a keeper for each child (a fork of the guard) ── the child, leader of a session of its own

A keeper is a *subreaper*: whatever its child leaves behind, in any session or process group and however often forked,
becomes the keeper's own child and can be found, killed and reaped; and it is known whose it was. A process sends
signals only to its own children and to groups in which it has one: a number that nobody else can reap cannot have
passed to a stranger.

Whoever ends first, the others follow:

- the child: its keeper kills and reaps what is left of it, reports the end and exits
- a keeper (killed from outside): the kernel kills its child, the rest becomes the guard's, which kills it
- the guard: the keepers' pipes of orders end; each kills and reaps all it has
- the guard and its keepers: the kernel kills their children, the rest becomes the daemon's, which kills it
- the daemon: the socket ends; the guard lets go of its keepers, waits for them and exits

The keepers hold the guard's end of the socket too, so the daemon reads its end only when all of them are gone.

From the daemon come records, 4 bytes of length (little-endian) and a marshalled tuple (trusted, and the same Python):
`("spawn", id, command, cwd, env)` with three descriptors, `("stop", id, grace)`, `("signal", id, number)`. To the
daemon go lines of JSON: `started` with the pid, `failed` with errno and where, `ended`, `given_up`, `lost`.

Elsewhere than on Linux there is neither subreaper nor /proc: then a child's process group is all that is ended.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import ctypes
import errno
import gc
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # a constant that type checkers know: to import `typing` costs 1 MB
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# The kernel gives us the children of what ends before it tells us of that end. Looking again without being told is
# for what takes its time, or is not told to us.
TICK = 0.05
STRANGERS_TICK = 1.0
# A process that SIGKILL does not end in this time waits for a device, or is another user's: it is given up.
GIVE_UP = 10.0
# The guard waits this long for its keepers at the end; they give up before.
END = GIVE_UP + 5.0
READ_BYTES = 256 * 1024
ORDER_BYTES = 4096

DESCRIPTORS = 3  # of each spawn
DESCRIPTOR_BYTES = 4  # a C int
CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Request = tuple[int, "list[bytes]", bytes, "dict[bytes, bytes]"]  # id, command, cwd, env


_prctl = ctypes.CDLL(None).prctl if LINUX else None


def prctl(option: int, value: int) -> None:
    if _prctl is not None:
        _prctl(option, value, 0, 0, 0)


def processes() -> Iterator[tuple[int, bytes, int, int]]:
    """(pid, state, parent, process group) of every process there is; nothing without a /proc."""
    try:
        names = os.listdir("/proc") if LINUX else []
    except OSError:
        return
    for name in names:
        if name.isdigit():
            try:
                file = os.open(f"/proc/{name}/stat", os.O_RDONLY)
                try:
                    line = os.read(file, 1024)
                finally:
                    os.close(file)
            except OSError:  # it ended
                continue
            # `4242 (any (name)) S 1 4242 …`
            state, parent, group, _ = line[line.rindex(b")") + 2 :].split(b" ", 3)
            yield int(name), state, int(parent), int(group)


def kill_children(keep: set[int]) -> set[int]:
    """Send SIGKILL to every living child of this process but `keep`, and to their groups; gives those it hit."""
    me, own_group = os.getpid(), os.getpgrp()
    hit, groups = set(), set()
    for pid, state, parent, group in processes():
        if parent == me and pid not in keep:
            if state != b"Z":
                hit.add(pid)
                send(os.kill, pid, signal.SIGKILL)
            if group != own_group:
                groups.add(group)
    for group in groups:
        send(os.killpg, group, signal.SIGKILL)
    return hit


def end_strangers(keep: set[int]) -> bool:
    """Kill and reap the children of this process but `keep`; whether there were any."""
    me = os.getpid()
    kill_children(keep)
    strangers = [pid for pid, _, parent, _ in processes() if parent == me and pid not in keep]
    for pid in strangers:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
    return bool(strangers)


def send(how: Callable[[int, int], None], number: int, what: int) -> None:
    try:
        how(number, what)
    except OSError:  # it has ended, or belongs to another user
        pass


def wakeups() -> tuple[int, int]:
    """A pipe that can be read when a child has ended."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading, writing


def emptied(wakeup: int) -> None:
    try:
        os.read(wakeup, ORDER_BYTES)
    except BlockingIOError:
        pass


def report(daemon: socket.socket, text: str) -> None:
    """A line to the daemon. Short enough that the kernel queues it whole, whoever else is writing."""
    try:
        daemon.sendall(b"{%s}\n" % text.encode())
    except OSError:  # the daemon is gone
        pass


# ------------------------------------------------------------ the child
def execute(command: list[bytes], env: dict[bytes, bytes]) -> NoReturn:
    """As os.execvpe, which imports more for each child than all the rest takes. Raises OSError."""
    program = command[0]
    folders = [b""] if b"/" in program else env.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    failure: OSError = FileNotFoundError(errno.ENOENT, "")
    for folder in folders:
        try:
            os.execve(os.path.join(folder, program), command, env)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as exc:
            failure = exc
            if exc.errno != errno.EACCES:
                break
    raise failure


def become(request: Request, descriptors: list[int], failure: int, keeper: int) -> NoReturn:
    """In the forked child: become the program. A failure is written to `failure` as `errno where`."""
    _, command, cwd, env = request
    where = "exec"
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(127)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):  # the numbers that the C library keeps for itself
                    pass
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        where = "cwd"
        os.chdir(cwd)
        where = "exec"
        execute(command, env)
    except OSError as exc:
        os.write(failure, b"%d %s" % (exc.errno or errno.EINVAL, where.encode()))
    except BaseException:  # noqa: BLE001 - a NUL in an argument, for one
        os.write(failure, b"%d %s" % (errno.EINVAL, where.encode()))
    os._exit(127)


# ------------------------------------------------------------ the keeper
class Keeper:
    """Runs in a fork of the guard, from the child's start until nothing is left of it."""

    def __init__(self, request: Request, descriptors: list[int], orders: int, daemon: socket.socket) -> None:
        self.id = request[0]
        self.daemon = daemon
        self.orders = orders
        self.wakeup, _ = wakeups()
        self.deadline: float | None = None  # of the stop that was asked for
        self.killing: float | None = None  # since when
        self.abandoned = False  # by the guard, before the end
        self.struck = False  # the leader, by us
        self.killed: set[int] = set()
        self.end: tuple[int, int] | None = None  # the leader's status and the most memory that it had
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        keeper = os.getpid()
        self.failure, failure = os.pipe()
        self.leader = os.fork()
        if not self.leader:
            become(request, descriptors, failure, keeper)
        for descriptor in (*descriptors, failure):
            os.close(descriptor)
        self.poll = select.poll()
        for descriptor in (orders, self.wakeup, self.failure):
            self.poll.register(descriptor, select.POLLIN)

    def run(self) -> bool:
        """True if nothing is left."""
        timeout: float | None = None
        while True:
            ready = {descriptor for descriptor, _ in self.poll.poll(None if timeout is None else timeout * 1000)}
            if self.wakeup in ready:
                emptied(self.wakeup)
            if self.failure in ready:
                self.started()
            if self.orders in ready:
                self.obey()
            if not self.reap():
                break
            now = time.monotonic()
            if self.killing is None and self.is_over(now):
                self.killing = now
            if self.killing is not None:
                if now - self.killing > GIVE_UP:
                    break
                self.kill()
                timeout = TICK
            elif self.deadline is not None:
                timeout = max(0.0, self.deadline - now) if self.end is None else TICK
        if self.failure and self.end is not None:  # else a read would wait for a child that is stuck
            self.started()
        return self.ended()

    def started(self) -> None:
        """The pipe of failures has something to say: its end is the program's begin."""
        said = os.read(self.failure, ORDER_BYTES).split()
        self.poll.unregister(self.failure)
        os.close(self.failure)
        self.failure = 0
        if said:
            report(self.daemon, f'"id":{self.id},"failed":{int(said[0])},"where":"{said[1].decode()}"')
            self.id = 0
        else:
            report(self.daemon, f'"id":{self.id},"started":{self.leader}')

    def obey(self) -> None:
        orders = os.read(self.orders, ORDER_BYTES)  # whole lines: they are written at once
        if not orders:  # the guard is gone, or wants the end
            self.poll.unregister(self.orders)
            self.killing = self.killing or time.monotonic()
            self.abandoned = self.end is None
        for order in orders.splitlines():
            verb, value = order.split()
            if verb == b"stop":
                deadline = time.monotonic() + float(value)
                if self.deadline is None and self.end is None:
                    send(os.killpg, self.leader, signal.SIGTERM)
                    send(os.killpg, self.leader, signal.SIGCONT)  # what is stopped could not take it
                self.deadline = deadline if self.deadline is None else min(deadline, self.deadline)
            elif verb == b"signal" and self.end is None:
                send(os.killpg, self.leader, int(value))

    def reap(self) -> bool:
        """Whether there are children left."""
        try:
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self.leader:
                    self.end = status, usage.ru_maxrss
                    if not LINUX:
                        send(os.killpg, self.leader, signal.SIGKILL)
        except ChildProcessError:
            return False

    def is_over(self, now: float) -> bool:
        """Whether it is time to kill what is left: the group of a leader that was asked to stop has its grace."""
        if self.deadline is not None and now >= self.deadline:
            return True
        if self.end is None:
            return False
        return self.deadline is None or not any(
            group == self.leader and state != b"Z" for _, state, _, group in processes()
        )

    def kill(self) -> None:
        if self.end is None and not self.struck:  # most of the time that is all, without a look at every process
            self.struck = True
            send(os.kill, self.leader, signal.SIGKILL)
            send(os.killpg, self.leader, signal.SIGKILL)
        else:
            self.killed |= kill_children(set()) - {self.leader}

    def ended(self) -> bool:
        alone = not self.reap()
        if not self.id:
            return alone
        if alone and self.end is not None:
            status, memory = self.end
            code = os.waitstatus_to_exitcode(status)
            text = f'"id":{self.id},"ended":{code},"memory":{memory},"killed":{len(self.killed)}'
            report(self.daemon, text + ',"abandoned":true' * self.abandoned)
        else:
            report(self.daemon, f'"id":{self.id},"given_up":true')
        return alone


# ------------------------------------------------------------ the guard
class Guard:
    def __init__(self, daemon: socket.socket) -> None:
        self.daemon = daemon
        self.wakeup, self.wakeup_writing = wakeups()
        self.keepers: dict[int, tuple[int, int]] = {}  # pid -> id of the child, pipe of orders
        self.strangers = False  # whether children of a keeper that died may have come to us
        self.buffer = b""
        self.descriptors: list[int] = []

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.daemon, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(STRANGERS_TICK * 1000 if self.strangers else None)}
            if self.wakeup in ready:
                emptied(self.wakeup)
            self.reap()
            if self.daemon.fileno() in ready and not self.receive():
                break
        for _, orders in self.keepers.values():
            os.close(orders)
        poll.unregister(self.daemon)
        deadline = time.monotonic() + END
        while self.reap(closing=True) and time.monotonic() < deadline:
            poll.poll(STRANGERS_TICK * 1000)
            emptied(self.wakeup)

    def receive(self) -> bool:
        """Take what the daemon sent; False at the end."""
        try:
            room = socket.CMSG_SPACE(DESCRIPTORS * DESCRIPTOR_BYTES)
            data, ancillary, _, _ = self.daemon.recvmsg(READ_BYTES, room, CLOEXEC)
        except OSError:
            return False
        for _, _, packed in ancillary:  # SCM_RIGHTS is all that a socket of this kind brings
            for begin in range(0, len(packed), DESCRIPTOR_BYTES):
                descriptor = int.from_bytes(packed[begin : begin + DESCRIPTOR_BYTES], sys.byteorder)
                os.set_inheritable(descriptor, False)
                self.descriptors.append(descriptor)
        self.buffer += data
        while len(self.buffer) >= 4:
            size = 4 + int.from_bytes(self.buffer[:4], "little")
            if len(self.buffer) < size:
                break
            verb, *rest = marshal.loads(self.buffer[4:size])
            self.buffer = self.buffer[size:]
            if verb == "spawn":
                taken, self.descriptors = self.descriptors[:DESCRIPTORS], self.descriptors[DESCRIPTORS:]
                self.spawn(tuple(rest), taken)
            else:
                self.order(f"{verb} {rest[1]}\n".encode(), rest[0])
        return bool(data)

    def spawn(self, request: Any, descriptors: list[int]) -> None:
        reading, writing = os.pipe()
        try:
            pid = os.fork()
        except OSError as exc:
            report(self.daemon, f'"id":{request[0]},"failed":{exc.errno},"where":"fork"')
            os.close(writing)
        else:
            if not pid:
                self.keep(request, descriptors, reading, writing)
            self.keepers[pid] = request[0], writing
        for descriptor in (reading, *descriptors):
            os.close(descriptor)

    def keep(self, request: Request, descriptors: list[int], orders: int, writing: int) -> NoReturn:
        """In the fork: nothing of the guard's is kept but its socket."""
        clean = False
        try:
            # Whoever holds the writing end of a keeper's orders keeps that from seeing the guard's end.
            for descriptor in (writing, *(orders for _, orders in self.keepers.values())):
                os.close(descriptor)
            os.close(self.wakeup)
            os.close(self.wakeup_writing)
            clean = Keeper(request, descriptors, orders, self.daemon).run()
        except OSError as exc:
            report(self.daemon, f'"id":{request[0]},"failed":{exc.errno},"where":"fork"')
        except BaseException:  # noqa: BLE001 - a defect
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(not clean)

    def order(self, line: bytes, child: int) -> None:
        for of, orders in self.keepers.values():
            if of == child:
                try:
                    os.write(orders, line)
                except OSError:  # its keeper has ended
                    pass

    def reap(self, closing: bool = False) -> bool:
        """Reap who has ended, kill what is left of them; whether there are children."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                child, orders = self.keepers.pop(pid, (0, -1))
                if child:
                    if not closing:
                        os.close(orders)
                    if status:
                        self.strangers = True
                        report(self.daemon, f'"id":{child},"lost":{os.waitstatus_to_exitcode(status)}')
        except ChildProcessError:
            self.strangers = False
            return False
        if self.strangers:
            self.strangers = bool(kill_children(set(self.keepers)))
        return True


def main() -> None:
    # No descriptor that comes can have the number of one of the standard streams. Standard error stays the daemon's.
    while (null := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    daemon = socket.socket(fileno=os.dup(0))
    os.dup2(null, 0)
    os.close(null)
    # What ends the daemon must not end its guard first. A handler, unlike SIG_IGN, is not inherited by programs.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")
    gc.freeze()  # the forks share these pages
    Guard(daemon).run()
