"""Work that a signal ends, for commands that leave nothing behind: Ctrl-C, SIGTERM, the end of the terminal."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def until_signalled(work: Callable[[], Awaitable[T]], otherwise: T) -> T:
    """What the work returns; `otherwise` if a signal ended it, by cancelling it. What the work raises comes out as it
    is, also from inside its nurseries if it is the only one."""
    result, failure = otherwise, None
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals,
        trio.CancelScope() as leaving,
    ):
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                await anext(signals)
                leaving.cancel(reason="a signal")

            nursery.start_soon(obey)
            try:
                result = await work()
            except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                failure = exc
            nursery.cancel_scope.cancel(reason="done")
    while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if failure is not None:
        raise failure
    return result
