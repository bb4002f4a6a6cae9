"""A bounded queue of envelopes for one actor, closed from outside.

Not a trio memory channel: the actor's stop has to take out what nobody will handle any more, with the senders
that still wait for room, and ten thousand idle actors should cost little. An empty mailbox holds no container
(100 bytes against a channel's 1,800), and an envelope for an actor that waits is handed over without a queue.
"""

from __future__ import annotations

from collections import deque

import trio

from actors._ask import Envelope


class _Sender:
    """A task that waits for room."""

    __slots__ = ("accepted", "envelope", "task")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.task = trio.lowlevel.current_task()
        self.accepted = False


class Mailbox:
    """First come, first served, also among the senders that wait. One task receives."""

    __slots__ = ("_bound", "_handed", "_queue", "_receiver", "_senders", "closed")

    def __init__(self, bound: int) -> None:
        assert bound >= 1, "a mailbox without room would make every tell wait"
        self.closed = False
        self._bound = bound
        self._queue: deque[Envelope] | None = None  # never empty
        self._senders: dict[_Sender, None] | None = None  # in order of arrival; only while the queue is full
        self._receiver: trio.lowlevel.Task | None = None  # only while the queue is empty
        self._handed: Envelope | None = None  # on its way to the receiver, which has been woken

    @property
    def waiting(self) -> int:
        return len(self._queue or ())

    @property
    def waiting_senders(self) -> int:
        return len(self._senders or ())

    def put_nowait(self, envelope: Envelope) -> bool:
        """False when there is no room. Not for a closed mailbox."""
        assert not self.closed
        if self._receiver is not None:
            self._handed = envelope
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None
        elif self._queue is None:
            self._queue = deque((envelope,))
        elif len(self._queue) < self._bound:
            self._queue.append(envelope)
        else:
            return False
        return True

    async def put(self, envelope: Envelope) -> bool:
        """Wait for room; False: it was closed first. Cancelled: nothing was put."""
        if self.put_nowait(envelope):
            return True
        senders = self._senders = self._senders if self._senders is not None else {}
        sender = _Sender(envelope)
        senders[sender] = None

        def leave(_: object) -> trio.lowlevel.Abort:
            del senders[sender]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        return sender.accepted

    def get_nowait(self) -> Envelope | None:
        """The next envelope; None when it is empty."""
        queue = self._queue
        if queue is None:
            return None
        envelope = queue.popleft()
        if self._senders:
            sender = next(iter(self._senders))
            del self._senders[sender]
            queue.append(sender.envelope)
            sender.accepted = True
            trio.lowlevel.reschedule(sender.task)
        elif not queue:
            self._queue = None
        return envelope

    async def get(self) -> Envelope | None:
        """Wait for the next envelope; None: it was closed. Cancelled: nothing was taken."""
        envelope = self.get_nowait()
        if envelope is not None or self.closed:
            return envelope
        self._receiver = trio.lowlevel.current_task()

        def leave(_: object) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        envelope, self._handed = self._handed, None
        return envelope

    def close(self) -> list[Envelope]:
        """Take nothing more in, wake everyone, and hand out what nobody will receive. Idempotent."""
        self.closed = True
        left = list(self._queue or ())
        for sender in self._senders or ():
            trio.lowlevel.reschedule(sender.task)
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
        self._queue = self._senders = self._receiver = None
        return left
