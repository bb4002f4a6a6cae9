"""Cutting a tool's output to what a model is shown: head and tail are kept, one line stands for the middle.

Nothing is known of the output's length while it arrives, so the accumulator keeps the first half of the bound and
a sliding second half, and counts what it lets go. Text within both bounds comes out as it went in.
"""

from __future__ import annotations

import codecs
from typing import Final

from engine.limits import DEFAULT, KIB, Limits

# The longest marker: two counts of 2**63 with separators, its words, and the line ends around it.
MARKER_ROOM: Final = 96
# Input is taken in pieces of this size, so that a large one is never held a second time in another encoding.
_PIECE: Final = 8 * KIB
_PLAIN_PIECE: Final = 64 * KIB  # of what is not encoded anew
# The tail may outgrow its room by this before it is trimmed: small feeds do not move it every time.
_SLACK: Final = 4 * KIB
# A cut moves to a line's end if that costs at most this part of its half.
_SNAP: Final = 8


class HeadTail:
    """Feed it text or UTF-8 bytes in any pieces; `result` gives at most `max_bytes` of UTF-8 in at most `max_lines`.

    Holds at most `max_bytes` and about 64 KiB whatever is fed. Invalid UTF-8 and lone surrogates become U+FFFD; a
    character may be split over two feeds of bytes. A line is what a line feed ends, or the rest after the last.

    With `note_bytes`, what is cut leaves room for one more line of at most so many bytes, its line feeds included.
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT.tool_result_bytes,
        max_lines: int = DEFAULT.tool_result_lines,
        note_bytes: int = 0,
    ) -> None:
        self._cut_bytes = max_bytes - note_bytes  # of the result, if it is cut
        self._cut_lines = max_lines - (note_bytes > 0)
        assert self._cut_bytes >= 2 * MARKER_ROOM and self._cut_lines >= 3, "no room for a head, a marker and a tail"
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._head_room = (self._cut_bytes - MARKER_ROOM) // 2
        # Head and tail are the whole while it fits; the head may end 3 bytes early, before a character of 4.
        self._tail_keep = max_bytes - self._head_room + 3
        self._head = bytearray()
        self._head_full = False
        self._tail = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._bytes = 0
        self._line_feeds = 0
        self._skipped = False

    def feed(self, data: str | bytes) -> None:
        """Take the next piece of the output, of any size."""
        if isinstance(data, bytes) and data.isascii() and not self._decoder.getstate()[0]:
            # Most output is plain. It needs no decoding, which costs as much as counting its lines.
            for begin in range(0, len(data), _PLAIN_PIECE):
                self._take(data[begin : begin + _PLAIN_PIECE])
            return
        for begin in range(0, len(data), _PIECE):
            piece = data[begin : begin + _PIECE]
            self._take(utf8(piece if isinstance(piece, str) else self._decoder.decode(piece)))

    def skip(self, size: int, line_feeds: int, last: bytes) -> None:
        """So many bytes come next that were only counted, one and more; `last` is the last one. They are in the part
        that is cut."""
        assert size > 0 and len(last) == 1
        begun = self._decoder.getstate()[0]  # of a character that ends in what is skipped
        self._decoder.reset()
        self._bytes += len(begun) + size
        self._line_feeds += line_feeds
        self._head_full = True
        self._tail[:] = last  # the first byte of a tail is never shown
        self._skipped = True

    @property
    def fits(self) -> bool:
        """Whether all that was fed so far is within both bounds, and nothing was skipped."""
        return not self._skipped and self._bytes <= self._max_bytes and self.lines <= self._max_lines

    @property
    def lines(self) -> int:
        """Of what was fed so far."""
        last = self._tail or self._head
        return self._line_feeds + (bool(last) and not last.endswith(b"\n"))

    def result(self) -> str:
        """All that was fed, cut. The end: nothing may be fed after it."""
        self._take(self._decoder.decode(b"", final=True).encode())
        if self.fits:
            return (self._head + self._tail).decode()
        known = self._bytes - len(self._head) - len(self._tail)  # bytes let go between the two
        tail = bytes(self._tail if known else self._head + self._tail)
        head_end = self._end_of_head()
        tail_start = self._start_of_tail(tail)
        head, kept = bytes(self._head[:head_end]), tail[tail_start:]
        cut_feeds = self._line_feeds - head.count(b"\n") - kept.count(b"\n")
        cut_lines = cut_feeds + (tail[tail_start - 1] != ord("\n"))
        marker = _marker(cut_lines, self._bytes - len(head) - len(kept))
        separator = "" if head.endswith(b"\n") or not head else "\n"
        return f"{head.decode()}{separator}{marker}\n{kept.decode()}"

    def _take(self, data: bytes) -> None:
        self._bytes += len(data)
        self._line_feeds += data.count(b"\n")
        if not self._head_full:
            split = _character_start(data, self._head_room - len(self._head))
            self._head += data[:split]
            self._head_full = split < len(data)
            data = data[split:]
        if len(data) >= self._tail_keep:
            self._tail[:] = data[-self._tail_keep :]
            return
        self._tail += data
        if len(self._tail) > self._tail_keep + _SLACK:
            del self._tail[: -self._tail_keep]

    def _end_of_head(self) -> int:
        """How much of the head is shown: if possible whole lines, and no more than its part of the lines."""
        end = len(self._head)
        if self._head_full:
            end = self._head.rfind(b"\n", end - end // _SNAP) + 1 or end
        position = 0
        for _ in range((self._cut_lines - 1) // 2):
            position = self._head.find(b"\n", position, end) + 1
            if not position:
                return end
        return position

    def _start_of_tail(self, tail: bytes) -> int:
        """Where in `tail` what is shown begins, by the same rule."""
        room = self._cut_bytes - MARKER_ROOM - self._head_room
        start = max(1, len(tail) - room)
        if start > 1:
            feed = tail.find(b"\n", start - 1, start + room // _SNAP)
            while feed < 0 and start < len(tail) and tail[start] & 0xC0 == 0x80:
                start += 1
            start = feed + 1 or start
        position = len(tail) - tail.endswith(b"\n")
        for _ in range(self._cut_lines - 1 - (self._cut_lines - 1) // 2):
            position = tail.rfind(b"\n", start - 1, position)
            if position < 0:
                return start
        return position + 1


def cut_text(text: str | bytes, limits: Limits = DEFAULT) -> str:
    """`text` as a tool's result: within `limits.tool_result_bytes` and `.tool_result_lines`."""
    cutter = HeadTail(limits.tool_result_bytes, limits.tool_result_lines)
    cutter.feed(text)
    return cutter.result()


def _marker(lines: int, size: int) -> str:
    return f"[… {lines:,} line{'' if lines == 1 else 's'}, {size:,} byte{'' if size == 1 else 's'} cut …]"


def utf8(text: str) -> bytes:
    """The text as UTF-8, each half of a surrogate pair that stands alone as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _character_start(data: bytes, end: int) -> int:
    """The largest character boundary of `data` that is at most `end`."""
    end = min(end, len(data))
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end
