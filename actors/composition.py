"""The composition root: which actors there are, in which order, and what each is given.

The root is a rest_for_one supervisor over store, toolsets, registry (with sessions and runs) and whatever the
caller adds behind them (the daemon adds its gateway). What stands below a restarted child is started again with
the new Refs; its runs settle as interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from actors._actor import Actor, open_actor
from actors._ask import ActorDied
from actors._guard import Guard, open_guard
from actors._spool import Spools, ToolsetSpool, open_spools
from actors._supervisor import ChildSpec, Supervisor, SupervisorRef
from actors._tally import Tally
from actors._toolset_life import Toolset
from actors._toolset_shared import SharedToolset
from actors.creating import Defaults
from actors.models import Models
from actors.places import make_private
from actors.registry import Registry
from actors.registry_ref import RegistryRef
from actors.run import SHUTDOWN
from actors.services import Services
from actors.store import Store
from actors.store_ref import StoreRef
from actors.titles import Titles
from actors.toolset import Toolbox, ToolsetActor
from actors.toolsets.files import FilesToolset, ReadPiece
from actors.toolsets.functions import FunctionsToolset
from actors.toolsets.mcp import McpToolset, Server
from actors.toolsets.shell import ShellToolset, call_limit
from actors.toolsets.todos import TodoToolset
from actors.toolsets.web import WebToolset
from engine.commands import OutputPiece
from engine.config import Config, ToolsetConfig
from engine.limits import Limits
from engine.restart import Backoff
from engine.runs.budget import LogBudget
from engine.storage import lock
from engine.tools.environment import child_environment
from engine.tools.fetch_rules import parse_network
from engine.tools.permissions import Judge
from engine.transcript.todo import Todo

# Waiting for the GIL is bounded by this: threads that scan bytes hold it for 5 ms a turn by default.
SWITCH_INTERVAL = 0.001


@attrs.frozen(slots=True)
class Composition:
    """The running parts. Refs are looked up anew on each use: a restarted child has another one."""

    root: SupervisorRef
    models: Models
    toolbox: Toolbox
    folder: Path
    tally: Tally
    guard: Guard

    @property
    def registry(self) -> RegistryRef:
        ref: RegistryRef = self.root.child("registry")
        return ref

    @property
    def store(self) -> StoreRef:
        ref: StoreRef = self.root.child("store")
        return ref


# The store's end folds its log into the database: seconds at most, more only on a disk that fails.
STORE_GRACE = 30.0
# The whole tree's end: the sum of its children's graces in the worst case.
ROOT_GRACE = 120.0
TOOLSET_BACKOFF = Backoff(first=1.0, most=32.0)
# The toolset of the functions that a program registers (open_engine).
FUNCTIONS = "functions"

Extra = Callable[[Composition], Sequence[ChildSpec]]


@contextlib.asynccontextmanager
async def open_composition(
    config: Config,
    folder: Path,
    *,
    functions: Sequence[Callable[..., Any]] = (),
    extra: Extra = lambda composition: (),
    alone: bool = False,
) -> AsyncIterator[Composition]:
    """Run everything on a data directory until the block ends; then runs are cancelled, and all is closed in
    reverse order of start. Raises PeerError (disk_full), lock.Held when another daemon has the directory.

    `alone`: this process has no other children (see actors._guard).

    A root that gives up (a permanent child that ends too often) cancels the block and is raised from here.
    """
    make_private(folder)
    sys.setswitchinterval(SWITCH_INTERVAL)
    with lock.hold(folder):
        tally = Tally()
        async with (
            open_spools(folder, config.limits) as spools,
            open_guard(config.limits, adopts=alone) as guard,
            Models(config.models, config.limits, tally=tally) as models,
        ):
            rules = config.permissions
            judge = Judge(deny=rules.deny, ask=rules.ask, allow=rules.allow)
            # Factories run when their child is started, and again when it is restarted: they look Refs up then.
            refs: list[SupervisorRef] = []

            def child(name: str) -> Any:
                return refs[0].child(name)

            toolsets = make_toolsets(config, functions, spools, guard, Behind(child))

            toolbox = Toolbox(list(toolsets), lambda name: child("toolsets").child(name), tally)

            def store() -> Actor:
                return Store(folder, limits=config.limits, durability=config.durability)

            def toolset_supervisor() -> Actor:
                # Longer than a toolset's own deadline, which it reports as a failure of its own.
                timeout = 2 * config.limits.toolset_start_timeout
                return Supervisor(
                    [
                        ChildSpec(name=name, factory=make, restart="transient", start_timeout=timeout)
                        for name, make in toolsets.items()
                    ],
                    backoff=TOOLSET_BACKOFF,
                )

            def registry() -> Actor:
                store_ref: StoreRef = child("store")
                title_model = config.title_model
                services = Services(
                    store=store_ref,
                    titles=None if title_model is None else Titles(models, store_ref, title_model),
                    models=models,
                    toolbox=toolbox,
                    limits=config.limits,
                    judge=judge,
                    headless=config.permissions.headless,
                    budget=LogBudget(config.limits.all_logs_bytes, config.limits.ended_logs_bytes),
                    tally=tally,
                )
                defaults = Defaults(model=config.default_model, toolsets=tuple(toolsets), cwd=os.getcwd())
                return Registry(services, defaults)

            specs = [
                ChildSpec(name="store", factory=store, grace=STORE_GRACE),
                ChildSpec(name="toolsets", factory=toolset_supervisor),
                ChildSpec(name="registry", factory=registry, grace=3 * config.limits.cancel_grace),
            ]
            supervisor = Supervisor(strategy="rest_for_one")
            async with open_actor(supervisor, "daemon", grace=ROOT_GRACE) as root:
                refs.append(root)
                composition = Composition(root, models, toolbox, folder, tally, guard)
                await root.add(*specs)
                await root.add(*extra(composition))
                try:
                    yield composition
                finally:
                    with trio.CancelScope(shield=True):  # bounded by the graces
                        await root.stop(SHUTDOWN)


class Behind:
    """What built-in toolsets ask of the parts that they work for. `child` gives the present Ref of a part."""

    def __init__(self, child: Callable[[str], Any]) -> None:
        self._child = child

    @property
    def _store(self) -> StoreRef:
        store: StoreRef = self._child("store")
        return store

    async def read_output(self, session_id: str, handle: str, offset: int, limit: int) -> OutputPiece:
        return await self._store.read_own_output(session_id, handle, offset, limit)

    async def read_todos(self, session_id: str) -> tuple[Todo, ...]:
        return (await self._store.get_session(session_id)).todos

    async def write_todos(self, session_id: str, todos: tuple[Todo, ...]) -> None:
        await self._store.put_todos(session_id, todos)
        with contextlib.suppress(ActorDied):  # without a registry nobody watches
            registry: RegistryRef = self._child("registry")
            registry.session_changed(session_id)


def make_toolsets(
    config: Config, functions: Sequence[Callable[..., Any]], spools: Spools, guard: Guard, behind: Behind
) -> dict[str, Callable[[], Actor]]:
    """How to make each configured toolset's actor, by name."""
    limits = config.limits
    servers = _Servers(config, spools, guard)

    def configured(name: str, chosen: ToolsetConfig) -> Actor:
        if name == "files":
            return _files(chosen, limits, spools.of_toolset(name), behind.read_output)
        if name == "todo":
            todos = TodoToolset(chosen.tools, read=behind.read_todos, write=behind.write_todos)
            return ToolsetActor(todos, limits=limits, call_timeout=chosen.call_timeout)
        if chosen.kind == "mcp":
            return servers.actor(name, chosen)
        make = {"shell": _shell, "web": _web}[name]
        return make(chosen, limits, spools.of_toolset(name), guard)

    made: dict[str, Callable[[], Actor]] = {
        name: functools.partial(configured, name, chosen) for name, chosen in config.toolsets.items()
    }
    if functions:
        # Made here, so that a function that cannot be a tool is refused at once and by its name.
        toolset = FunctionsToolset(functions, limits=limits)
        made[FUNCTIONS] = lambda: ToolsetActor(toolset, limits=limits, spool=spools.of_toolset(FUNCTIONS))
    return made


