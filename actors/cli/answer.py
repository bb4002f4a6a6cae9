"""A run's events as text: the answer on standard output as it comes, what tools do on standard error.

After a gap the message that is being written is taken from the snapshot; what of it was printed before is not printed
again.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import trio

from actors.cli.output import line, neutral, note
from actors.cli.previews import Previews
from actors.client import Push, Watch

_TITLE_COLUMNS: Final = 100


class Writer:
    """Standard output for what streams. Writing waits in a thread: a reader that pauses (a pager) must not keep this
    program from answering the daemon."""

    def __init__(self) -> None:
        self._descriptor = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._neutral = sys.stdout.isatty()
        self._limiter = trio.CapacityLimiter(1)

    async def write(self, text: str) -> None:
        """Raises BrokenPipeError when nobody reads any more."""
        data = (neutral(text) if self._neutral else text).encode(self._encoding, "replace")
        await trio.to_thread.run_sync(self._write_all, data, abandon_on_cancel=True, limiter=self._limiter)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except OSError as exc:
                if exc.errno == errno.EIO:  # the terminal has gone
                    raise BrokenPipeError from exc
                raise


class Answer:
    """Prints pushes of one run; afterwards has what the run ended with."""

    def __init__(self, writer: Writer, seen: Callable[[Push], None] = lambda push: None) -> None:
        self.status: str | None = None
        self.error: dict[str, Any] | None = None
        self.reason: str | None = None
        self._writer = writer
        self._seen = seen  # shown every push
        self._kinds: dict[str, str] = {}  # of parts that are being written
        self._printed: dict[str, int] = {}  # bytes of the text of this turn's parts
        self._at_line_start = True
        self._previews = Previews()

    async def follow(self, watch: Watch) -> None:
        """Until the run has ended."""
        async for push in watch:
            await self.take(push)
            self._seen(push)
        await self._end_line()

    async def take(self, push: Push) -> None:
        match push.method:
            case "run.events":
                for event in push.events:
                    await self._take_event(event)
            case "run.snapshot":
                await self._take_snapshot(push.params)
            case "watch.closed":
                self.status = push.params.get("status", self.status)

    async def _take_event(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "turn.started":
                self._printed.clear()
                self._previews.forget()
            case "part.started":
                self._kinds[event["part_id"]] = event["kind"]
            case "part.delta":
                await self._print(event["part_id"], event["text"])
            case "part.finished":
                self._kinds.pop(event["part_id"], None)
                if event["part_id"] in self._printed:
                    await self._end_line()
            case "tool.updated":
                await self._tell_tool(event)
            case "tool.output":
                await self._end_line()
                self._previews.take(event["call_id"], event["text"])
            case "retry.scheduled":
                note(f"[{event['reason']}: trying again in {event['delay_ms'] / 1000:.0f} s]")
            case "compaction.started":
                await self._end_line()
                note("[the conversation is being summarised]")
            case "compaction.finished":
                note("[its beginning is a summary now]")
            case "run.finished":
                self.status = event["status"]
                self.error = event.get("error")
                self.reason = event.get("reason")

    async def _take_snapshot(self, snapshot: dict[str, Any]) -> None:
        part, text = snapshot.get("part"), snapshot.get("text")
        if not isinstance(part, dict) or not text:
            return
        self._kinds[part["id"]] = part["kind"]
        data, begin = text.encode(), snapshot["offset"]
        known = self._printed.get(part["id"], 0)
        if begin + len(data) > known:
            await self._print(part["id"], data[max(0, known - begin) :].decode(errors="replace"))

    async def _print(self, part_id: str, text: str) -> None:
        if self._kinds.get(part_id, "text") != "text" or not text:
            return
        self._printed[part_id] = self._printed.get(part_id, 0) + len(text.encode())
        self._at_line_start = text.endswith("\n")
        await self._writer.write(text)

    async def _end_line(self) -> None:
        if not self._at_line_start:
            self._at_line_start = True
            await self._writer.write("\n")

    async def _tell_tool(self, event: dict[str, Any]) -> None:
        if event["state"] in ("completed", "error"):
            self._previews.end(event["call_id"])
        if event["state"] == "running":
            await self._end_line()
            what = event.get("title") or json.dumps(event.get("input", {}), ensure_ascii=False)
            note(line(f"[{event['tool']} {what}]", _TITLE_COLUMNS))
        elif event["state"] == "error":
            note(line(f"[{event['tool']} failed: {event.get('error', '')}]", _TITLE_COLUMNS))


class JsonLines:
    """Prints each event as a line of JSON with its `run_id`; gaps and snapshots are lines with their push's name as
    `type`."""

    def __init__(self, writer: Writer, seen: Callable[[Push], None] = lambda push: None) -> None:
        self.status: str | None = None
        self.error: dict[str, Any] | None = None
        self.reason: str | None = None
        self._writer = writer
        self._seen = seen

    async def follow(self, watch: Watch) -> None:
        async for push in watch:
            self._seen(push)
            run_id = push.params.get("run_id")
            if push.method == "watch.closed":
                self.status = push.params.get("status", self.status)
            elif push.method == "run.events":
                lines = [json.dumps({"run_id": run_id, **event}) for event in push.events]
                await self._writer.write("\n".join(lines) + "\n")
            else:
                shown = {key: value for key, value in push.params.items() if key != "watch_id"}
                await self._writer.write(json.dumps({"type": push.method, **shown}) + "\n")
            if push.events and push.events[-1]["type"] == "run.finished":
                self.status = push.events[-1]["status"]
                self.error = push.events[-1].get("error")
                self.reason = push.events[-1].get("reason")
