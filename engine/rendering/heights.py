"""How many lines each entry has, and which entry a line is in: a Fenwick tree over compact arrays.

13 bytes an entry. To set a height, to count the lines before an entry, and to find the entry of a line take
O(log entries). A height is exact or estimated; the index does not care, `known` says which.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

HEIGHT_MAX = (1 << 32) - 1  # lines of one entry, what an array of "I" takes


class Heights:
    __slots__ = ("_heights", "_known", "_tree")

    def __init__(self) -> None:
        self._heights = array("I")
        self._known = bytearray()
        self._tree = array("Q")  # at n - 1: the sum of the entries (n - lowest bit of n) to n - 1

    def __len__(self) -> int:
        return len(self._heights)

    def __getitem__(self, number: int) -> int:
        return self._heights[number]

    def known(self, number: int) -> bool:
        return bool(self._known[number])

    def append(self, height: int, *, known: bool) -> None:
        end = len(self._heights) + 1
        before = self.before(end - 1) - self.before(end - (end & -end))
        self._heights.append(height)
        self._known.append(known)
        self._tree.append(before + height)

    def set(self, number: int, height: int) -> None:
        """The exact height of an entry."""
        change = height - self._heights[number]
        self._known[number] = True
        if change:
            self._heights[number] = height
            at = number + 1
            while at <= len(self._tree):
                self._tree[at - 1] += change
                at += at & -at

    def fill(self, heights: Iterable[int]) -> None:
        """All anew, as estimates: O(entries)."""
        self._heights = array("I", heights)
        self._known = bytearray(len(self._heights))
        self._build()

    def put_first(self, heights: Iterable[int]) -> None:
        """Estimates before all that is there: O(entries)."""
        new = array("I", heights)
        self._heights = new + self._heights
        self._known = bytearray(len(new)) + self._known
        self._build()

    def remove(self, number: int) -> None:
        """O(entries)."""
        del self._heights[number]
        del self._known[number]
        self._build()

    def unknow(self, number: int, height: int) -> None:
        """What was exact is an estimate now: what it was, or `height` if that was none: it could not be found."""
        if not self._heights[number]:
            self.set(number, height)
        self._known[number] = False

    def total(self) -> int:
        return self.before(len(self._heights))

    def before(self, number: int) -> int:
        """Lines of the first `number` entries."""
        total = 0
        while number > 0:
            total += self._tree[number - 1]
            number &= number - 1
        return total

    def find(self, line: int) -> tuple[int, int]:
        """The entry that has this line, and the line's number in it. The line is one of those that there are."""
        step = 1 << len(self._tree).bit_length()
        at = 0
        while step := step >> 1:
            if at + step <= len(self._tree) and self._tree[at + step - 1] <= line:
                at += step
                line -= self._tree[at - 1]
        return at, line

    def retained_bytes(self) -> int:
        return len(self._heights) * (self._heights.itemsize + self._tree.itemsize + 1)

    def _build(self) -> None:
        tree = array("Q", self._heights)
        for number in range(1, len(tree) + 1):
            above = number + (number & -number)
            if above <= len(tree):
                tree[above - 1] += tree[number - 1]
        self._tree = tree
