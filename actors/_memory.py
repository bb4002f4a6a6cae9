"""This process's memory, and its children's, as the system and the C allocator tell it, and giving free pages back.

Linux with glibc is what this knows; elsewhere every figure is 0 and giving back does nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import attrs

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen(slots=True)
class Resident:
    """Bytes of resident memory; `shared` of them are pages of files that were not changed: programs, libraries."""

    total: int
    shared: int

    @property
    def own(self) -> int:
        return self.total - self.shared


@attrs.frozen(slots=True)
class Heap:
    """Bytes of the C allocator: in use by somebody, and free within what it has asked of the system. Free pages that
    were given back count as free, though they are not resident."""

    used: int
    free: int


def resident() -> Resident:
    """20 µs: the system counts as it goes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            fields = file.read().split()
    except OSError:
        return Resident(0, 0)
    return Resident(int(fields[1]) * _PAGE, int(fields[2]) * _PAGE)


def give_back() -> None:
    """Return the allocator's free pages to the system, for a worker thread: without the GIL, but who needs memory
    meanwhile waits. Some 15 ms for the 40 MiB of a burst, up to 1 ms for each MiB that lies in small pieces."""
    trim = _function(None, "malloc_trim", ctypes.c_int, ctypes.c_size_t)
    if trim is not None:
        trim(0)


def heap() -> Heap:
    """Walks the allocator's free lists: for a worker thread."""
    info = _function(None, "mallinfo2", _MallInfo)
    if info is None:
        return Heap(0, 0)
    told = info()
    return Heap(used=told.uordblks + told.hblkhd, free=told.fordblks)


def sqlite_bytes() -> int:
    """What SQLite holds of the heap: the page caches above all, statements and connections."""
    driver = sys.modules.get("_sqlite3")
    used = _function(getattr(driver, "__file__", None), "sqlite3_memory_used", ctypes.c_int64) if driver else None
    return int(used()) if used is not None else 0


@attrs.frozen(slots=True)
class Family:
    """A process and all below it; pages that they share are counted in each's resident bytes."""

    processes: int
    resident: int


def family(pid: int | None) -> Family:
    """Some 30 µs for each process, where the system lists a process's children; else some milliseconds where there are
    hundreds, whosever they are. For a worker thread."""
    if pid is None:
        return Family(0, 0)
    children = _children if _lists_children() else functools.partial(_scanned, _scan())
    pages = 0
    members = [pid]
    gone = 0
    for member in members:  # grows
        try:
            with open(f"/proc/{member}/statm", "rb") as file:
                pages += int(file.read().split()[1])
            members += children(member)
        except OSError:  # it has ended
            gone += 1
    return Family(len(members) - gone, pages * _PAGE)


@functools.cache
def _lists_children() -> bool:
    """Most kernels are built so."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def _scan() -> dict[int, list[int]]:
    """The children of every process."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                line = file.read()
                parent = line[line.rindex(b")") + 2 :].split()[1]  # the name before it may have blanks
                children.setdefault(int(parent), []).append(int(name))
    return children


def _scanned(children: dict[int, list[int]], pid: int) -> list[int]:
    return children.get(pid, [])


def freeze_again() -> None:
    """Code was imported that stays for good: the collector need not look at it again. Nothing happens in a program
    whose start did not freeze, because it is not the daemon's (see actors.daemon).

    What is at work in this moment is frozen with it, and leaves memory as anything does that is not in a cycle.
    """
    if gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def forget_names() -> None:
    """Empty the interpreter's table of attributes that were looked up, which has 4,096 places and fills again as it is
    used: 15 µs, holding the GIL.

    It keeps the name of each look-up. One that was made for it and is the same as a thousand others has a place of its
    own, because places go by address: until 3.12 each `case Class(field)` makes the name `__match_args__` anew. Such
    names lie wherever there was room when they were made, each in a page of the heap that nothing else is in: 1,300
    of 2,600 that a burst of 500 runs left behind.
    """
    if sys.version_info < (3, 13):  # then it is deprecated
        sys._clear_type_cache()


def untrack(record: object) -> None:
    """Take an object from those that the collector looks at, which costs it some 0.7 µs each in a full collection.
    Only for what can be in no cycle: it is freed by its last reference, as ever."""
    if gc.is_tracked(record):
        _untrack(record)


# The collector's own function for it, as tuples of strings are untracked; holding the GIL.
_untrack: Final = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("PyObject_GC_UnTrack", ctypes.pythonapi))


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


@functools.cache
def _function(library: str | None, name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    """A C function of a loaded library (None: of the process); None where there is no such function."""
    try:
        function = getattr(ctypes.CDLL(library), name)
    except (OSError, AttributeError):
        return None
    function.restype, function.argtypes = result, arguments
    found: Callable[..., Any] = function
    return found
