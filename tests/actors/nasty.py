"""A child process that leaves things behind. Not a test: run by path, with the names of its tricks.

It prints `name pid` for each process that it makes, then `ready`, and waits for the end of its standard input.

deaf       it ignores SIGTERM itself
group      a child in its group that ignores SIGTERM
session    a child in a session of its own that ignores SIGTERM
daemon     a grandchild, forked twice, in a session of its own, with an empty environment and no descriptor of ours
deep       twelve generations, each in a session of its own
comet      a child that is another process all the time: each forks the next and exits
leave      it does not wait, but exits with code 3
"""

import os
import signal
import sys

DEPTH = 12


def told(name: str, pid: int) -> None:
    os.write(1, f"{name} {pid}\n".encode())


def wait() -> None:
    while True:
        signal.pause()


def deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def child(name: str, *, session: bool) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        deaf()
        if session:
            os.setsid()
        os.write(writing, b".")
        wait()
    os.read(reading, 1)
    told(name, pid)


def daemon() -> None:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    os.setsid()
    pid = os.fork()
    if pid:
        told("daemon", pid)
        os._exit(0)
    deaf()  # kept over the exec
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")
    os.execve("/bin/sleep", ["sleep", "1000"], {})


def deep(generation: int) -> None:
    reading, writing = os.pipe()
    if not os.fork():
        deaf()
        os.setsid()
        told("deep", os.getpid())
        if generation:
            deep(generation - 1)
        os.write(writing, b".")
        wait()
    os.read(reading, 1)


def comet() -> None:
    if not os.fork():
        deaf()
        while True:
            if os.fork():
                os._exit(0)


def main(tricks: list[str]) -> None:
    if "deaf" in tricks:
        deaf()
    for name in tricks:
        if name in ("group", "session"):
            child(name, session=name == "session")
        elif name == "daemon":
            daemon()
        elif name == "comet":
            comet()
        elif name == "deep":
            deep(DEPTH - 1)
    told("leader", os.getpid())
    os.write(1, b"ready\n")
    if "leave" in tricks:
        os._exit(3)
    while os.read(0, 1024):
        pass


main(sys.argv[1:])
