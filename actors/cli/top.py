"""`greenroom top`: what the daemon holds, live."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs
import trio

from actors.cli.arguments import Arguments
from actors.cli.exits import CANCELLED, GOOD, NO_DAEMON, Exit
from actors.cli.output import columns, say_json
from actors.cli.settings import seconds
from actors.cli.stopping import until_signalled
from actors.cli.top_frame import Sample, View, frame
from actors.cli.top_screen import Screen, open_screen, typed
from actors.client import Client, ConnectionLost, connect
from actors.places import data_dir
from engine.rendering.styles import ASCII, DARK, LIGHT, Theme, ansi

NAME: Final = "greenroom-top"
# Least time between two looks: each costs the daemon about a millisecond.
_INTERVAL_MIN: Final = 0.1
# Active runs that are listed.
_RUNS: Final = 50
# Toolsets change seldom, and telling of all their tools is the most of a look's work: each so many looks.
_TOOLSETS_EVERY: Final = 5
# Of a single look, after which a daemon counts as hung.
_PATIENCE: Final = 30.0
# A daemon that ends closes its connections with this.
_GOING_AWAY: Final = 1001
# The background that a terminal tells by COLORFGBG, as the last of its numbers.
_LIGHT: Final = ("7", "15")


def main(arguments: Arguments) -> int:
    interval = max(seconds("--interval", arguments.interval), _INTERVAL_MIN)
    if arguments.json:
        return trio.run(until_signalled, partial(_print_json, arguments, interval), CANCELLED)
    if arguments.once or not sys.stdout.isatty():
        trio.run(_print_once, arguments)
        return GOOD
    return trio.run(until_signalled, partial(_live, arguments, interval), CANCELLED)


# ------------------------------------------------------------------ looks
class _Looks:
    """Looks at the daemon of a client, one after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._count = 0
        self._toolsets: list[dict[str, Any]] = []

    async def next(self) -> Sample:
        """Raises ConnectionLost."""
        stats = await self._client.request("daemon.stats")
        runs = (await self._client.request("run.list", {"active": True, "limit": _RUNS}))["runs"]
        if self._count % _TOOLSETS_EVERY == 0:
            self._toolsets = (await self._client.request("toolset.list"))["toolsets"]
        self._count += 1
        return Sample(stats=stats, runs=runs, toolsets=self._toolsets)

    def again(self) -> None:
        """Another daemon may answer from now on."""
        self._count = 0


def _title(client: Client, arguments: Arguments) -> str:
    return f"{client.hello['server']['version']}  {data_dir(arguments.data)}"


async def _first(client: Client) -> Sample:
    with trio.move_on_after(_PATIENCE):
        return await _Looks(client).next()
    raise Exit(NO_DAEMON, f"the daemon has not answered for {_PATIENCE:.0f} s")


# ------------------------------------------------------------------ once, and as JSON
async def _print_once(arguments: Arguments) -> None:
    async with connect(data_dir=data_dir(arguments.data), name=NAME) as client:
        view = View(title=_title(client, arguments), sort=arguments.sort, now=_now())
        view.take(await _first(client))
    theme = _theme(colours=sys.stdout.isatty())
    for line in frame(view, columns(), None, theme):
        print(ansi(line, theme).rstrip())  # its text is clean: see `frame`


async def _print_json(arguments: Arguments, interval: float) -> int:
    async with connect(
        data_dir=data_dir(arguments.data), name=NAME, reconnect=0 if arguments.once else math.inf
    ) as client:
        looks = _Looks(client)
        if arguments.once:
            _say_sample(await _first(client))
            return GOOD
        while True:
            try:
                _say_sample(await looks.next())
            except ConnectionLost:
                looks.again()
                continue  # the next request waits for the daemon
            await trio.sleep(interval)


def _say_sample(sample: Sample) -> None:
    told = {name: value for name, value in sample.stats.items() if name != "actors"}
    say_json({"at": _now(), **told, "runs": sample.runs, "toolsets": sample.toolsets})
    sys.stdout.flush()


def _now() -> int:
    return int(time.time() * 1000)


# ------------------------------------------------------------------ live
async def _live(arguments: Arguments, interval: float) -> int:
    """Until q. The first connection has to be had; then it comes back by itself for as long as it takes."""
    async with connect(data_dir=data_dir(arguments.data), name=NAME, reconnect=math.inf) as client:
        view = View(title=_title(client, arguments), sort=arguments.sort)
        async with open_screen() as screen, trio.open_nursery() as nursery:
            top = _Top(client, view, screen, interval)
            nursery.start_soon(top.look, partial(_title, client, arguments))
            nursery.start_soon(top.follow_link)
            nursery.start_soon(top.draw)
            nursery.start_soon(top.resize)
            await top.obey()
            nursery.cancel_scope.cancel(reason="q")
    return GOOD


class _Top:
    def __init__(self, client: Client, view: View, screen: Screen, interval: float) -> None:
        self._client = client
        self._view = view
        self._screen = screen
        self._interval = interval
        self._theme = _theme()
        self._changed = trio.Event()
        self._seen_at = trio.current_time()

    def _change(self) -> None:
        self._changed.set()

    async def look(self, title: Callable[[], str]) -> None:
        looks = _Looks(self._client)
        while True:
            try:
                sample = await looks.next()
            except ConnectionLost:
                looks.again()
                continue  # the next request waits for the daemon
            self._seen_at = trio.current_time()
            self._view.title = title()
            if not self._view.paused:
                self._view.take(sample)
            self._change()
            await trio.sleep(self._interval)

    async def follow_link(self) -> None:
        """Say how the connection is. Raises what keeps it from coming back."""
        while True:
            link = await self._client.linked()
            self._view.link = ""
            self._change()
            await link.wait_ended()
            leaving = link.lost is not None and link.lost.code == _GOING_AWAY
            self._view.link = "the daemon has ended, waiting for the next" if leaving else "reconnecting"
            self._change()

    async def draw(self) -> None:
        """Whenever something has changed, and each second, for ages."""
        view = self._view
        while True:
            self._changed = trio.Event()
            if not view.paused:
                view.now = _now()
            view.age = trio.current_time() - self._seen_at - self._interval
            width, height = self._screen.size()
            lines = frame(view, width, height, self._theme)
            await self._screen.draw([ansi(line, self._theme) for line in lines])
            with trio.move_on_after(1.0):
                await self._changed.wait()

    async def resize(self) -> None:
        with trio.open_signal_receiver(signal.SIGWINCH) as signals:
            async for _ in signals:
                self._screen.forget()
                self._change()

    async def obey(self) -> None:
        """Keys, until one of them says to leave. Without a keyboard for ever."""
        while (keys := await typed()) is not None:
            for key in keys.lower():
                match key:
                    case "q":
                        return
                    case "p":
                        self._view.paused = not self._view.paused
                    case "s":
                        self._view.sort = "name" if self._view.sort == "size" else "size"
            self._change()
        await trio.sleep_forever()


def _theme(*, colours: bool = True) -> Theme:
    """By what standard output can show."""
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        return ASCII
    if not colours or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return attrs.evolve(DARK, name="plain", colours={})
    return LIGHT if os.environ.get("COLORFGBG", "").rpartition(";")[2] in _LIGHT else DARK
