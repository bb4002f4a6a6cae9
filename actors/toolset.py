"""Toolset actors: one per configured toolset, with its state, its calls and the bound of every result.

A call is an ask that is answered from a task of its own, so calls run concurrently; a caller that is cancelled
returns when the work has ended. Whatever a tool does, a call gives a ToolResult: mistakes in the input, a timeout
and exceptions become results with `is_error`, which the model reads. What the tools are is behind `Toolset`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._call_time import CallTime
from actors._log_context import add_log_context
from actors._spool import ToolsetSpool
from actors._tally import Tally
from actors._toolset_life import Preview, Restart, Toolset, ToolsetLife
from engine import codec
from engine.errors import CallerError, EngineError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools.cut import HeadTail, cut_text, utf8
from engine.tools.explain import explain
from engine.tools.spec import Offer, ToolContext, ToolLine, ToolResult, ToolsetStatus, ToolSpec
from engine.transcript.records import Failure

_log = logging.getLogger("greenroom.toolset")
T = TypeVar("T")
_TITLE_CHARACTERS: Final = 200
# Of a long result as much is cut between two looks at the loop: a tenth of a millisecond.
_PIECE_CHARACTERS: Final = 64 * KIB
# Small file work for others than tools at the same time; two cores and one disk serve no more.
FILE_THREADS: Final = 8


@runtime_checkable
class KeepsForSessions(Protocol):
    """A toolset that keeps something for a session from call to call, such as background jobs."""

    async def end_session(self, session_id: str) -> None:
        """End it and forget it. Nothing is left when this returns, cancelled or not."""


@runtime_checkable
class Offers(Protocol):
    """A toolset that has more than tools."""

    @property
    def offer(self) -> Offer: ...


@runtime_checkable
class Renewable(Protocol):
    """A toolset whose close need not end it, because others use what is behind it."""

    def renew(self) -> None:
        """What is opened next is to be new, whoever uses the present one."""


class ToolsetRef(Ref):
    __slots__ = ()

    async def call(self, tool: str, input: bytes, context: ToolContext, preview: Preview | None = None) -> ToolResult:
        """Run `tool` (its name inside the toolset) on an encoded JSON object; no input is an empty object.

        Never fails but with ActorDied; the result is within `limits.tool_result_bytes` and `.tool_result_lines`.
        It has no deadline of its own beside the call timeout, which the time that a person takes for an answer is no
        part of. Cancelled, it returns when the work has ended.
        """
        result: ToolResult = await self._ask(_Call(tool, input, context, preview), timeout=None, join=True)
        return result

    async def specs(self) -> tuple[ToolSpec, ...]:
        """As `known_specs`, none if they are not known."""
        return await self.known_specs() or ()

    async def known_specs(self) -> tuple[ToolSpec, ...] | None:
        """The tools with their full names as they were read last. If they never were, the toolset is opened for it,
        and waited for unless it has failed before (see ToolsetLife.first_tools); None if they are not known then."""
        specs: tuple[ToolSpec, ...] | None = await self._ask(_Specs(), timeout=None)
        return specs

    async def status(self) -> ToolsetStatus:
        status: ToolsetStatus = await self._ask(_Status())
        return status

    async def end_session(self, session_id: str) -> None:
        """End what the toolset keeps for a session, which makes no more calls."""
        await self._ask(_EndSession(session_id), timeout=None)

    async def restart(self) -> ToolsetStatus:
        """Close the toolset, its calls ending with an error, and open it again; what came of it."""
        status: ToolsetStatus = await self._ask(_Restart(), timeout=None)
        return status


@attrs.frozen(slots=True)
class _Call:
    tool: str
    input: bytes
    context: ToolContext
    preview: Preview | None


@attrs.frozen(slots=True)
class _Specs:
    pass


@attrs.frozen(slots=True)
class _Status:
    pass


@attrs.frozen(slots=True)
class _Restart:
    pass


@attrs.frozen(slots=True)
class _EndSession:
    session_id: str


class ToolsetActor(Actor):
    """`call_timeout` in seconds stands in for the limit. A `lazy` toolset is opened by its first use (one that is to
    live always, from the actor's start on), any other before the actor has started; it is closed after `idle` seconds
    without use. `spool` is the toolset's, and emptied at the end; without one nothing of a long result is kept but head
    and tail."""

    def __init__(
        self,
        toolset: Toolset,
        *,
        limits: Limits = DEFAULT,
        call_timeout: float | None = None,
        restart: Restart = "never",
        lazy: bool = False,
        idle: float = math.inf,
        spool: ToolsetSpool | None = None,
    ) -> None:
        self._toolset = toolset
        self._spool = spool
        self._limits = limits
        self._call_timeout = call_timeout or limits.tool_call_timeout
        self._restart: Restart = restart
        self._lazy = lazy
        self._idle = idle
        self._stopping = False

    def make_ref(self, cell: Cell) -> ToolsetRef:
        return ToolsetRef(cell)

    async def on_start(self) -> None:
        self._life = ToolsetLife(
            self._toolset, self.cell.name, limits=self._limits, restart=self._restart, idle=self._idle
        )
        self.cell.start_soon(self._life.run)
        if self._restart == "always":
            self._life.want()  # neither the daemon nor the other toolsets wait for its attempts
        elif not self._lazy:
            # One that cannot start is shown as failed: the daemon and the other toolsets go on without it.
            await self._life.ready()

    async def handle(self, message: Any) -> Any:
        match message:
            case _Call():
                return self.cell.defer(self._call, message)
            case _Specs():
                return self.cell.defer(self._specs)
            case _Status():
                return self._status()
            case _Restart():
                return self.cell.defer(self._again, keep=True)
            case _EndSession(session_id):
                if isinstance(self._toolset, KeepsForSessions):
                    return self.cell.defer(self._toolset.end_session, session_id, keep=True)
                return None
        return await super().handle(message)

    async def on_stopping(self, reason: str) -> None:
        self._stopping = True
        await self._life.stop()

    async def on_stop(self, reason: str) -> None:
        if self._spool is not None:
            await self._spool.aclose()

    async def _specs(self) -> tuple[ToolSpec, ...] | None:
        life = self._life
        await life.first_tools()
        if not life.known:
            return None
        return tuple(attrs.evolve(spec, name=self._full(name)) for name, spec in life.tools.items())

    async def _again(self) -> ToolsetStatus:
        await self._life.reopen(self._toolset.renew if isinstance(self._toolset, Renewable) else lambda: None)
        return self._status()

    # ------------------------------------------------------------ calls
    async def _call(self, call: _Call) -> ToolResult:
        add_log_context(session_id=call.context.session_id, run_id=call.context.run_id)
        result = await self._answer(call)
        title = result.title if result.title is None else result.title[:_TITLE_CHARACTERS]
        return attrs.evolve(await self._bounded(result), title=title)

    async def _bounded(self, result: ToolResult) -> ToolResult:
        """The result as a model sees it, the whole kept if that is more."""
        if result.whole is not None or self._spool is None:  # what has a whole was cut when that was made
            return attrs.evolve(result, text=cut_text(result.text, self._limits))
        async with self._spool.output() as output:
            for begin in range(0, len(result.text), _PIECE_CHARACTERS):
                await output.feed(utf8(result.text[begin : begin + _PIECE_CHARACTERS]))
                await trio.lowlevel.checkpoint()
            collected = await output.finish()
        return attrs.evolve(result, text=collected.text, whole=collected.whole)

    async def _answer(self, call: _Call) -> ToolResult:
        life, name = self._life, self._full(call.tool)
        ready = False
        with trio.move_on_after(self._call_timeout) as scope:
            ready = not self._stopping and await life.ready()
            if not ready:
                why = f": {life.error}" if life.error else ""
                return _failed(f"The toolset {self.cell.name} is {life.state}{why}")
            with life.lease(scope):
                return await self._made(attrs.evolve(call, context=CallTime(scope).wrap(call.context)), name)
        if not ready:
            why = f": {life.error}" if life.error else ""
            waited = f"was not ready within the {self._call_timeout:g} s of a call"
            return _failed(f"The toolset {self.cell.name} {waited}, it is {life.state}{why}")
        if trio.current_time() >= scope.deadline:
            return _failed(f"{name} did not finish in {self._call_timeout:g} s and was stopped.")
        if life.broken is not None:
            return _failed(f"{name} did not finish: of the toolset {self.cell.name}, {life.broken}")
        return _failed(f"{name} did not finish: the toolset {self.cell.name} is stopped.")

    async def _made(self, call: _Call, name: str) -> ToolResult:
        """The call's result, whatever the tool does."""
        if call.tool not in self._life.tools:
            return unknown_tool(name, [self._full(tool) for tool in self._life.tools])
        if len(call.input) > self._limits.tool_input_bytes:
            return _failed(f"The input of {name} is over {self._limits.tool_input_bytes:,} bytes.")
        try:
            value = codec.parse(call.input or b"{}")
            if type(value) is not dict:
                raise codec.DecodeError([("", "expected a JSON object")])
            return await self._toolset.call(call.tool, value, call.context, call.preview)
        except codec.DecodeError as exc:
            mistakes = "\n".join(f"- {path or 'input'}: {message}" for path, message in exc.fields)
            return _failed(f"The input of {name} does not fit its schema:\n{mistakes}")
        except EngineError as exc:
            return _failed(f"{name}: {exc.message}")
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a tool's exception is its result; sys.exit() too
            _log.warning("%s failed", name, exc_info=exc)
            return _failed(f"{name} failed: {explain(exc)}")

    # ------------------------------------------------------------ what it shows
    def _full(self, tool: str) -> str:
        return f"{self.cell.name}.{tool}"

    def _status(self) -> ToolsetStatus:
        life = self._life
        offer = self._toolset.offer if isinstance(self._toolset, Offers) else None
        return ToolsetStatus(
            name=self.cell.name,
            kind=self._toolset.kind,
            state=life.state,
            tools=tuple(ToolLine(name=spec.name, description=spec.description) for spec in life.tools.values()),
            leases=life.leases,
            restarts=life.restarts,
            error=None if life.error is None else Failure(code="tool_error", message=life.error),
            prompts=None if offer is None else offer.prompts,
            resources=None if offer is None else offer.resources,
        )


@attrs.frozen(slots=True, kw_only=True)
class Tools:
    """`specs` with their full names; `absent` are toolsets whose tools are not known now."""

    specs: tuple[ToolSpec, ...]
    absent: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """What a model is told of those that are absent."""
        if not self.absent:
            return None
        return f"The tools of {', '.join(self.absent)} are not there now, they may come later."


class Toolbox:
    """The tools of sessions: from the names of toolsets to specs, from the name of a tool to its toolset's Ref.

    `find` gives the present Ref of a toolset; it raises ActorDied while that is not running.
    """

    def __init__(self, names: Sequence[str], find: Callable[[str], ToolsetRef], tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self.names = tuple(names)
        self._find = find
        self._file_threads = trio.CapacityLimiter(FILE_THREADS)

    def check(self, toolsets: Sequence[str]) -> None:
        """Raises CallerError("unknown_toolset") for a name that is not configured."""
        for name in toolsets:
            if name not in self.names:
                known = ", ".join(self.names) or "none"
                raise CallerError("unknown_toolset", f"no toolset is named {name[:80]!r}; known are {known}")

    async def tools(self, toolsets: Sequence[str]) -> Tools:
        """The tools of these toolsets, in their order. All are opened at the same time; no toolset is waited for longer
        than `limits.toolset_first_wait`."""
        names = [name for name in dict.fromkeys(toolsets) if name in self.names]
        found: dict[str, tuple[ToolSpec, ...] | None] = {}

        async def look(name: str) -> None:
            try:
                found[name] = await self._find(name).known_specs()
            except ActorDied as exc:
                _log.warning("the tools of %s are left out: %s", name, exc)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(look, name)
        return Tools(
            specs=tuple(spec for name in names for spec in found.get(name) or ()),
            absent=tuple(name for name in names if found.get(name) is None),
        )

    async def call(
        self,
        tool: str,
        input: bytes,
        context: ToolContext,
        *,
        toolsets: Sequence[str],
        preview: Preview | None = None,
    ) -> ToolResult:
        """Run `toolset.tool` if it is one of these toolsets'. Gives a result whatever happens, as ToolsetRef.call."""
        toolset, _, name = tool.partition(".")
        if not name or toolset not in toolsets or toolset not in self.names:
            return unknown_tool(tool, [spec.name for spec in (await self.tools(toolsets)).specs])
        began = trio.current_time()
        try:
            result = await self._find(toolset).call(name, input, context, preview)
        except ActorDied:
            result = _failed(f"The toolset {toolset} is not running.")
        self._tally.tool_calls[toolset, "error" if result.is_error else "completed"] += 1
        self._tally.tool_seconds[toolset].observe(trio.current_time() - began)
        return result

    async def restart(self, name: str) -> ToolsetStatus:
        """Close the toolset and open it again; what came of it. Raises CallerError("unknown_toolset")."""
        self.check([name])
        return await self._find(name).restart()

    async def end_session(self, session_id: str) -> None:
        """End what the toolsets keep for a session: background jobs do not outlive it."""
        async with trio.open_nursery() as nursery:
            for name in self.names:
                nursery.start_soon(self._end_session, name, session_id)

    async def _end_session(self, name: str, session_id: str) -> None:
        with contextlib.suppress(ActorDied):  # one that is not running keeps nothing
            await self._find(name).end_session(session_id)

    async def statuses(self) -> tuple[ToolsetStatus, ...]:
        """Every configured toolset; one that is not running now is `restarting`."""
        found: list[ToolsetStatus] = []
        for name in self.names:
            try:
                found.append(await self._find(name).status())
            except ActorDied:
                found.append(
                    ToolsetStatus(name=name, kind="unknown", state="restarting", tools=(), leases=0, restarts=0)
                )
        return tuple(found)

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a short piece of file work in a worker thread; its end is waited for even when cancelled."""
        return await trio.to_thread.run_sync(lambda: work(*arguments), limiter=self._file_threads)


def unknown_tool(name: str, known: Sequence[str]) -> ToolResult:
    """The result of a call of a tool that there is not."""
    cutter = HeadTail()
    cutter.feed(f"There is no tool {name[:_TITLE_CHARACTERS]!r}. Known are: {', '.join(known) or 'none'}.")
    return ToolResult(text=cutter.result(), is_error=True)


def _failed(text: str) -> ToolResult:
    return ToolResult(text=text, is_error=True)
