"""The daemon's memory comes from the C library's allocator, not from Python's own.

Python hands out small objects from arenas of 1 MiB, and an arena goes back to the system only when it is empty: after
a burst of 1,000 runs a few small objects in each keep some 50 MB resident. The C library gives back single pages
between what is in use (actors/governor.py asks it to). Which of the two is used is decided by PYTHONMALLOC when Python
starts, so that the program has to start once more.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_CHOICE: Final = "PYTHONMALLOC"
# Says that the choice was made here: it is for this process, not for the programs that it starts.
_MARK: Final = "GREENROOM_STARTED_AGAIN"


def use_system_allocator() -> None:
    """Start the program again, in this process, with the allocator chosen; the arguments stay the same.

    Returns in the program that was started again, with the environment as it was; and at once where the choice is
    the user's (PYTHONMALLOC is set) or cannot be made. Nothing may have been started or opened before.
    """
    if os.environ.pop(_MARK, None) is not None:
        os.environ.pop(_CHOICE, None)
        return
    if _CHOICE in os.environ or sys.flags.ignore_environment or not _is_glibc() or not sys.executable:
        return
    try:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _CHOICE: "malloc", _MARK: "1"})
    except OSError:
        return  # it works all the same, and keeps more after a burst


def _is_glibc() -> bool:
    """Other C libraries have allocators that are slower or give nothing back."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False
