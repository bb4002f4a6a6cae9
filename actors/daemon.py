"""The daemon: the composition behind a gateway, from its first file to its last.

Life: lock the directory, settle what a crash left open, listen, write daemon.json, say ready; then until SIGTERM
or SIGINT (or the idle time without clients and runs). The end: readiness off and new runs refused, active runs
get `drain_timeout` to end, then they are cancelled, watchers get their last events, sockets close with 1001,
the store closes last. A second signal skips the wait.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from actors import places
from actors.composition import Composition, open_composition
from actors.gateway import GatewayRef
from engine.config import Config

_log = logging.getLogger("greenroom.daemon")

# How often the idle daemon looks whether it may end; only when it was asked to end by itself.
IDLE_LOOK: Final = 1.0
# Young objects before a collection: the default 700 makes a full collection every few thousand deltas' garbage.
GC_THRESHOLDS: Final = (10_000, 20, 50)


async def serve(
    config: Config,
    *,
    data_dir: Path,
    idle_exit: float | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Run the daemon until a signal (or `idle_exit` seconds without clients and runs) ends it.

    `on_ready` gets the URL when it can be used. Raises EngineError for a directory that cannot be used,
    engine.storage.lock's error when another daemon holds it, OSError when the address cannot be had, and an
    ExceptionGroup when a part failed too often to be restarted.
    """
    started = time.monotonic()
    places.make_private(data_dir)
    token = places.ensure_token(data_dir)
    daemon = _Daemon(config, data_dir, token, started)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_composition(config, data_dir, extra=daemon.gateway_specs) as composition:
            gateway: GatewayRef = composition.root.child("gateway")
            daemon.announce(gateway)
            try:
                gc.collect()
                gc.freeze()
                gc.set_threshold(*GC_THRESHOLDS)
                gateway.ready()
                on_ready(gateway.url)
                await daemon.wait(composition, signals, idle_exit)
                await daemon.drain(composition, signals)
            finally:
                places.remove_daemon_file(data_dir, os.getpid())


class _Daemon:
    def __init__(self, config: Config, folder: Path, token: str, started: float) -> None:
        self._config = config
        self._folder = folder
        self._token = token
        self._started = started
        self._composition: Composition | None = None
