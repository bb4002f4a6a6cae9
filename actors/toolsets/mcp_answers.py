"""What a response of a tool server over HTTP brings: a message, or a stream of them that ends with the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from actors.toolsets.mcp_inbox import Arrival, Inbox
from actors.toolsets.mcp_messages import message_of
from actors.toolsets.mcp_socket import Answer, Broken
from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.reading import NoMessage
from engine.mcp.scanner import NO_CUTS, Cuts, Document, Event, Line, Rejected
from engine.mcp.sse import BrokenEvents, EventEnd, EventScanner, line_ends

# Seconds before a stream that broke off is asked for again: the server's, within bounds, or the first.
RESUME_FIRST: Final = 1.0
RESUME_LEAST: Final = 0.1
RESUME_LONGEST: Final = 30.0
# More lines than this in what arrived at once are a flood, whatever they are (comments and empty events among them): it
# is taken at the pace of messages, in slices of some 2 ms at the worst, between which others have their turn.
_FLOOD_LINES: Final = 64
_FLOOD_BYTES: Final = 4 * KIB
# When an answer has come its stream should end; a socket that it ended on can be used again.
_LINGER: Final = 0.05


class Failed(Exception):
    """A request has no answer; why, for a person."""


class Reader:
    """The answer to request `wanted` (None: there is none) in the responses that bring it, one after the other."""

    def __init__(
        self, wanted: Any, deliver: Callable[[Any, Cuts], Awaitable[None]], inbox: Inbox, limits: Limits = DEFAULT
    ) -> None:
        self._wanted = wanted
        self._deliver = deliver
        self._inbox = inbox
        self._limits = limits
        self.answered = False
        self.count = 0  # messages
        self.last_id: str | None = None
        self.wait = RESUME_FIRST
        self.why = "the stream ended without an answer"

    async def document(self, answer: Answer) -> None:
        """A body of JSON that is the answer. Raises Failed, Broken."""
        document = Document(self._limits)
        arrival = self._inbox.arrival()
        try:
            while not self.answered:
                data = await self._receive(answer)
                for event in document.feed(data) if data else document.finish():
                    await self._event(event, arrival)
                if not data:
                    break
        finally:
            await arrival.aclose()
        if not self.answered:
            why = "the server answered something else than was asked" if self.count else "there is no message"
            raise Failed(why)

    async def events(self, answer: Answer) -> None:
        """A body of events, to the answer or its end; `why` says how it ended. Raises Failed for what cannot be the
        answer but ends all the same."""
        scanner = EventScanner(self._limits)
        arrival = self._inbox.arrival()
        self.why = "the stream ended without an answer"
        size = 0  # since the last event
        try:
            while data := await self._receive(answer):
                lines = line_ends(data)
                step = len(data)
                if lines > _FLOOD_LINES:
                    step = _FLOOD_BYTES
                    await self._inbox.pace(count=lines // _FLOOD_LINES)
                for begin in range(0, len(data), step):
                    for event in scanner.feed(data[begin : begin + step]):
                        if isinstance(event, EventEnd):
                            self._end_event(event)
                            size = 0
                        else:
                            await self._event(event, arrival)
                    await trio.lowlevel.checkpoint()
                size += len(data)
                if self._wanted is None and size > self._limits.mcp_unasked_bytes:
                    self.why = f"one of its messages has more than {self._limits.mcp_unasked_bytes:,} bytes"
                    return  # it may have been comments: the stream is asked for again
                if self.answered:
                    with trio.move_on_after(_LINGER):
                        await answer.receive()
                    return
        except BrokenEvents as exc:
            raise Failed(str(exc)) from None
        except Broken as exc:
            self.why = str(exc)
        finally:
            await arrival.aclose()

    async def _receive(self, answer: Answer) -> bytes:
        data = await answer.receive()
        if self._wanted is not None and answer.size > self._limits.mcp_answer_bytes:
            raise Failed(f"the answer has more than {self._limits.mcp_answer_bytes:,} bytes")
        return data

    async def _event(self, event: Event, arrival: Arrival) -> None:
        """Raises Failed for what a request's answer cannot follow."""
        if isinstance(event, Rejected) and self._wanted is not None and b'"method"' not in event.head:
            raise Failed(f"the message {event.reason}")
        line = await arrival.take(event)
        if line is None:
            return
        try:
            message = _message(line)
        except Failed as exc:
            await self._drop(event, str(exc))
            if self._wanted is not None:
                raise
            return
        self.count += 1
        if not self._is_answer(message):
            await self._deliver(message, NO_CUTS)
        elif self._is_awaited(message):
            self.answered = True
            assert isinstance(event, Line)
            await self._deliver(message, event.cuts)
        else:
            await self._drop(event, "an answer to nothing that was asked there")

    async def _drop(self, event: Event, why: str) -> None:
        self._inbox.on_noise(why)
        if isinstance(event, Line):
            await self._inbox.drop(event.cuts)

    @staticmethod
    def _is_answer(message: Any) -> bool:
        import mcp_types as types

        return isinstance(message, types.JSONRPCResponse | types.JSONRPCError)

    def _is_awaited(self, message: Any) -> bool:
        """Of an error the id may be absent, if the server could not read ours."""
        if self._wanted is None or self.answered:
            return False
        if message.id is None or str(message.id) == str(self._wanted):
            message.id = self._wanted
            return True
        return False

    def _end_event(self, event: EventEnd) -> None:
        if event.id is not None:
            self.last_id = event.id or None
        if event.retry is not None:
            self.wait = min(max(event.retry, RESUME_LEAST), RESUME_LONGEST)


def _message(line: bytes) -> Any:
    """Raises Failed."""
    try:
        return message_of(line)
    except NoMessage as exc:
        raise Failed(f"the message is not of the protocol: it {exc}") from None
