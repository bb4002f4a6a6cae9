"""The daemon's memory comes from the C library's allocator, not from Python's own.

Python hands out small objects from arenas of 1 MiB, and an arena goes back to the system only when it is empty: after
a burst of 1,000 runs a few small objects in each keep some 50 MB resident. The C library gives back single pages
between what is in use (actors/governor.py asks it to). Which of the two is used is decided by PYTHONMALLOC when Python
starts, so that the program has to start once more.

The C library in turn gives each thread an arena of its own, which keeps what that thread has freed. Two are enough:
three searches at once (scripts/bench_tools.py) cost 2.4 MB instead of 5.3, and a delta no more than before, because
most of what threads do they do one at a time. With a single one more is kept after a burst.

And it takes large buffers from its heap as well once it has freed one, where small objects that live on beside them
keep their pages. With a threshold that stays, each has pages of its own and gives them back when it is freed: after
1 GB of answers (scripts/bench_return.py) the daemon kept 5 MB that nobody used instead of 14 to 21, and 35 MB instead
of 58 meanwhile.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_CHOICE: Final = "PYTHONMALLOC"
_ARENAS: Final = "MALLOC_ARENA_MAX"
# Bytes: the library's own first choice.
_LARGE: Final = ("MALLOC_MMAP_THRESHOLD_", "131072")
# Names what was chosen here: it is for this process, not for the programs that it starts.
_MARK: Final = "GREENROOM_STARTED_AGAIN"


def use_system_allocator() -> None:
    """Start the program again, in this process, with the allocator chosen; the arguments stay the same.

    Returns in the program that was started again, with the environment as it was; and at once where the choice is
    the user's (PYTHONMALLOC is set) or cannot be made. Nothing may have been started or opened before.
    """
    chosen = os.environ.pop(_MARK, None)
    if chosen is not None:
        for name in chosen.split(","):
            os.environ.pop(name, None)
        return
    if _CHOICE in os.environ or sys.flags.ignore_environment or not _is_glibc() or not sys.executable:
        return
    wanted = ((_CHOICE, "malloc"), (_ARENAS, "2"), _LARGE)
    ours = {name: value for name, value in wanted if name not in os.environ}
    try:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ours, _MARK: ",".join(ours)})
    except OSError:
        return  # it works all the same, and keeps more after a burst


def _is_glibc() -> bool:
    """Other C libraries have allocators that are slower or give nothing back."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False
