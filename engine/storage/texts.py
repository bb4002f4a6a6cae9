"""Long strings of parts, read in pieces: a column, and for text that still grows its chunks.

Nothing here loads a long string whole: pieces of a column are read in place (SQLite's incremental blob I/O), and
chunks by their offset.
"""

from __future__ import annotations

from sqlite3 import Connection

_COLUMNS = frozenset({"text", "input", "error"})


def size(connection: Connection, part: int, column: str) -> int | None:
    """Bytes of the part's string, its chunks included; None if it has none. O(1): lengths are in the row's header."""
    assert column in _COLUMNS
    (length,) = connection.execute(f"SELECT length({column}) FROM parts WHERE key = ?", (part,)).fetchone()
    if column == "text":
        grown = end_of_chunks(connection, part)
        return length if grown is None else grown
    return None if length is None else int(length)


def end_of_chunks(connection: Connection, part: int) -> int | None:
    """The length of a text that grows; None if it has no chunks."""
    row = connection.execute(
        "SELECT offset + length(text) FROM chunks WHERE part = ? ORDER BY offset DESC LIMIT 1", (part,)
    ).fetchone()
    return None if row is None else int(row[0])


def read(connection: Connection, part: int, column: str, start: int, end: int) -> bytes:
    """The bytes from `start` to before `end`, fewer at the string's end."""
    assert column in _COLUMNS
    if start >= end:
        return b""
    (stored,) = connection.execute(f"SELECT length({column}) FROM parts WHERE key = ?", (part,)).fetchone()
    pieces: list[bytes] = []
    if stored is not None and start < stored:
        with connection.blobopen("parts", column, part, readonly=True) as blob:
            blob.seek(start)
            pieces.append(blob.read(min(end, stored) - start))
    if column == "text" and end > (stored or 0):
        # From the chunk that `start` falls into (or the first one) on.
        for offset, text in connection.execute(
            "SELECT offset, text FROM chunks WHERE part = ?1 AND offset < ?2 AND offset >= coalesce("
            "(SELECT max(offset) FROM chunks WHERE part = ?1 AND offset <= ?3), 0) ORDER BY offset",
            (part, end, start),
        ):
            pieces.append(text[max(0, start - offset) : end - offset])
    return b"".join(pieces)


def whole_characters(data: bytes, *, at_end: bool) -> tuple[int, int]:
    """(begin, end) of what is whole in a piece of UTF-8: a character cut by its beginning is left out, and one cut
    by its end too, unless the string ends there."""
    begin = 0
    while begin < len(data) and begin < 3 and data[begin] & 0xC0 == 0x80:
        begin += 1
    end = len(data)
    if at_end:
        return begin, end
    for back in range(1, min(4, end) + 1):
        byte = data[end - back]
        if byte & 0xC0 == 0x80:
            continue
        need = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return begin, end - back if need > back else end
    return begin, end


def head(connection: Connection, part: int, column: str, most: int) -> bytes:
    """At most `most` bytes of the string's beginning, ending on a character boundary."""
    data = read(connection, part, column, 0, most + 1)
    if len(data) <= most:
        return data
    _, end = whole_characters(data[:most], at_end=False)
    return data[:end]
