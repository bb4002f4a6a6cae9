"""A daemon that tells of its collector: at SIGUSR1 it makes a full collection and adds a line of JSON to the file that
MEASURES names: what it took in ms, the containers that are tracked and those that are frozen.

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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def measure(*_: object) -> None:
    began = time.perf_counter()
    gc.collect()
    took = (time.perf_counter() - began) * 1000
    found = {"ms": took, "tracked": len(gc.get_objects()), "frozen": gc.get_freeze_count()}
    with open(os.environ["MEASURES"], "a") as file:
        file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, measure)
    from actors.cli import main

    sys.exit(main())
