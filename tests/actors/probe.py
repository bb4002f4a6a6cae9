"""An actor for tests of the kernel: it writes down what happens to it, and does what a test tells it to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from actors._actor import Actor, Cell, Ref
from actors._statistics import Outcome

Hook = Callable[[], Awaitable[object]]


@attrs.frozen
class Do:
    """A message: run the function; its value answers."""

    work: Callable[..., Awaitable[object]]
    deferred: bool = False


class ProbeRef(Ref):
    __slots__ = ()

    async def do(self, work: Hook, **options: Any) -> Any:
        return await self._ask(Do(work), **options)

    async def do_later(self, work: Hook, **options: Any) -> Any:
        """The same from a task of its own."""
        return await self._ask(Do(work, deferred=True), **options)

    async def tell(self, work: Hook) -> None:
        await self._tell(Do(work))

    @property
    def probe(self) -> Probe:
        actor = self._cell.actor
        assert isinstance(actor, Probe)
        return actor


class Probe(Actor):
    """`log` gets `name:event` for each hook that runs to its end; a hook that is cut short leaves `name:event cut`."""

    def __init__(
        self,
        log: list[str] | None = None,
        *,
        on_start: Hook | None = None,
        on_stopping: Hook | None = None,
        on_stop: Hook | None = None,
    ) -> None:
        self.log = log if log is not None else []
        self._hooks = {"start": on_start, "stopping": on_stopping, "stop": on_stop}
        self.told: list[tuple[str, Outcome]] = []

    def make_ref(self, cell: Cell) -> ProbeRef:
        return ProbeRef(cell)

    async def _run(self, event: str) -> None:
        hook = self._hooks[event]
        try:
            if hook is not None:
                await hook()
        except trio.Cancelled:
            self.log.append(f"{self.cell.name}:{event} cut")
            raise
        self.log.append(f"{self.cell.name}:{event}")

    async def on_start(self) -> None:
        await self._run("start")

    async def on_stopping(self, reason: str) -> None:
        await self._run("stopping")

    async def on_stop(self, reason: str) -> None:
        await self._run("stop")

    def on_child_end(self, child: Cell, outcome: Outcome) -> None:
        self.told.append((child.name, outcome))

    async def handle(self, message: object) -> object:
        assert isinstance(message, Do)
        return self.cell.defer(message.work) if message.deferred else await message.work()


async def forever() -> None:
    await trio.sleep_forever()


async def nothing() -> None:
    """Returns at once, without a checkpoint."""


def value(result: object) -> Hook:
    """A hook that returns `result`."""

    async def give() -> object:
        return result

    return give


def crash(error: BaseException) -> Hook:
    """A hook that raises `error`."""

    async def fail() -> None:
        raise error

    return fail


def until(event: trio.Event, result: object = None) -> Hook:
    """A hook that waits for `event`."""

    async def wait() -> object:
        await event.wait()
        return result

    return wait


def seconds(delay: float) -> Hook:
    """A hook that takes its time."""

    async def sleep() -> None:
        await trio.sleep(delay)

    return sleep
