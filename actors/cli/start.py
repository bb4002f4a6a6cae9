"""A client for a command, with a daemon started for it if that is wanted.

A daemon that is started here is the same daemon: `greenroom serve --idle-exit 60s`, in a session of its own, with its
output in a file of the data directory.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import trio

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, HELD, USAGE, Exit
from actors.cli.processes import holder
from actors.cli.settings import read_config
from actors.client import AccessDenied, Client, ConnectionLost, NoDaemon, connect
from actors.places import data_dir, make_private
from engine.config_values import Listen

IDLE_EXIT: Final = "60s"
NAME: Final = "greenroom"
# A lost connection is tried again for so long: a daemon that is restarted, a laptop that wakes up.
RECONNECT: Final = 30.0
# A daemon is ready within a second; the rest is for a slow disk that has much to settle.
START_SECONDS: Final = 60.0
_LOOK: Final = 0.05
_LOG_BYTES: Final = 1024 * 1024  # a larger log of earlier daemons is put aside, once
_TAIL_BYTES: Final = 4096
# Runs the program from where this one was imported, installed or not, whatever folder it is started in.
_PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from actors.cli import main; sys.exit(main())"


@contextlib.asynccontextmanager
async def open_client(arguments: Arguments, *, start: bool = False, reconnect: float = 0.0) -> AsyncIterator[Client]:
    """The daemon's client. Raises NoDaemon if none runs and none is to be started."""
    folder = data_dir(arguments.data)
    async with contextlib.AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connect(data_dir=folder, name=NAME, reconnect=reconnect))
        except NoDaemon:
            if not start:
                raise
        except AccessDenied:
            if holder(folder) is not None:
                raise
            # What refuses is a daemon of another directory, at the port of one of this directory that was killed.
            if not start:
                raise NoDaemon(f"no daemon runs on {folder} (start one with: greenroom serve)") from None
        else:
            yield client
            return
        await start_daemon(folder, arguments.config)
        yield await stack.enter_async_context(connect(data_dir=folder, name=NAME, reconnect=reconnect))


async def start_daemon(folder: Path, config: str | None) -> None:
    """Start a daemon and return when it can be used; one that somebody else starts meanwhile does as well.

    Raises Exit with the daemon's own code and words if it ends instead.
    """
    listen = read_config(config).listen
    make_private(folder)
    command = _command(folder, config, free_port=listen == Listen())
    log = folder / "daemon.log"
    process, begin = _spawn(command, log)
    with trio.move_on_after(START_SECONDS):
        while not await _answers(folder):
            code = process.poll()
            if code is not None and code != HELD:
                raise Exit(code if code == USAGE else FAILED, f"the daemon did not start ({log}):", *_tail(log, begin))
            await trio.sleep(_LOOK)
        return
    raise Exit(FAILED, f"the daemon is not ready after {START_SECONDS:.0f} s ({log}):", *_tail(log, begin))


def _spawn(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and where in the log its output begins."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
    with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
        begin = os.fstat(output.fileno()).st_size
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    _started[:] = [*(earlier for earlier in _started if earlier.poll() is None), process]
    return process, begin


# Daemons outlive the program that started them: kept, so that nothing waits for them or complains that nobody does.
_started: Final[list[subprocess.Popen[bytes]]] = []


def _command(folder: Path, config: str | None, *, free_port: bool) -> list[str]:
    """`free_port`: nobody chose one, and the default may be another daemon's, of another data directory."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-P", "-c", _PROGRAM, str(root), "serve", "--data", str(folder)]
    command += ["--idle-exit", IDLE_EXIT]
    if free_port:
        command += ["--listen", str(Listen(port=0))]
    if config is not None:
        command += ["--config", str(Path(config).expanduser().absolute())]
    return command


async def _answers(folder: Path) -> bool:
    try:
        async with connect(data_dir=folder, name=NAME):
            return True
    except (NoDaemon, ConnectionLost):
        return False


def _tail(log: Path, begin: int) -> list[str]:
    with open(log, "rb") as file:
        file.seek(max(begin, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()
