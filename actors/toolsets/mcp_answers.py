"""What a response of a tool server over HTTP brings: a message, or a stream of them that ends with the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from actors.toolsets.mcp_inbox import Inbox
from actors.toolsets.mcp_socket import Answer, Broken
from engine.limits import DEFAULT, KIB, Limits
from engine.mcp.scanner import Document, Rejected
from engine.mcp.sse import BrokenEvents, EventEnd, EventScanner

# Seconds before a stream that broke off is asked for again: the server's, within bounds, or the first.
RESUME_FIRST: Final = 1.0
RESUME_LEAST: Final = 0.1
RESUME_LONGEST: Final = 30.0
# So many lines in what arrived at once are a flood: it is read in parts, between which others have their turn. A part
# takes some milliseconds at worst.
_FLOOD_LINES: Final = 256
_FLOOD_BYTES: Final = 8 * KIB
# When an answer has come its stream should end; a socket that it ended on can be used again.
_LINGER: Final = 0.05


class Failed(Exception):
    """A request has no answer; why, for a person."""


class Reader:
    """The answer to request `wanted` (None: there is none) in the responses that bring it, one after the other."""

    def __init__(
        self, wanted: Any, deliver: Callable[[Any], Awaitable[None]], inbox: Inbox, limits: Limits = DEFAULT
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
        message = await self.read_document(answer)
        if not self._is_answer(message):
            raise Failed("the server answered something else than was asked")
        await self._deliver(message)

    async def read_document(self, answer: Answer) -> Any:
        """The message that a body is. Raises Failed, Broken."""
        document = Document(self._limits)
        arrival = self._inbox.arrival()
        try:
            more = True
            while more:
                data = await self._receive(answer)
                more = bool(data)
                for event in document.feed(data) if more else document.finish():
                    if isinstance(event, Rejected):
                        raise Failed(f"the message {event.reason}")
                    if (line := await arrival.take(event)) is not None:
                        return _message(line)
            raise Failed("there is no message")
        finally:
            await arrival.aclose()

    async def events(self, answer: Answer) -> None:
        """A body of events, to the answer or its end; `why` says how it ended. Raises Failed for what cannot be the
        answer but ends all the same."""
        scanner = EventScanner(self._limits)
        arrival = self._inbox.arrival()
        self.why = "the stream ended without an answer"
        try:
            while data := await self._receive(answer):
                step = len(data) if data.count(b"\n") < _FLOOD_LINES else _FLOOD_BYTES
                for begin in range(0, len(data), step):
                    for event in scanner.feed(data[begin : begin + step]):
                        if isinstance(event, EventEnd):
                            self._end_event(event)
                        elif isinstance(event, Rejected) and self._wanted is not None:
                            raise Failed(f"the message {event.reason}")
                        elif (line := await arrival.take(event)) is not None:
                            await self._take(line)
                    await trio.lowlevel.checkpoint()
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

    async def _take(self, line: bytes) -> None:
        import mcp_types as types

        try:
            message = _message(line)
        except Failed as exc:
            if self._wanted is not None:
                raise
            self._inbox.on_noise(str(exc))
            return
        self.count += 1
        if not isinstance(message, types.JSONRPCResponse | types.JSONRPCError):
            await self._deliver(message)
        elif self._is_answer(message) and not self.answered:
            self.answered = True
            await self._deliver(message)
        else:
            self._inbox.on_noise("an answer to nothing that was asked there")

    def _is_answer(self, message: Any) -> bool:
        """Of an error the id may be absent, if the server could not read ours."""
        import mcp_types as types

        if self._wanted is None or not isinstance(message, types.JSONRPCResponse | types.JSONRPCError):
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
    from mcp_types import jsonrpc_message_adapter

    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError as exc:  # pydantic's text repeats the input
        raise Failed(f"the message is not of the protocol: {str(exc).splitlines()[0]}") from None
