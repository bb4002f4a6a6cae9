"""Toolset actors: one per configured toolset, with its state, its calls and the bound of every result.

A call is an ask that is answered from a task of its own, so calls run concurrently; a caller that is cancelled
returns when the work has ended. Whatever a tool does, a call gives a ToolResult: mistakes in the input, a timeout
and exceptions become results with `is_error`, which the model reads. What the tools are is behind `Toolset`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._ask import ActorDied
from actors._log_context import add_log_context
from actors._spool import ToolsetSpool
from actors._tally import Tally
from engine import codec
from engine.errors import CallerError, EngineError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools.cut import HeadTail, cut_text, utf8
from engine.tools.spec import ToolContext, ToolLine, ToolResult, ToolsetState, ToolsetStatus, ToolSpec
from engine.transcript.records import Failure

_log = logging.getLogger("greenroom.toolset")
T = TypeVar("T")
Preview = Callable[[str], None]  # takes live output of a call; bounded by the run that shows it

# Of a tool's exception a model needs its sentence; 2 KiB hold it, 20 lines a nested one.
_ERROR_BYTES: Final = 2 * KIB
_ERROR_LINES: Final = 20
_TITLE_CHARACTERS: Final = 200
# Of a long result as much is cut between two looks at the loop: a tenth of a millisecond.
_PIECE_CHARACTERS: Final = 64 * KIB
# Small file work for others than tools at the same time; two cores and one disk serve no more.
FILE_THREADS: Final = 8


class Toolset(Protocol):
    """What one kind of toolset brings. Tools are named as inside the toolset."""

    @property
    def kind(self) -> str: ...

    async def open(self) -> Sequence[ToolSpec]:
        """Make the tools usable. Cancelled past `limits.toolset_start_timeout`. Raising makes the toolset `failed`."""

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        """Run one of the tools on a JSON object. Calls are concurrent; cancelled ones return when they have ended.

        The result need not be bounded. Raises codec.DecodeError for input that does not fit, and what it likes."""

    async def close(self) -> None:
        """Give back what `open` took; also after an `open` that failed."""


class ToolsetRef(Ref):
    __slots__ = ()

    async def call(self, tool: str, input: bytes, context: ToolContext, preview: Preview | None = None) -> ToolResult:
        """Run `tool` (its name inside the toolset) on an encoded JSON object; no input is an empty object.

        Never fails but with ActorDied; the result is within `limits.tool_result_bytes` and `.tool_result_lines`.
        It has no deadline of its own beside the call timeout. Cancelled, it returns when the work has ended.
        """
        result: ToolResult = await self._ask(_Call(tool, input, context, preview), timeout=None, join=True)
        return result

    async def specs(self) -> tuple[ToolSpec, ...]:
        """The tools with their full names; none while the toolset is not ready."""
        specs: tuple[ToolSpec, ...] = await self._ask(_Specs())
        return specs

    async def status(self) -> ToolsetStatus:
        status: ToolsetStatus = await self._ask(_Status())
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


class ToolsetActor(Actor):
    """`call_timeout` in seconds stands in for the limit; `restarts` tells how often it was started before. `spool` is
    the toolset's, and emptied at the end; without one nothing of a long result is kept but head and tail."""

    def __init__(
        self,
        toolset: Toolset,
        *,
        limits: Limits = DEFAULT,
        call_timeout: float | None = None,
        restarts: int = 0,
        spool: ToolsetSpool | None = None,
    ) -> None:
        self._toolset = toolset
        self._spool = spool
        self._limits = limits
        self._call_timeout = call_timeout or limits.tool_call_timeout
        self._restarts = restarts
        self._state: ToolsetState = "stopped"
        self._stopping = False
        self._tools: dict[str, ToolSpec] = {}
        self._error: Failure | None = None
        self._leases = 0
        self._calls: set[trio.CancelScope] = set()  # those inside the toolset
        self._idle = trio.Event()  # after the stop was asked: no call is left

    def make_ref(self, cell: Cell) -> ToolsetRef:
        return ToolsetRef(cell)

    async def on_start(self) -> None:
        # A toolset that cannot start is shown as failed: the daemon and the other toolsets go on without it.
        self._state = "starting"
        try:
            with trio.fail_after(self._limits.toolset_start_timeout):
                self._tools = {spec.name: spec for spec in await self._toolset.open()}
        except Exception as exc:  # noqa: BLE001 - what a toolset raises must not keep the daemon from starting
            _log.exception("%s could not be started", self.cell.path)
            self._state = "failed"
            self._error = Failure(code="tool_error", message=f"it could not be started: {_explain(exc)}")
        else:
            self._state = "ready"

    async def handle(self, message: Any) -> Any:
        match message:
            case _Call():
                return self.cell.defer(self._call, message)
            case _Specs():
                full = (attrs.evolve(spec, name=self._full(name)) for name, spec in self._tools.items())
                return tuple(full) if self._state == "ready" else ()
            case _Status():
                return self._status()
        return await super().handle(message)

    async def on_stopping(self, reason: str) -> None:
        self._state = "stopping"
        self._stopping = True
        for scope in self._calls:
            scope.cancel(reason=reason)
        if not self._leases:
            self._idle.set()

    async def on_stop(self, reason: str) -> None:
        await self._idle.wait()
        try:
            await self._toolset.close()
        except Exception:  # noqa: BLE001 - the end of an actor is not kept up by what it used
            _log.exception("%s could not be closed", self.cell.path)
        if self._spool is not None:
            await self._spool.aclose()
        self._state = "stopped"

    # ------------------------------------------------------------ calls
    async def _call(self, call: _Call) -> ToolResult:
        self._leases += 1
        add_log_context(session_id=call.context.session_id, run_id=call.context.run_id)
        try:
            result = await self._answer(call)
            title = result.title if result.title is None else result.title[:_TITLE_CHARACTERS]
            return attrs.evolve(await self._bounded(result), title=title)
        finally:
            self._leases -= 1
            if not self._leases and self._stopping:
                self._idle.set()

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
        name = self._full(call.tool)
        if self._state != "ready":
            why = f": {self._error.message}" if self._error else ""
            return _failed(f"The toolset {self.cell.name} is {self._state}{why}")
        if call.tool not in self._tools:
            return unknown_tool(name, [self._full(tool) for tool in self._tools])
        if len(call.input) > self._limits.tool_input_bytes:
            return _failed(f"The input of {name} is over {self._limits.tool_input_bytes:,} bytes.")
        try:
            value = codec.parse(call.input or b"{}")
            if type(value) is not dict:
                raise codec.DecodeError([("", "expected a JSON object")])
            with trio.move_on_after(self._call_timeout) as scope:
                self._calls.add(scope)
                try:
                    return await self._toolset.call(call.tool, value, call.context, call.preview)
                finally:
                    self._calls.discard(scope)
        except codec.DecodeError as exc:
            mistakes = "\n".join(f"- {path or 'input'}: {message}" for path, message in exc.fields)
            return _failed(f"The input of {name} does not fit its schema:\n{mistakes}")
        except EngineError as exc:
            return _failed(f"{name}: {exc.message}")
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a tool's exception is its result; sys.exit() too
            _log.warning("%s failed", name, exc_info=exc)
            return _failed(f"{name} failed: {_explain(exc)}")
        if self._stopping:
            return _failed(f"{name} did not finish: the toolset {self.cell.name} is stopped.")
        return _failed(f"{name} did not finish in {self._call_timeout:g} s and was stopped.")

    # ------------------------------------------------------------ what it shows
    def _full(self, tool: str) -> str:
        return f"{self.cell.name}.{tool}"

    def _status(self) -> ToolsetStatus:
        return ToolsetStatus(
            name=self.cell.name,
            kind=self._toolset.kind,
            state=self._state,
            tools=tuple(ToolLine(name=spec.name, description=spec.description) for spec in self._tools.values()),
            leases=self._leases,
            restarts=self._restarts,
            error=self._error,
        )


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

    async def specs(self, toolsets: Sequence[str]) -> tuple[ToolSpec, ...]:
        """The tools of these toolsets with their full names, those left out that are not there now."""
        specs: list[ToolSpec] = []
        for name in dict.fromkeys(toolsets):
            if name in self.names:
                try:
                    specs += await self._find(name).specs()
                except ActorDied as exc:
                    _log.warning("the tools of %s are left out: %s", name, exc)
        return tuple(specs)

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
            return unknown_tool(tool, [spec.name for spec in await self.specs(toolsets)])
        began = trio.current_time()
        try:
            result = await self._find(toolset).call(name, input, context, preview)
        except ActorDied:
            result = _failed(f"The toolset {toolset} is not running.")
        self._tally.tool_calls[toolset, "error" if result.is_error else "completed"] += 1
        self._tally.tool_seconds[toolset].observe(trio.current_time() - began)
        return result

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


def _explain(exc: BaseException) -> str:
    """One bounded sentence on an exception that may be anything."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    try:
        says = str(exc)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        says = "it cannot be shown"
    cutter = HeadTail(_ERROR_BYTES, _ERROR_LINES)
    cutter.feed(f"{type(exc).__name__}: {says}" if says else type(exc).__name__)
    return cutter.result()
