"""Tool servers over pipes: the official client's streams on a process of the guard's.

The official transport holds a whole line, and takes a time that is quadratic in its length; this one reads with the
bounded scanner, and starts no process: that is the guard's, so that none survives.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_messages import made, message_of
from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.reading import NoMessage, refusal_of
from engine.mcp.scanner import HEAD_BYTES, Endless, Event, Line, LineScanner, Rejected

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage

_log = logging.getLogger("greenroom.mcp")

# Of what is read at a time: with more lines than this it is looked at in slices, some 2 ms each at the worst.
LINES_AT_ONCE: Final = 64
SLICE_BYTES: Final = KIB
# Written at a time: a server that takes even less of a long message in all the time of a call takes nothing.
PIECE_BYTES: Final = 16 * KIB
# The end of what a server wrote to its standard error: a traceback and some lines of log.
STDERR_BYTES: Final = 16 * KIB


class Stream(Protocol):
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_all(self, data: bytes) -> None: ...
    async def aclose(self) -> None: ...


class Process(Protocol):
    """What is used of actors._guard.Process."""

    @property
    def stdin(self) -> Stream | None: ...
    @property
    def stderr(self) -> Stream | None: ...
    async def read(self) -> bytes: ...


class Intake:
    """What a server takes. `since` (in trio's time) it has taken nothing of what is being written to it; infinite if
    nothing is."""

    def __init__(self) -> None:
        self.since = math.inf


class Tail:
    """The last bytes of a stream."""

    def __init__(self, most: int = STDERR_BYTES) -> None:
        self._most = most
        self._held = bytearray()
        self.size = 0  # of all that came
        self.ended = trio.Event()  # nothing comes any more

    def feed(self, data: bytes | bytearray) -> None:
        self.size += len(data)
        self._held += data[-self._most :]
        if len(self._held) > self._most:
            del self._held[: -self._most]

    def text(self) -> str:
        """As lines of text, the first of which may be the rest of one."""
        return self._held.decode(errors="replace").strip()


@contextlib.asynccontextmanager
async def open_stdio(
    process: Process,
    inbox: Inbox,
    stderr: Tail,
    limits: Limits = DEFAULT,
    intake: Intake | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> AsyncIterator[tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]]:
    """The streams that mcp.ClientSession takes. The process and the inbox stay their owners': they end after this.

    The read stream ends when the server's output does, or when its input is closed, or with a message that has no end,
    of which `on_lost` is told. `stderr` is fed and `intake` kept
    all the time. At the end of the block its standard input is closed, which asks a server to end.
    """
    # Not the public ones: these carry the sender's context to the receiver, as the official transports do.
    from mcp.shared._context_streams import create_context_streams

    assert process.stdin is not None
    arrived, reading = create_context_streams[Any](0)
    writing, leaving = create_context_streams[Any](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_receive, process, inbox, arrived, LineScanner(limits), on_lost)
        nursery.start_soon(_send, process.stdin, leaving, arrived, intake or Intake())
        if process.stderr is not None:
            nursery.start_soon(_keep, process.stderr, stderr)
        try:
            yield reading, writing
        finally:
            for stream in (reading, writing, arrived, leaving):
                stream.close()
            nursery.cancel_scope.cancel(reason="the connection to the tool server ends")
            await trio.aclose_forcefully(process.stdin)  # type: ignore[arg-type]


async def _receive(
    process: Process, inbox: Inbox, arrived: Any, scanner: LineScanner, on_lost: Callable[[str], None] | None
) -> None:
    import anyio

    arrival = inbox.arrival()

    async def take(events: list[Event]) -> None:
        for event in events:
            data = await arrival.take(event)
            try:
                if data is not None:
                    assert isinstance(event, Line)
                    await inbox.deliver(arrived, message_of(data), event.cuts)
                elif isinstance(event, Rejected) and (refusal := refusal_of(event)) is not None:
                    await inbox.deliver(arrived, made(refusal))
            except NoMessage as exc:  # one of them is no reason to give up the others
                inbox.on_noise(f"a message {exc}")
                assert data is not None and isinstance(event, Line)
                await inbox.drop(event.cuts)
                if (refusal := refusal_of(Rejected(str(exc), data[:HEAD_BYTES]))) is not None:
                    await inbox.deliver(arrived, made(refusal))

    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody reads any more
        try:
            while data := await process.read():
                lines = data.count(b"\n")
                if lines > LINES_AT_ONCE:
                    # Many short lines: the loop turns in between, and blank ones count, too.
                    await inbox.pace(count=lines // LINES_AT_ONCE)
                    for begin in range(0, len(data), SLICE_BYTES):
                        await take(scanner.feed(data[begin : begin + SLICE_BYTES]))
                        await trio.lowlevel.checkpoint()
                else:
                    await take(scanner.feed(data))
            await take(scanner.finish())
        except Endless as exc:
            if on_lost is not None:
                on_lost(str(exc))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("the output of a tool server broke off", exc_info=True)
        finally:
            arrived.close()
            await arrival.aclose()


async def _send(stdin: Stream, leaving: Any, arrived: Any, intake: Intake) -> None:
    try:
        async for message in leaving:
            data = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            # All that is held of a call while the server does not take it, or until the next message.
            leaving.last_context = message = None
            for begin in range(0, len(data), PIECE_BYTES):
                intake.since = trio.current_time()
                await stdin.send_all(data[begin : begin + PIECE_BYTES])
            intake.since = math.inf
            data = b""
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # The client is to see the end now, and not wait for answers to what was not sent.
        arrived.close()


async def _keep(stream: Stream, tail: Tail) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await stream.receive_some(STDERR_BYTES):
            tail.feed(data)
    tail.ended.set()
