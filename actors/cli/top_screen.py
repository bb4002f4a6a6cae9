"""A whole terminal for a program that draws lines and reads keys, without a library.

The terminal is given back as it was, however the block ends; SIGKILL alone leaves it as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import trio

# Alternate screen, no cursor, no wrapping of long lines; and back.
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_KEYS: Final = 64
# Given back within this time: a terminal that takes nothing is left as it is.
_LEAVE_SECONDS: Final = 2.0


class Screen:
    """Made by `open_screen`."""

    def __init__(self, output: trio.lowlevel.FdStream) -> None:
        self._output = output
        self._shown: list[str] = []

    def size(self) -> tuple[int, int]:
        """Columns and rows, now."""
        try:
            found = os.get_terminal_size(self._output.fileno())
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    async def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, from the top, in place of the last ones; only what differs from them is written."""
        pieces = []
        for number, line in enumerate(lines):
            if number >= len(self._shown) or self._shown[number] != line:
                pieces.append(f"\x1b[{number + 1};1H{line}\x1b[0m\x1b[K")
        if len(lines) < len(self._shown):
            pieces.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        self._shown = []  # cut short, nothing is known of the screen
        await self.write("".join(pieces))
        self._shown = list(lines)

    def forget(self) -> None:
        """What is shown is not known any more: the terminal has another size."""
        self._shown = []

    async def write(self, text: str) -> None:
        try:
            await self._output.send_all(text.encode())
        except trio.BrokenResourceError as exc:  # the terminal is gone
            raise BrokenPipeError from exc


@contextlib.asynccontextmanager
async def open_screen() -> AsyncIterator[Screen]:
    """The terminal of standard output until the block ends. Keys are not shown meanwhile, and signals are signals.
    Raises OSError if there is none, BrokenPipeError when it is gone."""
    # Opened once more, so that it can be one that never makes its writer wait: the shell's own stays as it is.
    descriptor = os.open(os.ttyname(sys.stdout.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    async with trio.lowlevel.FdStream(descriptor) as output:
        screen = Screen(output)
        with _quiet(sys.stdin.fileno()):
            try:
                await screen.write(_ENTER)
                yield screen
            finally:
                with trio.move_on_after(_LEAVE_SECONDS, shield=True), contextlib.suppress(BrokenPipeError):
                    await screen.write(_LEAVE)


async def typed() -> str | None:
    """The keys that are typed next; None when no more come. What is no character (an arrow) is passed over."""
    source = sys.stdin.fileno()
    if not os.isatty(source):
        return None
    await trio.lowlevel.wait_readable(source)
    try:
        data = os.read(source, _KEYS)
    except OSError:
        return None
    if not data:
        return None
    return "" if data.startswith(b"\x1b") else data.decode(errors="replace")


@contextlib.contextmanager
def _quiet(source: int) -> Iterator[None]:
    """Keys at once, without echo. Ctrl-Z does nothing: who is stopped cannot give the terminal back."""
    if not os.isatty(source):
        yield
        return
    before: list[Any] = termios.tcgetattr(source)
    try:
        tty.setcbreak(source)
        changed: list[Any] = termios.tcgetattr(source)
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(source, termios.TCSANOW, changed)
        yield
    finally:
        termios.tcsetattr(source, termios.TCSANOW, before)
