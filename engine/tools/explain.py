"""One bounded sentence on an exception that may be anything: what a model is told of a tool that failed."""

from __future__ import annotations

from typing import Final

from engine.limits import KIB
from engine.tools.cut import HeadTail

# Of a tool's exception a model needs its sentence; 2 KiB hold it, 20 lines a nested one.
_BYTES: Final = 2 * KIB
_LINES: Final = 20


def explain(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    try:
        says = str(exc)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        says = "it cannot be shown"
    cutter = HeadTail(_BYTES, _LINES)
    cutter.feed(f"{type(exc).__name__}: {says}" if says else type(exc).__name__)
    return cutter.result()
