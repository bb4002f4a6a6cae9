"""One toolset under several names: what two names are configured alike for is opened once, and closed after the last.

Each name has a view, which is a Toolset to its actor: with its own choice of tools, its own state and restarts. What is
behind them is opened by the first view that needs it and closed when the last has left; when it breaks, all views are
told, the first that leaves closes it, and the first that comes back opens it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from actors._toolset_life import News, Preview, Toolset
from engine import codec
from engine.tools.explain import explain
from engine.tools.spec import Offer, ToolContext, ToolResult, ToolSpec


class SharedToolset:
    """`toolset` is used by this alone."""

    def __init__(self, toolset: Toolset) -> None:
        self._toolset = toolset
        self._lock = trio.Lock()  # it is opened and closed by one at a time
        self._joining = 0
        self._touched = False  # it was opened, or half opened, and not closed since
        self._present: _Present | None = None

    def view(self, tools: Collection[str] | None = None) -> SharedView:
        """For one name; `tools` absent means all that there are."""
        return SharedView(self, self._toolset, tools)

    async def join(self, view: SharedView) -> _Present:
        """Open it unless it is open. Failed or cancelled, the view leaves as if it had joined."""
        self._joining += 1
        try:
            async with self._lock:
                if self._present is None or self._present.broken is not None:
                    await self._close()
                    self._touched = True
                    self._present = _Present(await self._toolset.open())
                self._present.views.add(view)
                return self._present
        finally:
            self._joining -= 1

    async def leave(self, view: SharedView, present: _Present | None) -> None:
        """Close it if nobody else uses it, or it is broken. Who is joining sees to that itself."""
        if present is not None:
            present.views.discard(view)
        if not self._is_needed():
            async with self._lock:
                if not self._is_needed():
                    await self._close()

    def _is_needed(self) -> bool:
        present = self._present
        return bool(self._joining) or (present is not None and present.broken is None and bool(present.views))

    async def _close(self) -> None:
        self._present = None
        if self._touched:  # also after a close that was cut short
            await self._toolset.close()
            self._touched = False

    async def news(self, view: SharedView, present: _Present) -> None:
        """Wait until there is something new to the view. One of the views listens for all."""
        while present.broken is None and view not in present.untold:
            if present.heard is not None:
                await present.heard.wait()
                continue
            present.heard = trio.Event()
            try:
                with trio.CancelScope() as present.listening:
                    present.take(await self._toolset.news())
            except Exception as exc:  # noqa: BLE001 - raising means that it has broken, for all
                present.broken = explain(exc)
            finally:  # cancelled, another one listens
                present.wake()
        present.untold.discard(view)


class _Present:
    """The toolset from one opening to its close."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self.tools = tools
        self.trouble: str | None = None
        self.broken: str | None = None
        self.views: set[SharedView] = set()
        self.untold: set[SharedView] = set()
        self.heard: trio.Event | None = None  # somebody listens
        self.listening = trio.CancelScope()

    def take(self, news: News) -> None:
        self.tools = self.tools if news.tools is None else news.tools
        self.trouble = news.trouble
        self.broken = news.broken
        self.untold |= self.views

    def wake(self) -> None:
        heard, self.heard = self.heard, None
        if heard is not None:
            heard.set()


class SharedView:
    """A Toolset. Made by SharedToolset.view."""

    def __init__(self, shared: SharedToolset, toolset: Toolset, chosen: Collection[str] | None) -> None:
        self._shared = shared
        self._toolset = toolset
        self._chosen = chosen
        self._present: _Present | None = None

    @property
    def kind(self) -> str:
        return self._toolset.kind

    @property
    def offer(self) -> Offer:
        offer: Offer = getattr(self._toolset, "offer", Offer())
        return offer

    async def open(self) -> Sequence[ToolSpec]:
        self._present = present = await self._shared.join(self)
        if self._trouble() is not None:
            present.untold.add(self)
        return self._tools()

    async def news(self) -> News:
        assert self._present is not None, "it is open"
        await self._shared.news(self, self._present)
        return News(tools=self._tools(), trouble=self._trouble(), broken=self._present.broken)

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        return await self._toolset.call(tool, value, context, preview)

    async def close(self) -> None:
        present, self._present = self._present, None
        await self._shared.leave(self, present)

    def renew(self) -> None:
        """What is opened next is to be new: for the other views the present one has broken."""
        if self._present is not None and self._present.broken is None:
            self._present.broken = "it was restarted under another name"
            self._present.listening.cancel(reason="it has broken")

    def _tools(self) -> list[ToolSpec]:
        assert self._present is not None
        return [spec for spec in self._present.tools if self._chosen is None or spec.name in self._chosen]

    def _trouble(self) -> str | None:
        assert self._present is not None
        there = {spec.name for spec in self._present.tools}
        missing = [f"it has no tool {name!r}" for name in self._chosen or () if name not in there]
        return "; ".join([*([self._present.trouble] if self._present.trouble else []), *missing]) or None
