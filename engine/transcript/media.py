"""Images of a request that are read while it is sent: nowhere is one in memory as a whole.

In the message that is encoded stands a marker (`marker`) instead of the base64 text; who sends the body takes the
pieces apart (`split`), and reads, block by block, what each marker stands for. So an encoded message is small, and
does not depend on where its images are.

A marker holds a number that is drawn at random when the program starts, and none is ever shown to anybody: no peer can
write one.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

import attrs

from engine.limits import KIB

# Read at a time; a multiple of 3, so that the base64 of the blocks is that of the whole.
BLOCK_BYTES: Final = 192 * KIB
_PREFIX: Final = f"greenroom-media:{secrets.token_hex(16)}:"
_BEGIN: Final = _PREFIX.encode()
_MARKER: Final = re.compile(re.escape(_BEGIN) + rb"([0-9a-f]{64}):(\d+);")


@attrs.frozen(slots=True)
class Shown:
    """A blob in the place where its base64 stands in a body. `size` in bytes, decoded."""

    digest: str
    size: int

    def __len__(self) -> int:
        """Bytes of the base64 text."""
        return (self.size + 2) // 3 * 4


def marker(digest: str, size: int) -> str:
    """What stands for the base64 of a blob; in JSON as it is."""
    return f"{_PREFIX}{digest}:{size};"


def split(piece: bytes) -> list[bytes | Shown]:
    """The piece of a body with each marker as what it stands for."""
    if _BEGIN not in piece:
        return [piece]
    found: list[bytes | Shown] = []
    end = 0
    for match in _MARKER.finditer(piece):
        found += [piece[end : match.start()], Shown(match[1].decode(), int(match[2]))]
        end = match.end()
    return [*found, piece[end:]]
