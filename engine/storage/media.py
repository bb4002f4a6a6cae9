"""Media of a window: which blobs a model is to see, within a bound. They are read when they are sent
(engine.transcript.media)."""

from __future__ import annotations

import attrs

from engine.storage.blobs import Blobs
from engine.transcript.media import marker
from engine.transcript.pruning import unseen
from engine.transcript.records import FilePart, Message, Part


def with_media(messages: tuple[Message, ...], blobs: Blobs, most: int) -> tuple[Message, ...]:
    """The messages with markers for their images, the newest first until `most` bytes; those beyond, and those that
    are gone, are without."""
    left = most
    shown: list[Message] = []
    for message in reversed(messages):
        if any(_is_image(part) for part in message.parts):
            parts: list[Part] = []
            for part in reversed(message.parts):
                if isinstance(part, FilePart) and _is_image(part):
                    if part.size <= left:
                        left -= part.size
                        part = _marked(part, part.hash, blobs) if part.hash else part
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


def _marked(part: FilePart, digest: str, blobs: Blobs) -> FilePart:
    return attrs.evolve(part, data_base64=marker(digest, part.size)) if blobs.has(digest, part.size) else part
