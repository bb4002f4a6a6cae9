"""The daemon: the composition behind a gateway, from its first file to its last.

Life: lock the directory, settle what a crash left open, listen, write daemon.json, say ready; then until SIGTERM
or SIGINT (or the idle time without clients and runs). The end: readiness off and new runs refused, active runs
get `drain_timeout` to end, then they are cancelled, watchers get their last events, sockets close with 1001,
the store closes last. A second signal skips the wait.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors._actor import Actor
from actors._ask import ActorDied
from actors._descriptors import raise_limit
from actors._memory import family
from actors._supervisor import ChildSpec
from actors.composition import Composition, open_composition
from actors.gateway import Gateway, GatewayRef, Services
from actors.gateway.port import TOLD_FULL_MAX
from actors.gateway.routes import Readiness
from actors.governor import Governor, GovernorRef
from actors.logs import hide, lost_lines
from actors.metrics import Figure, Figures, tallied
from actors.notify import Supervision
from actors.owners import Owners
from actors.places import DaemonFile, ensure_token, remove_daemon_file, token_file, write_daemon_file
from actors.recorder import History, Recorder
from engine.config import Config
from engine.memory import LEVELS
from engine.version import VERSION

_log = logging.getLogger("greenroom.daemon")

# How often a daemon that may end by itself looks whether it is idle.
IDLE_LOOK: Final = 0.5
# Objects made before a collection of the young ones. Each delta makes a few that die at once without the collector:
# Python's default of 700 would scan the young ones hundreds of times a second, and the old ones every few seconds.
# What a burst of starts leaves is scanned in portions of 5,000 × 10 objects, some 20 ms (scripts/stress.py).
GC_THRESHOLDS: Final = (5_000, 10, 100)
# A connection's goodbye with its last events, after the runs have ended.
GATEWAY_GRACE: Final = 10.0


async def serve(
    config: Config,
    *,
    data_dir: Path,
    idle_exit: float | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
    inherited: Sequence[socket.socket] = (),
    supervision: Supervision | None = None,
) -> None:
    """Run the daemon until a signal (or `idle_exit` seconds without clients and runs) ends it.

    `on_ready` gets the URL when it can be used. The `inherited` sockets stand in for `config.listen` and stay the
    caller's. `supervision` is told of readiness, of the end, and of life in between.

    Raises EngineError for a directory or database that cannot be used, engine.storage.lock.Held when another daemon
    has it, OSError when the address cannot be had, and an ExceptionGroup when a part failed too often to be restarted.
    """
    raise_limit(config.limits.connections_max + TOLD_FULL_MAX)
    daemon = _Daemon(config, data_dir, time.monotonic(), inherited)
    supervision = supervision or Supervision()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            supervision.signs(),
            open_composition(config, data_dir, extra=daemon.parts, alone=True) as composition,
        ):
            try:
                daemon.announce(composition)
                _settle_memory()
                daemon.owners.settle()
                daemon.ready(composition)
                _log.info("greenroom %s is ready at %s", VERSION, daemon.url)
                on_ready(daemon.url)
                supervision.tell("READY=1", f"STATUS=ready at {daemon.url}")
                await daemon.wait(composition, signals, idle_exit)
                supervision.tell("STOPPING=1", "STATUS=draining")
                await daemon.drain(composition, signals)
            finally:
                remove_daemon_file(data_dir, os.getpid())
    _log.info("ended")


def _settle_memory() -> None:
    """What the start made stays for good: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class _Daemon:
    """The gateway's wiring, and the steps of `serve`."""

    def __init__(self, config: Config, folder: Path, started: float, inherited: Sequence[socket.socket] = ()) -> None:
        self._config = config
        self._inherited = inherited
        self._folder = folder
        self._started = started
        self._readiness: Readiness = "starting"
        self.url = ""
        self.owners = Owners()
        self._history = History()

    def parts(self, composition: Composition) -> Sequence[ChildSpec]:
        """What the daemon has behind the composition's own actors."""
        token = ensure_token(self._folder)
        hide(token)

        def gateway() -> Actor:
            services = Services(
                config=self._config,
                registry=composition.registry,
                toolsets=composition.toolbox,
                stats=functools.partial(self._stats, composition),
                figures=functools.partial(self._figures, composition),
                history=self._history.told,
            )
            return Gateway(services, token, readiness=self._readiness, inherited=self._inherited)

        def governor() -> Actor:
            held, kept = functools.partial(_held, composition), functools.partial(_kept, composition)
            return Governor(composition, self._config.limits, held=held, kept=kept)

        return [
            ChildSpec(name="gateway", factory=gateway, grace=GATEWAY_GRACE),
            ChildSpec(name="governor", factory=governor),
            ChildSpec(
                name="recorder", factory=lambda: Recorder(self._history, functools.partial(self._look, composition))
            ),
        ]

    def announce(self, composition: Composition) -> None:
        """Write daemon.json. A gateway that is restarted listens where it did before."""
        gateway: GatewayRef = composition.root.child("gateway")
        self.url = gateway.url
        if self._config.listen.unix_path is None:
            port = int(gateway.url.rpartition(":")[2])
            self._config = attrs.evolve(self._config, listen=attrs.evolve(self._config.listen, port=port))
        daemon = DaemonFile(
            url=gateway.url,
            ws_url=gateway.ws_url,
            pid=os.getpid(),
            token_file=str(token_file(self._folder)),
        )
        write_daemon_file(self._folder, daemon)

    def ready(self, composition: Composition) -> None:
        self._readiness = "ready"
        gateway: GatewayRef = composition.root.child("gateway")
        gateway.ready()

    async def wait(self, composition: Composition, signals: AsyncIterator[int], idle_exit: float | None) -> None:
        """Until a signal, or until nobody has used the daemon for `idle_exit` seconds."""
        async with trio.open_nursery() as nursery:
            if idle_exit is not None:
                nursery.start_soon(self._until_idle, composition, idle_exit, nursery.cancel_scope)
            async for number in signals:
                _log.info("%s: draining", signal.Signals(number).name)
                break
            nursery.cancel_scope.cancel(reason="a signal")

    async def _until_idle(self, composition: Composition, idle_exit: float, scope: trio.CancelScope) -> None:
        since = trio.current_time()
        while trio.current_time() - since < idle_exit:
            await trio.sleep(min(IDLE_LOOK, idle_exit))
            try:
                gateway: GatewayRef = composition.root.child("gateway")
                busy = (
                    gateway.gateway_statistics().connections or composition.registry.registry_statistics().active_runs
                )
            except ActorDied:
                busy = 1  # a part is being restarted
            if busy:
                since = trio.current_time()
        _log.info("no client and no run for %g s: ending", idle_exit)
        scope.cancel(reason="idle")

    async def drain(self, composition: Composition, signals: AsyncIterator[int]) -> None:
        """Let the active runs end, then cancel what is left. A second signal skips the wait."""
        self._readiness = "draining"
        try:
            gateway: GatewayRef = composition.root.child("gateway")
            gateway.drain()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hurry, signals, nursery.cancel_scope)
                with trio.move_on_after(self._config.limits.drain_timeout) as patience:
                    await composition.registry.drain()
                if patience.cancelled_caught:
                    _log.warning("runs are still active after %g s: cancelling", self._config.limits.drain_timeout)
                nursery.cancel_scope.cancel(reason="drained")
            await composition.registry.end_runs()
        except ActorDied:
            return  # a part is being restarted: the root's stop ends whatever there is

    async def _hurry(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            _log.warning("%s again: not waiting for runs", signal.Signals(number).name)
            scope.cancel(reason="a second signal")

    # ------------------------------------------------------------ figures
    async def _stats(self, composition: Composition) -> dict[str, Any]:
        """The result of `daemon.stats`, but for what the gateway counts itself."""
        registry = composition.registry.registry_statistics()
        store = composition.store.store_statistics()
        governor: GovernorRef = composition.root.child("governor")
        gateway: GatewayRef = composition.root.child("gateway")
        connections = gateway.gateway_statistics().connections
        guard = composition.guard.statistics()
        now, children = await self.owners.look(guard.pid)
        return {
            "uptime_s": round(time.monotonic() - self._started, 3),
            "memory": {
                "resident": now.resident.total,
                "state": governor.governor_statistics().level,
                "owned": self.owners.owned(now, registry, store, composition.models.statistics(), connections),
            },
            "counts": {
                "sessions": registry.sessions,
                "active_runs": registry.active_runs,
                "retained_runs": registry.retained_runs,
                "commits": store.commits,
                "stored_changes": store.writes,
                "decoded_messages": store.rows.entries,
                "decoded_messages_found": store.rows.hits,
                "decoded_messages_read": store.rows.misses,
                "decoded_messages_dropped": store.rows.evictions,
            },
            "processes": {
                "programs": guard.processes,
                "started": guard.spawned,
                "all": children.processes,
                "resident": children.resident,
            },
            "actors": {"daemon": composition.root.tree()},
        }

    async def _look(self, composition: Composition) -> dict[str, Any]:
        """The result of `daemon.stats`, whole."""
        gateway: GatewayRef = composition.root.child("gateway")
        return gateway.with_gateway(await self._stats(composition))

    def _figures(self, composition: Composition) -> Figures:
        """For /metrics. A part that is being restarted has none."""
        guard = composition.guard.statistics()
        children = functools.cache(functools.partial(family, guard.pid))
        figures: dict[str, Figure] = {
            "greenroom_programs": guard.processes,
            "greenroom_programs_started_total": guard.spawned,
            "greenroom_child_processes": lambda: children().processes,
            "greenroom_child_processes_resident_bytes": lambda: children().resident,
            "greenroom_build_info": {(VERSION,): 1},
            "greenroom_model_calls_open": composition.models.statistics().calls,
            "greenroom_log_lines_dropped_total": lost_lines(),
            **tallied(composition.tally),
        }
        with contextlib.suppress(ActorDied):
            registry = composition.registry.registry_statistics()
            figures |= {
                "greenroom_sessions": registry.sessions,
                "greenroom_runs": {
                    ("active",): registry.active_runs,
                    ("queued",): registry.queued_runs,
                    ("retained",): registry.retained_runs,
                },
                "greenroom_replay_log_bytes": registry.log_bytes,
            }
            connections = composition.root.child("gateway").gateway_statistics().connections
            owned = self.owners.counted(
                registry, composition.store.store_statistics(), composition.models.statistics(), connections
            )
            governed = composition.root.child("governor").governor_statistics()
            figures |= {
                "greenroom_memory_owned_bytes": {(owner,): held for owner, held in owned.items()},
                "greenroom_memory_state": {(state,): int(state == governed.level) for state in LEVELS},
                "greenroom_memory_releases_total": governed.releases,
                "greenroom_memory_shed_bytes_total": governed.shed_bytes,
            }
        with contextlib.suppress(ActorDied):
            store = composition.store.store_statistics()
            figures |= {
                "greenroom_store_commits_total": store.commits,
                "greenroom_store_writes_total": store.writes,
                "greenroom_store_reads_total": store.reads,
                "greenroom_store_waiting_operations": store.waiting,
                "greenroom_store_unsaved_bytes": store.unsaved,
                "greenroom_store_log_bytes": store.log_bytes,
                "greenroom_store_commit_duration_seconds": store.commit_seconds,
                "greenroom_row_cache_entries": store.rows.entries,
                "greenroom_row_cache_hits_total": store.rows.hits,
                "greenroom_row_cache_misses_total": store.rows.misses,
                "greenroom_row_cache_evictions_total": store.rows.evictions,
            }
        return figures


def _held(composition: Composition) -> int:
    """What the daemon works with, counted: when much of it has ended, there is memory to be given back."""
    registry = composition.registry.registry_statistics()
    gateway: GatewayRef = composition.root.child("gateway")
    return registry.active_runs + registry.queued_runs + gateway.gateway_statistics().connections


def _kept(composition: Composition) -> int:
    """What stays in memory for a while behind the work, counted."""
    registry = composition.registry.registry_statistics()
    return registry.retained_runs + registry.sessions
