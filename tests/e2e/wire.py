"""A plain JSON-RPC client for end-to-end tests: it knows the wire contract and nothing of the project's code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

READY = "greenroom ready "
HANDSHAKE_LIMIT = 60.0


class WireError(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.number = error["code"]
        self.code = error.get("data", {}).get("code")
        self.data = error.get("data", {})


class Wire:
    """One connection. Pushes of a watch are kept in order until they are taken."""

    def __init__(self, socket: Any, nursery: trio.Nursery) -> None:
        self.socket = socket
        self._next = 0
        self._replies: dict[Any, Any] = {}
        self._pushes: dict[str, deque[dict[str, Any]]] = {}
        self._events: dict[str, deque[dict[str, Any]]] = {}
        self._news = trio.Condition()
        self.closed: tuple[int, str | None] | None = None
        nursery.start_soon(self._read)

    async def _read(self) -> None:
        try:
            while True:
                frame = json.loads(await self.socket.get_message())
                async with self._news:
                    if "method" in frame:
                        params = frame["params"]
                        self._pushes.setdefault(params["watch_id"], deque()).append(frame)
                    else:
                        self._replies[frame["id"]] = frame
                    self._news.notify_all()
        except ConnectionClosed as exc:
            async with self._news:
                self.closed = (exc.reason.code, exc.reason.reason) if exc.reason else (1006, None)
                self._news.notify_all()

    async def send(self, text: str) -> None:
        await self.socket.send_message(text)

    async def request(self, method: str, **params: Any) -> Any:
        self._next += 1
        key = self._next
        await self.send(json.dumps({"jsonrpc": "2.0", "id": key, "method": method, "params": params}))
        return await self.reply(key)

    async def reply(self, key: Any) -> Any:
        async with self._news:
            while key not in self._replies:
                if self.closed:
                    raise ConnectionError(f"closed: {self.closed}")
                await self._news.wait()
            frame = self._replies.pop(key)
        if "error" in frame:
            raise WireError(frame["error"])
        return frame["result"]

    async def push(self, watch_id: str) -> dict[str, Any]:
        """The next push of the watch: `{"method": …, "params": …}`."""
        async with self._news:
            while not self._pushes.get(watch_id):
                if self.closed:
                    raise ConnectionError(f"closed: {self.closed}")
                await self._news.wait()
            return self._pushes[watch_id].popleft()

    async def event(self, watch_id: str, *, gaps: bool = False) -> dict[str, Any] | None:
        """The next event of a run's watch; None when it is closed. Gaps fail, unless they are passed over."""
        events = self._events.setdefault(watch_id, deque())
        while not events:
            frame = await self.push(watch_id)
            if frame["method"] == "watch.closed":
                return None
            if gaps and frame["method"] in ("run.gap", "run.snapshot"):
                continue
            assert frame["method"] == "run.events", frame
            events += frame["params"]["events"]
        return events.popleft()

    async def events(self, watch_id: str, *, gaps: bool = False) -> list[dict[str, Any]]:
        """All that follow, until the watch is closed."""
        found = []
        while (event := await self.event(watch_id, gaps=gaps)) is not None:
            found.append(event)
        return found

    async def wait_closed(self) -> tuple[int, str | None]:
        async with self._news:
            while not self.closed:
                await self._news.wait()
            return self.closed


@contextlib.asynccontextmanager
async def connect(folder: Path, *, initialize: bool = True) -> AsyncIterator[Wire]:
    """A connection to the daemon of a data directory."""
    daemon, token = _find(folder)
    headers = [("Authorization", f"Bearer {token}")]
    address = urllib.parse.urlsplit(daemon["ws_url"])
    stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    try:
        async with trio.open_nursery() as nursery:
            # The library waits for ever when the peer goes away in the handshake.
            with trio.move_on_after(HANDSHAKE_LIMIT) as handshake:
                socket = await wrap_client_stream(
                    nursery, stream, address.netloc, address.path, subprotocols=["greenroom.v1"], extra_headers=headers
                )
            if handshake.cancelled_caught:
                raise ConnectionError("the daemon went away in the handshake")
            wire = Wire(socket, nursery)
            if initialize:
                await wire.request("initialize", protocol=1, client={"name": "test", "version": "1"})
            yield wire
            await socket.aclose()
            nursery.cancel_scope.cancel()
    finally:
        # The library leaves the socket open when the peer was the first to close.
        await trio.aclose_forcefully(stream)


def _find(folder: Path) -> tuple[dict[str, Any], str]:
    daemon = json.loads((folder / "daemon.json").read_text())
    return daemon, Path(daemon["token_file"]).read_text().strip()


class DaemonProcess:
    """`greenroom serve` as a process of its own; stopped and checked at the end."""

    def __init__(self, folder: Path, config: str | None = None, *arguments: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "actors.cli", "serve", "--data", str(folder), "--listen", "127.0.0.1:0"]
        if config is not None:
            path = folder.parent / f"{folder.name}.toml"
            path.write_text(config)
            command += ["--config", str(path)]
        self.log = open(folder.parent / f"{folder.name}.log", "ab")  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=self.log, start_new_session=True, env=_environment()
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if not line.startswith(READY):
            self.process.kill()
            self.wait()
            raise AssertionError(f"{line!r}; its log: {self.errors()}")
        self.url = line.removeprefix(READY).strip()

    @property
    def pid(self) -> int:
        return self.process.pid

    def errors(self) -> str:
        return Path(self.log.name).read_text()[-4000:]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        code = self.process.wait(seconds)
        self.close()
        return code

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def daemon(folder: Path, config: str | None = None, *arguments: str) -> Iterator[DaemonProcess]:
    """A running daemon; SIGTERM at the end unless it has ended."""
    process = DaemonProcess(folder, config, *arguments)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.signal(signal.SIGTERM)
            try:
                process.wait()
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.wait()
                raise
        else:
            process.close()
