"""Cancelling something at every one of its steps, found by counting them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


@contextlib.contextmanager
def cancelled_at(scope: trio.CancelScope, step: int) -> Iterator[None]:
    """Cancel the scope before the n-th step that the present task makes in the block, counted from 1."""
    instrument = _CancelAt(scope, step)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


class _CancelAt(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if not self._left:
                self._scope.cancel(reason="the test's step has come")
