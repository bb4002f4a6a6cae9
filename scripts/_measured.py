"""A daemon that tells of its collector: at SIGUSR1 it makes a full collection and adds a line of JSON to the file that
MEASURES names: what it took in ms, the containers that are tracked and those that are frozen, and by generation the
collections that came by themselves since the line before: how many, ms in all, and ms of the longest.

    MEASURES=file python scripts/_measured.py serve …        as `greenroom serve …`
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class Collector:
    def __init__(self) -> None:
        self._began = 0.0
        self._asked = False
        self._own: list[list[float]] = []
        self._reset()

    def _reset(self) -> None:
        self._own = [[0, 0.0, 0.0] for _ in range(3)]

    def hear(self, phase: str, info: dict[str, Any]) -> None:
        """For gc.callbacks."""
        if phase == "start":
            self._began = time.perf_counter()
        elif not self._asked:
            took = (time.perf_counter() - self._began) * 1000
            count, total, longest = self._own[info["generation"]]
            self._own[info["generation"]] = [count + 1, total + took, max(longest, took)]

    def measure(self, *_: object) -> None:
        """For the signal, in the main thread."""
        self._asked = True
        began = time.perf_counter()
        gc.collect()
        took = (time.perf_counter() - began) * 1000
        self._asked = False
        tracked, frozen = len(gc.get_objects()), gc.get_freeze_count()
        line = json.dumps({"ms": took, "tracked": tracked, "frozen": frozen, "own": self._own})
        self._reset()
        with open(os.environ["MEASURES"], "a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    collector = Collector()
    gc.callbacks.append(collector.hear)
    signal.signal(signal.SIGUSR1, collector.measure)
    from actors.cli import main

    sys.exit(main())
