"""A watch as a connection holds it, pulled when an operation says so, and what was told through it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from actors.gateway.watches import RunReader, Watch
from tests.stress.seen import TERMINAL, Json, Seen

if TYPE_CHECKING:
    from tests.stress.registry_world import World


@attrs.define(eq=False)
class Follower:
    """A watch, and what was told through it."""

    world: World
    watch: Watch | None = None
    seen: dict[str, Seen] = attrs.field(factory=dict)
    dirty: bool = False
    over: bool = False  # told to its end
    closed: bool = False  # by us, or with the engine
    broken: bool = False  # the engine went away under a snapshot

    # ------------------------------------------------------------ Post
    def ring(self, watch: Watch) -> None:
        self.dirty = True

    def want(self, reader: RunReader) -> None:
        self.world.tasks.start_soon(self._fetch, reader)

    def release(self, reader: RunReader) -> None:
        pass

    async def _fetch(self, reader: RunReader) -> None:
        try:
            await reader.tell(await reader.feed.snapshot())
        except Exception:
            if not (self.world.closing or self.closed):
                raise
            self.broken = True
            reader.give_up()

    # ------------------------------------------------------------ the writer's side
    @property
    def open(self) -> bool:
        return self.watch is not None and not self.over and not self.closed

    def pull(self, room: int) -> bool:
        """One frame, as Writer._gather does it; False if there was none."""
        watch = self.watch
        if watch is None or not self.open or not self.dirty:
            return False
        text = watch.pull(room)
        self.dirty = text is not None and (watch.behind or watch.over)
        if text is not None:
            self._take(json.loads(text), room)
        if watch.over:
            self.over = True
            watch.close()
        return text is not None

    def _take(self, frame: Json, room: int) -> None:
        method, params = frame["method"], frame["params"]
        assert params["watch_id"] == "w"
        if method == "session.changed":
            return
        if method == "watch.closed":
            assert "run_id" not in params or params["reason"] == "draining" or params["status"] in TERMINAL
            return
        if not self.broken:
            run_id = params["run_id"]
            if run_id not in self.seen:
                self.seen[run_id] = Seen(run_id, self.world.script_of(run_id))
            self.seen[run_id].take(method, params)
            self.world.stats[method] += 1

    def close(self) -> None:
        self.closed = True
        if self.watch is not None:
            self.watch.close()
