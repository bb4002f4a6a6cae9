"""`greenroom serve`: the daemon in the foreground."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path

import trio

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, USAGE, Exit
from actors.cli.failures import explain
from actors.cli.settings import read_config, seconds
from actors.daemon import serve
from actors.gateway.inherited import take_inherited, where
from actors.logs import logging_to
from actors.notify import take_supervision
from actors.places import data_dir
from engine.config import Config


def main(arguments: Arguments) -> int:
    supervision = take_supervision(os.environ)
    config, inherited = _configured(arguments)
    idle_exit = None if arguments.idle_exit is None else seconds("--idle-exit", arguments.idle_exit)
    for chatty in ("trio-websocket", "httpx2", "httpcore2"):  # each frame, each request with its URL
        logging.getLogger(chatty).setLevel(logging.WARNING)
    work = partial(
        serve,
        config,
        data_dir=data_dir(arguments.data),
        idle_exit=idle_exit,
        on_ready=_say_ready,
        inherited=inherited,
        supervision=supervision,
    )
    # Without standard error its number is free, and is that of some file by now.
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    with contextlib.ExitStack() as stack:
        for sock in inherited:
            stack.enter_context(sock)
        stack.enter_context(logging_to(descriptor, arguments.log_format, config.log_level))
        try:
            trio.run(work)
        except OSError as exc:  # of the listening address or of the certificate; the others have names of their own
            file = f": {exc.filename}" if exc.filename else ""
            raise Exit(USAGE, f"cannot serve at {config.listen}: {exc.strerror or exc}{file}") from exc
        except Exception as exc:
            if not isinstance(exc, ExceptionGroup) and explain(exc) is not None:
                raise
            logging.getLogger("greenroom").exception("the daemon has failed")
            return FAILED
    return 0


def _configured(arguments: Arguments) -> tuple[Config, list[socket.socket]]:
    """The configuration, and the sockets that were opened for this process: each stands in for `listen`, is held to the
    same rules (no clear text beyond this machine), and an option for the address has to be left out then."""
    overrides = _overrides(arguments)
    try:
        inherited = take_inherited(os.environ)
        addresses = [where(sock) for sock in inherited]
    except OSError as exc:
        raise Exit(USAGE, str(exc)) from exc
    if inherited and arguments.listen is not None:
        raise Exit(USAGE, "--listen: the sockets were opened by who started this (LISTEN_FDS): leave it out")
    configs = [read_config(arguments.config, **{**overrides, "listen": str(address)}) for address in addresses]
    return (configs or [read_config(arguments.config, **overrides)])[0], inherited


def _overrides(arguments: Arguments) -> dict[str, object]:
    given: dict[str, object] = {
        "listen": arguments.listen,
        "insecure": arguments.insecure,
        "log_level": arguments.log_level,
    }
    if arguments.tls_cert is not None or arguments.tls_key is not None:
        tls = {"cert_file": arguments.tls_cert, "key_file": arguments.tls_key}
        given["tls"] = {name: _absolute(file) for name, file in tls.items() if file is not None}
    return {name: value for name, value in given.items() if value is not None}


def _absolute(file: str) -> str:
    return str(Path(file).expanduser().absolute())


def _say_ready(url: str) -> None:
    with contextlib.suppress(OSError):  # nobody has to listen
        os.write(sys.stdout.fileno(), f"greenroom ready {url}\n".encode())
