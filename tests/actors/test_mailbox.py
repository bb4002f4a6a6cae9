"""The mailbox alone: order, bound, waiting senders, close."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors._ask import Envelope
from actors._mailbox import Mailbox


def note(text: str) -> Envelope:
    return Envelope(text, None)


async def test_a_mailbox_keeps_the_order_and_its_bound() -> None:
    mailbox = Mailbox(2)
    assert mailbox.put_nowait(note("a"))
    assert mailbox.put_nowait(note("b"))
    assert not mailbox.put_nowait(note("c"))
    assert mailbox.waiting == 2
    assert [(await mailbox.get()).message, (await mailbox.get()).message] == ["a", "b"]  # type: ignore[union-attr]
    assert mailbox.get_nowait() is None


async def test_senders_who_wait_get_in_by_their_order(nursery: trio.Nursery) -> None:
    mailbox = Mailbox(1)
    assert mailbox.put_nowait(note("0"))
    for name in ("1", "2", "3"):
        nursery.start_soon(mailbox.put, note(name))
        await trio.testing.wait_all_tasks_blocked()
    assert (mailbox.waiting, mailbox.waiting_senders) == (1, 3)
    taken = []
    for _ in range(4):
        envelope = mailbox.get_nowait()
        assert envelope is not None
        taken.append(envelope.message)
        # A newcomer does not overtake those who wait.
        assert mailbox.put_nowait(note("late")) is (taken[-1] == "3")
    assert taken == ["0", "1", "2", "3"]


async def test_an_envelope_handed_to_a_waiting_receiver_stays_before_the_next(nursery: trio.Nursery) -> None:
    mailbox = Mailbox(4)
    got: list[str] = []

    async def receive() -> None:
        for _ in range(2):
            envelope = await mailbox.get()
            assert envelope is not None
            got.append(envelope.message)

    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    mailbox.put_nowait(note("first"))
    mailbox.put_nowait(note("second"))
    await trio.testing.wait_all_tasks_blocked()
    assert got == ["first", "second"]


async def test_close_hands_out_what_waits_and_wakes_everyone(nursery: trio.Nursery) -> None:
    full, empty = Mailbox(1), Mailbox(1)
    answers: list[object] = []

    async def send() -> None:
        answers.append(await full.put(note("refused")))

    async def receive() -> None:
        answers.append(await empty.get())

    assert full.put_nowait(note("accepted"))
    nursery.start_soon(send)
    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    assert [envelope.message for envelope in full.close()] == ["accepted"]
    assert empty.close() == []
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(answers, key=str) == [False, None]
    assert full.close() == []
    assert await full.get() is None


async def test_a_receiver_that_was_handed_an_envelope_gets_it_although_the_mailbox_closes(
    nursery: trio.Nursery,
) -> None:
    mailbox = Mailbox(1)
    got: list[object] = []

    async def receive() -> None:
        envelope = await mailbox.get()
        got.append(envelope.message if envelope else None)

    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    mailbox.put_nowait(note("on its way"))
    assert mailbox.close() == []
    await trio.testing.wait_all_tasks_blocked()
    assert got == ["on its way"]


async def test_a_cancelled_sender_put_nothing_and_a_cancelled_receiver_took_nothing(nursery: trio.Nursery) -> None:
    mailbox = Mailbox(1)
    with trio.CancelScope() as receiving:
        nursery.start_soon(_cancel, receiving)
        await mailbox.get()
    assert receiving.cancelled_caught
    assert mailbox.put_nowait(note("kept"))
    with trio.CancelScope() as sending:
        nursery.start_soon(_cancel, sending)
        await mailbox.put(note("lost"))
    assert sending.cancelled_caught
    assert mailbox.waiting_senders == 0
    assert [envelope.message for envelope in mailbox.close()] == ["kept"]


async def _cancel(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_sender_let_in_before_the_close_is_told_so_and_its_envelope_handed_out(nursery: trio.Nursery) -> None:
    mailbox = Mailbox(1)
    answers: list[bool] = []

    async def send() -> None:
        answers.append(await mailbox.put(note("second")))

    mailbox.put_nowait(note("first"))
    nursery.start_soon(send)
    await trio.testing.wait_all_tasks_blocked()
    assert mailbox.get_nowait() is not None
    assert [envelope.message for envelope in mailbox.close()] == ["second"]
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [True]


def test_a_mailbox_without_room_is_refused() -> None:
    with pytest.raises(AssertionError, match="without room"):
        Mailbox(0)
