"""A talk with a real engine over a real socket, and what a person would see of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from actors._actor import open_actor
from actors.client import Client, connect
from actors.gateway import Gateway, GatewayRef, Services
from actors.terminal.talk import Talk
from engine.config import Config
from engine.limits import Limits
from engine.rendering.styles import plain
from tests.actors.gateway.fakes import ANY_PORT, TOKEN, _stats
from tests.actors.scripted import Stage

WIDTH, ROWS = 60, 12


class Watched:
    """A screen that notes what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.given_back: list[str] = []
        self.found: list[tuple[str, list[str]]] = []
        self.copied: list[str] = []
        self._news = trio.Event()

    def changed(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def note(self, text: str, *, serious: bool = False) -> None:
        self.notes.append(text)
        self.changed()

    def give_back(self, text: str) -> None:
        self.given_back.append(text)
        self.changed()

    def show_sessions(self, query: str, sessions: list[dict[str, Any]]) -> None:
        self.found.append((query, [session["id"] for session in sessions]))
        self.changed()

    def copy(self, text: str) -> None:
        self.copied.append(text)
        self.changed()

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await self._news.wait()


class Line:
    """Where clients connect to. While it is `down` there is nobody; while `deaf` nothing is received."""

    def __init__(self, ref: GatewayRef) -> None:
        self.opened = 0
        self.url = ref.ws_url
        self.down = False
        self.deaf = False
        self.clients: list[Client] = []

    @contextlib.asynccontextmanager
    async def open(self, start: bool) -> AsyncIterator[Client]:
        async with connect("http://127.0.0.1:1" if self.down else self.url, token=TOKEN) as client:
            assert client._link is not None
            self.opened += 1
            self.clients.append(client)
            take = client._link._take
            client._link._take = lambda frame: None if self.deaf else take(frame)  # type: ignore[method-assign]
            yield client

    async def cut(self, client: Client | None = None) -> None:
        """End a connection, the last one that was opened if none is named, as if the network had gone."""
        link = (client or self.clients[-1])._link
        assert link is not None
        await link._socket.abort()


@contextlib.asynccontextmanager
async def line_to(stage: Stage) -> AsyncIterator[Line]:
    """The stage's engine on a socket."""
    config = Config(listen=ANY_PORT, limits=Limits())
    services = Services(
        config=config, registry=stage.registry, toolsets=stage.engine._composition.toolbox, stats=_stats
    )
    async with open_actor(Gateway(services, TOKEN), "gateway") as ref:
        assert isinstance(ref, GatewayRef)
        ref.ready()
        yield Line(ref)


@contextlib.asynccontextmanager
async def talking(line: Line, session_id: str | None = None, **more: Any) -> AsyncIterator[tuple[Talk, Watched]]:
    screen = Watched()
    talk = Talk(line.open, screen, cwd="/", session_id=session_id, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(talk.run)
        yield talk, screen
        nursery.cancel_scope.cancel()


async def lines_of(talk: Talk, screen: Watched) -> list[str]:
    """All that can be scrolled to, a screen after the other, without blank lines."""
    view = talk.conversation.view
    view.resize(WIDTH)
    found: list[str] = []
    anchor = view.place(0)
    while anchor is not None:
        page = view.page(anchor, ROWS)
        if view.wanted:
            talk.want_texts()
            await screen.until(functools.partial(_is_there, talk, next(iter(view.wanted))))
            continue
        found += page.lines
        assert page.anchor is not None
        anchor = None if page.first + ROWS >= page.total else view.move(page.anchor, ROWS)
    return [text for line in found if (text := plain(line).strip())]


def _is_there(talk: Talk, id: str) -> bool:
    return id not in talk.conversation.view.wanted


async def until_shown(talk: Talk, screen: Watched, text: str) -> None:
    """Until a line ends with this text."""
    while not any(line.endswith(text) for line in await lines_of(talk, screen)):
        await screen._news.wait()
