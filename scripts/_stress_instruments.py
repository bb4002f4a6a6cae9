"""Instruments of the stress test: stalls of the loop, latencies, memory, progress."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import trio

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Loop(trio.abc.Instrument):
    """The longest time that the loop did not turn: between two looks at sockets and timers. Anything that should
    have happened in that time was late by it. Also counts the collector's part of it."""

    def __init__(self) -> None:
        self._began = math.inf
        self._collection = 0.0
        self.reset()

    def reset(self) -> None:
        self.stall = self.collection = 0.0
        self.passes = 0
        self._began = time.perf_counter()

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        self.stall = max(self.stall, time.perf_counter() - self._began)
        self.passes += 1

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        """For gc.callbacks."""
        if phase == "start":
            self._collection = time.perf_counter()
        else:
            self.collection = max(self.collection, time.perf_counter() - self._collection)

    @contextlib.contextmanager
    def phase(self, figures: dict[str, Any], name: str) -> Iterator[None]:
        """Add `<name>_s`, `<name>_stall_ms` and `<name>_gc_ms` (the longest of each) to the figures."""
        self.reset()
        began = time.perf_counter()
        yield
        now = time.perf_counter()
        self.stall = max(self.stall, now - self._began)  # the pass that we are in
        figures[f"{name}_s"] = round(now - began, 4)
        figures[f"{name}_stall_ms"] = round(self.stall * 1e3, 2)
        figures[f"{name}_gc_ms"] = round(self.collection * 1e3, 2)

    @classmethod
    @contextlib.contextmanager
    def watched(cls) -> Iterator[Loop]:
        loop = cls()
        trio.lowlevel.add_instrument(loop)
        gc.callbacks.append(loop.collecting)
        try:
            yield loop
        finally:
            gc.callbacks.remove(loop.collecting)
            trio.lowlevel.remove_instrument(loop)


def settle_memory(thresholds: tuple[int, int, int]) -> None:
    """As the daemon does when it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)


def resident(pid: int | str = "self") -> int:
    """Bytes of memory in use, after what is free was given back (only our own process can be asked to)."""
    if pid == "self":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank. `ordered` is sorted and not empty."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


class Progress:
    """One line on stderr that is written over; silent when nobody looks."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._shown = 0.0

    def show(self, text: str, now: bool = False) -> None:
        if self._on and (now or time.monotonic() - self._shown > 0.2):
            self._shown = time.monotonic()
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
