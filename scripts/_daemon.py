"""What measurements share: a daemon as a process with its measures, a lean client of the wire, and the verdict."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.model_server import model_server as model_server  # noqa: E402 - found by the line above

# Seconds after the ready line in which the start's own work ends.
SETTLE = 1.0
# Seconds for an orderly end: the daemon's drain and its graces.
STOP = 60.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


# ------------------------------------------------------------ a lean WebSocket client
class Socket:
    """Enough of RFC 6455 for a measurement: the client must not be what is measured."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.largest = 0  # bytes of the largest message so far
        self._buffer = bytearray()

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, url: str, headers: Mapping[str, str], to: tuple[str, int] | None = None
    ) -> AsyncIterator[Socket]:
        """`to` is where the connection goes if not to the URL's own address (a relay in between)."""
        address, _, _path = url.removeprefix("ws://").partition("/")
        host, _, port = address.partition(":")
        async with await trio.open_tcp_stream(*(to or (host, int(port)))) as stream:
            await stream.send_all(upgrade(url, headers))
            socket = cls(stream)
            while (end := socket._buffer.find(b"\r\n\r\n")) < 0:
                await socket._more()
            assert socket._buffer.startswith(b"HTTP/1.1 101"), bytes(socket._buffer)
            del socket._buffer[: end + 4]
            yield socket

    async def send(self, text: str) -> None:
        await self.stream.send_all(frame(text.encode()))

    async def receive(self) -> list[bytes]:
        """The messages that have arrived; waits for one at least. Empty at the end of the connection."""
        while True:
            messages = []
            while (found := self._take()) is not None:
                opcode, data = found
                if opcode == 9:
                    await self.stream.send_all(frame(data, 0x8A))
                elif opcode == 8:
                    return messages
                else:
                    self.largest = max(self.largest, len(data))
                    messages.append(data)
            if messages:
                return messages
            await self._more()

    def reset(self) -> None:
        """End the connection without a farewell: the peer gets a reset."""
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _RESET_ON_CLOSE)
        self.stream.socket.close()

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some(262_144)
        except trio.BrokenResourceError as exc:
            raise ConnectionError("the server reset the connection") from exc
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data

    def _take(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, at = buffer[1], 2
        if size == 126:
            if len(buffer) < 4:
                return None
            size, at = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            if len(buffer) < 10:
                return None
            size, at = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < at + size:
            return None
        assert buffer[0] & 0x80, "fragmented messages are not expected"
        data = bytes(buffer[at : at + size])
        opcode = buffer[0] & 15
        del buffer[: at + size]
        return opcode, data


def upgrade(url: str, headers: Mapping[str, str]) -> bytes:
    """The request that makes a connection a WebSocket."""
    address, _, path = url.removeprefix("ws://").partition("/")
    lines = [
        f"GET /{path} HTTP/1.1", f"Host: {address}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def frame(data: bytes, first: int = 0x81) -> bytes:
    """A client's frame. Its mask is of zeroes: frames from clients are masked, what with is theirs to choose."""
    size = len(data)
    assert size < 65_536, "requests are small"
    head = struct.pack("!BBH", first, 0x80 | 126, size) if size > 125 else struct.pack("!BB", first, 0x80 | size)
    return head + b"\0\0\0\0" + data


def request(key: int, method: str, **params: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": key, "method": method, "params": params})


class Refused(Exception):
    """The error that a request got; `code` is that of the wire contract."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.code = error.get("data", {}).get("code")


class Client:
    """One task's use of a connection: requests one after another, the pushes that come meanwhile kept in order."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self._key = 0
        self._arrived: deque[bytes] = deque()
        self._pushes: deque[dict[str, Any]] = deque()

    async def initialize(self) -> Any:
        return await self.request("initialize", protocol=1, client={"name": "measurement", "version": "1"})

    async def request(self, method: str, **params: Any) -> Any:
        """The result. Raises Refused, ConnectionError."""
        self._key += 1
        await self.socket.send(request(self._key, method, **params))
        while True:
            message = await self._message()
            if "method" in message:
                self._pushes.append(message)
            elif message["id"] == self._key:
                if "error" in message:
                    raise Refused(message["error"])
                return message["result"]

    async def push(self) -> dict[str, Any]:
        while not self._pushes:
            message = await self._message()
            if "method" in message:
                return message
        return self._pushes.popleft()

    def forget(self) -> None:
        """Drop the pushes that have come meanwhile."""
        self._pushes.clear()

    async def _message(self) -> dict[str, Any]:
        while not self._arrived:
            messages = await self.socket.receive()
            if not messages:
                raise ConnectionError("the server said goodbye")
            self._arrived.extend(messages)
        message: dict[str, Any] = json.loads(self._arrived.popleft())
        return message


class Reader:
    """What a client knows of one run: its cursor and the text so far, however it was told."""

    def __init__(self) -> None:
        self.seq = 0
        self.ended: str | None = None  # the status that the run's last event has
        self.closed: str | None = None  # why the watch was closed
        self.gaps: list[dict[str, Any]] = []
        self.snapshots = 0
        self._text = bytearray()

    @property
    def text(self) -> bytes:
        return bytes(self._text)

    def start(self, seq: int, text: bytes) -> None:
        """Know the text as of `seq`."""
        self.seq = seq
        self._text[:] = text

    def take(self, push: dict[str, Any]) -> None:
        """A push of this run's watch. Events have to follow the cursor without a hole and without repetition."""
        params = push["params"]
        match push["method"]:
            case "run.events":
                for event in params["events"]:
                    self._event(event)
            case "run.gap":
                self.gaps.append(params)
            case "run.snapshot":
                self._snapshot(params)
            case "watch.closed":
                self.closed = params["reason"]
                self.ended = params.get("status", self.ended)

    def _event(self, event: dict[str, Any]) -> None:
        first = event.get("from", event["seq"])
        assert first == self.seq + 1, f"event {first} follows {self.seq}"
        self.seq = event["seq"]
        if event["type"] == "part.delta":
            self._text += event["text"].encode()
        elif event["type"] == "run.finished":
            self.ended = event["status"]

    def _snapshot(self, piece: dict[str, Any]) -> None:
        assert self.gaps, "a snapshot follows a gap"
        self.snapshots += 1
        if piece["offset"] == 0:
            self._text.clear()
        assert piece["offset"] == len(self._text), f"a piece at {piece['offset']} follows {len(self._text)} bytes"
        self._text += piece.get("text", "").encode()
        if not piece["more"]:
            self.seq = piece["seq"]


# ------------------------------------------------------------ processes under test
class Process:
    """A process with its measures."""

    name: str
    process: subprocess.Popen[bytes]
    ready_seconds: float
    idle: dict[str, float]  # MB when it had started

    def cpu(self) -> float:
        """Seconds of CPU time of the process so far, ended threads included."""
        return cpu_seconds(self.process.pid)

    def memory(self) -> dict[str, float]:
        """MB, resident and proportional."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return {
            key.lower(): round(int(match[1]) / 1024, 1)
            for key in ("Rss", "Pss")
            if (match := re.search(rf"^{key}:\s+(\d+) kB", rollup, re.M))
        }

    def resident(self) -> int:
        """Bytes; cheaper than `memory`."""
        return resident(self.process.pid)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def _start(self, command: list[str], ready: str, log: Path | None = None, settle: float = SETTLE) -> str:
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(open(log, "ab")) if log is not None else None
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.ready_seconds = round(time.monotonic() - began, 3)
        if not line.startswith(ready):
            self.end(signal.SIGKILL)
            raise RuntimeError(f"{self.name} did not start: {log.read_text()[-2000:] if log else line}")
        time.sleep(settle)  # what it still does after the ready line belongs to its idle state
        self.idle = self.memory()
        return line.removeprefix(ready).strip()

    def stop(self) -> int:
        return self.end(signal.SIGTERM)

    def end(self, number: int) -> int:
        """Send a signal and wait for the end; the exit code. Again: nothing."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


class Place:
    """Where a daemon is reached, by this process or another."""

    def __init__(self, url: str, ws_url: str, headers: dict[str, str]) -> None:
        self.url, self.ws_url, self.headers = url, ws_url, headers

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @contextlib.asynccontextmanager
    async def connect(self, to: tuple[str, int] | None = None) -> AsyncIterator[Client]:
        """An initialized connection."""
        async with Socket.connect(self.ws_url, self.headers, to) as socket:
            client = Client(socket)
            await client.initialize()
            yield client


class Daemon(Process, Place):
    """A daemon on `folder`/data whose one model is the service at `base_url`; its log is `folder`/log."""

    name = "daemon"

    def __init__(
        self,
        base_url: str,
        folder: Path,
        limits: Mapping[str, str | int] | None = None,
        settle: float = SETTLE,
        program: Sequence[str] = ("-m", "actors.cli"),  # for the interpreter
        tables: str = "",  # more of its configuration: TOML of whole tables
    ) -> None:
        self.folder = folder
        config = folder / "greenroom.toml"
        bounds = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (limits or {}).items())
        config.write_text(
            f'listen = "127.0.0.1:0"\ndefault_model = "service"\n'
            f'[models.service]\nprovider = "openai"\nbase_url = "{base_url}"\nmodel = "service"\n'
            f"[limits]\n{bounds}{tables}"
        )
        data = folder / "data"
        command = [sys.executable, *program, "serve", "--data", str(data), "--config", str(config)]
        url = self._start(command, "greenroom ready ", folder / "log", settle)
        described = json.loads((data / "daemon.json").read_text())
        token = Path(described["token_file"]).read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": "greenroom.v1"}
        Place.__init__(self, url, described["ws_url"], headers)

    def errors(self) -> list[str]:
        """Lines of its log that tell of a defect."""
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or "ERROR" in line]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, ended threads included."""
    return time.clock_gettime((~pid << 3) | 2)


def kept_waiting(pid: int) -> float:
    """Seconds for which the first thread of a process could have run and had no core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def pin(pid: int, cores: Iterable[int]) -> None:
    """Keep all threads of a process on these cores."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


def resident(pid: int | str = "self") -> int:
    """Bytes of resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_model() -> dict[str, Any]:
    """Of the machine: how many cores, and how busy they are with whatever else there is."""
    return {"cores": os.cpu_count(), "load": [round(value, 2) for value in os.getloadavg()]}


# ------------------------------------------------------------ what is found
def say(text: str) -> None:
    """Progress, for who watches."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class Findings:
    """Figures with units, and the conditions that have to hold."""

    def __init__(self, name: str, quick: bool) -> None:
        self._name = name
        self._quick = quick
        self._began = time.monotonic()
        self._load = cpu_model()
        self.figures: dict[str, Any] = {}
        self._failed: list[str] = []
        self._lines: dict[str, str] = {}  # by key: what is found again replaces

    def note(self, key: str, value: Any, unit: str, what: str) -> None:
        """A figure; `key` is its name in the JSON, which has the unit in it."""
        self.figures[key] = value
        self._lines[key] = f"       {what}: {value} {unit}".rstrip()

    def hold(self, key: str, value: Any, good: bool, unit: str, what: str) -> None:
        """A figure that has to be as `what` says."""
        self.figures[key] = value
        self._lines[key] = f"{'ok    ' if good else 'FAILED'} {what}: {value} {unit}".rstrip()
        if not good:
            self._failed.append(key)

    def aim(self, key: str, value: float, most: float, unit: str, what: str) -> None:
        """A time that is to be at most so much. A short measure on a busy machine is told and not judged."""
        if self._quick:
            self.note(key, value, unit, f"{what}, aim ≤ {most:g}")
        else:
            self.hold(key, value, value <= most, unit, f"{what} ≤ {most:g}")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What breaks the measurement itself off is a finding too."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - it is reported
            traceback.print_exc()
            while isinstance(exc, ExceptionGroup):
                exc = exc.exceptions[0]
            self.hold("broken_off", f"{type(exc).__name__}: {exc}", False, "", "the measurement was broken off")

    def report(self, only_json: bool) -> int:
        """Print all; the exit code."""
        if not only_json:
            print("\n".join(self._lines.values()))
        else:
            for line in self._lines.values():
                say(line)
        machine = {**cpu_model(), "load_before": self._load["load"]}
        seconds = round(time.monotonic() - self._began, 1)
        verdict = {"ok": not self._failed, "failed": self._failed}
        print(json.dumps({self._name: self.figures, "quick": self._quick, "seconds": seconds, **machine, **verdict}))
        return int(bool(self._failed))


def percentile(values: list[float], share: float) -> float:
    """Of a list that is not empty, sorted or not."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line through the points with the least squares."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
