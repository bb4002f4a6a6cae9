"""The log: who is in a line, what never is, and that nobody waits for its reader."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import logging
import os
import re
import select
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from actors._actor import Actor, open_actor
from actors._log_context import add_log_context, log_context
from actors.logs import LineWriter, LogHandler, hide, logging_to, lost_lines, redact
from engine.log_lines import LINE_MAX
from engine.redaction import HIDDEN

LIMIT = 60.0  # absolute, for a test that hangs
log = logging.getLogger("greenroom.test")


class Pipe:
    """A pipe whose reader is the test."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    def read_until(self, enough: Callable[[bytes], bool]) -> bytes:
        """What comes until it is enough."""
        data = b""
        while not enough(data):
            assert select.select([self.reader], [], [], LIMIT)[0], data[-1000:]
            data += os.read(self.reader, 65536)
        return data

    def read_all(self) -> bytes:
        """Close the writing end and read to the end."""
        os.close(self.writer)
        self.writer = -1
        data = b""
        while piece := os.read(self.reader, 65536):
            data += piece
        return data

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def without_waiting(work: Callable[[], object]) -> None:
    """Run what could hang."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()


def lost(lines: int) -> bytes:
    return b"lost %d\n" % lines


def losses(data: bytes) -> list[int]:
    """What was told of lost lines, in whole lines."""
    return [int(number) for number in re.findall(rb"^lost (\d+)\n", data, re.MULTILINE)]


def told(data: bytes) -> int:
    return sum(losses(data))


def wait_until_written() -> None:
    """The end of `logging_to` waits for a second at most, which a thread may be kept from its work."""
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, LogHandler)
    writer = handler.writer
    with writer._condition:
        assert writer._condition.wait_for(lambda: not writer._waiting and not writer._busy, LIMIT)


@contextlib.contextmanager
def logged(pipe: Pipe) -> Iterator[list[dict[str, Any]]]:
    """What is logged in the block, as records; filled at its end. Not more than a pipe holds: 64 KiB."""
    lines: list[dict[str, Any]] = []
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 65536)
    with logging_to(pipe.writer, "json", "info"):
        yield lines
        wait_until_written()
    lines += [json.loads(line) for line in pipe.read_all().splitlines()]


# ------------------------------------------------------------------ the writer
def test_lines_leave_in_order(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, lost)
    for number in range(100):
        writer.put(b"%d\n" % number)
    assert writer.close(LIMIT)
    assert pipe.read_all().split() == [b"%d" % number for number in range(100)]
    assert writer.lost == 0 and not writer._thread.is_alive()


@pytest.mark.parametrize("late", [0, 900], ids=["at once", "the thread has its turn late"])
def test_a_reader_that_does_not_read_costs_a_bounded_queue_and_no_time(pipe: Pipe, late: int) -> None:
    writer = LineWriter(pipe.writer, lost, most=10_000)
    line = b"x" * 99 + b"\n"

    def put() -> None:
        with writer._condition:
            for _ in range(late):
                writer.put(line)
        while late and writer._size:
            writer._thread.join(0.001)
        for _ in range(1000 - late):
            writer.put(line)

    without_waiting(put)
    # What is in the pipe, in the write under way and in the queue is kept.
    assert writer._size <= 10_000 and writer.lost > 700
    dropped = writer.lost
    # As soon as somebody reads, what was kept comes, and how much was not: at once, or in parts if the thread had its
    # turn late (what it took first was followed by more).
    data = pipe.read_until(lambda data: data.count(line) >= 1000 - dropped and told(data) >= dropped)
    assert data.replace(line, b"") == b"".join(lost(part) for part in losses(data))
    assert data.count(line) == 1000 - dropped and told(data) == dropped
    writer.put(b"again\n")
    assert writer.close(LIMIT)
    assert pipe.read_all() == b"again\n" and writer.lost == dropped


def test_closing_does_not_wait_for_a_reader(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, lost)
    for _ in range(100):
        writer.put(b"x" * 100 + b"\n")
    assert not writer.close(0.01)
    writer.put(b"too late\n")
    assert writer.lost == 1
    # What was kept is still written if somebody reads after all.
    data = pipe.read_until(lambda data: told(data) > 0)
    assert data == (b"x" * 100 + b"\n") * 100 + lost(1)
    assert writer.close(LIMIT)


def test_nobody_will_ever_read(pipe: Pipe) -> None:
    pipe.close_reader()
    writer = LineWriter(pipe.writer, lost)
    writer.put(b"a\n", patience=LIMIT)
    writer.put(b"b\n", patience=LIMIT)
    assert writer.close(LIMIT) and writer.lost == 2


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = LineWriter(pipe.writer, lost)
    text = b"".join(b"%06d\n" % number for number in range(10_000))
    writer.put(text)
    assert pipe.read_until(lambda data: len(data) >= len(text)) == text
    assert writer.close(LIMIT) and writer.lost == 0


def test_an_error_is_out_before_its_logger_goes_on(pipe: Pipe) -> None:
    os.set_blocking(pipe.reader, False)
    writer = LineWriter(pipe.writer, lost)
    for number in range(20):
        writer.put(b"%d\n" % number, patience=LIMIT)
        assert os.read(pipe.reader, 100) == b"%d\n" % number
    assert writer.close(LIMIT)


def test_an_error_waits_once_for_a_stuck_reader(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, lost)
    # A hundred waits would be far more than what is waited for here.
    without_waiting(lambda: [writer.put(b"x" * 5000 + b"\n", patience=LIMIT / 60) for _ in range(100)])
    pipe.close_reader()  # the thread ends
    assert writer.close(LIMIT)


# ------------------------------------------------------------------ what is in a line
def test_messages_levels_and_errors(pipe: Pipe) -> None:
    with logged(pipe) as lines:
        log.debug("not told")
        log.info("%s and %d", "one", 2)
        try:
            raise ValueError("it broke")
        except ValueError:
            log.exception("failed, ref %s", "err_1", extra={"ref": "err_1"})
    first, second = lines
    assert (first["level"], first["logger"], first["message"]) == ("info", "greenroom.test", "one and 2")
    assert set(first) == {"ts", "level", "logger", "message"}
    assert first["ts"].endswith("Z") and first["ts"][10] == "T" and len(first["ts"]) == 24
    assert (second["level"], second["ref"]) == ("error", "err_1")
    assert second["exc"].startswith("Traceback") and second["exc"].endswith("ValueError: it broke")


def test_secrets_are_in_no_part_of_a_line(pipe: Pipe) -> None:
    hide("the-key-of-test-logs")
    with logged(pipe) as lines:
        log.info("key %s", "the-key-of-test-logs")
        log.info("Authorization: Bearer another-secret")
        try:
            raise ValueError("no access with the-key-of-test-logs") from OSError("https://me:pw@host/?token=t0ken")
        except ValueError:
            log.exception("failed")
    text = json.dumps(lines, ensure_ascii=False)
    assert len(lines) == 3 and text.count(HIDDEN) >= 4
    assert not [secret for secret in ("the-key", "another-secret", "pw@", "t0ken") if secret in text]
    assert redact("the-key-of-test-logs") == HIDDEN


class Nasty(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_whatever_is_logged_becomes_a_line(pipe: Pipe) -> None:
    with logged(pipe) as lines:
        log.info("%d", "no number")
        log.info("%s", Nasty())
        log.info("no argument", "one")
        log.error("failed", exc_info=Nasty())
        log.error("no error", exc_info=True)
        log.info("\ud83d")
        log.info(None)
    assert [line["message"] for line in lines] == [
        "%d (its arguments cannot be shown)",
        "%s (its arguments cannot be shown)",
        "no argument (its arguments cannot be shown)",
        "failed",
        "no error",
        r"\ud83d",
        "None",
    ]
    assert "Nasty" in lines[3]["exc"]


def test_a_line_is_bounded(pipe: Pipe) -> None:
    received = b""

    def read() -> None:
        nonlocal received
        while piece := os.read(pipe.reader, 1 << 20):
            received += piece

    reader = threading.Thread(target=read)
    reader.start()
    with logging_to(pipe.writer, "text", "info"):
        log.error("%s", "m" * 10_000_000, exc_info=ValueError("e" * 10_000_000))
        wait_until_written()
    os.close(pipe.writer)
    pipe.writer = -1
    reader.join(LIMIT)
    assert 1000 < len(received) <= LINE_MAX
    assert received.count(b"ValueError: e") == 1


def test_what_nobody_can_catch_is_logged(pipe: Pipe) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    def fail() -> None:
        raise ValueError("in a thread")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what others left behind has said it before
    with logged(pipe) as lines, warnings.catch_warnings():
        warnings.simplefilter("always")
        Broken()
        gc.collect()
        thread = threading.Thread(target=fail, name="the thread")
        thread.start()
        thread.join()
        warnings.warn("careful", stacklevel=1)
    assert [line["level"] for line in lines] == ["error", "error", "warning"]
    assert lines[0]["exc"].endswith("in a finalizer")
    assert lines[1]["message"] == "the thread failed" and lines[1]["exc"].endswith("in a thread")
    assert "careful" in lines[2]["message"]


def test_everything_is_as_before_afterwards(pipe: Pipe) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.unraisablehook, threading.excepthook, warnings.showwarning
    with logging_to(pipe.writer, "text", "debug"):
        assert lost_lines() == 0 and root.handlers != before[0]
    assert (root.handlers[:], root.level, sys.unraisablehook, threading.excepthook, warnings.showwarning) == before


# ------------------------------------------------------------------ what a line is about
class Talker(Actor):
    """Logs in its own task, in one that it starts, and in a worker thread."""

    def __init__(self, child: tuple[str, Actor] | None = None) -> None:
        self._child = child

    async def on_start(self) -> None:
        log.info("start of %s", self.cell.name)
        await trio.to_thread.run_sync(lambda: log.info("thread of %s", self.cell.name))
        if self._child is not None:
            await self.cell.start_child(self._child[1], self._child[0])

    async def handle(self, message: Any) -> Any:
        if message == "now":
            return dict(log_context())
        return self.cell.defer(self._later)

    async def _later(self) -> Any:
        await trio.lowlevel.checkpoint()
        return dict(log_context())


async def test_a_line_names_the_session_and_run_of_its_task(pipe: Pipe) -> None:
    with trio.fail_after(LIMIT), logged(pipe) as lines:
        run = Talker()
        tree = Talker(("ses_1", Talker(("run_1", run))))
        async with open_actor(tree, "registry") as root:
            session = root._cell.child("ses_1")
            assert session is not None
            for ask in ("now", "later"):
                assert await root._ask(ask) == {}
                assert await session.ref._ask(ask) == {"session_id": "ses_1"}
                assert await session.child("run_1").ref._ask(ask) == {"session_id": "ses_1", "run_id": "run_1"}
        log.info("afterwards")
    named = {line["message"]: (line.get("session_id"), line.get("run_id")) for line in lines}
    assert named == {
        "start of registry": (None, None),
        "thread of registry": (None, None),
        "start of ses_1": ("ses_1", None),
        "thread of ses_1": ("ses_1", None),
        "start of run_1": ("ses_1", "run_1"),
        "thread of run_1": ("ses_1", "run_1"),
        "afterwards": (None, None),
    }


async def test_a_line_names_the_toolset_and_the_connection() -> None:
    with trio.fail_after(LIMIT):
        # A toolset's name is the configuration's; it may look like something else.
        async with open_actor(Talker(("run_tests", Talker())), "toolsets") as toolsets:
            assert await toolsets._cell.child("run_tests").ref._ask("now") == {"toolset": "run_tests"}
        async with open_actor(Talker(("conn-7", Talker())), "gateway") as gateway:
            assert await gateway._cell.child("conn-7").ref._ask("now") == {"connection": "conn-7"}


async def test_who_starts_an_actor_is_not_what_it_is_about() -> None:
    with trio.fail_after(LIMIT):
        async with open_actor(Talker(), "registry") as registry:
            add_log_context(connection="conn-1", run_id="run_of_another")
            session = await registry._cell.start_child(Talker(), "ses_2")
            run = await session._cell.start_child(Talker(), "run_2")
            assert await session._ask("now") == {"session_id": "ses_2"}
            assert await run._ask("now") == {"session_id": "ses_2", "run_id": "run_2"}


async def test_what_a_task_adds_is_its_own() -> None:
    async def work(name: str) -> None:
        add_log_context(run_id=name)
        await trio.lowlevel.checkpoint()
        assert log_context() == {"run_id": name}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "run_1")
        nursery.start_soon(work, "run_2")
    assert log_context() == {}
