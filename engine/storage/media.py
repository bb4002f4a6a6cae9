"""Media of a window: blobs as a model is to see them, within a bound. They are nowhere else read as a whole."""

from __future__ import annotations

import base64

import attrs

from engine.errors import PeerError
from engine.storage.blobs import Blobs
from engine.transcript.pruning import unseen
from engine.transcript.records import FilePart, Message, Part


def with_media(messages: tuple[Message, ...], blobs: Blobs, most: int) -> tuple[Message, ...]:
    """The messages with their images as base64, the newest first until `most` bytes; those beyond, and those that
    cannot be read, are without."""
    left = most
    shown: list[Message] = []
    for message in reversed(messages):
        if any(_is_image(part) for part in message.parts):
            parts: list[Part] = []
            for part in reversed(message.parts):
                if isinstance(part, FilePart) and _is_image(part):
                    if part.size <= left:
                        left -= part.size
                        part = _loaded(part, part.hash, blobs) if part.hash else part
                    else:
                        part = unseen(part)
                parts.append(part)
            message = attrs.evolve(message, parts=tuple(reversed(parts)))
        shown.append(message)
    return tuple(reversed(shown))


def media_bytes(messages: tuple[Message, ...]) -> int:
    """Bytes of the images that the messages show."""
    return sum(
        part.size for message in messages for part in message.parts if isinstance(part, FilePart) and part.data_base64
    )


def _is_image(part: Part) -> bool:
    return isinstance(part, FilePart) and part.mime.startswith("image/") and bool(part.hash or part.data_base64)


def _loaded(part: FilePart, digest: str, blobs: Blobs) -> FilePart:
    try:
        data = blobs.read(digest, 0, part.size)
    except PeerError:
        return part
    return attrs.evolve(part, data_base64=base64.b64encode(data).decode())
