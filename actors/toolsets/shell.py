"""The built-in toolset `shell`: commands that are waited for, and jobs in the background.

Every command is a process of the guard's, so nothing of it survives its end. What it writes is read as fast as it
comes, the model sees head and tail, and the whole is in the toolset's spool; never is more than a block and a result
of it in memory. A job belongs to the session that started it, and is seen by that alone.
"""

from __future__ import annotations

import codecs
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import attrs
import trio

from actors._guard import STOP_GRACE, Guard, Process
from actors._guard_link import KILL_LIMIT, Ended
from actors._spool import Output, ToolsetSpool
from actors._toolset_life import Preview
from engine import codec
from engine.errors import CallerError, PeerError
from engine.limits import DEFAULT, Limits
from engine.tools import shell
from engine.tools.spec import ToolContext, ToolResult, ToolSpec

# A cancelled command may still give back what it has locked: git removes its lock files at SIGTERM.
CANCEL_GRACE: Final = 1.0
# Jobs of all sessions. One that has ended is kept for its session to view, with 128 KiB of what it wrote at most.
KEPT_JOBS: Final = 128
_TITLE_CHARACTERS: Final = 200
_log = logging.getLogger("greenroom.toolset.shell")
_TOOLS: Final[dict[str, tuple[ToolSpec, type[Any]]]] = {
    "run": (shell.RUN, shell.Run),
    "start": (shell.START, shell.Start),
    "list": (shell.LIST, shell.List),
    "view": (shell.VIEW, shell.View),
    "stop": (shell.STOP, shell.Stop),
}


def call_limit(limits: Limits = DEFAULT) -> float:
    """Seconds that a call may take: a command's own timeout has to come before its toolset's, which gives no output."""
    return limits.shell_timeout_max + STOP_GRACE + KILL_LIMIT


class ShellToolset:
    """`env` is the environment of commands, `spool` the one that its actor empties, `tools` the names of those that it
    gives (None: all). Not to be closed when idle: jobs are no use of it."""

    kind = "builtin"

    def __init__(
        self,
        guard: Guard,
        spool: ToolsetSpool,
        *,
        env: Mapping[str, str],
        tools: Sequence[str] | None = None,
        limits: Limits = DEFAULT,
    ) -> None:
        self._tools = [spec for name, (spec, _) in _TOOLS.items() if tools is None or name in tools]
        self._guard = guard
        self._spool = spool
        self._env = dict(env)
        self._limits = limits
        self._shown = attrs.evolve(
            limits,
            tool_result_bytes=limits.tool_result_bytes - shell.CLOSING_BYTES,
            tool_result_lines=limits.tool_result_lines - shell.CLOSING_LINES,
        )
        self._jobs: dict[tuple[str, str], _Job] = {}  # by session and name, oldest first
        self._tasks: trio.Nursery | None = None  # of jobs, while it is open
        self._started = 0
        self._starting = trio.Lock()

    async def open(self) -> Sequence[ToolSpec]:
        return self._tools

    async def news(self) -> NoReturn:
        """Jobs live in it: whoever cancels it ends them."""
        async with trio.open_nursery() as self._tasks:
            try:
                await trio.sleep_forever()
            finally:
                self._tasks = None
        raise AssertionError("it sleeps for ever")

    async def close(self) -> None:
        """Ends all jobs. What they wrote is the spool's owner's to remove."""
        await self._end(list(self._jobs))

    async def end_session(self, session_id: str) -> None:
        """End the jobs of a session and forget them. Complete when it returns, cancelled or not."""
        await self._end([key for key in self._jobs if key[0] == session_id])

    async def _end(self, keys: Sequence[tuple[str, str]]) -> None:
        with trio.CancelScope(shield=True):  # bounded: a stop is
            async with trio.open_nursery() as nursery:
                for key in keys:
                    nursery.start_soon(self._forget, key)

    async def _forget(self, key: tuple[str, str]) -> None:
        # Known until it is gone: whoever ends it as well waits for the same end.
        if (job := self._jobs.get(key)) is not None:
            await job.discard()
            self._jobs.pop(key, None)

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        asked = codec.decode(value, _TOOLS[tool][1])
        match asked:
            case shell.Run():
                return await self._run(asked, context, preview)
            case shell.Start():
                return await self._start(asked, context)
            case shell.List():
                return self._list(context)
            case shell.View():
                return await self._job(asked.job, context).view()
            case shell.Stop():
                return await self._job(asked.job, context).stop()
        raise AssertionError(tool)

    async def _spawn(self, command: str, context: ToolContext) -> Process:
        return await self._guard.spawn([*shell.SHELL, command], cwd=context.cwd, env=self._env, stderr="stdout")

    # ------------------------------------------------------------ waited for
    async def _run(self, asked: shell.Run, context: ToolContext, preview: Preview | None) -> ToolResult:
        seconds = min(asked.timeout or self._limits.shell_timeout, self._limits.shell_timeout_max)
        live = _Live(preview, self._limits) if preview is not None else None
        async with Output(self._spool, self._shown) as output:
            async with await self._spawn(asked.command, context) as process:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_take_all, process, output, live)
                        with trio.move_on_after(seconds) as limit:
                            await process.wait()
                        ended = await process.stop()
                except BaseException:  # cancelled, most of the time
                    with trio.CancelScope(shield=True):
                        await process.stop(CANCEL_GRACE)
                    raise
            collected = await output.finish()  # the last that can be cancelled: what it gives is taken
        late = limit.cancelled_caught
        remark = f"stopped after {seconds:g} s, before its end" if late else _how(ended)
        failed = late or ended.code != 0
        if not collected.size and not remark:
            remark = "no output"
        text = shell.closing(collected.text, remark, None if late else shell.left_running(ended.killed))
        title = shell.first_line(asked.command)
        return ToolResult(text=text, title=title, is_error=failed, whole=collected.whole)

    # ------------------------------------------------------------ jobs
    async def _start(self, asked: shell.Start, context: ToolContext) -> ToolResult:
        async with self._starting:  # one by one, so that the bound holds
            await self._make_room(context.session_id)
            process = await self._spawn(asked.command, context)
            if self._tasks is None:
                await process.aclose()
                raise PeerError("tool_error", "the shell is being closed")
            self._started += 1
            name = f"job_{self._started}"
            job = _Job(name, asked.command, process, lambda: Output(self._spool, self._shown))
            self._jobs[context.session_id, name] = job
            self._tasks.start_soon(job.run)
        return ToolResult(text=f"[{name} was started]", title=shell.first_line(asked.command))

    async def _make_room(self, session_id: str) -> None:
        """Of jobs that have ended the oldest are forgotten. Raises CallerError overloaded."""
        own = [key for key in self._jobs if key[0] == session_id]
        most = self._limits.shell_jobs
        ended = [key for key in own if self._jobs[key].ended is not None]
        if len(own) - len(ended) >= most:
            text = f"{most} background commands of this session are running, the most that may be at once: stop one"
            raise CallerError("overloaded", text)
        gone = ended[: max(0, len(own) + 1 - most)]
        if not gone and len(self._jobs) >= KEPT_JOBS:
            # There are ended ones: fewer processes than that can be at once.
            gone = [key for key, job in self._jobs.items() if job.ended is not None][:1]
        await self._end(gone)

    def _list(self, context: ToolContext) -> ToolResult:
        lines = [
            f"{name}: {job.state()}: {shell.first_line(job.command)[:_TITLE_CHARACTERS]}"
            for (session_id, name), job in self._jobs.items()
            if session_id == context.session_id
        ]
        return ToolResult(text="\n".join(lines) or "[no jobs]")

    def _job(self, name: str, context: ToolContext) -> _Job:
        job = self._jobs.get((context.session_id, name))
        if job is None:
            known = ", ".join(name for session_id, name in self._jobs if session_id == context.session_id)
            raise codec.DecodeError([("job", f"no job of this session; known are {known or 'none'}")])
        return job


