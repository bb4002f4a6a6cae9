"""The time of one tool call, which stands still while a person is asked."""

from __future__ import annotations

import math

import attrs
import trio

from engine.tools.spec import Answer, Question, ToolContext


class CallTime:
    """`scope` has the call's deadline. What is below it asks with the `context` that `wrap` gives."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._asked = 0  # questions that wait for an answer
        self._left = math.inf  # seconds, while one does

    def wrap(self, context: ToolContext) -> ToolContext:
        """The call's context, whose questions stop the time."""
        ask = context.ask
        if ask is None:
            return context

        async def timed(question: Question) -> Answer:
            if not self._asked:
                self._left = self._scope.deadline - trio.current_time()
                self._scope.deadline = math.inf
            self._asked += 1
            try:
                return await ask(question)
            finally:
                self._asked -= 1
                if not self._asked:
                    self._scope.deadline = trio.current_time() + self._left

        return attrs.evolve(context, ask=timed)
