"""Any interleaving of what clients, models, tools, time, restarts and crashes do to the registry, its sessions and
their watchers; what holds is in tests/stress/registry_world.py.

`GREENROOM_EXAMPLES=2000` plays that many random examples instead of the few that are always the same.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.stress.registry_world import Operation, play

EXAMPLES = int(os.environ.get("GREENROOM_EXAMPLES", "0"))
USUAL = 48  # in seconds: about eight on a quiet machine

index = st.integers(0, 7)


def one(name: str, *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(name), *arguments)


model = one("model", index, st.sampled_from(["text", "reasoning", "burst", "end", "fail", "falter", "tools"]), index)
busy = st.sampled_from(["reject", "queue", "queue", "steer", "interrupt"])
start = one("start", index, busy, st.booleans())
settle = one("settle")
pull = one("pull", index, st.sampled_from([1, 200, 4096]), st.integers(1, 20))
watch = one("watch", index, st.sampled_from(["begin", "resume", "future"]))
OPERATIONS = st.one_of(
    one("create"),
    start, start, start,
    one("repeat", index),
    model, model, model, model,
    one("release"),
    watch, watch,
    one("watch_session", index),
    pull, pull,
    one("close", index),
    one("stop", index, st.integers(1, 3)),
    one("delete", index),
    settle, settle,
    one("turn", st.integers(1, 12)),
    one("advance", st.sampled_from([0.3, 2.0, 4.0, 8.0])),
    one("hold"), one("hold"),
    one("rest"), one("rest"),
    one("restart"),
    one("crash"),
)  # fmt: skip
# What every example begins with: two sessions, and a run whose model was called.
PREFIX: list[Operation] = [("create",), ("create",), ("start", 0, "reject", True)]


def run(operations: list[Operation]) -> Counter[str]:
    with tempfile.TemporaryDirectory(prefix="greenroom-") as folder:
        return play(operations, Path(folder))


def in_the_moment_of_an_end(when_busy: str) -> list[Operation]:
    """A message is sent to the session while the end of its run is being stored."""
    end: list[Operation] = [("model", 0, "end", 0), ("rest",), ("start", 0, when_busy, False), ("rest",), ("settle",)]
    return [("hold",), *end, ("hold",), *end, ("model", 0, "end", 0), ("settle",)]


@example(in_the_moment_of_an_end("queue"))
@example(in_the_moment_of_an_end("steer"))
@settings(
    max_examples=EXAMPLES or USUAL,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(OPERATIONS, min_size=20, max_size=70))
def test_any_interleaving(operations: list[Operation]) -> None:
    run([*PREFIX, *operations])


def test_the_world_turns() -> None:
    """What the operations do when they are given time: a test of the interpreter itself."""
    rest: Operation = ("settle",)
    stats = run(
        [
            *PREFIX, rest,
            ("watch", 0, "begin"), ("watch_session", 0), ("model", 0, "reasoning", 3), ("model", 0, "text", 5), rest,
            ("pull", 0, 4096, 20), ("model", 0, "burst", 7), ("model", 0, "tools", 1), rest, ("pull", 0, 200, 1), rest,
            ("hold",), ("release",), ("rest",), ("watch", 0, "begin"), ("pull", 0, 1, 1), rest, ("model", 0, "text", 5),
            ("start", 0, "reject", False), ("model", 0, "falter", 0), rest, ("advance", 2.0), rest,
            ("model", 0, "falter", 0), rest, ("advance", 4.0), rest, ("model", 0, "text", 1), rest,
            ("start", 0, "interrupt", False), rest,
            ("model", 0, "burst", 7), ("stop", 1, 3), rest, ("watch", 0, "resume"), ("advance", 8.0), rest,
            ("watch", 0, "resume"), ("watch", 1, "begin"), ("start", 0, "reject", True), ("model", 0, "text", 2), rest,
            ("crash",), ("watch", 2, "begin"), ("start", 0, "reject", False), rest, ("model", 0, "end", 0), rest,
            ("restart",), ("watch", 3, "begin"), rest, ("create",), ("delete", 1), rest,
            ("start", 0, "reject", True), ("start", 0, "steer", True), *[("start", 0, "queue", True)] * 4, rest,
            ("model", 0, "end", 0), rest, ("model", 0, "end", 0), rest, ("crash",), rest, ("restart",), rest,
            ("stop", 7, 1), rest, ("model", 0, "end", 0), rest,
        ]
    )  # fmt: skip
    for name in (
        "session_busy",
        "falter",
        "tried again",
        "started",
        "stopped",
        "watched",
        "watched evicted",
        "held",
        "run.gap",
        "run.snapshot",
        "compared",
        "deleted",
        "steer",
        "queue",
        "queue_full",
        "waiting",
    ):
        assert stats[name], f"{name}: {stats}"
