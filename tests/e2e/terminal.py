"""A program on a terminal of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LIMIT = 120.0  # absolute, for a hung test
# A session's leader that opens a terminal gets it as its own: Ctrl-C is a signal then.
_ON_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'


class Terminal:
    """`seen` is what it printed since the last `expect`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.seen = b""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _ON_TERMINAL, os.ttyname(slave), *command],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=env,
            cwd=cwd,
        )
        self.expect("", first=True)
        os.close(slave)

    def expect(self, text: str, *, first: bool = False) -> None:
        """Read until it is seen."""
        until = time.monotonic() + LIMIT
        while text.encode() not in self.seen or (first and not self.seen):
            ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
            assert ready, self.seen
            try:
                self.seen += os.read(self._master, 65536)
            except OSError as exc:
                raise AssertionError(f"ended after {self.seen!r}") from exc
        self.seen = self.seen.partition(text.encode())[2] if text else self.seen

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Read to the end; the exit code."""
        with contextlib.suppress(OSError):  # the terminal ends with its last program
            while data := os.read(self._master, 65536):
                self.seen += data
        os.close(self._master)
        return self._process.wait(LIMIT)
