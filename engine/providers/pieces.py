"""Messages as they stand in a request, kept for the next one: a message that did not change is not encoded again.

A stored message is known by its id and revision, and the store raises the revision with each change of it. What is
made of it also depends on the format, on what a model is shown of it (`Message.form`), and in some formats on whether
its run goes on: all of that is in the key. Messages with images are not kept: which of them are shown depends on the
others, and one would fill the cache.

Bounded in bytes; what was used longest ago goes first. Of the loop's thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from engine.transcript.records import FilePart, Message

# What keeping costs beside the bytes: the key with its id, the tuple, and a place in a table.
ENTRY_BYTES: Final = 400

Key = tuple[str, int, str, str]
Encoded = tuple[tuple[str, bytes], ...]  # role and JSON


class Pieces:
    """At most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Key, Encoded] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, message: Message, format: str, encode: Callable[[], Encoded]) -> Encoded:
        """The message in a format (named with whatever else it depends on); encoded if it is not there."""
        if not message.revision or message.form == "cut" or any(_is_image(part) for part in message.parts):
            return encode()
        key = (message.info.id, message.revision, message.form, format)
        found = self._entries.get(key)
        if found is None:
            # Exact copies: what orjson gives holds on to a buffer of up to eight times its length.
            found = tuple((role, memoryview(data).tobytes()) for role, data in encode())
            self._put(key, found)
        else:
            self._entries.move_to_end(key)
        return found

    def clear(self) -> None:
        """Let all go."""
        self._entries.clear()
        self.bytes = 0

    def _put(self, key: Key, encoded: Encoded) -> None:
        size = _size(encoded)
        if size > self._most:
            return
        self._entries[key] = encoded
        self.bytes += size
        while self.bytes > self._most:
            _, dropped = self._entries.popitem(last=False)
            self.bytes -= _size(dropped)


def _size(encoded: Encoded) -> int:
    return ENTRY_BYTES + sum(len(data) for _, data in encoded)


def _is_image(part: object) -> bool:
    return isinstance(part, FilePart) and part.data_base64 is not None
