"""A tool server that does not want to end, for stress_processes: run by path, `answers` or `silent`, and a file.

It makes a child in a session of its own that ignores SIGTERM, a daemon (forked twice, another session, nothing in its
environment, no descriptor of ours), and a child in its own group that ignores SIGTERM. Each process writes its pid to
the file before it does anything else. Then it answers lines until its standard input ends; or never.
"""

import os
import signal
import sys


def wait() -> None:
    while True:
        signal.pause()


def fork(record: int, *, session: bool) -> bool:
    """True in the child."""
    if os.fork():
        return False
    if session:
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(record, f"{os.getpid()}\n".encode())
    return True


def main(how: str, file: str) -> None:
    record = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(record, f"{os.getpid()}\n".encode())
    if fork(record, session=False):
        wait()
    if fork(record, session=True):
        if fork(record, session=True):
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.execve("/bin/sleep", ["sleep", "100000"], {})
        wait()
    while line := sys.stdin.buffer.readline():
        if how == "answers":
            os.write(1, line)


main(*sys.argv[1:])
