"""Media of a window: blobs as a model is to see them, within a bound. They are nowhere else read as a whole."""

from __future__ import annotations

import base64

import attrs

from engine.errors import PeerError
from engine.storage.blobs import Blobs
from engine.transcript.records import FilePart, Message, Part


def with_media(messages: tuple[Message, ...], blobs: Blobs, most: int) -> tuple[Message, ...]:
    """The messages with their images as base64, the newest first until `most` bytes; those beyond, and those that
    cannot be read, stay without."""
    left = most
    shown: list[Message] = []
    for message in reversed(messages):
        parts: list[Part] = []
        for part in reversed(message.parts):
            if isinstance(part, FilePart) and part.mime.startswith("image/") and part.hash and part.size <= left:
                left -= part.size
                part = _loaded(part, part.hash, blobs)
            parts.append(part)
        shown.append(Message(message.info, tuple(reversed(parts))))
    return tuple(reversed(shown))


def _loaded(part: FilePart, digest: str, blobs: Blobs) -> FilePart:
    try:
        data = blobs.read(digest, 0, part.size)
    except PeerError:
        return part
    return attrs.evolve(part, data_base64=base64.b64encode(data).decode())
