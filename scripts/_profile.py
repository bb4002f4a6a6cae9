"""Where a daemon's CPU time goes: a sampler inside it, and its samples by layer and function.

    python scripts/_profile.py FILE serve …        the command line with the sampler

On SIGUSR1 what was sampled since the last one is written to FILE: seconds of CPU by function, those of other threads
and of the garbage collector apart. A sample is taken after each INTERVAL of CPU time and stands for the time that
passed since the one before. A function of C or of the standard library counts for the function that called it.
"""

from __future__ import annotations

import gc
import json
import re
import signal
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
INTERVAL: Final = 0.001
OTHER_THREADS: Final = "(threads of the store)"
COLLECTOR: Final = "(garbage collector)"

# Layers by the begin of a function's file, the first that fits.
LAYERS: Final = {
    "trio: sockets": ("trio/_socket", "trio/_highlevel"),
    "trio: loop, tasks, scopes": ("trio/", "outcome/"),
    "HTTP to the model": (
        "actors/_http", "actors/_arrivals", "engine/providers/chunks", "httpx2", "httpcore2", "h11", "anyio",
    ),
    "events and decoder": ("engine/providers",),
    "run and turn": (
        "actors/models", "actors/answers", "actors/progress", "actors/run", "actors/session", "engine/runs/turn",
        "actors/registry", "actors/_actor", "actors/_supervisor", "actors/_ask", "actors/_mailbox",
    ),
    "journal and store": ("actors/journal", "actors/store", "actors/_disk", "engine/storage", OTHER_THREADS),
    "replay log": ("engine/runs", "engine/codec", "actors/_feed"),
    "WebSocket": ("actors/gateway/websocket", "actors/gateway/transport", "trio_websocket", "wsproto"),
    "watches and writer": ("actors/gateway", "engine/wire"),
    "garbage collector": (COLLECTOR,),
    "other": ("",),
}  # fmt: skip
STDLIB: Final = (sysconfig.get_paths()["stdlib"] + "/", "<frozen ")
PACKAGES: Final = (f"{ROOT}/", sysconfig.get_paths()["purelib"] + "/")
GENERATED: Final = re.compile(r"<attrs generated methods (.*)>")


# ------------------------------------------------------------ in the daemon
class Sampler:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: Counter[str] = Counter()
        self._main, self._process = time.thread_time(), time.process_time()
        self._collecting = self._collected = 0.0

    def start(self) -> None:
        gc.callbacks.append(self._collection)
        signal.signal(signal.SIGUSR1, self._dump)
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def _collection(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._collected += time.thread_time() - self._collecting

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        main, process = time.thread_time() - self._main, time.process_time() - self._process
        self._seconds[OTHER_THREADS] += process - main
        self._seconds[COLLECTOR] += self._collected
        self._seconds[_name(frame)] += main - self._collected
        self._collected = 0.0
        # The sampling itself is nobody's time.
        self._main, self._process = time.thread_time(), time.process_time()

    def _dump(self, _number: int, _frame: FrameType | None) -> None:
        whole = self._file.with_suffix(".new")
        whole.write_text(json.dumps(self._seconds))
        whole.rename(self._file)
        self._seconds.clear()


def _name(frame: FrameType | None) -> str:
    while frame is not None and (frame.f_code.co_filename == __file__ or _is_stdlib(frame)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}" if frame is not None else "?:?"


def _is_stdlib(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith(STDLIB) and not name.startswith(PACKAGES)


# ------------------------------------------------------------ what it found
def read(file: Path) -> dict[str, float]:
    """Seconds by function, as `file.py:function`, most first."""
    seconds: Counter[str] = Counter()
    for name, value in json.loads(file.read_text()).items():
        for folder in PACKAGES:
            name = name.removeprefix(folder)
        if generated := GENERATED.match(name):
            name = generated[1].replace(".", "/") + name[generated.end() :]
        seconds[name] += value
    return dict(seconds.most_common())


def by_layer(seconds: dict[str, float]) -> dict[str, float]:
    layers: Counter[str] = Counter()
    for name, value in seconds.items():
        layers[next(layer for layer, begins in LAYERS.items() if name.startswith(begins))] += value
    return dict(layers.most_common())


if __name__ == "__main__":
    # Each sample would wake trio's loop: its own signals reach it without.
    signal.set_wakeup_fd = lambda *_args, **_kwargs: -1  # type: ignore[assignment]
    from actors.cli import main

    Sampler(Path(sys.argv[1])).start()
    sys.exit(main(sys.argv[2:]))
