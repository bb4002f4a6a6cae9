"""Which message an entry is of, and the cursor of the page that has it.

Messages are numbered in their order, from 0 on for the first that was loaded, below 0 for older ones. A *mark* is a
cursor of `session.messages` and the number of the message that it leads to what is before: to show an entry again, its
page is asked for by the nearest mark behind it.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

# Messages between two marks, at least: a session that goes on for days must not add one with every page.
MARK_STEP: Final = 20


class Places:
    def __init__(self) -> None:
        self._messages: deque[list[str]] = deque()  # the entries of each
        self._first = 0  # the number of the first of them
        self._numbers: dict[str, int] = {}
        self._marks: list[tuple[int, str]] = []

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._numbers

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def end(self) -> int:
        """The number of the message that comes next."""
        return self._first + len(self._messages)

    def number(self, entry_id: str) -> int | None:
        return self._numbers.get(entry_id)

    def add(self, number: int, entry_id: str) -> None:
        """An entry of the last message, or of the next one."""
        if number == self.end:
            self._messages.append([])
        self._messages[number - self._first].append(entry_id)
        self._numbers[entry_id] = number

    def put_older(self, messages: Sequence[Sequence[str]]) -> None:
        """The entries of messages before all others, in their order."""
        for entries in reversed(messages):
            self._first -= 1
            self._messages.appendleft(list(entries))
            self._numbers.update(dict.fromkeys(entries, self._first))

    def cut(self, number: int) -> list[str]:
        """Forget the message with this number and all behind it; their entries, the last one first."""
        gone: list[str] = []
        while self._messages and self.end > number:
            gone += reversed(self._messages.pop())
        for entry_id in gone:
            del self._numbers[entry_id]
        while self._marks and self._marks[-1][0] > self.end:
            self._marks.pop()
        return gone

    # -------------------------------------------------------------- pages
    def mark(self, entry_ids: Iterable[str], cursor: str) -> None:
        """A page with these entries was followed by this cursor."""
        number = min((self._numbers[id] for id in entry_ids if id in self._numbers), default=None)
        if number is None:
            return
        at = bisect_right(self._marks, (number, ""))
        near = [abs(mark - number) for mark, _ in self._marks[max(at - 1, 0) : at + 1]]
        distance = min(near, default=MARK_STEP)
        if distance >= MARK_STEP or (number == self._first and distance):
            insort(self._marks, (number, cursor))

    def before(self) -> str | None:
        """The cursor of the messages before all that are here, if it is known."""
        return self._marks[0][1] if self._marks and self._marks[0][0] == self._first else None

    def cursor_of(self, entry_id: str) -> str | None:
        """Where to ask for the message of an entry; None is the newest page. Later pages may be needed to reach it."""
        at = bisect_right(self._marks, (self._numbers.get(entry_id, 0), "\U0010ffff"))
        return self._marks[at][1] if at < len(self._marks) else None
