"""The daemon's log on standard error: structured, without secrets, and never in anybody's way.

Standard error may be a pipe that nobody reads. So a line is put into a bounded queue, and a thread writes: the loop
never waits for a reader. What does not fit is dropped and counted, and a line says so as soon as one can be written.
An ERROR is mostly one of the last things a process says: whoever logs one waits a moment for it to be out, unless the
thread is behind already.

Secrets are process-wide, as logging is: whoever reads one says `hide`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from actors._log_context import log_context
from engine.limits import KIB, MIB
from engine.log_lines import Form, Line, encode
from engine.redaction import Redactor

# Lines that wait for a reader: minutes of an ordinary log, and no more than a small tool result.
QUEUE_BYTES: Final = MIB
# Of one write.
WRITE_BYTES: Final = 64 * KIB
# Seconds that whoever logs an ERROR may wait: many times what an idle thread takes for a write, and below what a
# person notices.
ERROR_PATIENCE: Final = 0.02
# Seconds for what waits when the log is closed.
CLOSE_SECONDS: Final = 1.0
# Names of extra values that a line may have.
_EXTRA: Final = ("ref",)

_secrets = Redactor()

_log = logging.getLogger("greenroom.logs")


def hide(secret: str) -> None:
    """Never show this secret in the log, nor in errors; see engine.redaction for what is too short."""
    _secrets.hide(secret)


def redact(text: str) -> str:
    return _secrets.redact(text)


class LineWriter:
    """Lines on their way to a file descriptor, by a thread. Any thread may `put`; whoever made it calls `close`.

    `say_lost` makes the line that tells of so many lost ones. A descriptor that cannot be written (any more) takes
    everything, and counts it as lost.
    """

    def __init__(self, descriptor: int, say_lost: Callable[[int], bytes], *, most: int = QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._say_lost = say_lost
        self._most = most
        # Guarded by the condition, which may be entered again: a finalizer may log in the middle of a `put`.
        self._condition = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes that wait
        self._busy = False  # the thread is writing
        self._untold = 0
        self._closing = False
        self.lost = 0
        self._thread = threading.Thread(target=self._main, name="greenroom-log", daemon=True)
        self._thread.start()

    def put(self, line: bytes, *, patience: float = 0.0) -> None:
        """Queue the line; wait up to `patience` seconds until it is written, unless others wait before it."""
        with self._condition:
            if self._closing or self._size + len(line) > self._most:
                self._lose(1)
                return
            first = not self._waiting and not self._busy
            self._waiting.append(line)
            self._size += len(line)
            self._condition.notify_all()
            if patience and first:
                self._condition.wait_for(lambda: not self._waiting and not self._busy, patience)

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Write what waits, `seconds` at the most, and take no more; whether all was written. The descriptor is left
        open. The thread of a stuck one is left behind and ends with the process."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _lose(self, lines: int) -> None:
        self.lost += lines
        self._untold += lines

    # ------------------------------------------------------------ in the thread
    def _main(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                while not self._waiting and not self._untold:
                    if self._closing:
                        return
                    self._condition.wait()
                self._busy = True
                lines = self._take()
            try:
                _write_all(self._descriptor, b"".join(lines))
            except OSError:
                with self._condition:  # nobody will ever read it: it is not told either
                    self.lost += len(lines)

    def _take(self) -> list[bytes]:
        """What one write is to carry: what waits, then what came too much."""
        lines: list[bytes] = []
        size = 0
        while self._waiting and size < WRITE_BYTES:
            lines.append(self._waiting.popleft())
            size += len(lines[-1])
        self._size -= size
        if not self._waiting and self._untold:
            lines.append(self._say_lost(self._untold))
            self._untold = 0
        return lines


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # who shares the descriptor has made it so
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class LogHandler(logging.Handler):
    """Formats in the thread that logs, where the context is; raises nothing, whatever it is given."""

    def __init__(self, descriptor: int, form: Form, *, most: int = QUEUE_BYTES) -> None:
        super().__init__()
        self._form = form
        self.writer = LineWriter(descriptor, self._say_lost, most=most)

    def emit(self, record: logging.LogRecord) -> None:
        patience = ERROR_PATIENCE if record.levelno >= logging.ERROR else 0.0
        self.writer.put(self._encode(record), patience=patience)

    def _encode(self, record: logging.LogRecord) -> bytes:
        context = dict(log_context())
        try:
            message = redact(record.getMessage())
        except Exception:  # noqa: BLE001 - arguments that do not fit, or a stranger's __str__
            message = redact(f"{record.msg!s} (its arguments cannot be shown)")
        context |= {name: str(record.__dict__[name]) for name in _EXTRA if name in record.__dict__}
        return self._line(record.created, record.levelname, record.name, message, context, _error(record))

    def _say_lost(self, lines: int) -> bytes:
        message = f"{lines} lines of the log were lost: nobody read standard error"
        return self._line(time.time(), "warning", _log.name, message)

    def _line(
        self,
        at: float,
        level: str,
        logger: str,
        message: str,
        context: dict[str, str] | None = None,
        error: str | None = None,
    ) -> bytes:
        line = Line(at=_iso(at), level=level, logger=logger, message=message, context=context or {}, error=error)
        return encode(line, self._form)


def _error(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    try:
        return redact("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
    except Exception as exc:  # noqa: BLE001 - a stranger's exception
        return f"{type(record.exc_info[1]).__name__} (it cannot be shown: {type(exc).__name__})"


def _iso(at: float) -> str:
    """UTC with milliseconds."""
    whole, milliseconds = divmod(int(at * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"


def lost_lines() -> int:
    """Lines of this process's log that were lost."""
    return sum(handler.writer.lost for handler in logging.getLogger().handlers if isinstance(handler, LogHandler))


@contextlib.contextmanager
def logging_to(descriptor: int, form: Form, level: str) -> Iterator[None]:
    """All logging of this process goes to the descriptor inside the block, whatever was set up before; what fails
    where nobody can catch it and Python's warnings are logged too. At the end what waits is written, for a bounded
    time."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.unraisablehook, threading.excepthook
    handler = LogHandler(descriptor, form)
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _in_thread
    try:
        yield
    finally:
        handler.writer.close()
        logging.captureWarnings(False)
        root.handlers[:], _, sys.unraisablehook, threading.excepthook = before
        root.setLevel(before[1])


def _unraisable(unraisable: Any) -> None:
    # The object is not shown: its repr may be anything.
    _log.error("%s", unraisable.err_msg or "an exception was ignored", exc_info=unraisable.exc_value)


def _in_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        name = failed.thread.name if failed.thread is not None else "a thread"
        _log.error("%s failed", name, exc_info=failed.exc_value)
