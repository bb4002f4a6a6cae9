"""A user's message made from a request: texts as they are, files read or decoded, within their bounds."""

from __future__ import annotations

import base64
import binascii
import mimetypes

import attrs

from actors.blobs import Pins
from actors.toolset import Toolbox
from engine import ids
from engine.codec import DecodeError
from engine.commands import InputFile, StartRun
from engine.errors import CallerError
from engine.limits import Limits
from engine.tools import paths
from engine.transcript.records import FilePart, Message, Part, TextPart, UserMessage


async def user_message(
    start: StartRun, *, run_id: str, cwd: str, now: int, toolbox: Toolbox, pins: Pins, limits: Limits
) -> Message:
    """The message, its larger files pinned as blobs. Raises CallerError invalid_path or payload_too_large, PeerError
    disk_full, DecodeError for what is not base64."""
    parts: list[Part] = []
    for item in start.input:
        if isinstance(item, str):
            parts.append(TextPart(id=ids.part_id(), text=item))
        else:
            parts.append(await _file(item, cwd, toolbox, pins, limits))
    return Message(UserMessage(id=ids.message_id(), created_at=now, run_id=run_id), tuple(parts))


def check_length(start: StartRun, limits: Limits) -> None:
    """A message that waits, or that is put into a run at work, has a bound on its text. Raises payload_too_large."""
    most = limits.message_characters
    characters = sum(len(item) for item in start.input if isinstance(item, str))
    if characters > most:
        message = f"a message to a busy session may have {most} characters, this one has {characters}"
        raise CallerError("payload_too_large", message, limit=most)


async def _file(item: InputFile, cwd: str, toolbox: Toolbox, pins: Pins, limits: Limits) -> FilePart:
    limit = limits.media_bytes
    if item.path is not None:
        data = await toolbox.in_thread(paths.read_whole, cwd, item.path, limit)
        name = item.name or item.path.rpartition("/")[2]
    else:
        try:
            data = base64.b64decode(item.data_base64 or "", validate=True)
        except binascii.Error as exc:
            raise DecodeError([("data_base64", f"is not base64: {exc}")]) from None
        name = item.name or "file"
    if len(data) > limit:
        raise CallerError("payload_too_large", f"{name} is over {limit} bytes", limit=limit)
    mime = item.mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
    part = FilePart(id=ids.part_id(), mime=mime, size=len(data), name=name)
    if len(data) <= limits.inline_media_bytes:
        return attrs.evolve(part, data_base64=base64.b64encode(data).decode())
    blob = await pins.add(data)
    return attrs.evolve(part, handle=blob.handle, hash=blob.hash)