def _files(chosen: ToolsetConfig, limits: Limits, spool: ToolsetSpool, read_output: ReadPiece) -> ToolsetActor:
    toolset = FilesToolset(chosen.tools, limits=limits, read_output=read_output)
    return ToolsetActor(toolset, limits=limits, call_timeout=chosen.call_timeout, spool=spool)


def _web(chosen: ToolsetConfig, limits: Limits, spool: ToolsetSpool, guard: Guard) -> ToolsetActor:
    allowed = [parse_network(text) for text in chosen.allow_networks]
    toolset = WebToolset(spool, chosen.tools, allowed=allowed, limits=limits)
    return ToolsetActor(toolset, limits=limits, call_timeout=chosen.call_timeout, spool=spool)


def _shell(chosen: ToolsetConfig, limits: Limits, spool: ToolsetSpool, guard: Guard) -> ToolsetActor:
    # What is configured for a call bounds the commands, which then still tell what they have written.
    if chosen.call_timeout is not None:
        limits = attrs.evolve(limits, shell_timeout_max=min(chosen.call_timeout, limits.shell_timeout_max))
    env = child_environment(os.environ)
    toolset = ShellToolset(guard, spool, env=env, tools=chosen.tools, limits=limits)
    return ToolsetActor(toolset, limits=limits, call_timeout=call_limit(limits), spool=spool)


class _Servers:
    """The tool servers of a configuration. Names that are configured alike (but for their choice of tools, restarts and
    times) share one."""

    def __init__(self, config: Config, spools: Spools, guard: Guard) -> None:
        self._limits = config.limits
        self._spools = spools
        self._guard = guard
        self._servers = {name: server_of(chosen) for name, chosen in config.toolsets.items() if chosen.kind == "mcp"}
        self._shared: dict[str, SharedToolset] = {}  # by name
        for server in self._servers.values():
            alike = [name for name, other in self._servers.items() if other == server]
            if len(alike) > 1 and alike[0] not in self._shared:
                # Its spool is none of the names' own, which are emptied when they stop.
                shared = SharedToolset(McpToolset(server, guard, spools.of_toolset("shared"), limits=config.limits))
                self._shared |= dict.fromkeys(alike, shared)

    def actor(self, name: str, chosen: ToolsetConfig) -> ToolsetActor:
        limits, spool = self._limits, self._spools.of_toolset(name)
        toolset: Toolset
        if name in self._shared:
            toolset = self._shared[name].view(chosen.tools)
        else:
            toolset = McpToolset(self._servers[name], self._guard, spool, tools=chosen.tools, limits=limits)
        return ToolsetActor(
            toolset,
            limits=limits,
            call_timeout=chosen.call_timeout,
            restart=chosen.restart,
            lazy=True,
            idle=limits.toolset_idle,
            spool=spool,
        )


def server_of(chosen: ToolsetConfig) -> Server:
    """How to reach a tool server of the configuration, from this process and its folder."""
    return Server(
        command=(chosen.command, *chosen.args) if chosen.command is not None else (),
        env={**child_environment(os.environ), **(chosen.env or {})},
        cwd=os.getcwd(),
        url=chosen.url,
        headers_env=chosen.headers_env or {},
        environ=os.environ,
        roots=chosen.roots,
    )
