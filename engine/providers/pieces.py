"""Messages as they stand in a request, kept for the next one: a message that did not change is not encoded again.

A stored message is known by its id and revision, and the store raises the revision with each change of it. What is
made of it also depends on the format, on what a model is shown of it (`Message.form`), and in some formats on whether
its run goes on: all of that is in the key. Messages with images are not kept: which of them are shown depends on the
others, and one would fill the cache.

A session's pieces are those of its last request (`Window`): what slid out of the window is sent by no step any more,
and a long run would fill the cache with it. Bounded in bytes; what was used longest ago goes first. Of the loop's
thread only.
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
        self._of_session: dict[str, set[Key]] = {}  # as of its last request: some may be gone
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, message: Message, format: str, encode: Callable[[], Encoded]) -> Encoded:
        """The message in a format (named with whatever else it depends on); encoded if it is not there."""
        if not message.revision or message.form == "cut" or any(_is_image(part) for part in message.parts):
            return encode()
        key = _key(message, format)
        found = self._entries.get(key)
        if found is None:
            # Exact copies: what orjson gives holds on to a buffer of up to eight times its length.
            found = tuple((role, memoryview(data).tobytes()) for role, data in encode())
            self._put(key, found)
        else:
            self._entries.move_to_end(key)
        return found

    def window(self, session_id: str | None) -> Window:
        """For one request of this session; None: of no session, and of what is kept for it nothing is dropped."""
        return Window(self, session_id)

    def retain(self, session_id: str, used: set[Key]) -> None:
        """Of the session keep these only."""
        before = self._of_session.pop(session_id, set())
        if used:
            self._of_session[session_id] = used
        for key in before - used:
            self._drop(key)

    def forget(self, session_id: str) -> None:
        """Drop what there is of the session: it has left memory."""
        self.retain(session_id, set())

    def clear(self) -> None:
        """Let all go."""
        self._entries.clear()
        self._of_session.clear()
        self.bytes = 0

    def _put(self, key: Key, encoded: Encoded) -> None:
        size = _size(encoded)
        if size > self._most:
            return
        self._entries[key] = encoded
        self.bytes += size
        while self.bytes > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self.bytes -= _size(dropped)


class Window:
    """The messages of one request; see Pieces.window."""

    def __init__(self, pieces: Pieces, session_id: str | None) -> None:
        self._pieces = pieces
        self._session_id = session_id
        self._used: set[Key] = set()

    def get(self, message: Message, format: str, encode: Callable[[], Encoded]) -> Encoded:
        """See Pieces.get."""
        self._used.add(_key(message, format))
        return self._pieces.get(message, format, encode)

    def close(self) -> None:
        """All messages were got."""
        if self._session_id is not None:
            self._pieces.retain(self._session_id, self._used)


def _key(message: Message, format: str) -> Key:
    return (message.info.id, message.revision, message.form, format)


def _size(encoded: Encoded) -> int:
    return ENTRY_BYTES + sum(len(data) for _, data in encoded)


def _is_image(part: object) -> bool:
    return isinstance(part, FilePart) and part.data_base64 is not None
