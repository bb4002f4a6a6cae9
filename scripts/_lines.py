"""Write so many bytes of lines to standard output, as fast as they are taken: `python _lines.py BYTES`."""

from __future__ import annotations

import os
import sys

LINE = b"a line of the kind that programs print by the million while they work, with its end where it belongs\n"
FIRST, LAST = b"the first line\n", b"the last line\n"
BLOCK_LINES = 10_000  # about 1 MB


def lines(size: int) -> int:
    """How many lines make up `size` bytes: the first, the last, and one in the middle that is as long as it takes."""
    return 2 + (size - len(FIRST) - len(LAST)) // len(LINE) + bool((size - len(FIRST) - len(LAST)) % len(LINE))


def main(size: int) -> None:
    count, rest = divmod(size - len(FIRST) - len(LAST), len(LINE))
    write(FIRST)
    if rest:
        write(b"-" * (rest - 1) + b"\n")
    block = LINE * BLOCK_LINES
    for _ in range(count // BLOCK_LINES):
        write(block)
    write(LINE * (count % BLOCK_LINES))
    write(LAST)


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main(int(sys.argv[1]))
