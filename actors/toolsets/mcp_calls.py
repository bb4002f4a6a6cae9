"""The calls that a tool server works on, and what it asks of their sessions: questions to a person, and folders.

Over HTTP a question comes in the answer of the call that it belongs to. Over pipes nothing says so: it is taken for one
of the call that began last if all calls are of one session, and declined if not: a question is never shown to a session
that it may not be of.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import attrs
import orjson
import trio

from actors.toolsets.mcp_client import Refusal
from engine.limits import DEFAULT, Limits
from engine.mcp.forms import BadForm, parse_form
from engine.tools.spec import Answer, Question, ToolContext

# Folders that a server is told of: of the sessions that used it last.
ROOTS_MOST: Final = 16
# A server that has asked for the folders before has this long to ask again when there is a new one, before a call
# there is made.
ROOTS_SECONDS: Final = 1.0

_DECLINED: Final[dict[str, Any]] = {"action": "decline"}


@attrs.frozen(slots=True, eq=False)
class _Call:
    context: ToolContext
    nursery: trio.Nursery  # ends with the call


_current: contextvars.ContextVar[_Call] = contextvars.ContextVar("call of a tool server")


class Questions:
    """Of one connection."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self._limits = limits
        self._calls: list[_Call] = []

    @contextlib.contextmanager
    def call(self, context: ToolContext, nursery: trio.Nursery) -> Iterator[None]:
        """A call is at work in the block; the nursery's tasks ask what it asks, and are cancelled with the block."""
        call = _Call(context, nursery)
        self._calls.append(call)
        token = _current.set(call)
        try:
            yield
        finally:
            _current.reset(token)
            self._calls.remove(call)
            nursery.cancel_scope.cancel(reason="the call has ended")

    async def elicit(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `elicitation/create`. Raises Refusal."""
        if params.get("mode", "form") != "form":
            return _DECLINED  # to open a page of the server's choice is not asked of anybody
        message, schema = params.get("message"), params.get("requestedSchema")
        if not isinstance(message, str):
            raise Refusal("the question has no message, or is far too long")
        try:
            size = len(orjson.dumps([message, schema]))
        except TypeError:  # a number beyond 64 bits, half a surrogate pair
            raise Refusal("the question has a value that cannot be sent on") from None
        if size > self._limits.tool_question_bytes:
            raise Refusal(f"the question has more than {self._limits.tool_question_bytes:,} bytes")
        try:
            form = parse_form(schema)
        except BadForm as exc:
            raise Refusal(str(exc)) from None
        call = self._asking()
        if call is None:
            return _DECLINED
        answer = await _asked(call, Question(message=message, schema=schema, mistakes=form.mistakes))
        return {"action": answer.action} | ({"content": answer.content} if answer.action == "accept" else {})

    def _asking(self) -> _Call | None:
        call = _current.get(None)
        if call is None or call not in self._calls:
            sessions = {call.context.session_id for call in self._calls}
            call = self._calls[-1] if len(sessions) == 1 else None
        return None if call is None or call.context.ask is None else call


async def _asked(call: _Call, question: Question) -> Answer:
    """In a task of the call's: it ends with the call, and the call's time stands still."""
    assert call.context.ask is not None
    ask = call.context.ask
    answer = Answer(action="cancel")
    ended = trio.Event()
    scope = trio.CancelScope()

    async def put() -> None:
        nonlocal answer
        try:
            with scope:
                answer = await ask(question)
        finally:
            ended.set()

    call.nursery.start_soon(put)
    try:
        await ended.wait()
    finally:
        scope.cancel(reason="the server does not wait for the answer any more")
    return answer


class Roots:
    """The folders that a server is told of. `fixed` ones, or those of the sessions that use it."""

    def __init__(self, fixed: tuple[str, ...] | None = None) -> None:
        self._fixed = fixed
        self._folders: OrderedDict[str, None] = OrderedDict()  # the last used one last
        self._wanted = False  # the server looks at them
        self._follows = True  # it has asked again whenever it was told of a change
        self._asked = trio.Event()

    @property
    def offered(self) -> bool:
        return self._fixed is None or bool(self._fixed)

    def use(self, folder: str) -> bool:
        """A session's call is about to be made. Whether the server is to be told: there is a new folder."""
        new = folder not in self._folders
        self._folders[folder] = None
        self._folders.move_to_end(folder)
        if len(self._folders) > ROOTS_MOST:
            self._folders.popitem(last=False)
        if new and self._fixed is None:
            self._asked = trio.Event()
            return True
        return False

    async def known(self) -> None:
        """Until the server has asked for them since the last change, if it is one that asks."""
        if self._wanted and self._follows:
            with trio.move_on_after(ROOTS_SECONDS) as scope:
                await self._asked.wait()
            self._follows = not scope.cancelled_caught

    async def list(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `roots/list`."""
        self._wanted = True
        self._asked.set()
        folders = self._folders if self._fixed is None else self._fixed
        paths = [PurePosixPath(folder) for folder in folders]
        return {"roots": [{"uri": path.as_uri(), "name": _label(path.name) or "/"} for path in paths]}


def _label(name: str) -> str:
    return name.encode(errors="replace").decode()
