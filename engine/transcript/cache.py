"""Decoded messages that are kept for the next step, bounded in bytes: what did not change is not decoded again.

A message is kept at a revision, which the store raises with each change of the message's rows: what is found is as
it is stored, or is not found. It is frozen all the way down, so that one object serves every caller; free-form JSON in
it is bytes, of which each caller decodes its own.

A session's entries are those of its last window (`retain`): what slid out of it is read by no step any more, and a
long run would fill the cache with it. Beyond the bound the entries go that were used longest ago.

Bytes are measured, not guessed: of each object that an entry owns, what the C allocator gives for its size.

A full collection of Python's takes its time by the containers that it looks at: 33,000 in 16 MiB of messages took it
some 30 to 75 ms. So it is told not to look at them (`untrack`), and takes 0.3 ms. Records are frozen and made after
what they refer to, so that none is in a cycle.

Not for several threads: it belongs to the one that reads (actors/_disk.py). Its figures may be taken from others.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import attrs

from engine.transcript.records import Message

# What keeping costs beside the record: the entry, its key, its places in two tables.
_ENTRY_BYTES: Final = 400
# malloc's header and its granularity.
_HEADER: Final = 8
_STEP: Final = 16
_NUMBER_BYTES: Final = 48


@attrs.frozen(slots=True, kw_only=True)
class CacheStatistics:
    """`bytes` of memory in `entries` now; the others count since the start. `evictions` are entries that had to go for
    others, not those that their session has no use for."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int


@attrs.frozen(slots=True)
class Entry:
    """`sizes` is what a window is chosen by, found out before the message was loaded (engine.storage.window)."""

    session: str
    message: Message
    sizes: object
    bytes: int


class RowCache:
    """At most `most` bytes. Sessions and messages are known by their ids. `untrack` takes an object from those that
    the collector looks at."""

    def __init__(self, most: int, untrack: Callable[[object], object] = id) -> None:
        self._most = most
        self._untrack = untrack
        self._bytes = 0
        self._entries: OrderedDict[tuple[str, int], Entry] = OrderedDict()  # used longest ago first
        self._of_session: dict[str, set[tuple[str, int]]] = {}
        self._hits = self._misses = self._evictions = 0

    def get(self, message_id: str, revision: int) -> Entry | None:
        """The message as of this revision."""
        key = (message_id, revision)
        entry = self._entries.get(key)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return entry

    def put(self, session: str, message_id: str, revision: int, message: Message, sizes: object) -> None:
        """Keep a message that is complete at this revision. One that is larger than the whole cache is not kept."""
        key = (message_id, revision)
        size = _ENTRY_BYTES + size_of(message)
        if size > self._most:
            return
        self._drop(key)
        entry = self._entries[key] = Entry(session, message, sizes, size)
        for record in (entry, sizes, *_records_in(message)):
            self._untrack(record)
        self._of_session.setdefault(session, set()).add(key)
        self._bytes += size
        while self._bytes > self._most:
            self._drop(next(iter(self._entries)))
            self._evictions += 1

    def retain(self, session: str, used: set[tuple[str, int]]) -> None:
        """Of the session keep these (id, revision) only."""
        for key in self._of_session.get(session, set()) - used:
            self._drop(key)

    def holds(self, session: str) -> bool:
        """Whether there is anything of the session; may be asked from any thread."""
        return session in self._of_session

    def forget(self, session: str) -> None:
        """Drop what there is of the session: it was deleted, or is no longer in memory."""
        self.retain(session, set())

    def clear(self) -> None:
        self._entries.clear()
        self._of_session.clear()
        self._bytes = 0

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            entries=len(self._entries),
            bytes=self._bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
        )

    def _drop(self, key: tuple[str, int]) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.bytes
        keys = self._of_session[entry.session]
        keys.discard(key)
        if not keys:
            del self._of_session[entry.session]


def size_of(record: Any) -> int:
    """Bytes of memory of a record (or a tuple of records) with all that it refers to. Small numbers, and words that
    many records share (a kind, a state), are counted as if they were its own: never too little."""
    size = _allocated(record)
    for value in _values_of(record):
        kind = type(value)
        if kind is str or kind is bytes:
            size += _allocated(value)
        elif kind is int or kind is float:
            size += _NUMBER_BYTES
        elif value is not None:
            size += size_of(value)
    return size


def _records_in(record: Any) -> Iterator[object]:
    """The record and all records and tuples below it."""
    yield record
    for value in _values_of(record):
        if type(value) not in _PLAIN:
            yield from _records_in(value)


_PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None)})


def _allocated(value: object) -> int:
    """What malloc takes for it: its header, rounded up."""
    return (sys.getsizeof(value) + _HEADER + _STEP - 1) & -_STEP


def _values_of(record: Any) -> Iterable[object]:
    if isinstance(record, tuple):
        return record
    kind: Any = type(record)
    return _fields_of(kind)(record)


@functools.cache  # for as many kinds as records have
def _fields_of(kind: Any) -> Callable[[Any], Iterable[object]]:
    names = [field.name for field in attrs.fields(kind)] if attrs.has(kind) else []
    if len(names) > 1:
        return operator.attrgetter(*names)  # all of them in one call
    return lambda record: [getattr(record, name) for name in names]