class _Job:
    """A command in the background. `ended` is set when all that it wrote has been taken."""

    def __init__(self, name: str, command: str, process: Process, make_output: Callable[[], Output]) -> None:
        self.name = name
        self.command = command
        self.ended: Ended | None = None
        self._process = process
        self._make_output = make_output
        self._output = make_output()  # what was written since the last view
        self._turn = trio.Lock()  # whose the output is
        self._done = trio.Event()
        self._began = trio.current_time()

    async def run(self) -> None:
        """The task that reads what it writes."""
        try:
            while data := await self._process.read():
                async with self._turn:
                    await self._output.feed(data)
            await self._process.wait()  # it may live on without an output
        except Exception:  # noqa: BLE001 - what it says is lost, and no other job
            _log.exception("the output of %s could not be read", self.name)
        finally:
            with trio.CancelScope(shield=True):
                self.ended = await self._process.stop(CANCEL_GRACE)
                await self._process.aclose()
            self._done.set()

    async def view(self) -> ToolResult:
        async with self._turn:
            with trio.CancelScope(shield=True):  # half an end would be no end: a block is written at most
                collected = await self._output.finish()
            self._output = self._make_output()
        left = shell.left_running(self.ended.killed) if self.ended is not None else None
        text = shell.closing(collected.text, f"{self.name}: {self.state()}", left)
        return ToolResult(text=text, title=shell.first_line(self.command), whole=collected.whole)

    async def stop(self) -> ToolResult:
        await self._process.stop()
        await self._done.wait()
        return await self.view()

    async def discard(self) -> None:
        """End it and remove what it wrote and nobody viewed."""
        await self._process.stop(CANCEL_GRACE)
        await self._done.wait()
        async with self._turn, self._output:
            pass

    def state(self) -> str:
        if self.ended is not None:
            return _how(self.ended) or "exit code 0"
        return f"running for {trio.current_time() - self._began:.0f} s"


class _Live:
    """Output as it comes, for who watches: as much as `limits.preview_bytes` in a second, what is more is not shown."""

    def __init__(self, preview: Preview, limits: Limits) -> None:
        self._preview = preview
        self._most = limits.preview_bytes
        self._left = 0
        self._since = -math.inf
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self, data: bytes) -> None:
        now = trio.current_time()
        if now - self._since >= 1:
            self._since, self._left = now, self._most
        if text := self._decoder.decode(data[: self._left]):
            self._preview(text)
        self._left = max(0, self._left - len(data))


async def _take_all(process: Process, output: Output, live: _Live | None) -> None:
    while data := await process.read():
        if live is not None:
            live.show(data)
        await output.feed(data)


def _how(ended: Ended) -> str | None:
    """The remark on how it ended; None if all is well."""
    return None if ended.code == 0 and ended.error is None else str(ended)
