"""Calls that wait for a person: asked in the terminal while the answer goes on, or answered as the command says."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import trio

from actors.cli.forms import fill, form_of
from actors.cli.lines import Lines
from actors.cli.output import line, note
from actors.client import Client, ConnectionLost, NoDaemon, Push, RemoteError

How = Literal["ask", "allow", "deny"]
_DECISIONS: Final = {
    "y": "allow", "yes": "allow", "a": "allow_always", "always": "allow_always",
    "n": "deny", "no": "deny", "": "deny", "c": "cancel", "cancel": "cancel",
}  # fmt: skip
_CALL_COLUMNS: Final = 2000  # of what is to be allowed all has to be seen that fits a screen
_REFUSED: Final = "this client cannot ask (see --approve)"


class Approvals:
    """Of one run. `lines` is the terminal, needed to ask. A question that another client answers is withdrawn."""

    def __init__(self, client: Client, how: How, lines: Lines | None = None) -> None:
        self._client = client
        self._how = how
        self._lines = lines
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()  # (run id, what was asked)
        self._known: set[str] = set()
        self._news = trio.Event()
        self._asked: tuple[str, trio.CancelScope] | None = None

    def take(self, push: Push) -> None:
        """Look at what a watch brings."""
        requests = push.params.get("pending_approvals", ())
        for event in push.events:
            if event["type"] == "approval.requested":
                requests = (*requests, event)
            elif event["type"] == "approval.resolved":
                self._withdraw(event)
            elif event["type"] == "turn.started":
                self._known.clear()  # a model may give a later call the same id
        for request in requests:
            if request["call_id"] not in self._known:
                self._known.add(request["call_id"])
                self._waiting.append((push.params["run_id"], request))
                self._news.set()

    def _withdraw(self, event: dict[str, Any]) -> None:
        call_id = event["call_id"]
        self._waiting = deque(item for item in self._waiting if item[1]["call_id"] != call_id)
        if self._asked is not None and self._asked[0] == call_id:
            self._asked[1].cancel(reason="it was decided elsewhere")
        if event["by"] != "client":
            note(f"[{event['decision']}, by {event['by']}]")

    async def beside(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work and answer what is asked meanwhile. Raises what the work raises."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer)
            try:
                await work()
            except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
                failure = exc
            nursery.cancel_scope.cancel(reason="the work is done")
        if failure is not None:
            raise failure

    async def _answer(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._waiting:
                run_id, request = self._waiting.popleft()
                answer = await (self._fill(request) if "parent_call_id" in request else self._decide(request))
                if answer is not None:
                    await self._reply(run_id, request["call_id"], answer)

    async def _fill(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a tool's question; None if it was answered elsewhere."""
        asked = request["input"]
        note(f"[{line(request['tool'], _CALL_COLUMNS)} asks: {line(asked['message'], _CALL_COLUMNS)}]")
        if self._how != "ask" or self._lines is None:
            note("[declined: nobody is there to answer]")
            return {"decision": "deny"}
        form = form_of(asked["schema"])
        with trio.CancelScope() as scope:
            self._asked = (request["call_id"], scope)
            while True:
                note("answer? [y]es, [N]o, [c]ancel the run:")
                given = _DECISIONS.get(((await self._lines.read()) or "").strip().lower())
                if given in ("deny", "cancel"):
                    return {"decision": given}
                if given is not None:
                    content = await fill(self._lines, form, asked["schema"])
                    return {"decision": "deny"} if content is None else {"decision": "allow", "content": content}
        self._asked = None
        note("[another client has answered, or the call has ended]")
        return None

    async def _decide(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """None if it was decided elsewhere."""
        what = line(f"{request['tool']} {json.dumps(request['input'], ensure_ascii=False)}", _CALL_COLUMNS)
        note(f"[asks for {what}: {request.get('question', 'it is not allowed by a rule')}]")
        if self._how != "ask" or self._lines is None:
            note(f"[{self._how}, by --approve]")
            return {"decision": "allow"} if self._how == "allow" else {"decision": "deny", "reason": _REFUSED}
        with trio.CancelScope() as scope:
            self._asked = (request["call_id"], scope)
            while True:
                note("allow? [y]es, [a]lways in this session, [N]o, [c]ancel the run:")
                given = await self._lines.read()
                if given is None or given.strip().lower() in _DECISIONS:
                    return {"decision": _DECISIONS["" if given is None else given.strip().lower()]}
        self._asked = None
        note("[another client has answered]")
        return None

    async def _reply(self, run_id: str, call_id: str, answer: dict[str, Any]) -> None:
        try:
            await self._client.request("approval.reply", {"run_id": run_id, "call_id": call_id, **answer})
        except RemoteError as exc:
            note(f"[{exc.message}]")
        except (ConnectionLost, NoDaemon):
            self._known.discard(call_id)  # it is told again by the next connection's watch
