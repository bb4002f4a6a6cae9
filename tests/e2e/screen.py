"""A program on a terminal of its own, and what a person sees there.

The terminal is emulated (pyte): `text` is what is on the screen now, `raw` every byte that the program wrote. It
answers no question that a program may ask a terminal, as many do not.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import functools
import operator
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

LIMIT = 120.0  # absolute, for a hung test
RAW_KEPT = 1 << 17  # bytes; more than a whole picture has
# A session's leader that opens a terminal gets it as its own: Ctrl-C is a signal then.
_ON_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
# The emulator takes sequences with these signs for others, or for text.
_UNKNOWN = re.compile(rb"\x1b\[[<=>][0-9;:]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*)?\Z")


class Screen:
    """Closed by leaving the block: the program is killed if it runs."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None = None,
        *,
        columns: int = 100,
        rows: int = 30,
        emulated: bool = True,
    ) -> None:
        """Not `emulated`, nothing is on the screen, and of what was written only the last is kept: to measure."""
        self.raw = bytearray()
        self._emulated = emulated
        self._held = b""  # of a sequence that has not ended
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        self._ended = False
        self._set_size(columns, rows)
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", _ON_TERMINAL, os.ttyname(slave), *command],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=env,
            cwd=cwd,
        )
        self._slave: int | None = slave  # until it is opened: a terminal that nobody has open has ended

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self._slave is not None:
            os.close(self._slave)
        os.close(self._master)

    # -------------------------------------------------------------- what is seen
    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def row_of(self, text: str) -> int:
        """The number of the first row that has it."""
        return next(number for number, line in enumerate(self.lines) if text in line)

    def expect(self, *wanted: str | re.Pattern[str]) -> None:
        """Until all of it is on the screen at once."""
        self.until(lambda: all(self._has(each) for each in wanted), wanted)

    def expect_written(self, *wanted: str) -> None:
        """Until all of it was written, one after another; what was written up to there is forgotten."""
        for each in wanted:
            self.until(functools.partial(operator.contains, self.raw, each.encode()), each)
            del self.raw[: self.raw.index(each.encode()) + len(each.encode())]

    def expect_gone(self, unwanted: str | re.Pattern[str]) -> None:
        """Until it is not on the screen any more."""
        self.until(lambda: not self._has(unwanted), ("without", unwanted))

    def _has(self, wanted: str | re.Pattern[str]) -> bool:
        return wanted in self.text if isinstance(wanted, str) else wanted.search(self.text) is not None

    def until(self, condition: Callable[[], bool], what: object = "") -> None:
        """Read until it holds."""
        good = self.within(LIMIT, condition)
        assert good, f"no {what!r} on the screen:\n{self.text}\n{bytes(self.raw[-2000:])!r}"

    def within(self, seconds: float, condition: Callable[[], bool]) -> bool:
        """Read until it holds, for so long at most; whether it does."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                return condition()
        return True

    def quiet(self, seconds: float) -> None:
        """Read for so long, whatever comes: to measure."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._ended:
            self._read(left)

    def drain(self) -> None:
        """Read what is there already."""
        while self._read(0):
            pass

    def _read(self, seconds: float) -> bool:
        """False when nothing came, or the program has closed its terminal."""
        if self._ended or not select.select([self._master], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the terminal ends with its last program
            data = b""
        if not data:
            self._ended = True
            return False
        if self._slave is not None:
            os.close(self._slave)
            self._slave = None
        self.raw += data
        if not self._emulated:
            del self.raw[:-RAW_KEPT]
            return True
        data = _UNKNOWN.sub(b"", self._held + data)
        unfinished = _UNFINISHED.search(data)
        self._held = data[unfinished.start() :] if unfinished else b""
        self._stream.feed(data[: unfinished.start()] if unfinished else data)
        return True

    # -------------------------------------------------------------- what is done
    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """The program is told by a signal, as every terminal does."""
        self.drain()
        self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + LIMIT
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(LIMIT)

    def mode(self) -> list[int]:
        """The flags of the line discipline: as they were, when a program has left."""
        return [flag for flag in termios.tcgetattr(self._master)[:4] if isinstance(flag, int)]


# ------------------------------------------------------------------ what was written
_TOKEN = re.compile(
    r"\x1b\[(?P<csi>[0-?]*[ -/]*[@-~])"
    r"|\x1b\](?P<osc>[^\x07\x1b]*)(?:\x07|\x1b\\)"
    r"|\x1b(?P<string>[PX^_][^\x1b]*)\x1b\\"
    r"|\x1b(?P<escape>[ -/]*[0-~])"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
)

_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?)?\Z")


def sequences(raw: bytes | bytearray) -> Iterator[tuple[str, str]]:
    """Everything in a program's output that a terminal obeys, as kind (csi, osc, string, escape, control) and what it
    says. The output has to be UTF-8; what has begun at its end may be without its own."""
    text = _BEGUN.sub("", codecs.getincrementaldecoder("utf-8")().decode(bytes(raw)))
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        assert kind is not None
        yield kind, found[kind]
